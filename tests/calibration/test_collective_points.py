"""Measured collectives of one server, and the islands that they ran on."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibration.collective_points import (
    CollectivePoint,
    is_modelled,
    island_network,
    measured_in,
    over_several_servers,
    read_points,
)
from sim.inputs.errors import InputError


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_without_gpus_per_node_is_refused_with_that_column(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "system,nodes,op,size_bytes,latency_us\ndgx-a100,2,all_reduce,9,9\n")
    with pytest.raises(InputError, match="has no column gpus_per_node"):
        measured_in([path])


HEAD = "system,op,gpus,size_bytes,latency_us,nccl\n"


def test_the_median_counts_of_a_point_that_was_measured_more_than_once(tmp_path: Path) -> None:
    rows = "".join(f"h100_sxm,all_reduce,8,1024,{us},2.27\n" for us in (10, 30, 12))
    (point,) = read_points([table(tmp_path / "a.csv", HEAD + rows)])
    assert point == CollectivePoint("h100_sxm", "nccl", "all_reduce", 8, 1024.0, pytest.approx(12e-6))


@pytest.mark.parametrize(
    "row",
    [
        "unknown,all_reduce,8,1024,10,2.27",
        "h100_sxm,all_reduce,8,1024,10,2.23",  # an old NCCL, but on GB200
        "gb200,all_reduce,4,1024,10,2.23",  # and there from 8 ranks on
    ],
)
def test_points_of_other_systems_and_releases_are_passed_over(tmp_path: Path, row: str) -> None:
    assert read_points([table(tmp_path / "a.csv", HEAD + row + "\n")]) == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("h100_sxm,all_reduce,1,1024,10,2.27", r"a\.csv:2: gpus = 1, .*must be 2 to 4096"),
        ("h100_sxm,all_reduce,8,1024,0,2.27", r"latency_us = 0: must be .*above 0"),
        ("h100_sxm,all_reduce,8,1 KB,10,2.27", r"a\.csv:2: a value cannot be read"),
    ],
)
def test_a_row_that_cannot_be_is_refused_with_its_line(tmp_path: Path, row: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_points([table(tmp_path / "a.csv", HEAD + row + "\n")])


def test_larger_groups_on_pcie_are_modelled_only_in_their_latencies() -> None:
    def point(system: str, gpus: int, n_bytes: float) -> CollectivePoint:
        return CollectivePoint(system, "nccl", "all_reduce", gpus, n_bytes, 1e-5)

    assert is_modelled(point("l40s", 2, 1e9))
    assert is_modelled(point("l40s", 8, 4096.0))
    assert not is_modelled(point("l40s", 8, 8192.0))
    assert is_modelled(point("h100_sxm", 8, 1e9))


def test_an_island_is_a_crossbar_at_the_link_rate_of_its_system() -> None:
    network = island_network("h100_sxm", 8)
    assert len(network.gpus) == 8
    assert {network.capacity[link] for link in network.path(network.gpus[0], network.gpus[7]).links} == {
        369e9
    }


def test_tables_of_several_servers_are_known_by_their_columns() -> None:
    assert over_several_servers(["nodes", "gpus_per_node", "op", "size_bytes"])
    assert not over_several_servers(["system", "gpus", "op", "size_bytes"])
