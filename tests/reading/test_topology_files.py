from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sim import catalog
from sim.inputs.errors import InputError
from sim.inputs.topology import Topology
from sim.reading.data_files import topologies
from sim.scenario.scenario import Scenario

SMALL = """\
name: mine
parts:
  gpu: {kind: gpu, count: 2, model: l40s}
  host: {kind: host, latency_s: 0.4 us}
wires:
  - {from: gpu, to: host, pattern: all, link: pcie4-x16}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "box.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> list[str]:
    with pytest.raises(InputError) as refusal:
        catalog.load_topology(written(folder, text))
    return [line.removeprefix(f"{folder}/") for line in str(refusal.value).splitlines()]


def test_a_file_of_one_s_own_uses_the_shipped_gpus_and_links(tmp_path: Path) -> None:
    topology = catalog.load_topology(written(tmp_path, SMALL))
    assert topology.graph.edges["node0.gpu1", "node0.host0"]["bytes_per_s"] == pytest.approx(31.5e9 * 0.83)
    assert topology.gpu("node0.gpu1").name == "l40s"


def test_a_file_without_a_name_is_called_after_the_file(tmp_path: Path) -> None:
    assert catalog.load_topology(written(tmp_path, SMALL.removeprefix("name: mine\n"))).name == "box"


def test_parts_and_wires_may_stand_in_a_node_block(tmp_path: Path) -> None:
    inner = SMALL.removeprefix("name: mine\n")
    lifted = "name: mine\nnode:\n" + "".join(f"  {line}\n" for line in inner.splitlines())
    one = catalog.load_topology(written(tmp_path, SMALL))
    other = catalog.load_topology(written(tmp_path, lifted))
    assert dict(one.graph.adjacency()) == dict(other.graph.adjacency())


def test_a_problem_in_a_node_block_has_its_line(tmp_path: Path) -> None:
    found = refused(tmp_path, "node:\n  partz: {}\n  parts:\n    gpu: {kind: gpu, count: 0, model: l40s}\n")
    assert found == [
        "box.yaml:2: node.partz: is not a known key; parts and wires belong here; did you mean 'parts'?",
        "box.yaml:4: parts.gpu.count = 0: must be at least 1",
    ]
    assert refused(tmp_path, SMALL + "node:\n  parts: {}\n") == [
        "box.yaml:2: parts: stands at the top and in node; keep node.parts"
    ]


def test_a_link_of_one_s_own_or_a_change_to_a_shipped_one(tmp_path: Path) -> None:
    own = SMALL + "links:\n  pcie4-x16: {efficiency: 0.5}\n"
    link = catalog.load_topology(written(tmp_path, own)).links["pcie4-x16"]
    assert link.payload_bytes_per_s == 31.5e9 * 0.5
    assert link.provenance["bytes_per_s"].tag == "datasheet"
    assert str(link.provenance["efficiency"]) == "assumed: box.yaml:8"
    new = SMALL.replace("pcie4-x16", "rope") + "links:\n  rope: {bytes_per_s: 1 GB/s, latency_s: 1 ms}\n"
    assert catalog.load_topology(written(tmp_path, new)).links["rope"].efficiency == 1.0


def test_a_gpu_of_one_s_own_or_a_change_to_a_shipped_one(tmp_path: Path) -> None:
    more = SMALL + "gpus:\n  l40s: {hbm_bytes: 96 GB}\n"
    gpu = catalog.load_topology(written(tmp_path, more)).gpus["l40s"]
    assert gpu.hbm_bytes == 96e9
    assert gpu.hbm_bytes_per_s == 864e9


def test_a_constant_says_where_it_comes_from(tmp_path: Path) -> None:
    sourced = SMALL.replace("0.4 us", '{value: 0.4 us, tag: measured, source: "my desk"}')
    part = catalog.load_topology(written(tmp_path, sourced)).parts["host"]
    assert part.latency_s == 0.4e-6
    assert str(part.provenance["latency_s"]) == "measured: my desk"
    plain = catalog.load_topology(written(tmp_path, SMALL)).parts["host"]
    assert str(plain.provenance["latency_s"]) == "assumed: box.yaml:4"


def test_a_constant_that_does_not_say_all_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, SMALL.replace("0.4 us", "{value: 0.4 us, tag: measured}")) == [
        "box.yaml:4: parts.host.latency_s: a value with its origin also needs source"
    ]
    (found,) = refused(tmp_path, SMALL.replace("0.4 us", "{value: 0.4 us, tag: guessed, source: me}"))
    assert "= 'guessed': must be 'datasheet', 'measured', 'fitted' or 'assumed'" in found


def test_everything_that_is_wrong_with_a_file_is_said_at_once(tmp_path: Path) -> None:
    text = """\
