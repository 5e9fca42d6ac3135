"""How big should a scale-up domain be? Closed forms for one layer spread over Y GPUs that one switch joins.

The argument is a talk's: an MLP layer of a dense model, tensor-parallel over Y GPUs, must wait for its
weights to be read (2DF/(Y Mem), shorter with more GPUs) and for its all-reduce (2BD/Net, the same for any Y).
Beyond the Y at which the two are equal more GPUs buy little. `largest_domain` has it with the latency that
the talk leaves out, `layer_seconds` is the general form with attention, KV cache, fixed kernel time and the
bytes of real algorithms, and the rest is what a mixture of experts and spare GPUs add. D hidden size, F
intermediate size, B batch, bytes in bytes, rates per second per GPU and direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import comb, expm1, log1p
from typing import Literal

from sim.theory.arguments import bounded, check


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peak rates of one GPU and its share of the network."""

    flop_per_s: float
    hbm_bytes_per_s: float
    hbm_bytes: float
    link_bytes_per_s: float

    def __post_init__(self) -> None:
        check("Gpu", {field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def flop_per_hbm_byte(self) -> float:
        return self.flop_per_s / self.hbm_bytes_per_s

    @property
    def hbm_byte_per_link_byte(self) -> float:
        return self.hbm_bytes_per_s / self.link_bytes_per_s


BLACKWELL = Gpu(flop_per_s=1e16, hbm_bytes_per_s=8e12, hbm_bytes=192e9, link_bytes_per_s=9e11)
"""The round figures of the talk: dense FP4, HBM3e, NVLink 5 per direction (datasheet, GB200)."""


@dataclass(frozen=True, slots=True)
class Dense:
    """The sizes of a dense model that matter here."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    def __post_init__(self) -> None:
        check("Dense", {field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def attention_parameters(self) -> int:
        """Of one layer: queries and output 2DNH, keys and values 2DKH."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    @property
    def mlp_parameters(self) -> int:
        """Of one layer: gate, up and down, 3DF."""
        return 3 * self.hidden * self.intermediate

    @property
    def layer_parameters(self) -> int:
        return self.attention_parameters + self.mlp_parameters

    @property
    def embedding_parameters(self) -> int:
        """In and out, 2VD."""
        return 2 * self.vocabulary * self.hidden

    def kv_bytes_per_token(self, bytes_each: float) -> float:
        """All layers: keys and values, 2KH each."""
        return self.layers * 2 * self.kv_heads * self.head_dim * bytes_each


LLAMA_3_70B = Dense(80, 8192, 28672, 64, 8, 128, 128256)
"""From the model's config.json."""


# ---- the talk: one two-matrix MLP layer, FP8 weights


@bounded
def mlp_compute_s(batch: int, hidden: int, intermediate: int, gpu: Gpu, domain: int = 1) -> float:
    """Two matrix products of batch x D x F, 2 flop each: 4BDF/(Y flops).

    The talk's figure for B = 16, 0.37 us, is BDF/flops: its own formula gives four times that.

    Example:
        >>> round(mlp_compute_s(16, 8192, 28672, BLACKWELL) * 1e6, 2)
        1.5
    """
    return 4 * batch * hidden * intermediate / (gpu.flop_per_s * domain)


@bounded
def mlp_memory_s(hidden: int, intermediate: int, gpu: Gpu, domain: int = 1, bytes_each: float = 1.0) -> float:
    """Both matrices read once: 2DF/(Y Mem). Llama's MLP has three (`Dense.mlp_parameters`), half as much
    again.

    Example:
        >>> round(mlp_memory_s(8192, 28672, BLACKWELL) * 1e6, 1)
        58.7
    """
    return 2 * hidden * intermediate * bytes_each / (gpu.hbm_bytes_per_s * domain)


@bounded
def mlp_network_s(batch: int, hidden: int, gpu: Gpu, bytes_each: float = 1.0) -> float:
    """The all-reduce of the result by a ring over many GPUs: 2BD/Net, whatever their number.

    The talk's figure for B = 16, 0.14 us, is BD/Net: its own formula gives twice that.

    Example:
        >>> round(mlp_network_s(16, 8192, BLACKWELL) * 1e6, 2)
        0.29
    """
    return 2 * batch * hidden * bytes_each / gpu.link_bytes_per_s


@bounded
def largest_domain(
    batch: int, hidden: int, intermediate: int, gpu: Gpu, latency_s: float = 0.0, bytes_each: float = 1.0
) -> float:
    """The number of GPUs at which reading the weights takes as long as the all-reduce: (2DF/Mem)/(alpha +
    2BD/Net).

    Without latency it is the talk's F Net/(B Mem), and D falls out. Stops at: no compute, no attention, one
    all-reduce.

    Example: the talk's 200 at B = 16 and 25 at B = 128, and what a latency of 1 us leaves of them.
        >>> [round(largest_domain(b, 8192, 28672, BLACKWELL, a), 1) for a in (0, 1e-6) for b in (16, 128)]
        [201.6, 25.2, 45.5, 17.6]
    """
    memory_s = mlp_memory_s(hidden, intermediate, gpu, 1, bytes_each)
    return memory_s / (latency_s + mlp_network_s(batch, hidden, gpu, bytes_each))


@bounded
def square_product_intensity(n: float, bytes_each: float = 0.5) -> float:
    """Flop per byte of an n x n by n x n product, each matrix moved once: 2n/(3 bytes). FP4: 4n/3.

    Example: the size from which such a product is bound by compute.
        >>> BLACKWELL.flop_per_hbm_byte / square_product_intensity(1.0)
        937.5
    """
    return 2.0 * n / (3.0 * bytes_each)


@bounded
def matrix_vector_intensity(n: float, bytes_each: float = 0.5) -> float:
    """Flop per byte of an n x n matrix by a vector: towards 2/bytes for any large n. FP4: 4.

    Example:
        >>> round(matrix_vector_intensity(8192), 2)
        4.0
    """
    return 2.0 * n * n / (bytes_each * (n * n + 2.0 * n))


@bounded
def tokens_that_fit(hbm_bytes: float, weight_bytes: float, kv_bytes_per_token: float) -> float:
    """KV tokens in what the weights leave; nothing for activations.

    Example: Llama-3-70B with FP8 weights and cache on one GPU of 192 GB, the talk's 750 K.
        >>> round(tokens_that_fit(192e9, 70e9, LLAMA_3_70B.kv_bytes_per_token(1)))
        744629
    """
    if weight_bytes > hbm_bytes:
        raise ValueError(
            f"tokens_that_fit: weight_bytes = {weight_bytes}: must be at most hbm_bytes = {hbm_bytes}"
        )
    return (hbm_bytes - weight_bytes) / kv_bytes_per_token


# ---- the general form


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the general form takes beside sizes and peaks.

    The defaults are of decode on GB200: efficiency of HBM from kernel timings (fitted), of NVLink as NCCL
    plans it (0.80), all-reduce latency of a one-shot kernel on a switch (assumed, 3 us), 34 us of kernel time
    per layer that no bandwidth shortens (assumed from small-kernel floors).
    """

    weight_bytes_each: float = 1.0
    kv_bytes_each: float = 1.0
    activation_bytes_each: float = 2.0
    hbm_efficiency: float = 0.86
    flop_efficiency: float = 0.65
    link_efficiency: float = 0.8
    latency_s: float = 3e-6
    fixed_s: float = 34e-6
    all_reduces: int = 2
    algorithm: Literal["ring", "in-switch", "one-shot"] = "in-switch"

    def __post_init__(self) -> None:
        check("Assumptions", {field.name: getattr(self, field.name) for field in fields(self)})


@bounded
def all_reduce_bytes(
    n_bytes: float, domain: int, algorithm: Literal["ring", "in-switch", "one-shot"]
) -> float:
    """Bytes that each GPU sends (and receives): ring 2S(Y-1)/Y, in-switch reduction S(1 + 1/Y), one-shot
    S(Y-1).

    Example:
        >>> [all_reduce_bytes(64.0, 4, algorithm) for algorithm in ("ring", "in-switch", "one-shot")]
        [96.0, 80.0, 192.0]
    """
    if domain == 1:
        return 0.0
    factor = {"ring": 2.0 * (domain - 1) / domain, "in-switch": 1.0 + 1.0 / domain, "one-shot": domain - 1.0}
    if algorithm not in factor:
        raise ValueError(f"all_reduce_bytes: algorithm = {algorithm!r}: must be one of {', '.join(factor)}")
    return n_bytes * factor[algorithm]


@bounded
def layer_seconds(
    model: Dense, gpu: Gpu, batch: int, context: int, domain: int, assume: Assumptions | None = None
) -> Mapping[str, float]:
    """One layer's decode step by what it waits for: weights, kv_cache, all_reduce, fixed; their sum is the
    layer.

    weights = max(W/(Y Mem eb), 2BP/(Y flops ec)); kv_cache = B S kv/(min(Y, K) Mem eb), for a head cannot be
    split; all_reduce = n (alpha + bytes/(Net en)).
    """
    assume = assume or Assumptions()
    hbm = gpu.hbm_bytes_per_s * assume.hbm_efficiency
    parameters = model.layer_parameters
    read_s = parameters * assume.weight_bytes_each / (domain * hbm)
    compute_s = 2 * batch * parameters / (domain * gpu.flop_per_s * assume.flop_efficiency)
    kv_bytes = batch * context * model.kv_bytes_per_token(assume.kv_bytes_each) / model.layers
    moved = all_reduce_bytes(batch * model.hidden * assume.activation_bytes_each, domain, assume.algorithm)
    wait_s = assume.latency_s + moved / (gpu.link_bytes_per_s * assume.link_efficiency)
    return {
        "weights": max(read_s, compute_s),
        "kv_cache": kv_bytes / (min(domain, model.kv_heads) * hbm),
        "all_reduce": assume.all_reduces * wait_s if domain > 1 else 0.0,
        "fixed": assume.fixed_s,
    }


@bounded
def tokens_per_s(
    model: Dense,
    gpu: Gpu,
    batch: int,
    context: int,
    domain: int,
    assume: Assumptions | None = None,
    head_s: float = 0.0,
) -> tuple[float, float]:
    """Tokens per second of one user, and of one GPU, when `batch` users decode on `domain` GPUs.

    Example: Llama-3-70B, 4096 tokens of context, 16 users on 1, 8 and 72 GPUs.
        >>> gpu = Gpu(5e15, 8e12, 192e9, 9e11)
        >>> [round(tokens_per_s(LLAMA_3_70B, gpu, 16, 4096, domain)[0]) for domain in (1, 8, 72)]
        [70, 213, 278]
    """
    step_s = model.layers * sum(layer_seconds(model, gpu, batch, context, domain, assume).values()) + head_s
    return 1.0 / step_s, batch / (step_s * domain)


# ---- mixtures of experts over Y ranks


@bounded
def distinct_experts(experts: int, chosen: int, tokens: int) -> float:
    """How many of E experts at least one of T tokens chooses, each k at random: E(1 - (1 - k/E)^T).

    Example:
        >>> [round(distinct_experts(256, 8, tokens), 1) for tokens in (1, 4, 16, 64, 128)]
        [8.0, 30.5, 102.0, 222.4, 251.6]
    """
    _chosen_are_there(chosen, experts)
    if chosen == experts:
        return float(experts)
    return -experts * expm1(tokens * log1p(-chosen / experts))


@bounded
def distinct_ranks(experts: int, chosen: int, ranks: int) -> float:
    """Over how many of Y ranks the k experts of one token lie: Y(1 - C(E - E/Y, k)/C(E, k)), E/Y experts to a
    rank.

    The bytes of an all-to-all go with it, (Y - 1)/Y of it to other ranks.

    Example:
        >>> [round(distinct_ranks(256, 8, ranks), 2) for ranks in (8, 16, 32, 64)]
        [5.29, 6.52, 7.27, 7.68]
    """
    _chosen_are_there(chosen, experts)
    if experts % ranks:
        raise ValueError(f"{experts} experts do not divide over {ranks} ranks")
    return ranks * (1.0 - comb(experts - experts // ranks, chosen) / comb(experts, chosen))


def _chosen_are_there(chosen: int, experts: int) -> None:
    if chosen > experts:
        raise ValueError(f"chosen = {chosen}: must be at most experts = {experts}")


@bounded
def expert_bytes_per_gpu(parameters: float, ranks: int, bytes_each: float) -> float:
    """Routed weights that each of `ranks` GPUs holds."""
    return parameters * bytes_each / ranks


# ---- spare GPUs


@bounded
def at_least_up(needed: int, units: int, unavailability: float) -> float:
    """The probability that at least `needed` of `units` are up, each down with probability q on its own
    (binomial).

    A unit is what fails together: 64 of 72 GPUs on their own, or 16 of 18 trays of four.

    Example:
        >>> [round(at_least_up(64, 72, q), 6) for q in (0.02, 0.05)], round(at_least_up(16, 18, 0.02), 4)
        ([0.999986, 0.990384], 0.9948)
    """
    if needed > units:
        return 0.0
    q = unavailability
    return sum(
        comb(units, down) * q**down * (1.0 - q) ** (units - down) for down in range(units - needed + 1)
    )
