"""The picture of a machine: parts as boxes, links as lines coloured by their type."""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, log10, pi, sin
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.inputs.topology_check import tiers
from sim.views.files import check_suffix, rows, save_chart
from sim.views.layout import BOX_HEIGHT, BOX_WIDTH, Box, Frame, Graph, Layout, arc_depth, has_arc, layout_of

if TYPE_CHECKING:
    import altair

    from sim.inputs.parts import ScaleOut
    from sim.inputs.topology import Topology

COLOURS = {
    "gpu": "#76b041",
    "nvswitch": "#b39ddb",
    "pcie_switch": "#cfd8dc",
    "host": "#90caf9",
    "nic": "#ffcc80",
    "switch": "#ffab91",
    "store": "#d7ccc8",
}
LINK_COLOURS = {  # by how the name begins, so that a generation of PCIe is the same in every picture
    "nvlink-c2c": "#8e24aa",
    "nvlink": "#4c9a2a",
    "pcie3": "#90a4ae",
    "pcie4": "#1e88e5",
    "pcie5": "#1a3fb5",
    "pcie6": "#00acc1",
    "pcie": "#1e88e5",
    "infiniband": "#e65100",
    "roce": "#fb8c00",
    "efa": "#fb8c00",
    "infinity-fabric": "#00897b",
    "unified-bus": "#00897b",
    "azure-ethernet": "#d81b60",
    "ena": "#d81b60",
    "ethernet": "#d81b60",
    "upi": "#6d4c41",
    "qpi": "#6d4c41",
    "xgmi": "#6d4c41",
}
OTHER_COLOURS = ("#00897b", "#546e7a", "#c0a000", "#5c6bc0")
ARC_STEPS = 16
MANY_LINES = 120  # from here on lines are thin and pale, so that the boxes stay readable


def draw_topology(topology: Topology, path: Path) -> Path:
    """Draw a system into a .svg, .png or .html file."""
    check_suffix(path)
    return save_chart(topology_chart(topology), path)


def topology_chart(topology: Topology) -> altair.LayerChart:
    """The picture of a system as an altair chart."""
    import altair as alt

    drawn = layout_of(topology.graph)
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, drawn.width], nice=False, zero=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[drawn.height, 0], nice=False, zero=False))
    servers = "1 server" if topology.servers == 1 else f"{topology.servers} servers"
    # In this order, so that boxes cover the ends of their lines and nothing covers a text.
    chart: alt.LayerChart = (
        alt.layer(
            *_frames(drawn, x, y),
            _wires(topology.graph, drawn, x, y),
            *_boxes_and_labels(drawn, x, y),
            *_titles_and_notes(drawn, x, y),
            title=alt.Title(f"{topology.name}, {servers}", subtitle=_subtitle(topology), anchor="start"),
        )
        .properties(width=drawn.width, height=drawn.height)
        .configure_view(stroke=None)
        .configure_legend(labelFontSize=12, titleFontSize=12)
        .configure_title(fontSize=16, subtitleFontSize=12)
    )
    return chart


def _frames(drawn: Layout, x: altair.X, y: altair.Y) -> list[altair.Chart]:
    """Rectangles around servers, and dashed ones around what stands for servers that are left out."""
    import altair as alt

    return [
        alt.Chart(rows([_framed(frame) for frame in drawn.frames if frame.dashed == dashed]))
        .mark_rect(
            fill="#fafafa",
            stroke="#9e9e9e",
            strokeWidth=1,
            cornerRadius=8,
            strokeDash=[5, 4] if dashed else [1, 0],
        )
        .encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
        for dashed in (False, True)
        if any(frame.dashed == dashed for frame in drawn.frames)
    ]


