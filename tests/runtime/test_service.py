"""The life of a request, where it is not the plain one: timeouts, failures, follow-ups, and its row."""

from __future__ import annotations

from typing import Any

import pytest

from sim.inputs.errors import InfeasibleError
from sim.results.blame import CAUSES
from sim.scenario.scenario import Scenario
from sim.simulate import Result, simulate


def run(requests: int = 1, workload: dict[str, Any] | None = None, **more: Any) -> Result:
    """Steps of a second, one request at a time, unless an engine is given."""
    engine = {"service_time": {"step_s": 1.0}, "max_num_seqs": 1, **more.pop("engine", {})}
    traffic = {"arrivals": {"kind": "burst"}, "prompt_tokens": 1, "output_tokens": 3, "requests": requests}
    described = {"topology": "a100-x4", "model": "llama-3-8b", "engine": engine, **more}
    return simulate(Scenario.model_validate({**described, "workload": {**traffic, **(workload or {})}}))


def rows(result: Result, *columns: str) -> list[tuple[Any, ...]]:
    return list(result.requests.select(columns).iter_rows())


def causes(result: Result, request: int) -> dict[str, float]:
    row = result.blame.filter(result.blame["request_id"] == request).row(0, named=True)
    return {cause: row[cause] for cause in CAUSES if row[cause]}


def test_a_timeout_in_the_router_or_in_the_frontend_ends_a_request_there() -> None:
    workload = {"arrivals": {"kind": "constant", "rate_per_s": 2.0}, "timeout_s": 0.75}
    result = run(2, workload, engine={"frontend_s": 1.0})
    assert rows(result, "status", "aborted_s", "replica", "routed_s") == [
        ("aborted", 0.75, -1, None),
        ("aborted", 1.25, -1, None),
    ]
    assert causes(result, 0) == {"host": 0.75}
    assert result.steps.is_empty()


def test_a_timeout_in_a_batch_takes_effect_when_the_step_ends_and_its_token_does_not_count_as_seen() -> None:
    result = run(1, {"timeout_s": 0.5})
    assert rows(result, "status", "aborted_s", "generated_tokens", "first_token_s") == [
        ("aborted", 1.0, 1, None)
    ]


def test_a_first_token_in_time_ends_the_patience_of_its_client_and_not_the_time_limit() -> None:
    assert run(1, {"patience_s": 1.5}).requests["status"].to_list() == ["finished"]
    assert run(1, {"patience_s": 0.5}).requests["status"].to_list() == ["aborted"]
    assert run(1, {"timeout_s": 1.5}).requests["aborted_s"].to_list() == [2.0]


def test_what_follows_at_one_instant_follows_in_the_order_of_its_requests() -> None:
    """Both end after two seconds, request 0 in two steps and request 1 in one, whose end is known earlier."""
    two_steps = {"service_time": {"step_s": 1.0}, "max_num_batched_tokens": 1}
    pools = {"a": {"engine": two_steps}, "b": {"engine": {"service_time": {"step_s": 2.0}}}}
    loop = {"arrivals": {"kind": "closed_loop", "users": 2}, "prompt_tokens": 2, "output_tokens": 1}
    result = run(4, loop, pools=pools, router="round_robin")
    assert rows(result, "request_id", "session", "replica") == [(0, 0, 0), (1, 1, 1), (2, 0, 0), (3, 1, 1)]
    assert result.requests["arrival_s"].to_list() == [0.0, 0.0, 2.0, 2.0]


def test_a_failed_replica_gives_its_requests_back_in_order_of_arrival() -> None:
    faults = [{"at_s": 1.5, "until_s": 10.0, "replica": 0}]
    result = run(3, faults=faults, engine={"max_num_seqs": 2})
    assert rows(result, "request_id", "status", "resubmissions") == [(i, "finished", 1) for i in range(3)]
    first, second, third = result.requests["finished_s"]
    assert first == second == 12.0  # two steps: the token that the first one gave is part of the prompt now
    assert third > first
    assert causes(result, 0)["routing"] == pytest.approx(8.5)


def test_of_failures_that_overlap_the_last_one_ends_the_outage() -> None:
    faults = [{"at_s": 0.0, "until_s": 2.0, "replica": 0}, {"at_s": 1.0, "until_s": 5.0, "replica": 0}]
    assert rows(run(1, faults=faults), "routed_s", "finished_s") == [(5.0, 8.0)]


def test_a_request_whose_replica_fails_while_it_is_in_the_frontend_is_routed_again() -> None:
    faults = [{"at_s": 0.5, "until_s": 3.0, "replica": 0}]
    result = run(1, faults=faults, engine={"frontend_s": 1.0})
    assert rows(result, "routed_s", "admitted_s", "resubmissions") == [(3.0, 4.0, 0)]
    in_vain_s = 1.0  # in the frontend; the failure is known when the request comes out of it
    assert (causes(result, 0)["routing"], causes(result, 0)["host"]) == (3.0 - in_vain_s, in_vain_s + 1.0)


def test_what_is_open_at_the_time_limit_is_unfinished_and_has_no_causes() -> None:
    result = run(2, time_limit_s=3.5)
    assert rows(result, "status", "generated_tokens") == [("finished", 3), ("unfinished", 0)]
    assert result.blame["request_id"].to_list() == [0]


def test_an_arrival_beyond_what_the_clock_resolves_is_refused() -> None:
    with pytest.raises(
        InfeasibleError, match=r"request 1 would arrive at 1e\+12 s: must be at most 1e\+09 s"
    ):
        run(2, {"arrivals": {"kind": "constant", "rate_per_s": 1e-12}})
