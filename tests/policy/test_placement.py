from __future__ import annotations

import pytest

from sim.inputs.errors import InfeasibleError
from sim.policy.placement import Explicit, Packed, RailAligned, Strided

GPUS = [f"node{node}.gpu{gpu}" for node in range(2) for gpu in range(4)]
NODE_OF = {gpu: int(gpu[4]) for gpu in GPUS}


def numbers(placed: list[tuple[str, ...]]) -> list[list[int]]:
    return [[GPUS.index(gpu) for gpu in replica] for replica in placed]


def test_packed_takes_consecutive_gpus() -> None:
    assert numbers(Packed()(GPUS, NODE_OF, [2, 4])) == [[0, 1], [2, 3, 4, 5]]


def test_strided_spreads_every_replica_over_the_machine() -> None:
    assert numbers(Strided()(GPUS, NODE_OF, [4, 4])) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert numbers(Strided(stride=4)(GPUS, NODE_OF, [2, 2])) == [[0, 4], [1, 5]]
    beyond = Strided(stride=10**12)  # no GPU is so far from another
    assert beyond(GPUS, NODE_OF, [2, 2]) == Strided(stride=len(GPUS))(GPUS, NODE_OF, [2, 2])


def test_rail_aligned_takes_the_same_gpu_of_every_server() -> None:
    assert numbers(RailAligned()(GPUS, NODE_OF, [2, 4])) == [[0, 4], [1, 5, 2, 6]]


def test_explicit_takes_numbers_and_names() -> None:
    assert numbers(Explicit(((7, "node0.gpu2"), (0, 1)))(GPUS, NODE_OF, [2, 2])) == [[7, 2], [0, 1]]


@pytest.mark.parametrize("rule", [Packed(), Strided(), RailAligned()])
def test_too_few_gpus_are_refused_with_the_replicas_that_fit(rule: Packed | Strided | RailAligned) -> None:
    with pytest.raises(InfeasibleError, match="3 replicas need 12 GPUs and the topology has 8; 2 replicas"):
        rule(GPUS, NODE_OF, [4, 4, 4])


@pytest.mark.parametrize(
    ("ranks", "says"),
    [
        (((0, 1, 2), (3,)), "lists"),
        (((0, 8), (1, 2)), "rank 8"),
        (((0, "node9.gpu0"), (1, 2)), "'node9.gpu0'"),
        (((0, 1), (1, 2)), "more than once"),
    ],
)
def test_an_explicit_placement_that_cannot_be_is_refused(
    ranks: tuple[tuple[int | str, ...], ...], says: str
) -> None:
    with pytest.raises(InfeasibleError, match=says):
        Explicit(ranks)(GPUS, NODE_OF, [2, 2])