def _wires(graph: Graph[str], drawn: Layout, x: altair.X, y: altair.Y) -> altair.Chart:
    """Lines between parts, coloured by the type of link."""
    import altair as alt

    named = _named(graph)
    lines = _lines(graph, drawn, named)
    crowded = len({point["wire"] for point in lines}) > MANY_LINES
    for point in lines:
        point["width"] *= 0.5 if crowded else 1.0
    colour = alt.Color(
        "link:N",
        scale=alt.Scale(domain=list(named.values()), range=_colours(list(named))),
        legend=alt.Legend(
            title="link, payload per direction",
            orient="bottom",
            symbolType="stroke",
            symbolStrokeWidth=3,
            columns=3,
            labelLimit=400,
            direction="horizontal",
            symbolOpacity=1,
        ),
    )
    strokes: altair.Chart = (
        alt.Chart(rows(lines))
        .mark_line(opacity=0.5 if crowded else 0.85)
        .encode(
            x=x,
            y=y,
            color=colour,
            detail="wire:N",
            order="step:Q",
            strokeWidth=alt.StrokeWidth("width:Q", scale=None, legend=None),
        )
    )
    return strokes


def _boxes_and_labels(drawn: Layout, x: altair.X, y: altair.Y) -> tuple[altair.Chart, altair.Chart]:
    """A box for each part, filled by its kind, and its label in the middle."""
    import altair as alt

    shown = rows(
        [
            {
                "x": box.x - box.width / 2,
                "x2": box.x + box.width / 2,
                "middle": box.x,
                "y": box.y - BOX_HEIGHT / 2,
                "y2": box.y + BOX_HEIGHT / 2,
                "centre": box.y,
                "label": box.label,
                "kind": box.kind,
            }
            for box in drawn.boxes.values()
        ]
    )
    by_kind = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    boxes = (
        alt.Chart(shown)
        .mark_rect(stroke="#616161", strokeWidth=0.8, cornerRadius=3)
        .encode(x=x, y=y, x2="x2:Q", y2="y2:Q", fill=alt.Fill("kind:N", legend=None, scale=by_kind))
    )
    # The same scales under other fields: labels stand in the middle, boxes are given by their corners.
    at_middle, at_centre = x.copy(), y.copy()
    at_middle.shorthand, at_centre.shorthand = "middle:Q", "centre:Q"
    labels = (
        alt.Chart(shown)
        .mark_text(fontSize=10, color="#212121")
        .encode(x=at_middle, y=at_centre, text="label:N")
    )
    return boxes, labels


def _titles_and_notes(drawn: Layout, x: altair.X, y: altair.Y) -> tuple[altair.Chart, altair.Chart]:
    """The name of each frame at its lower left, and notes of how much is left out."""
    import altair as alt

    corners = [{**_framed(frame), "x": frame.left + 10, "y": frame.bottom - 12} for frame in drawn.frames]
    titles = (
        alt.Chart(rows(corners))
        .mark_text(align="left", baseline="middle", fontSize=12, fontWeight="bold", color="#424242")
        .encode(x=x, y=y, text="title:N")
    )
    notes = (
        alt.Chart(rows([{"x": note.x, "y": note.y, "text": note.label} for note in drawn.notes]))
        .mark_text(fontSize=12, fontStyle="italic", color="#616161")
        .encode(x=x, y=y, text="text:N")
    )
    return titles, notes


def _framed(frame: Frame) -> dict[str, Any]:
    return {"x": frame.left, "x2": frame.right, "y": frame.top, "y2": frame.bottom, "title": frame.title}


def _subtitle(topology: Topology) -> list[str]:
    lines = [topology.description] if topology.description else []
    if not topology.peer_to_peer:
        lines.append("peer-to-peer is off: copies between GPUs are staged in host memory")
    if topology.acs:
        lines.append("ACS is on: PCIe traffic between GPUs goes up to the root complex")
    if topology.servers > 1 and topology.inter_node != "infiniband":
        lines.append(f"between servers: {topology.inter_node}")
    for kind in topology.systems.values() or (topology,):
        lines += [_nics(kind, network) for network in kind.scale_out]
    lines += [f"switches {one.name}: {one}" for one in tiers(topology.graph) if one.spines]
    lines.append("lines are the wider the higher their rate")
    return lines


def _nics(topology: Topology, network: ScaleOut) -> str:
    """How many NICs a server has on a network, and the rate of each."""
    link = topology.links[network.link]
    rate = f"{link.payload_bytes_per_s / 1e9:.4g} GB/s of payload ({link.bytes_per_s * 8 / 1e9:.4g} Gbit/s)"
    return f"NICs of a server: {len(topology.nics_of(network))} on {network.link}, {rate} each"


