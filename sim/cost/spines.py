"""Which spines of a fabric carry traffic together: equal ways up from the same leaves, with adaptive routing.

Adaptive routing sends every packet over the uplink with the shortest queue, so that the spines over a set of
leaves share all bytes evenly, as parallel lanes of one link do. A path over them then has two links in
place of two for every spine.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from math import isclose

import networkx as nx


def bundles_of_spines(graph: nx.DiGraph[str]) -> dict[str, list[str]]:
    """The spines that carry traffic together, by a name for all of them.

    A spine is a switch that is joined to switches only. Those over the same leaves are one where every leaf
    has the same share of its rate on each of them, and none routes statically or can block by itself.
    """
    over: dict[frozenset[str], list[str]] = {}
    for place, attributes in graph.nodes(data=True):
        if attributes.get("kind") == "switch" and attributes.get("routing") != "static":
            leaves = frozenset(graph.successors(place))
            if (
                leaves
                and attributes.get("bytes_per_s") is None
                and leaves == frozenset(graph.predecessors(place))
                and all(graph.nodes[leaf].get("kind") == "switch" for leaf in leaves)
            ):
                over.setdefault(leaves, []).append(place)
    bundles: dict[str, list[str]] = {}
    for leaves, spines in over.items():
        if len(spines) > 1 and len(leaves) > 1 and _spread_evenly(graph, sorted(leaves), spines):
            bundles[_name(spines, {*graph, *bundles})] = spines
    return bundles


def _spread_evenly(graph: nx.DiGraph[str], leaves: Sequence[str], spines: Sequence[str]) -> bool:
    """True where every leaf divides its rate over the spines in the same proportions, up and down."""
    divided = []
    for leaf in leaves:
        for edges in ([(leaf, spine) for spine in spines], [(spine, leaf) for spine in spines]):
            rates = [float(graph.edges[edge]["bytes_per_s"]) for edge in edges]
            if not all(rate > 0.0 for rate in rates):
                return False
            divided.append([rate / sum(rates) for rate in rates])
    return all(
        isclose(share, other, rel_tol=1e-9)
        for shares in divided
        for share, other in zip(shares, divided[0], strict=True)
    )


def _name(spines: Sequence[str], taken: Collection[str]) -> str:
    """`spines` for spine0, spine1; where that is taken, the first one's name and how many more."""
    stems = {re.sub(r"\d+$", "", spine) for spine in spines}
    name = f"{stems.pop()}s"
    return f"{spines[0]}+{len(spines) - 1}" if stems or name in taken else name
