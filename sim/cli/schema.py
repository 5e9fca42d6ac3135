"""`sim schema`: the JSON Schema of a scenario, for editors that complete and check YAML; and what a run's
tables have.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from sim.cli.output import print_json

Kind = Literal["scenario", "topology", "workload", "model", "columns", "keys"]


def schema(
    kind: Annotated[
        Kind, typer.Argument(help="Of what; columns: of the tables of a run; keys: the page of all keys.")
    ] = "scenario",
) -> None:
    """Print the JSON Schema of a kind of file, or the page of all keys, or of all columns of results."""
    import sim

    if kind == "columns":
        from sim.results.column_words import columns_page

        print(columns_page(), end="")
        return
    if kind == "keys":
        from sim.scenario.key_page import keys_page

        print(keys_page(), end="")
        return
    described: dict[Kind, Any] = {
        "scenario": sim.Scenario,
        "topology": sim.Topology,
        "workload": sim.Workload,
        "model": sim.Model,
    }
    print_json(described[kind].model_json_schema())
