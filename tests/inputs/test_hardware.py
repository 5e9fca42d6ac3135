from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sim.inputs.hardware import Gpu, LinkType


def gpu(**changes: Any) -> Gpu:
    return Gpu.model_validate(
        {
            "name": "mine",
            "hbm_bytes": "80 GB",
            "hbm_bytes_per_s": "3 TB/s",
            "flops": {"bf16": "1 PFLOP/s"},
            "sms": 132,
            "l2_bytes": "50 MB",
            "pcie_generation": 5,
        }
        | changes
    )


def test_software_sees_what_the_driver_reports() -> None:
    assert gpu().usable_hbm_bytes == 80e9
    assert gpu(visible_hbm_bytes="80 GiB").usable_hbm_bytes == 80 * 2**30


def test_payload_is_the_raw_rate_times_the_efficiency() -> None:
    link = LinkType.model_validate({"name": "nvlink", "bytes_per_s": "450 GB/s", "efficiency": "80 %"})
    assert link.payload_bytes_per_s == pytest.approx(360e9)


def test_under_an_engine_only_what_was_measured_with_it_changes() -> None:
    own = {
        "gemm": {"bf16": {"floor_s": "1 us"}},
        "engines": {"other": {"gemm": {"bf16": {"floor_s": "9 us"}}}},
    }
    one = gpu(kernels=own)
    assert one.kernels is not None
    other = one.under("other").kernels
    assert other is not None
    assert other.gemm["bf16"].floor_s == pytest.approx(9e-6)
    assert other.attention_decode == one.kernels.attention_decode
    assert one.under("unmeasured") is one
    assert gpu().under("other").kernels is None


def test_an_unknown_number_format_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValidationError, match="'fp7' is not a number format; fp32, bf16"):
        gpu(flops={"fp7": 1e15})


def test_a_memory_bandwidth_without_its_unit_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"3350 \(a bare number is in bytes/s\): must be at least 1 GB/s"
    ):
        gpu(hbm_bytes_per_s=3350)
