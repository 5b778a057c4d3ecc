"""`clipdex bench feed`: measure how many pictures a second this machine can feed to a GPU, without one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.bench.machine import this_machine
from clipdex.apps.bench.measure_feed import (
    Ceiling,
    Decoding,
    FeedSettings,
    decoded_pictures,
    measure_ceiling,
    measure_decoding,
)
from clipdex.apps.bench.measure_server import Transfer
from clipdex.apps.bench.report_file import check_writable, feed_report, write_report
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.cli.bench.bench_output import SaveOption, machine_line
from clipdex.cli.bench.bench_server import How
from clipdex.cli.common import JsonOption, interruptible, shown_path
from clipdex.cli.printing import note, say, say_block, say_json
from clipdex.cli.progress import index_progress
from clipdex.cli.tables import table
from clipdex.sources import Source, open_source
from clipdex.wire.rated_server import Rate

__all__ = ["feed", "sizes_of"]

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
_PER = 1000.0  # pictures a second, for the column of cores

_CEILING = (
    "transfer",
    "pictures/s",
    "requests/s",
    "GB/s",
    "client cores",
    "client µs each",
    "at most, pictures/s",
)


def feed(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE", help="Folder, .tar or table of pictures (default drawn ones).", show_default=False
        ),
    ] = None,
    *,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="Pictures per second that the server answers (default no limit).", show_default=False
        ),
    ] = None,
    sizes: Annotated[
        str, typer.Option(metavar="WxH,…", help="Sizes of drawn pictures, without a source.")
    ] = "640x480,1600x1200,4000x3000",
    pictures: Annotated[int, typer.Option(min=1, help="Number of pictures to decode, of each size.")] = 256,
    ceiling_pictures: Annotated[
        int, typer.Option(min=1, help="Number of pictures to hand over without decoding.")
    ] = 20_000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes (default one per core).", show_default=False)
    ] = None,
    transfer: Annotated[
        How, typer.Option(help="Send pixels over the wire, in memory shared with the server, or both ways.")
    ] = How.both,
    image_size: Annotated[
        int, typer.Option(min=1, max=4096, help="Side of the model's pictures, in pixels.")
    ] = 224,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Pictures per request.")] = 64,
    instances: Annotated[
        int, typer.Option(min=1, max=64, help="Instances of the model: two requests are in flight for each.")
    ] = 1,
    save: SaveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how many pictures per second this machine can feed to a GPU, without one.

    Starts a server that computes nothing and answers at the given rate. First, with workers that decode nothing,
    measures how much one client process hands over. Then decodes pictures, and says how many cores a GPU needs.
    """
    if save is not None:
        check_writable(save)
    wanted = sizes_of(sizes)
    limit = math.inf if rate is None else rate
    settings = FeedSettings(
        Rate(limit, instances=instances, max_batch_size=batch, image_size=image_size),
        _transfers(transfer),
        ceiling_pictures,
        pictures,
        workers,
    )
    opened = None if source is None else open_source(source)
    machine = this_machine()
    ceilings: list[Ceiling] = []
    decodings: list[Decoding] = []
    with interruptible("no measurement was completed"), index_progress() as progress:
        ceilings.extend(measure_ceiling(settings, progress))
        for size in wanted if opened is None else [None]:
            with _pictures(opened, size, pictures) as found:
                decodings.append(measure_decoding(settings, found, ceilings[0], size, progress))
    asked = {
        "source": None if source is None else str(source),
        "rate": rate,
        "sizes": [f"{width}x{height}" for width, height in wanted],
        "pictures": pictures,
        "ceiling_pictures": ceiling_pictures,
        "workers": workers,
        "transfer": transfer.value,
        "image_size": image_size,
        "batch": batch,
        "instances": instances,
    }
    report = feed_report(machine, ceilings, decodings, asked, rate or _PER)
    if save is not None:
        write_report(save, report)
    if as_json:
        say_json(report)
        return
    answers = "as fast as it can" if rate is None else f"at a rate of {rate:,.0f}/s"
    say(f"a server that computes nothing and answers {answers}")
    say(f"requests of {counted(batch, 'picture')}, {image_size} px")
    say(machine_line(machine))
    say()
    say_block(table(_CEILING, [_ceiling_row(each) for each in ceilings]))
    say()
    head = (
        "pictures",
        "decode ms each",
        f"pictures/s on {counted(machine.cores, 'core')}",
        _cores_for(rate or _PER),
    )
    name = "" if source is None else shown_path(str(source))
    say_block(table(head, [_decoding_row(each, name, rate or _PER) for each in decodings]))


def sizes_of(text: str) -> list[tuple[int, int]]:
    """Parse sizes: `640x480,4000x3000` -> [(640, 480), (4000, 3000)].

    Raises:
        InvalidArgument: the text is no list of sizes.
    """
    found = [_SIZE.fullmatch(part.strip()) for part in text.split(",")]
    if not all(found):
        raise InvalidArgument(
            f"--sizes is {text!r}; expected widths and heights in pixels, as in 640x480,4000x3000"
        )
    return list(dict.fromkeys((int(each[1]), int(each[2])) for each in found if each))


@contextmanager
def _pictures(source: Source | None, size: tuple[int, int] | None, count: int) -> Iterator[Source]:
    if source is not None or size is None:
        assert source is not None
        yield source
        return
    note(f"drawing {counted(count, 'picture')} of {size[0]} × {size[1]}")
    with decoded_pictures(size, count) as drawn:
        yield drawn


def _transfers(how: How) -> list[Transfer]:
    return {How.wire: ["wire"], How.shared: ["shared"], How.both: ["shared", "wire"]}[how]  # type: ignore[return-value]


def _cores_for(rate: float) -> str:
    return f"cores for {rate:,.0f}/s"


def _ceiling_row(each: Ceiling) -> tuple[str, ...]:
    return (
        each.transfer,
        f"{each.pictures_per_s:,.0f}",
        f"{each.requests_per_s:,.0f}",
        f"{each.bytes_per_s / 1e9:.2f}",
        f"{each.client_cores:.2f}",
        f"{each.client_core_s * 1e6:.0f}",
        f"{1 / each.client_core_s:,.0f}",
    )


def _decoding_row(each: Decoding, name: str, rate: float) -> tuple[str, ...]:
    return (
        name if each.size is None else f"{each.size[0]} × {each.size[1]}",
        f"{each.decode_core_s * 1e3:.2f}",
        f"{each.pictures_per_s:,.0f}",
        f"{each.cores_for(rate):.1f}",
    )
