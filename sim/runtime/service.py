"""The life of a request: it arrives, is routed to a replica, waits, is computed, and is recorded.

A timeout cancels a request: it leaves the router's line, its replica's queue or its KV transfer at once, and
a batch when the step in progress ends; its client sends the next request at the instant of the timeout. A
failed replica loses what it holds: its requests go back to the router with the tokens generated so far, to be
computed again elsewhere, or are aborted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf, nan
from typing import Any, Literal

import simpy

from sim.inputs.errors import InfeasibleError
from sim.results.blame import CAUSES, BlameRecords
from sim.results.records import Records, Status
from sim.runtime.clock import ARRIVAL, FAILURE, OVER, at
from sim.runtime.dispatcher import Dispatcher, Routed, Routing
from sim.runtime.engine.attribution import REQUEST_HOST, REQUEST_RECOMPUTE, REQUEST_ROUTING
from sim.runtime.engine.engine_core import EngineListener
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.sequence import Sequence as InEngine
from sim.runtime.hedging import Hedging
from sim.runtime.kv.transfer import KvTransfers
from sim.workload.generator import RequestGenerator
from sim.workload.request import Request

MAX_CLOCK_S = 1e9  # 64-bit floats lie 1.2e-7 s apart there


class Service:
    """Replicas behind one router. Requests only move forward: a replica never calls the router.

    Every request is in one of four places until it departs: the dispatcher's lines, a replica's queues, a KV
    transfer, or (for `frontend_s`) on its way from the first to the second.
    """

    def __init__(
        self,
        env: simpy.Environment,
        replicas: Sequence[Replica],
        routing: Routing,
        generator: RequestGenerator,
        records: Records,
        blame: BlameRecords,
        *,
        kv_transfers: KvTransfers | None = None,
        on_failure: Literal["resubmit", "abort"] = "resubmit",
        hedge_after_s: float | None = None,
        detection_s: float = 0.0,
    ) -> None:
        self.env = env
        self.detection_s = detection_s
        self.replicas = replicas
        self.generator = generator
        self.records = records
        self.blame = blame
        self.kv_transfers = kv_transfers
        self.on_failure = on_failure
        self.open: dict[int, Request] = {}  # arrived and not departed
        self.ended_s = 0.0
        self._sequences: dict[int, InEngine] = {}
        self._arrivals: Iterator[Request] = iter(generator)
        self.routing = routing
        self._dispatcher = Dispatcher(
            env, routing, self.open, on_routed=self._submit, on_too_long=self._reject
        )
        self._followed_up: dict[int, tuple[Request, int]] = {}  # ended now, with its missing tokens
        self._cancelled: dict[int, float] = {}  # when, of those that an engine still has
        self._frontend_s: dict[int, float] = {}  # in vain, of requests on their way to a replica that failed
        self._failed_s: dict[int, float] = {}  # when, of replicas whose failure is not noticed
        self.why_down: dict[int, str] = {}  # by replica, where more is known than that it has failed
        self._unnoticed: dict[
            int, dict[int, InEngine | None]
        ] = {}  # by replica and request, until it is noticed
        self._failures: dict[int, int] = {}  # that are not over, by replica that is down
        self.lost_at_s: set[float] = set()  # when requests ended because their engine had failed
        self._resubmitted: set[int] = set()  # between a failed replica and the next one
        self._more_arrive = True
        self._expected = 0  # requests that clients will send at a time that is known
        self.on_over: Callable[[], None] = lambda: None  # the last request has left, and none will come
        for replica in replicas:
            replica.listen(
                EngineListener(finished=self._finished, aborted=self._aborted, prefilled=self._prefilled)
            )
        self.hedging = None if hedge_after_s is None else Hedging(self, hedge_after_s)

    # ---- arrivals

    def begin(self) -> None:
        """Wait for the first arrival; every arrival waits for the next."""
        self._await_next()

    def has_served(self, end_s: float) -> None:
        """All requests have come and gone without the clock, the last one at this instant."""
        self._more_arrive = False
        self.ended_s = end_s

    @property
    def awaits_more(self) -> bool:
        """Whether a request is still to arrive."""
        return self._more_arrive or self._expected > 0

    def _await_next(self) -> None:
        request = next(self._arrivals, None)
        if request is None:
            self._more_arrive = False
        elif request.arrival_s > MAX_CLOCK_S:
            raise InfeasibleError(
                f"request {request.request_id} would arrive at {request.arrival_s:.3g} s: must be at most "
                f"{MAX_CLOCK_S:g} s, where the clock still tells a tenth of a microsecond",
                "a higher rate, or fewer requests",
            )
        else:
            at(self.env, request.arrival_s, self._arrived, ARRIVAL, request)

    def _arrived(self, request: Request) -> None:
        self._await_next()
        self._enter(request)

    def _enter(self, request: Request) -> None:
        self.open[request.request_id] = request
        self._dispatcher.add(request, request.prompt_tokens)
        self._dispatcher.route()
        if request.patience_s < inf:
            at(self.env, request.arrival_s + request.patience_s, self._ttft_timeout, ARRIVAL, request)
        if request.timeout_s < inf:
            at(self.env, request.arrival_s + request.timeout_s, self._request_timeout, ARRIVAL, request)

    def _submit(self, routed: Routed) -> None:
        request, replica, routed_s = routed
        self._dispatcher.routed_s.pop(request.request_id, None)
        if request.request_id not in self.open:
            return  # cancelled before it reached the replica
        sequence = self._sequences.get(request.request_id)
        if replica.index in self._unnoticed:
            self._unnoticed[replica.index][request.request_id] = sequence
            replica.unanswered += 1
            replica.routed += 1
            if sequence is None:
                before_s = self._frontend_s.get(request.request_id, 0.0)
                self._frontend_s[request.request_id] = before_s + self.env.now - routed_s
            else:
                self._resubmitted.discard(request.request_id)
                sequence.replica = replica.index
                sequence.wait(REQUEST_ROUTING, routed_s)
                sequence.wait(REQUEST_HOST, self.env.now)
            return
        if not replica.is_up:  # it failed while the request was in the frontend
            if sequence is None:
                before_s = self._frontend_s.get(request.request_id, 0.0)
                self._frontend_s[request.request_id] = before_s + self.env.now - routed_s
            else:
                sequence.wait(REQUEST_ROUTING, routed_s)
                sequence.wait(REQUEST_HOST, self.env.now)
            self._dispatch_again(request)
            self._dispatcher.route()
            return
        if sequence is None:
            sequence = self._sequences[request.request_id] = replica.submit(request)
            sequence.routed_s = routed_s
            in_vain_s = self._frontend_s.pop(request.request_id, 0.0) if self._frontend_s else 0.0
            sequence.blame[REQUEST_ROUTING] = routed_s - request.arrival_s - in_vain_s
            sequence.blame[REQUEST_HOST] = self.env.now - routed_s + in_vain_s
            if self.hedging is not None:
                self.hedging.submitted(request)
        else:
            self._resubmitted.discard(request.request_id)
            sequence.wait(REQUEST_ROUTING, routed_s)
            sequence.wait(REQUEST_HOST, self.env.now)
            replica.take_up(sequence)

    def _dispatch_again(self, request: Request) -> None:
        """Back to the end of the line, with what a failed replica has generated as part of its text."""
        sequence = self._sequences.get(request.request_id)
        self._dispatcher.add(request, request.prompt_tokens if sequence is None else sequence.known_tokens)

    def _prefilled(self, sequence: InEngine) -> None:
        """It has left its seat at the prefill replica, which another may take."""
        self._dispatcher.route_soon()

    # ---- ends

    def _finished(self, sequence: InEngine) -> None:
        if self.hedging is not None and self.hedging.takes(sequence):
            return
        if sequence.request.request_id in self._cancelled:
            self._aborted(sequence)
            return
        if self.kv_transfers is not None:  # the prefill gave its only token: no replica needs its KV cache
            self.kv_transfers.abort(sequence)
        self._record(sequence, "finished")
        self._depart(sequence.request, sequence.replica)
        # Of an answer cut at max_model_len, the client has what came.
        self._follow_up(sequence.request, sequence.request.output_tokens - sequence.generated)

    def _aborted(self, sequence: InEngine) -> None:
        """A sequence has left its engine, or its KV transfer, unfinished."""
        if self.hedging is not None and self.hedging.takes(sequence):
            return
        self._record(sequence, "aborted")
        self._depart(sequence.request, sequence.replica)

    def _depart(self, request: Request, replica: int = -1) -> None:
        """Forget a request; others may take its place."""
        del self.open[request.request_id]
        self._sequences.pop(request.request_id, None)
        self._cancelled.pop(request.request_id, None)
        self._resubmitted.discard(request.request_id)
        self.ended_s = self.env.now
        if self.kv_transfers is not None and replica >= 0:
            self.kv_transfers.send_waiting(self.replicas[replica])
        self._dispatcher.route_soon()
        if not (self.open or self._more_arrive):
            at(self.env, self.env.now, self._empty, OVER)

    def _empty(self, _: None) -> None:
        if not (self.open or self._expected) and (self.hedging is None or not self.hedging.are_leaving):
            self.on_over()

    # ---- second copies

    def in_engine(self, request: Request) -> InEngine | None:
        """The sequence of a request that is in a replica, and that its client waits for."""
        number = request.request_id
        if number in self._cancelled or number in self._resubmitted:
            return None
        sequence = self._sequences.get(number)
        if sequence is not None and sequence.replica in self._unnoticed:
            return None
        return sequence

    def send_elsewhere(self, request: Request, replica: int) -> tuple[Replica, float] | None:
        """Another replica for a second copy of a request, and the seconds until it is there."""
        return self._dispatcher.second(request, replica)

    def answered_by(self, sequence: InEngine) -> None:
        """Of two copies of a request this one answers; it may have ended at this instant."""
        self._sequences[sequence.request.request_id] = sequence
        if sequence.finished_s is not None:
            self._finished(sequence)

    def copy_left(self) -> None:
        """A copy that is not needed has left its engine; another request may take its place."""
        self.ended_s = self.env.now
        self._dispatcher.route_soon()
        if not (self.open or self._more_arrive):
            at(self.env, self.env.now, self._empty, OVER)

    def _follow_up(self, request: Request, missing_tokens: int = 0) -> None:
        """The client sends its next request. Of several that end at one instant, `_send_next` takes the
        lowest request_id first: in which order their engines report is chance, and differs between folded and
        played.
        """
        if self.generator.closed:
            if not self._followed_up:
                at(self.env, self.env.now, self._send_next, ARRIVAL)
            self._followed_up[request.request_id] = (request, missing_tokens)

    def _send_next(self, _: None) -> None:
        now, ended = self.env.now, self._followed_up
        self._followed_up = {}
        for number in sorted(ended):
            request, missing_tokens = ended[number]
            for following in self.generator.next_requests(request, now, missing_tokens):
                self._expected += 1
                at(self.env, max(now, following.arrival_s), self._follows, ARRIVAL, following)

    def _follows(self, request: Request) -> None:
        self._expected -= 1
        self._enter(request)

    # ---- readings

    def in_line(self) -> list[tuple[str, list[int]]]:
        """The open requests that wait at the router, by model."""
        return list(self._dispatcher.in_line())

    @property
    def never_answered(self) -> int:
        """Requests that were sent to a replica after it had failed, while that is not noticed."""
        return sum(one is None for held in self._unnoticed.values() for one in held.values())

    def could_send(self) -> Iterator[tuple[int, Replica]]:
        """Requests at the router, and a replica with a seat for each."""
        return self._dispatcher.could_send()

    def takers(self, model: str) -> list[Replica]:
        """The replicas among which the router chooses for a model."""
        return self._dispatcher.routing.models[model]

    def in_frontend(self) -> list[int]:
        """The open requests that are routed and have not reached their replica."""
        in_line = {number for _, numbers in self.in_line() for number in numbers}
        return [
            number
            for number in self.open
            if number not in in_line and (number in self._resubmitted or number not in self._sequences)
        ]

    # ---- timeouts

    def _ttft_timeout(self, request: Request) -> None:
        sequence = self._sequences.get(request.request_id)
        if sequence is None or sequence.first_token_s is None:
            self._request_timeout(request)

    def _request_timeout(self, request: Request) -> None:
        if request.request_id in self.open and request.request_id not in self._cancelled:
            self._follow_up_cancelled(request)
            self._cancel(request)

    def _follow_up_cancelled(self, request: Request) -> None:
        """The client sends its next request, with what it has received of this answer as context."""
        received = 0
        sequence = self._sequences.get(request.request_id)
        if sequence is not None:
            received = self.replicas[sequence.replica].tokens_by_now(sequence)
        self._follow_up(request, request.output_tokens - received)

    def _cancel(self, request: Request) -> None:
        """Take a request out of where it is: the router's line or the frontend, for the first or another
        time, a KV transfer, or an engine, which reports when it is out (`_aborted`).
        """
        if self.hedging is not None:
            self.hedging.withdraw(request)
        sequence = self._sequences.get(request.request_id)
        now = self.env.now
        routed_s = self._dispatcher.routed_s.pop(request.request_id, now)
        if sequence is None:
            for index, held in self._unnoticed.items():
                if request.request_id in held:
                    del held[request.request_id]
                    self.replicas[index].unanswered -= 1
            self._add(request, request.output_tokens, "aborted", aborted_s=now)
            frontend_s = now - routed_s + self._frontend_s.pop(request.request_id, 0.0)
            blame = [0.0] * len(CAUSES)
            blame[REQUEST_ROUTING] = now - request.arrival_s - frontend_s
            blame[REQUEST_HOST] = frontend_s
            self.blame.add(request.request_id, blame)
            self.blame.ttft.add(request.request_id, blame)
            self._depart(request)
        elif self._unnoticed.get(sequence.replica, {}).pop(request.request_id, None) is not None:
            self.replicas[sequence.replica].unanswered -= 1
            sequence.wait(REQUEST_RECOMPUTE, now)
            self._aborted(sequence)
        elif request.request_id in self._resubmitted:
            sequence.wait(REQUEST_ROUTING, routed_s)
            sequence.wait(REQUEST_HOST, now)
            self._aborted(sequence)
        elif self.kv_transfers is not None and self.kv_transfers.abort(sequence):
            self._aborted(sequence)
        else:
            self._cancelled[request.request_id] = self.env.now
            self.replicas[sequence.replica].abort(sequence)

    # ---- failures

    def fail(self, replica: Replica) -> None:
        """A replica loses everything that it holds, at this instant."""
        self._failures[replica.index] = self._failures.get(replica.index, 0) + 1
        if not replica.is_up:
            return
        replica.is_up = False
        # Transfers first: those still in the prefill drop their blocks here, their sequences come with the
        # queue.
        lost = [] if self.kv_transfers is None else self.kv_transfers.fail(replica)
        lost += replica.fail()
        if self.hedging is not None:
            lost = self.hedging.without_copies(lost)
        if self.detection_s:
            self._unnoticed[replica.index] = {one.request.request_id: one for one in lost}
            replica.unanswered = len(lost)
            at(self.env, self.env.now + self.detection_s, self._notice_late, FAILURE, (replica, self.env.now))
            self._failed_s[replica.index] = self.env.now
            return
        replica.seems_up = False
        self._dispatcher.replica_failed()
        self._send_back(lost)

    def _notice_late(self, failure: tuple[Replica, float]) -> None:
        replica, failed_s = failure
        if self._failed_s.get(replica.index) == failed_s:
            self._notice(replica)

    def _notice(self, replica: Replica) -> None:
        """A failed replica is found to have failed: what it had, and what came since, goes elsewhere."""
        held = self._unnoticed.pop(replica.index, None)
        if held is None:
            return
        del self._failed_s[replica.index]
        replica.unanswered, replica.seems_up = 0, False
        self._dispatcher.replica_failed()
        here = [sequence for sequence in held.values() if sequence is not None]
        for sequence in here:
            sequence.wait(REQUEST_RECOMPUTE, self.env.now)
        for number in [number for number, sequence in held.items() if sequence is None]:
            request = self.open.get(number)
            if request is not None and self.on_failure == "abort":
                self.lost_at_s.add(self.env.now)
                self._follow_up_cancelled(request)
                self._cancel(request)
            elif request is not None:
                self._dispatch_again(request)
        self._send_back(here)

    def lost_on_the_way(self, lost: list[InEngine]) -> None:
        """KV caches of these sequences have no way to where they were to go, and no engine has them."""
        if lost:
            self._send_back(lost)

    def _send_back(self, lost: list[InEngine]) -> None:
        """Route again what no engine has any more, or abort it."""
        # In order of arrival, as they would stand in the line of a router that never had sent them.
        for sequence in sorted(lost, key=lambda one: (one.arrival_s, one.request.request_id)):
            request = sequence.request
            if request.request_id in self._cancelled:
                self._aborted(sequence)
            elif self.on_failure == "abort":
                self.lost_at_s.add(self.env.now)
                self._follow_up_cancelled(request)
                self._aborted(sequence)
            else:
                sequence.start_over()
                self._resubmitted.add(request.request_id)
                self._dispatch_again(request)
        self._dispatcher.route_soon()

    def failures(self, replica: Replica) -> int:
        """How many failures of a replica are not over."""
        return self._failures.get(replica.index, 0)

    def recover(self, replica: Replica) -> None:
        """A failure is over; the replica starts, empty, when all of its failures are."""
        self._failures[replica.index] -= 1
        if self._failures[replica.index]:
            return
        del self._failures[replica.index]
        self._notice(replica)  # at the latest, when a new process answers
        self._dispatcher.replica_recovered(replica)
        replica.is_up = replica.seems_up = True
        if self.kv_transfers is not None:
            self.kv_transfers.recovered(replica)
        self._dispatcher.route_soon()

    # ---- rows

    def _reject(self, request: Request) -> None:
        """No replica takes a text of this length; one that a failure sent back may have grown beyond all that
        are left.
        """
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
        cancelled_s = self._cancelled.get(request.request_id, inf)
        if first_s is not None and first_s > cancelled_s:
            first_s = None  # it came after the timeout, in the step that was in progress
        if status == "aborted":
            finished_s, aborted_s = None, self.env.now
        self._add(
            request,
            request.output_tokens,
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
        if first_s is not None:
            self.blame.ttft.add(request.request_id, sequence.blame_at_first)
        elif status == "aborted":
            self.blame.ttft.add(request.request_id, sequence.blame)

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
