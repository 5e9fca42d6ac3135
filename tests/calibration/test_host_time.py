from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibration.host_time import Waited, fit, read_waits
from sim.inputs.errors import InputError

STEP_S, SEQUENCE_S = 2e-3, 30e-6
ROWS = [
    Waited(model, sequences, gpus_s + STEP_S + SEQUENCE_S * sequences, gpus_s)
    for model, gpus_s in (("a", 5e-3), ("b", 12e-3), ("c", 20e-3))
    for sequences in (8.0, 64.0, 512.0)
]


def test_a_fit_finds_what_the_rows_were_made_with() -> None:
    found = fit(ROWS)
    assert found.step_s == pytest.approx(STEP_S, rel=0.01)
    assert found.sequence_s == pytest.approx(SEQUENCE_S, rel=0.01)
    assert max(map(abs, found.held_out)) < 0.01
    assert max(found.without) < -0.05
    assert {name: len(held_out) for name, _, held_out in found.bands()} == {
        "all": 9, "1 to 32": 3, "33 to 130": 3, "131 to 400": 0, "over 400": 3,
    }  # fmt: skip


def test_a_model_is_predicted_from_the_others_alone() -> None:
    slow = [row._replace(measured_s=2.0 * row.measured_s) if row.model == "c" else row for row in ROWS]
    errors = dict(zip(slow, fit(slow).held_out, strict=True))
    for row, error in errors.items():
        if row.model == "c":  # predicted as the others are
            assert error == pytest.approx(-0.5, abs=0.01)


HEAD = "model,gpu,gpus,mean_batch,mean_output_tokens,power_w,output_tok_per_s,median_itl_ms\n"


def test_a_table_of_known_models_is_priced_and_others_are_named(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    names = (
        "Qwen/Qwen3-32B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.1-70B-Instruct",
        "no/x",
    )
    table.write_text(HEAD + "".join(f"{name},H100,4,8,700,2000,500,17.0\n" for name in names))
    rows, unknown = read_waits(table)
    assert unknown == ["no/x"]
    assert [row.model for row in rows] == list(names[:3])
    assert all(0.0 < row.gpus_s < row.measured_s == 0.017 for row in rows)
    table.write_text(HEAD + "Qwen/Qwen3-32B,H100,2,8,700,1000,500,17.0\n")
    with pytest.raises(InputError, match="fewer than three models"):
        read_waits(table)
