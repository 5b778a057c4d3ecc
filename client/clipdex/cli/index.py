"""`clipdex index`: bring an index up to date with its folders, tar files or tables."""

from __future__ import annotations

import copy
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument, SourceError
from clipdex.base.limits import MAX_PIXELS, Limits
from clipdex.base.object_paths import object_meant
from clipdex.cli.common import (
    Decode,
    Icc,
    JsonOption,
    interruptible,
    named_path,
    say_passed_over,
    shown_path,
    typed_delimiter,
)
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.demo_model import note_demo_model
from clipdex.cli.engine_options import EngineOptions, may_use_engine
from clipdex.cli.features import as_dict, build_after, features_sentence
from clipdex.cli.index_by_engine import index_by_engine
from clipdex.cli.index_options import ENVIRONMENT, required_index
from clipdex.cli.ledger import failure_line, refuse_second_writer
from clipdex.cli.panels import LIMITS
from clipdex.cli.printing import detail, note, say, say_json
from clipdex.cli.progress import index_progress, shown_rate
from clipdex.cli.refreshing import refresh
from clipdex.index import Index
from clipdex.index.part_plan import part_name
from clipdex.looks.local_features import opencv
from clipdex.model.formats.icc import check_icc
from clipdex.model.picture_rules import check_decode
from clipdex.pipeline.index_pictures import (
    MAX_RING_BYTES,
    index_pictures,
)
from clipdex.pipeline.plan import (
    Plan,
    plan_run,
)
from clipdex.pipeline.report import RunReport
from clipdex.sources import Exclusion, PathList, Source, is_picture_glob, open_sources
from clipdex.sources.locations import URL_BEGINS
from clipdex.sources.object_store import FETCHES
from clipdex.sources.opening import names_meant

__all__ = ["index", "limits_of", "run_sentence"]

_FAILURES_SHOWN = 5
_FOLDERS_SHOWN = 6
_MIB = 1 << 20


class Use(str, Enum):
    """When to use an optional feature."""

    auto = "auto"
    always = "always"
    never = "never"


class Check(str, Enum):
    """Ways to recognise a changed file."""

    stat = "stat"
    content = "content"


class Dtype(str, Enum):
    """The dtypes that an index can store."""

    float16 = "float16"
    float32 = "float32"


