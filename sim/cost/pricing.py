"""From kernels and collectives to priced ops: seconds, demand on links, and causes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sim.cost.batch import Causes
from sim.cost.collectives.choice import collective
from sim.cost.collectives.demands import Demand
from sim.cost.expert_load import ExpertLoad, expert_load
from sim.cost.kernels.kernels import KernelModel, KernelTiming
from sim.cost.launches import beside_the_one_before, gemm_launches, launches_beside
from sim.cost.network import Network
from sim.cost.program import Op
from sim.cost.shard import Shard
from sim.inputs.model import Model
from sim.inputs.quantities import DTYPE_BYTES

_Asked = tuple[str, float, int]
"""A collective: its name, its bytes, and among how many neighbouring ranks of a group."""


@dataclass(frozen=True, slots=True)
class Priced:
    """An op, the causes of its seconds, and how often an engine without CUDA graphs launches for it."""

    op: Op
    causes: Causes
    launches: int = 1


def seconds_of(ops: Sequence[Priced]) -> float:
    """Seconds of ops one after the other, added in their order: the order is part of the last bit."""
    total = 0.0
    for one in ops:
        total += one.op.seconds
    return total


def causes_of(ops: Sequence[Priced]) -> Causes:
    """The causes of ops one after the other, cause by cause."""
    return (
        Causes(*(sum(values) for values in zip(*(one.causes for one in ops), strict=True)))
        if ops
        else Causes()
    )


def launches_of(ops: Sequence[Priced]) -> int:
    """How often an engine without CUDA graphs launches for these ops."""
    return sum(one.launches for one in ops)


def kernel_causes(timing: KernelTiming) -> Causes:
    """What a kernel waits for: its launch, and then memory or arithmetic, whichever takes longer."""
    busy = timing.total_s - timing.floor_s
    if timing.compute_s >= timing.memory_s:
        return Causes(compute=busy, kernel_latency=timing.floor_s)
    return Causes(memory=busy, kernel_latency=timing.floor_s)


def stripped(demand: Demand, without: frozenset[str]) -> Demand:
    """The demand without its latency, or without its bytes."""
    latency_s = 0.0 if "collective_latency" in without else demand.latency_s
    if "collective_bytes" in without:
        return Demand((), (), latency_s)
    return replace(demand, latency_s=latency_s)


def together(demands: Sequence[Demand]) -> Demand:
    """Transfers that begin and end together: the sum of their bytes, the longest of their latencies."""
    if len(demands) == 1:
        return demands[0]
    amounts: dict[int, float] = {}
    for demand in demands:
        for link, amount in zip(demand.links, demand.n_bytes, strict=True):
            amounts[link] = amounts.get(link, 0.0) + amount
    return Demand(
        tuple(amounts),
        tuple(amounts.values()),
        max(demand.latency_s for demand in demands),
        max(demand.min_flow_s for demand in demands),
        min(demand.efficiency for demand in demands),
        max(demand.aside_s for demand in demands),
    )


class Pricer:
    """Prices the ops of one shard.

    `without` names causes whose cost is taken as nothing; `kernel_model` times the kernels.
    """

    def __init__(
        self, shard: Shard, network: Network, without: frozenset[str], kernel_model: KernelModel
    ) -> None:
        self.shard = shard
        self.kernel_model = kernel_model
        self.network = network
        self.without = without
        self._launches_beside = launches_beside(shard.engine, shard.gpu)
        self.busiest: dict[int, float] = {}  # load of the fullest rank of experts, by tokens
        self._collectives: dict[_Asked, tuple[Priced, ...]] = {}
        self._asked: dict[int, _Asked] = {}  # by the identity of a demand among them

    @cached_property
    def expert_load(self) -> ExpertLoad:
        """What each rank of the stage gets of the tokens, which does not depend on how many there are."""
        shard, model = self.shard, self.shard.model
        routing, topk = shard.engine.expert_routing, model.experts_per_token
        return expert_load(routing, model.experts, len(shard.ranks), topk, model.group_limit)

    def of_shape(self, shape: Model) -> Pricer:
        """The prices of layers of another shape; equal collectives stay one object."""
        if shape is self.shard.model:
            return self
        other = Pricer(self.shard.of_shape(shape), self.network, self.without, self.kernel_model)
        other._collectives, other._asked = self._collectives, self._asked
        return other

    def timing(self, op: str, **sizes: Any) -> KernelTiming:
        """A kernel of this shard's GPU, as the kernel model has it."""
        return self.kernel_model(self.shard.gpu, op, **sizes)

    def within_a_step(self, timing: KernelTiming, launches: int) -> KernelTiming:
        """A kernel as it takes its time behind another one; less its start where kernel latency is taken as
        nothing.
        """
        if "kernel_latency" not in self.without:
            return beside_the_one_before(timing, launches) if self._launches_beside else timing
        return timing._replace(total_s=timing.total_s - timing.floor_s, floor_s=0.0)

    def kernel(self, name: str, timing: KernelTiming, launches: int = 1) -> Priced:
        timing = self.within_a_step(timing, launches)
        return Priced(Op(name, float(timing.total_s)), kernel_causes(timing), launches)

    def gemm(
        self,
        name: str,
        m: int,
        n: int,
        k: int,
        *,
        sustained: bool = False,
        dtype: str = "",
        quantised: bool = False,
    ) -> Priced:
        """A matrix product; `quantised` where the kernel before has left A in the format of the weights."""
        weights = dtype or self.shard.precision.weights
        sizes: dict[str, Any] = {"m": m, "n": n, "k": k, "dtype": weights, "sustained": sustained}
        quantised = quantised or self.shard.precision.activation_scales == "static"
        # TensorRT-LLM's norms write NVFP4 themselves (`AllReduceFusionOp.RESIDUAL_RMS_NORM_QUANT_NVFP4`).
        quantised = quantised or (self.shard.engine.backend == "trtllm" and weights == "nvfp4")
        if quantised and DTYPE_BYTES[weights] < 2:
            sizes["quantised"] = True
        return self.kernel(name, self.timing("gemm", **sizes), gemm_launches(weights, quantised))

    def elementwise(self, name: str, elements: float) -> Priced:
        """A kernel that reads and writes `elements` activations in all."""
        n_bytes = elements * DTYPE_BYTES[self.shard.precision.activations]
        return self.kernel(name, self.timing("elementwise", n_bytes=n_bytes))

    def norm(self, tokens: int) -> Priced:
        """The norm of tokens' hidden states, which also adds the residual. Behind an all-reduce of
        TensorRT-LLM's own it is a part of that kernel (`AllReduceFusionOp.RESIDUAL_RMS_NORM`): its bytes
        count, its start does not.
        """
        n_bytes = 4 * tokens * self.shard.model.hidden * DTYPE_BYTES[self.shard.precision.activations]
        timing = self.timing("elementwise", n_bytes=n_bytes)
        if not self._norm_rides_along(tokens):
            return self.kernel("norm", timing)
        busy_s = timing.total_s - timing.floor_s
        return self.kernel("norm", timing._replace(total_s=busy_s, floor_s=0.0), launches=0)

    def _norm_rides_along(self, tokens: int) -> bool:
        shard, model = self.shard, self.shard.model
        if shard.tensor_parallel_size == 1 or shard.engine.collectives_library != "trtllm":
            return False
        if model.qk_norm is not None and not model.experts:
            return False  # dense Qwen3 calls its norms by themselves (modeling_qwen3.py)
        n_bytes = tokens * shard.model.hidden * DTYPE_BYTES[shard.precision.activations]
        before = collective(self.network, "all_reduce", n_bytes, shard.groups[0], library="trtllm")
        return before.library == "trtllm"

    def host(self, name: str, seconds: float) -> tuple[Priced, ...]:
        """Work of the processor for which the GPUs wait; none where it takes no time."""
        if not seconds or "host" in self.without:
            return ()
        return (Priced(Op(name, seconds), Causes(host=seconds), launches=0),)

    def transfer(self, name: str, demand: Demand) -> Priced:
        """A demand as an op of the time that it takes alone."""
        demand = stripped(demand, self.without)
        bytes_s = demand.flow_s(self.network.capacity)
        causes = Causes(collective_latency=demand.latency_s, collective_bytes=bytes_s)
        return Priced(Op(name, demand.latency_s + bytes_s, demand), causes)

    def collective(self, op: str, n_bytes: float) -> tuple[Priced, ...]:
        """A collective in every tensor-parallel group at once; nothing on a single rank. Equal ones are one
        object, by which programs count how often a demand comes.
        """
        return self._among(op, n_bytes, self.shard.tensor_parallel_size)

    def among_context_ranks(self, op: str, n_bytes: float) -> tuple[Priced, ...]:
        """A collective among ranks that share the KV cache of texts, in all such groups at once."""
        return self._among(op, n_bytes, self.shard.engine.decode_context_parallel_size)

    def _among(self, op: str, n_bytes: float, size: int) -> tuple[Priced, ...]:
        """A collective among so many neighbouring ranks, in all such groups at once."""
        if size == 1:
            return ()
        priced = self._collectives.get((op, n_bytes, size))
        if priced is None:
            library = self.shard.engine.collectives_library
            groups = [group[i : i + size] for group in self.shard.groups for i in range(0, len(group), size)]
            demands = [
                collective(self.network, op, n_bytes, group, library=library).demand for group in groups
            ]
            one = self.transfer(op, together(demands))
            priced = self._collectives[op, n_bytes, size] = (one,)
            self._asked[id(one.op.demand)] = op, n_bytes, size
        return priced

    def own_demand(self, demand: Demand, other: Pricer) -> Demand | None:
        """What a collective that `other` has priced is among the ranks here; None where it takes another
        time, or is no collective of a group.
        """
        asked = other._asked.get(id(demand))
        if asked is None:
            return None
        (theirs,), (own,) = other._among(*asked), self._among(*asked)
        assert own.op.demand is not None
        is_equal = (own.op.seconds, own.causes, own.op.demand.latency_s) == (
            theirs.op.seconds, theirs.causes, demand.latency_s
        )  # fmt: skip
        return own.op.demand if is_equal else None

    def all_reduce(self, tokens: int) -> tuple[Priced, ...]:
        """Of the hidden states of `tokens` tokens of each group."""
        shard = self.shard
        return self.collective(
            "all_reduce", tokens * shard.model.hidden * DTYPE_BYTES[shard.precision.activations]
        )
