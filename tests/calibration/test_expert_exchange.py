"""The blocks of `experts.yaml` are what their fit gives, where the sample has all the rows that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibration.expert_exchange import BLOCKS, block_points, fitted, refitted, written
from sim.calibration.held_out_expert_exchange import PHASES
from sim.reading.data_files import measured

SAMPLE = measured() / "collectives" / "experts.csv"


@pytest.mark.parametrize("name", ["low_latency_hopper", "normal_hopper", "normal_across"])
@pytest.mark.parametrize("phase", PHASES)
def test_what_is_written_is_what_the_fit_gives_to_three_digits(name: str, phase: str) -> None:
    found = fitted(name, phase, block_points(SAMPLE, name))  # type: ignore[arg-type]
    for key, value in written(name, phase).items():  # type: ignore[arg-type]
        assert found[key] == pytest.approx(value, rel=6e-3), key


def test_every_block_is_fitted_again_beside_what_is_written() -> None:
    found = list(refitted(SAMPLE))
    assert {one.block for one in found} == set(BLOCKS)
    assert {key: (f"{now:.3g}", before) for key, (now, before) in found[-1].numbers.items()} == {
        "base_s": ("9.06e-05", 90.6e-6),
        "across": ("0.623", 0.623),
    }


def test_a_block_with_fewer_points_than_free_numbers_is_not_fitted(tmp_path: Path) -> None:
    head, *rows = SAMPLE.read_text().splitlines()
    few = tmp_path / "few.csv"
    few.write_text("\n".join([head, *(row for row in rows if ",deepep_normal," in row)]))
    assert {one.block for one in refitted(few)} == {"normal_hopper", "normal_blackwell", "normal_across"}