name: many
nodez: 2
parts:
  gpu: {kind: gpu, count: 8, model: h100-smx}
  nvswitch: {kind: nvswich, count: 4}
  host: {kind: host, count: two}
  nic: {kind: nic, latency_s: 3 GB}
wires:
  - {from: gpu, to: nvswitsh, pattern: all, link: nvlink4}
  - {from: gpu, to: host, pattern: block, link: pcie6}
  - {from: gpu, pattern: all, link: nvlink4}
  - {from: gpu, to: "host[0]", pattern: all, link: pcie5-x16, kolor: red}
links:
  nvlink4: {bytes_per_s: 25 GB, efficiency: 1.4}
  mine: {bytes_per_s: -3 GB/s}
"""
    found = refused(tmp_path, text)
    expected = {
        2: "nodez: is not a known key; did you mean 'nodes'?",
        4: "parts.gpu.model: there is no gpu named 'h100-smx'",
        5: "parts.nvswitch.kind = 'nvswich': must be ",
        6: "parts.host.count: 'two' is not a whole number",
        7: "parts.nic.latency_s: '3 GB' is not a latency",
        9: "wires[0].to: there is no part named 'nvswitsh'",
        10: "wires[1].link: there is no link named 'pcie6'",
        11: "wires[2].to: is missing",
        12: "wires[3].kolor: is not a known key",
        14: "links.nvlink4.bytes_per_s: '25 GB' is not a bandwidth",
        15: "links.mine.bytes_per_s: '-3 GB/s' is negative",
    }
    for line, says in expected.items():
        assert any(message.startswith(f"box.yaml:{line}: {says}") for message in found), (line, *found)
    assert any("did you mean 'h100-sxm'?" in message for message in found)
    assert any("did you mean 'pcie6-x16'?" in message for message in found)


def test_wiring_that_does_not_work_out_is_refused_with_the_line_of_the_wire(tmp_path: Path) -> None:
    text = """\
parts:
  gpu: {kind: gpu, count: 8, model: h100-sxm}
  host: {kind: host, count: 2}
wires:
  - {from: gpu, to: host, pattern: blocks, of: 3, link: pcie5-x16}
  - {from: gpu, to: "host[5]", pattern: all, link: pcie5-x16}
scale_out:
  link: infiniband-ndr
  of: gpu
  latency_s: 1 us