def _width(bytes_per_s: float) -> float:
    """Pixels: one at 1 GB/s, and one more for each factor of ten above."""
    return 1.0 + max(log10(bytes_per_s / 1e9), -0.5)


def _colours(links: list[str]) -> list[str]:
    others = iter(OTHER_COLOURS * len(links))
    return [
        next((colour for start, colour in LINK_COLOURS.items() if link.startswith(start)), None)
        or next(others)
        for link in links
    ]


def _named(graph: Graph[str]) -> dict[str, str]:
    """What the legend says about each type of link: GB/s of one wire, and how many links a wire bundles."""
    rates: dict[str, set[float]] = {}
    counts: dict[str, set[int]] = {}
    for _, _, edge in graph.edges(data=True):
        rates.setdefault(edge["link"], set()).add(edge["bytes_per_s"])
        counts.setdefault(edge["link"], set()).add(edge.get("count", 1))
    named = {}
    for link in sorted(rates, key=lambda link: -max(rates[link])):
        links = _range(counts[link], "{:d}")
        bundled = "" if links == "1" else f" ({links} links a line)"
        named[link] = f"{link}: {_range({rate / 1e9 for rate in rates[link]}, '{:.4g}')} GB/s{bundled}"
    return named


def _range(values: set[Any], pattern: str) -> str:
    low, high = pattern.format(min(values)), pattern.format(max(values))
    return low if low == high else f"{low}-{high}"


def _lines(graph: Graph[str], drawn: Layout, named: Mapping[str, str]) -> list[dict[str, Any]]:
    """The points of every wire between two parts that are shown, one wire per pair."""
    points: list[dict[str, Any]] = []
    for wire, (source, target, edge) in enumerate(graph.edges(data=True)):
        one = drawn.boxes.get(drawn.folded.get(source, source))
        other = drawn.boxes.get(drawn.folded.get(target, target))
        if one is None or other is None or (graph.has_edge(target, source) and source > target):
            continue
        if (source, target) in drawn.bundled:
            continue
        points += _points(_corners(one, other, drawn), str(wire), named[edge["link"]], edge["bytes_per_s"])
    for number, bundle in enumerate(drawn.bundles):
        points += _points(
            [bundle.start, bundle.end], f"bundle {number}", named[bundle.link], bundle.bytes_per_s
        )
    return points


def _points(
    corners: list[tuple[float, float]], wire: str, link: str, bytes_per_s: float
) -> list[dict[str, Any]]:
    width = _width(bytes_per_s)
    return [
        {"x": x, "y": y, "step": step, "wire": wire, "link": link, "width": width}
        for step, (x, y) in enumerate(corners)
    ]


def _corners(one: Box, other: Box, drawn: Layout) -> list[tuple[float, float]]:
    """A straight line; along a row it dips below the boxes between, out of a server it begins upright."""
    start, end = (one.x, one.y), (other.x, other.y)
    if has_arc(one, other):
        half, depth = (other.x - one.x) / 2, arc_depth(one, other)
        angles = [pi * step / ARC_STEPS for step in range(ARC_STEPS + 1)]
        base = one.y + BOX_HEIGHT / 2
        return [(one.x + half * (1 - cos(angle)), base + depth * sin(angle)) for angle in angles]
    if one.y == other.y and abs(one.x - other.x) > 1.5 * BOX_WIDTH:
        dip = one.y + BOX_HEIGHT / 2 + min(8 + abs(one.x - other.x) / 16, 26)
        inset = BOX_WIDTH / 4 if one.x < other.x else -BOX_WIDTH / 4
        turns = [(one.x + inset * 2, dip), (other.x - inset * 2, dip)]
        return [(one.x + inset, one.y), *turns, (other.x - inset, other.y)]
    if {one.kind, other.kind} == {"nic", "switch"}:
        nic = one if one.kind == "nic" else other
        top = min(frame.top for frame in drawn.frames)
        return [start, (nic.x, top), end]
    return [start, end]
