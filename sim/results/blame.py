"""Where a request's time went: the names of the causes, and what stands in which column.

Every second between a request's arrival and its last token is charged to exactly one cause, along the
request's own path: while it waits, to what it waits for; while a step computes it, to the parts of that step,
as far as it would have had them without the prompts of others, and to `interference` for the rest.
A request's causes add up to its latency, those of an aborted one to the time until it left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.results.columns import Table

Floats = NDArray[np.float64]

CAUSES: tuple[str, ...] = (
    "prefill_compute",  # FLOP-bound kernel time of steps before its first token
    "decode_compute",  # FLOP-bound kernel time of steps after it
    "memory",  # HBM-bound kernel time
    "kernel_latency",  # launch floors of kernels
    "collective_latency",  # start-up and hops of collectives
    "collective_bytes",  # bytes of collectives over links that carry nothing else
    "host",  # the engine's processor time that the GPUs wait for, and the API server
    "sharing",  # what transfers lost to other traffic on their links
    "pipeline",  # waiting for a pipeline stage, and sending between stages
    "interference",  # what prompt chunks of other requests added to its steps
    "routing",  # from arrival to the replica's queue
    "admission",  # in the queue before the first step
    "preempted",  # in the queue after a preemption
    "recompute",  # steps that compute again what a preemption or a failure threw away
    "hand_over",  # KV cache on its way to another replica or tier
)
"""Column order of `Result.blame`."""


METRICS = ("ttft", "itl", "e2el")
"""Latencies that have causes: to the first token, from there to the last one, and both together."""

NEGLIGIBLE = 1e-6  # of a latency: what rounding leaves, and what no reader of a table asks for


class CauseRecords(Table):
    """One row per request: seconds by cause."""

    def __init__(self) -> None:
        super().__init__({"request_id": "count", **dict.fromkeys(CAUSES, "number")})

    def add(self, request_id: int, seconds: Sequence[float]) -> None:
        """`seconds` in the order of CAUSES."""
        self.append(request_id, *seconds)

    def order(self) -> NDArray[np.int64]:
        """By request_id, as the requests are shown."""
        return np.argsort(self["request_id"], kind="stable")

    def in_order(self) -> tuple[NDArray[np.int64], Floats]:
        """The ids of the requests, rising, and their seconds, shape [requests, causes]."""
        order = self.order()
        return self["request_id"][order], np.column_stack([self[cause][order] for cause in CAUSES])


class BlameRecords(CauseRecords):
    """Seconds by cause of finished and aborted requests, from arrival to the end.

    `ttft` has what of it came before the first token: of every request that got one, and all of an aborted
    one that did not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ttft = CauseRecords()

    def of(self, metric: str, requests: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.int64], Floats]:
        """Ids and seconds by cause of one of METRICS, of those of `requests` (columns of `RequestRecords`)
        that have it.

        The seconds of `itl` are those of all its gaps between tokens together. ValueError for other metrics.
        """
        if metric not in METRICS:
            raise ValueError(f"metric = {metric!r}: must be one of {', '.join(METRICS)}")
        ids, seconds = (self.ttft if metric == "ttft" else self).in_order()
        if metric == "itl":
            ids_of_first, until_first = self.ttft.in_order()
            place = np.searchsorted(ids_of_first, ids)
            has_more = ~np.isnan(requests["first_token_s"]) & (requests["generated_tokens"] > 1)
            kept = np.isin(ids, requests["request_id"][has_more])
            return ids[kept], seconds[kept] - until_first[place[kept]]
        kept = np.isin(ids, requests["request_id"])
        return ids[kept], seconds[kept]


def mean_causes(
    blame: BlameRecords, requests: Mapping[str, NDArray[Any]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean milliseconds by cause, of each of METRICS, over all `requests` that have it (`mean`) and over the
    tenth of them for which it was longest (`slowest_tenth`).

    `itl` is per token after the first, so that its causes add up to the mean TPOT. Aborted requests count
    among the slowest where the token in question had not come, with the time until they left.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    order = np.argsort(requests["request_id"], kind="stable")
    for metric in METRICS:
        ids, seconds = blame.of(metric, requests)
        row = order[np.searchsorted(requests["request_id"], ids, sorter=order)]
        in_ms = seconds * 1e3
        if metric == "itl":
            in_ms = in_ms / (requests["generated_tokens"][row] - 1)[:, None]
        end_s = requests["first_token_s" if metric == "ttft" else "finished_s"][row]
        longest_first = np.argsort(np.where(np.isnan(end_s), -np.inf, -in_ms.sum(axis=1)), kind="stable")
        slowest = longest_first[: -(-len(ids) // 10)]
        found[metric] = {
            group: dict(zip(CAUSES, map(float, chosen.mean(axis=0)), strict=True)) if len(ids) else {}
            for group, chosen in (("mean", in_ms), ("slowest_tenth", in_ms[slowest]))
        }
    return found
