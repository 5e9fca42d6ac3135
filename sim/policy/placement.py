"""Which GPUs serve which replica, and in what rank order.

A rule takes the GPUs of the topology in order (with their server) and the sizes of the replicas, and returns
one tuple of GPUs a replica: `pipeline_parallel_size` groups of `tensor_parallel_size` ranks, one after the
other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from sim.inputs.errors import InfeasibleError

Gpus = Sequence[str]


def _refuse_too_few(gpus: Gpus, sizes: Sequence[int]) -> None:
    needed = sum(sizes)
    if needed > len(gpus):
        each = sizes[0] if len(set(sizes)) == 1 else 0
        able = len(gpus) // each if each else 0
        nearest = (
            f"{_counted(able, 'replica')} of {each} GPUs {'fit' if able > 1 else 'fits'}" if able else ""
        )
        raise InfeasibleError(
            f"{_counted(len(sizes), 'replica')} {'need' if len(sizes) > 1 else 'needs'} {needed} GPUs "
            f"and the topology has {len(gpus)}",
            nearest or f"{-(-needed // max(len(gpus), 1))} times as many nodes fit",
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


@dataclass(frozen=True, slots=True)
class Packed:
    """Consecutive GPUs, so that tensor-parallel ranks are as near as the machine's numbering makes them."""

    def __call__(self, gpus: Gpus, node_of: Mapping[str, int], sizes: Sequence[int]) -> list[tuple[str, ...]]:
        _refuse_too_few(gpus, sizes)
        placed, first = [], 0
        for size in sizes:
            placed.append(tuple(gpus[first : first + size]))
            first += size
        return placed


@dataclass(frozen=True, slots=True)
class Strided:
    """Every replica takes GPUs `stride` apart (0: as many as there are replicas), which spreads it over the
    machine.
    """

    stride: Annotated[int, Ge(0)] = 0

    def __call__(self, gpus: Gpus, node_of: Mapping[str, int], sizes: Sequence[int]) -> list[tuple[str, ...]]:
        _refuse_too_few(gpus, sizes)
        stride = self.stride or len(sizes)
        order = [gpu for start in range(min(stride, len(gpus))) for gpu in gpus[start::stride]]
        return Packed()(order, node_of, sizes)


@dataclass(frozen=True, slots=True)
class RailAligned:
    """Ranks of one replica sit on the same rail of different servers: GPU 0 of every server first, then GPU
    1, ...
    """

    def __call__(self, gpus: Gpus, node_of: Mapping[str, int], sizes: Sequence[int]) -> list[tuple[str, ...]]:
        _refuse_too_few(gpus, sizes)
        by_node: dict[int, list[str]] = {}
        for gpu in gpus:
            by_node.setdefault(node_of[gpu], []).append(gpu)
        longest = max(len(members) for members in by_node.values())
        order = [members[i] for i in range(longest) for members in by_node.values() if i < len(members)]
        return Packed()(order, node_of, sizes)


@dataclass(frozen=True, slots=True)
class Explicit:
    """The lists of ranks (indices into the topology's GPUs) or GPU names that the user wrote."""

    ranks: tuple[tuple[int | str, ...], ...]

    def __call__(self, gpus: Gpus, node_of: Mapping[str, int], sizes: Sequence[int]) -> list[tuple[str, ...]]:
        if [len(ranks) for ranks in self.ranks] != list(sizes):
            raise InfeasibleError(
                f"placement.ranks lists {[len(ranks) for ranks in self.ranks]} GPUs; "
                f"the replicas need {list(sizes)}"
            )
        placed: list[tuple[str, ...]] = []
        for ranks in self.ranks:
            named = []
            for rank in ranks:
                if isinstance(rank, str):
                    if rank not in node_of:
                        raise InfeasibleError(f"placement.ranks: {rank!r} is not a GPU", f"{gpus[0]} is one")
                    named.append(rank)
                elif not 0 <= rank < len(gpus):
                    raise InfeasibleError(f"placement.ranks: rank {rank} must be 0 to {len(gpus) - 1}")
                else:
                    named.append(gpus[rank])
            placed.append(tuple(named))
        used = [gpu for ranks in placed for gpu in ranks]
        twice = sorted({gpu for gpu in used if used.count(gpu) > 1})
        if twice:
            raise InfeasibleError(f"placement.ranks names {', '.join(twice)} more than once")
        return placed


PLACEMENTS = {
    "packed": Packed,
    "strided": Strided,
    "rail_aligned": RailAligned,
    "explicit": Explicit,
}
