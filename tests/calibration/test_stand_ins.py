"""Whose parameters a GPU borrows."""

from __future__ import annotations

import pytest

from sim.calibration.collectives import shipped
from sim.calibration.stand_ins import ARCHITECTURE_STAND_INS, STAND_INS, STAND_INS_BY_KERNEL, stand_in_of
from sim.catalog import load_gpu


def test_a_gpu_takes_what_it_lacks_from_its_stand_in_by_kernel() -> None:
    assert stand_in_of("rtx-4090", "gemm") == "h100-sxm"
    assert stand_in_of("rtx-4090", "attention_decode") == "rtx-pro-6000"
    assert stand_in_of("b300-sxm", "gemm") == "b200-sxm"
    assert stand_in_of("mine", "gemm") == ""


@pytest.mark.parametrize("gpu", sorted({*STAND_INS, *STAND_INS.values(), *STAND_INS_BY_KERNEL.values()}))
def test_every_name_is_of_a_shipped_gpu_that_does_not_stand_in_for_itself(gpu: str) -> None:
    assert load_gpu(gpu).name == gpu
    assert STAND_INS[gpu] != gpu


def test_every_kind_of_gpu_with_measured_collectives_has_another_to_borrow_from() -> None:
    kinds = set(shipped()["inside"]["architectures"])
    assert set(ARCHITECTURE_STAND_INS) == kinds
    assert set(ARCHITECTURE_STAND_INS.values()) <= kinds
    assert all(kind != other for kind, other in ARCHITECTURE_STAND_INS.items())
