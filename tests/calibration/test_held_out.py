"""A folder of measured tables, and the errors on what no fit saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibration.held_out import SECTIONS, expert_errors, inter_node_errors, intra_node_errors
from sim.inputs.errors import InputError
from sim.reading.data_files import measured

SAMPLES = measured() / "collectives"


def test_a_folder_without_the_tables_is_refused_with_their_names(tmp_path: Path) -> None:
    assert SECTIONS == ("kernels", "collectives", "experts")
    with pytest.raises(InputError, match="has none of collectives_nccl"):
        intra_node_errors(tmp_path)
    with pytest.raises(InputError, match="has none of collectives_h100_ib_cluster"):
        inter_node_errors(tmp_path, print)
    with pytest.raises(InputError, match="has none of moe_all_to_all"):
        expert_errors(tmp_path)


def test_the_tables_that_a_folder_has_are_taken(tmp_path: Path) -> None:
    rows = (SAMPLES / "experts.csv").read_text().splitlines()
    few = [row for row in rows if "phase" in row or (",deepep_normal," in row and "gb200" not in row)]
    (tmp_path / "moe_all_to_all.csv").write_text("\n".join(few))
    assert {(one.library, one.how) for one in expert_errors(tmp_path)} == {
        ("deepep_normal", "system and ranks")
    }
