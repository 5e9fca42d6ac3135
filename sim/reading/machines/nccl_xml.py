"""NCCL's XML of a server (`NCCL_TOPO_FILE`, `NCCL_TOPO_DUMP_FILE`): the PCIe tree with its lanes, and NVLinks
where NCCL has written it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from sim.inputs.errors import InputError, Problem
from sim.reading.machines.machine import NVLINKS, Machine, Place

# PCI ID database (pci-ids.ucw.cz), vendor 10de; names of GPUs that are or may be described, the nearest last.
DEVICES = {
    "0x1db1": ("v100-16gb-sxm", "v100-sxm", "v100"),
    "0x1db5": ("v100-32gb-sxm", "v100-sxm", "v100"),
    "0x1eb8": ("t4",),
    "0x20b0": ("a100-40gb-sxm",),
    "0x20b2": ("a100-80gb-sxm",),
    "0x20b5": ("a100-80gb-pcie", "a100-80gb-sxm"),
    "0x20f1": ("a100-40gb-pcie", "a100-40gb-sxm"),
    "0x2236": ("a10",),
    "0x2329": ("h20-sxm", "h20"),
    "0x2330": ("h100-sxm",),
    "0x2331": ("h100-pcie", "h100-sxm"),
    "0x2335": ("h200-sxm",),
    "0x2684": ("rtx-4090",),
    "0x26b9": ("l40s",),
    "0x27b8": ("l4",),
    "0x2901": ("b200-sxm",),
    "0x2941": ("gb200",),
    "0x2b85": ("rtx-5090",),
    "0x2bb5": ("rtx-pro-6000",),
}
BY_SM = {
    70: "v100",
    80: "a100-80gb-sxm",
    89: "l40s",
    90: "h100-sxm",
    100: "b200-sxm",
    103: "b300-sxm",
    120: "rtx-pro-6000",
}
GT_PER_S = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
LANES = (1, 2, 4, 8, 16, 32)
_SOCKETS = {  # NCCL tells its own rates by the same vendor and model of a processor (src/graph/topo.h)
    ("GenuineIntel", "106"): "upi-ice-lake",
    ("GenuineIntel", "143"): "upi-sapphire-rapids",
    ("GenuineIntel", "207"): "upi-emerald-rapids",
    ("AuthenticAMD", "49"): "xgmi-rome",
}


def read_xml(machine: Machine, text: str, path: Path, known: Sequence[str], gpu: str) -> None:
    try:
        found = re.search(r"<system\b.*</system\s*>", text, re.DOTALL)
        if found is None:
            raise InputError(Problem("ends before </system>; take the whole file", str(path)))
        root = ElementTree.fromstring(found[0])
    except ElementTree.ParseError as error:
        line = text[: text.index("<system")].count("\n") + error.position[0]
        raise InputError(Problem(f"is not whole XML: {error.msg}", str(path), line)) from None
    if next(root.iter("xgmi"), None) is not None:
        what = "is of AMD GPUs (xgmi links), which are not read; describe them as parts and wires"
        raise InputError(Problem(what, str(path)))
    servers = {cpu.get("host_hash", "") for cpu in root.iter("cpu")}
    first = next(iter([cpu.get("host_hash", "") for cpu in root.iter("cpu")]), "")
    cpus = [cpu for cpu in root.iter("cpu") if cpu.get("host_hash", "") == first]
    if len(servers) > 1:
        machine.assumed.append(f"every server is as the first of the {len(servers)} in the file")
    tree = _Tree(machine)
    for index, cpu in enumerate(cpus):
        for child in cpu:
            tree.add(child, ("host", index))
    machine.hosts = max(1, len(cpus))
    if not tree.gpus:
        raise InputError(
            Problem("has no GPU (PCI class 0x0302); it is of another machine, or was cut", str(path))
        )
    _choose_gpu_of_xml(machine, tree, known, gpu)
    _nvlinks_of_xml(machine, tree)
    if cpus:
        processor = cpus[0].get("vendor", ""), cpus[0].get("modelid", "")
        usual = "xgmi-rome" if processor[0] == "AuthenticAMD" else "upi-sapphire-rapids"
        machine.socket_link = _SOCKETS.get(processor, usual)
        if processor not in _SOCKETS and len(cpus) > 1:
            machine.assumed.append(
                f"{machine.socket_link} between sockets: processor {' '.join(processor)} is not known"
            )


class _Tree:
    """The PCIe tree below the processors: bridges with several devices below them are switches."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.gpus: dict[str, ElementTree.Element] = {}
        self.links: list[list[tuple[str, int]]] = []

    def add(self, element: ElementTree.Element, above: Place) -> None:
        machine, kind = self.machine, element.get("class", "")
        if element.tag == "pci" and (
            kind.startswith(("0x0302", "0x0300", "0x1200")) or element.find("gpu") is not None
        ):
            machine.pcie_of["gpu", len(machine.gpu_parents)] = _pcie(element)
            machine.gpu_parents.append(above)
            self.gpus[element.get("busid", "").lower()] = element
            # A switch is told by its PCI class: its address may be that of another device elsewhere.
            targets = [
                "switch" if end.get("tclass", "").startswith("0x0680") else end.get("target", "").lower()
                for end in element.iter("nvlink")
            ]
            counts = [_whole(end.get("count")) for end in element.iter("nvlink")]
            self.links.append(list(zip(targets, counts, strict=True)))
        elif element.tag == "pci" and kind.startswith(("0x0200", "0x0207")):
            self._nic(element, above, _pcie(element), kind)
        elif element.tag == "pci" and not kind.startswith("0x0680"):
            below = sum(1 for inner in element.iter("pci") if inner is not element and _is_device(inner))
            if below > 1:
                machine.switch_parents.append(above)
                number = len(machine.switch_parents) - 1
                machine.pcie_of["pcie", number] = _pcie(element)
                above = ("pcie", number)
            for child in element:
                self.add(child, above)
        elif element.tag == "nic":
            for net in element.iter("net"):
                machine.assumed.append(f"{net.get('name')} is left out: it hangs on no PCIe device")

    def _nic(self, element: ElementTree.Element, above: Place, pcie: str, kind: str) -> None:
        machine = self.machine
        net = element.find("nic/net")
        machine.pcie_of["nic", len(machine.nic_parents)] = pcie
        machine.nic_parents.append(above)
        machine.nic_names.append(net.get("name", "") if net is not None else element.get("busid", ""))
        speed = net.get("speed") if net is not None else None
        by_speed = {"400000": "infiniband-ndr", "200000": "infiniband-hdr", "800000": "infiniband-xdr"}
        machine.nic_link = by_speed.get(
            speed or "", "infiniband-hdr" if pcie.startswith("pcie4") else "infiniband-ndr"
        )
        if len(machine.nic_parents) == 1:
            if speed not in by_speed:
                machine.assumed.append(f"NICs of {machine.nic_link}: the file has no rate that is known")
            if kind.startswith("0x0200"):
                machine.assumed.append(
                    f"RDMA at the rate and latency of {machine.nic_link}: the NICs are Ethernet (RoCE or EFA)"
                )


