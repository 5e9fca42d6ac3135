from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sim.calibration.held_out import main
from sim.inputs.errors import InputError
from sim.reading.data_files import measured

SAMPLES = measured() / "collectives"


@pytest.mark.slow
def test_exchanges_are_told_by_library_system_ranks_and_phase_with_plain_models_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(SAMPLES / "experts.csv", tmp_path / "moe_all_to_all.csv")
    main([str(tmp_path), "experts"])
    title, heads, *rows = capsys.readouterr().out.strip().splitlines()
    assert "plain models" in title
    assert heads.endswith("link rate  alpha-beta")
    told = {tuple(row.split()[:4]): [float(cell) for cell in row.split()[5:]] for row in rows}
    median, p90, _, link_rate, alpha_beta = told["deepep_low_latency", "h100_sxm", "64", "combine"]
    assert median <= p90
    assert median < min(link_rate, alpha_beta)


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has none of collectives_nccl"):
        main([str(tmp_path), "collectives"])


def test_a_section_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="known are kernels, collectives, experts; did you mean 'experts'"):
        main([str(tmp_path), "expert"])
