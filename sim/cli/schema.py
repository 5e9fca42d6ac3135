"""`sim schema`: the JSON Schema of a scenario, for editors that complete and check YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

from sim.cli.output import print_json

Kind = Literal["scenario", "topology", "workload", "model"]


def schema(
    kind: Annotated[Kind, typer.Argument(help="Of which kind of file.")] = "scenario",
) -> None:
    """Print the JSON Schema of a kind of file."""
    import sim

    described: type[BaseModel] = {
        "scenario": sim.Scenario,
        "topology": sim.Topology,
        "workload": sim.Workload,
        "model": sim.Model,
    }[kind]
    print_json(described.model_json_schema())