inter_node: tpc
"""
    assert refused(tmp_path, text) == [
        "box.yaml:5: wires[0]: blocks of 3 put 3 x 2 = 6 on host, but gpu has 8; 'of: 4' fits",
        "box.yaml:6: wires[1]: host[5] is outside the 2 that there are; indices run from 0 to 1",
        "box.yaml:7: scale_out[0]: of: 'gpu' is not a part of kind nic; add one",
        "box.yaml:11: inter_node: 'tpc' is not a transport of box; infiniband, roce, efa, tcp are",
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nodes: 0", "nodes = 0: must be at least 1"),
        ("nodes: 1000000", "nodes = 1000000: must be at most 16384"),
        ("nodes: .nan", "nodes = nan: must be finite"),
        ("peer_to_peer: sometimes", "peer_to_peer = 'sometimes': must be true or false"),
        ("parts: 7", "parts: is given twice"),
        ("links: 7", "links: is not a mapping"),
        ("scale_out: 7", "scale_out = 7: must be a list"),
        ("node: 7", "node: is not a mapping"),
        ("own_graph: 7", "own_graph: is not a known key"),
        (
            "transports: {x: {kind: carrier-pigeon}}",
            "transports.x.kind = 'carrier-pigeon': must be 'infiniband', 'roce', 'efa' or 'tcp'",
        ),
        ("provenance: {nodes: {tag: datasheet}}", "provenance.nodes.source: is missing"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, line: str, says: str) -> None:
    found = refused(tmp_path, f"{SMALL}{line}\n")
    assert any(message.startswith(f"box.yaml:7: {says}") for message in found), found


@pytest.mark.parametrize("value", [None, 7, "text", [], [[]], {}, True, [None], {"x": None}])
@pytest.mark.parametrize(
    "key", ["parts", "wires", "links", "gpus", "scale_out", "transports", "name", "provenance"]
)
def test_a_value_of_the_wrong_shape_never_ends_in_a_traceback(tmp_path: Path, key: str, value: Any) -> None:
    block = {"parts": {"gpu": {"kind": "gpu", "model": "l40s"}}, "wires": [], key: value}
    path = written(tmp_path, json.dumps(block))
    with contextlib.suppress(InputError):
        assert isinstance(catalog.load_topology(path), Topology)


SHIPPED = (topologies() / "nd-h100-v5.yaml").read_text()
HOSTS = "    - {from: pcie, to: host, pattern: blocks, of: 4, link: pcie5-x16}\n"
FAULTS = {
    "part misspelt": ("to: nvswitch", "to: nvswich", "wires[0].to", "did you mean 'nvswitch'?"),
    "link misspelt": ("link: nvlink4", "link: nvlnk4", "wires[0].link", "did you mean 'nvlink4'?"),
    "gpu misspelt": ("h100-sxm", "h100-smx", "parts.gpu.model", "did you mean 'h100-sxm'?"),
    "kind misspelt": ("kind: nvswitch", "kind: nvswtch", "parts.nvswitch.kind", "did you mean 'nvswitch'?"),
    "kind missing": ("kind: gpu, ", "", "parts.gpu.kind", "is missing"),
    "key of a wire misspelt": (", pattern: all", ", patern: all", "wires[0].patern", "mean 'pattern'?"),
    "key of a network misspelt": ("- of: nic", "- rail: 8\n    of: nic", "scale_out[0].rail", "'rails'?"),
    "pattern misspelt": ("one_to_one", "one_to_on", "wires[1].pattern", "did you mean 'one_to_one'?"),
    "count in words": ("count: 8, model", "count: eight, model", "parts.gpu.count", "write one, as in 8"),
    "count missing": ("pcie_switch\n      count: 8", "pcie_switch", "wires[1]", "pcie has no count"),
    "part twice": ("    host:\n", "    nic:\n", "node.parts.nic", "is given twice, first on line 19"),
    "unit misspelt": ("value: 0.12 us", "value: 0.12 uss", "parts.nvswitch.latency_s", "did you mean 'us'?"),
    "other unit": ("value: 0.12 us", "value: 0.12 GB/s", "parts.nvswitch.latency_s", "is of another"),
    "bits or bytes": ("value: 27.2 GB/s", "value: 27.2 Gb/s", "parts.nvme.bytes_per_s", "write bit or B"),
    "tag misspelt": ("tag: assumed", "tag: asumed", "parts.nvswitch.latency_s.tag", "mean 'assumed'?"),
    "block misspelt": ("\nnode:", "\nnod:", "nod", "did you mean 'node'?"),
    "network misspelt": ("\nscale_out:", "\nscaleout:", "scaleout", "did you mean 'scale_out'?"),
    "wires among the parts": ("  wires:", "    wires:", "parts.wires", "it belongs beside 'parts'"),
    "network inside the server": (
        "scale_out:\n  - of: nic\n",
        "  scale_out:\n  - of: nic\n",
        "node.scale_out",
        "scale_out stands beside node",
    ),
    "no selection": ("host[0]", "host(0)", "wires[5].to", "is not a selection; write a part or some of it"),
    "index outside": ("host[0]", "host[2]", "wires[5]", "outside the 2 that there are"),
    "of that does not fit": ("of: 4", "of: 3", "wires[3]", "'of: 4' fits"),
    "numbers of links": ("[5, 4, 4, 5]", "[5, 4, 4]", "wires[0]", "3 numbers for 4 members of nvswitch"),
    "another wire between the same places": (
        HOSTS,
        HOSTS + HOSTS.replace("pcie5", "pcie4"),
        "wires[4]",
        "pcie4-x16 on a place between",
    ),
    "network of no NIC": ("- of: nic", "- of: gpu", "scale_out[0]", "not a part of kind nic; nic, eth is"),
    "rails": ("- of: nic", "- rails: 3\n    of: nic", "scale_out[0]", "3 rails do not divide the 8 NICs"),
    "transport": ("\nscale_out", "\ninter_node: infinband\nscale_out", "inter_node", "infiniband, roce, efa"),
    "basis": ("value: measured", "value: measurd", "basis", "did you mean 'measured'?"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_message_is_the_fault_with_line_key_and_what_would_be_right(
    tmp_path: Path, fault: str
) -> None:
    right, wrong, key, says = FAULTS[fault]
    assert right in SHIPPED
    text = SHIPPED.replace(right, wrong, 1)
    first = refused(tmp_path, text)[0]
    where, _, what = first.partition(f": {key}")
    assert says in what, first
    line = int(where.removeprefix("box.yaml:"))
    changed = next(
        number
        for number, (one, other) in enumerate(zip(text.split("\n"), SHIPPED.split("\n"), strict=False), 1)
        if one != other
    )
    # A part without its count shows where it is used, a block of two keys where it begins.
    assert abs(line - changed) <= (21 if fault == "count missing" else 1), first


def test_of_two_faults_both_are_told_in_their_order(tmp_path: Path) -> None:
    text = SHIPPED.replace("h100-sxm", "h100-smx", 1).replace("link: nvlink4", "link: nvlnk4", 1)
    first, second = refused(tmp_path, text)
    assert "parts.gpu.model" in first
    assert "wires[0].link" in second


@pytest.mark.slow
def test_every_shipped_file_written_as_a_dict_gives_the_same_network() -> None:
    """A script's dict, and a scenario's block, may say all that a file may."""
    for path in sorted(topologies().glob("*.yaml")):
        named, data = catalog.load_topology(path.stem), yaml.safe_load(path.read_text())
        service = Scenario.model_validate(
            {"topology": data, "model": "llama-3-8b", "precision": {"weights": "fp16", "kv_cache": "fp16"},
             "workload": "single-user"}
        )  # fmt: skip
        for other in (catalog.load_topology(data), service.topology):
            assert other == named.model_copy(update={"links": other.links}), (
                path.stem
            )  # sources name no lines
            assert dict(other.graph.adjacency()) == dict(named.graph.adjacency()), path.stem
            assert {name: link.payload_bytes_per_s for name, link in other.links.items()} == {
                name: link.payload_bytes_per_s for name, link in named.links.items()
            }


def test_a_block_of_a_scenario_names_shipped_links_and_is_told_of_what_there_is_not() -> None:
    parts = {"gpu": {"kind": "gpu", "count": 2, "model": "l40s"}, "host": {"kind": "host"}}
    wire = {"from": "gpu", "to": "host", "pattern": "all", "link": "pcie4-x16"}
    block = {"node": {"parts": parts, "wires": [wire]}}
    service = {"topology": block, "model": "llama-3-8b", "workload": "single-user"}
    assert Scenario.model_validate(service).topology.name == "topology"
    wire["link"] = "pcie4"
    with pytest.raises(
        ValidationError, match=r"topology.wires.0.link: there is no link named 'pcie4'.*did you"
    ):
        Scenario.model_validate(service)


def test_a_gpu_names_another_one_whose_kernels_stand_in(tmp_path: Path) -> None:
    own = "gpus: {mine: {hbm_bytes: 48 GB, hbm_bytes_per_s: 1 TB/s, flops: {bf16: 200 TFLOP/s}, sms: 100, l2_bytes: 9 MB, pcie_generation: 4, kernels: %s}}\n"  # noqa: E501
    text = SMALL.replace("model: l40s", "model: mine")
    kernels = catalog.load_topology(written(tmp_path, text + own % "l40s")).gpus["mine"].kernels
    assert kernels is not None
    assert kernels.gemm == (catalog.load_gpu("l40s").kernels or kernels).gemm
    assert kernels.provenance["gemm.bf16"].source == "not measured on mine: those of l40s, its stand-in"
    assert "there is no gpu named 'l40'" in refused(tmp_path, text + own % "l40")[0]
