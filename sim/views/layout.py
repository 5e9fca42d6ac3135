"""Where the parts of a machine stand in its picture: rows by kind, columns by what hangs together.

From top to bottom: spine and leaf switches, then a box per server with its NICs, CPU sockets, PCIe
switches, GPUs and NVSwitch chips. A part stands above the middle of the GPUs that it serves. What repeats is
left out, and the picture says how much of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import networkx as nx

Graph = nx.DiGraph  # of place names

_INSIDE = {"nic", "host_nic", "host", "pcie_switch", "gpu", "nvswitch"}
TRAY_ROWS = ("nic", "host", "gpu")  # from the edge of a rack to its middle
TRAY_ROW, RACK_GAP = 52.0, 150.0
TRAY_COLUMN, TRAY_BOX = 46.0, 40.0
ROWS = ("spine", "leaf", "nic", "host_nic", "host", "pcie_switch", "gpu", "nvswitch")
COLUMN = 66.0  # pixels from one column to the next
ROW = 92.0
BOX_WIDTH, BOX_HEIGHT = 58.0, 26.0
MARGIN = 34.0
MAX_SERVERS = 2
MAX_GPUS = 16  # of one server; a rack of 72 shows its first and last trays
MAX_CHIPS = 12
MAX_SWITCHES = 64  # of one tier; a cluster of thousands of servers has more than a picture can show


@dataclass(frozen=True, slots=True)
class Box:
    """A part, by the middle of its box; y grows downwards."""

    place: str
    label: str
    kind: str
    x: float
    y: float
    width: float = BOX_WIDTH


@dataclass(frozen=True, slots=True)
class Frame:
    """A rectangle around a server, or around an inscription that stands for what is left out."""

    title: str
    left: float
    top: float
    right: float
    bottom: float
    dashed: bool = False
    node: int | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """Links of one type drawn as one line, with the sum of their rates and how many they are."""

    start: tuple[float, float]
    end: tuple[float, float]
    link: str
    bytes_per_s: float
    count: int


@dataclass(slots=True)
class Layout:
    """Everything that stands in the picture, and its size. Wires between places of `bundled` kinds are in
    `bundles`.
    """

    boxes: dict[str, Box] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    notes: list[Box] = field(default_factory=list)
    bundles: list[Bundle] = field(default_factory=list)
    bundled: set[tuple[str, str]] = field(default_factory=set)
    folded: dict[str, str] = field(default_factory=dict)  # a part to the one whose box stands for it too
    width: float = 0.0
    height: float = 0.0


def layout_of(graph: Graph[str]) -> Layout:
    """Places the parts of a topology graph."""
    drawn = Layout()
    servers = sorted({data["node"] for _, data in graph.nodes(data=True)} - {-1})
    racks = any("tray" in data for _, data in graph.nodes(data=True))
    most = 1 if racks else MAX_SERVERS
    shown = servers[:most] if len(servers) > most + (not racks) else servers
    above = [place for place, data in graph.nodes(data=True) if data["node"] == -1]
    upper = _sorted(graph, (place for place in above if graph.nodes[place]["kind"] == "nvswitch"))
    fabric = [place for place in above if place not in set(upper)]
    leaves, spines = _tiers(graph, fabric)
    row_of = {place: _row(graph, place, set(spines)) for place in graph.nodes}
    height_of = _heights(set(row_of.values()))
    left = MARGIN
    for server in shown:
        own = [place for place, data in graph.nodes(data=True) if data["node"] == server]
        if stands_in_trays(graph, own):
            right = add_rack(
                drawn, graph, server, own, left, min(height_of[row] for row in _INSIDE & {*height_of})
            )
        else:
            right = _add_server(drawn, graph, server, left, row_of, height_of)
        left = right + COLUMN * 0.6
    bottom = max((frame.bottom for frame in drawn.frames), default=0.0)
    if len(shown) < len(servers):
        top = min(frame.top for frame in drawn.frames)
        hidden = len(servers) - len(shown)
        drawn.frames.append(Frame("", left, top, left + 2.4 * COLUMN, bottom, dashed=True))
        drawn.notes.append(
            _note(
                f"{hidden} more {'rack' if racks else 'server'}{'s' if hidden > 1 else ''}",
                left + 1.2 * COLUMN,
                (top + bottom) / 2,
            )
        )
        left += 3 * COLUMN
    kept = max(len(tier[:MAX_SWITCHES]) + (len(tier) > MAX_SWITCHES) for tier in (leaves, spines, upper))
    drawn.width = max(left - COLUMN * 0.6 + MARGIN, 7 * COLUMN, kept * COLUMN + 2 * MARGIN)
    for row, switches in (("leaf", leaves), ("spine", spines)):
        _add_switches(drawn, switches, height_of.get(row, 0.0))
    _join_folded(drawn, graph, {*servers} - {*shown})
    if upper:  # NVLink chips over several servers, below all of these
        bottom += ROW
        for number, place in enumerate(upper[:MAX_SWITCHES]):
            x = drawn.width * (number + 0.5) / len(upper[:MAX_SWITCHES])
            drawn.boxes[place] = Box(place, place.rpartition(".")[2], "nvswitch", x, bottom)
        if len(upper) > MAX_SWITCHES:
            drawn.notes.append(
                _note(f"{len(upper) - MAX_SWITCHES} more", drawn.width / 2, bottom + BOX_HEIGHT)
            )
    drawn.height = max([bottom, *(box.y + BOX_HEIGHT for box in drawn.boxes.values())]) + MARGIN
    return drawn


def _row(graph: Graph[str], place: str, spines: set[str]) -> str:
    """The row of a part. What hangs on a socket is below the NICs on PCIe switches: rails stay straight."""
    kind = str(graph.nodes[place]["kind"])
    if kind == "nic" and any(graph.nodes[near]["kind"] == "host" for near in graph.successors(place)):
        server = graph.nodes[place]["node"]
        if any(
            data["node"] == server and data["kind"] == "pcie_switch" for _, data in graph.nodes(data=True)
        ):
            return "host_nic"
    if kind == "switch":
        return "spine" if place in spines else "leaf"
    return "host_nic" if kind == "store" else kind


def _heights(used: set[str]) -> dict[str, float]:
    """The y of each row that is used; the way up to the leaves is longer, for its slanted lines."""
    heights: dict[str, float] = {}
    y = MARGIN + 22.0
    for row in (row for row in ROWS if row in used):
        heights[row] = y
        y += ROW * {"leaf": 1.5, "host_nic": 0.75, "nic": 0.75 if "host_nic" in used else 1.0}.get(row, 1.0)
    return heights


def _tiers(graph: Graph[str], fabric: Iterable[str]) -> tuple[list[str], list[str]]:
    """The switches between servers: those that a NIC hangs on, and those above them."""
    fabric = list(fabric)
    low = [
        place for place in fabric if any(graph.nodes[near]["node"] >= 0 for near in graph.predecessors(place))
    ]
    return low, [place for place in fabric if place not in set(low)]


def _add_server(
    drawn: Layout,
    graph: Graph[str],
    server: int,
    left: float,
    row_of: dict[str, str],
    height_of: dict[str, float],
) -> float:
    """Adds one server with its left edge at `left`; its right edge."""
    own = [place for place, data in graph.nodes(data=True) if data["node"] == server]
    gpus = _sorted(graph, (place for place in own if graph.nodes[place]["kind"] == "gpu"))
    first, last = _kept(gpus, MAX_GPUS)
    hidden = len(gpus) - len(first) - len(last)
    columns: dict[str, float] = {}
    gap = 1.6 if hidden else 0.0
    for number, gpu in enumerate([*first, *last]):
        columns[gpu] = number + (gap if number >= len(first) else 0.0)
    width = (max(columns.values()) if columns else 0.0) + 1.0
    labels = _fold_nics(drawn, graph, own, len(gpus))
    for row in ("pcie_switch", "host", "host_nic", "nic", "leaf", "spine", "nvswitch"):
        parts = _sorted(graph, (place for place in own if row_of[place] == row and place not in drawn.folded))
        if row == "nvswitch":
            chips, last_chips = _kept(parts, MAX_CHIPS)
            note = _spread_evenly(columns, chips, last_chips, width)
            if note is not None:
                at_x = left + (note + 0.5) * COLUMN
                hidden_chips = len(parts) - len(chips) - len(last_chips)
                drawn.notes.append(_note(f"{hidden_chips} more", at_x, height_of[row]))
            continue
        wanted = {place: _above(graph, place, columns) for place in parts}
        _push_apart(columns, {place: at for place, at in wanted.items() if at is not None}, width)
    for place, column in columns.items():
        kind = graph.nodes[place]["kind"]
        at_x = left + (column + 0.5) * COLUMN
        drawn.boxes[place] = Box(
            place, labels.get(place) or place.partition(".")[2] or place, kind, at_x, height_of[row_of[place]]
        )
    own_boxes = [box for place, box in drawn.boxes.items() if graph.nodes[place]["node"] == server]
    span = max(max(box.x for box in own_boxes) + COLUMN * 0.5, left + width * COLUMN)
    tops, bottoms = min(box.y for box in own_boxes), max(box.y for box in own_boxes)
    if hidden:
        middle = (columns[first[-1]] + columns[last[0]]) / 2
        drawn.notes.append(_note(f"{hidden} more", left + (middle + 0.5) * COLUMN, height_of["gpu"]))
    title = f"node{server}: {len(gpus)}x {_models(graph, gpus)}"
    arcs = [
        arc_depth(drawn.boxes[one], drawn.boxes[other])
        for one, other in graph.edges(drawn.boxes.keys() & set(own))
        if other in drawn.boxes and has_arc(drawn.boxes[one], drawn.boxes[other])
    ]
    drawn.frames.append(Frame(title, left - 8, tops - 28, span + 8, bottoms + 40 + max(arcs, default=0.0)))
    return span + 8


def _fold_nics(drawn: Layout, graph: Graph[str], own: Sequence[str], gpus: int) -> dict[str, str]:
    """Where a server has far more NICs than GPUs, those on one part share a box; the labels of such boxes."""
    nics = _sorted(graph, (place for place in own if graph.nodes[place]["kind"] == "nic"))
    if gpus and len(nics) <= 2 * max(gpus, 4):
        return {}
    beside: dict[tuple[str, ...], list[str]] = {}
    for nic in nics:
        near = (place for place in graph.successors(nic) if graph.nodes[place]["node"] >= 0)
        beside.setdefault(tuple(near), []).append(nic)
    for first, *others in beside.values():
        drawn.folded.update(dict.fromkeys(others, first))
    return {first: f"{len(others) + 1} nics" for first, *others in beside.values() if others}


def has_arc(one: Box, other: Box) -> bool:
    """Whether a wire is drawn as an arc below its row: between two GPUs, or two NVLink chips."""
    return one.y == other.y and one.kind == other.kind and one.kind in ("gpu", "nvswitch")


def arc_depth(one: Box, other: Box) -> float:
    """How far below its row the arc of a wire between two GPUs goes: the farther apart, the deeper."""
    return 8.0 + 0.17 * abs(one.x - other.x)


def stands_in_trays(graph: Graph[str], own: Sequence[str]) -> bool:
    """Whether GPUs and NVLink chips of a server say in which trays they stand."""
    trays = {graph.nodes[place]["kind"] for place in own if "tray" in graph.nodes[place]}
    return {"gpu", "nvswitch"} <= trays


def add_rack(
    drawn: Layout, graph: Graph[str], server: int, own: Sequence[str], left: float, top: float
) -> float:
    """Adds a rack with its left edge at `left`: half of its compute trays above the switch trays, the others
    below, and one line between every two; its right edge.
    """
    trays: dict[int, dict[str, list[str]]] = {}
    chips: dict[int, list[str]] = {}
    for place in _sorted(graph, own):
        data = graph.nodes[place]
        if data["kind"] == "nvswitch":
            chips.setdefault(data["tray"], []).append(place)
        elif "tray" in data:
            trays.setdefault(data["tray"], {}).setdefault(data["kind"], []).append(place)
    above = -(-len(trays) // 2)
    gpus = max(len(tray["gpu"]) for tray in trays.values())
    pitch = gpus * TRAY_COLUMN + 22.0
    deep = TRAY_ROW * (len(TRAY_ROWS) - 1)
    middle = top + 20.0 + deep + RACK_GAP
    frames: dict[int, Frame] = {}
    for number, (tray, kinds) in enumerate(sorted(trays.items())):
        upper = number < above
        at = left + 8 + (number if upper else number - above) * pitch
        for row, kind in enumerate(TRAY_ROWS):
            y = (
                middle - RACK_GAP - deep + row * TRAY_ROW
                if upper
                else middle + RACK_GAP + deep - row * TRAY_ROW
            )
            places = kinds.get(kind, [])
            labels = _fold_nics(drawn, graph, places, 0) if len(places) > gpus else {}
            shown = [place for place in places if place not in drawn.folded]
            for column, place in enumerate(shown):
                label = labels.get(place) or place.partition(".")[2]
                x = at + gpus * TRAY_COLUMN * (column + 0.5) / len(shown)
                drawn.boxes[place] = Box(place, label, kind, x, y, TRAY_BOX)
        ends = middle - RACK_GAP, middle - RACK_GAP - deep
        if not upper:
            ends = middle + RACK_GAP + deep, middle + RACK_GAP
        frames[tray] = Frame(f"tray {tray}", at - 4, ends[1] - 20, at + gpus * TRAY_COLUMN + 4, ends[0] + 36)
    width = above * pitch
    switches: dict[int, Frame] = {}
    for number, (tray, places) in enumerate(sorted(chips.items())):
        centre = left + 8 + width * (number + 0.5) / len(chips)
        shown = places if len(places) * COLUMN <= pitch else places[:1]
        for column, place in enumerate(shown):
            label = place.partition(".")[2] if len(shown) == len(places) else f"{len(places)} chips"
            x = centre + COLUMN * (column - (len(shown) - 1) / 2)
            drawn.boxes[place] = Box(place, label, "nvswitch", x, middle)
        half = max(COLUMN * len(shown) / 2, 1.5 * BOX_WIDTH / 2)
        switches[tray] = Frame(f"switch tray {tray}", centre - half, middle - 20, centre + half, middle + 36)
    bottom = middle + RACK_GAP + deep + 70
    every = [gpu for tray in trays.values() for gpu in tray["gpu"]]
    title = f"node{server}: {len(every)}x {_models(graph, every)}"
    drawn.frames.append(Frame(title, left - 8, top - 28, left + width + 8, bottom, node=server))
    drawn.frames += [*frames.values(), *switches.values()]
    _bundle_trays(drawn, graph, own, frames, switches)
    return left + width + 8


def _bundle_trays(
    drawn: Layout, graph: Graph[str], own: Sequence[str], frames: dict[int, Frame], switches: dict[int, Frame]
) -> None:
    """One line for all NVLinks between a compute tray and a switch tray."""
    sums: dict[tuple[int, int, str], tuple[float, int]] = {}
    for gpu, chip, edge in graph.out_edges(own, data=True):
        if graph.nodes[gpu]["kind"] != "gpu" or graph.nodes[chip]["kind"] != "nvswitch":
            continue
        drawn.bundled.update(((gpu, chip), (chip, gpu)))
        key = graph.nodes[gpu]["tray"], graph.nodes[chip]["tray"], edge["link"]
        rate, count = sums.get(key, (0.0, 0))
        sums[key] = rate + edge["bytes_per_s"], count + edge.get("count", 1)
    for (tray, switch, link), (rate, count) in sums.items():
        one, other = frames[tray], switches[switch]
        upper = one.bottom < other.top
        start = (one.left + one.right) / 2, one.bottom if upper else one.top
        end = (other.left + other.right) / 2, other.top if upper else other.bottom
        drawn.bundles.append(Bundle(start, end, link, rate, count))


def _join_folded(drawn: Layout, graph: Graph[str], hidden: set[int]) -> None:
    """A line from each leaf to the box of the servers that are left out, for all their NICs on it; and one to
    each rack, whose NICs stand in trays.
    """
    sums: dict[tuple[str, str, int], tuple[float, int]] = {}
    for nic, leaf, edge in graph.edges(data=True):
        if graph.nodes[nic]["kind"] != "nic" or graph.nodes[leaf]["kind"] != "switch":
            continue
        node = graph.nodes[nic]["node"]
        if node not in hidden and "tray" not in graph.nodes[nic]:
            continue
        drawn.bundled.update(((nic, leaf), (leaf, nic)))
        key = leaf, edge["link"], -1 if node in hidden else node
        rate, count = sums.get(key, (0.0, 0))
        sums[key] = rate + edge["bytes_per_s"], count + edge.get("count", 1)
    for node in {key[2] for key in sums}:
        frame = next(one for one in drawn.frames if (one.dashed if node == -1 else one.node == node))
        joined = [(key, value) for key, value in sums.items() if key[2] == node and key[0] in drawn.boxes]
        for number, ((leaf, link, _), (rate, count)) in enumerate(joined):
            box = drawn.boxes[leaf]
            x = frame.left + (frame.right - frame.left) * (number + 1) / (len(joined) + 1)
            drawn.bundles.append(Bundle((box.x, box.y), (x, frame.top), link, rate, count))


def _add_switches(drawn: Layout, switches: Sequence[str], y: float) -> None:
    """Adds switches between servers, spread over the width."""
    kept = list(switches)[:MAX_SWITCHES]
    hidden = len(switches) - len(kept)
    slots = len(kept) + (1 if hidden else 0)
    for number, place in enumerate(kept):
        drawn.boxes[place] = Box(place, place, "switch", drawn.width * (number + 0.5) / slots, y)
    if hidden:
        drawn.notes.append(_note(f"{hidden} more", drawn.width * (slots - 0.5) / slots, y))


def _note(text: str, x: float, y: float) -> Box:
    return Box("", f"... {text}", "note", x, y)


def _sorted(graph: Graph[str], places: Iterable[str]) -> list[str]:
    return sorted(places, key=lambda place: (graph.nodes[place]["index"], place))


def _models(graph: Graph[str], gpus: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(str(graph.nodes[gpu].get("model", "gpu")) for gpu in gpus))


def _kept(places: Sequence[str], limit: int) -> tuple[list[str], list[str]]:
    """All of them, or the first and the last few."""
    if len(places) <= limit:
        return list(places), []
    return list(places[: limit // 2]), list(places[-limit // 4 :])


def _above(graph: Graph[str], place: str, columns: dict[str, float]) -> float | None:
    """The middle of the columns of what a part is wired to, among what stands already; None for nothing."""
    near = [columns[other] for other in graph.successors(place) if other in columns]
    return fmean(near) if near else None


def _push_apart(columns: dict[str, float], wanted: dict[str, float], width: float) -> None:
    """Each part where it wants to stand, or right of the one before it, and as far left as the width asks."""
    order = sorted(wanted, key=lambda place: wanted[place])
    at = float("-inf")
    placed: dict[str, float] = {}
    for place in order:
        at = max(wanted[place], at + 1.0)
        placed[place] = at
    over = max(0.0, max(placed.values(), default=0.0) - (width - 1.0))
    limit = float("inf")
    for place in reversed(order):
        moved = placed[place] - over if placed[place] >= limit or over else placed[place]
        placed[place] = max(min(moved, limit), 0.0)
        limit = placed[place] - 1.0
    # where there are more parts than columns the row is wider than the GPUs
    at = float("-inf")
    for place in order:
        at = max(placed[place], at + 1.0)
        columns[place] = at


def _spread_evenly(
    columns: dict[str, float], first: Sequence[str], last: Sequence[str], width: float
) -> float | None:
    """Parts over the whole width, with one place left free before the last ones; the column of that place."""
    slots = len(first) + (1 + len(last) if last else 0)
    pitch = max(width / slots, 1.0) if slots else 1.0
    for number, place in enumerate([*first, None, *last]):
        if place is not None:
            columns[place] = pitch * (number + 0.5) - 0.5
    return pitch * (len(first) + 0.5) - 0.5 if last else None
