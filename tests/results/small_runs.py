"""Rows of small runs, written by hand or by a queue of one server."""

from __future__ import annotations

from typing import Any

from sim.results.records import Records


def run(*requests: dict[str, Any], end_s: float = 0.0) -> Records:
    records = Records(end_s=end_s)
    for index, request in enumerate(requests):
        defaults = {"request_id": index, "arrival_s": 0.0, "prompt_tokens": 100, "output_tokens": 11}
        records.requests.add(**(defaults | request))
    return records


def queue_of_one(arrival_s: list[float], service_s: list[float]) -> Records:
    """A single server, first come first served: the first token after half of the service."""
    free_s = 0.0
    requests = []
    for at_s, takes_s in zip(arrival_s, service_s, strict=True):
        begin_s = max(at_s, free_s)
        free_s = begin_s + takes_s
        times = {"admitted_s": begin_s, "first_token_s": begin_s + takes_s / 2, "finished_s": free_s}
        requests.append({"arrival_s": at_s, "routed_s": at_s, **times})
    return run(*requests)


ONE = {"routed_s": 0.0, "admitted_s": 0.5, "first_token_s": 1.0, "finished_s": 3.0}
