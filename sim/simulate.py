"""simulate(scenario, seed) -> Result: one run from its first arrival to its last token."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import simpy

from sim.cost.network import Network
from sim.deployment import deployment_of
from sim.inputs.errors import InfeasibleError, InputError, Problem, UnfinishedError
from sim.results.blame import BlameRecords
from sim.results.columns import Table
from sim.results.metrics import Warmup, summary
from sim.results.records import Records
from sim.runtime.build import World, kv_transfers_of, replicas_of
from sim.runtime.dispatcher import Routing
from sim.runtime.engine.replica import Replica
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.uncontended import UncontendedFabric
from sim.runtime.faults import Losses, faults_without_effect, schedule_faults
from sim.runtime.kv.tier_rows import kv_tier_rows, kv_tier_summary
from sim.runtime.service import Service, waiting_for
from sim.scenario import Scenario, with_changes
from sim.workload.generator import request_generator
from sim.workload.random_streams import random_stream

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class Result:
    """What a run leaves: tables with one row per thing, and the numbers computed from them.

    `requests` `steps` `links` `gpus` `blame` are polars DataFrames (times in simulated seconds, sizes in
    bytes); `summary()` has vLLM's metric names; `save(folder)` writes all of it.
    """

    scenario: Scenario
    seed: int
    records: Records
    blame_records: BlameRecords
    link_rows: Table
    gpu_rows: Table
    end_s: float
    unfinished: tuple[str, ...] = field(default=())
    kv_tier_rows: Table = field(default_factory=lambda: kv_tier_rows(()))

    @cached_property
    def requests(self) -> polars.DataFrame:
        return self.records.requests.frame()

    @cached_property
    def steps(self) -> polars.DataFrame:
        return self.records.steps.frame()

    @cached_property
    def gaps(self) -> polars.DataFrame:
        return self.records.gaps.frame()

    @cached_property
    def hand_overs(self) -> polars.DataFrame:
        return self.records.hand_overs.frame()

    @cached_property
    def links(self) -> polars.DataFrame:
        return self.link_rows.frame()

    @cached_property
    def gpus(self) -> polars.DataFrame:
        return self.gpu_rows.frame()

    @cached_property
    def blame(self) -> polars.DataFrame:
        return self.blame_records.frame()

    @cached_property
    def kv_tiers(self) -> polars.DataFrame:
        """Hits and bytes by replica and tier of KV cache; empty without `engine.kv_tiers`."""
        return self.kv_tier_rows.frame()

    def summary(self, warmup: Warmup = None) -> dict[str, Any]:
        """Counts, throughputs and latencies under the names of vLLM's serving benchmark.

        `warmup` leaves out the requests that came first, by another rule than the scenario's: a share of
        them, or "mser5".
        """
        numbers = summary(
            self.records,
            gpus=len(self.gpu_rows),
            slos=self.scenario.workload.slos,
            warmup=self.scenario.warmup if warmup is None else warmup,
        )
        return {**numbers, **kv_tier_summary(self.kv_tier_rows)}

    def faults_without_effect(self) -> list[tuple[tuple[str | int, ...], str]]:
        """The faults of the scenario that nothing in this run can have felt: their keys, and why."""
        faults = self.scenario.faults
        if not faults:
            return []
        serving = set(self.gpus.filter(self.gpus["replica"] >= 0)["gpu"])
        bytes_by_link = dict(self.links.select("link", "n_bytes").iter_rows())
        return list(
            faults_without_effect(self.scenario.wired.graph, faults, serving, bytes_by_link, self.end_s)
        )

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write tables, summary, trace and report into `folder`; an existing one is refused unless
        `force`.
        """
        from sim.views.save import save

        return save(self, Path(folder), force=force)


Beside = Callable[[simpy.Environment, Fabric], Generator[simpy.Event, object, object]]


