from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sim.inputs.workload import Slo, Workload

POISSON = {"kind": "poisson", "rate_per_s": 2.0}


def workload(**changes: Any) -> Workload:
    return Workload.model_validate(
        {"arrivals": POISSON, "prompt_tokens": 57, "output_tokens": 512, "requests": 5} | changes
    )


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        workload(**changes)
    return str(caught.value)


def test_the_example_of_the_design_reads():
    read = workload(arrivals={"kind": "closed_loop", "users": 1})
    assert read.prompt_tokens == workload(prompt_tokens={"kind": "fixed", "tokens": 57}).prompt_tokens
    assert read.arrivals.kind == "closed_loop"
    assert read.longest_tokens == 569


def test_a_description_survives_being_written_and_read():
    for arrivals in (
        POISSON,
        {"kind": "closed_loop", "users": 4, "think_time_s": {"kind": "exponential", "mean_s": "2 s"}},
        {"kind": "constant", "rate_per_s": "30/min"},
        {"kind": "gamma", "rate_per_s": 3, "cv": 2},
        {"kind": "on_off", "on_rate_per_s": 9, "mean_on_s": 1, "mean_off_s": "1 min"},
        {"kind": "mmpp", "states": [{"rate_per_s": r, "mean_stay_s": 2} for r in (0, 1, 5)]},
        {"kind": "time_varying", "pieces": [{"duration_s": "1 h", "rate_per_s": 3}], "repeat": False},
        {"kind": "burst"},
        {"kind": "trace", "name": "azure-llm-2023-code", "speedup": 2, "limit": 10},
        {"kind": "sessions", "starts": POISSON, "turns": 3, "tool_delay_s": "500 ms"},
    ):
        read = workload(arrivals=arrivals)
        assert Workload.model_validate(read.model_dump()) == read
        assert Workload.model_validate_json(read.model_dump_json()) == read


def test_units_are_read_in_rates_and_times():
    assert workload(arrivals={"kind": "constant", "rate_per_s": "30/min"}).arrivals.rate_per_s == 0.5
    think = workload(arrivals={"kind": "closed_loop", "users": 1, "think_time_s": "250 ms"}).arrivals
    assert think.think_time_s.value_s == 0.25


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arrivals": {"kind": "poison"}}, "poison"),
        ({"arrivals": {"kind": "poisson", "rate_per_s": 0}}, "greater than 0"),
        ({"arrivals": {"kind": "poisson", "rate_per_s": -1}}, "negative"),
        ({"arrivals": {"kind": "gamma", "rate_per_s": 1}}, "either `burstiness`"),
        ({"arrivals": {"kind": "gamma", "rate_per_s": 1, "cv": 1, "burstiness": 1}}, "not both"),
        ({"arrivals": {"kind": "trace"}}, "needs `name`"),
        ({"arrivals": {"kind": "trace", "name": "a", "path": "b"}}, "not both"),
        ({"arrivals": {"kind": "mmpp", "states": [{"rate_per_s": 0, "mean_stay_s": 1}] * 2}}, "rate zero"),
        ({"prompt_tokens": 0}, "greater than or equal to 1"),
        ({"prompt_tokens": -4}, "negative"),
        ({"prompt_tokens": 1.5}, "not a whole number"),
        ({"prompt_tokens": "many"}, "not a length"),
        ({"prompt_tokens": True}, "not a length"),
        ({"prompt_tokens": None, "classes": {}}, "prompt_tokens is missing"),
        ({"prompt_tokens": {"kind": "uniform", "low": 9, "high": 3}}, "low = 9: must be at most high = 3"),
        ({"prompt_tokens": {"kind": "empirical", "values": []}}, "at least 1"),
        (
            {"prompt_tokens": {"kind": "empirical", "values": [1, 2], "weights": [1]}},
            "1 weights for 2 values",
        ),
        ({"requests": None}, "never ends"),
        ({"requests": None, "duration_s": 3, "arrivals": {"kind": "burst"}}, "how many"),
        ({"requests": 0}, "greater than or equal to 1"),
        ({"slo": {"ttft": 5}}, "ttft"),
        ({"user": 5}, "user"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(changes: dict[str, Any], said: str):
    assert said in refusal(**changes)


def test_classes_inherit_objectives_and_lengths():
    read = workload(
        prompt_tokens=None,
        slo={"ttft_ms": 100},
        classes={
            "a": {"prompt_tokens": 3},
            "b": {"prompt_tokens": 4, "slo": {"e2el_ms": 9}, "output_tokens": 600},
        },
    )
    assert read.slos == {"a": Slo(ttft_ms=100), "b": Slo(e2el_ms=9)}
    assert read.longest_tokens == 604


def test_lengths_may_come_from_the_classes_alone_but_from_all_of_them():
    assert "classes b" in refusal(prompt_tokens=None, classes={"a": {"prompt_tokens": 3}, "b": {}})


def test_the_longest_text_is_known_only_where_the_distribution_has_an_end():
    assert workload(prompt_tokens={"kind": "uniform", "low": 1, "high": 9}).longest_tokens == 521
    assert workload(prompt_tokens={"kind": "lognormal", "mean": 9, "cv": 1}).longest_tokens is None
    assert workload(prefix={"tokens": 100}).longest_tokens == 669


def test_the_schema_tells_editors_that_a_length_is_a_number_or_a_distribution():
    schema = Workload.model_json_schema()
    branches = schema["properties"]["prompt_tokens"]["anyOf"]
    assert {"type": "integer"} in branches
    distributions = next(branch for branch in branches if "discriminator" in branch)
    assert "lognormal" in distributions["discriminator"]["mapping"]
