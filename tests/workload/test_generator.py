from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.inputs.errors import InputError
from sim.inputs.workload import Workload
from sim.workload.generator import RequestGenerator, request_generator
from sim.workload.request import Request
from sim.workload.request_sampler import describe_traces

POISSON: dict[str, Any] = {"kind": "poisson", "rate_per_s": 5.0}
OPEN: list[dict[str, Any]] = [
    POISSON,
    {"kind": "constant", "rate_per_s": 5.0},
    {"kind": "gamma", "rate_per_s": 5.0, "cv": 2.0},
    {"kind": "on_off", "on_rate_per_s": 10.0, "mean_on_s": 3.0, "mean_off_s": 3.0},
    {
        "kind": "mmpp",
        "states": [{"rate_per_s": 1, "mean_stay_s": 2}, {"rate_per_s": 9, "mean_stay_s": 2}],
    },
    {
        "kind": "time_varying",
        "pieces": [{"duration_s": 4, "rate_per_s": 10}, {"duration_s": 4, "rate_per_s": 0}],
    },
]


def drawn(seed: int = 0, **description: Any) -> list[Request]:
    return list(source(seed, **description))


def source(seed: int = 0, **description: Any) -> RequestGenerator:
    defaults = {"arrivals": POISSON, "prompt_tokens": 100, "output_tokens": 10}
    return request_generator(Workload.model_validate(defaults | description), seed)


def arrivals(requests: Iterable[Request]) -> list[float]:
    return [request.arrival_s for request in requests]


def served(some: RequestGenerator, service_s: float = 1.0) -> list[Request]:
    """Every request of a source when each takes `service_s`, in order of arrival."""
    waiting = list(some)
    done = []
    while waiting:
        waiting.sort(key=lambda request: (request.arrival_s, request.request_id))
        request = waiting.pop(0)
        done.append(request)
        following = some.next_request(request.session, request.arrival_s + service_s)
        if following is not None:
            waiting.append(following)
    return done


@pytest.mark.parametrize("process", OPEN, ids=lambda process: process["kind"])
def test_an_open_process_has_its_rate_and_never_goes_back(process: dict[str, Any]):
    times_s = np.array(arrivals(drawn(arrivals=process, requests=40_000)))
    assert len(times_s) == 40_000
    assert np.all(np.diff(times_s) >= 0)
    # modulated arrivals count like 1 + 2 r tau of Poisson's variance: below 5 % at 4 standard deviations
    assert 40_000 / times_s[-1] == pytest.approx(5.0, rel=0.06)


@pytest.mark.parametrize(
    ("shape", "cv"), [({"cv": 0.5}, 0.5), ({"cv": 3.0}, 3.0), ({"burstiness": 0.25}, 2.0)]
)
def test_gamma_gaps_have_the_stated_variation(shape: dict[str, float], cv: float):
    process = {"kind": "gamma", "rate_per_s": 5.0, **shape}
    gaps_s = np.diff(arrivals(drawn(arrivals=process, requests=100_000)))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.04)


def test_constant_arrivals_are_on_the_grid_to_the_last_bit():
    assert arrivals(drawn(arrivals={"kind": "constant", "rate_per_s": 3.0}, requests=9000)) == [
        k / 3.0 for k in range(9000)
    ]


def test_a_time_varying_rate_sends_nothing_while_it_is_zero():
    times_s = np.array(arrivals(drawn(arrivals=OPEN[-1], requests=5000)))
    assert np.all(times_s % 8 <= 4)
    first = np.histogram(times_s, bins=[0, 4, 8])[0]
    assert first[1] == 0
    assert first[0] == pytest.approx(40, abs=4 * 40**0.5)


def test_a_rate_that_ends_at_zero_ends_the_traffic():
    process = {"kind": "time_varying", "repeat": False, "pieces": [{"duration_s": 2, "rate_per_s": 5}]}
    process["pieces"].append({"duration_s": 1, "rate_per_s": 0})  # type: ignore[attr-defined]
    assert max(arrivals(drawn(arrivals=process, requests=1000))) <= 2


def test_a_burst_comes_at_once():
    assert arrivals(drawn(arrivals={"kind": "burst", "at_s": 2.0}, requests=3)) == [2.0, 2.0, 2.0]


def test_traffic_ends_with_its_duration_or_its_count():
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
    law = {"kind": "lognormal", "mean": 100, "cv": 1}
    changed = [
        {"output_tokens": {"kind": "uniform", "low": 1, "high": 9}},
        {"arrivals": {"kind": "closed_loop", "users": 300}},
        {"classes": {"a": {"share": 3}, "b": {}}},
    ]
    plain = [request.prompt_tokens for request in drawn(prompt_tokens=law, requests=300)]
    for change in changed:
        assert [r.prompt_tokens for r in drawn(prompt_tokens=law, requests=300, **change)] == plain


def test_a_class_with_lengths_of_its_own_leaves_those_of_others_alone():
    law = {"kind": "lognormal", "mean": 100, "cv": 1}
    classes = {"a": {"share": 3}, "b": {"prompt_tokens": 7}}
    plain = drawn(prompt_tokens=law, requests=400)
    mixed = drawn(prompt_tokens=law, requests=400, classes=classes)
    for one, other in zip(plain, mixed, strict=True):
        assert other.prompt_tokens == (7 if other.request_class == "b" else one.prompt_tokens)
    share = sum(request.request_class == "b" for request in mixed) / 400
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)


