"""Second copies of requests: sent after a delay, and a race until one of the two has its first token.

A copy is a second sequence of the same request in another replica. Which one wins is decided after all that
ends at an instant has ended; where both have their first token at one instant, the first copy wins. The
requests of a run have one row each, that of the copy which answered: before a second copy was sent, its time
counts as time at the router.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.runtime.clock import ARRIVAL, at
from sim.runtime.engine.attribution import REQUEST_HOST, REQUEST_ROUTING
from sim.runtime.engine.engine_core import EngineListener
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.sequence import Sequence
from sim.workload.request import Request

if TYPE_CHECKING:
    from sim.runtime.service import Service


@dataclass(slots=True)
class Race:
    """Two copies without a first token; `is_over` from the instant on at which one has it."""

    first: Sequence
    second: Sequence
    is_over: bool = False

    def other(self, copy: Sequence) -> Sequence:
        return self.second if copy is self.first else self.first


class Hedging:
    """The second copies of one service's requests. `sent` of them, of which `won` gave the answer."""

    def __init__(self, service: Service, after_s: float) -> None:
        self.service = service
        self.after_s = after_s
        self.sent = self.won = 0
        self._races: dict[int, Race] = {}
        self._at_replica: dict[int, dict[int, Sequence]] = {}
        self._losers: set[Sequence] = set()  # cancelled, and still in their engines
        for replica in service.replicas:
            here = self._at_replica[replica.index] = {}
            replica.listen(EngineListener(steps_passed=self._look(here)))

    @property
    def are_leaving(self) -> bool:
        """Whether an engine still has a copy that is not needed any more."""
        return bool(self._losers)

    # ---- a second copy

    def submitted(self, request: Request) -> None:
        """A request has reached its first replica."""
        env = self.service.env
        at(env, env.now + self.after_s, self._send, ARRIVAL, request)

    def _waits(self, request: Request) -> Sequence | None:
        """The first copy of a request that still waits for its first token in an engine."""
        sequence = self.service.in_engine(request)
        if sequence is None or sequence.first_token_s is not None:
            return None
        return None if request.request_id in self._races else sequence

    def _send(self, request: Request) -> None:
        first = self._waits(request)
        if first is None:
            return
        second = self.service.send_elsewhere(request, first.replica)
        if second is not None:
            replica, delay_s = second
            env = self.service.env
            if delay_s:
                at(env, env.now + delay_s, self._arrive, ARRIVAL, (request, replica, env.now))
            else:
                self._arrive((request, replica, env.now))

    def _arrive(self, routed: tuple[Request, Replica, float]) -> None:
        request, replica, routed_s = routed
        first = self._waits(request)
        if first is None or not replica.is_up or first.replica == replica.index:
            return
        second = replica.submit(request)
        second.routed_s = routed_s
        second.blame[REQUEST_ROUTING] = routed_s - request.arrival_s
        second.blame[REQUEST_HOST] = self.service.env.now - routed_s
        self.sent += 1
        self._races[request.request_id] = Race(first, second)
        for copy in (first, second):
            self._at_replica[copy.replica][request.request_id] = copy

    # ---- the end of a race

    def _look(self, here: dict[int, Sequence]) -> Callable[[int], None]:
        """What an engine reports when steps have passed: copies in it may have their first token."""

        def steps_passed(_: int) -> None:
            for number, copy in here.items():
                if copy.first_token_s is not None:
                    self._decide_soon(number)

        return steps_passed

    def _decide_soon(self, number: int) -> None:
        """After everything that ends now."""
        race = self._races[number]
        if not race.is_over:
            race.is_over = True
            at(self.service.env, self.service.env.now, self._decide, ARRIVAL, number)

    def _decide(self, number: int) -> None:
        race = self._races.get(number)
        if race is None:
            return  # its client has cancelled it at this very instant
        self._forget(number)
        wins = race.second if race.first.first_token_s is None else race.first
        self.won += wins is race.second
        self._cancel(race.other(wins))
        self.service.answered_by(wins)

    def _forget(self, number: int) -> None:
        race = self._races.pop(number)
        for copy in (race.first, race.second):
            del self._at_replica[copy.replica][number]

    def _cancel(self, copy: Sequence) -> None:
        if copy.finished_s is None:
            self._losers.add(copy)
            self.service.replicas[copy.replica].abort(copy)

    # ---- what the service asks

    def takes(self, copy: Sequence) -> bool:
        """Whether the end of a sequence is none of its request: a copy that has lost, or whose race is to be
        decided yet.
        """
        if copy in self._losers:
            self._losers.remove(copy)
            self.service.copy_left()
            return True
        race = self._races.get(copy.request.request_id)
        if race is None:
            return False
        self._decide_soon(copy.request.request_id)
        return True

    def withdraw(self, request: Request) -> None:
        """The client has cancelled a request: its second copy goes as well."""
        race = self._races.get(request.request_id)
        if race is not None:
            self._forget(request.request_id)
            self._cancel(race.second)

    def without_copies(self, lost: list[Sequence]) -> list[Sequence]:
        """The sequences of a failed engine whose requests have no copy elsewhere."""
        alone = []
        for sequence in lost:
            number = sequence.request.request_id
            race = self._races.get(number)
            if sequence in self._losers:
                self._losers.remove(sequence)
            elif race is not None and sequence in (race.first, race.second):
                self._forget(number)
                self.won += sequence is race.first
                self.service.answered_by(race.other(sequence))
            else:
                alone.append(sequence)
        return alone
