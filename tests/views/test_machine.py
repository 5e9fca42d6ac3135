"""The picture of a machine: everything in its row, nothing overlaps, what is left out is counted."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

import sim
from sim.inputs.errors import InputError
from sim.views.layout import BOX_HEIGHT, BOX_WIDTH, layout_of
from sim.views.machine import draw_topology, topology_chart

CLUSTERS = ("nd-h100-v5", "gb200-nvl72", "l40s-12")
SYSTEMS: list[tuple[str, int | None]] = [(name, None) for name in sim.list_topologies()] + [
    (name, nodes) for name in CLUSTERS for nodes in (2, 5)
]


@pytest.mark.parametrize(("name", "nodes"), SYSTEMS)
def test_no_two_parts_overlap_and_all_lie_inside_the_picture(name: str, nodes: int | None) -> None:
    drawn = layout_of(sim.load_topology(name, nodes=nodes).graph)
    for one, other in combinations(drawn.boxes.values(), 2):
        apart = abs(one.x - other.x) >= BOX_WIDTH or abs(one.y - other.y) >= BOX_HEIGHT
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


def test_a_rack_shows_its_first_and_last_gpus_and_says_how_many_are_left_out() -> None:
    drawn = layout_of(sim.load_topology("gb200-nvl72").graph)
    gpus = [box.label for box in drawn.boxes.values() if box.kind == "gpu"]
    assert (gpus[0], gpus[-1], len(gpus)) == ("gpu0", "gpu71", 12)
    assert {note.label for note in drawn.notes} == {"... 60 more", "... 9 more"}


def test_a_cluster_shows_two_servers_and_says_how_many_are_left_out() -> None:
    drawn = layout_of(sim.load_topology("nd-h100-v5", nodes=16).graph)
    assert [frame.dashed for frame in drawn.frames] == [False, False, True]
    assert [note.label for note in drawn.notes] == ["... 14 more servers"]


def test_the_legend_names_every_type_of_link_with_its_rate() -> None:
    specification = topology_chart(sim.load_topology("nd-h100-v5", nodes=2)).to_dict()
    text = str(specification)
    for link in ("nvlink4: 82-102.5 GB/s (4-5 links a line)", "pcie5-x16: ", "infiniband-ndr: 49 GB/s"):
        assert link in text


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
