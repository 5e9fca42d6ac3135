"""What a service is asked: arrivals, lengths, classes of requests with their objectives, shared prefixes."""

from __future__ import annotations

from typing import Annotated, Self

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, model_validator

from sim.inputs.arrivals import Arrivals, Clients, PositiveSeconds, Sessions, Trace
from sim.inputs.lengths import (
    Lengths,
    Positive,
    SharedPrefix,
    TraceLength,
    Waits,
    longest_of,
)
from sim.inputs.quantities import Count, NotBoolean

MAX_PRIORITY = 2**31
MAX_REQUESTS = 100_000_000  # each has a row of its own: 20 GB of results
Milliseconds = Annotated[float, NotBoolean, Gt(0), Le(1e12)]


class Slo(BaseModel, frozen=True, extra="forbid"):
    """Service-level objectives of one request, in milliseconds as in vLLM's goodput option; all that are
    set must hold.

    `ttft_ms` time to first token from arrival, `tpot_ms` mean time per further token, `e2el_ms` arrival to
    last token.
    """

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    e2el_ms: Milliseconds | None = None


class RequestClass(BaseModel, frozen=True, extra="forbid"):
    """A kind of request: how often it comes, and what differs from the workload for it.

    `share` is a weight (shares are divided by their sum). A lower `priority` is served first, as in vLLM's
    priority scheduling. What is None is the workload's.
    """

    share: Annotated[Positive, Le(1e9)] = 1.0
    prompt_tokens: Lengths | None = None
    output_tokens: Lengths | None = None
    prefix: SharedPrefix | None = None
    slo: Slo | None = None
    patience_s: Waits | None = None
    timeout_s: Waits | None = None
    priority: Annotated[int, NotBoolean, Ge(-MAX_PRIORITY), Le(MAX_PRIORITY)] = 0
    model: str | None = None


class Workload(BaseModel, frozen=True, extra="forbid"):
    """The traffic of one run. It ends after `requests` requests, or with what arrives within `duration_s`,
    or both.

    A client gives up, and its request is aborted, when the first token has not come `patience_s` after the
    arrival, or the last one not after `timeout_s`; by default it waits for ever.

    Lengths are needed unless the arrivals are a trace, which has its own. Which class a request is of, its
    lengths, its prefix, and when it arrives come from random streams of their own: changing one changes
    none of the others.

    >>> every_second = {"kind": "constant", "rate_per_s": 1}
    >>> Workload(arrivals=every_second, prompt_tokens=57, output_tokens=9, requests=5).longest_tokens
    66
    """

    name: str = ""
    arrivals: Arrivals
    prompt_tokens: Lengths | None = None
    output_tokens: Lengths | None = None
    requests: Annotated[Count, Ge(1), Le(MAX_REQUESTS)] | None = None
    duration_s: PositiveSeconds | None = None
    classes: dict[str, RequestClass] = {}
    prefix: SharedPrefix | None = None
    slo: Slo | None = None
    patience_s: Waits | None = None
    timeout_s: Waits | None = None
    model: str = ""

    @model_validator(mode="after")
    def _lengths_are_known(self) -> Self:
        if isinstance(self.arrivals, Trace):
            return self
        for field in ("prompt_tokens", "output_tokens"):
            if getattr(self, field) is None:
                lacking = [name for name, kind in self.classes.items() if getattr(kind, field) is None]
                if lacking or not self.classes:
                    whose = f" for the classes {', '.join(lacking)}" if lacking else ""
                    raise ValueError(f"{field} is missing{whose}; write it, as in {field}: 512")
        return self

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if isinstance(self.arrivals, Trace) or self.requests is not None:
            return self
        if self.duration_s is None:
            raise ValueError("the traffic never ends; write requests: N, or duration_s: T, or both")
        starts = self.arrivals.starts if isinstance(self.arrivals, Sessions) else self.arrivals
        if starts.kind == "burst":
            raise ValueError("a burst does not say how many arrive; write requests: N")
        return self

    @model_validator(mode="after")
    def _clients_have_classes(self) -> Self:
        if isinstance(self.arrivals, Clients):
            lacking = [name for name in self.arrivals.clients if name not in self.classes]
            idle = [name for name in self.classes if name not in self.arrivals.clients]
            if lacking:
                raise ValueError(
                    f"the clients {', '.join(lacking)} have no class of their name; write it under classes:, "
                    "with the lengths of its requests"
                )
            if idle:
                raise ValueError(f"the classes {', '.join(idle)} have no client that sends them")
        return self

    @property
    def slos(self) -> dict[str, Slo]:
        """The objectives by class; without classes the workload's own, under the empty name."""
        named = {name: kind.slo or self.slo for name, kind in (self.classes or {"": RequestClass()}).items()}
        return {name: slo for name, slo in named.items() if slo is not None}

    @property
    def traces(self) -> tuple[Trace | TraceLength, ...]:
        """Every recorded trace that this workload reads, arrivals first."""
        distributions = [self.prompt_tokens, self.output_tokens]
        for kind in self.classes.values():
            distributions += [kind.prompt_tokens, kind.output_tokens]
        arrivals = (self.arrivals,) if isinstance(self.arrivals, Trace) else ()
        return (
            *arrivals,
            *(distribution for distribution in distributions if isinstance(distribution, TraceLength)),
        )

    @property
    def longest_tokens(self) -> int | None:
        """The longest text (prompt and answer) that can come; None if the description does not say it."""
        if isinstance(self.arrivals, Trace | Sessions):
            return self.arrivals.max_context_tokens if isinstance(self.arrivals, Sessions) else None
        longest = 0
        for kind in self.classes.values() or (RequestClass(),):
            prefix = kind.prefix or self.prefix
            parts = [kind.prompt_tokens or self.prompt_tokens, kind.output_tokens or self.output_tokens]
            lengths = [
                longest_of(distribution)
                for distribution in (*parts, prefix and prefix.tokens)
                if distribution
            ]
            if None in lengths:
                return None
            longest = max(longest, sum(length or 0 for length in lengths))
        return longest