def simulate(
    scenario: Scenario,
    seed: int = 0,
    fold: bool = True,
    without: Sequence[str] = (),
    beside: Sequence[Beside] = (),
) -> Result:
    """Run a scenario. The same scenario, seed and version give the same rows, folded or played.

    `without` names causes that are to cost nothing (`sharing`, `collective_latency`, `collective_bytes`,
    `host`, `kernel_latency`): the difference to the full run is what they cost, queueing included.

    `beside` are processes of a script that share clock and links with the service: generator functions of
    (environment, fabric) that put their own transfers on the links or change capacities. The run lasts until
    they have ended too.

    Raises InfeasibleError when the scenario cannot be (does not fit, unreachable, indivisible), and
    UnfinishedError when nothing can happen any more although requests are open. A run that reaches
    `time_limit_s` ends there, its open requests counted as unfinished.
    """
    if without:
        scenario = with_changes(scenario, {"without": tuple(without)})
    limit = scenario.time_limit_s
    if limit == 0.0:
        raise InputError(Problem("must be more than 0, or left out", key="time_limit_s", value="0"))
    env = simpy.Environment()
    network = Network(scenario.wired.graph)
    losses = Losses(network, scenario.faults)
    fabric = (UncontendedFabric if "sharing" in scenario.without else Fabric)(env, network)
    blame = BlameRecords()
    world = World(scenario, env, network, fabric, Records(), fold, seed)
    service = _service(world, blame)
    schedule_faults(env, network, fabric, service, scenario.faults, losses)
    service.begin()
    for process in beside:
        env.process(process(env, fabric))
    env.run(until=limit)
    waiting = _waiting(service, fabric)
    # Without a limit the run ends only when no event is left: an open request will never go on.
    if service.open and limit is None:
        raise UnfinishedError(
            f"{len(service.open)} requests are open at {env.now:g} s and nothing can happen", waiting
        )
    return _result(world, service, blame, waiting)


def _service(world: World, blame: BlameRecords) -> Service:
    """The replicas of a scenario behind their router, and the requests that will come."""
    scenario, network = world.scenario, world.network
    replicas, by_model = replicas_of(deployment_of(scenario, network), world)
    default = scenario.default_model or replicas[0].model
    if default not in by_model:
        raise InfeasibleError(
            f"default_model {default!r} is served by no pool",
            f"{', '.join(by_model)} are" if by_model else "add a pool with role: prefill, or both",
        )
    kv_transfers = kv_transfers_of(replicas, world, random_stream(world.seed, "hand-over"))
    routing = Routing(
        by_model,
        default,
        scenario.router,
        random_stream(world.seed, "router"),
        staleness_s=scenario.router_staleness_s,
        has_frontend="host" not in scenario.without,
        receivers=None if kv_transfers is None else kv_transfers.receivers,
    )
    return Service(
        world.env,
        replicas,
        routing,
        request_generator(scenario.workload, world.seed),
        world.records,
        blame,
        kv_transfers=kv_transfers,
        on_failure=scenario.on_failure,
    )


def _waiting(service: Service, fabric: Fabric) -> tuple[str, ...]:
    """What waits for what when nothing happens any more."""
    down = dict.fromkeys(link for _, links in fabric.stalled() for link in links)
    return (*waiting_for(service), *(f"transfers wait for {link}, which is down" for link in down))


def _result(world: World, service: Service, blame: BlameRecords, waiting: tuple[str, ...]) -> Result:
    """The books of a run that has ended, closed."""
    replicas, records = list(service.replicas), world.records
    for replica in replicas:
        replica.stop()
    service.close()
    # A run cut by its limit ends there; else it ends with its last request, and later events do not count.
    records.end_s = world.env.now if service.open else service.ended_s
    return Result(
        world.scenario,
        world.seed,
        records,
        blame,
        _link_rows(world.fabric),
        _gpu_rows(world.network, replicas),
        records.end_s,
        waiting,
        kv_tier_rows(replicas),
    )


def _link_rows(fabric: Fabric) -> Table:
    """One row per link: capacity, bytes, and seconds with at least one, and at least two, transfers."""
    rows = Table(
        {
            "link": "text",
            "bytes_per_s": "number",
            "n_bytes": "number",
            "busy_s": "number",
            "shared_s": "number",
        }
    )
    for row in fabric.rows():
        rows.append(str(row.link), row.bytes_per_s, row.n_bytes, row.busy_s, row.shared_s)
    return rows


def _gpu_rows(network: Network, replicas: list[Replica]) -> Table:
    """One row per GPU: which replica and stage it serves (-1: none), and the seconds in which it had a
    step.
    """
    rows = Table({"gpu": "text", "model": "text", "replica": "count", "stage": "count", "busy_s": "number"})
    serves = {}
    for replica in replicas:
        ranks = len(replica.gpus) // len(replica.stages)
        for rank, gpu in enumerate(replica.gpus):
            stage = rank // ranks
            serves[gpu] = (replica.index, stage, replica.stages[stage].busy_s)
    for gpu in network.gpus:
        replica_index, stage, busy_s = serves.get(gpu, (-1, -1, 0.0))
        rows.append(gpu, str(network.places[gpu].get("model", "")), replica_index, stage, busy_s)
    return rows
