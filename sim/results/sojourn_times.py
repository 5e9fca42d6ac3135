"""When requests came, began and left, however they left: finished, or aborted in whatever phase they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PHASES = ("queue", "prefill", "decode")


class Requests(Protocol):
    """Columns of requests by name: the rows of a run, or their frame."""

    def __getitem__(self, name: str, /) -> Any: ...


class Sojourns(NamedTuple):
    """Moments of requests, NaN for what had not come when the run ended. A request that left a queue without
    having been admitted waits no more from then on, and `admitted_s` is that moment.
    """

    arrival_s: Floats
    admitted_s: Floats
    left_s: Floats


def sojourns(requests: Requests) -> Sojourns:
    """The sojourns of the requests that were let in, in the order of their rows."""
    let_in = np.asarray(requests["status"]) != "rejected"
    arrival_s, admitted_s, finished_s, aborted_s = (
        np.asarray(requests[name], dtype=np.float64)[let_in]
        for name in ("arrival_s", "admitted_s", "finished_s", "aborted_s")
    )
    admitted_s = np.where(np.isnan(admitted_s), aborted_s, admitted_s)
    return Sojourns(arrival_s, admitted_s, np.fmin(finished_s, aborted_s))


def phases(request: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Phases of one request, each with its beginning and its end; the one that it was aborted in ends then,
    and one that the run did not see end is left out.
    """
    edges = [request[name] for name in ("arrival_s", "admitted_s", "first_token_s", "finished_s")]
    if request["aborted_s"] is not None:
        edges = [*(edge for edge in edges if edge is not None), request["aborted_s"]]
    for phase, begin_s, end_s in zip(PHASES, edges, edges[1:], strict=False):
        if begin_s is not None and end_s is not None:
            yield phase, begin_s, end_s
