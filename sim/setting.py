"""The setting of a run, for its verdict: words and limits from a scenario and its deployment. No clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, permutations, product

from sim.cost.network import Network
from sim.deployment import Deployment
from sim.inputs.errors import InfeasibleError
from sim.inputs.faults import Fault
from sim.inputs.outages import Outage
from sim.inputs.parts import part_of_place
from sim.results.outages import EngineDown, OutageRow
from sim.results.setting import FaultSetting, PoolSetting, Setting, Surroundings, Traffic
from sim.scenario.scenario import Pool, Scenario
from sim.views.machine_map import machine_map

MAX_PAIRS = 5200  # of GPUs whose way is looked up for one kind of traffic: all of a rack of 72, in 0.1 s
MANY_PAIRS = 64  # of engines that hand over: of more, only GPUs at the same place are looked up


def setting_of(scenario: Scenario, deployment: Deployment, outages: Sequence[Outage] = ()) -> Setting:
    """Machine, pools, kinds of links and faults of a scenario as it was deployed, and a run's outages."""
    network = Network(scenario.wired.graph)
    places = [network.places[gpu] for plan in deployment.replicas for gpu in plan.gpus]
    return Setting(
        scenario.topology.name,
        scenario.topology.servers,
        len(network.gpus),
        tuple(dict.fromkeys(str(place.get("model", "")) for place in places)),
        tuple(_pools(scenario, deployment)),
        link_kinds(network, scenario),
        fault_settings(scenario, outages),
        getattr(scenario.workload.arrivals, "users", None),
    )


def fault_settings(scenario: Scenario, outages: Sequence[Outage] = ()) -> tuple[FaultSetting, ...]:
    """The faults of a scenario, and the outages of a run, in words: one line of each, whatever it takes."""
    stated = (
        FaultSetting(_what(fault), fault.at_s, fault.until_s, fault.stops_engines, bool(fault.capacity))
        for fault in scenario.faults
    )
    drawn = (
        FaultSetting(_outage(one), one.at_s, one.until_s, one.stops, not one.stops and _leaves_some(one))
        for one in outages
    )
    return (*stated, *drawn)


def _outage(outage: Outage) -> str:
    """What an outage is of: `compute tray node0.compute_tray3`, `gpu node0.gpu1 1.25 times slower`."""
    text = f"{outage.kind.replace('_', ' ')} {outage.name}"
    left = {fault.capacity for fault in outage.faults if fault.capacity}
    if outage.slowed:
        return f"{text} {outage.slowed[0].factor:.3g} times slower"
    return f"{text}, {min(left):.0%} of its links' capacity left" if left and not outage.stops else text


def _leaves_some(outage: Outage) -> bool:
    return bool(outage.slowed) or all(fault.capacity for fault in outage.faults)


def _pools(scenario: Scenario, deployment: Deployment) -> Iterator[PoolSetting]:
    first = 0
    for name, pool in scenario.all_pools.items():
        engines = pool.replicas * pool.ranks_apart
        plans = deployment.replicas[first : first + engines]
        least = min(plans, key=lambda plan: plan.limits.max_num_seqs)
        in_step = len(least.shards[0].groups) if least.shards else pool.engine.data_parallel_size
        yield PoolSetting(
            name,
            pool.role,
            pool.model.name,
            _layout(pool),
            first,
            engines,
            len(least.gpus),
            max(1, len(least.shards)),
            least.limits.max_num_seqs * in_step,
            least.limits.max_num_batched_tokens * in_step,
            pool.model.is_moe,
            pool.engine.scheduler == "static",
            pool.engine.capacity_scheduler_policy == "guaranteed_no_evict",
            pool.engine.service_time is not None,
            bool(pool.engine.enforce_eager),
        )
        first += engines


def _layout(pool: Pool) -> str:
    """Degrees of parallelism of one engine that are not one: `TP 4 x PP 2`."""
    engine = pool.engine
    in_step = 1 if pool.ranks_apart > 1 else engine.data_parallel_size
    degrees = {
        "TP": engine.tensor_parallel_size,
        "PP": engine.pipeline_parallel_size,
        "DP": in_step,
    }
    found = " x ".join(f"{name} {degree}" for name, degree in degrees.items() if degree > 1)
    if pool.model.is_moe and engine.enable_expert_parallel and pool.engine.world_size > 1:
        found += " with expert parallelism"
    return found or "one GPU"


def _what(fault: Fault) -> str:
    """What a fault is of: `replica 1`, `link a->b at 50 % of its capacity`."""
    if fault.replica is not None:
        return f"replica {fault.replica}"
    named = {"link": fault.link, "place": fault.place, "gpu": fault.gpu, "node": fault.node}
    text = next((f"{kind} {name}" for kind, name in named.items() if name), "a part")
    return f"{text} at {fault.capacity:.0%} of its capacity" if fault.capacity else text


def link_kinds(network: Network, scenario: Scenario) -> dict[str, str]:
    """The kind of each link by its name in the rows of a run, where chips of a crossbar, or spines that carry
    traffic as one, are one place.
    """
    whole = {part: name for name, parts in network.stripes.items() for part in parts}
    kinds = {name: store_kind(name) for name in network.places}
    for one, other, attributes in scenario.wired.graph.edges(data=True):
        kinds[f"{whole.get(one, one)}->{whole.get(other, other)}"] = (
            str(attributes.get("link", "")) or "links"
        )
    return kinds


