"""Clients with processes of their own, lengths with long tails, and trees of sessions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sim.inputs.arrivals import Sessions, Weibull
from sim.inputs.errors import InputError
from sim.inputs.lengths import ParetoLength
from sim.inputs.workload import Workload
from sim.workload.arrival_times import arrival_times
from sim.workload.generator import request_generator
from sim.workload.random_streams import lengths_by, random_stream
from tests.reading.test_trace_families import AGENT

CLIENTS: dict[str, Any] = {
    "chat": {"kind": "gamma", "rate_per_s": 3.0, "cv": 2.0},
    "batch": {"kind": "weibull", "rate_per_s": 1.0, "shape": 0.7},
}
CLASSES: dict[str, Any] = {
    "chat": {"prompt_tokens": {"kind": "pareto", "shape": 1.5, "low": 100}, "output_tokens": 9},
    "batch": {"prompt_tokens": {"kind": "lognormal", "mean": 800, "cv": 1}, "output_tokens": 99},
}


def test_weibull_gaps_have_their_mean_and_their_variance() -> None:
    times_s = next(arrival_times(Weibull(rate_per_s=4.0, shape=0.8), seed=1))
    gaps_s = np.diff(times_s)
    gamma = math.gamma(1 + 1 / 0.8)
    assert gaps_s.mean() == pytest.approx(0.25, rel=0.05)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(
        math.sqrt(math.gamma(1 + 2 / 0.8) / gamma**2 - 1), rel=0.05
    )


def test_pareto_lengths_have_their_tail() -> None:
    drawn = lengths_by(ParetoLength(shape=1.5, low=100, high=10_000), random_stream(3, "x"))(40_000)
    assert (drawn.min(), drawn.max()) == (100, 10_000)
    for length in (200, 1000):
        assert (drawn > length).mean() == pytest.approx((100 / length) ** 1.5, rel=0.06)


def test_turns_with_a_long_tail_need_an_end() -> None:
    turns = {"kind": "pareto", "shape": 1.0, "low": 1}
    with pytest.raises(ValidationError, match=r"turns: 1e\+08 are more than 10000"):
        Sessions.model_validate({"starts": {"kind": "poisson", "rate_per_s": 1}, "turns": turns})


def test_clients_send_by_their_own_processes_and_lengths() -> None:
    block = {"arrivals": {"kind": "clients", "clients": CLIENTS}, "classes": CLASSES, "requests": 4000}
    requests = list(request_generator(Workload.model_validate(block), seed=0))
    times_s = [request.arrival_s for request in requests]
    assert times_s == sorted(times_s)
    assert len(requests) / times_s[-1] == pytest.approx(4.0, rel=0.15)
    chat = [request for request in requests if request.request_class == "chat"]
    assert len(chat) / len(requests) == pytest.approx(0.75, abs=0.05)
    assert {request.output_tokens for request in chat} == {9}
    alone = {**block, "arrivals": {"kind": "clients", "clients": {"chat": CLIENTS["chat"]}},
             "classes": {"chat": CLASSES["chat"]}, "requests": 50}  # fmt: skip
    same = [request.arrival_s for request in request_generator(Workload.model_validate(alone), seed=0)]
    assert same == [request.arrival_s for request in chat[:50]]  # a client's times are its own


@pytest.mark.parametrize(
    ("classes", "says"),
    [({"chat": CLASSES["chat"]}, "the clients batch have no class"),
     ({**CLASSES, "more": CLASSES["chat"]}, "the classes more have no client")],
)  # fmt: skip
def test_clients_and_classes_belong_together(classes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Workload.model_validate(
            {"arrivals": {"kind": "clients", "clients": CLIENTS}, "classes": classes, "requests": 9}
        )


def test_prompts_without_answers_need_a_length_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "abcdefgh"}\n{"prompt": "abcd", "output_tokens": 7}\n')
    file = {"kind": "trace", "path": str(path), "characters_per_token": 4}
    block: dict[str, Any] = {"arrivals": {"kind": "burst"}, "prompt_tokens": file, "requests": 9}
    requests = request_generator(Workload.model_validate({**block, "output_tokens": 5}), seed=0)
    assert {(one.prompt_tokens, one.output_tokens) for one in requests} == {(2, 5), (1, 5)}
    with pytest.raises(
        InputError, match=r"1 of 2 rows have no answer and no output_tokens; write output_tokens"
    ):
        request_generator(Workload.model_validate({**block, "output_tokens": file}), seed=0)


def trace(tmp_path: Path, **more: Any) -> Any:
    path = tmp_path / "agents.jsonl"
    path.write_text(f"{json.dumps(AGENT)}\n{json.dumps(AGENT)}\n".replace('"local"', '"global"'))
    return Workload.model_validate({"arrivals": {"kind": "trace", "path": str(path), **more}})


def test_calls_of_a_tree_follow_the_answers_that_they_waited_for(tmp_path: Path) -> None:
    generator = request_generator(trace(tmp_path), seed=0)
    first, other = generator
    assert (first.arrival_s, other.session) == (0.0, 2)
    (inner,) = generator.next_requests(first, 5.0)
    assert (inner.session, inner.arrival_s) == (1, 6.0)
    (second,) = generator.next_requests(inner, 7.0)
    (back,) = generator.next_requests(second, 9.0)
    assert (back.session, back.turn, back.arrival_s) == (0, 1, 11.0)
    assert list(generator.next_requests(back, 20.0)) == []


@pytest.mark.parametrize(("bust", "shared"), [(None, True), ("session", False), ("request", False)])
def test_prefixes_are_made_each_session_s_own(tmp_path: Path, bust: str | None, shared: bool) -> None:
    generator = request_generator(trace(tmp_path, cache_bust=bust), seed=0)
    first, other = generator
    (inner,) = generator.next_requests(first, 5.0)
    assert (first.block_hashes == other.block_hashes != ()) == shared
    if bust == "session":
        assert first.block_hashes[0] == inner.block_hashes[0] != other.block_hashes[0]
    assert bool(first.block_hashes) == (bust != "request")
