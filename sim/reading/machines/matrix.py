"""The matrix that `nvidia-smi topo -m` prints: kinds of paths between GPUs and NICs, no models, no rates."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sim.inputs.errors import InputError, Problem
from sim.reading.machines.machine import NVLINKS, Machine, Place

_COLOURS = re.compile(r"\x1b\[\d*m")
_NAME = re.compile(r"GPU\d+|NIC\d+|(?:mlx|bnxt|roce|ib|hfi|irdma|rdma)\S*")
PATHS = ("X", "PIX", "PXB", "PHB", "NODE", "SYS", "SOC")


def read_matrix(machine: Machine, text: str, path: Path, known: Sequence[str], gpu: str) -> None:
    lines = _COLOURS.sub("", text).splitlines()
    start = next(i for i, line in enumerate(lines) if re.match(r"\s*GPU0\b", line))
    names = list(itertools.takewhile(_NAME.fullmatch, lines[start].split()))
    if len(set(names)) < len(names):
        raise InputError(Problem("names a GPU or a NIC twice in its first row; paste one table", str(path)))
    rows: dict[str, list[str]] = {}
    affinity: dict[str, str] = {}
    for line in lines[start + 1 :]:
        words = line.split()
        if not words or words[0] not in names:
            continue
        rows[words[0]] = words[1 : 1 + len(names)]
        rest = words[1 + len(names) :]
        if len(rest) >= 2:
            affinity[words[0]] = rest[1]
    lacking = [name for name in names if len(rows.get(name, ())) < len(names)]
    if lacking:
        raise InputError(
            Problem(f"the row of {lacking[0]} is missing or cut off; paste the whole table", str(path))
        )
    for row, cells in rows.items():
        for cell in cells:
            if cell not in PATHS and not re.fullmatch(r"NV\d+", cell):
                raise InputError(
                    Problem(f"row {row}: {cell!r} is no kind of path ({', '.join(PATHS)}, NV#)", str(path))
                )
    gpus = [name for name in names if name.startswith("GPU")]
    nics = [name for name in names if not name.startswith("GPU")]
    path_of = {(a, b): cell for a in names for b, cell in zip(names, rows[a], strict=False) if a != b}
    pairs = {
        (gpus.index(a), gpus.index(b)): int(cell[2:])
        for (a, b), cell in path_of.items()
        if cell.startswith("NV") and a in gpus and b in gpus and gpus.index(a) < gpus.index(b)
    }
    _choose_gpu_by_links(machine, pairs, len(gpus), known, gpu)
    _join_nvlinks(machine, pairs, len(gpus))
    sockets = _groups(names, lambda a, b: path_of[a, b] in ("PIX", "PXB", "PHB", "NODE"))
    sockets = _merge_by_affinity(machine, sockets, path_of, affinity)
    machine.hosts = len(sockets)
    _place_on_switches(machine, names, path_of, sockets, gpus)
    machine.nic_names = [_nic_name(name, lines) for name in nics]
    machine.assumed.append("PCIe lanes, and which processors these are: the table does not say them")
    if nics:
        machine.assumed.append("one port of NDR InfiniBand for every NIC: the table has no rates")


def _nic_name(name: str, lines: Iterable[str]) -> str:
    """`mlx5_0` of `NIC0: mlx5_0`, where the legend says it."""
    found = next((line.split(":", 1)[1].strip() for line in lines if line.strip().startswith(f"{name}:")), "")
    return found or name


def _groups(names: Sequence[str], joined: Callable[[str, str], bool]) -> list[list[str]]:
    groups: list[list[str]] = []
    for name in names:
        near = [group for group in groups if any(joined(name, other) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(other for group in near for other in group), name])
    return sorted(
        (sorted(group, key=names.index) for group in groups), key=lambda group: names.index(group[0])
    )


def _merge_by_affinity(
    machine: Machine, groups: list[list[str]], path_of: dict[tuple[str, str], str], affinity: dict[str, str]
) -> list[list[str]]:
    """Groups that no path sets apart (NVLink hides it) are one socket where their NUMA affinity is one."""
    merged: list[list[str]] = []
    for group in groups:
        for other in merged:
            apart = any(path_of[a, b] in ("SYS", "SOC") for a in group for b in other)
            numa = {affinity.get(name, "N/A") for name in (*group, *other) if name.startswith("GPU")}
            if not apart and len(numa) == 1:
                other.extend(group)
                break
        else:
            merged.append(list(group))
    for group in merged:
        numa = {affinity[name] for name in group if affinity.get(name, "N/A") != "N/A"}
        if len(numa) > 1:
            machine.assumed.append(
                f"{', '.join(group)} on one socket: their paths say so (PHB or nearer), and NUMA affinities "
                f"({', '.join(sorted(numa))}) do not"
            )
    return merged


def _place_on_switches(
    machine: Machine, names: Sequence[str], path_of: dict[tuple[str, str], str], sockets: list[list[str]],
    gpus: Sequence[str],
) -> None:  # fmt: skip
    """PIX is one switch; PXB is switches below a switch; anything else hangs on its socket."""
    parent: dict[str, Place] = {}
    for socket, members in enumerate(sockets):
        for upper in _groups(members, lambda a, b: path_of[a, b] in ("PIX", "PXB")):
            above: Place = ("host", socket)
            leaves = _groups(upper, lambda a, b: path_of[a, b] == "PIX")
            if len(leaves) > 1:
                machine.switch_parents.append(above)
                above = ("pcie", len(machine.switch_parents) - 1)
            for leaf in leaves:
                on = above
                if len(leaf) > 1:
                    machine.switch_parents.append(above)
                    on = ("pcie", len(machine.switch_parents) - 1)
                parent.update(dict.fromkeys(leaf, on))
    machine.gpu_parents = [parent[name] for name in gpus]
    machine.nic_parents = [parent[name] for name in names if name not in gpus]


def _choose_gpu_by_links(
    machine: Machine, pairs: dict[tuple[int, int], int], gpus: int, known: Sequence[str], gpu: str
) -> None:
    if gpu:
        machine.gpu = gpu
        return
    most = max(pairs.values(), default=0)
    total = max((sum(n for pair, n in pairs.items() if one in pair) for one in range(gpus)), default=0)
    by_links = {18: "h100-sxm", 12: "a100-80gb-sxm", 6: "v100", 0: "l40s"}
    key = (
        18
        if most > 12 or total == 18
        else 12
        if most > 6 or total == 12 or most in (3, 4)
        else 6
        if most
        else 0
    )
    wanted = by_links[key]
    machine.gpu = (
        wanted
        if wanted in known
        else next((name for name in known if name.startswith(wanted)), "a100-80gb-sxm")
    )
    why = f"NV{most} between GPUs" if most else "no NVLink between GPUs"
    machine.assumed.append(
        f"GPUs are {machine.gpu}: the table has {why} and no models; --gpu NAME says another"
    )


def _join_nvlinks(machine: Machine, pairs: dict[tuple[int, int], int], gpus: int) -> None:
    """All pairs alike with more links than a GPU has means switches; else the links stand between pairs."""
    _, most, chips = NVLINKS.get(machine.gpu.split("-")[0], ("nvlink3", 12, (2,) * 6))
    counts = set(pairs.values())
    everyone = len(pairs) == gpus * (gpus - 1) // 2
    if everyone and gpus > 2 and len(counts) == 1 and max(counts) * (gpus - 1) > most:
        machine.chips = chips
        machine.assumed.append(
            f"NVSwitch chips as on an HGX board of {machine.gpu}: {len(chips)}, with "
            f"{', '.join(map(str, chips))} links a GPU"
        )
    else:
        machine.nvlinks = pairs
