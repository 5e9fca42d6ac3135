"""How unevenly tokens fall on ranks, against drawing them."""

from __future__ import annotations

import numpy as np
import pytest

from sim.cost.expert_load import crowding, distinct_places, expert_load, popularity
from sim.inputs.engine import ExpertRouting
from sim.inputs.model import GroupLimit

EXPERTS, TOPK = 64, 4


def drawn(weights: list[float], tokens: int, draws: int, seed: int = 0) -> np.ndarray:
    """Experts chosen by each token, without repetition: shape [draws, tokens, TOPK]."""
    random = np.random.default_rng(seed)
    keys = np.log(np.array(weights)) + random.gumbel(size=(draws, tokens, len(weights)))
    return np.argpartition(-keys, TOPK, axis=-1)[..., :TOPK]


def drawn_within_groups(tokens: int, limit: GroupLimit, experts: int = 256, topk: int = 8) -> np.ndarray:
    """DeepSeek-V3's router on random scores: the groups with the largest sums of their two best scores,
    and of what they hold the best experts. Shape [tokens, topk].
    """
    scores = np.random.default_rng(0).random((tokens, experts))
    of_groups = scores.reshape(tokens, limit.groups, -1)
    best_two = np.sort(of_groups, axis=2)[:, :, -2:].sum(axis=2)
    chosen = np.argsort(-best_two, axis=1)[:, : limit.chosen]
    kept = np.zeros((tokens, limit.groups), dtype=bool)
    np.put_along_axis(kept, chosen, True, axis=1)
    within = np.where(np.repeat(kept, experts // limit.groups, axis=1), scores, -1.0)
    return np.argpartition(-within, topk, axis=1)[:, :topk]


def busiest_drawn(owner: np.ndarray, chosen: np.ndarray) -> float:
    """Mean over the draws of the busiest rank's pairs over an even share."""
    ranks = int(owner.max()) + 1
    pairs = owner[chosen].reshape(len(chosen), -1)
    counts = np.stack([(pairs == rank).sum(axis=1) for rank in range(ranks)], axis=1)
    return float(counts.max(axis=1).mean() * ranks / pairs.shape[1])


@pytest.mark.parametrize("ranks", [4, 8, 16, 32])
def test_expected_distinct_ranks_are_those_of_drawn_tokens(ranks):
    chosen = drawn([1.0] * EXPERTS, 1, 20_000)[:, 0, :] // (EXPERTS // ranks)
    counted = np.mean([len(set(row)) for row in chosen.tolist()])
    assert distinct_places(EXPERTS, TOPK, ranks) == pytest.approx(counted, rel=0.01)


LIMITS = (GroupLimit(8, 4), GroupLimit(8, 3), GroupLimit(4, 2), GroupLimit(16, 4))


@pytest.mark.slow
@pytest.mark.parametrize("limit", LIMITS, ids=str)
@pytest.mark.parametrize("ranks", [2, 8, 12, 16, 32, 64, 72])
def test_tokens_held_to_groups_reach_the_distinct_ranks_of_drawn_ones(ranks, limit):
    chosen = drawn_within_groups(10_000, limit) * ranks // 256
    counted = np.mean([len(set(row)) for row in chosen.tolist()])
    assert distinct_places(256, 8, ranks, limit) == pytest.approx(counted, rel=0.025)
    if ranks % limit.groups == 0:  # and by far not those of a free choice
        assert distinct_places(256, 8, ranks) - counted > 0.1


def test_held_to_all_groups_or_one_expert_a_group_is_what_it_says():
    assert distinct_places(256, 8, 8, GroupLimit(8, 4)) == pytest.approx(4.0, rel=1e-12)
    assert distinct_places(256, 8, 4, GroupLimit(256, 8)) == pytest.approx(distinct_places(256, 8, 4))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [4, 8, 16, 64])
def test_tokens_held_to_groups_crowd_on_ranks_as_drawn_ones_do(ranks):
    limit = GroupLimit(8, 4)
    chosen = drawn_within_groups(40_000, limit) // (256 // ranks)
    counts = np.stack([(chosen == rank).sum(axis=1) for rank in range(ranks)], axis=1)
    free = 8 / ranks * (1 - 1 / ranks)
    assert crowding(256, 8, ranks, limit) == pytest.approx(counts.var(axis=0).mean() / free, rel=0.03)
    tokens, draws = 64, 600
    of_steps = counts[: tokens * draws].reshape(draws, tokens, ranks).sum(axis=1)
    counted = of_steps.max(axis=1).mean() * ranks / (tokens * 8)
    load = expert_load(ExpertRouting(), 256, ranks, 8, limit)
    assert load.busiest(tokens * 8) == pytest.approx(counted, rel=0.06)
    spread = ExpertRouting(placement="balanced")  # every group over all ranks: as a free choice
    assert expert_load(spread, 256, ranks, 8, limit) == expert_load(spread, 256, ranks)


@pytest.mark.slow
def test_expected_distinct_experts_are_those_of_drawn_tokens():
    from sim.cost.kernels.moe import experts_hit

    for tokens in (1, 4, 16, 64):
        chosen = drawn([1.0] * EXPERTS, tokens, 2_000).reshape(2_000, -1)
        counted = np.mean([len(set(row)) for row in chosen.tolist()])
        assert experts_hit(tokens, EXPERTS, TOPK) == pytest.approx(counted, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [8, 64, 512])
@pytest.mark.parametrize("ranks", [4, 16])
def test_with_uniform_popularity_the_busiest_rank_is_that_of_drawn_tokens(ranks, tokens):
    owner = np.arange(EXPERTS) // (EXPERTS // ranks)
    counted = busiest_drawn(owner, drawn([1.0] * EXPERTS, tokens, 500))
    load = expert_load(ExpertRouting(), EXPERTS, ranks).busiest(tokens * TOPK)
    assert load == pytest.approx(counted, rel=0.1)


def test_with_many_tokens_only_popularity_is_left():
    routing = ExpertRouting(popularity="zipf", exponent=0.8)
    load = expert_load(routing, EXPERTS, 8)
    first = sum(popularity(routing, EXPERTS)[:8])
    assert load.busiest(1e9) == pytest.approx(8 * first, rel=1e-3)
    assert expert_load(ExpertRouting(), EXPERTS, 8).busiest(1e9) == pytest.approx(1.0, abs=1e-3)


def test_balanced_placement_and_copies_of_popular_experts_even_out_the_load():
    pairs = 4096.0
    linear = ExpertRouting(popularity="zipf", exponent=1.0)
    balanced = linear.model_copy(update={"placement": "balanced"})
    copied = balanced.model_copy(update={"redundant_experts": 16})
    loads = [expert_load(one, EXPERTS, 16).busiest(pairs) for one in (linear, balanced, copied)]
    assert loads[0] > 1.3 * loads[1] > 1.3 * loads[2] > 1.3
    assert loads[2] < 1.4


def test_given_popularity_is_used_as_counted():
    counts = tuple(float(i + 1) for i in range(8))
    routing = ExpertRouting(popularity="given", weights=counts)
    load = expert_load(routing, 8, 4)
    assert load.shares == pytest.approx([3 / 36, 7 / 36, 11 / 36, 15 / 36])


def test_one_rank_has_an_even_load_and_no_rank_more_than_all_of_it():
    assert expert_load(ExpertRouting(), 8, 1).busiest(10.0) == 1.0
    assert expert_load(ExpertRouting(), 8, 8).busiest(0.5) <= 8.0
    assert expert_load(ExpertRouting(), 8, 8).busiest(0.0) == 1.0


def test_tokens_that_take_whole_groups_crowd_as_counted_by_hand():
    # All 3 experts of one of 2 groups: a rank of a group gets 3 or none, of variance 9/4 over a free 3/4.
    assert crowding(6, 3, 2, GroupLimit(2, 1)) == pytest.approx(3.0)
    # Both experts of 2 of 4 groups, two groups to a rank: 2 x hypergeometric, variance 4/3 over a free 1.
    assert crowding(8, 4, 2, GroupLimit(4, 2)) == pytest.approx(4 / 3)
    assert [distinct_places(6, 3, places, GroupLimit(2, 1)) for places in (2, 6)] == pytest.approx([1.0, 3.0])


def test_experts_that_were_not_counted_have_no_share():
    routing = ExpertRouting(popularity="given", weights=(1.0, 1.0))
    assert popularity(routing, 4) == [0.5, 0.5, 0.0, 0.0]
