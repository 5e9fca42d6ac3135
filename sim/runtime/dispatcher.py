"""Requests on their way to a replica: a line for each model, and the views by which a router chooses.

The head of a line goes to the replica that the router names, and waits when the router names none; the lines
of other models do not wait for it. A request counts as routed at once, and reaches the replica's
queue after the API server's time (`frontend_s`).

With `staleness_s` the router sees each replica as it was at the last multiple of that interval, except for
`routed`, which is its own count. Where it stops: a view is taken when the router first asks in an interval,
not by a report that the replica sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf, nextafter
from typing import Any

import numpy as np
import simpy

from sim.policy.routing import ReplicaView, Router, place_chosen
from sim.runtime.clock import ARRIVAL, at
from sim.runtime.engine.replica import Replica
from sim.workload.request import Request

Routed = tuple[Request, Replica, float]
"""A request that reaches its replica, and when it was routed there."""


@dataclass(frozen=True)
class Routing:
    """Which replicas serve which model, and how a request finds one of them."""

    models: dict[str, list[Replica]]
    default_model: str  # of requests for a model that no pool serves
    router: Router
    random: np.random.Generator
    staleness_s: float = 0.0
    has_frontend: bool = True
    receivers: dict[str, list[Replica]] | None = None  # by model, where decode is apart from prefill


class Dispatcher:
    """Sends requests on in order of arrival within a model.

    `open_requests` holds the requests that have not departed: others are dropped when they reach the head of
    their line. `on_routed` gets a request that reaches its replica, `on_too_long` one that no replica takes.
    """

    def __init__(
        self,
        env: simpy.Environment,
        routing: Routing,
        open_requests: Container[int],
        *,
        on_routed: Callable[[Routed], None],
        on_too_long: Callable[[Request], None],
    ) -> None:
        self.env = env
        self.routing = routing
        self.open_requests = open_requests
        self.on_routed = on_routed
        self.on_too_long = on_too_long
        self.routed_s: dict[int, float] = {}  # when, of those in the frontend
        self._lines: dict[str, deque[tuple[Request, int]]] = {}  # with the tokens known of each, by model
        self._views: dict[int, _StaleView] = {}
        self._any_takes: dict[str, int] = {}  # tokens below which every replica takes a text, by model
        self._down = 0
        self._asks_again = False  # when the next report comes

    def add(self, request: Request, tokens: int) -> None:
        """Put a request at the end of its model's line; `tokens` are known of its text: the prompt, and what
        a failed replica had generated.
        """
        routing = self.routing
        model = request.model if request.model in routing.models else routing.default_model
        self._lines.setdefault(model, deque()).append((request, tokens))

    def in_line(self) -> Iterator[tuple[str, list[int]]]:
        """The open requests in each model's line."""
        for model, line in self._lines.items():
            numbers = [one.request_id for one, _ in line if one.request_id in self.open_requests]
            if numbers:
                yield model, numbers

    def could_send(self) -> Iterator[tuple[int, Replica]]:
        """The first open request of each line, and a replica that takes its text and has a seat for it."""
        for model, line in self._lines.items():
            is_open = (one for one in line if one[0].request_id in self.open_requests)
            for request, tokens in islice(is_open, 1):
                for replica in self.routing.models[model]:
                    if replica.seems_up and replica.has_seat and tokens < self._longest(replica):
                        yield request.request_id, replica
                        break

    def route(self, _: None = None) -> None:
        """Send what the router sends, for each model in order of arrival."""
        for model, line in self._lines.items():
            while line:
                request, tokens = line[0]
                is_open = request.request_id in self.open_requests
                if is_open and not self._send(request, tokens, self.routing.models[model]):
                    if self.routing.staleness_s and self._views:
                        self._ask_again()
                    break
                line.popleft()

    def _ask_again(self) -> None:
        """The router has refused by reports that may be out of date: ask it once more by the next ones. What
        changes after those, a departure or a recovery, has it asked by itself.
        """
        if self._asks_again:
            return
        self._asks_again = True
        staleness_s = self.routing.staleness_s
        last_s = max(view.reported_s for view in self._views.values())
        next_s = last_s + staleness_s
        while next_s < self.env.now or next_s - last_s < staleness_s:
            next_s = nextafter(max(next_s, self.env.now), inf)
        at(self.env, next_s, self._report, ARRIVAL)

    def _report(self, _: None) -> None:
        self.route()
        self._asks_again = False

    def route_soon(self) -> None:
        """Route after everything that ends at this instant has ended."""
        if any(self._lines.values()):
            at(self.env, self.env.now, self.route, ARRIVAL)

    def replica_failed(self) -> None:
        self._down += 1

    def replica_recovered(self, replica: Replica) -> None:
        self._down -= 1
        self._views.pop(replica.index, None)  # what it reported before the failure is gone

    def _send(self, request: Request, tokens: int, candidates: Sequence[Replica]) -> bool:
        """Send a request to the replica that the router chooses; False if it is to wait for one."""
        if tokens >= self._shortest(candidates):  # usually false, and then no replica has to be asked
            candidates = [replica for replica in candidates if tokens < self._longest(replica)]
            if not candidates:
                self.on_too_long(request)
                return True
        if self._down:
            candidates = [replica for replica in candidates if replica.seems_up]
            if not candidates:
                return False
        routing = self.routing
        chosen = routing.router(request, self._views_of(candidates), routing.random)
        if chosen is None:
            return False
        replica = candidates[place_chosen(routing.router, request, chosen, len(candidates))]
        view = self._views.get(replica.index)
        if view is not None:
            view.routed += 1
        frontend_s = self._frontend_s(request, replica)
        now = self.env.now
        if frontend_s:
            self.routed_s[request.request_id] = now
            at(self.env, now + frontend_s, self.on_routed, ARRIVAL, (request, replica, now))
        else:
            # Not an event at the same instant: the next request in line must be seen in this one's queue.
            self.on_routed((request, replica, now))
        return True

    def second(self, request: Request, first: int) -> tuple[Replica, float] | None:
        """Another replica than the one of index `first` for a second copy of a request, and the seconds until
        it is there; None where the router names none. It does not stand in line.
        """
        routing = self.routing
        model = request.model if request.model in routing.models else routing.default_model
        candidates = [
            replica
            for replica in routing.models[model]
            if replica.seems_up and replica.index != first and request.prompt_tokens < self._longest(replica)
        ]
        if not candidates:
            return None
        chosen = routing.router(request, self._views_of(candidates), routing.random)
        if chosen is None:
            return None
        replica = candidates[place_chosen(routing.router, request, chosen, len(candidates))]
        view = self._views.get(replica.index)
        if view is not None:
            view.routed += 1
        return replica, self._frontend_s(request, replica)

    def _frontend_s(self, request: Request, replica: Replica) -> float:
        """Seconds of the API server, before the engine has a request."""
        if not self.routing.has_frontend:
            return 0.0
        return replica.engine.frontend_s + replica.engine.frontend_token_s * request.prompt_tokens

    def _shortest(self, candidates: Sequence[Replica]) -> int:
        """Tokens that a text must stay below so that any of a model's replicas takes it."""
        model = candidates[0].model
        if model not in self._any_takes:
            self._any_takes[model] = min(self._longest(replica) for replica in candidates)
        return self._any_takes[model]

    def _longest(self, replica: Replica) -> int:
        """Tokens that a text may have where it enters, and where it is decoded."""
        receivers = self.routing.receivers
        if replica.role != "prefill" or receivers is None:
            return replica.max_model_len
        # The shortest of them: the router of the KV transfer is free to choose any.
        decoding = (receiver.max_model_len for receiver in receivers[replica.model])
        return min(replica.max_model_len, *decoding)

    def _views_of(self, replicas: Sequence[Replica]) -> list[ReplicaView]:
        """The replicas themselves, or what they last reported, in a list that a router may change."""
        if not self.routing.staleness_s:
            return list(replicas)  # type: ignore[arg-type]
        return [self._view(replica) for replica in replicas]

    def _view(self, replica: Replica) -> ReplicaView:
        staleness_s = self.routing.staleness_s
        view = self._views.get(replica.index)
        now = self.env.now
        if view is None or now - view.reported_s >= staleness_s:
            reported_s = now // staleness_s * staleness_s
            view = self._views[replica.index] = _StaleView(replica, reported_s)
        return view


class _StaleView:
    """A replica as it was when it last reported."""

    def __init__(self, replica: Replica, reported_s: float) -> None:
        self.reported_s = reported_s
        self.index = replica.index
        self.routed = replica.routed
        self.requests = replica.requests
        self.tokens = replica.tokens
        self.has_seat = replica.has_seat
        self.hops = replica.hops
        self.cached_prompt_tokens: Any = replica.cached_prompt_tokens  # looked up when asked, not as reported
