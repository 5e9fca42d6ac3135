"""A script's own graph in place of a written topology: what it must say, and what is filled in."""

from __future__ import annotations

import math
from typing import Any, get_args

import networkx as nx

from sim.inputs.errors import InputError, Problem
from sim.inputs.parts import CARRIERS, PartKind
from sim.inputs.server_graph import number_domains, places_of_kind

KINDS: tuple[str, ...] = get_args(PartKind)
MAX_PROBLEMS = 20


def completed_graph(graph: nx.DiGraph[str]) -> nx.DiGraph[str]:
    """A copy of `graph` with everything that consumers rely on.

    A node must have `kind`, a gpu also `model`; an edge must have `bytes_per_s` and an edge the other way.
    Filled in where missing: `node` 0 (-1 for a switch), `index` in order, `latency_s` 0, `domain` by
    connectedness, `transport` infiniband, `link` and `count`; `graph.graph["gpus"]` in order of node and
    index. InputError lists all problems.
    """
    found = (
        []
        if graph.is_directed()
        else ["the graph is undirected; pass a networkx.DiGraph, as from graph.to_directed()"]
    )
    if graph.is_multigraph():
        found.append("the graph has parallel edges; give one edge with their summed bytes_per_s, and count")
    if found:
        raise InputError([Problem(what, key="topology") for what in found])
    problems = [*_node_problems(graph), *_edge_problems(graph), *_gpu_order_problems(graph)]
    if problems:
        shown = problems[:MAX_PROBLEMS]
        if len(problems) > MAX_PROBLEMS:
            shown.append(Problem(f"and {len(problems) - MAX_PROBLEMS} more like these", key="topology"))
        raise InputError(shown)
    return _filled(graph)


def _node_problems(graph: nx.DiGraph[str]) -> list[Problem]:
    problems = []
    for place, attributes in graph.nodes(data=True):
        where = f"node {place!r}"
        kind = attributes.get("kind")
        if not isinstance(place, str):
            problems.append(Problem("the name of a node is text; relabel it, as in 'node0.gpu0'", key=where))
        if kind not in KINDS:
            wrong = "has no kind" if kind is None else f"kind {kind!r} is unknown"
            problems.append(Problem(f"{wrong}; one of {', '.join(KINDS)} is right", key=where))
        if kind == "gpu" and not isinstance(attributes.get("model"), str):
            problems.append(Problem("a gpu needs a model; name one, as in model='h100-sxm'", key=where))
        known = " or ".join(CARRIERS.values())
        if kind == "nic" and attributes.get("transport", "infiniband") not in CARRIERS.values():
            problems.append(
                Problem(
                    f"transport {attributes['transport']!r} is unknown; {known} is right",
                    key=where,
                )
            )
        if attributes.get("routing", "adaptive") not in ("adaptive", "static"):
            problems.append(
                Problem(
                    f"routing {attributes['routing']!r} is unknown; adaptive or static is right", key=where
                )
            )
        if "bytes_per_s" in attributes and attributes["bytes_per_s"] is not None:
            problems += _number_problems(where, "bytes_per_s", attributes["bytes_per_s"], above_zero=True)
        problems += _number_problems(where, "latency_s", attributes.get("latency_s", 0.0), above_zero=False)
        for name in ("node", "index", "domain"):
            if not isinstance(attributes.get(name, 0), int):
                problems.append(Problem(f"{name} {attributes[name]!r} is not a whole number", key=where))
    return problems


def _edge_problems(graph: nx.DiGraph[str]) -> list[Problem]:
    problems = []
    for one, other, attributes in graph.edges(data=True):
        where = f"edge {one!r} -> {other!r}"
        if one == other:
            problems.append(Problem("an edge joins two different nodes", key=where))
        if not graph.has_edge(other, one):
            problems.append(
                Problem(
                    f"there is no edge back; links carry both directions, so add {other!r} -> {one!r}",
                    key=where,
                )
            )
        if "bytes_per_s" not in attributes:
            problems.append(
                Problem(
                    "bytes_per_s is missing; give the payload per direction, as in bytes_per_s=50e9",
                    key=where,
                )
            )
        else:
            problems += _number_problems(where, "bytes_per_s", attributes["bytes_per_s"], above_zero=True)
        problems += _number_problems(where, "latency_s", attributes.get("latency_s", 0.0), above_zero=False)
    return problems


def _number_problems(where: str, name: str, value: Any, *, above_zero: bool) -> list[Problem]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return [
            Problem(
                f"{name} {value!r} is not a finite number; give it in the base unit, without text", key=where
            )
        ]
    if value < 0 or (above_zero and value == 0):
        bound = "above 0" if above_zero else "at least 0"
        return [Problem(f"{name} = {value!r}: must be {bound}", key=where)]
    return []


def _gpu_order_problems(graph: nx.DiGraph[str]) -> list[Problem]:
    gpus = {place for place, attributes in graph.nodes(data=True) if attributes.get("kind") == "gpu"}
    if not gpus:
        return [Problem("no node has kind 'gpu'; at least one is needed", key="topology")]
    named = graph.graph.get("gpus")
    if named is not None and (set(named) != gpus or len(named) != len(gpus)):
        return [
            Problem("graph.graph['gpus'] must name every gpu once, in the order of ranks", key="topology")
        ]
    return []


def _fill_latency(attributes: dict[str, Any]) -> None:
    """A latency that is not given is 0 on paths, and to collectives that of the machines of the fits."""
    if "latency_s" not in attributes:
        attributes["latency_s"] = 0.0
        if attributes.get("kind") not in ("gpu", "store"):  # which end ways
            attributes["latency_unknown"] = True


def _filled(graph: nx.DiGraph[str]) -> nx.DiGraph[str]:
    filled: nx.DiGraph[str] = graph.copy()
    seen: dict[tuple[str, int], int] = {}
    for _, attributes in filled.nodes(data=True):
        kind = attributes["kind"]
        node = attributes.setdefault("node", -1 if kind == "switch" else 0)
        index = seen.get((kind, node), 0)
        seen[kind, node] = index + 1
        attributes.setdefault("index", index)
        _fill_latency(attributes)
        if kind in ("nvswitch", "switch"):
            attributes.setdefault("reduces", False)
        if kind == "nic":
            attributes.setdefault("transport", "infiniband")
    for _, _, attributes in filled.edges(data=True):
        _fill_latency(attributes)
        attributes.setdefault("link", "")
        attributes.setdefault("count", 1)
    gpus = places_of_kind(filled, "gpu")
    if any("domain" not in filled.nodes[gpu] for gpu in gpus):
        number_domains(filled)
    in_order = sorted(gpus, key=lambda place: (filled.nodes[place]["node"], filled.nodes[place]["index"]))
    filled.graph.setdefault("gpus", in_order)
    return filled
