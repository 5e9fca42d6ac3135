"""Stand-in GPUs: whose fitted parameters a GPU takes that was not measured.

The same architecture, or the next one to it. What a stand-in is worth is measured too: every measured GPU
is also predicted by its stand-in (`sim calibrate kernels`, `sim calibrate collectives`).
"""

from __future__ import annotations

STAND_INS = {
    "a100-80gb-sxm": "h100-sxm",
    "a100-40gb-sxm": "a100-80gb-sxm",
    "h100-sxm": "h200-sxm",
    "h200-sxm": "h100-sxm",
    "b200-sxm": "gb200",
    "gb200": "b200-sxm",
    "b300-sxm": "b200-sxm",
    "gb300": "gb200",
    "l40s": "rtx-pro-6000",
    "rtx-pro-6000": "l40s",
    "rtx-4090": "l40s",
}
# Where another GPU is nearer for one kernel. Products come from the same libraries, best measured on H100.
# Attention on all that is neither Hopper nor a server's Blackwell is FlashAttention 2, and RTX 4090 has the
# memory of the RTX line. Experts on RTX PRO 6000 are Blackwell's; an A100's are as little held up by memory
# as those of RTX PRO 6000, and L40S has the slowest memory of all.
STAND_INS_BY_KERNEL = {
    ("l40s", "gemm"): "h100-sxm",
    ("rtx-pro-6000", "gemm"): "h100-sxm",
    ("rtx-4090", "gemm"): "h100-sxm",
    ("a100-80gb-sxm", "attention_prefill"): "l40s",
    ("a100-80gb-sxm", "attention_decode"): "l40s",
    ("rtx-4090", "attention_prefill"): "rtx-pro-6000",
    ("rtx-4090", "attention_decode"): "rtx-pro-6000",
    ("a100-80gb-sxm", "moe"): "rtx-pro-6000",
    ("rtx-pro-6000", "moe"): "b200-sxm",
}
# Of collectives, whose parameters belong to a kind of GPU (`topologies/collectives/inside.yaml`).
ARCHITECTURE_STAND_INS = {
    "ampere": "hopper",
    "hopper": "blackwell",
    "blackwell": "hopper",
    "grace_blackwell": "blackwell",
    "ada": "blackwell_pcie",
    "blackwell_pcie": "ada",
}


def stand_in_of(gpu: str, op: str) -> str:
    """The measured GPU whose parameters of a kernel a GPU takes that was not measured; "" for none.

    >>> stand_in_of("rtx-4090", "attention_decode"), stand_in_of("rtx-4090", "moe")
    ('rtx-pro-6000', 'l40s')
    >>> stand_in_of("mine", "moe")
    ''
    """
    return STAND_INS_BY_KERNEL.get((gpu, op)) or STAND_INS.get(gpu, "")
