"""Tables that time the host and not the kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sim.basis import kernel_basis
from sim.calibration.host_bound import host_bound, waits_for_host
from sim.calibration.kernel_files import write
from sim.calibration.kernel_fit import predicted_s
from sim.calibration.kernels import calibrate, grouped, rows, shipped_predictions, table
from sim.catalog import load_gpu
from sim.cost.kernels.kernels import formula
from sim.reading.measurements import Measurement
from sim.reading.topology_files import kernels_of
from sim.reading.yaml_lines import read_yaml


def blocks(gpu: str, engine: str = "vllm", more_s: float = 0.0, slower: float = 1.0) -> list[Measurement]:
    """Latent attention as a GB200's stand-in has it, with a constant more or a share more."""
    measured = []
    for heads in (16, 64, 128):
        for batch in (1, 4, 16, 64):
            for past in (256, 1024, 4096, 16384):
                sizes = {
                    "batch": batch, "new": 1, "past": past, "heads": heads, "gemm_dtype": "bf16",
                    "kv_dtype": "bf16",
                }  # fmt: skip
                one = Measurement(gpu, engine, "mla_decode", "bf16", sizes, f"{heads}/{batch}")
                seconds = predicted_s(load_gpu("b200-sxm"), one)
                measured.append(replace(one, seconds=seconds * slower + more_s))
    return measured


KIN = ("vllm", "mla_decode", "b200-sxm", "bf16")
OWN = ("vllm", "mla_decode", "gb200", "bf16")


def named(more_s: float = 0.0, slower: float = 1.0) -> bool:
    found = host_bound(grouped([*blocks("b200-sxm"), *blocks("gb200", more_s=more_s, slower=slower)]))
    assert not found or list(found) == [OWN]
    return bool(found)


def test_a_constant_on_every_call_is_the_host_and_a_share_more_is_a_slower_kernel():
    assert named(more_s=45e-6)
    assert not named()
    assert not named(slower=1.5)
    assert not named(more_s=8e-6)  # one kernel more
    assert named(more_s=45e-6, slower=1.05)


def test_another_engine_on_the_same_gpu_tells_it_too_where_the_stand_in_waits_as_well():
    found = host_bound(
        grouped(
            [
                *blocks("h100-sxm", more_s=45e-6),
                *blocks("h200-sxm", more_s=45e-6),
                *blocks("h200-sxm", "trtllm"),
                *blocks("h100-sxm", "trtllm"),
            ]
        )
    )
    assert {key: one.lender[0] for key, one in found.items()} == {
        ("vllm", "mla_decode", "h100-sxm", "bf16"): "trtllm",
        ("vllm", "mla_decode", "h200-sxm", "bf16"): "trtllm",
    }
    assert [one.excess_s for one in found.values()] == pytest.approx([45e-6, 45e-6])


@pytest.mark.slow
def test_such_a_table_takes_the_parameters_of_the_other_and_its_file_says_so(tmp_path: Path):
    fits = calibrate([*blocks("b200-sxm"), *blocks("gb200", more_s=45e-6)], cross_validate=False)
    kin, own = (next(one for one in fits if one.gpu == gpu) for gpu in ("b200-sxm", "gb200"))
    assert own.parameters == kin.parameters
    assert own.waits is not None
    assert own.held_out is None
    assert [line.endswith("waits for the host: those of b200-sxm") for line in table(fits).splitlines()] == [
        False, False, True,
    ]  # fmt: skip
    assert [one.get("waits_for_host_s") for one in rows(fits)] == [None, pytest.approx(45e-6)]
    write(fits, tmp_path, "a command")
    said = kernels_of(read_yaml(tmp_path / "gb200.yaml")).provenance["mla_decode.bf16"]
    assert said.tag == "assumed"
    assert said.source.startswith("not measured on gb200: those of b200-sxm; its own table")
    assert said.source.endswith("48 points) waits for the host, 45 us more whatever the work")
    borrower = kernels_of(read_yaml(tmp_path / "gb300.yaml")).provenance["mla_decode.bf16"]
    assert borrower.source == "not measured on gb300: those of b200-sxm, its stand-in"


@pytest.mark.parametrize(
    ("gpu", "lender"), [("gb200", "b200-sxm"), ("h100-sxm", "trtllm"), ("h200-sxm", "trtllm")]
)
@pytest.mark.parametrize("cache", ["bf16", "fp8"])
def test_latent_attention_of_vllm_on_hopper_and_in_racks_is_another_s(gpu: str, lender: str, cache: str):
    kernels = load_gpu(gpu).kernels
    assert kernels is not None
    other = load_gpu(lender).kernels if lender != "trtllm" else kernels.engines["trtllm"]
    assert other is not None
    assert kernels.mla_decode[cache] == other.mla_decode[cache]
    assert waits_for_host(load_gpu(gpu), "vllm", "mla_decode", cache)
    assert not waits_for_host(load_gpu(gpu), "trtllm", "mla_decode", cache)
    assert not waits_for_host(load_gpu("b200-sxm"), "vllm", "mla_decode", cache)


def test_its_rows_are_no_errors_of_the_simulator():
    there = {
        (one.gpu, one.engine) for one, _, _ in shipped_predictions([*blocks("gb200"), *blocks("b200-sxm")])
    }
    assert there == {("b200-sxm", "vllm")}


def test_an_answer_says_whose_kernels_it_has():
    words = {
        (gpu, engine): str(kernel_basis(load_gpu(gpu), formula, engine, [("mla_decode", "bf16")], "mla"))
        for gpu in ("h200-sxm", "gb200", "gb300")
        for engine in ("vllm", "sglang", "trtllm")
    }
    for engine in ("vllm", "sglang"):
        assert words["h200-sxm", engine].startswith("borrowed from h200-sxm under trtllm (")
        assert words["gb200", engine].startswith("borrowed from b200-sxm (")
    assert words["h200-sxm", "trtllm"].startswith("measured on h200-sxm")
    assert words["gb200", "trtllm"].startswith("measured on gb200")
    assert words["gb300", "vllm"].startswith("borrowed from b200-sxm")
