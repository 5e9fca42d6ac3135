"""Attacks on folding: scenarios of every kind, and events at the very instants at which a run's own ops and
steps begin and end.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from heapq import merge
from typing import Any

import pytest
import simpy
from hypothesis import strategies as st

from sim.inputs.errors import InfeasibleError, UnfinishedError
from sim.runtime.clock import at
from sim.runtime.engine.engine_core import EngineCore
from sim.runtime.engine.stage import Passed
from sim.runtime.fabric.fabric import Fabric
from sim.scenario.scenario import Scenario
from sim.simulate import Beside, Result, simulate
from sim.workload.request import Request
from tests.laws.folded_and_played import differences
from tests.laws.folding_scenarios import scenarios, small, split_scenarios

ROUTERS = (
    "round_robin",
    "random",
    "least_connections",
    "power_of_choices",
    "shortest_tokens",
    "prefix_aware",
    "central_queue",
)
KINDS = ("plain", "plain", "pools", "experts", "tiers")


@dataclass(frozen=True)
class Instants:
    """When ops of stages began, began to flow and ended, and when steps ended, in a played run."""

    ops: tuple[float, ...]
    steps: tuple[float, ...]
    end_s: float


@dataclass(frozen=True)
class Attack:
    """What is done to a scenario: more arrivals, clients that give up (which, and when), foreign transfers,
    changes of capacity, an early end.
    """

    data: dict[str, Any]
    arrivals: tuple[float, ...] = ()
    give_ups: tuple[tuple[int, float], ...] = ()
    transfers: tuple[float, ...] = ()
    capacities: tuple[float, ...] = ()
    seed: int = 0

    def differences(self) -> tuple[list[str], Result]:
        """What is not the same in the folded and in the played run, and the folded run."""
        with pytest.MonkeyPatch.context() as patched:
            patch_generator(patched, self)
            return differences(self.data, seed=self.seed, beside=self.beside())

    def run(self) -> Result:
        """The folded run."""
        with pytest.MonkeyPatch.context() as patched:
            patch_generator(patched, self)
            return simulate(Scenario.model_validate(self.data), seed=self.seed, beside=self.beside())

    def instants(self) -> Instants:
        """Of a played run of all this."""
        with pytest.MonkeyPatch.context() as patched:
            patch_generator(patched, self)
            return instants_of(Scenario.model_validate(self.data), self.seed, self.beside())

    def beside(self) -> list[Beside]:
        found = []
        if self.transfers:
            found.append(transfers_at(self.transfers, self.seed))
        if self.capacities:
            found.append(capacities_at(self.capacities, self.seed))
        return found


@st.composite
def attacked(draw: st.DrawFn) -> dict[str, Any]:
    """A scenario with every feature that decides by what a replica is doing."""
    kind = draw(st.sampled_from(KINDS))
    data = draw(split_scenarios() if kind == "pools" else scenarios())
    data.pop("time_limit_s", None)
    data["router"] = draw(st.sampled_from(ROUTERS))
    if draw(st.integers(0, 3)) == 0:
        data["router_staleness_s"] = draw(st.sampled_from([0.003, 0.05]))
    if kind == "pools":
        data["hand_over"] = {
            "kv": draw(st.sampled_from(["whole", "layerwise"])),
            "first_token": draw(st.sampled_from(["decode", "prefill"])),
        }
        if draw(st.booleans()):
            blocks = draw(st.sampled_from([60, 90, 130]))
            data["pools"]["answers"]["engine"] = {
                **data["pools"]["answers"]["engine"],
                "num_gpu_blocks_override": blocks,
            }
    elif kind == "experts":
        ranks = draw(st.sampled_from([2, 4]))
        sizes = {
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": draw(st.sampled_from([1, 1, 2])),
            "data_parallel_size": ranks,
            "enable_expert_parallel": True,
        }
        data |= {
            "topology": "l40s-12",
            "nodes": draw(st.sampled_from([1, 2])),
            "placement": draw(st.sampled_from(["packed", "strided"])),
            "model": small("qwen3-30b-a3b", 4),
            "replicas": draw(st.sampled_from([1, 1, 2])),
            "engine": {**data["engine"], **sizes},
        }
        if sizes["pipeline_parallel_size"] > 1:
            data["engine"].pop("speculation", None)
    elif kind == "tiers":
        sizes = {"host": {"capacity_bytes": draw(st.sampled_from(["50 MB", "2 GB"]))}}
        data["engine"] = {
            **data["engine"],
            "enable_prefix_caching": True,
            "num_gpu_blocks_override": draw(st.sampled_from([60, 90, 130])),
            "kv_tiers": {"write": draw(st.sampled_from(["through", "on_eviction"])), **sizes},
        }
        data["kv_reload"] = draw(st.sampled_from(["always", "cost"]))
        data["workload"] = {
            **data["workload"],
            "prefix": {"groups": draw(st.sampled_from([2, 5])), "tokens": 64, "block_tokens": 16},
        }
        if draw(st.booleans()):
            data["workload"].pop("prefix")
            starts = {"kind": "poisson", "rate_per_s": 30.0}
            data["workload"]["arrivals"] = {
                "kind": "sessions",
                "starts": starts,
                "turns": 3,
                "tool_delay_s": 0.02,
            }
    if draw(st.integers(0, 3)) == 0 and kind != "tiers":
        data["workload"] = {
            **data["workload"],
            "classes": {"urgent": {"priority": 0}, "plain": {"priority": 3, "output_tokens": 20}},
        }
        for engine in engines_of(data):
            engine["scheduling_policy"] = "priority"
    return data


def engines_of(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The engines of a scenario, to be changed."""
    if "pools" in data:
        for pool in data["pools"].values():
            pool["engine"] = dict(pool["engine"])
            yield pool["engine"]
    if "engine" in data:
        yield data["engine"]


