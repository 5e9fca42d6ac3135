"""simulate(scenario, seed) -> Result: one run from its first arrival to its last token."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import simpy
from simpy.core import StopSimulation

from sim.basis import Collectives, Load, Served, collectives_on, run_basis
from sim.cost.network import Network
from sim.deployment import Deployment, deployment_of
from sim.effects.faults import faults_without_effect, outages_without_effect
from sim.effects.ran import Ran
from sim.effects.words import key_words
from sim.energy import energy_of
from sim.inputs.errors import InfeasibleError, InputError, Problem, UnfinishedError
from sim.inputs.faults import Fault
from sim.inputs.lengths import FixedWait, UniformWait, Waits
from sim.inputs.outages import Outage
from sim.policy.routing import CentralQueue
from sim.reading.files_read import files_read
from sim.results.basis import RunBasis
from sim.results.blame import CAUSES, BlameRecords
from sim.results.columns import Table
from sim.results.energy import FLAT, Energy, NoEnergy, dollars
from sim.results.key_words import KeyWords
from sim.results.kv_capacity import KvCapacity, capacity_summary
from sim.results.metrics import Warmup, objectives_kept, summary
from sim.results.outages import FLAT as FLAT_OF_OUTAGES
from sim.results.outages import outages_summary
from sim.results.recorded import Recorded
from sim.results.records import GPU_COLUMNS, LINK_COLUMNS, Records
from sim.results.setting import FaultSetting, Surroundings
from sim.runtime.build import World, kv_transfers_of, replicas_of
from sim.runtime.dispatcher import Routing
from sim.runtime.engine.replica import Replica
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.uncontended import UncontendedFabric
from sim.runtime.faults import Losses, schedule_faults
from sim.runtime.folded_queue import fold_queue
from sim.runtime.interruption import Interruption, SoFar
from sim.runtime.kv.tier_rows import kv_tier_rows, kv_tier_summary
from sim.runtime.recording import Recorder, recorded_fabric
from sim.runtime.recoveries import Recoveries
from sim.runtime.rerouting import Rerouting
from sim.runtime.self_checks import SelfChecks, WatchedClock
from sim.runtime.service import Service
from sim.runtime.waits import waits
from sim.scenario import Scenario, with_changes
from sim.scenario.outages import faults_in, left_out, outages_of, slowed_by_gpu
from sim.setting import fault_settings, link_kinds, outage_rows_of, setting_of, surroundings_of
from sim.views.naming import scenario_text, title_of
from sim.views.showing import Shown
from sim.workload.generator import request_generator
from sim.workload.random_streams import random_stream

if TYPE_CHECKING:
    import polars

    from sim.results.nearest_theory import Nearest, Station
    from sim.results.sentences import Verdict
    from sim.results.told import Effects


ALL_ENDED, TIME_LIMIT = "all requests ended", "time limit"


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """What a run leaves: tables with one row per thing, and the numbers computed from them.

    `requests` `steps` `links` `gpus` `blame` `kv_tiers` `hand_overs` are polars DataFrames (times in
    simulated seconds, sizes in bytes); `summary()` has vLLM's metric names; `save(folder)` writes all of it.
    `ended` says how the run came to its end: `all requests ended`, `time limit`, `interrupted`, `CPU budget`.
    `inputs` are the files that it was read from.
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
    deployment: Deployment = field(default_factory=lambda: Deployment(()))
    ended: str = ALL_ENDED
    inputs: frozenset[Path] = frozenset()
    served: tuple[Served, ...] = ()
    collectives: tuple[Collectives, ...] = ()
    hedges: tuple[int, int] | None = None  # second copies that were sent, and those that gave the answer
    recorded: Recorded | None = None
    outages_drawn: tuple[Outage, ...] = ()
    lost_at_s: frozenset[float] = frozenset()  # when requests ended because their engine had failed
    around: frozenset[str] = frozenset()  # links that were down for longer than traffic waits for them

    @property
    def faults(self) -> tuple[FaultSetting, ...]:
        """What failed and when, in words."""
        return fault_settings(self.scenario, self.outages_drawn)

    @property
    def title(self) -> str:
        """Model and machine, as the report is called."""
        return title_of(self.scenario)

    @property
    def scenario_text(self) -> str:
        """The scenario as it was run, as YAML."""
        return scenario_text(self.scenario)

    def __repr__(self) -> str:
        models = ", ".join(dict.fromkeys(pool.model.name for pool in self.scenario.all_pools.values()))
        status = self.records.requests["status"]
        return (
            f"<Result of {models} on {self.scenario.topology.name}, seed {self.seed}: "
            f"{int((status == 'finished').sum())} of {len(status)} requests finished, {self.end_s:.6g} s>"
        )

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
    def kv_blocks(self) -> polars.DataFrame:
        """KV blocks in use at every instant at which sequences came, went or computed a part of a prompt."""
        return self.records.kv_blocks.frame()

    @cached_property
    def links(self) -> polars.DataFrame:
        return self.link_rows.frame()

    @cached_property
    def gpus(self) -> polars.DataFrame:
        return self.gpu_rows.frame()

    @cached_property
    def blame(self) -> polars.DataFrame:
        """Seconds by cause from arrival to the last token."""
        return self.blame_records.frame()

    @cached_property
    def blame_ttft(self) -> polars.DataFrame:
        """Seconds by cause from arrival to the first token."""
        return self.blame_of("ttft")

    @cached_property
    def blame_itl(self) -> polars.DataFrame:
        """Seconds by cause from the first token to the last, all gaps between tokens together."""
        return self.blame_of("itl")

    def blame_of(self, metric: str) -> polars.DataFrame:
        """One row per request that has the latency `metric`: "ttft", "itl" or "e2el"; seconds by cause.

        ValueError for other metrics.
        """
        import polars

        rows = self.records.requests
        names = "request_id", "first_token_s", "generated_tokens"
        ids, seconds = self.blame_records.of(metric, {name: rows[name] for name in names})
        return polars.DataFrame({"request_id": ids, **dict(zip(CAUSES, seconds.T, strict=True))})

    @cached_property
    def kv_tiers(self) -> polars.DataFrame:
        """Hits and bytes by replica and tier of KV cache; empty without `engine.kv_tiers`."""
        return self.kv_tier_rows.frame()

    @property
    def is_complete(self) -> bool:
        """Whether every request had come and left when the run ended."""
        return self.ended == ALL_ENDED

    def summary(self, warmup: Warmup = None, percentiles: Iterable[float] = ()) -> dict[str, Any]:
        """Counts, throughputs and latencies under the names of vLLM's serving benchmark.

        `warmup` leaves out the requests that came first, by another rule than the scenario's: a share of
        them, or "mser5". `percentiles` come beside the usual ones: 99.99 as `p99.99_ttft_ms` and so on.
        `blame` has the mean ms by cause of TTFT, ITL and end to end, of all requests and of the slowest
        tenth by each.
        """
        percentiles = tuple(percentiles)
        if warmup is None and not percentiles:
            return deepcopy(self._numbers)
        return self._summary(warmup, percentiles)

    @cached_property
    def _numbers(self) -> dict[str, Any]:
        """The usual summary, once for the views and the verdict that read it."""
        return self._summary(None, ())

    def _summary(self, warmup: Warmup, percentiles: tuple[float, ...]) -> dict[str, Any]:
        numbers = summary(
            self.records,
            gpus=int((self.gpu_rows["replica"] >= 0).sum()),
            slos=self.scenario.workload.slos,
            warmup=self.scenario.warmup if warmup is None else warmup,
            cooldown=self.scenario.cooldown,
            percentiles=percentiles,
            blame=self.blame_records,
        )
        basis = self._basis(numbers)
        if basis is not None:
            numbers["basis"] = basis.as_dict()
        if self.hedges is not None:
            numbers["hedged_requests"], numbers["hedges_won"] = self.hedges
        rate = numbers["output_throughput"]
        energy = self.energy.as_dict(rate)
        cost = dollars(self.scenario.prices, self._gpu_kinds, self.energy, rate)
        numbers |= {name: {**energy, **cost}.get(name) for name in FLAT}
        numbers["energy"] = energy
        if cost:
            numbers["cost"] = cost
        if self._has_outages:
            told = numbers["outages"] = self._outages_summary(warmup)
            numbers |= {name: told.get(name) for name in FLAT_OF_OUTAGES}
        numbers |= {**capacity_summary(self.kv_capacities), **kv_tier_summary(self.kv_tier_rows)}
        return {**numbers, "keys": self.key_words.summary()}

    @property
    def _has_outages(self) -> bool:
        return bool(self.scenario.faults) or self.scenario.outages is not None

    def _outages_summary(self, warmup: Warmup) -> dict[str, Any]:
        scenario = self.scenario
        rows, engines = outage_rows_of(scenario, self.deployment, self.outages_drawn)
        cut = scenario.warmup if warmup is None else warmup
        kept = objectives_kept(self.records, scenario.workload.slos, cut, scenario.cooldown)
        numbers = outages_summary(rows, engines, self.records, self.blame_records, kept, self.lost_at_s)
        without = left_out(scenario)
        return {**numbers, "left_out": list(without)} if without else numbers

    @cached_property
    def outages(self) -> polars.DataFrame:
        """One row per outage and fault that began: what failed and when, its class, when a warning came, and
        how many engines it stopped.
        """
        import polars

        rows, _ = outage_rows_of(self.scenario, self.deployment, self.outages_drawn)
        kinds = {
            "kind": polars.String, "name": polars.String, "cause": polars.String, "at_s": polars.Float64,
            "until_s": polars.Float64, "warned_s": polars.Float64, "engines": polars.Int64,
        }  # fmt: skip
        begun = [row for row in rows if row.at_s < self.end_s]
        columns = {name: [getattr(row, name) for row in begun] for name in kinds}
        columns["engines"] = [len(engines) for engines in columns["engines"]]
        return polars.DataFrame(columns, schema=kinds)

    @property
    def _gpu_kinds(self) -> list[str]:
        """The kind of every GPU that serves."""
        shards = (shard for plan in self.deployment.replicas for shard in plan.shards)
        return [shard.gpu.name for shard in shards for _ in shard.ranks]

    @cached_property
    def energy(self) -> Energy | NoEnergy:
        """Watts and joules of the GPUs that served, by request too; or why there are none."""
        return energy_of(self.scenario, self.deployment, self.records, self.link_rows, self.end_s)

    @property
    def kv_capacities(self) -> tuple[KvCapacity, ...]:
        """What the engines of each pool can hold."""
        return self.deployment.kv_capacities

    @property
    def ran(self) -> Ran:
        """The run as the table of keys asks about it."""
        return Ran(
            self.scenario,
            self.deployment,
            self.records,
            self.link_rows,
            self.gpu_rows,
            self.kv_tier_rows,
            self.end_s,
            self.ended,
            dict(self.faults_without_effect()),
            dict(self._outages_without_effect()),
        )

    @cached_property
    def key_words(self) -> KeyWords:
        """What came of every key that the scenario sets: it acted, did not bind, or nothing read it."""
        return key_words(self.ran)

    def theory(self) -> tuple[Nearest, ...]:
        """For each station (a replica, or all of them behind one queue) the closed form that comes nearest,
        with the moments that this run had: its prediction, the gap, and what it leaves out.
        """
        from sim.results.nearest_theory import nearest_theory

        return nearest_theory(self.records, tuple(self._stations()))

    def _stations(self) -> Iterator[Station]:
        arrivals = self.scenario.workload.arrivals
        users = arrivals.users if arrivals.kind == "closed_loop" else 0
        think_s = mean_wait_s(arrivals.think_time_s) if arrivals.kind == "closed_loop" else 0.0
        from sim.results.nearest_theory import Station

        plans = self.deployment.replicas
        if any(plan.pool.role != "both" for plan in plans):
            return
        shared = self.scenario.router == CentralQueue()
        groups = [tuple(plans)] if shared else [(plan,) for plan in plans]
        for group in groups:
            first = group[0]
            name = f"{len(group)} replicas, one queue" if len(group) > 1 else f"replica {first.index}"
            yield Station(
                name,
                tuple(plan.index for plan in group),
                first.pool.engine.scheduler == "one_at_a_time",
                first.limits.max_num_seqs,
                users if shared else round(users / len(plans)),
                think_s,
            )

    @cached_property
    def basis(self) -> RunBasis | None:
        """What the run rests on, part by part, with the bands of its latencies and throughput; None where
        service times were given.
        """
        return self._basis(self._numbers)

    def _basis(self, numbers: dict[str, Any]) -> RunBasis | None:
        # Rows, not frames: a sweep's workers are forked, and polars' threads do not live through that.
        if not self.served:
            return None
        pools, arrivals = self.scenario.all_pools, self.scenario.workload.arrivals
        kinds = {"closed_loop": "closed", "burst": "queued"}
        users = getattr(arrivals, "users", None) or numbers["mean_concurrency"] or 1.0
        engines = sum(pool.replicas * pool.ranks_apart for pool in pools.values() if pool.role != "prefill")
        load = Load(
            kinds.get(arrivals.kind, "open"),
            max(1, round(users / max(1, engines))),
            apart=any(pool.role == "prefill" for pool in pools.values()),
        )
        scenario = self.scenario
        faults = faults_in(scenario, self.outages_drawn)
        unfelt = {key[1] for key, _ in self._without_effect(faults)}
        degraded = any(
            (fault.link or fault.place) and index not in unfelt for index, fault in enumerate(faults)
        )
        return run_basis(
            numbers, self.served, scenario.kernels, self.collectives, scenario.topology, load, degraded
        )

    def explain(self, sensitivity: Effects | None = None) -> Verdict:
        """What the run says, in three to ten sentences with their numbers: what limits it, whether the
        objectives hold, what the slowest waited for, what would help most (by `sensitivity`, where given).
        """
        from sim.results.told import Told
        from sim.results.verdict import verdict

        scenario = self.scenario
        kept = objectives_kept(self.records, scenario.workload.slos, scenario.warmup, scenario.cooldown)
        return verdict(
            Told(
                setting_of(self.scenario, self.deployment, self.outages_drawn),
                self.records,
                self.blame_records,
                {name: self.link_rows[name] for name in self.link_rows.kinds},
                {name: self.gpu_rows[name] for name in self.gpu_rows.kinds},
                self._numbers,
                *kept,
                self.ended,
                sensitivity,
            )
        )

    @cached_property
    def surroundings(self) -> Surroundings:
        """Machine, pools, faults and objectives, as the report shows them beside the rows."""
        names, n_bytes = self.link_rows["link"], self.link_rows["n_bytes"]
        used = names[n_bytes > 0.0].tolist()
        return surroundings_of(self.scenario, self.deployment, used, self.outages_drawn)

    def faults_without_effect(self) -> list[tuple[tuple[str | int, ...], str]]:
        """The faults of the scenario that nothing in this run can have felt: their keys, and why."""
        return self._without_effect(self.scenario.faults)

    def _outages_without_effect(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        wanted = self.scenario.outages
        if wanted is not None:
            yield from outages_without_effect(
                wanted,
                self.outages_drawn,
                lambda faults: {int(key[1]): why for key, why in self._without_effect(faults)},
            )

    def _without_effect(self, faults: Sequence[Fault]) -> list[tuple[tuple[str | int, ...], str]]:
        if not faults:
            return []
        # Rows, not frames: see `unmeasured_gpus`.
        gpus, links = self.gpu_rows.columns["gpu"], self.link_rows.columns["link"]
        serving = {gpus[row] for row, replica in enumerate(self.gpu_rows["replica"]) if replica >= 0}
        bytes_by_link = {links[row]: float(n) for row, n in enumerate(self.link_rows["n_bytes"])}
        aborted_s = self.records.requests["aborted_s"]
        found = faults_without_effect(
            self.scenario.wired.graph,
            faults,
            serving,
            bytes_by_link,
            self.end_s,
            aborted_at_end=bool((aborted_s == self.end_s).any()),
            down=[*self.around, *(link for link in bytes_by_link if _wait_for(link) in self.unfinished)],
        )
        return list(found)

    def save(
        self, folder: str | Path, *, force: bool = False, tables: Literal["csv", "parquet"] | None = None
    ) -> Path:
        """Write tables, summary, trace, report and manifest into `folder`, which is whole or absent; one that
        holds files is refused unless `force`, and then nothing of them stays. Tables are CSV up to a million
        rows, unless `tables` says otherwise. `sim.load_result` reads it.
        """
        from sim.views.save import save

        return save(self, Path(folder), force=force, tables=tables or "")


def mean_wait_s(wait: Waits) -> float:
    """The mean of a client's wait, by its law."""
    match wait:
        case FixedWait():
            return wait.value_s
        case UniformWait():
            return 0.5 * (wait.low_s + wait.high_s)
        case _:
            return wait.mean_s


Beside = Callable[[simpy.Environment, Fabric], Generator[simpy.Event, object, object]]


def simulate(
    scenario: Scenario,
    seed: int = 0,
    fold: bool = True,
    without: Sequence[str] = (),
    beside: Sequence[Beside] = (),
    check: bool | None = None,
    interruption: Interruption | None = None,
    recorder: Recorder | None = None,
) -> Result:
    """Run a scenario. The same scenario, seed and version give the same rows, folded or played.

    `without` names causes that are to cost nothing (`sharing`, `collective_latency`, `collective_bytes`,
    `host`, `kernel_latency`): the difference to the full run is what they cost, queueing included.

    `beside` are processes of a script that share clock and links with the service: generator functions of
    (environment, fabric) that put their own transfers on the links or change capacities. The run lasts until
    they have ended too.

    `interruption` ends the run between two events when it is asked for; the books are closed there, as at a
    time limit.

    `recorder` keeps every step, op and transfer of its windows for a timeline (`Result.recorded`); the rows
    are the same.

    `check` looks at every invariant after every instant (`sim.runtime.self_checks`) and raises
    `BrokenInvariantError`, which names the first that breaks; the rows are the same, and the run takes a
    multiple of its time. Unless it is said, a run is checked where the environment has SIM_CHECK=1.

    Raises InfeasibleError when the scenario cannot be (does not fit, unreachable, indivisible), and
    UnfinishedError when nothing can happen any more although requests are open. A run that reaches
    `time_limit_s` ends there, its open requests counted as unfinished.
    """
    if interruption is None:
        interruption = Interruption()
    if without:
        scenario = with_changes(scenario, {"without": tuple(without)})
    limit = scenario.time_limit_s
    if limit == 0.0:
        raise InputError(Problem("must be more than 0, or left out", key="time_limit_s", value="0"))
    if check is None:
        check = os.environ.get("SIM_CHECK") == "1"
    env = WatchedClock() if check else simpy.Environment()
    network = Network(scenario.wired.graph)
    with files_read() as listed:
        outages = outages_of(scenario, seed)
    faults = faults_in(scenario, outages)
    losses = Losses(network, faults)
    is_contended = "sharing" not in scenario.without
    if recorder is None:
        fabric = (Fabric if is_contended else UncontendedFabric)(env, network)
    else:
        fabric = recorded_fabric(recorder, env, network, is_contended=is_contended)
        limit = min(recorder.ends_at_s, inf if limit is None else limit)
        limit = None if limit == inf else limit
    blame = BlameRecords()
    world = World(
        scenario, env, network, fabric, Records(), fold, seed,
        is_recorded=recorder is not None, slowed=slowed_by_gpu(outages),
    )  # fmt: skip
    deployment = deployment_of(scenario, network)
    with files_read() as traces:
        service = _service(world, deployment, blame)
    recoveries = Recoveries(world, service, deployment, scenario.recovery)
    rerouting = None
    if is_contended and any(not fault.stops_engines for fault in faults):  # several may take a link whole
        rerouting = Rerouting(world, service, deployment, recoveries)
    schedule_faults(env, network, fabric, service, faults, losses, recoveries, rerouting)
    checks = None
    if isinstance(env, WatchedClock):
        checks = SelfChecks(env, network, fabric, service, world.records, blame, beside=bool(beside))
    folded_s = None
    if fold and checks is None and not beside:
        folded_s = fold_queue(scenario, list(service.replicas), service.generator, world.records, blame)
    if folded_s is None:
        service.begin()
    else:
        service.has_served(folded_s)
    for process in beside:
        env.process(process(env, fabric))
    service.on_over = partial(_over, service, stops=not beside)
    interruption.watch(partial(_so_far, world, service))
    interruption.run(env, limit, lambda: len(world.records.requests) + len(service.open))
    waiting = tuple(waits(service, fabric)) if service.open else ()
    # Without a limit the run ends only when no event is left: an open request will never go on.
    if service.open and limit is None and not interruption.is_asked_for:
        raise UnfinishedError(
            f"{len(service.open)} requests are open at {env.now:g} s and nothing can happen", waiting
        )
    ended = ALL_ENDED
    if service.open or service.awaits_more:
        ended = interruption.why if interruption.is_asked_for else TIME_LIMIT
    result = _result(world, deployment, service, blame, waiting)
    if checks is not None:
        shares = "sharing" not in scenario.without
        checks.finish(result.link_rows, result.gpu_rows, result.end_s, shares=shares)
    read = scenario.files_read | traces | listed
    result = replace(
        result, ended=ended, inputs=read, outages_drawn=outages, lost_at_s=frozenset(service.lost_at_s)
    )
    if rerouting is not None:
        result = replace(result, around=frozenset(network.links[link] for link in rerouting.crossed))
    if recorder is not None:
        recorded = recorder.close(network, list(service.replicas), env.now)
        recorded.link_kinds = link_kinds(network, scenario)
        result = replace(result, recorded=recorded)
    return result


def _service(world: World, deployment: Deployment, blame: BlameRecords) -> Service:
    """The replicas of a scenario behind their router, and the requests that will come."""
    scenario = world.scenario
    replicas, by_model = replicas_of(deployment, world)
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
        hedge_after_s=None if scenario.hedge is None else scenario.hedge.after_s,
        detection_s=scenario.recovery.detection_s,
    )


