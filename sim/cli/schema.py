"""`sim schema`: the JSON Schema of a scenario, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from sim.cli.output import print_json

Kind = Literal["scenario", "topology", "workload", "model"]


def schema(
    kind: Annotated[Kind, typer.Argument(help="Of which kind of file.")] = "scenario",
) -> None:
    """Print the JSON Schema of a kind of file."""
    import sim

    described: dict[Kind, Any] = {
        "scenario": sim.Scenario,
        "topology": sim.Topology,
        "workload": sim.Workload,
        "model": sim.Model,
    }
    print_json(described[kind].model_json_schema())
