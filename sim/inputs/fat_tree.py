"""Joins servers by a rail-optimised fat tree: one switch if it suffices, else leaves per rail and spines."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import networkx as nx

from sim.inputs.errors import InfeasibleError
from sim.inputs.hardware import LinkType
from sim.inputs.parts import ScaleOut
from sim.inputs.server_graph import edge_attributes


def join_servers(
    graph: nx.DiGraph[str], servers: Sequence[tuple[Sequence[str], LinkType]], network: ScaleOut
) -> None:
    """Add switches and edges to `graph`. `servers` has the names of each server's NICs, in order of rails,
    and what joins them to the switches, which are joined to each other by the fastest of these.

    A leaf serves the NICs of one rail of consecutive servers (a scalable unit), as in NVIDIA's SuperPOD
    reference designs: with 64-port switches 32 servers per unit and at most 64 leaves, so 2,048 NICs.
    InfeasibleError above. With `oversubscription` a leaf has fewer links up than NICs, as many as those that
    hang on the fullest one need.
    """
    count = sum(len(nics) for nics, _ in servers)
    rails = network.rails or max(len(nics) for nics, _ in servers)
    ports = network.switch_ports
    if count <= ports:
        _add_switch(graph, f"{network.name}leaf0", 0, network)
        for nics, link in servers:
            for nic in nics:
                _connect(graph, nic, f"{network.name}leaf0", link, 1)
        return
    down = network.ports_down
    on_rail = [[(nic, link) for nics, link in servers for nic in nics[rail::rails]] for rail in range(rails)]
    leaves = rails * -(-max(map(len, on_rail)) // down)
    if leaves > ports:
        raise InfeasibleError(
            f"{len(servers)} servers with {count} NICs exceed two tiers of {ports}-port switches",
            f"{ports // rails * down * rails * len(servers) // count} servers fit, or take switches with "
            "more ports",
        )
    between = max((link for _, link in servers), key=lambda link: link.payload_bytes_per_s)
    up = ports - down
    if network.oversubscription is not None:
        up = _uplinks(on_rail, down, network.oversubscription * between.payload_bytes_per_s)
    # The fewest that have the ports for all uplinks and divide a leaf's uplinks evenly.
    spines = next(n for n in range(1, up + 1) if up % n == 0 and n * ports >= leaves * up)
    for leaf in range(leaves):
        _add_switch(graph, f"{network.name}leaf{leaf}", leaf, network)
    for spine in range(spines):
        _add_switch(graph, f"{network.name}spine{spine}", leaves + spine, network)
    for rail, joined in enumerate(on_rail):
        for position, (nic, link) in enumerate(joined):
            _connect(graph, nic, f"{network.name}leaf{position // down * rails + rail}", link, 1)
    for leaf in range(leaves):
        for spine in range(spines):
            _connect(graph, f"{network.name}leaf{leaf}", f"{network.name}spine{spine}", between, up // spines)


def _uplinks(on_rail: Sequence[Sequence[tuple[str, LinkType]]], down: int, bytes_per_s: float) -> int:
    """How many uplinks a leaf has where each takes what so many bytes/s of NICs send."""
    fullest = max(
        sum(link.payload_bytes_per_s for _, link in joined[start : start + down])
        for joined in on_rail
        for start in range(0, len(joined), down)
    )
    return ceil(fullest / bytes_per_s - 1e-9)  # a rounded quotient is no further uplink


def _add_switch(graph: nx.DiGraph[str], name: str, index: int, network: ScaleOut) -> None:
    graph.add_node(
        name, kind="switch", node=-1, index=index, latency_s=network.latency_s, reduces=network.reduces
    )
    if network.routing == "static":
        graph.nodes[name]["routing"] = "static"


def _connect(graph: nx.DiGraph[str], one: str, other: str, link: LinkType, count: int) -> None:
    graph.add_edge(one, other, **edge_attributes(link, count))
    graph.add_edge(other, one, **edge_attributes(link, count))