@connects
@may_use_engine
def index(
    out: Annotated[
        Path | None,
        typer.Option(
            "--index",
            "-i",
            "--out",
            "-o",
            envvar=ENVIRONMENT,
            metavar="X.clipdex",
            help="Index to create or update.",
            show_default=False,
        ),
    ] = None,
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Folders of pictures, including subfolders; pictures, or a quoted glob of them; .tar files; "
            "tables: .csv, .tsv, .parquet; a bucket's s3://, gs:// or az:// URL.",
            show_default=False,
            parser=named_path,
        ),
    ] = None,
    files_from: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Instead of SOURCE: a file of paths, one per line or NUL-separated; - for standard input.",
            show_default=False,
        ),
    ] = None,
    tar: Annotated[
        bool, typer.Option("--tar", help="Index the .tar files in the folders, not the pictures.")
    ] = False,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Table column of the pictures or their paths; found by name (path, image, …) if not given.",
            show_default=False,
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHAR",
            help="Delimiter of a CSV: tab or one character; detected from its first line if not given.",
            show_default=False,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Leave out files and folders of this name or, with a slash, this path within the folder; may be "
            "repeated. Hidden files and junk (docs/sources.md) are left out anyway.",
            show_default=False,
        ),
    ] = None,
    hidden: Annotated[
        bool, typer.Option("--hidden", help="Include files and folders whose names begin with a dot.")
    ] = False,
    *,
    connection: Connection,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    fetches: Annotated[
        int, typer.Option(min=1, max=1024, help="Objects of a bucket to read at a time.")
    ] = FETCHES,
    retry: Annotated[bool, typer.Option("--retry", help="Retry files that failed before.")] = False,
    check: Annotated[
        Check,
        typer.Option(
            help="How to recognise changed files: stat, by size and times; content, by reading them all."
        ),
    ] = Check.stat,
    no_exif: Annotated[
        bool,
        typer.Option(
            "--no-exif",
            help="Do not read what pictures say of themselves (EXIF, XMP, IPTC): date, camera, place and so on.",
        ),
    ] = False,
    refresh_metadata: Annotated[
        bool,
        typer.Option(
            "--refresh-metadata",
            help="Only read the metadata of the indexed pictures of SOURCE again; needs no server.",
        ),
    ] = False,
    local_features: Annotated[
        bool,
        typer.Option(
            "--local-features", help="Afterwards, make local features, as  clipdex features build  does."
        ),
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="Dtype of a new index; float16 halves its size.")] = Dtype.float16,
    icc: Annotated[
        Icc | None,
        typer.Option(
            help="For a new index: convert pictures from their colour profiles to sRGB (default off).",
            show_default=False,
        ),
    ] = None,
    decode: Annotated[
        Decode | None,
        typer.Option(
            help="For a new index: decode large JPEGs exactly (the default), or faster at a reduced size, "
            "at least twice the model's.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes (default one per core).", show_default=False)
    ] = None,
    max_file_mib: Annotated[
        int, typer.Option(min=1, help="Largest file to read, in MiB.", rich_help_panel=LIMITS)
    ] = 256,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Largest picture to decode, in pixels.", rich_help_panel=LIMITS)
    ] = MAX_PIXELS,
    file_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time limit for decoding one file.", rich_help_panel=LIMITS)
    ] = 60.0,
    worker_memory_mib: Annotated[
        int, typer.Option(min=128, help="Memory limit per decoding process, in MiB.", rich_help_panel=LIMITS)
    ] = 1024,
    large_memory_mib: Annotated[
        int,
        typer.Option(
            min=0,
            help="Memory limit for a picture that needs more, one at a time, in MiB.",
            rich_help_panel=LIMITS,
        ),
    ] = 2560,
    shared_memory: Annotated[
        Use, typer.Option(help="Pass pixels to a server on this machine in shared memory, not over the wire.")
    ] = Use.auto,
    ring_mib: Annotated[
        int,
        typer.Option(
            min=1, help="Memory for decoded pictures, including those in flight, in MiB.", rich_help_panel=LIMITS
        ),
    ] = MAX_RING_BYTES // _MIB,
    parts: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Make an index of N parts, a directory of indexes that is searched as one.",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="K",
            help="Do only part K, from 0 to N - 1; other processes may do others at the same time.",
            show_default=False,
        ),
    ] = None,
    engine: EngineOptions | None = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 1 if a picture is in the ledger of failures.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Embed the pictures of folders, tar files or tables into an index.

    A run that was stopped resumes where it left off. A later run embeds only what is new or changed, recognises
    files that were moved or copied, and removes pictures that are gone from the given folders (clipdex forget
    removes others). A file that cannot be read is recorded in the index and does not end the run.
    """
    out = required_index(out)
    if not dry_run:
        refuse_second_writer(out)
    if files_from is not None and (exclude or hidden):
        raise InvalidArgument("--exclude and --hidden apply to folders, and cannot be used with --files-from")
    exclusion = Exclusion(exclude or (), hidden=hidden)
    if engine is not None and (part is not None or refresh_metadata):
        other = "--refresh-metadata" if part is None else f"--part {part}"
        raise InvalidArgument(f"--engine makes all parts, and cannot be used with {other}")
    named = sources or []
    if engine is not None:  # a node has another working directory
        named = [path if object_meant(str(path)) else Path(os.path.abspath(path)) for path in named]
    open_source = _opener(named, files_from, column, delimiter, tar, exclusion, fetches, out)
    source = open_source()
    if dry_run and refresh_metadata:
        raise InvalidArgument("--dry-run and --refresh-metadata are both given; give one of them")
    if local_features:
        if dry_run or refresh_metadata:
            other = "--dry-run" if dry_run else "--refresh-metadata"
            raise InvalidArgument(f"--local-features and {other} are both given; give one of them")
        opencv()  # a run of hours should not end with its being missing
    limits = limits_of(max_file_mib, max_pixels, file_timeout, worker_memory_mib, large_memory_mib)
    if refresh_metadata:
        _end_strictly(strict, refresh(source, out, not no_exif, workers, limits, as_json))
        return
    if dry_run:
        plan = plan_run(source, out, retry_failures=retry, check=check.value, parts=parts, part=part)
        say_passed_over(plan.passed_over)
        if as_json:
            say_json({"index": str(out), "dry_run": True} | asdict(plan))
        else:
            say(_plan_sentence(plan, out))
        _end_strictly(strict, plan.failed)
        return
    settings: dict[str, Any] = {
        "workers": workers,
        "limits": limits,
        "retry_failures": retry,
        "check": check.value,
        "exif": not no_exif,
        "max_ring_bytes": ring_mib * _MIB,
    }
    chosen_icc = None if icc is None else check_icc(icc.value)
    chosen_decode = None if decode is None else check_decode(decode.value)
    with (
        interruptible(f"what was committed is in {out}; run the same command again to resume"),
        ExitStack() as stack,
    ):
        if engine is not None:
            report, fingerprint = index_by_engine(
                engine,
                connection,
                open_source,
                out,
                parts,
                dtype=dtype.value,
                icc=chosen_icc,
                decode=chosen_decode,
                settings=settings,
                shared_memory=shared_memory.value,
                progress=stack.enter_context(index_progress()),
            )
        else:
            client = stack.enter_context(connection.open(shared_memory=shared_memory.value))
            progress = stack.enter_context(index_progress())
            report = index_pictures(
                client,
                source,
                out,
                dtype=dtype.value,
                icc=chosen_icc,
                decode=chosen_decode,
                progress=progress,
                parts=parts,
                part=part,
                **settings,
            )
            fingerprint = client.card.fingerprint
    if part is not None:
        out = out / part_name(part)
    for stage, seconds in report.stage_seconds.items():
        detail(f"{stage + ':':<12} {seconds:.2f} s")
    if report.failed:
        _show_failures(out)
    say_passed_over(report.passed_over)
    _say_stranded(report, out)
    features = build_after(out, workers, limits) if local_features else None
    if as_json:
        made = {} if features is None else {"local_features": as_dict(features)}
        say_json({"index": str(out), "dry_run": False} | asdict(report) | made)
    else:
        say(run_sentence(report, out))
        if features is not None:
            say(features_sentence(features, out))
    note_demo_model(fingerprint)
    _end_strictly(strict, report.failed)


def limits_of(
    max_file_mib: int, max_pixels: int, file_timeout: float, worker_memory_mib: int, large_memory_mib: int
) -> Limits:
    """Return the limits that the options of the same names set."""
    return Limits(max_file_mib * _MIB, max_pixels, file_timeout, worker_memory_mib * _MIB, large_memory_mib * _MIB)


def _end_strictly(strict: bool, failed: int) -> None:
    if strict and failed:
        raise typer.Exit(1)


def _opener(
    paths: list[Path],
    files_from: str | None,
    column: str | None,
    delimiter: str | None,
    tar: bool,
    exclusion: Exclusion,
    fetches: int,
    out: Path,
) -> Callable[[], Source]:
    """Return what opens the source, here or on a node."""
    if bool(paths) == (files_from is not None):
        raise InvalidArgument("give either a SOURCE (folder, .tar file or table) or --files-from LIST")
    if files_from == "-":
        return partial(copy.copy, PathList.parse(sys.stdin.buffer.read(), "standard input", fetches=fetches))
    if files_from is not None:
        return partial(copy.copy, PathList.read(Path(files_from), fetches=fetches))
    paths = [name for path in paths for name in names_meant(path)]
    # A missing shard was deleted if the index exists, and is a typing error if it does not.
    for path in paths:
        if object_meant(str(path)) is not None:
            continue
        if URL_BEGINS.match(str(path)) and not os.path.lexists(path):
            raise SourceError(
                f"{path}: is a URL, and clipdex downloads nothing; download it first (img2dataset does so for "
                "pictures) and give its path"
            )
        missing = not os.path.lexists(path) and not is_picture_glob(path)
        if missing and not (path.name.endswith(".tar") and os.path.lexists(out)):
            raise SourceError(f"{path}: no such file or directory")
    return partial(
        open_sources,
        paths,
        column=column,
        delimiter=typed_delimiter(delimiter),
        tar=tar,
        exclusion=exclusion,
        fetches=fetches,
    )


def _say_stranded(report: RunReport, out: Path) -> None:
    for folder, rows in sorted(report.stranded.folders.items(), key=lambda one: -one[1])[:_FOLDERS_SHOWN]:
        note(
            f"{counted(rows, 'picture is', 'pictures are')} below {shown_path(folder)}, which is gone or "
            f"empty:  clipdex forget --index {shlex.quote(shown_path(str(out)))} {shlex.quote(shown_path(folder))}"
        )
    if files := report.stranded.files:
        met = counted(files, "picture found elsewhere is", "pictures found elsewhere are")
        note(
            f"{met} no longer at the path in the index:  "
            f"clipdex forget --index {shlex.quote(shown_path(str(out)))} --missing"
        )


def run_sentence(report: RunReport, out: Path) -> str:
    """Return the run's last line. discovered = indexed + unchanged + failed."""
    speed = ""
    if report.indexed:  # the rate is that of the bar: scanning before, and vanished pictures after, are not in it
        busy = report.indexed / report.images_per_s
        speed = f" (indexing took {busy:.1f} s: {shown_rate(report.images_per_s)}, {report.transfer})"
    same = f" ({report.recognised:,} of them recognised by content)" if report.recognised else ""
    away = f" ({report.unseen:,} of them could not be checked)" if report.unseen else ""
    gone = f"; {report.removed:,} vanished" if report.removed else ""
    gone += f"; {report.left_out:,} removed because they are left out now" if report.left_out else ""
    listed = f";  {_listing(out)}  lists the failures" if report.failed else ""
    return (
        f"{counted(report.discovered, 'picture')} found: {report.indexed:,} indexed{same}, "
        f"{report.unchanged:,} unchanged{away}, "
        f"{report.failed:,} failed{gone}, in {report.seconds:.1f} s{speed}; "
        f"{shown_path(str(out))} holds {report.rows:,}{listed}"
    )


