"""All commands, in the order in which `--help` lists them."""

from __future__ import annotations

import typer

from clipdex.cli import (
    ann,
    bench,
    classify,
    demo,
    doctor,
    dump,
    duplicates,
    export,
    index,
    items,
    ledger,
    maintenance,
    models,
    retrieve,
    search,
    serve,
)
from clipdex.cli.printing import say
from clipdex.version import __version__

__all__ = ["app"]

app = typer.Typer(
    name="clipdex",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        say(f"clipdex {__version__}")
        raise typer.Exit


@app.callback()
def _clipdex(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Find pictures by describing them."""


app.command("index")(index.index)
app.command("search")(search.search)
app.command("classify")(classify.classify)
app.command("info")(maintenance.info)
app.command("failures")(ledger.failures)
app.command("forget")(ledger.forget)
app.command("add")(items.add)
app.command("remove")(items.remove)
app.command("verify")(maintenance.verify)
app.command("compact")(maintenance.compact)
app.command("merge")(items.merge)
app.command("optimize")(maintenance.optimize)
app.command("dump")(dump.dump)
app.command("duplicates")(duplicates.duplicates)
app.command("retrieve")(retrieve.retrieve)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.command("models")(models.models)
app.command("export")(export.export)
app.command("demo")(demo.demo)
app.add_typer(ann.ann)
app.add_typer(bench.bench)
