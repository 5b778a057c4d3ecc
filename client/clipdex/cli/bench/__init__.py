"""`clipdex bench`: measure a server, an indexing run or a search, and what limits it."""

from __future__ import annotations

import typer

from clipdex.cli.bench import bench_index, bench_search, bench_server

__all__ = ["bench"]

bench = typer.Typer(
    name="bench",
    help="Measure a server, an indexing run, or a search.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench.command("server")(bench_server.server)
bench.command("index")(bench_index.index)
bench.command("search")(bench_search.search)
