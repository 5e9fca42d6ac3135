"""How unevenly tokens fall on ranks, against drawing them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sim.cost.expert_load import chances, crowding, distinct_places, expert_load, hits, popularity
from sim.inputs.engine import ExpertRouting
from sim.inputs.model import GroupLimit

EXPERTS, TOPK = 64, 4
EVEN = ExpertRouting(popularity="uniform")


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
    load = expert_load(EVEN, 256, ranks, 8, limit)
    assert load.busiest(tokens * 8) == pytest.approx(counted, rel=0.06)
    spread = ExpertRouting(
        popularity="uniform", placement="balanced"
    )  # every group over all ranks: as a free choice
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
    load = expert_load(EVEN, EXPERTS, ranks).busiest(tokens * TOPK)
    assert load == pytest.approx(counted, rel=0.1)


def test_with_many_tokens_only_popularity_is_left():
    popular = popularity(ExpertRouting(exponent=0.8), EXPERTS)
    load = expert_load(ExpertRouting(weights=tuple(popular)), EXPERTS, 8)
    assert load.busiest(1e9) == pytest.approx(8 * sum(popular[:8]), rel=1e-3)
    assert expert_load(EVEN, EXPERTS, 8).busiest(1e9) == pytest.approx(1.0, abs=1e-3)


def test_balanced_placement_and_copies_of_popular_experts_even_out_the_load():
    pairs = 4096.0
    by_number = tuple(popularity(ExpertRouting(exponent=1.0), EXPERTS))
    linear = ExpertRouting(weights=by_number)
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
    assert expert_load(EVEN, 8, 1).busiest(10.0) == 1.0
    assert expert_load(EVEN, 8, 8).busiest(0.5) <= 8.0
    assert expert_load(EVEN, 8, 8).busiest(0.0) == 1.0


def test_tokens_that_take_whole_groups_crowd_as_counted_by_hand():
    # All 3 experts of one of 2 groups: a rank of a group gets 3 or none, of variance 9/4 over a free 3/4.
    assert crowding(6, 3, 2, GroupLimit(2, 1)) == pytest.approx(3.0)
    # Both experts of 2 of 4 groups, two groups to a rank: 2 x hypergeometric, variance 4/3 over a free 1.
    assert crowding(8, 4, 2, GroupLimit(4, 2)) == pytest.approx(4 / 3)
    assert [distinct_places(6, 3, places, GroupLimit(2, 1)) for places in (2, 6)] == pytest.approx([1.0, 3.0])


def test_experts_that_were_not_counted_have_no_share():
    routing = ExpertRouting(popularity="given", weights=(1.0, 1.0))
    assert popularity(routing, 4) == [0.5, 0.5, 0.0, 0.0]


SKEWED = ExpertRouting()  # Zipf with the fitted exponent


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 4, 16, 64, 256])
def test_experts_hit_by_popularity_are_those_of_drawn_tokens(tokens):
    """Drawn one after the other without repetition popular experts are chosen a little less often."""
    chosen = drawn(popularity(SKEWED, EXPERTS), tokens, 500).reshape(500, -1)
    counted = np.mean([len(set(row)) for row in chosen.tolist()])
    law = hits(SKEWED, EXPERTS, TOPK)
    assert law is not None
    assert law.of(tokens) == pytest.approx(counted, rel=0.02)
    assert law.share_of(np.array([tokens, 0.0])).tolist() == pytest.approx([law.of(tokens) / EXPERTS, 0.0])


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [16, 128, 1024])
@pytest.mark.parametrize("ranks", [4, 16])
def test_popular_experts_that_lie_anywhere_crowd_the_busiest_rank_as_drawn_ones_do(ranks, tokens):
    random, counted = np.random.default_rng(1), []
    popular = np.array(popularity(SKEWED, EXPERTS))
    for layout in range(40):
        weights = popular[random.permutation(EXPERTS)].tolist()
        owner = np.arange(EXPERTS) // (EXPERTS // ranks)
        counted.append(busiest_drawn(owner, drawn(weights, tokens, 10, layout)))
    load = expert_load(SKEWED, EXPERTS, ranks, TOPK).busiest(tokens * TOPK)
    assert load == pytest.approx(np.mean(counted), rel=0.1)
    assert load > expert_load(EVEN, EXPERTS, ranks, TOPK).busiest(tokens * TOPK)


def test_a_token_hits_as_many_experts_as_it_chooses_and_many_tokens_hit_all():
    law = hits(SKEWED, 128, 8)
    assert law is not None
    assert law.of(1) == pytest.approx(8.0, rel=1e-12)
    assert law.of(1e9) == pytest.approx(128.0, rel=1e-12)
    assert law.of(0) == 0.0
    uniform = 128 * (1 - (1 - 8 / 128) ** 32)
    assert 0.85 * uniform < law.of(32) < 0.95 * uniform
    near = hits(ExpertRouting(exponent=1e-9), 128, 8)
    assert near is not None
    assert near.of(32) == pytest.approx(uniform, rel=1e-6)
    assert hits(EVEN, 128, 8) is hits(ExpertRouting(exponent=0.0), 128, 8) is None


def test_no_token_chooses_an_expert_twice():
    """By hand: 6 of 9 would be 4/3 of two choices; the expert is certain, and the rest share the other."""
    shares = ExpertRouting(weights=(6.0, 1.0, 1.0, 1.0))
    assert chances(shares, 4, 2) == pytest.approx([1.0, 1 / 3, 1 / 3, 1 / 3])
    assert expert_load(shares, 4, 2, 2).shares == pytest.approx([2 / 3, 1 / 3])
    assert chances(ExpertRouting(weights=(1.0,)), 4, 2) == [1.0, 0.0, 0.0, 0.0]


def test_the_mean_over_layouts_is_smooth_in_the_pairs():
    """Between its nodes a line: within 1 % of the value itself."""
    load = expert_load(SKEWED, 256, 8, 8, GroupLimit(8, 4))
    pairs = [2.0 ** (i / 16) for i in range(64, 160)]
    found = [load.busiest(one) for one in pairs]
    assert all(later < sooner for sooner, later in pairwise(found))
    assert load.busiest(2.0**10) == pytest.approx(load.busiest(2.0**10 * 1.0001), rel=1e-3)
    assert expert_load(SKEWED, 256, 1, 8).busiest(1e4) == 1.0
