"""One small run, and the folder that it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim
from sim.simulate import Result
from sim.views.files import specified

SCENARIO = """
topology: nd-h100-v5
model: llama-3-8b
replicas: 2
engine: {tensor_parallel_size: 2}
workload: {arrivals: {kind: poisson, rate_per_s: 20}, prompt_tokens: 300, output_tokens: 20, requests: 30}
"""


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    path = tmp_path_factory.mktemp("scenario") / "small.yaml"
    path.write_text(SCENARIO)
    return sim.simulate(sim.load_scenario(path))


@pytest.fixture(scope="session")
def folder(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.save(tmp_path_factory.mktemp("out") / "run")


def drawn(chart: object) -> list[dict[str, object]]:
    """The rows inside a chart."""
    specification = specified(chart)  # type: ignore[arg-type]
    return [row for values in specification["datasets"].values() for row in values]
