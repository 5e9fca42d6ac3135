"""Every kernel that has a price, by name, and the protocol that another way of pricing them fits into.

A formula here needs no table and takes a microsecond or two. Where a user has measured tables,
`sim.cost.kernels.measured` looks them up and falls back to these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sim.cost.kernels.attention import (
    attention_decode,
    attention_mixed,
    attention_prefill,
    mla_decode,
    mla_prefill,
)
from sim.cost.kernels.gemm import gemm
from sim.cost.kernels.index_scores import index_decode, index_prefill
from sim.cost.kernels.moe import experts_hit, moe
from sim.cost.kernels.recurrent import state_scan, state_update
from sim.cost.kernels.small import elementwise, lm_head, sampling
from sim.cost.kernels.timing import FORMATS, KernelTiming
from sim.inputs.hardware import Gpu

__all__ = [
    "FORMATS",
    "KERNELS",
    "KernelModel",
    "KernelTiming",
    "attention_decode",
    "attention_mixed",
    "attention_prefill",
    "elementwise",
    "experts_hit",
    "gemm",
    "index_decode",
    "index_prefill",
    "lm_head",
    "mla_decode",
    "mla_prefill",
    "moe",
    "sampling",
    "state_scan",
    "state_update",
]


class KernelModel(Protocol):
    """Anything that prices a kernel: a function of the GPU, the kernel's name and its sizes."""

    def __call__(self, gpu: Gpu, op: str, **sizes: Any) -> KernelTiming: ...


def formula(gpu: Gpu, op: str, **sizes: Any) -> KernelTiming:
    """The `KernelModel` of the fitted formulas: `KERNELS[op]` with these sizes."""
    return KERNELS[op](gpu, **sizes)


KERNELS: dict[str, Callable[..., KernelTiming]] = {
    "gemm": gemm,
    "attention_prefill": attention_prefill,
    "attention_decode": attention_decode,
    "attention_mixed": attention_mixed,
    "mla_prefill": mla_prefill,
    "mla_decode": mla_decode,
    "index_prefill": index_prefill,
    "index_decode": index_decode,
    "state_scan": state_scan,
    "state_update": state_update,
    "moe": moe,
    "elementwise": elementwise,
    "lm_head": lm_head,
    "sampling": sampling,
}
