"""One replica on a clock of its own, whose steps take a given time: no scenario, no kernels."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from simpy import Environment
from simpy.events import EventPriority

from sim.cost.collectives.demands import Demand
from sim.cost.step_cost import GivenCost
from sim.inputs.engine import Engine
from sim.policy.scheduling import ContinuousBatching
from sim.results.records import GapRecords, StepRecords
from sim.runtime.clock import ARRIVAL, at
from sim.runtime.engine.attribution import StepLedger
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.engine_core import EngineCore, EngineListener, EngineSettings
from sim.runtime.engine.queue import QueueLimits, RequestQueue
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.stage import Stage
from sim.runtime.engine.step_records import StepRecorder
from sim.runtime.fabric.fabric import Fabric
from sim.workload.request import Request

BLOCK_SIZE = 4


class OneReplica:
    """Stages of a second a step each, the last one of `last_s`; a send between two of them takes 0.75 s, over
    one link for each way.

    `even` spreads the sequences over as many batches as there are stages.
    """

    def __init__(
        self,
        *,
        stages: int = 1,
        fold: bool = True,
        ranks: int = 1,
        max_num_seqs: int = 8,
        blocks: int = 1000,
        even: bool = False,
        last_s: float = 1.0,
        engine: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        usual = {"async_scheduling": False, "pipeline_split": "even" if even else "vllm"}
        described = Engine(pipeline_parallel_size=stages, **{**usual, **(engine or {})})
        ledger = StepLedger() if stages == 1 else None
        limits = QueueLimits(
            token_budget=64, max_num_seqs=max_num_seqs, async_scheduling=described.schedules_async
        )
        self.env = Environment()
        self.fabric = Fabric(self.env, {f"way {stage}": 10.0 for stage in range(stages - 1)})
        self.steps, self.gaps = StepRecords(), GapRecords()
        self.core = EngineCore(
            self.env,
            self.fabric,
            [
                Stage(self.env, self.fabric, GivenCost(last_s if stage + 1 == stages else 1.0), fold=fold)
                for stage in range(stages)
            ],
            [
                RequestQueue(
                    self.env, BlockPool(blocks, BLOCK_SIZE, enable_prefix_caching=True), limits, ledger
                )
                for _ in range(ranks)
            ],
            lambda stage, tokens: Demand((stage,), (5.0,), latency_s=0.25),
            StepRecorder(0, self.steps, self.gaps, in_flight=stages),
            EngineSettings(described, ContinuousBatching(even_shares=stages if even else 1), **settings),
        )
        model = SimpleNamespace(name="model", layers=2, kv_bytes_per_token=lambda kv_cache: 1.0)
        pool = SimpleNamespace(model=model, precision=SimpleNamespace(kv_cache="bf16"))
        plan: Any = SimpleNamespace(
            hops=0, index=0, pool=pool, limits=SimpleNamespace(max_model_len=1000), gpus=(), shards=()
        )
        self.replica = Replica(self.core, plan)
        self.reports: list[tuple[float, str, int]] = []
        self.replica.listen(EngineListener(**{name: self._noted(name) for name in ("finished", "aborted")}))

    def _noted(self, what: str) -> Any:
        return lambda sequence: self.reports.append((self.env.now, what, sequence.request.request_id))

    def submit(self, number: int = 0, prompt: int = 4, output: int = 5, **more: Any) -> Sequence:
        return self.replica.submit(Request(number, self.env.now, prompt, output, **more))

    def at(self, instant: float, act: Callable[[], Any], priority: EventPriority = ARRIVAL) -> Any:
        """Run the clock to an instant and act there, in its turn among what happens at that instant."""
        found: list[Any] = []
        at(self.env, instant, lambda _: found.append(act()), priority)
        while not found:
            self.env.step()
        return found[0]
