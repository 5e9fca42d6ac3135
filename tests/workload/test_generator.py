"""From a workload to requests: their order, what depends on the seed, and what follows on answers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.inputs.errors import InfeasibleError, InputError
from sim.inputs.workload import Workload
from sim.workload.generator import RequestGenerator, SessionGenerator, request_generator
from sim.workload.request import Request

POISSON: dict[str, Any] = {"kind": "poisson", "rate_per_s": 5.0}


def drawn(seed: int = 0, **description: Any) -> list[Request]:
    return list(source(seed, **description))


def source(seed: int = 0, **description: Any) -> RequestGenerator:
    defaults = {"arrivals": POISSON, "prompt_tokens": 100, "output_tokens": 10}
    return request_generator(Workload.model_validate(defaults | description), seed)


def arrivals(requests: Iterable[Request]) -> list[float]:
    return [request.arrival_s for request in requests]


def served(generator: RequestGenerator, service_s: float = 1.0) -> list[Request]:
    """Every request of a generator when each takes `service_s`, in order of arrival."""
    waiting = list(generator)
    done = []
    while waiting:
        waiting.sort(key=lambda request: (request.arrival_s, request.request_id))
        request = waiting.pop(0)
        done.append(request)
        following = generator.next_request(request.session, request.arrival_s + service_s)
        if following is not None:
            waiting.append(following)
    return done


def test_requests_end_with_the_duration_or_the_count():
    assert max(arrivals(drawn(duration_s=100))) < 100
    assert len(drawn(duration_s=1e6, requests=7)) == 7


@pytest.mark.parametrize(
    "other",
    [
        {"prompt_tokens": {"kind": "lognormal", "mean": 100, "cv": 1}},
        {"output_tokens": {"kind": "geometric", "mean": 10}},
        {"classes": {"a": {"share": 2}, "b": {"output_tokens": 5}}},
        {"prefix": {"tokens": 32}},
        {"requests": 900},
        {"duration_s": 150},
    ],
)
def test_arrivals_are_the_same_whatever_else_changes(other: dict[str, Any]):
    few, many = drawn(requests=500), drawn(**({"requests": 500} | other))
    n = min(len(few), len(many))
    assert arrivals(few)[:n] == arrivals(many)[:n]


def test_prompts_are_the_same_whatever_happens_to_answers_and_arrivals():
    distribution = {"kind": "lognormal", "mean": 100, "cv": 1}
    changed = [
        {"output_tokens": {"kind": "uniform", "low": 1, "high": 9}},
        {"arrivals": {"kind": "closed_loop", "users": 300}},
        {"classes": {"a": {"share": 3}, "b": {}}},
    ]
    plain = [request.prompt_tokens for request in drawn(prompt_tokens=distribution, requests=300)]
    for change in changed:
        assert [r.prompt_tokens for r in drawn(prompt_tokens=distribution, requests=300, **change)] == plain


def test_a_class_with_lengths_of_its_own_leaves_those_of_others_alone():
    distribution = {"kind": "lognormal", "mean": 100, "cv": 1}
    classes = {"a": {"share": 3}, "b": {"prompt_tokens": 7}}
    plain = drawn(prompt_tokens=distribution, requests=400)
    mixed = drawn(prompt_tokens=distribution, requests=400, classes=classes)
    for one, other in zip(plain, mixed, strict=True):
        assert other.prompt_tokens == (7 if other.request_class == "b" else one.prompt_tokens)
    share = sum(request.request_class == "b" for request in mixed) / 400
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)


def test_one_seed_gives_the_same_requests_and_another_seed_others():
    distribution = {"kind": "lognormal", "mean": 100, "cv": 1}
    assert drawn(3, prompt_tokens=distribution, requests=50) == drawn(
        3, prompt_tokens=distribution, requests=50
    )
    assert drawn(3, prompt_tokens=distribution, requests=50) != drawn(
        4, prompt_tokens=distribution, requests=50
    )


def test_the_draws_of_a_seed_are_those_of_every_machine():
    distribution = {"kind": "lognormal", "mean": 100, "cv": 1}
    first = drawn(7, prompt_tokens=distribution, output_tokens={"kind": "geometric", "mean": 10}, requests=3)
    assert [(round(r.arrival_s, 9), r.prompt_tokens, r.output_tokens) for r in first] == [
        (0.088859635, 139, 21),
        (0.237664393, 19, 29),
        (0.245635034, 97, 3),
    ]


@given(
    users=st.integers(1, 9),
    requests=st.integers(1, 40),
    think=st.sampled_from([0.0, 0.5, {"kind": "exponential", "mean_s": 1.0}]),
    ramp_s=st.sampled_from([0.0, 3.0]),
)
def test_a_closed_loop_sends_each_request_once_and_no_user_two_at_a_time(users, requests, think, ramp_s):
    loop = {"kind": "closed_loop", "users": users, "think_time_s": think, "ramp_s": ramp_s}
    sent = served(source(arrivals=loop, requests=requests))
    assert sorted(request.request_id for request in sent) == list(range(requests))
    for user in range(users):
        own = [request for request in sent if request.session == user]
        assert [request.turn for request in own] == list(range(len(own)))
        assert all(later.arrival_s >= earlier.arrival_s + 1.0 for earlier, later in pairwise(own))


def test_a_closed_loop_does_the_same_work_however_fast_it_is_served():
    loop = {"kind": "closed_loop", "users": 3}
    distribution = {"kind": "lognormal", "mean": 100, "cv": 1}
    slow = served(source(arrivals=loop, prompt_tokens=distribution, requests=30), 9.0)
    fast = served(source(arrivals=loop, prompt_tokens=distribution, requests=30), 0.1)
    by_id = [sorted((r.request_id, r.prompt_tokens) for r in requests) for requests in (slow, fast)]
    assert by_id[0] == by_id[1]


@given(
    turns=st.integers(1, 6),
    requests=st.integers(1, 60),
    block_tokens=st.sampled_from([1, 16, 128]),
    prefix=st.sampled_from([None, {"tokens": 100, "groups": 2}]),
)
def test_each_turn_of_a_session_begins_with_the_conversation_before_it(turns, requests, block_tokens, prefix):
    sessions = {"kind": "sessions", "starts": POISSON, "turns": turns, "block_tokens": block_tokens}
    lengths = {"kind": "lognormal", "mean": 60, "cv": 1}
    sent = served(
        source(
            arrivals=sessions, requests=requests, prompt_tokens=lengths, output_tokens=lengths, prefix=prefix
        )
    )
    assert sorted(request.request_id for request in sent) == list(range(requests))
    last: dict[int, Request] = {}
    for request in sent:
        before = last.get(request.session)
        if before is not None:
            context = before.prompt_tokens + before.output_tokens
            assert request.prompt_tokens > context
            assert request.turn == before.turn + 1
            assert request.block_hashes[: len(before.block_hashes)] == before.block_hashes
        text = request.prompt_tokens + request.output_tokens
        assert len(request.block_hashes) == text // request.hash_block_tokens
        last[request.session] = request


def test_turns_to_come_hold_no_hashes_of_blocks():
    """Those of all turns of a session are as many as the square of the turns."""
    sessions = {"kind": "sessions", "starts": POISSON, "turns": 50}
    made = source(arrivals=sessions, requests=50)
    assert isinstance(made, SessionGenerator)
    first = next(iter(made))
    assert first.block_hashes
    assert not any(request.block_hashes for _, request in made._waiting[0].waiting)


def test_sessions_share_no_blocks_but_those_of_their_prefix():
    sessions = {"kind": "sessions", "starts": POISSON, "turns": 2}
    sent = drawn(arrivals=sessions, requests=40, prefix={"tokens": 160})
    assert {request.block_hashes[:10] for request in sent} == {sent[0].block_hashes[:10]}
    rest = [block for request in sent for block in request.block_hashes[10:]]
    assert len(set(rest)) == len(rest)


def test_a_session_ends_before_its_text_outgrows_the_context():
    sessions = {"kind": "sessions", "starts": POISSON, "turns": 50, "max_context_tokens": 1000}
    sent = served(source(arrivals=sessions, requests=100))
    assert max(request.prompt_tokens + request.output_tokens for request in sent) == 990  # 9 turns of 110


def test_shared_prefixes_come_on_top_and_have_the_same_hashes():
    prefix = {"tokens": 100, "groups": 3, "share": 0.5, "popularity": 1.0}
    sent = drawn(requests=3000, prefix=prefix)
    shared = [request for request in sent if request.block_hashes]
    assert len(shared) / 3000 == pytest.approx(0.5, abs=4 * 0.5 / 3000**0.5)
    assert {request.prompt_tokens for request in shared} == {200}
    assert {request.prompt_tokens for request in sent if not request.block_hashes} == {100}
    assert {len(request.block_hashes) for request in shared} == {100 // 16}
    counts = sorted(np.unique([r.block_hashes[0] for r in shared], return_counts=True)[1], reverse=True)
    assert len(counts) == 3
    assert counts[0] / len(shared) == pytest.approx(6 / 11, abs=0.05)  # 1 : 1/2 : 1/3


def test_a_trace_is_played_as_recorded_and_faster(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n5,10,1\n7,20,2\n9,30,3\n")
    plain = drawn(arrivals={"kind": "trace", "path": str(path)}, prompt_tokens=None, output_tokens=None)
    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in plain] == [
        (0.0, 10, 1),
        (2.0, 20, 2),
        (4.0, 30, 3),
    ]
    fast = {"kind": "trace", "path": str(path), "speedup": 4, "limit": 2}
    assert arrivals(drawn(arrivals=fast, prompt_tokens=None, output_tokens=None)) == [0.0, 0.5]
    replaced = drawn(arrivals=fast, prompt_tokens=7, output_tokens=None)
    assert [(r.prompt_tokens, r.output_tokens) for r in replaced] == [(7, 1), (7, 2)]


def test_lengths_of_one_trace_stay_together():
    distribution = {"kind": "trace", "name": "azure-llm-2023-conversation"}
    pairs = {
        (r.prompt_tokens, r.output_tokens)
        for r in drawn(prompt_tokens=distribution, output_tokens=distribution, requests=500)
    }
    rows = drawn(arrivals=distribution, prompt_tokens=None, output_tokens=None)
    assert pairs <= {(r.prompt_tokens, r.output_tokens) for r in rows}


def test_recorded_order_takes_the_rows_one_after_the_other():
    distribution = {"kind": "trace", "name": "azure-llm-2023-code", "order": "recorded"}
    taken = drawn(prompt_tokens=distribution, output_tokens=distribution, requests=601)
    assert taken[600].prompt_tokens == taken[0].prompt_tokens == 4808


def test_recorded_sessions_wait_for_their_answers(tmp_path):
    path = tmp_path / "sessions.jsonl"
    first = '{"input_toks": 10, "output_toks": 2, "tool_duration_ns": 3e9}'
    calls = first + ', {"input_toks": 20, "output_toks": 1}'
    path.write_text(
        f'{{"session_id": "a", "arrival_time_ns": 1000000000, "sub_requests": [{calls}]}}\n'
        f'{{"session_id": "b", "arrival_time_ns": 2000000000, "sub_requests": [{calls}]}}\n'
    )
    played = source(arrivals={"kind": "trace", "path": str(path)}, prompt_tokens=None, output_tokens=None)
    sent = served(played, service_s=0.5)
    assert [(r.session, r.turn, r.arrival_s) for r in sent] == [
        (0, 0, 0),
        (1, 0, 1),
        (0, 1, 3.5),
        (1, 1, 4.5),
    ]


def test_a_trace_without_arrivals_cannot_be_played():
    distribution = {"kind": "trace", "name": "arxiv-summarization-lengths"}
    with pytest.raises(InputError, match="lengths only"):
        drawn(arrivals=distribution, prompt_tokens=None, output_tokens=None)


def test_a_closed_loop_whose_requests_end_as_they_come_is_refused() -> None:
    loop = Workload.model_validate(
        {
            "arrivals": {"kind": "closed_loop", "users": 2},
            "prompt_tokens": 8,
            "output_tokens": 2,
            "duration_s": 1,
        }
    )
    generator = request_generator(loop, seed=0)
    list(generator)
    for _ in range(10 * 2 + 10_000):
        generator.next_request(0, 0.0)
    with pytest.raises(InfeasibleError, match="the closed loop never leaves 0 s: 10021 requests in a row"):
        generator.next_request(0, 0.0)
