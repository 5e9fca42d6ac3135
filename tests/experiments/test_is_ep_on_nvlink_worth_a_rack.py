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
    rows = {row.quantity: row for row in rack.ratios(rack.SHORT, lines, lines)}
    assert rows["most tokens/s/GPU"].published < 1.4
    assert rows["tokens/s/GPU, largest anywhere"].published > 2.0
    assert 30.0 < rows["where it is largest"].published < 70.0
    assert rows["tokens/s/user of eight GPUs in tensor parallel with 4 sequences"].published < 1.0


def test_the_largest_ratio_of_two_lines_is_found_where_both_are(rack):
    lines = [
        [rack.Point("m", "s", 1, user, gpu) for user, gpu in points]
        for points in (((10, 100), (20, 80), (30, 10)), ((12, 90), (20, 20), (40, 5)))
    ]
    ratio, speed = rack.largest_ratio(*lines)
    assert ratio == pytest.approx(4.0, rel=0.05)
    assert speed == pytest.approx(20.0, abs=0.2)


@pytest.mark.slow
def test_tensor_parallel_replicas_with_few_sequences_are_within_a_quarter_of_public_ones(rack):
    """Weights as the checkpoint has them, the engine's own all-reduces, shared experts beside routed ones."""
    shape = rack.Shape(1, 8, whole_experts=True)
    for machine, batches in ((rack.RACK, (3, 6, 12)), (rack.ISLANDS, (2, 3, 5, 9))):
        runs = {one.point.batch: one for one in rack.published(machine, rack.SHORT) if one.shape == shape}
        for batch in batches:
            seconds = rack.step_s(machine, shape, batch, rack.SHORT)
            assert 1.0 / seconds == pytest.approx(runs[batch].point.per_user, rel=0.25)


def test_the_rack_wins_nothing_where_both_run_eight_gpus_in_tensor_parallel(rack):
    shape = rack.Shape(1, 8, whole_experts=True)
    rack_s, islands_s = (rack.step_s(one, shape, rack.FEW, rack.SHORT) for one in (rack.RACK, rack.ISLANDS))
    public = [rack.few_sequences_per_user(one, rack.SHORT) for one in (rack.RACK, rack.ISLANDS)]
    assert islands_s / rack_s == pytest.approx(public[0] / public[1], rel=0.08)


@pytest.mark.slow
def test_decode_replicas_with_experts_over_32_gpus_are_nearly_as_slow_as_public_ones(rack):
    """What coordinates the ranks of an engine between two steps is not in a step."""
    seconds = rack.step_s(rack.RACK, rack.Shape(32), 16, rack.SHORT)
    run = next(
        one
        for one in rack.published(rack.RACK, rack.SHORT)
        if one.shape == rack.Shape(32) and one.point.batch in (15, 16)
    )
    assert 1.0 <= 1.0 / seconds / run.point.per_user < 1.2


@pytest.mark.slow
def test_what_does_not_fit_has_no_step(rack):
    assert rack.step_s(rack.ISLANDS, rack.Shape(8), 512, rack.LONG) is None


def test_notes_say_the_ranges_of_the_rows_that_a_run_has_and_of_no_others(rack):
    def row(case, quantity, published, simulated):
        return rack.Row(case, quantity, "", published, simulated, source="a test")

    over, few = rack.OVER.format(rack.SHORT.name), f"with {rack.FEW} sequences"
    rows = [
        row(over, f"tokens/s/user of eight GPUs in tensor parallel {few}", 0.5, 0.75),
        row(over, "where it is largest", 40.0, 60.0),
        row(f"GB200 NVL72, {rack.SHORT.name}", "decode replica TP8 EP, 4 sequences a rank", 100.0, 76.0),
        row(f"B200 islands, {rack.SHORT.name}", "decode replica TP8 EP, 8 sequences a rank", 100.0, 92.0),
        row(f"B200 islands, {rack.LONG.name}", "decode replica EP8, 8 sequences a rank", 100.0, 129.0),
    ]
    tensor, fast, ranks, *_ = rack.notes(rows)
    assert "in FP4 -24 to -8 %." in tensor
    assert "FP8" not in tensor
    assert "GB200 is 0.50 times as fast as B200 in public and 0.75 times in simulation" in fast
    assert "tokens/s of a user +29 %." in ranks
    assert "at 60 tokens/s/user in simulation, at 40 in public" in ranks
    more = [
        *rows,
        row(f"B200 islands, {rack.LONG.name}", "decode replica TP8, 8 sequences a rank", 10.0, 6.0),
    ]
    assert "With experts by rows in FP8 -40 %" in rack.notes(more)[0]
