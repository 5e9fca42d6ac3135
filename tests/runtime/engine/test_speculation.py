"""A decode step gives one token, and the drafts that are accepted before the first that is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.inputs.engine import Speculation
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.speculation import Speculator
from sim.workload.request import Request


def decoding(number: int = 0, output: int = 40) -> Sequence:
    one = Sequence(Request(number, 0.0, 10, output), output, 0.0, 0)
    one.computed, one.generated = 10, 1
    return one


def drafts(rate: float, seed: int = 0, number: int = 3) -> Speculator:
    return Speculator(Speculation(num_speculative_tokens=number, acceptance_rate=rate), seed)


def test_without_speculation_a_step_gives_a_token() -> None:
    speculator, one = Speculator(None, 0), decoding()
    assert (speculator.drafts, speculator.gain(one, 7), speculator.steps_left(one)) == (0, 7, 39)
    speculator.give(one, 7, 2.5)
    assert (one.generated, one.computed, one.last_token_s) == (8, 10, 2.5)


@pytest.mark.parametrize(("rate", "tokens"), [(0.0, 1), (1.0, 4)])
def test_a_step_gives_its_accepted_drafts_and_a_token(rate: float, tokens: int) -> None:
    speculator, one = drafts(rate), decoding()
    assert [speculator.gain(one, steps) for steps in range(4)] == [0, tokens, 2 * tokens, 3 * tokens]
    assert speculator.steps_left(one) == -(-39 // tokens)
    speculator.give(one, 2, 1.0)
    assert one.generated == 1 + 2 * tokens
    assert one.computed == 10 + tokens - 1  # the last step's token has been granted; its drafts come beside


@given(st.floats(0.05, 0.95), st.integers(0, 1000), st.lists(st.integers(1, 4), max_size=12))
def test_steps_one_by_one_or_together_give_the_same_tokens(rate: float, seed: int, runs: list[int]) -> None:
    speculator, together, apart = drafts(rate, seed), decoding(), decoding()
    left = speculator.steps_left(together)
    for steps in runs:
        steps = min(steps, speculator.steps_left(together))
        gained = speculator.gain(together, steps)
        before = together.generated
        speculator.give(together, steps, 1.0)
        for _ in range(steps):
            speculator.give(apart, 1, 1.0)
        assert together.generated == apart.generated == min(before + gained, 40)
        assert together.decode_steps + speculator.steps_left(together) == left


def test_the_seed_and_the_request_decide_which_drafts_are_accepted() -> None:
    def gains(seed: int, number: int) -> list[int]:
        one, speculator = decoding(number), drafts(0.5, seed)
        return [speculator.gain(one, steps) for steps in range(30)]

    assert gains(0, 0) == gains(0, 0)
    assert gains(0, 0) != gains(1, 0)
    assert gains(0, 0) != gains(0, 1)


def test_a_prompts_last_chunk_gives_one_token_whatever_the_drafts() -> None:
    speculator, one = drafts(1.0), decoding()
    one.generated = 0
    speculator.give(one, 1, 3.0)
    assert (one.generated, one.first_token_s) == (1, 3.0)
    speculator.give(one, 1, 4.0, decoded=False)
    assert (one.generated, one.first_token_s) == (2, 3.0)
