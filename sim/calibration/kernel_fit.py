"""Least squares of the kernel formulas on measured times: one set of parameters for each GPU, engine,
kernel, format.

The logarithm of predicted over measured is squared, softly (outliers count linearly), so that 10 % too
much and 10 % too little weigh the same at every size. The formulas that are fitted are the ones that the
simulator runs."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from sim.cost.kernels import kernels
from sim.cost.kernels.timing import number_format
from sim.inputs.attention_kinds import LatentAttention
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import (
    DecodeParameters,
    GemmParameters,
    KernelParameters,
    MixedParameters,
    MoeParameters,
    PrefillParameters,
    SmallKernelParameters,
)
from sim.reading.measurements import Measurement

Parameters = (
    GemmParameters
    | PrefillParameters
    | DecodeParameters
    | MixedParameters
    | MoeParameters
    | SmallKernelParameters
)

# What is fitted for each kernel: start, lower and upper bound. Times in seconds, fractions of a peak, tokens.
_PREFILL = {
    "floor_s": (12e-6, 1e-7, 2e-4), "hbm_fraction": (0.7, 0.1, 1.5), "flop_fraction": (0.6, 0.1, 1.1),
    "s_per_kv_token": (11e-9, 0.0, 6e-8), "tile_tokens": (250.0, 0.0, 800.0), "overlap": (2.0, 1.0, 8.0),
    "l2_share": (1.0, 0.05, 3.0),
}  # fmt: skip
SEARCHED: dict[str, tuple[type[Parameters], dict[str, tuple[float, float, float]]]] = {
    "gemm": (GemmParameters, {
        "floor_s": (3.5e-6, 1e-7, 4e-5), "hbm_fraction": (0.85, 0.2, 1.2), "flop_fraction": (0.75, 0.1, 1.1),
        "s_per_depth": (0.5e-9, 0.0, 1e-8), "wave_loss": (0.3, 0.0, 1.0), "overlap": (3.0, 1.0, 12.0),
        "throttle": (0.2, 0.0, 2.0), "quantise_s_per_token": (3e-9, 0.0, 5e-8),
        "quantise_passes": (1.0, 0.0, 8.0), "l2_share": (0.05, 0.0005, 1.0),
        "host_s": (8e-5, 0.0, 4e-4),
    }),
    "attention_prefill": (PrefillParameters, _PREFILL),
    "attention_mixed": (MixedParameters, {
        "floor_s": (1e-5, 1e-6, 4e-5), "hbm_fraction": (0.9, 0.2, 1.3), "flop_fraction": (0.5, 0.1, 1.1),
        "s_per_kv_token": (22e-9, 0.0, 8e-8), "tile_tokens": (100.0, 0.0, 800.0),
        "rereading": (0.6, 0.0, 1.2), "overlap": (2.2, 1.0, 8.0), "l2_share": (1.0, 0.1, 8.0),
        "s_per_idle_block": (2e-9, 0.0, 2e-8),
    }),
    "mla_prefill": (PrefillParameters, _PREFILL),
    "attention_decode": (DecodeParameters, {
        "floor_s": (12e-6, 1e-7, 1e-4), "hbm_fraction": (0.9, 0.2, 1.2),
        "s_per_kv_token": (0.15e-9, 0.0, 6e-8),
        "s_per_unshared_kv_token": (0.5e-9, 0.0, 6e-8), "s_per_sequence_head": (5e-9, 0.0, 2e-7),
        "s_per_sm_kv_token": (30e-9, 0.0, 1e-6), "sm_kv_tokens": (1000.0, 10.0, 1e5),
        "split_s": (2e-6, 0.0, 3e-5),
        "l2_share": (0.5, 0.01, 2.0), "l2_time": (0.4, 0.0, 1.0),
    }),
    "mla_decode": (DecodeParameters, {
        "floor_s": (20e-6, 1e-7, 2e-4), "hbm_fraction": (0.8, 0.2, 1.2),
        "s_per_kv_token": (0.3e-9, 0.0, 2e-7),
        "s_per_sequence_head": (50e-9, 0.0, 2e-6), "flop_fraction": (0.8, 0.1, 2.0),
    }),
    "moe": (MoeParameters, {
        "floor_s": (25e-6, 1e-6, 2e-4), "hbm_fraction": (0.85, 0.1, 1.3), "flop_fraction": (0.6, 0.05, 1.2),
        "tile_tokens": (50.0, 0.0, 512.0), "k_half": (200.0, 0.0, 3000.0), "overlap": (2.5, 1.0, 12.0),
        "s_per_pair": (1e-9, 0.0, 5e-8), "s_per_token": (2e-9, 0.0, 1e-7),
        "s_per_expert": (5e-8, 0.0, 3e-6),
    }),
    "elementwise": (SmallKernelParameters, {
        "floor_s": (2.3e-6, 1e-7, 2e-5), "hbm_fraction": (0.8, 0.1, 1.5), "l2_share": (0.5, 0.01, 3.0),
        "l2_time": (0.3, 0.0, 1.0),
    }),
    "sampling": (SmallKernelParameters, {
        "floor_s": (25e-6, 1e-6, 1e-4), "hbm_fraction": (0.9, 0.1, 1.5),
    }),
}  # fmt: skip
QUANTISED_ONLY = ("quantise_s_per_token", "quantise_passes")
# Formats whose product kernels were timed without a CUDA graph: small calls say nothing of the kernel, so
# what only they could tell is kept near that of the other formats.
UNGRAPHED = {
    "fp8_block": {
        "floor_s": (6e-6, 1e-6, 8e-6),
        "hbm_fraction": (0.8, 0.6, 1.0),
        "s_per_depth": (0.8e-9, 0.0, 2e-9),
        "l2_share": (1e-3, 5e-4, 2e-3),
    }
}

# Where a fit starts a second time, for its formula has two ways to be long: kernels that split a sequence
# over SMs wait for each SM's share, those that do not wait for the longest sequence.
SECOND_STARTS: dict[str, dict[str, float]] = {
    "attention_decode": {"s_per_kv_token": 9e-9, "s_per_sm_kv_token": 3e-9},
    "mla_decode": {"s_per_kv_token": 9e-8},
}

# DeepSeek-V3's attention block, the only latent attention in the tables.
MLA = LatentAttention(kv_lora_rank=512, rope_head_dim=64, nope_head_dim=128, v_head_dim=128, q_lora_rank=1536)
MLA_HIDDEN = 7168


def with_parameters(gpu: Gpu, op: str, variant: str, parameters: Parameters) -> Gpu:
    """The GPU with one set of parameters in place."""
    known = gpu.kernels or KernelParameters()
    if op in ("elementwise", "sampling"):
        return gpu.model_copy(update={"kernels": known.model_copy(update={op: parameters})})
    changed = known.model_copy(update={op: {**getattr(known, op), variant: parameters}})
    return gpu.model_copy(update={"kernels": changed})


def predicted_s(gpu: Gpu, measured: Measurement) -> float:
    """Seconds that the formulas give for what was measured, as benchmarks measure: again and again on the
    same data.
    """
    sizes = measured.sizes
    if measured.op in ("mla_decode", "mla_prefill"):
        return _latent_block_s(gpu, measured)
    if measured.op in ("gemm", "attention_decode"):
        return kernels.KERNELS[measured.op](gpu, **sizes, warm=True).total_s
    return kernels.KERNELS[measured.op](gpu, **sizes).total_s


def _latent_block_s(gpu: Gpu, measured: Measurement) -> float:
    """Down- and up-projections, attention and output projection of one rank, with the parts that a layer
    has.
    """
    sizes = measured.sizes
    batch, new, past, heads, dtype = (sizes[name] for name in ("batch", "new", "past", "heads", "gemm_dtype"))
    tokens = batch * new
    if measured.op == "mla_prefill":
        attention = kernels.mla_prefill(gpu, [(new, past)] * batch, heads, MLA, "bf16", sizes["kv_dtype"])
    else:
        attention = kernels.mla_decode(gpu, batch, batch * (new + past), heads, MLA, sizes["kv_dtype"])
    decode = measured.op == "mla_decode"
    return _projections_s(gpu, tokens, heads, dtype, quantised=decode) + attention.total_s


def _projections_s(gpu: Gpu, tokens: int, heads: int, dtype: str, quantised: bool) -> float:
    # Absorbed or expanded, the up-projection of keys and values multiplies with the same weights. Short
    # blocks of 8 bits take no longer than those of 16 bits: norms and attention quantise as they write.
    assert MLA.q_lora_rank is not None
    key = (gpu.name, tokens, heads, dtype, quantised, id(gpu.kernels.gemm) if gpu.kernels else 0)
    seconds = _REMEMBERED.get(key)
    if seconds is None:
        products = (
            (MLA.q_lora_rank + MLA.cached_values, MLA_HIDDEN),
            (heads * MLA.qk_head_dim, MLA.q_lora_rank),
            (heads * (MLA.nope_head_dim + MLA.v_head_dim), MLA.kv_lora_rank),
            (MLA_HIDDEN, heads * MLA.v_head_dim),
        )
        seconds = sum(
            kernels.gemm(gpu, tokens, n, k, dtype, quantised=quantised).total_s for n, k in products
        )
        _REMEMBERED[key] = seconds
    return seconds


_REMEMBERED: dict[tuple[str, int, int, str, bool, int], float] = {}


def worth_fitting(gpu: Gpu, measured: Measurement) -> bool:
    """False for rows that time something else than the kernel would take in a server.

    Decodes above the memory's bandwidth were read from the level-2 cache. vLLM's expert rows with expert
    parallelism walk all pairs, local or not, and so do TRT-LLM's of block-FP8 on RTX PRO 6000. Block-FP8
    experts without expert parallelism on H100 and H200 are faster than memory allows; so are TRT-LLM's of
    NVFP4 on B200 and GB200, which repeat those of two ranks. Block-FP8 products of vLLM, and latent blocks
    in that format, wait for the host."""
    sizes = measured.sizes
    if measured.op == "attention_decode":
        n_bytes = 2 * sizes["kv_tokens"] * sizes["kv_heads"] * sizes["head_dim"]
        n_bytes *= number_format(sizes["kv_dtype"]).weight_bytes
        return bool(n_bytes / measured.seconds < gpu.hbm_bytes_per_s)
    if measured.op == "moe":
        trtllm = (gpu.name, measured.variant) if measured.engine == "trtllm" else None
        if sizes["ep"] > 1 and (measured.engine == "vllm" or trtllm == ("rtx-pro-6000", "fp8_block")):
            return False
        if sizes["ep"] == 1 and trtllm in (("b200-sxm", "nvfp4"), ("gb200", "nvfp4")):
            return False
        hit = (
            kernels.experts_hit(sizes["tokens"], sizes["experts"], sizes["topk"], sizes["routing"])
            / sizes["ep"]
        )
        weights = 3 * hit * sizes["hidden"] * sizes["inter"] / sizes["tp"]
        # Only balanced routing says how many experts are read; others would be a guess of a guess.
        if sizes["routing"] == "balanced":
            return bool(
                weights * number_format(sizes["dtype"]).weight_bytes / measured.seconds < gpu.hbm_bytes_per_s
            )
    return True


def fit(gpu: Gpu, measured: Sequence[Measurement]) -> Parameters:
    """The parameters that put the formula through `measured`, all of one kernel and format. Needs scipy."""
    import numpy as np
    from scipy.optimize import least_squares

    op, variant = measured[0].op, measured[0].variant
    kind, searched = SEARCHED[op]
    left_out = set(QUANTISED_ONLY) if variant in ("bf16", "fp16") else set()
    left_out |= set() if variant in UNGRAPHED else {"host_s"}
    if op == "gemm":
        searched = {**searched, **UNGRAPHED.get(variant, {})}
    names = [name for name in searched if name not in left_out]
    # Seconds and fractions differ by ten orders of magnitude: the search sees multiples of the start.
    start, low, high = (np.array([searched[name][i] for name in names]) for i in range(3))
    scale = np.maximum(start, 1e-12)
    logs = np.array([math.log(one.seconds) for one in measured])

    def residuals(scaled: Any) -> Any:
        parameters = kind.model_construct(
            **{**_defaults(kind), **dict(zip(names, scaled * scale, strict=True))}
        )
        trial = with_parameters(gpu, op, variant, parameters)
        return np.array([math.log(predicted_s(trial, one)) for one in measured]) - logs

    # Where the formula has two ways to be long, the better of two starts is taken: see SECOND_STARTS.
    second = np.array([SECOND_STARTS.get(op, {}).get(name, searched[name][0]) for name in names])
    found = min(
        (
            least_squares(
                residuals,
                begin / scale,
                bounds=(low / scale, high / scale),
                loss="soft_l1",
                f_scale=0.05,
                max_nfev=60,
            )
            for begin in ((start, second) if op in SECOND_STARTS else (start,))
        ),
        key=lambda one: float(one.cost),
    )
    # Four digits, about what the files keep: the errors that are reported are those of what ships.
    fitted = {name: float(f"{value:.4g}") for name, value in zip(names, found.x * scale, strict=True)}
    return kind(**fitted)


@cache
def _defaults(kind: type[Parameters]) -> dict[str, float]:
    zero = {"quantise_s_per_token": 0.0, "quantise_passes": 0.0, "host_s": 0.0}
    return {name: zero.get(name, info.default) for name, info in kind.model_fields.items()}


def fold_of(shape: str, folds: int) -> int:
    """Which fold a curve is held out in: the same on every machine."""
    return zlib.crc32(shape.encode()) % folds


def held_out(gpu: Gpu, measured: Sequence[Measurement], folds: int = 5) -> list[float]:
    """Predictions for each measurement by parameters that saw no point of its shape."""
    predictions = [math.nan] * len(measured)
    for fold in range(folds):
        seen = [one for one in measured if fold_of(one.shape, folds) != fold]
        tested = [i for i, one in enumerate(measured) if fold_of(one.shape, folds) == fold]
        if not tested or len(seen) < 10:
            continue
        trained = with_parameters(gpu, measured[0].op, measured[0].variant, fit(gpu, seen))
        for i in tested:
            predictions[i] = predicted_s(trained, measured[i])
    return predictions
