"""The cost of one forward step on one pipeline stage: model + shard + GPU + network -> ops, seconds and
causes.

A step is: host work, the ops before the layers (embedding), `layers` times the ops of a layer, and on the
last stage the output head. Only attention depends on the context; everything else depends on the number of
tokens alone and is remembered. The seconds of many consecutive decode steps, whose contexts grow by one token
each, are therefore one vectorised expression, equal to the last bit to the step-by-step one.

With data-parallel attention all ranks go through a step together: what a layer takes is what the fullest rank
takes, and ranks without work run one dummy token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from sim.cost.attention_cost import AttentionCost, Seconds
from sim.cost.batch import Batch, Causes
from sim.cost.drafting import NO_ATTENTION, DraftAttention
from sim.cost.kernels.kernels import KernelModel, KernelTiming, formula
from sim.cost.network import Network
from sim.cost.pricing import Pricer
from sim.cost.program import Block, Op, Program, Traffic
from sim.cost.shard import Shard
from sim.cost.step_cost import FloatArray
from sim.cost.step_templates import Template, Templates

FEW_STEPS = 8
"""So many decode steps are priced one by one; more of them as arrays, at the price of about eight."""

_Attentions = tuple[AttentionCost | DraftAttention, ...]


class StageCost:
    """Prices the steps of one stage. Pure: no clock, no state but remembered prices.

    In a step with prefill all products run at their `sustained` pace: layer after layer of busy tensor cores
    brings a GPU to its power limit, where benchmarks of one kernel at a time find it cool. Decode steps wait
    for memory, their tensor cores mostly idle, and keep the pace of the single kernel. So would a decode of
    many hundreds that is bound by arithmetic, which is then too quick by what its GPU loses when hot.
    """

    def __init__(
        self,
        shard: Shard,
        network: Network,
        without: frozenset[str] = frozenset(),
        kernel_model: KernelModel = formula,
        like: StageCost | None = None,
    ) -> None:
        """`without`: causes whose cost is taken as nothing, for the question what they cost in all. `like`:
        the cost of a stage of the same shape (`has_shape_of`) on other GPUs of the network, priced in the
        same way: what it has priced is not priced again.
        """
        self.shard = shard
        self._price = Pricer(shard, network, without, kernel_model)
        self._templates: Templates = Templates(self._price, like._templates if like else None)
        self._template = self._templates.of
        self._attentions: _Attentions = like._attentions if like else _attentions(self._templates)
        self._attention_of_one = self._attentions[0] if len(self._attentions) == 1 else None

    def has_shape_of(self, shard: Shard) -> bool:
        """True where a stage differs from this one in nothing but its GPUs' places."""
        own = self.shard
        return (
            shard.model is own.model
            and shard.gpu is own.gpu
            and (shard.first_layer, shard.layers) == (own.first_layer, own.layers)
            and [len(group) for group in shard.groups] == [len(group) for group in own.groups]
            and (shard.engine, shard.precision) == (own.engine, own.precision)
        )

    def _attention(self, batch: Batch, later: FloatArray | None = None) -> tuple[KernelTiming, ...]:
        """The attention of a layer of every kind, and of layers without any."""
        if self._attention_of_one is not None:
            return (self._attention_of_one(batch, later),)
        return (*[attention(batch, later) for attention in self._attentions], NO_ATTENTION)

    # ---- public

    def step(self, batch: Batch) -> tuple[float, Causes]:
        """Seconds of one step alone, and their causes."""
        template = self._template(batch)
        attention = self._attention(batch)
        seconds = float(self._total(template, attention))
        return seconds, self._causes(template, attention, 1, seconds)

    def decode_steps(self, batch: Batch, steps: int) -> tuple[FloatArray, Callable[[int], Causes]]:
        """Seconds of `steps` consecutive decode steps of one batch, shape [steps], and the causes of the
        first n of them.
        """
        template = self._template(batch)
        if steps <= FEW_STEPS:
            each = [self._attention(batch.grown(step)) for step in range(steps)]
            few = [float(self._total(template, one)) for one in each]

            def causes_of_few(n: int) -> Causes:
                sums = [
                    KernelTiming(*map(sum, zip(*kind, strict=True))) for kind in zip(*each[:n], strict=True)
                ]
                return self._causes(template, sums, n, sum(few[:n]))

            return np.array(few), causes_of_few
        attention = self._attention(batch, np.arange(steps, dtype=np.float64))
        seconds = np.asarray(self._total(template, attention), dtype=np.float64)
        if not seconds.ndim:
            seconds = np.full(steps, float(seconds))

        def causes(n: int) -> Causes:
            sums = [KernelTiming(*[_first(part, n) for part in kind]) for kind in attention]
            lasted_s = float(seconds[:n].sum()) if template.waits_for_host else 0.0
            return self._causes(template, sums, n, lasted_s)

        return seconds, causes

    def program(self, batch: Batch) -> Program:
        """The ops of one step; `program.total_s` equals `step(batch)[0]` to the last bit."""
        template = self._templates.to_play(batch)
        attention = self._attention(batch)
        blocks = list(template.before_layers)
        start_s = template.before_layers_s
        for run in template.layers:
            block = run.block(attention, start_s)
            blocks.append(block)
            start_s = start_s + run.repeat * block.period_s
        if template.tail:
            blocks.append(Block.of(template.tail, 1, template.tail_s, start_s))
            start_s = start_s + template.tail_s
        if start_s < template.least_s:
            wait = Op("wait for host", template.least_s - start_s)
            blocks.append(Block.of((wait,), 1, wait.seconds, start_s))
            start_s = template.least_s
        return Program.of_blocks(tuple(blocks), template.traffic.links, start_s)

    def traffic(self, batch: Batch) -> Traffic:
        """The transfers of one step, and the links that the stage uses. Independent of the context."""
        return self._template(batch).traffic

    def layers_of(self, batch: Batch) -> tuple[tuple[int, tuple[int, ...]] | None, ...]:
        """For each block of `program(batch)` its first layer, and with which ops layers begin in each of its
        repetitions; None outside of layers. Passes of a draft count on behind the model's last layer.
        """
        template = self._template(batch)
        found: list[tuple[int, tuple[int, ...]] | None] = [None] * len(template.before_layers)
        layer, attention = self.shard.first_layer, self._attention(batch)
        for run in template.layers:
            ops = [len(kind.timed_ops(attention, float(kind.seconds(attention)))[0]) for kind in run.kinds]
            found.append((layer, tuple(accumulate(ops[:-1], initial=0))))
            layer += run.repeat * len(ops)
        return tuple(found)

    # ---- arithmetic shared by one step, many steps and the program

    # One step, an array of steps and a program add the same terms in the same order. That makes a folded run
    # equal to a played one to the last bit: change the order here and in `program` together.
    @staticmethod
    def _total(template: Template, attention: Sequence[KernelTiming]) -> Seconds:
        total: Seconds = template.before_layers_s
        for run in template.layers:
            total = total + run.repeat * run.seconds(attention)
        if template.tail_s:
            total = total + template.tail_s
        if not template.least_s:
            return total
        if isinstance(total, np.ndarray):
            return np.maximum(total, template.least_s)
        return max(total, template.least_s)

    @staticmethod
    def _causes(template: Template, attention: Sequence[KernelTiming], steps: int, seconds: float) -> Causes:
        """Causes of `steps` steps of `seconds` in total (asked for where layers wait for their launches),
        whose attention timings are sums over these steps.
        """
        compute, memory, kernel_latency, collective_latency, collective_bytes, host = template.fixed
        compute_s, memory_s, latency_s = steps * compute, steps * memory, steps * kernel_latency
        for layers, one in zip(template.repeats, attention, strict=False):
            busy_s = layers * (one.total_s - one.floor_s)
            if one.compute_s >= one.memory_s:  # as `kernel_causes` has it
                compute_s += busy_s
            else:
                memory_s += busy_s
            latency_s += layers * one.floor_s
        causes = Causes(
            compute_s,
            memory_s,
            latency_s,
            steps * collective_latency,
            steps * collective_bytes,
            steps * host,
        )
        if template.waits_for_host:  # kernels that waited for the host to launch them, or to be done
            causes = causes._replace(host=causes.host + (seconds - causes.total_s))
        return causes


def _attentions(templates: Templates) -> _Attentions:
    """The attention of layers of each kind; a draft's is the last."""
    found = tuple(AttentionCost(price) for price in templates.with_attention)
    return found if templates.draft is None else (*found[:-1], DraftAttention(templates.draft))


def _first(part: Seconds, n: int) -> float:
    return float(np.add.reduce(part[:n])) if isinstance(part, np.ndarray) and part.ndim else n * float(part)