def _plan_sentence(plan: Plan, out: Path) -> str:
    again = f", {plan.retried:,} to be retried" if plan.retried else ""
    gone = f"; {plan.vanished:,} vanished" if plan.vanished else ""
    gone += f"; {plan.left_out:,} to be removed because they are left out now" if plan.left_out else ""
    anew = f", {plan.damaged:,} damaged in the index" if plan.damaged else ""
    look = f", {plan.reread:,} to be read and compared" if plan.reread else ""
    return (
        f"{counted(plan.discovered, 'picture')} found: {plan.new:,} new, {plan.changed:,} changed{anew}{look}, "
        f"{plan.unchanged:,} unchanged, {plan.failed:,} failed before{again}{gone}; "
        f"nothing was done to {shown_path(str(out))}"
    )


def _show_failures(out: Path) -> None:
    with Index.open(out) as opened:
        ledger = opened.failures()
    for failure in ledger[:_FAILURES_SHOWN]:
        note(f"failed: {failure_line(failure)}")
    if len(ledger) > _FAILURES_SHOWN:
        note(f"... and {len(ledger) - _FAILURES_SHOWN:,} more:  {_listing(out)}")


def _listing(out: Path) -> str:
    return f"clipdex failures --index {shlex.quote(shown_path(str(out)))}"
