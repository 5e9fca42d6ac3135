"""Faults and outages that no request can have felt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import networkx as nx

from sim.cost.network import Network
from sim.inputs.faults import Fault
from sim.inputs.outages import Outage, Outages
from sim.scenario.references import Found, faultable_places


def faults_without_effect(
    graph: nx.DiGraph[str],
    faults: Sequence[Fault],
    serving: Collection[str],
    bytes_by_link: Mapping[str, float],
    end_s: float,
    *,
    aborted_at_end: bool = False,
    down: Collection[str] = (),
) -> Iterator[Found]:
    """Every fault that no request can have felt: it began when all was over, or no engine ran on what
    stopped, or no byte crossed what was lost. `serving` are the GPUs that engines ran on. `aborted_at_end`:
    requests ended without their answer at `end_s`, as those of an engine that failed then do. `down` are the
    links that transfers waited for to the end.
    """
    network = Network(graph)
    for number, fault in enumerate(faults):
        key: tuple[str | int, ...] = ("faults", number)
        kind = next(
            kind for kind in ("replica", *faultable_places(network)) if getattr(fault, kind) not in ("", None)
        )
        name = getattr(fault, kind)
        ended_it = fault.stops_engines and fault.at_s == end_s and aborted_at_end
        if fault.at_s >= end_s and not ended_it:
            when = f"before {fault.at_s:g} s" if fault.at_s > end_s else "at the instant of the fault"
            yield (*key, "at_s"), f"nothing fails: the run ended at {end_s:g} s, {when}"
        elif kind in ("gpu", "node"):
            fail = {gpu for gpu in network.gpus if name in (gpu, f"node{network.node_of[gpu]}")}
            if not fail.intersection(serving):
                yield (*key, kind), f"nothing fails: no engine runs on {name}"
        elif kind in ("link", "place"):
            links = _links(network, name)
            if not sum(bytes_by_link[link] for link in links) and not set(links).intersection(down):
                yield (*key, kind), f"nothing is slower: no byte crossed {name} in this run"


def outages_without_effect(
    wanted: Outages, outages: Sequence[Outage], felt: Callable[[Sequence[Fault]], Mapping[int, str]]
) -> Iterator[Found]:
    """The keys of outages of which no request can have felt any, and why. `felt` gives the numbers of those
    of some faults that none can have felt, with the reasons.
    """
    groups: dict[tuple[str | int, ...], list[Outage]] = {}
    for number, one in enumerate(wanted.at):
        groups["outages", "at", number] = [
            outage
            for outage in outages
            if outage.cause == "stated" and (outage.kind, outage.at_s) == (one.kind, one.at_s)
            and (outage.name == one.name or fnmatchcase(outage.name, one.name))
        ]  # fmt: skip
    if wanted.recorded:
        groups["outages", "recorded"] = [outage for outage in outages if outage.cause == "recorded"]
    if wanted.random is not None:
        mine = [outage for outage in outages if outage.cause not in ("stated", "recorded")]
        groups["outages", "random"] = mine
    for key, group in groups.items():
        why = _why_unfelt(group, felt)
        if why:
            yield key, why


def _why_unfelt(group: Sequence[Outage], felt: Callable[[Sequence[Fault]], Mapping[int, str]]) -> str:
    if not group:
        return "no outage comes of it before the run would end"
    faults = [fault for outage in group for fault in outage.faults]
    # A slow GPU is to its engine what one that stops is: it must serve, before the end.
    faults += [Fault(at_s=slow.at_s, gpu=slow.gpu) for outage in group for slow in outage.slowed]
    if not faults:
        return "nothing fails: a rack has more power shelves than it needs"
    unfelt = felt(faults)
    return next(iter(unfelt.values())) if len(unfelt) == len(faults) else ""


def _links(network: Network, name: str) -> list[str]:
    """The links that are `name`, or end at it, or of which it is a share."""
    if name in network.bundled:
        return [network.links[link] for link in network.bundled[name]]
    crossbars = [crossbar for crossbar, chips in network.stripes.items() if name in chips]
    return [
        link
        for link, ends in zip(network.links, network.ends, strict=True)
        if name == link or {name, *crossbars}.intersection(ends)
    ]
