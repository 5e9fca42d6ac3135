from __future__ import annotations

from sim.policy.reloading import Always, ByCost, Never, Prefix


def prefix(tokens: int, reload_s: float, compute_s: float) -> Prefix:
    return Prefix("host", tokens, 0, 1e6 * tokens, reload_s, compute_s)


def test_by_cost_takes_the_prefix_that_saves_most() -> None:
    rising = [prefix(100, 0.1, 0.5), prefix(200, 0.2, 1.0), prefix(300, 2.0, 1.5)]
    assert ByCost()(rising) == 2
    assert ByCost()(rising[:1]) == 1


def test_by_cost_computes_what_takes_no_longer_to_compute() -> None:
    assert ByCost()([prefix(100, 0.5, 0.5)]) == 0
    assert ByCost()([prefix(100, 0.6, 0.5)]) == 0


def test_a_margin_weighs_reloading_against_computing() -> None:
    near = [prefix(100, 0.4, 0.5)]
    assert ByCost(margin=1.0)(near) == ByCost()(near) == 1
    assert ByCost(margin=1.25)(near) == 0
    assert ByCost(margin=1.3)(near) == 0


def test_always_and_never_do_not_look() -> None:
    slow = [prefix(100, 9.0, 0.1), prefix(200, 9.0, 0.1)]
    assert Always()(slow) == 2
    assert Never()(slow) == 0
