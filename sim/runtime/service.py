"""The life of a request: it arrives, is routed to a replica, waits, is computed, and is recorded.

Its client may give up: then the request leaves the router, its replica's queue or its way to another replica
at once, and a batch when the step in progress ends; what the client sends next, it sends at once. Its replica
may fail: then what it has got so far goes back to the router, to be computed again elsewhere, or the request
is aborted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from math import inf, nan
from typing import Any, Literal

import numpy as np
import simpy

from sim.policy.routing import Router
from sim.results.blame import CAUSES, BlameRecords
from sim.results.records import Records, Status
from sim.runtime.clock import ARRIVAL, at
from sim.runtime.engine.attribution import REQUEST_HOST, REQUEST_ROUTING
from sim.runtime.engine.engine_core import EngineListener
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.sequence import Sequence as InEngine
from sim.runtime.kv.transfer import KvTransfers
from sim.workload.generator import Traffic
from sim.workload.request import Request


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
        kv_transfers: KvTransfers | None = None,
        on_failure: Literal["resubmit", "abort"] = "resubmit",
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
        self.kv_transfers = kv_transfers
        self.on_failure = on_failure
        self.open: dict[int, Request] = {}  # arrived and not departed
        self.ended_s = 0.0
        self._sequences: dict[int, InEngine] = {}
        self._arrivals: Iterator[Request] = iter(traffic)
        self._lines: dict[str, deque[Request]] = {}  # at the router, by model
        self._views: dict[int, _StaleView] = {}
        self._shortest_of: dict[str, int] = {}  # by model
        self._followed_up: dict[int, tuple[Request, int]] = {}  # ended at this instant, by request_id
        self._cancelled: dict[int, float] = {}  # when clients went whose requests are still in an engine
        self._failures: dict[int, int] = {}  # by replica that is down, those that are not over
        self._resubmitted: set[int] = set()  # on their way from a failed replica to another one
        for replica in replicas:
            replica.listen(EngineListener(finished=self._finished, aborted=self._aborted))

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
        self._line_up(request)
        self._route()
        if request.patience_s < inf:
            at(self.env, request.arrival_s + request.patience_s, self._ttft_timeout, ARRIVAL, request)
        if request.timeout_s < inf:
            at(self.env, request.arrival_s + request.timeout_s, self._request_timeout, ARRIVAL, request)

    def _line_up(self, request: Request) -> None:
        model = request.model if request.model in self.models else self.default_model
        self._lines.setdefault(model, deque()).append(request)

    def _route(self, _: None = None) -> None:
        """Send on what the router will send, for each model in order of arrival."""
        for model, line in self._lines.items():
            while line:
                request = line[0]
                if request.request_id in self.open and not self._sent(request, self.models[model]):
                    break
                line.popleft()

    def _route_soon(self) -> None:
        if any(self._lines.values()):
            at(self.env, self.env.now, self._route, ARRIVAL)

    def _sent(self, request: Request, candidates: Sequence[Replica]) -> bool:
        """Send a request to the replica that the router chooses; False if it is to wait for one."""
        tokens = self._tokens(request)
        if tokens >= self._shortest(candidates):
            candidates = [replica for replica in candidates if tokens < self._longest(replica)]
            if not candidates:
                self._reject(request)
                return True
        if self._failures:
            candidates = [replica for replica in candidates if replica.is_up]
            if not candidates:
                return False
        chosen = self.router(request, [self._view(replica) for replica in candidates], self.random)
        if chosen is None:
            return False
        replica = candidates[chosen]
        view = self._views.get(replica.index)
        if view is not None:
            view.routed += 1
        frontend_s = 0.0
        if self.has_frontend:
            engine = replica.engine
            frontend_s = engine.frontend_s + engine.frontend_token_s * request.prompt_tokens
        now = self.env.now
        if frontend_s:
            at(self.env, now + frontend_s, self._submit, ARRIVAL, (request, replica, now))
        else:
            self._submit((request, replica, now))
        return True

    def _tokens(self, request: Request) -> int:
        """Tokens of its text so far; more than its prompt if a replica that had it has failed."""
        sequence = self._sequences.get(request.request_id)
        return request.prompt_tokens if sequence is None else sequence.known_tokens

    def _shortest(self, candidates: Sequence[Replica]) -> int:
        """Tokens that a text must stay below so that any of them takes it."""
        model = candidates[0].model
        if model not in self._shortest_of:
            self._shortest_of[model] = min(self._longest(replica) for replica in candidates)
        return self._shortest_of[model]

    def _longest(self, replica: Replica) -> int:
        """Tokens that a text may have where it enters, and where it is decoded."""
        if replica.role != "prefill" or self.kv_transfers is None:
            return replica.max_model_len
        decoding = (receiver.max_model_len for receiver in self.kv_transfers.receivers[replica.model])
        return min(replica.max_model_len, *decoding)

    def _submit(self, what: tuple[Request, Replica, float]) -> None:
        request, replica, routed_s = what
        if request.request_id not in self.open:
            return  # given up on the way
        if not replica.is_up:
            self._line_up(request)
            self._route()
            return
        sequence = self._sequences.get(request.request_id)
        if sequence is None:
            sequence = self._sequences[request.request_id] = replica.submit(request)
            sequence.routed_s = routed_s
            sequence.blame[REQUEST_ROUTING] = routed_s - request.arrival_s
            sequence.blame[REQUEST_HOST] = self.env.now - routed_s
        else:
            self._resubmitted.discard(request.request_id)
            sequence.wait(REQUEST_ROUTING, routed_s)
            sequence.wait(REQUEST_HOST, self.env.now)
            replica.take_up(sequence)

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
        if sequence.request.request_id in self._cancelled:
            self._aborted(sequence)
            return
        if self.kv_transfers is not None:  # its only token came from the prefill: nobody needs its KV cache
            self.kv_transfers.abort(sequence)
        self._record(sequence, "finished")
        self._depart(sequence.request, sequence.replica)
        self._follow_up(sequence.request)

    def _aborted(self, sequence: InEngine) -> None:
        """It has left, unfinished."""
        self._record(sequence, "aborted")
        self._depart(sequence.request, sequence.replica)

    def _depart(self, request: Request, replica: int = -1) -> None:
        """It is here no more; others may take its place."""
        del self.open[request.request_id]
        self._sequences.pop(request.request_id, None)
        self._cancelled.pop(request.request_id, None)
        self._resubmitted.discard(request.request_id)
        self.ended_s = self.env.now
        if self.kv_transfers is not None and replica >= 0:
            self.kv_transfers.blocks_are_free(self.replicas[replica])
        self._route_soon()

    def _follow_up(self, request: Request, missing_tokens: int = 0) -> None:
        """Its client sends what it sends next; of several at one instant in the order of their requests, for
        which engine told of its end first is chance.
        """
        if self.traffic.closed:
            if not self._followed_up:
                at(self.env, self.env.now, self._send_next, ARRIVAL)
            self._followed_up[request.request_id] = (request, missing_tokens)

    def _send_next(self, _: None) -> None:
        now, ended = self.env.now, self._followed_up
        self._followed_up = {}
        for number in sorted(ended):
            request, missing_tokens = ended[number]
            following = self.traffic.next_request(request.session, now, missing_tokens)
            if following is not None:
                at(self.env, max(now, following.arrival_s), self._enter, ARRIVAL, following)

    # ---- clients that give up

    def _ttft_timeout(self, request: Request) -> None:
        sequence = self._sequences.get(request.request_id)
        if sequence is None or sequence.first_token_s is None:
            self._request_timeout(request)

    def _request_timeout(self, request: Request) -> None:
        if request.request_id in self.open and request.request_id not in self._cancelled:
            self._follow_up_cancelled(request)
            self._cancel(request)

    def _follow_up_cancelled(self, request: Request) -> None:
        """It sends what it sends next, knowing what it has got of this answer."""
        got = 0
        sequence = self._sequences.get(request.request_id)
        if sequence is not None:
            got = self.replicas[sequence.replica].tokens_by_now(sequence)
        self._follow_up(request, request.output_tokens - got)

    def _cancel(self, request: Request) -> None:
        sequence = self._sequences.get(request.request_id)
        if sequence is None:
            self._add(request, request.output_tokens, "aborted", aborted_s=self.env.now)
            blame = [0.0] * len(CAUSES)
            blame[REQUEST_ROUTING] = self.env.now - request.arrival_s
            self.blame.add(request.request_id, blame)
            self._depart(request)
        elif request.request_id in self._resubmitted:
            sequence.wait(REQUEST_ROUTING, self.env.now)
            self._aborted(sequence)
        elif self.kv_transfers is not None and self.kv_transfers.abort(sequence):
            self._aborted(sequence)
        else:
            self._cancelled[request.request_id] = self.env.now
            self.replicas[sequence.replica].abort(sequence)

    # ---- replicas that fail

    def fail(self, replica: Replica) -> None:
        """An engine is lost at this instant, with everything that it holds."""
        self._failures[replica.index] = self._failures.get(replica.index, 0) + 1
        if not replica.is_up:
            return
        replica.is_up = False
        lost = [] if self.kv_transfers is None else self.kv_transfers.fail(replica)
        lost += replica.fail()
        for sequence in sorted(lost, key=lambda one: (one.arrival_s, one.request.request_id)):
            request = sequence.request
            if request.request_id in self._cancelled:
                self._aborted(sequence)
            elif self.on_failure == "abort":
                self._follow_up_cancelled(request)
                self._aborted(sequence)
            else:
                sequence.start_over()
                self._resubmitted.add(request.request_id)
                self._line_up(request)
        self._route_soon()

    def recover(self, replica: Replica) -> None:
        """A failure is over; the engine starts empty when all of its failures are."""
        self._failures[replica.index] -= 1
        if self._failures[replica.index]:
            return
        del self._failures[replica.index]
        self._views.pop(replica.index, None)
        replica.is_up = True
        if self.kv_transfers is not None:
            self.kv_transfers.blocks_are_free(replica)
        self._route_soon()

    # ---- rows

    def _reject(self, request: Request) -> None:
        """No replica takes a text as long as it is, or has become."""
        sequence = self._sequences.get(request.request_id)
        if sequence is not None:
            self._follow_up_cancelled(request)
            sequence.wait(REQUEST_ROUTING, self.env.now)
            self._aborted(sequence)
            return
        self._add(request, request.output_tokens, "rejected", routed_s=self.env.now)
        self._depart(request)
        self._follow_up(request, request.output_tokens)

    def close(self) -> None:
        """Record what is unfinished when the run stops."""
        for request in list(self.open.values()):
            sequence = self._sequences.get(request.request_id)
            if sequence is not None:
                self._record(sequence, "unfinished")
            else:
                self._add(request, request.output_tokens, "unfinished")

    def _record(self, sequence: InEngine, status: Status) -> None:
        request = sequence.request
        first_s, finished_s, aborted_s = sequence.first_token_s, sequence.finished_s, None
        gone_s = self._cancelled.get(request.request_id, inf)
        if first_s is not None and first_s > gone_s:
            first_s = None  # nobody was there to see it
        if status == "aborted":
            finished_s, aborted_s = None, self.env.now
        self._add(
            request,
            sequence.output_tokens,
            status,
            generated_tokens=sequence.generated,
            routed_s=sequence.routed_s,
            admitted_s=_or_nan(sequence.admitted_s),
            first_token_s=_or_nan(first_s),
            finished_s=_or_nan(finished_s),
            aborted_s=_or_nan(aborted_s),
            cached_tokens=sequence.cached_tokens,
            preemptions=sequence.preemptions,
            resubmissions=sequence.resubmissions,
            replica=sequence.replica,
        )
        if status != "unfinished":
            self.blame.add(request.request_id, sequence.blame)

    def _add(self, request: Request, output_tokens: int, status: Status, **times: Any) -> None:
        self.records.requests.add(
            request.request_id,
            request.arrival_s,
            request.prompt_tokens,
            output_tokens,
            status=status,
            request_class=request.request_class,
            model=request.model,
            session=request.session,
            turn=request.turn,
            **times,
        )


def _or_nan(time_s: float | None) -> float:
    return nan if time_s is None else time_s


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
        if not replica.is_up:
            yield f"replica {replica.index} has failed"
        if replica.requests:
            loading = replica.requests - replica.running - replica.waiting
            yield (
                f"replica {replica.index}: {replica.running} running, {replica.waiting} waiting, "
                + (f"{loading} whose KV cache is on its way, " if loading else "")
                + f"{sum(queue.block_pool.free_blocks for queue in replica.queues)} of "
                f"{sum(queue.block_pool.blocks for queue in replica.queues)} KV blocks free"
            )
