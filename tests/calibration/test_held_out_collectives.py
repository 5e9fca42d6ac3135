"""Collectives on ranks, systems and kinds of GPU that no fit saw."""

from __future__ import annotations

import pytest

from sim.calibration.collectives import errors, shipped
from sim.calibration.held_out_collectives import held_out
from tests.calibration.made_points import made


def test_the_only_system_of_its_kind_is_predicted_by_its_stand_in() -> None:
    points = [*made("l40s", "nccl"), *made("rtx_pro_6000_server", "nccl")]
    rows = {row.system: row for row in held_out(points, shipped())}
    assert {row.how for row in rows.values()} == {"stand-in"}
    borrowed = shipped()
    blocks = borrowed["inside"]["architectures"]
    blocks["ada"]["nccl"] = blocks["blackwell_pcie"]["nccl"]
    expected = sorted(error for point, error in errors(points, borrowed) if point.system == "l40s")
    assert rows["l40s"].errors.bias == pytest.approx((expected[4] + expected[5]) / 2)
    assert rows["l40s"].errors.bias != 0.0


@pytest.mark.slow
def test_a_number_of_ranks_is_predicted_from_the_others() -> None:
    points = [point for gpus in (2, 4, 8) for point in made("h100_sxm", "vllm", gpus=gpus)]
    rows = [row for row in held_out(points, shipped()) if row.how == "ranks"]
    assert {row.size for row in rows} == {2, 4, 8}
    assert all(row.alpha_beta is not None for row in rows)
