"""All commands, in the order in which `--help` lists them."""

from __future__ import annotations

import typer

from clipdex.cli.lazy_commands import Entry, LazyGroup
from clipdex.cli.printing import say
from clipdex.cli.verbosity_options import has_verbosity
from clipdex.version import __version__

__all__ = ["app"]

_PICTURES = "Index and search"
_INDEX = "Look after an index"
_MODELS = "Models and servers"


_ENTRIES = {
    "find": Entry("Find the pictures of a folder that best match a text.", "find:find", _PICTURES),
    "index": Entry("Embed the pictures of folders, tar files or tables into an index.", "index:index", _PICTURES),
    "watch": Entry("Keep an index up to date with a folder until Ctrl-C.", "watch:watch", _PICTURES),
    "search": Entry(
        "Find the pictures of an index that best match a text or picture.", "search:search", _PICTURES
    ),
    "match": Entry(
        "Find the pictures of an index that a crop, a screenshot or a photo of a print shows.",
        "match:match",
        _PICTURES,
    ),
    "duplicates": Entry(
        "List groups of duplicate pictures, with the one to keep.", "duplicates:duplicates", _PICTURES
    ),
    "classify": Entry("Classify pictures by labels given as text.", "classify:classify", _PICTURES),
    "retrieve": Entry("Rank a folder of pictures for a prompt.", "retrieve:retrieve", _PICTURES),
    "web": Entry("Serve indexes in the browser and over a REST API until Ctrl-C.", "web:web", _PICTURES),
    "info": Entry(
        "Show what an index holds: rows, tombstones, failures, size, model, age.", "maintenance:info", _INDEX
    ),
    "failures": Entry("List the files that could not be indexed, and why.", "ledger:failures", _INDEX),
    "forget": Entry("Remove pictures and failures from an index. No file is touched.", "ledger:forget", _INDEX),
    "add": Entry("Add pictures to an index by ids, or replace those of the same id.", "items:add", _INDEX),
    "remove": Entry("Remove items that were added by id from an index.", "items:remove", _INDEX),
    "merge": Entry(
        "Join indexes of one model into a new one, without embedding anything again.", "items:merge", _INDEX
    ),
    "split": Entry("Divide an index into parts, without embedding anything again.", "items:split", _INDEX),
    "verify": Entry("Check a whole index for damage.", "maintenance:verify", _INDEX),
    "compact": Entry(
        "Rewrite an index without the rows of files that are gone or were replaced.",
        "maintenance:compact",
        _INDEX,
    ),
    "optimize": Entry(
        "Make searching an index several times faster, with the same results.", "maintenance:optimize", _INDEX
    ),
    "dump": Entry("Write the vectors of an index in another program's format.", "dump:dump", _INDEX),
    "push": Entry(
        "Bring a collection of a vector database up to date with an index.",
        "push:push_command",
        _INDEX,
    ),
    "push-index": Entry(
        "Copy an index to a bucket; only what the bucket does not have is sent.",
        "index_copies:push_index_command",
        _INDEX,
    ),
    "pull": Entry("Copy an index that was pushed to a bucket to this machine.", "index_copies:pull", _INDEX),
    "ann": Entry(
        "Approximate search: faster on millions of pictures, but it may miss some.",
        panel=_INDEX,
        commands={
            "build": Entry("Build a FAISS index for  clipdex search --ann, and measure its recall.", "ann:build")
        },
    ),
    "features": Entry(
        "Local features, for finding a picture by a crop, a screenshot or a photo of it.",
        panel=_INDEX,
        commands={
            "build": Entry(
                "Make the local features of an index's pictures, which  clipdex match  finds them by.",
                "features:build",
            )
        },
    ),
    "export": Entry("Turn a CLIP checkpoint into Triton models.", "export:export", _MODELS),
    "models": Entry("List the models of a server or a repository.", "models:models", _MODELS),
    "serve": Entry("Serve the models of a repository until Ctrl-C.", "serve:serve", _MODELS),
    "doctor": Entry("Find what makes a server slow or wrong.", "doctor:doctor", _MODELS),
    "bench": Entry(
        "Measure a server, an indexing run, the feeding of a GPU, or a search.",
        panel=_MODELS,
        commands={
            "server": Entry(
                "Measure a server's throughput and latency, together with its own counters.",
                "bench.bench_server:server",
            ),
            "index": Entry(
                "Measure an indexing run: each stage's busy time, the limiting stage, the share of the bound.",
                "bench.bench_index:index",
            ),
            "feed": Entry(
                "Measure how many pictures per second this machine can feed to a GPU, without one.",
                "bench.bench_feed:feed",
            ),
            "search": Entry(
                "Measure exact search: queries per second and latency, against a bare read of what it scans.",
                "bench.bench_search:search",
            ),
        },
    ),
    "demo": Entry("Run every step of clipdex on drawn pictures.", "demo:demo", _MODELS),
}


class _Commands(LazyGroup):
    entries = _ENTRIES


app = typer.Typer(
    name="clipdex",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        say(f"clipdex {__version__}")
        raise typer.Exit


@app.callback()
@has_verbosity
def _clipdex(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Find pictures by describing them."""