def holds(data: dict[str, Any], seed: int) -> None:
    """Asserts that an attacked run is the same folded and played, where it can be."""
    try:
        found, _ = attack(data, seed).differences()
    except (InfeasibleError, UnfinishedError):  # no such place for the replicas; a link stays down
        return
    assert not found, found


def attack(data: dict[str, Any], seed: int) -> Attack:
    """Some of everything, at instants taken from played runs: each arrival changes what follows, so the next
    is taken from the run with those before.
    """
    rng = random.Random(seed)
    found = Attack(data, seed=seed)
    when = found.instants()
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 2, 3))):
            last_s = max(found.arrivals, default=-1.0)
            later = [instant for instant in when.steps if instant > last_s]
            if not later:
                break
            early = later[: max(1, len(later) // 2)]
            chosen = rng.choice(early)
            copies = rng.choice((1, 1, 2))
            found = replace(found, arrivals=(*found.arrivals, *[nudged(chosen, rng)] * copies))
            when = found.instants()
    if rng.random() < 0.5:
        requests = data["workload"]["requests"]
        who = [*rng.choices(range(requests), k=rng.choice((1, 3))), *([1_000_000] if found.arrivals else [])]
        for request, instant in zip(who, sample(when, len(who), rng), strict=False):
            found = replace(found, give_ups=(*found.give_ups, (request, instant)))
        when = found.instants()
    if rng.random() < 0.4:
        down, *rest = sample(when, 2, rng)
        until_s = rng.choice((None, max(rest, default=down)))
        fault = {"at_s": down, "replica": rng.randrange(replicas_in(data))}
        if until_s is not None and until_s > down:
            fault["until_s"] = until_s
        how = {"faults": [*data.get("faults", ()), fault], "on_failure": rng.choice(("resubmit", "abort"))}
        found = replace(found, data={**data, **how})
        data = found.data
        when = found.instants()
    if rng.random() < 0.5:
        found = replace(found, transfers=sample(when, rng.choice((1, 3, 8)), rng))
        when = found.instants()
    if rng.random() < 0.4:
        found = replace(found, capacities=sample(when, rng.choice((2, 4, 6)), rng))
        when = found.instants()
    if rng.random() < 0.3 and not data.get("faults"):
        places = _places(Scenario.model_validate(data))
        begin, *rest = sample(when, 2, rng)
        until = max(rest, default=begin)
        if until <= begin:
            until = begin + 0.01
        fault = {
            "at_s": begin,
            "until_s": until,
            "place": rng.choice(places),
            "capacity": rng.choice((0.0, 0.0, 0.4)),
        }
        found = replace(found, data={**data, "faults": [fault]})
        when = found.instants()
    if rng.random() < 0.25:
        limit_s = sample(when, 1, rng)[0]
        if limit_s > 0.0:
            found = replace(found, data={**found.data, "time_limit_s": limit_s})
    return found


def _places(scenario: Scenario) -> list[str]:
    graph = scenario.wired.graph
    return [place for place, about in graph.nodes.items() if about.get("kind") in ("gpu", "nic", "host")]


def sample(when: Instants, number: int, rng: random.Random) -> tuple[float, ...]:
    """Instants of ops and steps, some of them twice, some nudged to the nearest float, in order."""
    pool = [*when.steps, *rng.sample(when.ops, min(len(when.ops), len(when.steps) + 5))] or [0.0]
    chosen = [nudged(rng.choice(pool), rng) for _ in range(number)]
    if rng.random() < 0.4:
        chosen += [chosen[0]]
    if rng.random() < 0.3:
        chosen += [0.5 * (chosen[0] + rng.choice(pool))]
    return tuple(sorted(max(0.0, instant) for instant in chosen))


def nudged(instant: float, rng: random.Random) -> float:
    """Mostly itself, now and then the float before or after it."""
    return rng.choice(
        (instant, instant, instant, math.nextafter(instant, 0.0), math.nextafter(instant, math.inf))
    )


def instants_of(scenario: Scenario, seed: int, beside: list[Beside]) -> Instants:
    ops: set[float] = set()
    steps: set[float] = set()
    start, passed = Fabric.start, EngineCore._passed

    def noted(fabric: Fabric, demand: Any, **how: Any) -> Any:
        if how.get("owner") is not None:
            now = fabric.env.now
            ops.update((now, now + demand.latency_s, how["planned_end"]))
        return start(fabric, demand, **how)

    def ended(loop: EngineCore, stage: int, flight: Any, what: Passed) -> None:
        steps.add(what.end_s)
        passed(loop, stage, flight, what)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Fabric, "start", noted)
        patched.setattr(EngineCore, "_passed", ended)
        end_s = simulate(scenario, seed=seed, fold=False, beside=beside).end_s
    return Instants(
        tuple(sorted(instant for instant in ops if instant <= end_s)), tuple(sorted(steps)), end_s
    )


def replicas_in(data: dict[str, Any]) -> int:
    return sum(pool["replicas"] for pool in data.get("pools", {"": data}).values())


def patch_generator(patched: pytest.MonkeyPatch, attack: Attack) -> None:
    """Let requests of their own arrive beside those of the workload, and clients give up when told to."""
    arrivals, give_ups = attack.arrivals, dict(attack.give_ups)
    if not arrivals and not give_ups:
        return
    module = sys.modules["sim.simulate"]
    make = module.request_generator  # type: ignore[attr-defined]
    rng = random.Random(attack.seed)
    more = [
        Request(1_000_000 + i, instant, rng.choice((1, 40, 300)), rng.choice((1, 2, 17)), session=1_000_000)
        for i, instant in enumerate(arrivals)
    ]

    def given_up(request: Request) -> Request:
        instant = give_ups.get(request.request_id)
        if instant is not None and instant >= request.arrival_s:
            wait_s = instant - request.arrival_s
            near = (wait_s, math.nextafter(wait_s, 0.0), math.nextafter(wait_s, math.inf))
            wait_s = next((one for one in near if request.arrival_s + one == instant), wait_s)
            if request.request_id % 3:
                request.timeout_s = wait_s
            else:
                request.patience_s = wait_s
        return request

    def with_more(workload: Any, seed: int) -> Any:
        generator = make(workload, seed)
        kind = type(generator)
        iterate, follow = kind.__iter__, kind.next_request

        class More(kind):  # type: ignore[misc,valid-type]
            def __iter__(self) -> Iterator[Request]:
                own = [replace(one) for one in more]
                if self.sampler.names:
                    for one in own:
                        one.request_class = self.sampler.names[0]
                every = merge(iterate(self), own, key=lambda request: request.arrival_s)
                return map(given_up, every)

            def next_request(self, session: int, now_s: float, missing_tokens: int = 0) -> Request | None:
                if session == 1_000_000:
                    return None
                following = follow(self, session, now_s, missing_tokens)
                return None if following is None else given_up(following)

        generator.__class__ = More
        return generator

    patched.setattr(module, "request_generator", with_more)


def transfers_at(instants: tuple[float, ...], seed: int) -> Beside:
    """Transfers at these instants on links of all kinds: of many bytes, of one, of none; some are given up,
    and some are followed by another as they end.
    """

    def beside(env: simpy.Environment, fabric: Fabric) -> Generator[simpy.Event, object, object]:
        rng = random.Random(seed)
        for number, instant in enumerate(instants):
            if instant > env.now:
                yield at(env, instant, lambda _: None)
            links = rng.sample(range(len(fabric.links)), min(len(fabric.links), rng.choice((2, 6))))
            amount = rng.choice((2e6, 3e7, 1.0, 0.0))
            transfer = fabric.transfer(
                dict.fromkeys(links, amount),
                latency_s=rng.choice((0.0, 0.0, 3e-6)),
                weight=rng.choice((1.0, 2.0)),
            )
            what = rng.choice(("leave", "leave", "abort", "follow"))
            if what == "abort":
                later = instants[min(number + 1, len(instants) - 1)]
                at(env, max(later, env.now), fabric.abort, argument=transfer)
            elif what == "follow":

                def again(_: Any, links: list[int] = links, amount: float = amount) -> None:
                    fabric.transfer(dict.fromkeys(links, amount))

                transfer.on_done = again

    return beside


def capacities_at(instants: tuple[float, ...], seed: int) -> Beside:
    """Links go slow or down at one of the instants, and are as built at the next and at the last."""

    def beside(env: simpy.Environment, fabric: Fabric) -> Generator[simpy.Event, object, object]:
        rng = random.Random(seed)
        built = list(fabric.capacity)
        slow: list[int] = []
        for number, instant in enumerate(instants):
            if instant > env.now:
                yield at(env, instant, lambda _: None)
            for link in slow:
                fabric.set_capacity(link, built[link])
            last = number == len(instants) - 1
            slow = [] if last else rng.sample(range(len(built)), -(-len(built) // rng.choice((2, 3, 9))))
            for link in slow:
                fabric.set_capacity(link, built[link] * rng.choice((0.0, 0.0, 0.1, 0.9)))

    return beside
