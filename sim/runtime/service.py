"""The life of a request: it arrives, is routed to a replica, waits, is computed, and is recorded."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import simpy

from sim.policy.routing import Router
from sim.results.blame import CAUSES, BlameRecords
from sim.results.records import Records
from sim.runtime.clock import ARRIVAL, at
from sim.runtime.hand_over import HandOver
from sim.runtime.replica import Replica
from sim.runtime.request import Request
from sim.runtime.sequence import Sequence as InEngine
from sim.runtime.traffic import Traffic

ROUTING, HOST = CAUSES.index("routing"), CAUSES.index("host")


class Service:
    """Replicas behind one router. Requests only move forward: a replica never calls the router."""

    def __init__(
        self,
        env: simpy.Environment,
        replicas: Sequence[Replica],
        models: dict[str, list[Replica]],
        default_model: str,
        router: Router,
        traffic: Traffic,
        random: np.random.Generator,
        records: Records,
        blame: BlameRecords,
        *,
        staleness_s: float = 0.0,
        has_frontend: bool = True,
        hand_over: HandOver | None = None,
    ) -> None:
        self.env = env
        self.replicas = replicas
        self.models = models
        self.default_model = default_model
        self.router = router
        self.traffic = traffic
        self.random = random
        self.records = records
        self.blame = blame
        self.staleness_s = staleness_s
        self.has_frontend = has_frontend
        self.hand_over = hand_over
        self.open: dict[int, Request] = {}  # arrived and not finished
        self.ended_s = 0.0
        self._sequences: dict[int, InEngine] = {}
        self._arrivals: Iterator[Request] = iter(traffic)
        self._unrouted: deque[Request] = deque()
        self._views: dict[int, _StaleView] = {}
        for replica in replicas:
            replica.on_finished = self._finished

    # ---- arrivals

    def begin(self) -> None:
        """Wait for the first arrival; every arrival waits for the next."""
        self._await_next()

    def _await_next(self) -> None:
        request = next(self._arrivals, None)
        if request is not None:
            at(self.env, request.arrival_s, self._arrived, ARRIVAL, request)

    def _arrived(self, request: Request) -> None:
        self._await_next()
        self._enter(request)

    def _enter(self, request: Request) -> None:
        self.open[request.request_id] = request
        self._unrouted.append(request)
        self._route()

    def _route(self) -> None:
        """Send on what the router will send, in order of arrival."""
        while self._unrouted:
            request = self._unrouted[0]
            candidates = self.models.get(request.model) or self.models[self.default_model]
            chosen = self.router(request, [self._view(replica) for replica in candidates], self.random)
            if chosen is None:
                return
            self._unrouted.popleft()
            replica = candidates[chosen]
            if request.prompt_tokens >= self._longest(replica):
                self._reject(request, replica)
                continue
            view = self._views.get(replica.index)
            if view is not None:
                view.routed += 1
            frontend_s = 0.0
            if self.has_frontend:
                engine = replica.engine
                frontend_s = engine.frontend_s + engine.frontend_token_s * request.prompt_tokens
            if frontend_s:
                at(
                    self.env,
                    self.env.now + frontend_s,
                    self._submit,
                    ARRIVAL,
                    (request, replica, self.env.now),
                )
            else:
                self._submit((request, replica, self.env.now))

    def _longest(self, replica: Replica) -> int:
        """Tokens that a text may have where it enters, and where it is decoded."""
        if replica.role != "prefill" or self.hand_over is None:
            return replica.max_model_len
        decoding = (receiver.max_model_len for receiver in self.hand_over.receivers[replica.model])
        return min(replica.max_model_len, *decoding)

    def _submit(self, what: tuple[Request, Replica, float]) -> None:
        request, replica, routed_s = what
        sequence = replica.submit(request)
        sequence.routed_s = routed_s
        sequence.blame[ROUTING] = routed_s - request.arrival_s
        sequence.blame[HOST] = self.env.now - routed_s
        self._sequences[request.request_id] = sequence

    def _view(self, replica: Replica) -> Any:
        """The replica itself, or what it last reported."""
        if not self.staleness_s:
            return replica
        view = self._views.get(replica.index)
        now = self.env.now
        if view is None or now - view.reported_s >= self.staleness_s:
            reported_s = now // self.staleness_s * self.staleness_s
            view = self._views[replica.index] = _StaleView(replica, reported_s)
        return view

    # ---- ends

    def _finished(self, sequence: InEngine) -> None:
        request = sequence.request
        del self._sequences[request.request_id]
        self._record(sequence, "finished")
        if self.hand_over is not None:
            self.hand_over.blocks_are_free(self.replicas[sequence.replica])
        self._follow_up(request)

    def _follow_up(self, request: Request) -> None:
        del self.open[request.request_id]
        self.ended_s = self.env.now
        if self.traffic.closed:
            following = self.traffic.next_request(request.session, self.env.now)
            if following is not None:
                at(self.env, max(self.env.now, following.arrival_s), self._enter, ARRIVAL, following)
        if self._unrouted:
            at(self.env, self.env.now, lambda _: self._route(), ARRIVAL)

    def _reject(self, request: Request, replica: Replica) -> None:
        self.records.requests.add(
            request.request_id, request.arrival_s, request.prompt_tokens, request.output_tokens,
            status="rejected", routed_s=self.env.now, replica=replica.index,
            request_class=request.request_class, model=request.model, session=request.session,
            turn=request.turn,
        )  # fmt: skip
        self._follow_up(request)

    def close(self) -> None:
        """Record what is unfinished when the run stops."""
        for request in list(self.open.values()):
            sequence = self._sequences.get(request.request_id)
            if sequence is not None:
                self._record(sequence, "unfinished")
            else:
                self.records.requests.add(
                    request.request_id, request.arrival_s, request.prompt_tokens, request.output_tokens,
                    status="unfinished", request_class=request.request_class, model=request.model,
                    session=request.session, turn=request.turn,
                )  # fmt: skip

    def _record(self, sequence: InEngine, status: Any) -> None:
        request = sequence.request
        nan = float("nan")
        self.records.requests.add(
            request.request_id,
            request.arrival_s,
            request.prompt_tokens,
            sequence.output_tokens,
            status=status,
            generated_tokens=sequence.generated,
            routed_s=sequence.routed_s,
            admitted_s=nan if sequence.admitted_s is None else sequence.admitted_s,
            first_token_s=nan if sequence.first_token_s is None else sequence.first_token_s,
            finished_s=nan if sequence.finished_s is None else sequence.finished_s,
            cached_tokens=sequence.cached_tokens,
            preemptions=sequence.preemptions,
            replica=sequence.replica,
            request_class=request.request_class,
            model=request.model,
            session=request.session,
            turn=request.turn,
        )
        if status == "finished":
            self.blame.add(request.request_id, sequence.blame)


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
        self.cached_prompt_tokens = replica.cached_prompt_tokens


def waiting_for(service: Service) -> Generator[str, None, None]:
    """What is unfinished and what it waits for, for the message of a run that stopped early."""
    for replica in service.replicas:
        if replica.requests:
            loading = replica.requests - replica.running - replica.waiting
            yield (
                f"replica {replica.index}: {replica.running} running, {replica.waiting} waiting, "
                + (f"{loading} whose KV cache is on its way, " if loading else "")
                + f"{sum(queue.kv_cache.free for queue in replica.queues)} of "
                f"{sum(queue.kv_cache.blocks for queue in replica.queues)} KV blocks free"
            )
