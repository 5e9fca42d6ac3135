"""Measured collectives over several servers, read from any of the tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibration.multinode_points import cluster_network, multinode_points
from sim.inputs.errors import InputError


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


def test_a_fabric_with_other_nics_has_their_rate_and_the_rest_of_its_topology() -> None:
    def rates(system: str) -> set[float]:
        network = cluster_network(system, 2)
        first, second = (next(gpu for gpu in network.gpus if network.node_of[gpu] == node) for node in (0, 1))
        return {network.capacity[link] for link in network.path(first, second).links}

    assert min(rates("h100 cluster A")) == 13.6e9
    assert min(rates("h100 cluster B")) == min(rates("nd-h100-v5")) > 40e9
    assert max(rates("h100 cluster A")) == max(rates("nd-h100-v5"))
