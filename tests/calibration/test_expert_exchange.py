"""The blocks of `experts.yaml` are what their fit gives, where the sample has all the rows that they name."""

from __future__ import annotations

import pytest

from sim.calibration.expert_exchange import BLOCKS, block_points, fitted, main, written
from sim.calibration.held_out_expert_exchange import PHASES
from sim.reading.data_files import measured

SAMPLE = measured() / "collectives" / "experts.csv"


@pytest.mark.parametrize("name", ["low_latency_hopper", "normal_hopper", "normal_across"])
@pytest.mark.parametrize("phase", PHASES)
def test_what_is_written_is_what_the_fit_gives_to_three_digits(name: str, phase: str) -> None:
    found = fitted(name, phase, block_points(SAMPLE, name))  # type: ignore[arg-type]
    for key, value in written(name, phase).items():  # type: ignore[arg-type]
        assert found[key] == pytest.approx(value, rel=6e-3), key


def test_the_command_prints_every_block_beside_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(SAMPLE)])
    _, *lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == set(BLOCKS)
    assert "base_s 9.06e-05 (9.06e-05), across 0.623 (0.623)" in lines[-1]
