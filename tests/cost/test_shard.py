from __future__ import annotations

from sim.catalog import load_gpu, load_model
from sim.cost.shard import Shard
from sim.inputs.engine import Engine
from sim.inputs.precision import Precision


def shard(
    model: str, groups: tuple[tuple[str, ...], ...], first: int = 0, layers: int | None = None
) -> Shard:
    of = load_model(model)
    layers = of.layers - first if layers is None else layers
    return Shard(of, Engine(), Precision(), load_gpu("h100-sxm"), groups, first, layers)


def test_the_first_and_the_last_stage_are_told_by_their_layers() -> None:
    first, last = shard("llama-3-8b", (("a",),), 0, 20), shard("llama-3-8b", (("a",),), 20, 12)
    assert (first.is_first, first.is_last) == (True, False)
    assert (last.is_first, last.is_last) == (False, True)


def test_ranks_are_all_gpus_and_a_group_is_tensor_parallel() -> None:
    two = shard("llama-3-8b", (("a", "b"), ("c", "d")))
    assert two.ranks == ("a", "b", "c", "d")
    assert two.tensor_parallel_size == 2


def test_heads_are_split_over_a_group_and_kv_heads_replicated_beyond_their_number() -> None:
    group = tuple("abcdefghijklmnop")
    sixteen = shard("llama-3-70b", (group,))  # 64 heads, 8 of keys and values
    assert (sixteen.heads_of_rank, sixteen.kv_heads_of_rank) == (4, 1)
    assert shard("llama-3-70b", (group[:4],)).kv_heads_of_rank == 2


def test_dense_layers_are_counted_in_the_stage_that_has_them() -> None:
    model = load_model("deepseek-v3")  # its first three layers have no experts
    assert shard("deepseek-v3", (("a",),), 0, 30).dense_layers == 3
    assert shard("deepseek-v3", (("a",),), 2, 10).dense_layers == 1
    assert shard("deepseek-v3", (("a",),), 30, model.layers - 30).dense_layers == 0