def _is_device(element: ElementTree.Element) -> bool:
    kind = element.get("class", "")
    return kind.startswith(("0x0302", "0x0300", "0x0200", "0x0207", "0x1200"))


def _pcie(element: ElementTree.Element) -> str:
    """`pcie5-x16` by the speed and width of a link; empty where it says none."""
    speed = re.match(r"\d+(?:\.\d+)?", element.get("link_speed") or "")
    width = _whole(element.get("link_width"))
    generation = GT_PER_S.get(float(speed[0])) if speed else None
    return f"pcie{generation}-x{width}" if generation and width in LANES else ""


def _whole(written: str | None) -> int:
    """A whole number as NCCL writes one; 0 for what is none."""
    return int(written) if written and re.fullmatch(r"\d{1,6}", written) else 0


def _choose_gpu_of_xml(machine: Machine, tree: _Tree, known: Sequence[str], gpu: str) -> None:
    element = next(iter(tree.gpus.values()))
    inner = element.find("gpu")
    device, sm = element.get("device", "").lower(), _whole(inner.get("sm") if inner is not None else None)
    named = [name for name in DEVICES.get(device, ()) if name in known]
    if gpu:
        machine.gpu = gpu
    elif named:
        machine.gpu = named[0]
        if machine.gpu != DEVICES[device][0]:
            machine.assumed.append(
                f"GPUs are {machine.gpu}: {DEVICES[device][0]} (device {device}) is not described"
            )
    elif BY_SM.get(sm, "") in known:
        machine.gpu = BY_SM[sm]
        machine.assumed.append(
            f"GPUs are {machine.gpu}: the file has compute capability {sm / 10:g} and no known model"
        )
    else:
        machine.gpu = {"pcie4": "a100-80gb-sxm", "pcie3": "a100-80gb-sxm"}.get(_pcie(element)[:5], "h100-sxm")
        machine.assumed.append(
            f"GPUs are {machine.gpu}, by their PCIe: the file names none; --gpu NAME says another"
        )


def _nvlinks_of_xml(machine: Machine, tree: _Tree) -> None:
    order = list(tree.gpus)
    _, _, chips = NVLINKS.get(machine.gpu.split("-")[0], ("nvlink3", 12, (2,) * 6))
    if any(tree.links):
        for one, links in enumerate(tree.links):
            for target, count in links:
                if target in order:
                    pair = tuple(sorted((one, order.index(target))))
                    machine.nvlinks[pair[0], pair[1]] = count
        if not machine.nvlinks:  # the other ends are switches
            counts = [count for _, count in tree.links[0]]
            machine.chips = tuple(counts) if len(counts) > 1 else chips
            if len(counts) == 1:
                machine.assumed.append(
                    f"{len(chips)} NVSwitch chips as on an HGX board: the file has one stand-in"
                )
    elif machine.gpu.split("-")[0] in NVLINKS and len(order) > 1:
        machine.chips = chips
        machine.assumed.append(
            f"NVLink through {len(chips)} NVSwitch chips as on an HGX board of {machine.gpu}: the file has "
            "none (NCCL adds them when it runs; NCCL_TOPO_DUMP_FILE has them)"
        )
