"""Small machines built by hand as networkx graphs, for tests of paths and collectives."""

from __future__ import annotations

import networkx as nx

NVLINK = 450e9
PCIE = 50e9
NIC = 50e9
UPI = 20e9
MEMORY = 30e9


def wire(
    graph: nx.DiGraph,
    here: str,
    there: str,
    bytes_per_s: float,
    latency_s: float | None = None,
    link: str = "wire",
) -> None:
    stated = {} if latency_s is None else {"latency_s": latency_s}
    for edge in ((here, there), (there, here)):
        graph.add_edge(*edge, bytes_per_s=bytes_per_s, link=link, count=1, **stated)


def servers(
    nodes: int = 1,
    gpus: int = 8,
    chips: int = 4,
    nics: int = 8,
    nvlink: float = NVLINK,
    nic: float = NIC,
    spines: int = 0,
    reduces: bool = True,
    ethernet: float = 0.0,
    peer_to_peer: bool = True,
    acs: bool = False,
    inter_node: str = "infiniband",
    pcie: float = PCIE,
    gpus_per_switch: int = 1,
    latency_s: float | None = None,
) -> nx.DiGraph:
    """Servers of GPUs on NVSwitch chips and PCIe switches, two sockets each, rails to one leaf per NIC,
    then spines.
    """
    graph = nx.DiGraph(name="by-hand", peer_to_peer=peer_to_peer, acs=acs, inter_node=inter_node)
    names = []
    rails = nics if nodes > 1 else 0
    for rail in range(rails):
        graph.add_node(f"leaf{rail}", kind="switch", node=-1, index=rail)
        for spine in range(spines):
            graph.add_node(f"spine{spine}", kind="switch", node=-1, index=rails + spine)
            wire(graph, f"leaf{rail}", f"spine{spine}", nic * nodes / spines)
    for node in range(nodes):
        for socket in range(2):
            graph.add_node(
                f"node{node}.host{socket}", kind="host", node=node, index=socket, bytes_per_s=MEMORY
            )
        wire(graph, f"node{node}.host0", f"node{node}.host1", UPI)
        for chip in range(chips):
            graph.add_node(
                f"node{node}.nvswitch{chip}",
                kind="nvswitch",
                node=node,
                index=chip,
                domain=node,
                reduces=reduces,
            )
        switches = gpus // gpus_per_switch
        for switch in range(switches):
            graph.add_node(f"node{node}.pcie{switch}", kind="pcie_switch", node=node, index=switch)
            wire(graph, f"node{node}.pcie{switch}", f"node{node}.host{2 * switch // switches}", pcie)
        for gpu in range(gpus):
            name = f"node{node}.gpu{gpu}"
            names.append(name)
            graph.add_node(name, kind="gpu", node=node, index=gpu, domain=node, model="h100-sxm")
            wire(graph, name, f"node{node}.pcie{gpu // gpus_per_switch}", pcie)
            for chip in range(chips):
                wire(graph, name, f"node{node}.nvswitch{chip}", nvlink / chips, latency_s)
        for rail in range(rails):
            name = f"node{node}.nic{rail}"
            graph.add_node(name, kind="nic", node=node, index=rail, transport="infiniband")
            wire(graph, name, f"node{node}.pcie{rail * switches // nics}", pcie)
            wire(graph, name, f"leaf{rail}", nic)
        if ethernet:
            graph.add_node(f"node{node}.eth0", kind="nic", node=node, index=99, transport="ethernet")
            wire(graph, f"node{node}.eth0", f"node{node}.host0", pcie)
            graph.add_node("tor", kind="switch", node=-1, index=999)
            wire(graph, f"node{node}.eth0", "tor", ethernet)
    graph.graph["gpus"] = names
    return graph
