"""A GPU with round figures, and the latent attention of DeepSeek-V3."""

from __future__ import annotations

from sim.inputs.attention_kinds import LatentAttention
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import KernelParameters

MLA = LatentAttention(kv_lora_rank=512, rope_head_dim=64, nope_head_dim=128, v_head_dim=128, q_lora_rank=1536)


def gpu(**kernel_parameters: object) -> Gpu:
    """1 PFLOP/s and 1 TB/s, 100 SMs: times come out by hand."""
    return Gpu.model_validate(
        {
            "name": "round", "hbm_bytes": 8e10, "hbm_bytes_per_s": 1e12, "flops": {"bf16": 1e15, "fp8": 2e15},
            "sms": 100, "l2_bytes": 5e7, "pcie_generation": 5,
            "kernels": KernelParameters(**kernel_parameters),
        }
    )  # fmt: skip
