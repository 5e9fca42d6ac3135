"""Draws by distribution, and the independence of their streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from sim.inputs.engine import Speculation
from sim.inputs.lengths import Lengths, SharedPrefix, TraceLength, Waits
from sim.workload.random_streams import (
    choices_by,
    lengths_by,
    prefixes_by,
    prompt_and_output_lengths_by,
    random_stream,
    rows_by,
    tokens_by_step,
    waits_by,
)


def lengths(**distribution: Any) -> Lengths:
    described: Lengths = TypeAdapter(Lengths).validate_python(distribution)
    return described


def test_a_stream_follows_from_its_seed_and_its_name() -> None:
    def first(seed: int, source: str) -> float:
        return float(random_stream(seed, source).random())

    assert first(7, "arrivals") == first(7, "arrivals")
    assert len({first(7, "arrivals"), first(8, "arrivals"), first(7, "turns")}) == 3


@pytest.mark.parametrize(
    ("distribution", "mean", "low", "high"),
    [
        ({"kind": "fixed", "tokens": 7}, 7.0, 7, 7),
        ({"kind": "uniform", "low": 10, "high": 30}, 20.0, 10, 30),
        ({"kind": "lognormal", "mean": 200, "cv": 0.5}, 200.0, 1, 10**8),
        ({"kind": "geometric", "mean": 50}, 50.0, 1, 10**8),
        ({"kind": "zipf", "exponent": 1.0, "low": 1, "high": 3}, (1 + 1 + 1) / (1 + 1 / 2 + 1 / 3), 1, 3),
        ({"kind": "empirical", "values": [5, 9], "weights": [3, 1]}, 6.0, 5, 9),
        ({"kind": "lognormal", "mean": 200, "cv": 0}, 200.0, 200, 200),
    ],
)
def test_a_distribution_of_lengths_has_its_mean_and_its_range(
    distribution: dict[str, Any], mean: float, low: int, high: int
) -> None:
    drawn = lengths_by(lengths(**distribution), random_stream(0, "prompt_tokens"))(20_000)
    assert drawn.dtype == np.int64
    assert drawn.mean() == pytest.approx(mean, abs=4 * drawn.std() / 20_000**0.5 + 1e-9)
    assert low <= drawn.min() <= drawn.max() <= high


def test_without_a_distribution_lengths_are_zero() -> None:
    assert lengths_by(None, random_stream(0, "x"))(3).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("distribution", "mean_s", "std_s"),
    [
        ({"kind": "fixed", "value_s": 2.0}, 2.0, 0.0),
        ({"kind": "exponential", "mean_s": 2.0}, 2.0, 2.0),
        ({"kind": "uniform", "low_s": 1.0, "high_s": 3.0}, 2.0, 2.0 / 12**0.5),
        ({"kind": "lognormal", "mean_s": 2.0, "cv": 0.5}, 2.0, 1.0),
    ],
)
def test_a_distribution_of_waits_has_its_mean_and_spread(
    distribution: dict[str, Any], mean_s: float, std_s: float
) -> None:
    drawn = waits_by(TypeAdapter(Waits).validate_python(distribution), random_stream(0, "think"))(40_000)
    assert drawn.mean() == pytest.approx(mean_s, rel=0.03)
    assert drawn.std() == pytest.approx(std_s, rel=0.05, abs=1e-12)


def test_recorded_rows_come_in_order_and_again_from_the_first() -> None:
    rows = rows_by(TraceLength(kind="trace", name="any", order="recorded"), 3, random_stream(0, "rows"))
    assert rows(2).tolist() + rows(3).tolist() == [0, 1, 2, 0, 1]


def test_prompt_and_output_of_one_trace_are_drawn_as_rows() -> None:
    trace = TraceLength(kind="trace", name="any")
    prompts, outputs = np.array([1, 2, 3]), np.array([10, 20, 30])
    draw = prompt_and_output_lengths_by(trace, trace, 0, "", lambda _: (prompts, outputs))
    drawn_prompts, drawn_outputs = draw(50)
    assert (drawn_outputs == 10 * drawn_prompts).all()
    assert set(drawn_prompts.tolist()) == {1, 2, 3}


def test_choices_have_probabilities_in_proportion_to_their_weights() -> None:
    drawn = choices_by(np.array([1.0, 0.0, 3.0]), random_stream(0, "classes"))(10_000)
    assert set(drawn.tolist()) == {0, 2}
    assert drawn.mean() / 2 == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 10_000) ** 0.5)


def test_a_share_of_the_requests_has_a_prefix() -> None:
    prefix = SharedPrefix.model_validate({"tokens": 32, "groups": 3, "share": 0.5})
    prefix_lengths, draw = prefixes_by(prefix, 0, "", lambda _: (np.array([1]), np.array([1])))
    groups = draw(10_000)
    assert prefix_lengths.tolist() == [32, 32, 32]
    assert set(groups.tolist()) == {-1, 0, 1, 2}
    assert (groups >= 0).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("rate", "per_step"), [(0.0, 1.0), (1.0, 4.0), (0.5, 1 + 0.5 + 0.25 + 0.125)])
def test_a_decode_step_brings_one_token_and_the_drafts_accepted_before_the_first_rejected(
    rate: float, per_step: float
) -> None:
    speculation = Speculation(num_speculative_tokens=3, acceptance_rate=rate)
    tokens = tokens_by_step(speculation, 20_000, random_stream(0, "speculation"))
    assert set(np.diff(tokens).tolist()) <= {1, 2, 3, 4}
    assert tokens[-1] / 20_000 == pytest.approx(per_step, rel=0.02)
