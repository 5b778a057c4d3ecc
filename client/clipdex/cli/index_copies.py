"""`clipdex push-index` and `clipdex pull`: copies of an index in a bucket."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.index_copies import pull_index, push_index
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.base.object_paths import object_meant
from clipdex.cli.common import JsonOption, interruptible, shown_path
from clipdex.cli.index_options import IndexAndUrl, takes_index_and_url
from clipdex.cli.printing import printable, say, say_json
from clipdex.cli.progress import bytes_progress

__all__ = ["pull", "push_index_command"]

_FORMS = "s3://BUCKET/PREFIX, or gs:// or az://"


@takes_index_and_url
def push_index_command(
    named: IndexAndUrl,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="At the end, delete blocks that only older copies needed; with no other push or pull under way.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy an index to a bucket; only what the bucket does not have is sent.

    The copy is of the last commit; other programs may write to the index meanwhile. Until everything is sent, a
    pull gets the copy that was pushed before. The next push continues an interrupted one. URL is a prefix for this
    index alone:

    \b
    s3://BUCKET/PREFIX    gs://BUCKET/PREFIX    az://CONTAINER/PREFIX
    """
    index, url = named.index, named.url
    _require_url(url)
    began = time.monotonic()
    with interruptible("the next push goes on"), bytes_progress("pushing") as progress:
        pushed = push_index(index, url, prune=prune, progress=progress)
    seconds = time.monotonic() - began
    if as_json:
        say_json({"index": str(index), "url": url, "seconds": round(seconds, 3)} | asdict(pushed))
        return
    gone = f", {counted(pushed.pruned, 'block')} deleted" if pushed.pruned else ""
    say(
        f"{printable(url)}: {_mb(pushed.bytes)} in {counted(pushed.files, 'file')}, {_mb(pushed.sent_bytes)} "
        f"sent{gone}, in {seconds:.1f} s"
    )


def pull(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the index was pushed to.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The index on this machine.")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace the index at OUT. What was added to it here is lost."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy an index that was pushed to a bucket to this machine.

    Every block is checked by its hash, and OUT appears only when it is complete. The next pull continues an
    interrupted one. With --replace, only blocks that OUT does not have are fetched.
    """
    _require_url(url)
    began = time.monotonic()
    with interruptible("the next pull goes on"), bytes_progress("pulling") as progress:
        pulled = pull_index(url, out, replace=replace, progress=progress)
    seconds = time.monotonic() - began
    if as_json:
        say_json({"url": url, "index": str(out), "seconds": round(seconds, 3)} | asdict(pulled))
        return
    say(
        f"{shown_path(str(out))}: {counted(pulled.rows, 'picture')}, {_mb(pulled.bytes)} in "
        f"{counted(pulled.files, 'file')}, {_mb(pulled.fetched_bytes)} fetched, in {seconds:.1f} s"
    )


def _require_url(url: str) -> None:
    if object_meant(url) is None:
        raise InvalidArgument(f"{url}: is not the URL of a place in a bucket; expected {_FORMS}")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
