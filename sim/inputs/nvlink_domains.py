"""The same GPUs in NVLink domains of another size: cut into islands, or joined over several servers.

Servers, trays, NICs and hosts stay as they are. Only switch chips change: every domain has as many as a
server had, and a GPU as many links to them, so that its rate into its domain stays. What was inside a domain
and is now between two goes over NICs.

Domains larger than a server stand on two tiers of chips: the chips of a server stay, and each has as many
links up, to the one chip of the second tier with its number, as down to GPUs (full bisection). On one tier
all GPUs of a domain hang on the same chips, as if these had the ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import networkx as nx

from sim.inputs.server_graph import places_of_kind

MAX_DOMAIN = 4096


def nearest_sizes(gpus: int, servers: int, size: int) -> tuple[int, ...]:
    """The sizes next to one that whole servers cannot have: the next below and the next above.

    >>> nearest_sizes(72, 8, 100), nearest_sizes(72, 2, 288)
    ((72, 144), (144,))
    """
    below = min(size // gpus, servers) * gpus
    return tuple(near for near in (below, below + gpus) if gpus <= near <= gpus * servers)


def regroup(graph: nx.DiGraph[str], size: int, tiers: int) -> None:
    """Put the GPUs of a graph of equal servers into NVLink domains of `size`, in their order.

    The last domain of a server (of the system, where domains are larger) has those that are left.
    """
    servers: dict[int, list[str]] = {}
    for gpu in places_of_kind(graph, "gpu"):
        servers.setdefault(graph.nodes[gpu]["node"], []).append(gpu)
    chips: dict[int, list[str]] = {node: [] for node in servers}
    for chip in places_of_kind(graph, "nvswitch"):
        chips[graph.nodes[chip]["node"]].append(chip)
    per_server = len(servers[0])
    if size < per_server:
        island = 0
        for node, gpus in servers.items():
            groups = [gpus[start : start + size] for start in range(0, per_server, size)]
            _cut(graph, chips[node], groups)
            for group in groups:
                for gpu in group:
                    graph.nodes[gpu]["island"] = island
                island += 1
    elif size > per_server:
        together = size // per_server
        nodes = list(servers)
        for number, start in enumerate(range(0, len(nodes), together)):
            members = nodes[start : start + together]
            if len(members) > 1:
                join = _join_below if tiers == 2 else _join_as_one
                join(graph, [chips[node] for node in members], number)


def _cut(graph: nx.DiGraph[str], chips: Sequence[str], groups: Sequence[Sequence[str]]) -> None:
    """Give every group of GPUs chips of its own; the first keeps those that there are."""
    of_part: dict[str, int] = {}
    for chip in chips:
        part = chip.rstrip("0123456789")
        of_part[part] = of_part.get(part, 0) + 1
    twins = [{chip: _twin(chip, of_part, number) for chip in chips} for number in range(len(groups))]
    home = {gpu: number for number, group in enumerate(groups) for gpu in group}
    for number, twin in enumerate(twins[1:], 1):
        for chip, copy in twin.items():
            attributes = graph.nodes[chip]
            graph.add_node(copy, **{**attributes, "index": attributes["index"] + number * len(chips)})
    for chip in chips:
        for one, other, edge in [*graph.out_edges(chip, data=True), *graph.in_edges(chip, data=True)]:
            far = other if one == chip else one
            if far in home and home[far] == 0:
                continue
            for number in range(1, len(groups)) if far not in home else (home[far],):
                twin = twins[number]
                graph.add_edge(twin.get(one, one), twin.get(other, other), **edge)
        graph.remove_edges_from(
            [edge for gpu, number in home.items() if number for edge in ((gpu, chip), (chip, gpu))]
        )


def _twin(chip: str, of_part: dict[str, int], number: int) -> str:
    """The name of a chip's copy for that group: of two chips, `nvswitch1` is `nvswitch3` in group 1."""
    part = chip.rstrip("0123456789")
    return f"{part}{int(chip[len(part) :]) + number * of_part[part]}"


def _join_below(graph: nx.DiGraph[str], servers: Iterable[Sequence[str]], number: int) -> None:
    """A second tier above the chips of several servers: one chip for all of the same number."""
    for index, chips in enumerate(zip(*servers, strict=True)):
        top = f"domain{number}.nvswitch{index}"
        for tier, chip in ((2, top), *((1, chip) for chip in chips)):
            graph.add_node(chip, **{**graph.nodes[chips[0]], "index": index, "node": -1} if tier == 2 else {})
            graph.nodes[chip]["tier"] = tier
        for chip in chips:
            down = [edge for _, to, edge in graph.out_edges(chip, data=True) if _is_gpu(graph, to)]
            links = sum(edge["count"] for edge in down)
            rate = sum(edge["bytes_per_s"] for edge in down)
            for ends in ((chip, top), (top, chip)):
                graph.add_edge(*ends, **{**down[0], "count": links, "bytes_per_s": rate})


def _join_as_one(graph: nx.DiGraph[str], servers: Iterable[Sequence[str]], number: int) -> None:
    """All GPUs of several servers on the same chips, in place of those of the servers."""
    for index, chips in enumerate(zip(*servers, strict=True)):
        one = f"domain{number}.nvswitch{index}"
        graph.add_node(one, **{**graph.nodes[chips[0]], "index": index, "node": -1})
        for chip in chips:
            for _, to, edge in list(graph.out_edges(chip, data=True)):
                graph.add_edge(one, to, **edge)
            for source, _, edge in list(graph.in_edges(chip, data=True)):
                graph.add_edge(source, one, **edge)
            graph.remove_node(chip)


def _is_gpu(graph: nx.DiGraph[str], place: str) -> bool:
    return bool(graph.nodes[place]["kind"] == "gpu")
