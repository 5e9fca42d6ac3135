"""A server that was read as the text of a topology file, with what was assumed at its top."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sim.reading.machines.machine import NVLINKS, Machine, Place
from sim.reading.machines.nccl_xml import GT_PER_S

OWN_LINKS = {
    "nvlink2": (
        '{bytes_per_s: {value: 25 GB/s, tag: datasheet, source: "NVIDIA V100 datasheet: 300 GB/s over 6 '
        'links, both directions"}, efficiency: {value: 0.8, tag: measured, source: "NCCL src/graph/topo.h: '
        'SM70_NVLINK_BW 20.0 of 25 GB/s"}, latency_s: {value: 0.415 us, tag: assumed, source: "as NVLink 3"}}'
    ),
}


def topology_text(machine: Machine, source: str, known_links: Sequence[str], pcie_generation: int) -> str:
    """The topology as YAML, with what was assumed at its top and beside each value."""
    return "\n".join([*_head(machine, source), *_body(machine, source, known_links, pcie_generation), ""])


def _head(machine: Machine, source: str) -> Iterable[str]:
    yield f"# From {machine.kind}, {source}. Assumed, as that file does not say it; change what is otherwise:"
    yield from (f"# - {what}" for what in machine.assumed)
    yield "# - latencies of parts, as of shipped machines"
    yield ""
    yield f"name: {machine.name}"
    yield f"description: {len(machine.gpu_parents)}x {machine.gpu}, from {machine.kind}"


def _body(machine: Machine, source: str, known_links: Sequence[str], generation: int) -> Iterable[str]:
    usual = f"pcie{generation}-x16"
    gpus, nics, switches = machine.gpu_parents, machine.nic_parents, machine.switch_parents
    yield "node:"
    yield "  parts:"
    yield f"    gpu: {{kind: gpu, count: {len(gpus)}, model: {machine.gpu}}}"
    if machine.chips:
        reduces = ", reduces: true" if machine.gpu.split("-")[0] not in ("a100", "v100") else ""
        yield f"    nvswitch: {{kind: nvswitch, count: {len(machine.chips)}{reduces}, {_latency('0.12 us')}}}"
    if switches:
        yield f"    pcie: {{kind: pcie_switch, count: {len(switches)}, {_latency('0.13 us')}}}"
    if nics:
        yield f"    # {', '.join(machine.nic_names)}"
        yield f"    nic: {{kind: nic, count: {len(nics)}, {_latency('0.3 us')}}}"
    yield f"    host: {{kind: host, count: {machine.hosts}, {_latency('0.4 us')}}}"
    yield "  wires:"
    used: list[str] = []
    nvlink, _, _ = NVLINKS.get(machine.gpu.split("-")[0], ("nvlink3", 12, ()))
    if machine.chips:
        alike = len(set(machine.chips)) == 1
        links = machine.chips[0] if alike else f"[{', '.join(map(str, machine.chips))}]"
        yield f"    - {{from: gpu, to: nvswitch, pattern: all, link: {nvlink}, links: {links}}}"
        used.append(nvlink)
    for (one, other), count in sorted(machine.nvlinks.items()):
        ends = f'from: "gpu[{one}]", to: "gpu[{other}]"'
        yield f"    - {{{ends}, pattern: all, link: {nvlink}, links: {count}}}"
        used.append(nvlink)
    for part, parents in (("gpu", gpus), ("nic", nics), ("pcie", switches)):
        for line, link in _wires(part, parents, machine, usual):
            yield line
            used.append(link)
    if machine.hosts > 1:
        yield f"    - {{from: host, to: host, pattern: all, link: {machine.socket_link}}}"
        used.append(machine.socket_link)
    if nics:
        yield "scale_out:"
        yield "  of: nic"
        yield f"  link: {machine.nic_link}"
        yield f"  {_latency('0.2 us')}"
        used.append(machine.nic_link)
    own = [link for link in dict.fromkeys(used) if link not in known_links]
    if own:
        yield "links:"
        yield from (f"  {link}: {OWN_LINKS.get(link) or _pcie_link(link)}" for link in own)
    yield "provenance:"
    yield f'  node: {{tag: assumed, source: "{machine.kind}, {source}, and what is listed above"}}'


def _latency(value: str) -> str:
    return f'latency_s: {{value: {value}, tag: assumed, source: "as nd-h100-v5"}}'


def _wires(part: str, parents: list[Place], machine: Machine, usual: str) -> Iterable[tuple[str, str]]:
    """One wire for all where the parts lie in equal blocks on their parents, else one for each."""
    links = [machine.pcie_of.get((part, index)) or usual for index in range(len(parents))]
    kinds, count = {kind for kind, _ in parents}, {"pcie": len(machine.switch_parents), "host": machine.hosts}
    if len(kinds) == 1 and len(set(links)) == 1 and part != next(iter(kinds)):
        (to,) = kinds
        each = len(parents) // count[to]
        if each * count[to] == len(parents) and all(
            index // each == at for index, (_, at) in enumerate(parents)
        ):
            pattern = "one_to_one" if each == 1 else f"blocks, of: {each}"
            yield f"    - {{from: {part}, to: {to}, pattern: {pattern}, link: {links[0]}}}", links[0]
            return
    for index, ((to, at), link) in enumerate(zip(parents, links, strict=True)):
        yield f'    - {{from: "{part}[{index}]", to: "{to}[{at}]", pattern: all, link: {link}}}', link


def _pcie_link(name: str) -> str:
    """A PCIe link of any generation and width: lanes x rate x 128/130 / 8 from generation 3 on, else 8/10."""
    found = re.fullmatch(r"pcie(\d)-x(\d+)", name)
    assert found, name
    generation, lanes = int(found[1]), int(found[2])
    gt_per_s = next(rate for rate, number in GT_PER_S.items() if number == generation)
    gb_per_s = lanes * gt_per_s * (128 / 130 if generation > 2 else 0.8) / 8
    source = f"PCI Express {generation}.0: {lanes} lanes x {gt_per_s:g} GT/s"
    return (
        f'{{bytes_per_s: {{value: {gb_per_s:.4g} GB/s, tag: datasheet, source: "{source}"}}, '
        'efficiency: {value: 0.85, tag: assumed, source: "between 0.83 and 0.87 of sixteen lanes"}, '
        'latency_s: {value: 0.35 us, tag: assumed, source: "as sixteen lanes"}}'
    )
