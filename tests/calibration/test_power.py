"""The fit of watts gives back the constants that made its rows, with the signs of their meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.calibration.power import PowerRow, Rates, fit, predicted_w, rates_of, read_power_rows
from sim.catalog import load_gpu, load_model
from sim.inputs.errors import InputError
from sim.inputs.power import GpuPower

GPU = load_gpu("h100-sxm")
TRUE = GpuPower(idle_w=80, step_w=200, hbm_w=150, tensor_w=500, activation_nj=10, max_w=690)


def rows(watts_of: GpuPower) -> list[tuple[PowerRow, Rates]]:
    found = []
    for model in range(4):
        for users in (1, 8, 64, 256):
            hbm, tensor = 0.7 - 0.1 * model - 0.002 * users, 0.003 * users * (1 + model / 4)
            hbm = max(hbm, 0.05)
            rates = Rates(hbm, tensor, 1e8 * users * (1 + model / 2))
            watts = float(predicted_w(watts_of, [rates])[0])
            row = PowerRow(f"model {model}", "H100", 1, users, 400, 700, 1000.0, watts)
            found.append((row, rates))
    return found


def test_a_fit_finds_the_constants_of_its_rows() -> None:
    made = rows(TRUE)
    found = fit(made, GPU, 80.0, 700.0, {made[0][0]: 1.0})
    assert found.errors_of_simulated_steps == found.by_model["model 0"][:1]
    for name in ("step_w", "hbm_w", "tensor_w", "activation_nj", "max_w"):
        assert getattr(found.power, name) == pytest.approx(getattr(TRUE, name), rel=0.05)
    assert max(found.errors) < 0.02
    assert np.median(found.constant_errors) > 0.1


def test_no_term_is_negative_where_rows_contradict_each_other() -> None:
    contradicting = [
        (row, rates) if row.model != "model 0" else (
            PowerRow(row.model, row.gpu, 1, row.sequences, 400, 700, 1000.0, 640.0 - 400.0 * rates.hbm), rates
        )
        for row, rates in rows(TRUE)
    ]  # fmt: skip
    power = fit(contradicting, GPU, 80.0, 700.0).power
    assert min(power.step_w, power.hbm_w, power.tensor_w, power.activation_nj) >= 0.0


def test_prompts_hit_their_experts_in_the_steps_in_which_they_come() -> None:
    """8 users and prompts of 1,500 tokens, one in 30 steps: the others read the experts of 8 tokens."""
    model = load_model("qwen3-30b-a3b")
    row = PowerRow("any", "H100", 1, 8.0, 1500, 250, 8 / 13.5e-3, 500.0)
    few = PowerRow("any", "H100", 1, 8.0, 1, 250, 8 / 13.5e-3, 500.0)
    assert rates_of(few, model, GPU).hbm < rates_of(row, model, GPU).hbm < 0.9  # of the datasheet's rate
    assert rates_of(row, model, GPU).tensor > 2.0 * rates_of(few, model, GPU).tensor


def test_a_table_without_watts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("model,gpu\na,H100\n")
    with pytest.raises(InputError, match="power_w"):
        read_power_rows(path)
