"""The cost of one forward step on one pipeline stage: model + shard + GPU + network -> ops, seconds and
causes.

A step is: host work, the ops before the layers (embedding), `layers` times the ops of a layer, and on the
last stage the output head. Only attention depends on the context; everything else depends on the number of
tokens alone and is remembered. The seconds of many consecutive decode steps, whose contexts grow by one token
each, are therefore one vectorised expression, equal to the last bit to the step-by-step one.

Sharding is Megatron's: QKV and gate/up by columns, attention output and down by rows, an all-reduce after
each pair (Shoeybi et al., arXiv 1909.08053); kv heads are replicated when there are more ranks than heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sim.cost import kernels
from sim.cost.batch import Batch, Causes
from sim.cost.collectives import CollectiveTiming, collective
from sim.cost.demands import Demand
from sim.cost.kernels import KernelTiming
from sim.cost.network import Network
from sim.cost.program import Op, Program, Traffic
from sim.cost.steps import FloatArray
from sim.inputs.engine import Engine, Precision
from sim.inputs.hardware import Gpu
from sim.inputs.model import Model
from sim.inputs.quantities import DTYPE_BYTES

Seconds = float | FloatArray

# Launch cost on the host per layer (PHYSICS of CUDA graphs: one replay launches a whole decode step; a mixed
# batch replays one piece a layer, 25-40 us each; without graphs every kernel costs 5-10 us of processor
# time).
PIECEWISE_LAUNCH_S = 32e-6  # assumed: middle of 25-40 us a piece
EAGER_LAUNCH_S = 7e-6  # assumed: middle of 5-10 us a kernel


@dataclass(frozen=True, slots=True)
class _Costed:
    op: Op
    causes: Causes


@dataclass(frozen=True, slots=True)
class _LayerKind:
    """`repeat` equal layers: ops before and after attention, with their sums."""

    repeat: int
    before: tuple[_Costed, ...]
    after: tuple[_Costed, ...]
    before_s: float
    after_s: float
    launch_s: float
    causes: Causes


@dataclass(frozen=True, slots=True)
class _Template:
    """All of a step but its attention, for one number of tokens."""

    host: tuple[_Costed, ...]
    head: tuple[_Costed, ...]
    layers: tuple[_LayerKind, ...]
    tail: tuple[_Costed, ...]
    host_s: float
    head_s: float
    tail_s: float
    fixed: Causes


def _seconds(costed: Sequence[_Costed]) -> float:
    total = 0.0
    for one in costed:
        total += one.op.seconds
    return total


def _sum(costed: Sequence[_Costed]) -> Causes:
    return (
        Causes(*(sum(values) for values in zip(*(one.causes for one in costed), strict=True)))
        if costed
        else Causes()
    )


def _kernel_causes(timing: KernelTiming) -> Causes:
    busy = timing.total_s - timing.floor_s
    if timing.compute_s >= timing.memory_s:
        return Causes(compute=busy, kernel_latency=timing.floor_s)
    return Causes(memory=busy, kernel_latency=timing.floor_s)


def _stripped(demand: Demand, without: frozenset[str]) -> Demand:
    """The demand without its latency, or without its bytes."""
    latency_s = 0.0 if "collective_latency" in without else demand.latency_s
    if "collective_bytes" in without:
        return Demand((), (), latency_s)
    return replace(demand, latency_s=latency_s)


@dataclass(frozen=True)
class Shard:
    """One pipeline stage of one replica: which layers, on which GPUs (tensor-parallel ranks in order)."""

    model: Model
    engine: Engine
    precision: Precision
    gpu: Gpu
    ranks: tuple[str, ...]
    first_layer: int
    layers: int

    @property
    def is_first(self) -> bool:
        return self.first_layer == 0

    @property
    def is_last(self) -> bool:
        return self.first_layer + self.layers == self.model.layers

    @property
    def tensor_parallel_size(self) -> int:
        return len(self.ranks)

    @property
    def dense_layers(self) -> int:
        """Layers of this stage without experts."""
        if not self.model.is_moe:
            return self.layers
        return max(0, min(self.layers, self.model.dense_layers - self.first_layer))


class StageCost:
    """Prices the steps of one stage. Pure: no clock, no state but remembered prices.

    In a step with prefill all products run at their `sustained` pace: layer after layer of busy tensor cores
    brings a GPU to its power limit, where benchmarks of one kernel at a time find it cool. Decode steps wait
    for memory, their tensor cores mostly idle, and keep the pace of the single kernel. So would a decode of
    many hundreds that is bound by arithmetic, which is then too quick by what its GPU loses when hot.
    """

    def __init__(self, shard: Shard, network: Network, without: frozenset[str] = frozenset()) -> None:
        """`without`: causes whose cost is taken as nothing, for the question what they cost in all."""
        self.shard = shard
        self.without = without
        self.network = network
        engine = shard.engine
        self._templates: dict[tuple[int, int, bool], _Template] = {}
        self._traffic: dict[tuple[int, int, bool], Traffic] = {}
        self._capture = _capture_sizes(engine)
        self._heads = -(-shard.model.heads // shard.tensor_parallel_size)
        self._kv_heads = -(-shard.model.kv_heads // shard.tensor_parallel_size)

    # ---- public

    def step(self, batch: Batch) -> tuple[float, Causes]:
        """Seconds of one step alone, and their causes."""
        template = self._template(batch)
        attention = self._attention(batch, batch.decode_kv_tokens)
        seconds = float(self._total(template, attention.total_s))
        return seconds, self._causes(template, attention, 1, seconds)

    def decode_steps(self, batch: Batch, steps: int) -> tuple[FloatArray, Callable[[int], Causes]]:
        """Seconds of `steps` consecutive decode steps of one batch, shape [steps], and the causes of the
        first n of them.
        """
        template = self._template(batch)
        growth = batch.decodes * batch.decode_growth
        kv_tokens = batch.decode_kv_tokens + growth * np.arange(steps, dtype=np.float64)
        attention = self._attention(batch, kv_tokens)
        seconds = np.asarray(self._total(template, attention.total_s), dtype=np.float64)
        if seconds.shape != kv_tokens.shape:
            seconds = np.full(kv_tokens.shape, float(seconds))

        def causes(n: int) -> Causes:
            parts = (_first(part, n) for part in attention)
            return self._causes(template, KernelTiming(*parts), n, float(seconds[:n].sum()))

        return seconds, causes

    def program(self, batch: Batch) -> Program:
        """The ops of one step; `program.total_s` equals `step(batch)[0]` to the last bit."""
        template = self._template(batch)
        attention = self._attention(batch, batch.decode_kv_tokens)
        attention_op = Op("attention", float(attention.total_s))
        blocks: list[tuple[tuple[Op, ...], int, float]] = []
        for part, seconds in ((template.host, template.host_s), (template.head, template.head_s)):
            blocks.append((tuple(one.op for one in part), 1, seconds))
        for kind in template.layers:
            period = float(_layer_s(kind, attention.total_s))
            ops = [*(one.op for one in kind.before), attention_op, *(one.op for one in kind.after)]
            slack = period - sum(op.seconds for op in ops)
            if slack > 1e-12:
                ops.append(Op("wait for launch", slack))
            blocks.append((tuple(ops), kind.repeat, period))
        blocks.append((tuple(one.op for one in template.tail), 1, template.tail_s))
        return Program(blocks)

    def traffic(self, batch: Batch) -> Traffic:
        """What one step puts on each link; its keys are the links the stage uses. Independent of the
        context.
        """
        key = self._key(batch)
        traffic = self._traffic.get(key)
        if traffic is None:
            traffic = self._traffic[key] = self.program(batch).traffic()
        return traffic

    # ---- arithmetic shared by one step, many steps and the program

    @staticmethod
    def _total(template: _Template, attention_s: Seconds) -> Seconds:
        total: Seconds = 0.0
        for seconds in (template.host_s, template.head_s):
            if seconds:
                total = total + seconds
        for kind in template.layers:
            total = total + kind.repeat * _layer_s(kind, attention_s)
        if template.tail_s:
            total = total + template.tail_s
        return total

    @staticmethod
    def _causes(template: _Template, attention: KernelTiming, steps: int, seconds: float) -> Causes:
        """Causes of `steps` steps of `seconds` in total, whose attention timings are sums over these
        steps.
        """
        causes = [steps * cause for cause in template.fixed]
        per_layer = _kernel_causes(attention)
        for kind in template.layers:
            for i, (fixed, grown) in enumerate(zip(kind.causes, per_layer, strict=True)):
                causes[i] += kind.repeat * (steps * fixed + grown)
        if any(kind.launch_s for kind in template.layers):  # kernels that waited for the host to launch them
            causes[-1] += seconds - sum(causes)
        return Causes(*causes)

    def _attention(self, batch: Batch, decode_kv_tokens: float | FloatArray) -> KernelTiming:
        """One layer's attention over the whole batch; fields are arrays when `decode_kv_tokens` is one."""
        shard, model = self.shard, self.shard.model
        gpu, dtype, kv_dtype = shard.gpu, shard.precision.activations, shard.precision.kv_cache
        parts: list[KernelTiming] = []
        if batch.chunks:
            if model.mla is not None:
                parts.append(
                    kernels.mla_prefill(
                        gpu, batch.chunks, self._heads, model.mla, dtype, kv_dtype, sustained=True
                    )
                )
            else:
                parts.append(
                    kernels.attention_prefill(
                        gpu,
                        batch.chunks,
                        self._heads,
                        self._kv_heads,
                        model.head_dim,
                        dtype,
                        kv_dtype,
                        sustained=True,
                    )
                )
        if batch.decodes:
            if model.mla is not None:
                parts.append(
                    kernels.mla_decode(gpu, batch.decodes, decode_kv_tokens, self._heads, model.mla, kv_dtype)
                )
            else:
                parts.append(
                    kernels.attention_decode(
                        gpu,
                        batch.decodes,
                        decode_kv_tokens,
                        self._heads,
                        self._kv_heads,
                        model.head_dim,
                        kv_dtype,
                    )
                )
        if len(parts) == 1:
            return self._without_floor(parts[0])
        return self._without_floor(KernelTiming(*(sum(values) for values in zip(*parts, strict=True))))

    # ---- what depends on the number of tokens alone

    def _template(self, batch: Batch) -> _Template:
        key = self._key(batch)
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = self._price(*key)
        return template

    def _key(self, batch: Batch) -> tuple[int, int, bool]:
        """What the template of a batch depends on."""
        return self._padded(batch.tokens), batch.sampled, bool(batch.chunks)

    def _padded(self, tokens: int) -> int:
        """Tokens as the captured graph computes them: the next captured size, or as they are beyond the
        largest.
        """
        if not self._capture or tokens > self._capture[-1]:
            return tokens
        return next(size for size in self._capture if size >= tokens)

    def _price(self, tokens: int, sampled: int, has_prefill: bool) -> _Template:
        shard = self.shard
        dense = shard.dense_layers
        layers = []
        for repeat, is_moe in ((dense, False), (shard.layers - dense, True)):
            if repeat:
                layers.append(self._layer(repeat, tokens, is_moe, has_prefill))
        host = self._host(sampled)
        head = self._head(tokens) if shard.is_first else ()
        tail = self._tail(sampled) if shard.is_last else ()
        fixed = Causes(*(a + b + c for a, b, c in zip(_sum(host), _sum(head), _sum(tail), strict=True)))
        return _Template(
            host, head, tuple(layers), tail, _seconds(host), _seconds(head), _seconds(tail), fixed
        )

    def _host(self, sequences: int) -> tuple[_Costed, ...]:
        """Host work that the GPUs of this stage wait for."""
        engine, host = self.shard.engine, self.shard.engine.host
        if "host" in self.without:
            return ()
        if engine.schedules_ahead:
            seconds = host.async_step_s if self.shard.is_first else 0.0
        else:
            seconds = host.step_s + host.sequence_s * sequences if self.shard.is_first else host.stage_s
        return (_Costed(Op("host", seconds), Causes(host=seconds)),) if seconds else ()

    def _layer(self, repeat: int, tokens: int, is_moe: bool, has_prefill: bool) -> _LayerKind:
        before, after = self._attention_block(tokens, has_prefill)
        mlp = self._experts if is_moe else self._mlp
        after = (*after, *mlp(tokens, has_prefill))
        causes = _sum((*before, *after))
        kernel_count = sum(one.op.demand is None for one in (*before, *after)) + 1
        launch_s = self._launch_s(tokens, has_prefill, kernel_count)
        return _LayerKind(repeat, before, after, _seconds(before), _seconds(after), launch_s, causes)

    def _launch_s(self, tokens: int, has_prefill: bool, kernel_count: int) -> float:
        if "host" in self.without:
            return 0.0
        captured = bool(self._capture) and tokens <= self._capture[-1]
        if not captured:
            return kernel_count * EAGER_LAUNCH_S
        return PIECEWISE_LAUNCH_S if has_prefill else 0.0

    def _attention_block(
        self, tokens: int, sustained: bool
    ) -> tuple[tuple[_Costed, ...], tuple[_Costed, ...]]:
        shard, model = self.shard, self.shard.model
        hidden, heads, kv_heads = model.hidden, self._heads, self._kv_heads
        gemm = partial(self._gemm, sustained=sustained)
        norm = self._elementwise("norm", 4 * tokens * hidden)
        if model.mla is not None:
            mla = model.mla
            query_width = heads * (mla.nope_head_dim + mla.rope_head_dim)
            down = (mla.q_lora_rank or 0) + mla.kv_lora_rank + mla.rope_head_dim
            before = [norm, gemm("qkv_down", tokens, down, hidden)]
            if mla.q_lora_rank:
                before.append(gemm("q_up", tokens, query_width, mla.q_lora_rank))
            else:
                before.append(gemm("q", tokens, query_width, hidden))
            before.append(self._elementwise("rope", 2 * tokens * heads * mla.rope_head_dim))
            absorbed = heads * (mla.nope_head_dim + mla.v_head_dim)
            after = [
                gemm("kv_up", tokens, absorbed, mla.kv_lora_rank),
                gemm("o_proj", tokens, hidden, heads * mla.v_head_dim),
            ]
        else:
            width = (heads + 2 * kv_heads) * model.head_dim
            before = [
                norm,
                gemm("qkv_proj", tokens, width, hidden),
                self._elementwise("rope", 2 * tokens * (heads + kv_heads) * model.head_dim),
            ]
            after = [gemm("o_proj", tokens, hidden, heads * model.head_dim)]
        after += self._all_reduce(tokens)
        assert shard.layers > 0
        return tuple(before), tuple(after)

    def _mlp(self, tokens: int, sustained: bool) -> tuple[_Costed, ...]:
        model, ranks = self.shard.model, self.shard.tensor_parallel_size
        width = -(-model.intermediate // ranks)
        return (
            self._elementwise("norm", 4 * tokens * model.hidden),
            self._gemm("gate_up_proj", tokens, 2 * width, model.hidden, sustained=sustained),
            self._elementwise("activation", 3 * tokens * width),
            self._gemm("down_proj", tokens, model.hidden, width, sustained=sustained),
            *self._all_reduce(tokens),
        )

    def _experts(self, tokens: int, sustained: bool) -> tuple[_Costed, ...]:
        shard, model = self.shard, self.shard.model
        ranks = shard.tensor_parallel_size
        expert_parallel = ranks if shard.engine.enable_expert_parallel else 1
        ops = [
            self._elementwise("norm", 4 * tokens * model.hidden),
            self._gemm("router", tokens, model.experts, model.hidden, sustained=sustained),
            self._kernel(
                "experts",
                kernels.moe(
                    shard.gpu,
                    tokens=tokens,
                    hidden=model.hidden,
                    inter=model.moe_intermediate,
                    experts=model.experts,
                    topk=model.experts_per_token,
                    tp=ranks // expert_parallel,
                    ep=expert_parallel,
                    dtype=shard.precision.weights,
                    sustained=sustained,
                ),
            ),
        ]
        if model.shared_experts:
            width = -(-model.shared_experts * model.moe_intermediate // ranks)
            ops += [
                self._gemm("shared_gate_up", tokens, 2 * width, model.hidden, sustained=sustained),
                self._elementwise("activation", 3 * tokens * width),
                self._gemm("shared_down", tokens, model.hidden, width, sustained=sustained),
            ]
        return (*ops, *self._all_reduce(tokens))

    def _head(self, tokens: int) -> tuple[_Costed, ...]:
        model = self.shard.model
        return (self._elementwise("embedding", 2 * tokens * model.hidden), *self._all_reduce(tokens))

    def _tail(self, sampled: int) -> tuple[_Costed, ...]:
        shard, model = self.shard, self.shard.model
        ops: list[_Costed] = []
        if sampled:
            ranks = shard.tensor_parallel_size
            vocabulary = -(-model.vocab // ranks)
            ops.append(self._elementwise("norm", 2 * sampled * model.hidden))
            ops.append(
                self._kernel(
                    "lm_head",
                    kernels.gemm(shard.gpu, sampled, vocabulary, model.hidden, shard.precision.activations),
                )
            )
            if ranks > 1:
                n_bytes = sampled * model.vocab * DTYPE_BYTES[shard.precision.activations]
                ops.append(self._transfer("gather logits", self._collective("all_gather", n_bytes)))
            ops.append(self._kernel("sample", kernels.sampling(shard.gpu, sampled, model.vocab)))
            if shard.engine.speculation is not None:
                draft = shard.engine.speculation
                seconds = draft.num_speculative_tokens * draft.draft_s
                ops.append(_Costed(Op("draft", seconds), Causes(memory=seconds)))
        if shard.engine.step_gap_s and "host" not in self.without:
            ops.append(_Costed(Op("step gap", shard.engine.step_gap_s), Causes(host=shard.engine.step_gap_s)))
        return tuple(ops)

    def _kernel(self, name: str, timing: KernelTiming) -> _Costed:
        timing = self._without_floor(timing)
        return _Costed(Op(name, float(timing.total_s)), _kernel_causes(timing))

    def _without_floor(self, timing: KernelTiming) -> KernelTiming:
        if "kernel_latency" not in self.without:
            return timing
        return timing._replace(total_s=timing.total_s - timing.floor_s, floor_s=0.0)

    def _transfer(self, name: str, timing: CollectiveTiming) -> _Costed:
        if not self.without:
            causes = Causes(collective_latency=timing.latency_s, collective_bytes=timing.bytes_s)
            return _Costed(Op(name, timing.total_s, timing.demand), causes)
        demand = _stripped(timing.demand, self.without)
        bytes_s = timing.bytes_s if demand.links or demand.least_s else 0.0
        causes = Causes(collective_latency=demand.latency_s, collective_bytes=bytes_s)
        return _Costed(Op(name, demand.latency_s + bytes_s, demand), causes)

    def _gemm(self, name: str, m: int, n: int, k: int, *, sustained: bool = False) -> _Costed:
        dtype = self.shard.precision.weights
        return self._kernel(name, kernels.gemm(self.shard.gpu, m, n, k, dtype, sustained=sustained))

    def _elementwise(self, name: str, elements: float) -> _Costed:
        n_bytes = elements * DTYPE_BYTES[self.shard.precision.activations]
        return self._kernel(name, kernels.elementwise(self.shard.gpu, n_bytes))

    def _all_reduce(self, tokens: int) -> tuple[_Costed, ...]:
        if self.shard.tensor_parallel_size == 1:
            return ()
        n_bytes = tokens * self.shard.model.hidden * DTYPE_BYTES[self.shard.precision.activations]
        return (self._transfer("all_reduce", self._collective("all_reduce", n_bytes)),)

    def _collective(self, op: str, n_bytes: float) -> CollectiveTiming:
        engine = self.shard.engine
        library = "nccl" if engine.disable_custom_all_reduce else engine.collectives
        return collective(self.network, op, n_bytes, self.shard.ranks, library=library)


def hand_over(
    network: Network, source: Shard, target: Shard, tokens: int, without: frozenset[str] = frozenset()
) -> Demand:
    """The activations of `tokens` tokens from one stage to the next: hidden state and residual.

    Every tensor-parallel rank sends its share to its peer and the receivers gather the rest over their own
    links (vLLM `send_tensor_dict` with an all-gather group), so each rail carries 1/TP of the bytes.
    """
    width = DTYPE_BYTES[source.precision.activations]
    n_bytes = 2.0 * tokens * source.model.hidden * width
    senders, receivers = source.ranks, target.ranks
    pairs = max(len(senders), len(receivers))
    amounts: dict[int, float] = {}
    latency_s = least_s = 0.0
    for i in range(pairs):
        pair = (senders[i % len(senders)], receivers[i % len(receivers)])
        one = collective(network, "send_recv", n_bytes / pairs, pair).demand
        latency_s, least_s = max(latency_s, one.latency_s), max(least_s, one.least_s)
        for link, amount in zip(one.links, one.n_bytes, strict=True):
            amounts[link] = amounts.get(link, 0.0) + amount
    if len(receivers) > 1:
        gather = collective(network, "all_gather", n_bytes, receivers).demand
        latency_s += gather.latency_s
        for link, amount in zip(gather.links, gather.n_bytes, strict=True):
            amounts[link] = amounts.get(link, 0.0) + amount
    return _stripped(Demand(tuple(amounts), tuple(amounts.values()), latency_s, least_s), without)


def _layer_s(kind: _LayerKind, attention_s: Seconds) -> Seconds:
    seconds = kind.before_s + attention_s + kind.after_s
    if not kind.launch_s:
        return seconds
    if isinstance(seconds, np.ndarray):
        return np.maximum(seconds, kind.launch_s)
    return max(seconds, kind.launch_s)


def _first(part: Seconds, n: int) -> float:
    return float(part[:n].sum()) if isinstance(part, np.ndarray) and part.ndim else n * float(part)


def _capture_sizes(engine: Engine) -> tuple[int, ...]:
    """vLLM's default CUDA-graph sizes: 1, 2, 4, then every 8 to 256, then every 16 to the largest."""
    if engine.enforce_eager or not engine.max_cudagraph_capture_size:
        return ()
    largest = engine.max_cudagraph_capture_size
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)]
    return tuple(size for size in sizes if size <= largest)
