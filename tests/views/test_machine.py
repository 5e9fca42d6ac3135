"""The picture of a machine: everything in its row, nothing overlaps, what is left out is counted."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

import sim
from sim.inputs.errors import InputError
from sim.views.layout import BOX_HEIGHT, BOX_WIDTH, layout_of
from sim.views.machine import _colours, _corners, _width, draw_topology, topology_chart

CLUSTERS = ("nd-h100-v5", "gb200-nvl72", "l40s-12")
SYSTEMS: list[tuple[str, int | None]] = [(name, None) for name in sim.list_topologies()] + [
    (name, nodes) for name in CLUSTERS for nodes in (2, 5)
]


@pytest.mark.parametrize(("name", "nodes"), SYSTEMS)
def test_no_two_parts_overlap_and_all_lie_inside_the_picture(name: str, nodes: int | None) -> None:
    drawn = layout_of(sim.load_topology(name, nodes=nodes).graph)
    for one, other in combinations(drawn.boxes.values(), 2):
        apart = abs(one.x - other.x) >= (one.width + other.width) / 2 or abs(one.y - other.y) >= BOX_HEIGHT
        assert apart, (one, other)
    for box in drawn.boxes.values():
        assert BOX_WIDTH / 2 <= box.x <= drawn.width - BOX_WIDTH / 2, box
        assert BOX_HEIGHT / 2 <= box.y <= drawn.height - BOX_HEIGHT / 2, box


def test_gpus_stand_in_one_row_above_their_nvswitches_and_below_their_nics() -> None:
    drawn = layout_of(sim.load_topology("nd-h100-v5").graph)
    rows = {
        kind: {box.y for box in drawn.boxes.values() if box.kind == kind}
        for kind in ("nic", "gpu", "nvswitch")
    }
    assert len(rows["gpu"]) == len(rows["nvswitch"]) == 1
    assert max(rows["nic"]) < min(rows["gpu"]) < min(rows["nvswitch"])
    for rail in range(8):
        column = {drawn.boxes[f"node0.{part}{rail}"].x for part in ("gpu", "pcie", "nic")}
        assert len(column) == 1, "a rail is one straight line"


def test_a_rack_without_trays_shows_its_first_and_last_gpus_and_says_how_many_are_left_out() -> None:
    drawn = layout_of(sim.load_topology("vr-kyber").graph)
    gpus = [box.label for box in drawn.boxes.values() if box.kind == "gpu"]
    assert (gpus[0], gpus[-1], len(gpus)) == ("gpu0", "gpu143", 12)
    assert {note.label for note in drawn.notes} == {"... 132 more", "... 27 more"}


def test_a_rack_stands_in_trays_and_every_two_of_them_share_one_line() -> None:
    """18 compute trays of 4 GPUs and 9 switch trays of 2 chips: 8 links of 40 GB/s between every two."""
    drawn = layout_of(sim.load_topology("gb200-nvl72").graph)
    titles = [frame.title for frame in drawn.frames]
    assert titles == [
        "node0: 72x gb200",
        *(f"tray {i}" for i in range(18)),
        *(f"switch tray {i}" for i in range(9)),
    ]
    assert sum(box.kind == "gpu" for box in drawn.boxes.values()) == 72
    assert {(one.link, one.count, round(one.bytes_per_s / 1e9)) for one in drawn.bundles} == {
        ("nvlink5", 8, 320)
    }
    assert len(drawn.bundles) == 18 * 9
    rack = drawn.frames[0]
    for frame in drawn.frames[1:]:
        assert rack.left <= frame.left < frame.right <= rack.right, frame
        assert rack.top <= frame.top < frame.bottom <= rack.bottom, frame
    several = layout_of(sim.load_topology("gb200-nvl72", nodes=4).graph)
    assert [note.label for note in several.notes] == ["... 3 more racks"]


@pytest.mark.slow
def test_a_cluster_keeps_every_leaf_and_spine_and_joins_them_to_the_servers_left_out() -> None:
    graph = sim.load_topology("nd-h100-v5", nodes=40).graph
    drawn = layout_of(graph)
    switches = {place for place, data in graph.nodes(data=True) if data["kind"] == "switch"}
    assert switches <= drawn.boxes.keys()
    (folded,) = (frame for frame in drawn.frames if frame.dashed)
    rates = {one.bytes_per_s for one in drawn.bundles if one.link == "infiniband-ndr"}
    assert rates <= {32 * 49e9, 30 * 49e9, 8 * 49e9, 6 * 49e9}
    assert {one.end[1] for one in drawn.bundles} == {folded.top}


def test_lines_are_wider_for_more_bytes_a_second_and_generations_of_pcie_have_their_colours() -> None:
    drawn = str(topology_chart(sim.load_topology("nd-h100-v5", nodes=2)).to_dict())
    assert "NICs of a server: 8 on infiniband-ndr, 49 GB/s of payload (400 Gbit/s) each" in drawn
    assert _width(450e9) > _width(50e9) > _width(7e9) > 0.0
    colours = _colours(["pcie3-x16", "pcie4-x16", "pcie5-x16", "pcie6-x16"])
    assert len(set(colours)) == 4


def test_wires_between_gpus_are_arcs_inside_the_frame() -> None:
    graph = sim.load_topology("mi300x-x8").graph
    drawn = layout_of(graph)
    ends = [drawn.boxes[f"node0.gpu{number}"] for number in (0, 7)]
    corners = _corners(*ends, drawn)
    assert max(y for _, y in corners) < drawn.frames[0].bottom - 24, "above the title"
    assert (corners[0][0], corners[-1][0]) == pytest.approx((ends[0].x, ends[1].x))


def test_a_cluster_shows_two_servers_and_says_how_many_are_left_out() -> None:
    drawn = layout_of(sim.load_topology("nd-h100-v5", nodes=16).graph)
    assert [frame.dashed for frame in drawn.frames] == [False, False, True]
    assert [note.label for note in drawn.notes] == ["... 14 more servers"]


def test_the_legend_names_every_type_of_link_with_its_rate() -> None:
    specification = topology_chart(sim.load_topology("nd-h100-v5", nodes=2)).to_dict()
    text = str(specification)
    for link in ("nvlink4: 82-102.5 GB/s (4-5 links a line)", "pcie5-x16: ", "infiniband-ndr: 49 GB/s"):
        assert link in text


@pytest.mark.slow
def test_a_graph_of_ones_own_is_drawn_too(tmp_path: Path) -> None:
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    for gpu in ("a", "b", "c"):
        graph.add_node(gpu, kind="gpu", model="h100-sxm")
    for one, other in (("a", "b"), ("b", "c"), ("c", "a")):
        for edge in ((one, other), (other, one)):
            graph.add_edge(*edge, bytes_per_s=1e11, latency_s=1e-6, link="wire")
    path = draw_topology(sim.load_topology(graph), tmp_path / "own.svg")
    assert "wire" in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "begin"), [(".svg", b"<svg"), (".png", b"\x89PNG"), (".html", b"<!doctype html>")]
)
def test_the_suffix_chooses_the_format(tmp_path: Path, suffix: str, begin: bytes) -> None:
    path = draw_topology(sim.load_topology("rtx-4090-x4"), tmp_path / f"machine{suffix}")
    assert path.read_bytes().startswith(begin)


def test_an_unknown_suffix_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    topology = sim.load_topology("rtx-4090-x4")
    with pytest.raises(InputError, match=r"\.svg, \.png, \.html"):
        draw_topology(topology, tmp_path / "machine.jpg")
    with pytest.raises(InputError, match="no folder"):
        draw_topology(topology, tmp_path / "nowhere" / "machine.svg")


@pytest.mark.slow
def test_a_name_cannot_end_the_script_of_a_page_nor_hide_its_end(tmp_path: Path) -> None:
    """HTML's tokenizer: after `<!--<script` a script ends at the second `</script>` only."""
    hostile = "<!--<script>x</script><img src=x>"
    topology = sim.load_topology("a100-x4").model_copy(update={"name": hostile, "description": hostile})
    page = draw_topology(topology, tmp_path / "x.html").read_text()
    assert hostile not in page
    assert "<!--" not in page
    assert "\\u003c!--\\u003cscript>" in page
    assert page.count("</script") == 1


def test_the_picture_says_how_leaves_and_spines_are_oversubscribed() -> None:
    described = sim.load_topology("dgx-a100", nodes=8)
    network = described.scale_out[0].model_copy(update={"rails": 1, "oversubscription": 2.0})
    over = described.model_copy(update={"scale_out": (network,)})
    text = str(topology_chart(over).to_dict())
    assert "switches leaf: 3 leaves, 1 spine, adaptive routing, oversubscription 2:1" in text
