"""The machine as a map: where every part stands and which links each line is, as plain numbers that a page
draws and colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from sim.views.layout import BOX_HEIGHT, BOX_WIDTH, Box, Graph, layout_of

FILLS = {  # pale, so that coloured lines are what one sees
    "gpu": "#e3f1d4",
    "nvswitch": "#ebe4f7",
    "pcie_switch": "#eceff1",
    "host": "#dcecfb",
    "nic": "#fff0d9",
    "switch": "#fde3da",
    "store": "#efebe9",
}


def machine_map(graph: Graph[str], whole: Mapping[str, str]) -> dict[str, Any]:
    """Boxes, frames, notes and wires of a topology graph. `whole` names the place that stands for a part in
    the rows of a run: a crossbar for each of its chips.
    """
    drawn = layout_of(graph)
    wires = []
    for source, target, edge in graph.edges(data=True):
        one, other = drawn.boxes.get(source), drawn.boxes.get(target)
        if one is None or other is None or (graph.has_edge(target, source) and source > target):
            continue
        ends = whole.get(source, source), whole.get(target, target)
        wires.append(
            {
                "points": [[round(x, 1), round(y, 1)] for x, y in _corners(one, other)],
                "links": [f"{ends[0]}->{ends[1]}", f"{ends[1]}->{ends[0]}"],
                "kind": str(edge.get("link", "")),
            }
        )
    return {
        "width": round(drawn.width),
        "height": round(drawn.height),
        "boxes": [
            [box.place, box.label, box.kind, round(box.x, 1), round(box.y, 1)] for box in drawn.boxes.values()
        ],
        "frames": [
            [frame.title, *(round(at, 1) for at in (frame.left, frame.top, frame.right, frame.bottom))]
            for frame in drawn.frames
        ],
        "notes": [[note.label, round(note.x, 1), round(note.y, 1)] for note in drawn.notes],
        "wires": wires,
    }


def _corners(one: Box, other: Box) -> list[tuple[float, float]]:
    """A straight line; along a row it dips below the boxes between."""
    if one.y == other.y and abs(one.x - other.x) > 1.5 * BOX_WIDTH:
        dip = one.y + BOX_HEIGHT / 2 + min(8 + abs(one.x - other.x) / 16, 26)
        return [(one.x, one.y), (one.x, dip), (other.x, dip), (other.x, other.y)]
    return [(one.x, one.y), (other.x, other.y)]


NAMED = 'role="group" aria-label="The machine, its links coloured by use"'


def map_svg(machine: Mapping[str, Any], uses: Mapping[str, int]) -> str:
    """The map as SVG. A wire whose links carried anything is marked with their numbers in `uses`, so that the
    page can colour it.
    """
    width, height = machine["width"], machine["height"]
    parts = [f'<svg id="machine" viewBox="0 0 {width} {height}" width="{width}" height="{height}" {NAMED}>']
    for title, left, top, right, bottom in machine["frames"]:
        parts.append(
            f'<rect x="{left}" y="{top}" width="{right - left:.1f}" height="{bottom - top:.1f}" rx="8" '
            'class="frame"/>'
            f'<text x="{left + 10}" y="{bottom - 9}" class="title">{escape(title)}</text>'
        )
    used = []
    for wire in machine["wires"]:
        numbers = [uses[link] for link in wire["links"] if link in uses]
        points = " ".join(f"{x},{y}" for x, y in wire["points"])
        line = f'<polyline points="{points}"'
        if not numbers:
            parts.append(f'{line} class="idle"/>')
            continue
        named = f"{wire['links'][0]} and back" if len(numbers) > 1 else wire["links"][0]
        used.append(
            f'<g class="wire" data-links="{",".join(map(str, numbers))}" aria-label="{escape(named)}">'
            f'{line} class="grip"/>{line} class="line"/></g>'
        )
    parts += used
    for place, label, kind, x, y in machine["boxes"]:
        left, top = x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2
        parts.append(
            f'<g><title>{escape(place)}</title><rect x="{left:.1f}" y="{top:.1f}" '
            f'width="{BOX_WIDTH:.0f}" height="{BOX_HEIGHT:.0f}" rx="3" fill="{FILLS.get(kind, "#eeeeee")}" '
            f'class="box"/><text x="{x}" y="{y + 3.5:.1f}" class="label">{escape(label)}</text></g>'
        )
    parts += [f'<text x="{x}" y="{y}" class="note">{escape(text)}</text>' for text, x, y in machine["notes"]]
    return "".join(parts) + "</svg>"
