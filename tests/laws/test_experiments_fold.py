"""The law of folding on the scenarios of the experiments, as they are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.inputs.errors import InfeasibleError
from sim.scenario import load_scenario, with_changes
from tests.laws.folded_and_played import differences

pytestmark = pytest.mark.unchecked  # many runs a test, whose rows are held against each other

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted(path for path in (ROOT / "experiments").glob("*.yaml") if "workload:" in path.read_text())
PLAYED_REQUESTS = 3  # a played step of a model of 80 layers takes a thousand events


@pytest.mark.slow
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_shipped_scenario_has_the_same_records_folded_and_played(path: Path) -> None:
    scenario = load_scenario(path)
    requests = min(scenario.workload.requests or PLAYED_REQUESTS, PLAYED_REQUESTS)
    try:
        found, _ = differences(with_changes(scenario, {"workload.requests": requests}))
    except InfeasibleError:
        pytest.skip("a base that its experiment's script changes before it can run")
    assert not found, found
