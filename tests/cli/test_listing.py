"""`sim list`: what is shipped, and where each constant comes from."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Sim


@pytest.mark.slow
def test_lists_name_what_is_shipped_and_the_source_of_every_constant(sim: Sim) -> None:
    _, out, _ = sim("list", "--format", "json")
    names = json.loads(out)
    assert "nd-h100-v5" in names["topologies"]
    assert "qwen2.5-72b" in names["models"]
    for kind in ("gpus", "links"):
        for name in names[kind]:
            status, out, _ = sim("list", kind, name, "--format", "json")
            assert status == 0
            for constant in json.loads(out):
                assert constant["tag"] in ("datasheet", "measured", "fitted", "assumed"), (name, constant)
                assert constant["source"], (name, constant)


@pytest.mark.parametrize("kind", ["topologies", "gpus", "links", "models", "workloads", "experiments"])
def test_every_list_prints_as_table_and_as_json(sim: Sim, kind: str) -> None:
    status, table, _ = sim("list", kind)
    assert status == 0
    status, out, _ = sim("list", kind, "--format", "json")
    assert status == 0
    assert all(row["name"] in table for row in json.loads(out))
