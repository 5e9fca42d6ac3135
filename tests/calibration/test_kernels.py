from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.calibration.kernels import (
    bias_by_size,
    calibrate,
    checked,
    errors_of,
    grouped,
    rows,
    summary,
    table,
)
from sim.catalog import load_gpu
from sim.cli.app import app
from sim.cost.kernels.kernels import KERNELS
from sim.inputs.errors import InputError
from sim.reading.measurements import Measurement
from tests.calibration.made_points import products


def test_a_gpu_is_predicted_by_its_kin_and_beats_the_roofline() -> None:
    fits = calibrate([*products("h100-sxm"), *products("h200-sxm")], cross_validate=False)
    assert [one.gpu for one in fits] == ["h100-sxm", "h200-sxm"]
    for one in fits:
        assert one.stand_in is not None
        assert one.stand_in.median < 0.03 < one.roofline.median
        assert one.held_out is None
    printed = table(fits)
    assert "h200-sxm" in printed
    assert "roofline" in printed.splitlines()[0]
    assert rows(fits)[0]["fitted_median"] == fits[0].fitted.median
    assert summary(fits)["vllm", "gemm"][0] < 0.02


def test_decodes_that_the_level_2_cache_answered_are_left_out() -> None:
    sizes = {"batch": 1, "kv_tokens": 100_000, "heads": 8, "kv_heads": 1, "head_dim": 128, "kv_dtype": "bf16"}
    n_bytes = 2 * 100_000 * 128 * 2
    fair = [Measurement("h100-sxm", "vllm", "attention_decode", "bf16", sizes, "s", n_bytes / 3e12)] * 20
    hasty = [Measurement("h100-sxm", "vllm", "attention_decode", "bf16", sizes, "s", n_bytes / 4e12)] * 20
    ((_, kept),) = grouped([*fair, *hasty]).items()
    assert kept == fair


def test_experts_of_vllm_with_expert_parallelism_are_left_out() -> None:
    sizes = {"tokens": 64, "hidden": 2048, "inter": 768, "topk": 8, "experts": 128, "tp": 1, "ep": 4}
    sizes = {**sizes, "dtype": "bf16", "routing": "power_law_1.2"}
    engines = ("vllm", "trtllm")
    points = [Measurement("h100-sxm", engine, "moe", "bf16", sizes, "s", 1e-4) for engine in engines] * 20
    assert {engine for engine, *_ in grouped(points)} == {"trtllm"}


def test_a_set_of_experts_is_held_against_those_of_other_engines_on_its_gpu() -> None:
    """By hand: points of half the time are predicted at twice it by the other's set, and the other way round;
    no bound of the search is half of everything."""
    sizes = {"hidden": 2048, "inter": 768, "topk": 8, "experts": 128, "tp": 1, "ep": 1}
    sizes |= {"dtype": "bf16", "routing": "power_law_1.2"}
    gpu = load_gpu("h100-sxm").model_copy(update={"kernels": None})
    points = [
        Measurement("h100-sxm", "trtllm", "moe", "bf16", one, "s", KERNELS["moe"](gpu, **one).total_s)
        for one in ({**sizes, "tokens": 2**n} for n in range(12))
    ] * 2
    halved = [replace(one, engine="vllm", seconds=one.seconds / 2) for one in points]
    fits = calibrate([*points, *halved], cross_validate=False)
    trtllm, vllm = sorted(fits, key=lambda one: one.engine)
    assert vllm.by_others["trtllm"].bias == pytest.approx(1.0, abs=0.1)
    assert trtllm.by_others["vllm"].bias == pytest.approx(-0.5, abs=0.15)


def test_a_bias_is_told_by_size_from_the_shortest_to_the_longest() -> None:
    """By hand: ten points, the five short ones 10 % too slow, the five long ones 10 % too fast."""
    errors = errors_of([9.0] * 5 + [1.1] * 5 + [math.nan], [10.0] * 5 + [1.0] * 5 + [5.0])
    assert errors == pytest.approx([0.1] * 5 + [-0.1] * 5)
    assert bias_by_size(errors) == pytest.approx((0.1, 0.1, 0.0, -0.1, -0.1))
    assert bias_by_size([0.1, 0.3]) == (0.1, 0.3)


def products_with(**changes: object) -> list[Measurement]:
    return [replace(one, **changes) for one in products("h100-sxm")]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        (products_with(op="gemmm"), "kernel = 'gemmm': must be one of gemm, .*; did you mean 'gemm'"),
        (products_with(sizes={"m": 64, "n": 8192, "dtype": "bf16"}), "argument: 'k'"),
        (
            products_with(sizes={"m": 64, "n": 8192, "k": 0, "dtype": "bf16"}),
            "a row of gemm on h100-sxm is none of this kernel",
        ),
        (products_with()[:5], "needs 20 points of one kernel.*5 of gemm bf16 on h100-sxm"),
        (
            [replace(one, seconds=one.seconds * 1e-3) for one in products_with()],
            "of what the datasheet's rates need; latency_us are microseconds",
        ),
    ],
)
def test_measurements_that_no_fit_can_make_sense_of_are_refused(
    measured: list[Measurement], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        checked(measured)
    assert checked(products("h100-sxm"))


def test_a_users_own_file_is_fitted_from_the_command_line(tmp_path: Path) -> None:
    lines = ["gpu,kernel,latency_us,m,n,k,dtype"]
    for one in products("h100-sxm"):
        m, n, k = (one.sizes[name] for name in "mnk")
        lines.append(f"h100-sxm,gemm,{one.seconds * 1e6!r},{m},{n},{k},bf16")
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines))
    options = ["--no-cross-validation", "--format", "json", "--write", str(tmp_path)]
    done = CliRunner().invoke(app, ["calibrate", "kernels", str(path), *options])
    (row,) = json.loads(done.stdout)
    assert (row["gpu"], row["kernel"], row["points"]) == ("h100-sxm", "gemm", 42)
    assert row["fitted_median"] < 0.02
    assert (tmp_path / "h100-sxm.yaml").is_file()
