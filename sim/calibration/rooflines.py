"""The plain roofline of each kernel, beside which every fit stands: the larger of FLOPs over peak and bytes
over bandwidth, both of the datasheet.

Bytes are those that must move once: weights, activations in and out, the KV cache that is read. No floor, no
tiles, no cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.calibration.kernel_fit import MLA, MLA_HIDDEN
from sim.cost.kernels import kernels
from sim.cost.kernels.timing import number_format, peak_flops
from sim.inputs.hardware import Gpu
from sim.reading.measurements import Measurement


def roofline_s(gpu: Gpu, measured: Measurement) -> float:
    """Seconds of a measured kernel by the datasheet alone."""
    return _ROOFLINES[measured.op](gpu, measured.sizes)


def _larger(gpu: Gpu, dtype: str, flops: float, n_bytes: float) -> float:
    return max(flops / peak_flops(gpu, dtype), n_bytes / gpu.hbm_bytes_per_s)


def _gemm_roofline(gpu: Gpu, sizes: Any) -> float:
    m, n, k = sizes["m"], sizes["n"], sizes["k"]
    weight, activation, _ = number_format(sizes["dtype"])
    return _larger(gpu, sizes["dtype"], 2.0 * m * n * k, weight * n * k + activation * m * k + 2 * m * n)


def _prefill_roofline(gpu: Gpu, sizes: Any) -> float:
    width, kv_width = sizes["heads"] * sizes["head_dim"], sizes["kv_heads"] * sizes["head_dim"]
    pairs = sum(new * (past + new / 2) for new, past in sizes["chunks"])
    new = sum(new for new, _ in sizes["chunks"])
    return _larger(gpu, sizes["dtype"], 4 * pairs * width, 4 * new * (width + kv_width))


def _decode_roofline(gpu: Gpu, sizes: Any) -> float:
    cached = sizes["kv_tokens"] * sizes["head_dim"]
    n_bytes = 2 * cached * sizes["kv_heads"] * number_format(sizes["kv_dtype"]).weight_bytes
    return _larger(gpu, "bf16", 4 * cached * sizes["heads"], n_bytes)


def _latent_roofline(gpu: Gpu, sizes: Any) -> float:
    batch, new, past, heads = sizes["batch"], sizes["new"], sizes["past"], sizes["heads"]
    dtype = sizes["gemm_dtype"]
    weights = MLA.parameters(MLA_HIDDEN, heads)
    flops = 2.0 * batch * new * weights
    decode = new == 1 and past > 0
    width = heads * (2 * MLA.kv_lora_rank + MLA.rope_head_dim if decode else MLA.qk_head_dim + MLA.v_head_dim)
    attention = 2.0 * batch * new * (past + new / 2) * width
    cached = batch * (past + new) * MLA.cached_values * number_format(sizes["kv_dtype"]).weight_bytes
    n_bytes = weights * number_format(dtype).weight_bytes + cached
    compute_s: float = flops / peak_flops(gpu, dtype) + attention / peak_flops(gpu, "bf16")
    return float(max(compute_s, n_bytes / gpu.hbm_bytes_per_s))


def _moe_roofline(gpu: Gpu, sizes: Any) -> float:
    routing = sizes.get("routing", "uniform")
    hit = kernels.experts_hit(sizes["tokens"], sizes["experts"], sizes["topk"], routing) / sizes["ep"]
    one = 3.0 * sizes["hidden"] * sizes["inter"] / sizes["tp"]
    pairs = sizes["tokens"] * sizes["topk"] / sizes["ep"]
    return _larger(
        gpu, sizes["dtype"], 2 * pairs * one, hit * one * number_format(sizes["dtype"]).weight_bytes
    )


_ROOFLINES: dict[str, Callable[[Gpu, Any], float]] = {
    "gemm": _gemm_roofline,
    "attention_prefill": _prefill_roofline,
    "attention_decode": _decode_roofline,
    "attention_mixed": lambda gpu, sizes: _prefill_roofline(gpu, sizes) + _decode_roofline(gpu, sizes),
    "mla_prefill": _latent_roofline,
    "mla_decode": _latent_roofline,
    "moe": _moe_roofline,
    "elementwise": lambda gpu, sizes: float(sizes["n_bytes"] / gpu.hbm_bytes_per_s),
    "sampling": lambda gpu, sizes: float(8.0 * sizes["sequences"] * sizes["vocab"] / gpu.hbm_bytes_per_s),
}
