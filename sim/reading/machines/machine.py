"""A server as a file of the driver or of NCCL shows it, and what machines with such GPUs have."""

from __future__ import annotations

from dataclasses import dataclass, field

Place = tuple[str, int]

# Links of a GPU and their type, and the chips of an HGX baseboard with the links of a GPU to each.
NVLINKS = {
    "v100": ("nvlink2", 6, (1, 1, 1, 1, 1, 1)),
    "a100": ("nvlink3", 12, (2, 2, 2, 2, 2, 2)),
    "h100": ("nvlink4", 18, (5, 4, 4, 5)),
    "h200": ("nvlink4", 18, (5, 4, 4, 5)),
    "h20": ("nvlink4", 18, (5, 4, 4, 5)),
    "b200": ("nvlink5", 18, (9, 9)),
    "b300": ("nvlink5", 18, (9, 9)),
    "gb200": ("nvlink5", 18, (1,) * 18),
    "gb300": ("nvlink5", 18, (1,) * 18),
}


@dataclass
class Machine:
    """A server as a file shows it. `parents` of GPUs, NICs and PCIe switches are a switch or a socket."""

    kind: str
    name: str
    gpu: str = ""
    gpu_parents: list[Place] = field(default_factory=list)
    nic_parents: list[Place] = field(default_factory=list)
    nic_names: list[str] = field(default_factory=list)
    nic_link: str = "infiniband-ndr"
    switch_parents: list[Place] = field(default_factory=list)
    hosts: int = 1
    pcie_of: dict[Place, str] = field(default_factory=dict)
    socket_link: str = "upi-sapphire-rapids"
    nvlinks: dict[tuple[int, int], int] = field(default_factory=dict)
    chips: tuple[int, ...] = ()
    assumed: list[str] = field(default_factory=list)
