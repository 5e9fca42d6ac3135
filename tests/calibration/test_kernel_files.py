"""Fitted parameters as files that ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibration.kernel_files import write
from sim.calibration.kernels import Fit, calibrate
from sim.catalog import load_gpu
from sim.cost.kernels.moe import moe
from sim.inputs.kernel_parameters import DecodeParameters, GemmParameters, MoeParameters, PrefillParameters
from sim.reading.topology_files import kernels_of
from sim.reading.yaml_lines import read_yaml
from sim.results.compared import ErrorSummary
from tests.calibration.made_points import products


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


def test_every_shipped_gpu_has_parameters_with_an_origin() -> None:
    for name in ("a100-80gb-sxm", "h100-sxm", "h200-sxm", "b200-sxm", "b300-sxm", "gb200", "gb300", "l40s"):
        kernels = load_gpu(name).kernels
        assert kernels is not None, name
        assert {"bf16"} <= kernels.gemm.keys()
        assert isinstance(kernels.attention_decode["bf16"], DecodeParameters)
        assert {"gemm.bf16", "attention_decode.bf16", "attention_prefill.bf16"} <= kernels.provenance.keys()


def test_a_gpu_keeps_its_own_sets_and_borrows_by_kernel_before_it_borrows_all(tmp_path: Path) -> None:
    """RTX 4090 takes products of H100 and the rest of L40S; L40S keeps its own products."""
    none = ErrorSummary.of([])

    def fit(op: str, gpu: str, floor_s: float) -> Fit:
        kind = GemmParameters if op == "gemm" else MoeParameters
        return Fit("vllm", op, gpu, "bf16", kind(floor_s=floor_s), none, None, None, none)

    fits = [fit("gemm", "h100-sxm", 1e-6), fit("gemm", "l40s", 2e-6), fit("moe", "l40s", 3e-6)]
    write(fits, tmp_path, "a command")
    read = {gpu: kernels_of(read_yaml(tmp_path / f"{gpu}.yaml")) for gpu in ("rtx-4090", "l40s")}
    assert read["l40s"].gemm["bf16"].floor_s == pytest.approx(2e-6)
    assert read["rtx-4090"].gemm["bf16"].floor_s == pytest.approx(1e-6)
    assert read["rtx-4090"].moe["bf16"].floor_s == pytest.approx(3e-6)
    assert "those of h100-sxm" in read["rtx-4090"].provenance["gemm.bf16"].source


def experts(engine: str, variant: str, floor_s: float, gpu: str = "b200-sxm", **others: float) -> Fit:
    """A set of experts with the bias that other engines' sets have on its points."""
    none = ErrorSummary.of([])
    by_others = {name: ErrorSummary.of([bias]) for name, bias in others.items()}
    return Fit(
        engine,
        "moe",
        gpu,
        variant,
        MoeParameters(floor_s=floor_s),
        none,
        None,
        None,
        none,
        (),
        None,
        by_others,
    )


def test_an_engine_has_its_own_experts_unless_they_were_timed_untuned(tmp_path: Path) -> None:
    """By hand: another in a quarter of the time means four times as long; in three quarters it does not."""
    fits = [
        experts("vllm", "bf16", 1e-6, trtllm=-0.25), experts("trtllm", "bf16", 2e-6),
        experts("vllm", "fp8", 3e-6, trtllm=-0.75), experts("trtllm", "fp8", 4e-6),
        experts("trtllm", "w4a8", 5e-6),
    ]  # fmt: skip
    write(fits, tmp_path, "a command")
    read = kernels_of(read_yaml(tmp_path / "b200-sxm.yaml"))
    chosen = {variant: found.floor_s for variant, found in read.moe.items()}
    assert chosen == pytest.approx({"bf16": 1e-6, "fp8": 4e-6, "w4a8": 5e-6})
    sources = [read.provenance[f"moe.{variant}"].source for variant in ("bf16", "fp8", "w4a8")]
    assert sources[0].startswith("NVIDIA aiconfigurator 0.12.0, vLLM")
    assert sources[1].startswith("timed untuned under vllm, 4 times as long: those of trtllm; ")
    assert sources[2].startswith("not measured under vllm: those of trtllm; ")
    assert read.engines["trtllm"].moe["bf16"].floor_s == pytest.approx(2e-6)


def test_a_gpu_that_was_not_measured_borrows_experts_under_every_engine(tmp_path: Path) -> None:
    fits = [experts("vllm", "bf16", 1e-6), experts("trtllm", "bf16", 2e-6)]
    write(fits, tmp_path, "a command")
    read = kernels_of(read_yaml(tmp_path / "b300-sxm.yaml"))
    assert read.moe["bf16"].floor_s == pytest.approx(1e-6)
    assert read.engines["trtllm"].moe["bf16"].floor_s == pytest.approx(2e-6)
    assert "those of b200-sxm" in read.engines["trtllm"].provenance["moe.bf16"].source


def test_shipped_block_fp8_experts_on_blackwell_are_those_of_the_engine() -> None:
    """Qwen3-30B's shape: vLLM 50 us with 4 tokens, TensorRT-LLM 94 us (aiconfigurator, B200, one rank)."""
    sizes = {"tokens": 4, "hidden": 2048, "inter": 768, "topk": 8, "experts": 128, "dtype": "fp8_block"}
    for name in ("b200-sxm", "b300-sxm"):
        times = {
            engine: moe(load_gpu(name).under(engine), **sizes, routing="balanced").total_s
            for engine in ("vllm", "sglang", "trtllm")
        }
        assert times["vllm"] == times["sglang"]
        assert times["vllm"] == pytest.approx(50e-6, rel=0.15)
        assert times["trtllm"] == pytest.approx(94e-6, rel=0.15)
