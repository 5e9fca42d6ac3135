"""From parts and wires to the graph of one server, and from there to a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import networkx as nx

from sim.inputs.hardware import LinkType
from sim.inputs.parts import Part, Wire, members, part_of

Attributes = dict[str, Any]


def wire_pairs(wire: Wire, parts: Mapping[str, Part]) -> Iterator[tuple[int, int, int]]:
    """Index in `from`, index in `to`, and number of parallel links, for each pair that the pattern joins.

    ValueError where the numbers of members do not go together with the pattern.
    """
    source = members(wire.source, parts[part_of(wire.source)].count)
    to = members(wire.to, parts[part_of(wire.to)].count)
    links = wire.links if isinstance(wire.links, tuple) else (wire.links,) * len(to)
    if len(links) != len(to):
        raise ValueError(
            f"links has {len(links)} numbers for {len(to)} members of {wire.to}; one for each is right"
        )
    within = part_of(wire.source) == part_of(wire.to)
    for position, chosen in _joined(wire, source, to):
        if not (
            within
            and (to[chosen] == source[position] or (wire.pattern == "all" and to[chosen] < source[position]))
        ):
            yield source[position], to[chosen], links[chosen]


def _joined(wire: Wire, source: range, to: range) -> Iterator[tuple[int, int]]:
    """Positions within the two selections."""
    n, m = len(source), len(to)
    match wire.pattern:
        case "all":
            yield from ((i, j) for i in range(n) for j in range(m))
        case "one_to_one":
            if n != m:
                raise ValueError(f"one_to_one joins equal numbers; {wire.source} has {n}, {wire.to} has {m}")
            yield from ((i, i) for i in range(n))
        case "blocks":
            of = wire.of or 1
            if n != m * of:
                raise ValueError(
                    f"blocks of {of} put {of} x {m} = {of * m} on {wire.to}, but {wire.source} has {n}"
                    + (f"; 'of: {n // m}' fits" if n % m == 0 else "")
                )
            yield from ((i, i // of) for i in range(n))
        case "modulo":
            yield from ((i, i % m) for i in range(n))


def server_places(parts: Mapping[str, Part]) -> list[tuple[str, Attributes]]:
    """Names (`gpu3`) and attributes of the places of one server, in the order of the parts."""
    places: list[tuple[str, Attributes]] = []
    of_kind: dict[str, int] = {}
    for name, part in parts.items():
        for number in range(part.count):
            index = of_kind.get(part.kind, 0)
            of_kind[part.kind] = index + 1
            attributes = _attributes(part, index)
            if part.trays is not None:
                attributes["tray"] = number * part.trays // part.count
            places.append((f"{name}{number}", attributes))
    return places


def _attributes(part: Part, index: int) -> Attributes:
    attributes: Attributes = {"kind": part.kind, "index": index, "latency_s": part.latency_s or 0.0}
    if part.latency_s is None and part.kind not in ("gpu", "store"):  # which end ways
        attributes["latency_unknown"] = True
    if part.model is not None:
        attributes["model"] = part.model
    if part.kind in ("nvswitch", "switch"):
        attributes["reduces"] = part.reduces
    if not part.forwards_peers:
        attributes["forwards_peers"] = False
    if part.bytes_per_s is not None:
        attributes["bytes_per_s"] = part.bytes_per_s
    if part.kind == "nic":
        attributes["transport"] = part.transport or "infiniband"
    return attributes


def server_edges(
    parts: Mapping[str, Part], wires: Sequence[Wire], links: Mapping[str, LinkType]
) -> dict[tuple[str, str], Attributes]:
    """Edges of one server, both directions. ValueError where a pair is wired twice with different links."""
    edges: dict[tuple[str, str], Attributes] = {}
    for wire in wires:
        for i, j, count in wire_pairs(wire, parts):
            one, other = f"{part_of(wire.source)}{i}", f"{part_of(wire.to)}{j}"
            for pair in ((one, other), (other, one)):
                present = edges.get(pair)
                if present is not None and present["link"] != wire.link:
                    raise ValueError(
                        f"{one} and {other} are joined by {present['link']} already; between two places is "
                        f"one type of link, so put {wire.link} on a place between them"
                    )
                total = count + (present["count"] if present else 0)
                edges[pair] = edge_attributes(links[wire.link], total)
    return edges


def add_nics(
    places: list[tuple[str, Attributes]],
    edges: dict[tuple[str, str], Attributes],
    parts: Sequence[str],
    times: int,
) -> None:
    """Beside every NIC of these parts `times` - 1 more, each with wires of its own to the same places."""
    for part in parts:
        own = [(name, place) for name, place in places if name.rstrip("0123456789") == part]
        for turn in range(1, times):
            more = {name: f"{part}{turn * len(own) + number}" for number, (name, _) in enumerate(own)}
            index = turn * len(own)
            places += [(more[name], {**place, "index": place["index"] + index}) for name, place in own]
            ends = {
                (more.get(one, one), more.get(other, other)): edge
                for (one, other), edge in edges.items()
                if one in more or other in more
            }
            edges.update(ends)


def edge_attributes(link: LinkType, count: int) -> Attributes:
    """Attributes of an edge of `count` parallel links: payload bytes/s of all together, latency of one."""
    attributes: Attributes = {
        "bytes_per_s": link.payload_bytes_per_s * count,
        "latency_s": link.latency_s or 0.0,
        "link": link.name,
        "count": count,
    }
    if link.latency_s is None:
        attributes["latency_unknown"] = True
    return attributes


def places_of_kind(graph: nx.DiGraph[str], *kinds: str) -> list[str]:
    """Names of the places of these kinds, in the order of the graph."""
    return [place for place, attributes in graph.nodes(data=True) if attributes["kind"] in kinds]


def number_domains(graph: nx.DiGraph[str]) -> None:
    """Give every GPU and NVLink switch the number of its NVLink domain: what NVLink joins has one number.

    A GPU without NVLink is a domain by itself. Numbers follow the order of the places in the graph.
    """
    scale_up = places_of_kind(graph, "gpu", "nvswitch")
    number = 0
    seen: set[str] = set()
    for start in scale_up:
        if start in seen:
            continue
        reached = [start]
        seen.add(start)
        while reached:
            place = reached.pop()
            graph.nodes[place]["domain"] = number
            for neighbour in (*graph.successors(place), *graph.predecessors(place)):
                if neighbour not in seen and graph.nodes[neighbour].get("kind") in ("gpu", "nvswitch"):
                    seen.add(neighbour)
                    reached.append(neighbour)
        number += 1