def test_one_seed_gives_one_traffic_and_another_seed_another():
    law = {"kind": "lognormal", "mean": 100, "cv": 1}
    assert drawn(3, prompt_tokens=law, requests=50) == drawn(3, prompt_tokens=law, requests=50)
    assert drawn(3, prompt_tokens=law, requests=50) != drawn(4, prompt_tokens=law, requests=50)


def test_the_draws_of_a_seed_are_those_of_every_machine():
    law = {"kind": "lognormal", "mean": 100, "cv": 1}
    first = drawn(7, prompt_tokens=law, output_tokens={"kind": "geometric", "mean": 10}, requests=3)
    assert [(round(r.arrival_s, 9), r.prompt_tokens, r.output_tokens) for r in first] == [
        (0.088859635, 139, 21),
        (0.237664393, 19, 29),
        (0.245635034, 97, 3),
    ]


@pytest.mark.parametrize(
    ("law", "mean", "low", "high"),
    [
        ({"kind": "uniform", "low": 10, "high": 30}, 20.0, 10, 30),
        ({"kind": "lognormal", "mean": 200, "cv": 0.5}, 200.0, 1, 10**8),
        ({"kind": "geometric", "mean": 50}, 50.0, 1, 10**8),
        ({"kind": "zipf", "exponent": 1.0, "low": 1, "high": 3}, (1 + 1 + 1) / (1 + 1 / 2 + 1 / 3), 1, 3),
        ({"kind": "empirical", "values": [5, 9], "weights": [3, 1]}, 6.0, 5, 9),
        ({"kind": "lognormal", "mean": 200, "cv": 0}, 200.0, 200, 200),
    ],
)
def test_a_law_of_lengths_has_its_mean_and_its_range(law: dict[str, Any], mean: float, low: int, high: int):
    lengths = np.array([request.prompt_tokens for request in drawn(prompt_tokens=law, requests=20_000)])
    assert lengths.mean() == pytest.approx(mean, abs=4 * lengths.std() / 20_000**0.5 + 1e-9)
    assert lengths.min() >= low
    assert lengths.max() <= high


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
    law = {"kind": "lognormal", "mean": 100, "cv": 1}
    slow = served(source(arrivals=loop, prompt_tokens=law, requests=30), 9.0)
    fast = served(source(arrivals=loop, prompt_tokens=law, requests=30), 0.1)
    by_id = [sorted((r.request_id, r.prompt_tokens) for r in requests) for requests in (slow, fast)]
    assert by_id[0] == by_id[1]


@given(
    turns=st.integers(1, 6),
    requests=st.integers(1, 60),
    block_tokens=st.sampled_from([1, 16, 128]),
    prefix=st.sampled_from([None, {"tokens": 100, "groups": 2}]),
)
def test_each_turn_of_a_session_begins_with_all_that_was_said(turns, requests, block_tokens, prefix):
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
            said = before.prompt_tokens + before.output_tokens
            assert request.prompt_tokens > said
            assert request.turn == before.turn + 1
            assert request.block_hashes[: len(before.block_hashes)] == before.block_hashes
        text = request.prompt_tokens + request.output_tokens
        assert len(request.block_hashes) == text // request.hash_block_tokens
        last[request.session] = request


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


def test_shared_prefixes_come_on_top_and_are_named_alike():
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
    law = {"kind": "trace", "name": "azure-llm-2023-conversation"}
    pairs = {
        (r.prompt_tokens, r.output_tokens) for r in drawn(prompt_tokens=law, output_tokens=law, requests=500)
    }
    rows = drawn(arrivals=law, prompt_tokens=None, output_tokens=None)
    assert pairs <= {(r.prompt_tokens, r.output_tokens) for r in rows}


def test_recorded_order_takes_the_rows_one_after_the_other():
    law = {"kind": "trace", "name": "azure-llm-2023-code", "order": "recorded"}
    taken = drawn(prompt_tokens=law, output_tokens=law, requests=601)
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
    law = {"kind": "trace", "name": "arxiv-summarization-lengths"}
    with pytest.raises(InputError, match="lengths only"):
        drawn(arrivals=law, prompt_tokens=None, output_tokens=None)


def test_an_unknown_trace_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="azure-llm-2023-code"):
        drawn(arrivals={"kind": "trace", "name": "azure-llm-2023-cod"})
    with pytest.raises(InputError, match="cannot be read"):
        drawn(arrivals={"kind": "trace", "path": "nowhere.csv"})


def test_each_trace_of_a_workload_says_once_what_was_read():
    law = {"kind": "trace", "name": "arxiv-summarization-lengths"}
    mixed = Workload.model_validate(
        {"arrivals": POISSON, "prompt_tokens": law, "output_tokens": law, "requests": 1}
    )
    (said,) = describe_traces(mixed)
    assert "Vidur trace, 600 of 600 rows; lengths only" in said


def test_a_part_of_a_trace_says_how_much_of_it_is_played_and_at_what_rate():
    part = {
        "kind": "trace",
        "name": "azure-llm-2023-conversation",
        "duration_s": 60,
        "limit": 100,
        "speedup": 4,
    }
    whole, played = describe_traces(Workload.model_validate({"arrivals": part}))
    assert "3000 of 3000 rows" in whole
    at_s = [
        request.arrival_s for request in request_generator(Workload.model_validate({"arrivals": part}), 0)
    ]
    assert f"100 rows are played; {99 / (at_s[-1] - at_s[0]):.4g} arrivals/s" in played
