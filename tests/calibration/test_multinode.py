from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
import yaml

from sim.calibration.collective_points import measured_in
from sim.calibration.collectives import shipped
from sim.calibration.held_out_multinode import held_out_multinode, multinode_errors
from sim.calibration.multinode import FREE, inter_node_text
from sim.calibration.multinode_points import MultinodePoint, cluster_network, multinode_points, ranks_of
from sim.cost.collectives.choice import collective
from sim.cost.collectives.parameters import parameters_of
from sim.inputs.errors import InputError
from sim.reading.data_files import measured

SAMPLE = measured() / "collectives" / "h100_cluster.csv"


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_rows_over_several_servers_are_read_from_any_of_the_tables(tmp_path: Path) -> None:
    cluster = table(
        tmp_path / "cluster.csv",
        "cluster,nodes,gpus_per_node,op,size_bytes,latency_us_median,latency_us_min\n"
        "A,2,1,send_recv,1000000,80,79\n"
        "A,1,8,all_reduce,1000000,50,50\n"  # inside one server
        "A,2,8,all_to_all,1000000,300,80\n",  # half of the pairs were disturbed
    )
    profiled = table(
        tmp_path / "profiled.csv",
        "system,op,gpus,gpus_per_node,nodes,size_bytes,latency_us_median,latency_us_min\n"
        "h100_dgx,send_recv,2,1,2,1000,30,20\n"
        "h100_dgx,send_recv,2,1,2,1001,30,25\n"
        "unknown,send_recv,2,1,2,1000,30,20\n",
    )
    single = table(
        tmp_path / "single.csv",
        "system,nodes,gpus,op,library,size_bytes,latency_us,reference\n"
        "h100_sxm,8,64,all_reduce,NCCL,536870912,2984.6,a README\n",
    )
    mine = table(
        tmp_path / "mine.csv",
        "system,nodes,gpus_per_node,op,size_bytes,latency_us\ndgx-a100,2,8,all_reduce,65536,60\n",
    )
    found = {
        (one.system, one.op, one.nodes, one.gpus_per_node, round(one.seconds * 1e6, 1))
        for one in multinode_points([cluster, profiled, single, mine])
    }
    assert found == {
        ("h100 cluster A", "send_recv", 2, 1, 80.0),
        ("h100_dgx", "send_recv", 2, 1, 20.0),
        ("h100_dgx", "send_recv", 2, 1, 25.0),
        ("h100_sxm", "all_reduce", 8, 8, 2984.6),
        ("dgx-a100", "all_reduce", 2, 8, 60.0),
    }


def test_a_point_that_is_slower_than_a_longer_message_waited_for_something_else(tmp_path: Path) -> None:
    rows = "".join(f"dgx-a100,2,1,send_recv,{n},{us}\n" for n, us in ((1000, 90), (2000, 20), (3000, 30)))
    path = table(tmp_path / "a.csv", "system,nodes,gpus_per_node,op,size_bytes,latency_us\n" + rows)
    assert [one.n_bytes for one in multinode_points([path])] == [2000, 3000]


def test_a_value_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv",
        "system,nodes,gpus_per_node,op,size_bytes,latency_us\ndgx-a100,2,1,send_recv,1 MB,20\n",
    )
    with pytest.raises(InputError, match=r"a\.csv:2.*1 MB"):
        multinode_points([path])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("dgx-a100,2,8,all_reduce,65536,0", r":2: latency_us = 0: must be above 0"),
        ("dgx-a100,2,8,all_reduce,nan,10", r":2: size_bytes = nan: must be above 0"),
        ("dgx-a100,2,0,all_reduce,65536,10", r":2: gpus_per_node = 0: must be above 0"),
        (
            "dgx-a100,2,9,all_reduce,65536,10",
            r":2: gpus_per_node = 9: must be at most 8 on dgx-a100",
        ),
        ("dgx-a10,2,8,all_reduce,65536,10", r":2: system = 'dgx-a10'.*did you mean 'dgx-a100'"),
        (
            "dgx-a100,2,8,allreduce,65536,10",
            r":2: op = 'allreduce': must be .*did you mean 'all_reduce'",
        ),
    ],
)
def test_a_row_that_cannot_be_is_refused_with_its_line(tmp_path: Path, row: str, said: str) -> None:
    path = table(tmp_path / "a.csv", f"system,nodes,gpus_per_node,op,size_bytes,latency_us\n{row}\n")
    with pytest.raises(InputError, match=said):
        multinode_points([path])


def test_a_table_without_gpus_per_node_is_told_of_that_column(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "system,nodes,op,size_bytes,latency_us\ndgx-a100,2,all_reduce,9,9\n")
    with pytest.raises(InputError, match="has no column gpus_per_node"):
        measured_in([path])


def test_send_recv_that_gave_the_rate_of_its_fabric_is_not_judged() -> None:
    points = [
        MultinodePoint("a100_dgx", op, 2, 1, 1e6 * n, 1e-4 * n)
        for op in ("send_recv", "all_reduce")
        for n in (1, 2)
    ]
    assert {one.op for one in multinode_errors(points, shipped(), "shipped")} == {"all_reduce"}


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


def test_the_shipped_numbers_meet_the_cluster_that_they_were_fitted_to() -> None:
    found = multinode_errors(multinode_points([SAMPLE]), shipped(), "shipped")
    assert median(one.errors.median for one in found) < 0.10
    assert all(one.errors.median < 0.20 for one in found)


def test_one_send_to_one_peer_over_many_servers_is_held_by_its_channel() -> None:
    rate = shipped()["across"]["nccl"]["direct"]["channel_bytes_per_s"]
    for nodes, expected in ((2, 0.95 * 49e9), (10, rate)):
        network = cluster_network("nd-h100-v5", nodes)
        timing = collective(network, "send_recv", 2**32, ranks_of(network, 1), library="nccl")
        assert timing.algbw_bytes_per_s == pytest.approx(expected, rel=0.03)


@pytest.mark.slow
def test_held_out_servers_and_operations_are_within_20_percent_and_nearer_than_alpha_beta() -> None:
    found = held_out_multinode(multinode_points([SAMPLE]), shipped())
    for how in ("servers", "op"):
        own = [one for one in found if one.how == how]
        middle = median(one.errors.median for one in own)
        assert middle < 0.20
        assert middle < 0.5 * median(one.alpha_beta.median for one in own if one.alpha_beta)


def test_every_free_number_is_in_the_file_and_within_its_bounds() -> None:
    files = shipped()
    parameters_of(files)
    for path, (least, most) in FREE.items():
        block = files["across"]
        for name in path:
            block = block[name]
        assert least <= block <= most, path
