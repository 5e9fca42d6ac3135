"""The rack against islands: lines, ratios and the public runs, checked by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "is_ep_on_nvlink_worth_a_rack.py"


@pytest.fixture(scope="module")
def rack() -> ModuleType:
    spec = importlib.util.spec_from_file_location(EXPERIMENT.stem, EXPERIMENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[EXPERIMENT.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_envelope_keeps_what_nothing_beats_in_both(rack):
    found = [rack.Point("m", "s", 1, user, gpu) for user, gpu in ((10, 100), (20, 50), (15, 40), (5, 90))]
    assert [(one.per_user, one.per_gpu) for one in rack.envelope(found)] == [(10, 100), (20, 50)]


def test_between_two_points_the_line_is_straight_in_logarithms(rack):
    line = [rack.Point("m", "s", 1, 10.0, 100.0), rack.Point("m", "s", 1, 20.0, 25.0)]
    assert rack.at_speed(line, 15.0) == pytest.approx(50.0)
    assert rack.at_speed(line, 5.0) == 100.0
    assert rack.at_speed(line, 21.0) is None


def test_public_runs_have_the_shape_that_was_published(rack):
    """Little at the throughput end, more than twice in the middle, less than one for the fastest answers."""
    lines = {
        machine: rack.envelope([run.point for run in rack.published(machine, rack.SHORT)])
        for machine in (rack.RACK, rack.ISLANDS)
    }
    most, middle, fastest = (row.simulated for row in rack.ratios(rack.SHORT, lines, lines))
    assert most < 1.4
    assert middle > 2.0
    assert fastest < 1.0


def test_decode_replicas_with_experts_over_32_gpus_are_as_fast_as_public_ones(rack):
    seconds = rack.step_s(rack.RACK, rack.Shape(32), 16, rack.SHORT.context, rack.SHORT.precision)
    run = next(
        one
        for one in rack.published(rack.RACK, rack.SHORT)
        if one.shape == rack.Shape(32) and one.point.batch in (15, 16)
    )
    assert 1.0 / seconds == pytest.approx(run.point.per_user, rel=0.15)


def test_what_does_not_fit_has_no_step(rack):
    assert rack.step_s(rack.ISLANDS, rack.Shape(8), 512, rack.LONG.context, "fp8") is None
