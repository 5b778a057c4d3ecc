"""`clipdex index`: bring an index up to date with its folders, tar files or tables."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdex.base.errors import InvalidArgument
from clipdex.base.limits import MAX_PIXELS, Limits
from clipdex.base.object_paths import object_meant
from clipdex.cli.common import (
    Decode,
    Icc,
    JsonOption,
    interruptible,
    named_path,
    say_passed_over,
)
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.demo_model import note_demo_model
from clipdex.cli.engine_options import EngineOptions, may_use_engine
from clipdex.cli.features import as_dict, build_after, features_sentence
from clipdex.cli.index_by_engine import index_by_engine
from clipdex.cli.index_options import ENVIRONMENT, required_index
from clipdex.cli.ledger import refuse_second_writer
from clipdex.cli.named_source import named_source
from clipdex.cli.panels import LIMITS
from clipdex.cli.printing import detail, say, say_json
from clipdex.cli.progress import index_progress
from clipdex.cli.refreshing import refresh
from clipdex.cli.run_outcome import plan_sentence, run_sentence, say_stranded, show_failures
from clipdex.index.part_plan import part_name
from clipdex.looks.local_features import opencv
from clipdex.model.formats.icc import check_icc
from clipdex.model.picture_rules import check_decode
from clipdex.pipeline.index_pictures import (
    MAX_RING_BYTES,
    index_pictures,
)
from clipdex.pipeline.plan import plan_run
from clipdex.sources import Exclusion
from clipdex.sources.object_store import FETCHES

__all__ = ["index", "limits_of"]

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
            "tables: .csv, .tsv, .parquet; a URL: s3://, gs://, az://, hf://, https://.",
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
            help="Do not read EXIF, XMP and IPTC data: date, camera, place and so on.",
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
    open_source = named_source(named, files_from, column, delimiter, tar, exclusion, fetches, out)
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
    chosen_icc = None if icc is None else check_icc(icc.value)
    chosen_decode = None if decode is None else check_decode(decode.value)
    if dry_run:
        plan = plan_run(
            source,
            out,
            retry_failures=retry,
            check=check.value,
            parts=parts,
            part=part,
            icc=chosen_icc,
            decode=chosen_decode,
        )
        say_passed_over(plan.passed_over)
        if as_json:
            say_json({"index": str(out), "dry_run": True} | asdict(plan))
        else:
            say(plan_sentence(plan, out))
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
        show_failures(out)
    say_passed_over(report.passed_over)
    say_stranded(report, out)
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