def store_kind(place: str) -> str:
    """The kind of a place that has a rate of its own, by its name.

    >>> store_kind("node0.host1"), store_kind("node3.nvme0")
    ('host memory', 'nvme')
    """
    part = part_of_place(place)
    return "host memory" if part == "host" else part


def surroundings_of(
    scenario: Scenario, deployment: Deployment, used_links: Iterable[str], outages: Sequence[Outage] = ()
) -> Surroundings:
    """What the report of a run shows beside its rows; `used_links` are those that carried anything."""
    network = Network(scenario.wired.graph)
    setting = setting_of(scenario, deployment, outages)
    used = list(used_links)
    traffic, traffic_on = _traffic(network, deployment, set(used))
    whole = {part: name for name, parts in network.stripes.items() for part in parts}
    return Surroundings(
        replace(setting, link_kinds={link: setting.link_kinds.get(link, "links") for link in used}),
        {name: slo.model_dump(exclude_none=True) for name, slo in scenario.workload.slos.items()},
        traffic,
        traffic_on,
        machine_map(scenario.wired.graph, whole),
    )


def _traffic(
    network: Network, deployment: Deployment, used: set[str]
) -> tuple[tuple[Traffic, ...], dict[str, tuple[int, ...]]]:
    """All that puts bytes on links, and the numbers of it by link."""
    found: list[Traffic] = []
    by_link: dict[str, list[int]] = {}

    def add(one: Traffic, pairs: Iterable[tuple[str, str]]) -> None:
        names = _links_between(network, pairs) & used
        for name in names:
            by_link.setdefault(name, []).append(len(found))
        found.append(one)

    for plan in deployment.replicas:
        ranks = [shard.ranks for shard in plan.shards]
        for stage, members in enumerate(ranks):
            add(Traffic("steps", plan.index, stage), permutations(members, 2))
            if stage + 1 < len(ranks):
                add(Traffic("sends", plan.index, stage), product(members, ranks[stage + 1]))
    senders = [plan for plan in deployment.replicas if plan.pool.role == "prefill"]
    receivers = [plan for plan in deployment.replicas if plan.pool.role == "decode"]
    for sender, receiver in product(senders, receivers):
        if sender.pool.model.name == receiver.pool.model.name:
            many = len(senders) * len(receivers) > MANY_PAIRS
            pairs = (
                zip(sender.gpus, receiver.gpus, strict=False) if many else product(sender.gpus, receiver.gpus)
            )
            add(Traffic("hand-overs", sender.index, to=receiver.index), pairs)
    return tuple(found), {name: tuple(numbers) for name, numbers in sorted(by_link.items())}


def _links_between(network: Network, pairs: Iterable[tuple[str, str]]) -> set[str]:
    """The links on the ways of pairs of places, and the memories that they are staged in."""
    links: set[int] = set()
    for source, target in islice(pairs, MAX_PAIRS):
        try:
            links.update(network.path(source, target).links)
        except InfeasibleError:
            continue
    return {network.links[link] for link in links}


def outage_rows_of(
    scenario: Scenario, deployment: Deployment, outages: Sequence[Outage]
) -> tuple[list[OutageRow], list[EngineDown]]:
    """Everything that failed in a run, and when each engine was out."""
    nodes = {gpu: str(said.get("node", 0)) for gpu, said in scenario.wired.graph.nodes(data=True)}
    whole = [(plan.index, plan.gpus) for plan in deployment.replicas]

    def stopped(fault: Fault) -> tuple[int, ...]:
        if not fault.stops_engines:
            return ()
        return tuple(
            index
            for index, gpus in whole
            if fault.replica == index
            or (fault.gpu and fault.gpu in gpus)
            or (fault.node and any(fault.node == f"node{nodes[gpu]}" for gpu in gpus))
        )

    rows = [
        OutageRow(*_kind_and_name(fault), "stated", fault.at_s, fault.until_s, None, stopped(fault))
        for fault in scenario.faults
    ]
    windows: dict[int, list[tuple[float, float | None]]] = {}
    for one in outages:
        engines = tuple(sorted({index for fault in one.faults for index in stopped(fault)}))
        rows.append(OutageRow(one.kind, one.name, one.cause, one.at_s, one.until_s, one.warned_s, engines))
    for fault in (*scenario.faults, *(fault for one in outages for fault in one.faults)):
        for index in stopped(fault):
            windows.setdefault(index, []).append((fault.at_s, fault.until_s))
    engines_down = [EngineDown(max(1, len(gpus)), tuple(windows.get(index, ()))) for index, gpus in whole]
    return sorted(rows, key=lambda row: row.at_s), engines_down


def _kind_and_name(fault: Fault) -> tuple[str, str]:
    if fault.replica is not None:
        return "replica", f"replica{fault.replica}"
    named = {"link": fault.link, "place": fault.place, "gpu": fault.gpu, "node": fault.node}
    return next((kind, name) for kind, name in named.items() if name)
