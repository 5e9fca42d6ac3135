"""`sim topology`: parts, bandwidths and paths of a system."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Sim


def test_topology_check_prints_bandwidths_that_the_datasheet_gives(sim: Sim) -> None:
    status, out, _ = sim("topology", "check", "nd-h100-v5", "--nodes", "2", "--format", "json")
    found = json.loads(out)
    assert status == 0
    assert found["gpus"] == 16
    assert found["in_domain_raw_bytes_per_s"] == pytest.approx(450e9)
    assert found["in_domain_bytes_per_s"] == pytest.approx(450e9 * 0.82)
    assert found["bisection_bytes_per_s"] == pytest.approx(8 * 50e9 * 0.98)


def test_topology_show_counts_the_parts(sim: Sim) -> None:
    _, out, _ = sim("topology", "show", "nd-h100-v5", "--format", "json")
    counts = {(part["kind"], part["model"]): part["count"] for part in json.loads(out)["parts"]}
    assert counts["gpu", "h100-sxm"] == 8
    assert counts["nvswitch", ""] == 4
