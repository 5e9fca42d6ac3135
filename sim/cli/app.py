"""All subcommands, and the options of `sim` itself."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import sim
from sim.cli.calibrate import calibrate
from sim.cli.collective import collective
from sim.cli.explain import explain
from sim.cli.files_of_others import compare_run, export
from sim.cli.kernel import kernel
from sim.cli.lesson import lesson
from sim.cli.listing import listing
from sim.cli.run import run
from sim.cli.schema import schema
from sim.cli.studies import capacity, compare, recommend, sensitivity, sweep
from sim.cli.topology import topology
from sim.cli.trace import trace
from sim.cli.validate import validate


class Ended(Exception):
    """A command was ended from outside; `__cause__` says how. Typer has statuses of its own for that, which
    are not those of `sim`, so that it must not see it.
    """


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError) as end:
            raise Ended from end


app = typer.Typer(
    cls=_Commands,
    name="sim",
    help="A discrete-event simulator of distributed LLM inference: one graph, one clock, all traffic.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback here is a bug, and is to be read whole
    rich_markup_mode=None,  # rich's help boxes cost a quarter of the start-up time
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sim {sim.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A discrete-event simulator of distributed LLM inference: one graph, one clock, all traffic."""


app.command("run")(run)
app.command("explain")(explain)
app.command("trace")(trace)
app.command("export")(export)
app.command("compare-run")(compare_run)
app.command("sweep")(sweep)
app.command("compare")(compare)
app.command("capacity")(capacity)
app.command("sensitivity")(sensitivity)
app.command("recommend")(recommend)
app.command("collective")(collective)
app.command("kernel", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(kernel)
app.add_typer(topology, name="topology")
app.add_typer(calibrate, name="calibrate")
app.command("validate")(validate)
app.command("list")(listing)
app.add_typer(lesson, name="lesson")
app.command("schema")(schema)