def _over(service: Service, *, stops: bool) -> None:
    """The last request has left. What is still under way (a step whose requests were all aborted, a copy to a
    lower tier) counts up to this instant, as in a run that its limit cuts. Where a script's processes go on,
    the engines have stopped.
    """
    if stops:
        raise StopSimulation(None)
    for replica in service.replicas:
        replica.halt()


def _so_far(world: World, service: Service, events: int) -> SoFar:
    """How far a run has come, from counters alone."""
    env, workload = world.env, world.scenario.workload
    ended, there = len(world.records.requests), len(service.open)
    running = sum(len(queue.running) for replica in service.replicas for queue in replica.queues)
    shares = [ended / workload.requests] if workload.requests else []
    limits = (workload.duration_s, world.scenario.time_limit_s)
    shares += [env.now / limit for limit in limits if limit]
    return SoFar(env.now, ended, running, max(0, there - running), events, max(shares, default=None))


def _wait_for(link: object) -> str:
    return f"transfers wait for {link}, which is down"


def _result(
    world: World, deployment: Deployment, service: Service, blame: BlameRecords, waiting: tuple[str, ...]
) -> Result:
    """The books of a run that has ended, closed."""
    replicas, records = list(service.replicas), world.records
    for replica in replicas:
        replica.stop()
    service.close()
    # A run cut by its limit ends there; else it ends with its last request, and later events do not count.
    records.end_s = world.env.now if service.open else service.ended_s
    served = {
        (plan.pool.model.name, id(plan.pool.engine), shard.gpu.name): Served(
            shard.gpu, plan.pool.model, plan.pool.precision, plan.pool.engine
        )
        for plan in deployment.replicas
        for shard in plan.shards
    }
    return Result(
        world.scenario,
        world.seed,
        records,
        blame,
        _link_rows(world.fabric, records.end_s),
        _gpu_rows(world.network, replicas),
        records.end_s,
        waiting,
        kv_tier_rows(replicas),
        deployment,
        served=tuple(served.values()),
        collectives=tuple(dict.fromkeys(_collectives(world.network, deployment))),
        hedges=None if service.hedging is None else (service.hedging.sent, service.hedging.won),
    )


def _collectives(network: Network, deployment: Deployment) -> Iterator[Collectives]:
    """Whose collectives run, where a replica has several GPUs."""
    for plan in deployment.replicas:
        if len(plan.gpus) > 1:
            yield collectives_on(network, plan.gpus)


def _link_rows(fabric: Fabric, end_s: float) -> Table:
    """One row per link: capacity (the mean over the run), bytes, and seconds with at least one, and at least
    two, transfers.
    """
    rows = Table(LINK_COLUMNS)
    for row in fabric.rows(end_s):
        rows.append(str(row.link), row.bytes_per_s, row.n_bytes, row.busy_s, row.shared_s)
    return rows


def _gpu_rows(network: Network, replicas: list[Replica]) -> Table:
    """One row per GPU: which replica and stage it serves (-1: none), and the seconds in which it had a
    step.
    """
    rows = Table(GPU_COLUMNS)
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
