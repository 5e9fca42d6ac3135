from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sim.inputs.errors import InputError
from sim.studies.held_out import experts, main

SAMPLES = Path(__file__).parents[1] / "data" / "collectives"


@pytest.mark.slow
def test_exchanges_are_told_by_library_ranks_and_phase_with_a_plain_model_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(SAMPLES / "experts.csv", tmp_path / "moe_all_to_all.csv")
    experts(tmp_path)
    title, *rows = capsys.readouterr().out.strip().splitlines()
    assert "plain model" in title
    told = {tuple(row.rsplit(maxsplit=5)[0].split(", ")): row.split()[-4:] for row in rows}
    median, _, _, plain = map(float, told["deepep_low_latency", "64 ranks", "combine"])
    assert median < plain


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has none of collectives_nccl"):
        main([str(tmp_path), "--without-kernels"])
