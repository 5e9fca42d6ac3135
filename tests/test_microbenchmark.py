"""One operation alone: wrong words are refused with what would be right, right ones are timed alike."""

from __future__ import annotations

from typing import Any

import pytest

import sim


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "allreduce"}, "there is no collective named 'allreduce'; .*did you mean 'all_reduce'"),
        ({"library": "ncl"}, "there is no library named 'ncl'; .*did you mean 'nccl'"),
        ({"algorithm": "rings"}, "there is no algorithm named 'rings'; .*did you mean 'ring'"),
        ({"n_bytes": 0}, "n_bytes = 0: must be more than 0"),
        ({"ranks": 9}, "ranks = 9: must be from 1 to 8"),
        ({"ranks": [0, 8]}, "rank = 8: must be from 0 to 7"),
        ({"ranks": ["node0.gpu0", "node0.gpu9"]}, "there is no GPU 'node0.gpu9'"),
        ({"ranks": [1, 1]}, "ranks name a GPU twice"),
    ],
)
def test_a_wrong_collective_is_refused_with_what_would_be_right(change: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"topology": "nd-h100-v5", "op": "all_reduce", "n_bytes": 1024.0}
    with pytest.raises(sim.InputError, match=message):
        sim.collective(**(right | change))


def test_ranks_may_be_a_number_indices_or_names() -> None:
    described = sim.load_topology("nd-h100-v5")
    names = [f"node0.gpu{gpu}" for gpu in range(4)]
    ways = [sim.collective(described, "all_reduce", 65536, ranks) for ranks in (4, range(4), names)]
    assert ways[0] == ways[1] == ways[2]
    assert ways[0].ranks == 4
    assert ways[0] == sim.collective("nd-h100-v5", "all_reduce", 65536, 4)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("gem", {}, "there is no kernel named 'gem'; .*did you mean 'gemm'"),
        ("gemm", {"m": 1, "n": 1}, "k"),
        ("gemm", {"m": 1, "n": 1, "k": 1, "q": 1}, "q"),
        ("gemm", {"m": "many", "n": 1, "k": 1}, "m = 'many': must be a whole number"),
    ],
)
def test_a_wrong_kernel_is_refused_with_its_arguments(kind: str, shape: dict[str, Any], message: str) -> None:
    with pytest.raises(sim.InputError, match=message):
        sim.kernel("h100-sxm", kind, **shape)


def test_a_kernel_is_warm_unless_it_is_asked_for_cold() -> None:
    shape = {"m": 64, "n": 1024, "k": 1024}
    warm = sim.kernel("h100-sxm", "gemm", **shape)
    assert warm == sim.kernel("h100-sxm", "gemm", warm=True, **shape)
    assert warm.total_s < sim.kernel("h100-sxm", "gemm", warm=False, **shape).total_s
