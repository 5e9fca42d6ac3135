"""Names and paths of a scenario become what they stand for; pools inherit what they leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import pytest

import sim
from sim.inputs.errors import LocatedError
from sim.scenario.named_parts import named_parts_loaded


def test_names_are_loaded_and_what_is_written_out_stays() -> None:
    written = {"topology": "dgx-a100", "model": "llama-3-8b", "workload": {"requests": 3}, "replicas": 2}
    loaded = named_parts_loaded(written, None)
    assert (loaded["topology"].name, loaded["model"].name) == ("dgx-a100", "llama-3-8b")
    assert (loaded["workload"], loaded["replicas"]) == ({"requests": 3}, 2)
    assert written["topology"] == "dgx-a100"  # a script's mapping is left as it was


def test_the_scenarios_number_of_servers_wins_and_is_no_key_of_its_own() -> None:
    loaded = named_parts_loaded({"topology": "nd-h100-v5", "nodes": 4}, None)
    assert (loaded["topology"]["nodes"], "nodes" in loaded) == (4, False)


@pytest.mark.parametrize("nodes", [0, -1, 1.0, True, "two", 16385])
def test_a_number_of_servers_that_is_none_is_refused(nodes: Any) -> None:
    with pytest.raises(LocatedError, match=f"nodes: must be a whole number of servers.*, not {nodes!r}"):
        named_parts_loaded({"topology": "nd-h100-v5", "nodes": nodes}, None)


def test_a_graph_of_a_script_is_a_topology_and_an_undirected_one_is_refused() -> None:
    graph = sim.load_topology("dgx-a100").graph
    assert isinstance(named_parts_loaded({"topology": graph}, None)["topology"], sim.Topology)
    with pytest.raises(sim.InputError, match="undirected"):
        named_parts_loaded({"topology": nx.Graph([("a", "b")])}, None)


def test_systems_beside_each_other_are_named_together_and_each_wrong_one_is_reported() -> None:
    beside = {"systems": {"old": "dgx-a100", "new": {"topology": "hgx-h200", "nodes": 2}}}
    loaded = named_parts_loaded({"topology": beside}, None)["topology"]
    assert loaded["name"] == "old and new"
    assert loaded["systems"]["new"].servers == 2
    with pytest.raises(LocatedError) as refusal:
        named_parts_loaded({"topology": {"systems": {"a": "dgx-a1000", "b": "dgx-a100", "c": 7}}}, None)
    assert [where[-1] for where, _ in refusal.value.found] == ["a", "c"]


def test_a_pool_inherits_key_by_key_and_its_name_is_its_role() -> None:
    written = {
        "model": "llama-3-8b",
        "engine": {"block_size": 32, "max_num_seqs": 8},
        "pools": {"prefill": {"engine": {"max_num_seqs": 4}}, "other": {"model": "mixtral-8x7b"}},
    }
    pools = named_parts_loaded(written, None)["pools"]
    assert pools["prefill"]["engine"] == {"block_size": 32, "max_num_seqs": 4}
    assert (pools["prefill"]["role"], "role" in pools["other"]) == ("prefill", False)
    assert (pools["prefill"]["model"].name, pools["other"]["model"].name) == ("llama-3-8b", "mixtral-8x7b")


def test_expert_counts_are_read_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("expert,tokens\n0,10\n1,30\n")
    routing = {"engine": {"expert_routing": {"weights": "counts.csv"}}}
    loaded = named_parts_loaded(routing, tmp_path)
    assert loaded["engine"]["expert_routing"] == {"popularity": "given", "weights": (10.0, 30.0)}
