"""`sim schema`: the JSON Schema of every kind of file."""

from __future__ import annotations

import json

from tests.cli.conftest import Sim


def test_a_schema_describes_every_kind_of_file(sim: Sim) -> None:
    for kind in ("scenario", "topology", "workload", "model"):
        status, out, _ = sim("schema", kind)
        assert status == 0
        assert json.loads(out)["type"] == "object"
