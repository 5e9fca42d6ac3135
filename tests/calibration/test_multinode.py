from __future__ import annotations

import pytest
import yaml

from sim.calibration.collectives import shipped
from sim.calibration.multinode import FREE, inter_node_text
from sim.calibration.multinode_points import cluster_network, ranks_of
from sim.cost.collectives.choice import collective
from sim.cost.collectives.parameters import parameters_of
from sim.reading.data_files import measured

SAMPLE = measured() / "collectives" / "h100_cluster.csv"


def test_fitted_numbers_take_the_places_of_the_shipped_ones() -> None:
    files = shipped()
    files["across"]["nccl"]["direct"]["efficiency"] = 0.625
    files["across"]["nccl"]["level_fill_s"] = 1e-5
    text = inter_node_text(files, "a command")
    written = yaml.safe_load(text)
    assert written["nccl"]["direct"]["efficiency"] == 0.625
    assert written["nccl"]["level_fill_s"] == 1e-5  # a number, with a point: 1e-05 would be a word
    assert written["nccl"]["fitted"] == {"tag": "fitted", "source": "a command"}
    before = shipped()["across"]
    assert written["media"] == before["media"]
    assert written["nccl"]["ring"]["LL"] == before["nccl"]["ring"]["LL"]


def test_one_send_to_one_peer_over_many_servers_is_held_by_its_channel() -> None:
    rate = shipped()["across"]["nccl"]["direct"]["channel_bytes_per_s"]
    for nodes, expected in ((2, 0.95 * 49e9), (10, rate)):
        network = cluster_network("nd-h100-v5", nodes)
        timing = collective(network, "send_recv", 2**32, ranks_of(network, 1), library="nccl")
        assert timing.algbw_bytes_per_s == pytest.approx(expected, rel=0.03)


def test_every_free_number_is_in_the_file_and_within_its_bounds() -> None:
    files = shipped()
    parameters_of(files)
    for path, (least, most) in FREE.items():
        block = files["across"]
        for name in path:
            block = block[name]
        assert least <= block <= most, path
