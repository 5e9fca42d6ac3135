from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.calibration.kernel_files import write
from sim.calibration.kernel_fit import fit, fold_of, held_out, predicted_s, with_parameters
from sim.calibration.kernels import (
    Fit,
    bias_by_size,
    calibrate,
    checked,
    errors_of,
    grouped,
    rows,
    summary,
    table,
)
from sim.calibration.stand_ins import stand_in_of
from sim.catalog import load_gpu
from sim.cli.app import app
from sim.inputs.errors import InputError
from sim.inputs.kernel_parameters import (
    DecodeParameters,
    GemmParameters,
    MoeParameters,
    PrefillParameters,
)
from sim.reading.measurements import Measurement
from sim.reading.topology_files import kernels_of
from sim.reading.yaml_lines import read_yaml
from sim.results.compared import ErrorSummary

TRUE = GemmParameters(
    floor_s=4e-6,
    hbm_fraction=0.8,
    flop_fraction=0.7,
    s_per_depth=1e-9,
    wave_loss=0.3,
    overlap=3,
    throttle=0.2,
)


SHAPES = ((512, 512), (1536, 4096), (4096, 4096), (8192, 1024), (8192, 8192), (28672, 8192), (5120, 25600))


def products(gpu_name: str, true: GemmParameters = TRUE) -> list[Measurement]:
    gpu = with_parameters(load_gpu(gpu_name).model_copy(update={"kernels": None}), "gemm", "bf16", true)
    measured = []
    for n, k in SHAPES:
        for m in (1, 16, 64, 256, 1024, 4096):
            sizes = {"m": m, "n": n, "k": k, "dtype": "bf16"}
            one = Measurement(gpu_name, "vllm", "gemm", "bf16", sizes, f"{n}/{k}")
            measured.append(replace(one, seconds=predicted_s(gpu, one)))
    return measured


def test_parameters_come_back_from_times_that_they_made() -> None:
    found = fit(load_gpu("h100-sxm"), products("h100-sxm"))
    assert isinstance(found, GemmParameters)
    assert found.floor_s == pytest.approx(TRUE.floor_s, rel=0.05)
    assert found.hbm_fraction == pytest.approx(TRUE.hbm_fraction, rel=0.02)
    assert found.flop_fraction == pytest.approx(TRUE.flop_fraction, rel=0.05)


def test_one_wild_point_does_not_move_the_others() -> None:
    measured = products("h100-sxm")
    wild = measured[0]
    spoilt = [replace(wild, seconds=30 * wild.seconds), *measured[1:]]
    gpu = load_gpu("h100-sxm")
    fitted = with_parameters(gpu, "gemm", "bf16", fit(gpu, spoilt))
    errors = errors_of([predicted_s(fitted, one) for one in measured], [one.seconds for one in measured])
    assert ErrorSummary.of(errors).median < 0.02


def test_a_shape_is_held_out_whole() -> None:
    measured = products("h100-sxm")
    assert len({(one.shape, fold_of(one.shape, 5)) for one in measured}) == 7
    predictions = held_out(load_gpu("h100-sxm"), measured)
    errors = errors_of(predictions, [one.seconds for one in measured])
    assert ErrorSummary.of(errors).median < 0.05


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


def test_a_bias_is_told_by_size_from_the_shortest_to_the_longest() -> None:
    """By hand: ten points, the five short ones 10 % too slow, the five long ones 10 % too fast."""
    errors = errors_of([9.0] * 5 + [1.1] * 5 + [math.nan], [10.0] * 5 + [1.0] * 5 + [5.0])
    assert errors == pytest.approx([0.1] * 5 + [-0.1] * 5)
    assert bias_by_size(errors) == pytest.approx((0.1, 0.1, 0.0, -0.1, -0.1))
    assert bias_by_size([0.1, 0.3]) == (0.1, 0.3)


def test_written_files_are_read_back_and_say_where_they_come_from(tmp_path: Path) -> None:
    fits = calibrate(products("h100-sxm"), cross_validate=False)
    paths = write(fits, tmp_path, "a command")
    assert {path.stem for path in paths} == {
        "h100-sxm",
        "h200-sxm",
        "a100-80gb-sxm",
    }  # itself and those whose stand-in it is
    kernels = kernels_of(read_yaml(tmp_path / "h100-sxm.yaml"))
    assert kernels.gemm["bf16"].hbm_fraction == pytest.approx(fits[0].parameters.hbm_fraction, rel=1e-3)
    assert kernels.provenance["gemm.bf16"].tag == "fitted"
    borrowed = kernels_of(read_yaml(tmp_path / "h200-sxm.yaml"))
    assert borrowed.provenance["gemm.bf16"].tag == "assumed"
    assert "a command" in (tmp_path / "h100-sxm.yaml").read_text()


def test_every_number_of_a_written_file_is_the_fitted_one(tmp_path: Path) -> None:
    parameters = {
        "gemm": GemmParameters(floor_s=1.234e-6, s_per_depth=2.345e-10, quantise_s_per_token=3.456e-9),
        "attention_prefill": PrefillParameters(floor_s=1.234e-6, s_per_kv_token=2.345e-9, l2_share=0.1234),
        "attention_decode": DecodeParameters(
            floor_s=1.234e-6, s_per_kv_token=2.345e-10, s_per_sm_kv_token=3.456e-9, sm_kv_tokens=1234,
            split_s=4.567e-6, s_per_sequence_head=5.678e-9,
        ),
        "moe": MoeParameters(floor_s=1.234e-6, s_per_expert=2.345e-7, s_per_token=3.456e-9),
    }  # fmt: skip
    none = ErrorSummary.of([])
    fits = [
        Fit("vllm", op, "h100-sxm", "bf16", given, none, None, None, none) for op, given in parameters.items()
    ]
    write(fits, tmp_path, "a command")
    read = kernels_of(read_yaml(tmp_path / "h100-sxm.yaml"))
    for op, given in parameters.items():
        found = getattr(read, op)["bf16"]
        for name, value in given.model_dump(exclude_unset=True).items():
            assert getattr(found, name) == pytest.approx(value, rel=1e-3), f"{op}.{name}"


def test_a_gpu_takes_what_it_lacks_from_its_kin_by_kernel() -> None:
    assert stand_in_of("rtx-4090", "gemm") == "h100-sxm"
    assert stand_in_of("rtx-4090", "attention_decode") == "rtx-pro-6000"
    assert stand_in_of("b300-sxm", "gemm") == "b200-sxm"
    assert stand_in_of("mine", "gemm") == ""


def products_with(**changes: object) -> list[Measurement]:
    return [replace(one, **changes) for one in products("h100-sxm")]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        (products_with(op="gemmm"), "kernel = 'gemmm': must be one of gemm, .*; did you mean 'gemm'"),
        (products_with(sizes={"m": 64, "n": 8192, "dtype": "bf16"}), "argument: 'k'"),
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


def test_every_shipped_gpu_has_parameters_with_an_origin() -> None:
    for name in ("a100-80gb-sxm", "h100-sxm", "h200-sxm", "b200-sxm", "b300-sxm", "gb200", "gb300", "l40s"):
        kernels = load_gpu(name).kernels
        assert kernels is not None, name
        assert {"bf16"} <= kernels.gemm.keys()
        assert isinstance(kernels.attention_decode["bf16"], DecodeParameters)
        assert {"gemm.bf16", "attention_decode.bf16", "attention_prefill.bf16"} <= kernels.provenance.keys()


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
