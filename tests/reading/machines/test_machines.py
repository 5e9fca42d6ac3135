"""What a driver or NCCL says of a server becomes a topology file that loads, with what was assumed marked."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.catalog import imported_topology, is_machine_file, load_topology
from sim.inputs.errors import InputError
from sim.inputs.topology import Topology
from sim.inputs.topology_check import checked

PAIRS = """\tGPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\tNUMA Affinity
GPU0\t X \tNV4\tPHB\tSYS\t0-31\t0
GPU1\tNV4\t X \tSYS\tPHB\t0-31\t0
GPU2\tPHB\tSYS\t X \tNV4\t32-63\t1
GPU3\tSYS\tPHB\tNV4\t X \t32-63\t1
"""


def matrix(gpus: int, nvlinks: int, nics: int = 0) -> str:
    """GPUs in NVLink with each other, a NIC beside each, two sockets."""
    names = [f"GPU{i}" for i in range(gpus)] + [f"NIC{i}" for i in range(nics)]

    def cell(one: str, other: str) -> str:
        a, b = int(one[3:]), int(other[3:])
        if one == other:
            return "X"
        if one[0] == other[0] == "G":
            return f"NV{nvlinks}"
        return "PIX" if a == b else "NODE" if a // (gpus // 2) == b // (gpus // 2) else "SYS"

    rows = ["\t".join([name, *(cell(name, other) for other in names)]) for name in names]
    return "\n".join(["\t" + "\t".join(names), *rows, "NIC Legend:", "  NIC0: mlx5_0", ""])


def xml(cpus: int, switches: int, devices: str, cpu: str = 'vendor="GenuineIntel" modelid="143"') -> str:
    """Sockets with PCIe switches that have these devices; %d is the number of the switch."""
    lines, number = ['<system version="1">'], 0
    for _ in range(cpus):
        lines.append(f"<cpu {cpu}>")
        for _ in range(switches):
            lines.append(
                f'<pci busid="ff:0{number}" class="0x060400" link_speed="32.0 GT/s" link_width="16">'
            )
            lines += [devices.replace("%d", str(number)), "</pci>"]
            number += 1
        lines.append("</cpu>")
    return "\n".join([*lines, "</system>"])


GPU_AND_NIC = (
    '<pci busid="1:%d" class="0x030200" link_speed="32.0 GT/s PCIe" link_width="16"/>'
    '<pci busid="2:%d" class="0x020700" link_speed="32.0 GT/s PCIe" link_width="16"/>'
)
DUMPED = (
    '<pci busid="1:%d" class="0x030200" device="0x2335" link_speed="32.0 GT/s PCIe" link_width="16">'
    '<gpu sm="90">'
    '<nvlink target="1:0" count="10" tclass="0x068000"/><nvlink target="9" count="8" tclass="0x068000"/>'
    "</gpu></pci>"
    '<pci busid="2:%d" class="0x020000" link_speed="16.0 GT/s PCIe" link_width="8"><nic>'
    '<net name="mlx5_%d" speed="200000"/></nic></pci>'
)


def imported(tmp_path: Path, text: str, gpu: str = "") -> tuple[str, Topology]:
    path = tmp_path / "server.txt"
    path.write_text(text)
    assert is_machine_file(path)
    written, described = imported_topology(path, gpu)
    own = tmp_path / "my.yaml"
    own.write_text(written)
    assert load_topology(own).gpus_per_node == described.gpus_per_node
    return written, described


def test_a_matrix_becomes_a_server_with_what_was_assumed_at_its_top(tmp_path: Path) -> None:
    written, described = imported(tmp_path, PAIRS)
    graph = described.graph
    assert graph.edges["node0.gpu0", "node0.gpu1"]["count"] == 4
    assert graph.has_edge("node0.gpu2", "node0.host0")  # PHB to GPU 0, whatever its NUMA affinity says
    assert "# - GPUs are a100-80gb-sxm" in written
    assert "# - GPU0, GPU2 on one socket" in written
    assert imported(tmp_path, PAIRS, "l40s")[1].graph.nodes["node0.gpu0"]["model"] == "l40s"


@pytest.mark.parametrize(
    ("text", "raw", "across"),
    [
        (matrix(8, 18, 8), 450e9, 49e9),  # 18 links of 25 GB/s; a rail of NDR for each GPU
        (matrix(8, 12, 4), 300e9, None),
        (matrix(4, 6), 450e9, None),  # three times six links, without switches
        (xml(2, 4, GPU_AND_NIC), 450e9, 49e9),  # Azure's ndv5-topo.xml
        (xml(2, 4, DUMPED), 450e9, None),
    ],
)
def test_links_and_rails_of_common_servers(
    tmp_path: Path, text: str, raw: float, across: float | None
) -> None:
    _, described = imported(tmp_path, text)
    assert checked(described).in_domain_raw_bytes_per_s == pytest.approx(raw)
    if across is not None:
        two = checked(load_topology(described, nodes=2))
        assert two.across_bytes_per_s == pytest.approx(across)


def test_the_xml_says_models_lanes_and_switches(tmp_path: Path) -> None:
    written, described = imported(tmp_path, xml(2, 4, DUMPED, 'vendor="GenuineIntel" modelid="207"'))
    assert described.gpu_models.keys() == {"h200-sxm"}
    assert "count: 2, reduces: true" in written
    assert "links: [10, 8]" in written
    assert "link: pcie4-x8" in written
    assert "upi-emerald-rapids" in written
    edge = described.graph.edges["node0.nic0", "node0.pcie0"]
    assert edge["bytes_per_s"] == pytest.approx(0.85 * 8 * 16e9 * 128 / 130 / 8, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PAIRS.replace("GPU3\tSYS\tPHB", ""), "the row of GPU3 is missing"),
        (PAIRS.replace("PHB", "FOO"), "'FOO' is no kind of path"),
        (xml(1, 1, "<pci/>"), "has no GPU"),
        (xml(2, 4, GPU_AND_NIC)[:-20], "ends before </system>"),
        (xml(2, 4, "<pci>"), "is not whole XML"),
        (xml(1, 2, '<pci class="0x038000"><gpu gcn="gfx942"><xgmi target="1"/></gpu></pci>'), "AMD GPUs"),
    ],
)
def test_what_is_cut_off_is_refused_with_the_reason(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "cut.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        imported_topology(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PAIRS, "nvidia-smi topo -m; write a topology from it: sim topology import foreign"),
        ("# nThread 1 nGpus 8 minBytes", "a log of nccl-tests; read it with sim calibrate"),
        ('{"input_length": 5, "hash_ids": [1]}\n{}', "a trace as JSON lines"),
        ('{"mean_ttft_ms": 5}', "a result of vllm bench serve"),
        ("<graphs version='1'/>", "graph dump"),
    ],
)
def test_a_file_of_the_trade_in_the_place_of_yaml_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "foreign"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        load_topology(path)
