from __future__ import annotations

from typing import Any

import pytest

from sim.cost.host_time import SEQUENCE_S, STEP_OVER_PROCESSES_S, STEP_S, sequence_s, step_s
from sim.inputs.engine import Engine


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({}, (STEP_S, SEQUENCE_S)),
        ({"executor": "ray"}, (STEP_OVER_PROCESSES_S, SEQUENCE_S)),
        ({"pipeline_parallel_size": 2}, (STEP_OVER_PROCESSES_S, SEQUENCE_S)),
        ({"backend": "sglang"}, (STEP_OVER_PROCESSES_S, 0.0)),
        ({"host": {"step_s": 0.5}}, (0.5, SEQUENCE_S)),
        ({"host": {"sequence_s": 0.0}}, (STEP_S, 0.0)),
    ],
)
def test_a_step_costs_what_was_measured_of_the_engine_unless_it_is_given(
    engine: dict[str, Any], expected: tuple[float, float]
) -> None:
    of = Engine.model_validate(engine)
    assert (step_s(of), sequence_s(of)) == expected


def test_one_sequence_over_processes_takes_what_the_service_that_was_fitted_took() -> None:
    assert pytest.approx(2.8e-3) == STEP_OVER_PROCESSES_S + SEQUENCE_S
