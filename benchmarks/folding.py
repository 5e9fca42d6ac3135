"""Played op by op against folded: the decode steps of one TP8 stage, with and without foreign transfers.

Llama-3-70B on eight H100, a batch of 32 at a context of 1,000 tokens. Foreign transfers of 60 MB come at
random onto two of the group's links, as KV caches on their way do, for a given share of the time. All times
are CPU times of this process, and every ratio is taken within one round of all cases.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from simpy import Environment, Event

from benchmarks._tables import Figure, show
from sim.catalog import load_model, load_topology
from sim.cost.batch import Batch
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.cost.stage_cost import StageCost
from sim.inputs.engine import Engine
from sim.inputs.precision import Precision
from sim.runtime.engine.stage import Passed, Stage
from sim.runtime.fabric.fabric import Fabric

ROUNDS = 5
LAYERS = 20, 80, 320
BATCH = Batch(decodes=32, decode_kv_tokens=32_000.0, sampled=32)
FOREIGN_BYTES = 60e6


@dataclass(frozen=True)
class Bench:
    """One stage's cost and the network below it; priced once, so that no case pays for the first look-up."""

    network: Network
    cost: StageCost

    @classmethod
    def make(cls, layers: int = 80) -> Bench:
        network = Network(load_topology("nd-h100-v5").graph)
        engine = Engine(tensor_parallel_size=8)
        model = load_model("llama-3-70b").model_copy(update={"layers": layers})
        gpu = load_topology("nd-h100-v5").gpus["h100-sxm"]
        shard = Shard(model, engine, Precision(), gpu, (network.gpus[:8],), 0, model.layers)
        bench = cls(network, StageCost(shard, network))
        assert bench.cost.shard.layers == layers
        bench.steps(2, 1, fold=True)
        bench.steps(2, 1, fold=False)
        return bench

    def steps(self, steps: int, at_once: int, *, fold: bool, foreign: float = 0.0) -> float:
        """CPU seconds a step of `steps` decode steps, handed to the stage `at_once` at a time."""
        env = Environment()
        fabric = Fabric(env, self.network)
        stage = Stage(env, fabric, self.cost, fold=fold)
        done = 0

        def next_run(passed: Passed | None) -> None:
            nonlocal done
            if passed is not None:
                done += passed.steps
            if done < steps:
                stage.start(BATCH.grown(done), min(at_once, steps - done), next_run)

        def disturb() -> Iterator[Event]:
            rng = random.Random(1)
            links = self.network.gpus[0], self.network.gpus[5]
            crossbar = self.network.crossbar(links[0])
            path = {f"{links[0]}->{crossbar}": FOREIGN_BYTES, f"{crossbar}->{links[1]}": FOREIGN_BYTES}
            flow_s = FOREIGN_BYTES / min(self.network.capacity[self.network.link_id[link]] for link in path)
            while done < steps:
                yield env.timeout(rng.expovariate(foreign / flow_s))
                if done < steps:
                    fabric.transfer(path)

        if foreign:
            env.process(disturb())
        next_run(None)
        started = time.process_time()
        env.run()
        return (time.process_time() - started) / steps


def timeouts_per_s(count: int = 100_000) -> float:
    """Bare SimPy timeouts of one process, per second of CPU time."""
    env = Environment()

    def wait() -> Iterator[Event]:
        for _ in range(count):
            yield env.timeout(1e-6)

    env.process(wait())
    started = time.process_time()
    env.run()
    return count / (time.process_time() - started)


def main() -> None:
    bench = Bench.make()
    program = bench.cost.program(BATCH)
    ops = sum(block.repeat * len(block.ops) for block in program.blocks)
    cases: dict[str, Callable[[], float]] = {
        "played": lambda: bench.steps(60, 1, fold=False),
        "folded step by step": lambda: bench.steps(5_000, 1, fold=True),
        "folded 32 together": lambda: bench.steps(100_000, 32, fold=True),
        "folded 1,000 together": lambda: bench.steps(1_000_000, 1_000, fold=True),
    }
    for share in (0.01, 0.05, 0.2):
        cases[f"played, foreign {share:.0%}"] = lambda f=share: bench.steps(60, 1, fold=False, foreign=f)
        cases[f"folded, foreign {share:.0%}"] = lambda f=share: bench.steps(2_000, 32, fold=True, foreign=f)
    for layers in LAYERS:
        of = Bench.make(layers)
        cases[f"played, {layers} layers"] = lambda of=of: of.steps(20, 1, fold=False)
        cases[f"folded step by step, {layers} layers"] = lambda of=of: of.steps(2_000, 1, fold=True)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    played: dict[str, list[float]] = {name: [] for name in cases}
    bare: list[float] = []
    for _ in range(ROUNDS):
        timeouts = timeouts_per_s()
        for name, case in cases.items():
            seconds[name].append(case())
        bare.append(ops / seconds["played"][-1] / timeouts)
        for name in cases:
            _, comma, besides = name.partition(", ")
            reference = f"played, {besides}" if comma else "played"
            played[name].append(seconds[reference][-1] / seconds[name][-1])
    goals = {
        "folded step by step": 300.0,
        "folded 1,000 together": 3000.0,
        "folded, foreign 1%": 20.0,
        "folded, foreign 5%": 5.0,
    }
    figures = [
        Figure("op events/s played, of bare timeouts/s", statistics.median(bare), "x", 0.25),
        Figure("ops of a step", ops, ""),
    ]
    for name in cases:
        figures.append(Figure(f"CPU time a step, {name}", statistics.median(seconds[name]) * 1e6, "us"))
        if not name.startswith("played"):
            figures.append(
                Figure(f"speed of played, {name}", statistics.median(played[name]), "x", goals.get(name))
            )
    show(figures)
