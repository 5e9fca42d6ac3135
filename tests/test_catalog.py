from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from sim import catalog
from sim.inputs.errors import InfeasibleError, InputError
from sim.reading.data_files import topologies


def test_everything_listed_can_be_found() -> None:
    for kind in ("topology", "gpu", "links", "model", "workload"):
        for name in catalog.names_of(kind):  # type: ignore[arg-type]
            assert catalog.find(kind, name).is_file()  # type: ignore[arg-type]
    for name in catalog.list_traces():
        assert catalog.find_trace(name).is_file()
    assert {"azure-llm-2023-code", "mooncake-conversation"} <= set(catalog.list_traces())


def test_the_names_that_scripts_rely_on_are_there() -> None:
    assert {
        "a100-x4", "a100-x4-no-p2p", "dgx-a100", "nd-h100-v5", "hgx-h200", "hgx-b200", "gb200-nvl72",
        "gb300-nvl72", "l40s-12", "rtx-4090-x4",
    } <= set(catalog.list_topologies())  # fmt: skip
    assert {
        "a100-40gb-sxm", "a100-80gb-sxm", "h100-sxm", "h200-sxm", "b200-sxm", "b300-sxm", "gb200", "gb300",
        "l40s", "rtx-4090", "rtx-pro-6000",
    } <= set(catalog.list_gpus())  # fmt: skip
    assert {"nvlink3", "nvlink4", "nvlink5", "pcie4-x16", "infiniband-ndr"} <= set(catalog.list_links())


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"there is no topology named 'nd-h100'.*did you mean 'nd-h100-v5'"):
        catalog.load_topology("nd-h100")
    with pytest.raises(InputError, match=r"there is no gpu named 'h100'.*did you mean 'h100-sxm'"):
        catalog.load_gpu("h100")
    with pytest.raises(InputError, match=r"there is no link named 'nvlink'.*did you mean 'nvlink"):
        catalog.load_link("nvlink")


def test_a_name_cannot_lead_out_of_the_catalogue() -> None:
    for name in ("", "..", "../pyproject.toml", "/etc/passwd", "topologies", "nd-h100-v5\0"):
        with pytest.raises(InputError):
            catalog.load_topology(name)


def test_a_path_is_taken_from_the_file_that_names_it_or_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (topologies() / "rtx-4090-x4.yaml").read_text()
    (tmp_path / "box.yaml").write_text(text)
    assert catalog.load_topology("box.yaml", near=tmp_path).name == "rtx-4090-x4"
    assert catalog.load_topology(str(tmp_path / "box.yaml")).name == "rtx-4090-x4"
    monkeypatch.chdir(tmp_path)
    assert catalog.load_topology("./box.yaml").name == "rtx-4090-x4"
    with pytest.raises(InputError, match=r"there is no file .*other.yaml; give a path, or one of .*"):
        catalog.load_topology("other.yaml")


def test_the_number_of_servers_is_the_file_s_or_the_caller_s() -> None:
    assert catalog.load_topology("nd-h100-v5").nodes == 1
    assert catalog.load_topology("nd-h100-v5", nodes=3).nodes == 3
    assert catalog.load_topology(catalog.load_topology("nd-h100-v5"), nodes=2).nodes == 2


@pytest.mark.parametrize("nodes", [0, -1, 10**9, True, 2.5, "2"])
def test_a_number_of_servers_that_is_none_is_refused(nodes: object) -> None:
    with pytest.raises(InputError, match=r"nodes = .*: must be a whole number of servers, from 1 to 16384"):
        catalog.load_topology("nd-h100-v5", nodes=nodes)  # type: ignore[arg-type]


def test_servers_that_nothing_joins_are_infeasible() -> None:
    with pytest.raises(
        InfeasibleError, match="a100-x4 has no network between servers, so 2 of them cannot be joined"
    ):
        catalog.load_topology("a100-x4", nodes=2)


def test_a_script_s_own_graph_is_a_topology_with_the_shipped_gpus() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph(name="pair")
    for gpu in ("a", "b"):
        graph.add_node(gpu, kind="gpu", model="rtx-4090")
    graph.add_edge("a", "b", bytes_per_s=25e9)
    graph.add_edge("b", "a", bytes_per_s=25e9)
    topology = catalog.load_topology(graph)
    assert topology.gpu("a") == catalog.load_gpu("rtx-4090")
    assert topology.name == "pair"
    graph.nodes["b"]["model"] = "rtx-4091"
    with pytest.raises(InputError, match=r"there is no gpu named 'rtx-4091'.*did you mean 'rtx-4090'"):
        catalog.load_topology(graph)


def test_a_gpu_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    text = (topologies() / "gpus" / "l40s.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert catalog.load_gpu(path).sms == 142
    path.write_text(text.replace("sms: {value: 142", "sms: {value: 71"))
    assert catalog.load_gpu(path).sms == 71


def test_kernel_parameters_stand_beside_the_gpu(tmp_path: Path) -> None:
    text = (topologies() / "gpus" / "l40s.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "mine.yaml").write_text("provenance: {all: {tag: fitted, source: here}}\n")
    kernels = catalog.load_gpu(tmp_path / "mine.yaml").kernels
    assert kernels is not None
    assert kernels.provenance["all"].tag == "fitted"
    (tmp_path / "kernels" / "mine.yaml").write_text("\nprovenance: {all: {tag: fitted}}\n")
    with pytest.raises(InputError, match=r"kernels/mine.yaml:2: provenance.all.source: is missing"):
        catalog.load_gpu(tmp_path / "mine.yaml")
