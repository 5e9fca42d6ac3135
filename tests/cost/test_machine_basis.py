from __future__ import annotations

import csv
from functools import cache
from statistics import median

import pytest

from sim.catalog import list_topologies, load_topology
from sim.cost.collectives.choice import collective
from sim.cost.machine_basis import machine_basis, pcie_span
from sim.cost.network import Network
from sim.inputs.topology import Topology
from sim.reading.data_files import measured
from tests.cost.small_graphs import servers, wire


def test_every_shipped_machine_says_whether_it_was_measured_and_where() -> None:
    for name in list_topologies():
        basis = machine_basis(load_topology(name))
        assert basis.kind in ("measured", "idealised")
        assert len(basis.source) > 20, name


def test_only_a_machine_that_was_not_measured_has_a_band() -> None:
    assert machine_basis(load_topology("l40s-x8")).bands is None
    assert machine_basis(load_topology("nd-h100-v5")).told == ""
    basis = machine_basis(load_topology("l40s-12"))
    assert basis.span == "both sockets"
    assert basis.band(1e9) == (0.70, 15.3)
    assert "above 1 MB measured servers take 0.7 to 15.3 times as long" in basis.told


@pytest.mark.parametrize(
    ("ranks", "span"), [(1, None), (2, "one PCIe switch"), (4, "one socket"), (8, "both sockets")]
)
def test_the_band_is_that_of_how_far_apart_the_gpus_are(ranks: int, span: str | None) -> None:
    network = Network(servers(chips=0, gpus_per_switch=2))
    assert pcie_span(network, network.gpus[:ranks]) == span


def test_gpus_that_nvlink_joins_have_no_band_and_bridged_pairs_have() -> None:
    joined = Network(servers(nodes=2))
    assert pcie_span(joined, joined.gpus) is None
    graph = servers(chips=0)
    for pair in range(0, 8, 2):
        wire(graph, f"node0.gpu{pair}", f"node0.gpu{pair + 1}", 250e9)
    bridged = Network(graph)
    assert pcie_span(bridged, bridged.gpus[:2]) is None
    assert pcie_span(bridged, bridged.gpus[:3]) == "one socket"


def test_a_graph_of_ones_own_is_described() -> None:
    basis = machine_basis(Topology.of_graph(servers(chips=0)))
    assert (basis.kind, basis.source, basis.span) == ("described", "", "both sockets")


def test_machines_beside_each_other_are_measured_where_all_are() -> None:
    kinds = {name: load_topology(name).model_copy(update={"nodes": 1}) for name in ("nd-h100-v5", "hgx-h200")}
    both = Topology(name="both", systems=kinds)
    assert machine_basis(both).kind == "measured"
    one = kinds | {"hgx-h200": kinds["hgx-h200"].model_copy(update={"basis": None})}
    assert machine_basis(Topology(name="one", systems=one)).kind == "described"


@cache
def ideal(system: str) -> tuple[Topology, Network]:
    """A measured server as if its root complexes passed peers at the rates of the datasheets."""
    if system == "l40s":
        box, links = load_topology("l40s-8"), load_topology("l40s-12").links
        wires = (
            box.wires[0],
            *(
                one.model_copy(update={"link": link})
                for one, link in zip(box.wires[1:], ("pcie4-x16", "upi-ice-lake"), strict=True)
            ),
        )
        box = box.model_copy(update={"wires": wires, "links": dict(links), "basis": None})
    else:
        box = load_topology("rtx-pro-6000-x8").model_copy(update={"basis": None})
    return box, Network(box.graph)


def test_the_measured_servers_lie_in_the_band_of_their_ideal_ones() -> None:
    """The points that are shipped; a band is of medians, single points lie a fifth beside it."""
    with (measured() / "collectives" / "nccl.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["system"] in ("l40s", "rtx_pro_6000_server")]
    assert rows
    ratios = []
    for row in rows:
        box, network = ideal(row["system"])
        ranks, n_bytes = int(row["gpus"]), float(row["size_bytes"])
        timing = collective(network, row["op"], n_bytes, network.gpus[:ranks], library="nccl")
        ratio = float(row["latency_us"]) * 1e-6 / timing.total_s
        band = machine_basis(box, ranks, network).band(n_bytes)
        assert band is not None
        low, high = band
        assert low / 1.25 <= ratio <= 1.25 * high, (row, ratio)
        ratios.append(ratio)
    assert median(ratios) > 0.9
