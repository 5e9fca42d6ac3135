"""Causes of the time to the first token, of the time after it, and of both; means and the slowest tenth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.results.blame import CAUSES, BlameRecords, mean_causes
from sim.results.metrics import summary
from tests.results.small_runs import run


def seconds(**known: float) -> list[float]:
    return [known.get(cause, 0.0) for cause in CAUSES]


def columns(*requests: dict[str, Any]) -> dict[str, np.ndarray]:
    rows = run(*requests).requests
    return {name: rows[name] for name in rows.kinds}


TWENTY = [
    {"first_token_s": 1.0 + k, "finished_s": 3.0 + k, "output_tokens": 11, "generated_tokens": 11}
    for k in range(20)
]


def blame_of_twenty() -> BlameRecords:
    """Request k waits k seconds; its prompt takes one and its ten further tokens two."""
    blame = BlameRecords()
    for k in reversed(range(20)):
        first = seconds(admission=float(k), prefill_compute=1.0)
        blame.ttft.add(k, first)
        blame.add(k, [a + b for a, b in zip(first, seconds(memory=2.0), strict=True)])
    return blame


def test_each_latency_has_its_own_causes_and_they_are_parts_of_the_whole():
    means = mean_causes(blame_of_twenty(), columns(*TWENTY))
    mean = {metric: {c: ms for c, ms in groups["mean"].items() if ms} for metric, groups in means.items()}
    assert mean == {
        "ttft": {"admission": 9500.0, "prefill_compute": 1000.0},
        "itl": {"memory": 200.0},  # a token
        "e2el": {"admission": 9500.0, "prefill_compute": 1000.0, "memory": 2000.0},
    }


def test_the_slowest_tenth_are_the_slowest_by_that_latency():
    blame = blame_of_twenty()
    means = mean_causes(blame, columns(*TWENTY))
    assert means["ttft"]["slowest_tenth"]["admission"] == 18_500.0
    assert means["itl"]["slowest_tenth"]["memory"] == 200.0


def test_an_aborted_request_without_a_first_token_is_among_the_slowest_to_get_it():
    blame = blame_of_twenty()
    gone = seconds(admission=0.5)
    blame.add(20, gone)
    blame.ttft.add(20, gone)
    aborted = {"request_id": 20, "status": "aborted", "aborted_s": 0.5, "generated_tokens": 0}
    rows = columns(*TWENTY, aborted)
    means = mean_causes(blame, rows)
    assert means["ttft"]["slowest_tenth"]["admission"] == pytest.approx(1e3 * (0.5 + 19 + 18) / 3)
    ids, _ = blame.of("itl", rows)
    assert ids.tolist() == list(range(20))


def test_requests_left_out_as_warm_up_are_left_out_of_the_causes():
    requests = [{**request, "arrival_s": k / 100} for k, request in enumerate(TWENTY)]
    numbers = summary(run(*requests), warmup=0.5, blame=blame_of_twenty())
    assert numbers["blame"]["ttft"]["mean"]["admission"] == 14_500.0


def test_a_latency_without_causes_is_refused():
    with pytest.raises(ValueError, match="metric = 'tpot': must be one of ttft, itl, e2el"):
        blame_of_twenty().of("tpot", columns(*TWENTY))


def test_without_requests_there_are_no_causes():
    means = mean_causes(BlameRecords(), columns())
    assert means["ttft"] == {"mean": {}, "slowest_tenth": {}}
