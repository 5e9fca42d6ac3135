"""The request generator: from a workload and a seed to requests, with their arrivals and lengths.

Every kind is driven the same way. Iterating gives the requests whose arrival does not depend on the service,
in order of arrival. When a request ends, `next_request(request.session, now_s)` gives the one that its user
or session sends next.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from sim.inputs.arrivals import MAX_TURNS, Clients, ClosedLoop, EndlessProcess, Sessions, Trace
from sim.inputs.errors import InfeasibleError, InputError, Problem
from sim.inputs.workload import Workload
from sim.reading.traces import RecordedTrace
from sim.workload.arrival_times import BLOCK, arrival_times
from sim.workload.random_streams import Floats, Ints, lengths_by, random_stream, waits_by
from sim.workload.request import Request
from sim.workload.request_sampler import RequestSampler, played_part, recorded_trace, session_blocks

SESSIONS_PER_BLOCK = 256
"""Sessions drawn at a time: few enough that a short run does not draw thousands of turns it never sends."""


def request_generator(workload: Workload, seed: int) -> RequestGenerator:
    """The generator of a workload. Its requests follow from the seed alone, not from the system that serves
    them.

    >>> every = {"kind": "constant", "rate_per_s": 2}
    >>> three = Workload(arrivals=every, prompt_tokens=57, output_tokens=9, requests=3)
    >>> [(request.request_id, request.arrival_s) for request in request_generator(three, seed=0)]
    [(0, 0.0), (1, 0.5), (2, 1.0)]
    """
    return _GENERATORS.get(workload.arrivals.kind, OpenGenerator)(workload, seed)


MAX_AT_ONCE = 10_000
"""So many requests of a closed loop, beside ten of each user, between two looks at how long they take."""
SHORTEST_STAY_S = 1e-6
"""No request of a service takes less: launching a single kernel takes longer (assumed)."""


class RequestGenerator:
    """Requests in order of arrival, and the requests that follow on answers. Iterating uses it up."""

    closed = False  # whether next_request ever returns a request

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload = workload
        self.seed = seed
        self.sampler = RequestSampler(workload, seed)
        self.until_s = math.inf if workload.duration_s is None else workload.duration_s
        self.max_requests = 1 << 62 if workload.requests is None else workload.requests

    def __iter__(self) -> Iterator[Request]:
        raise NotImplementedError

    def next_request(self, session: int, now_s: float, missing_tokens: int = 0) -> Request | None:
        """The request that the user or session sends after its answer ended at `now_s`; None if there is no
        further one.

        `missing_tokens` of the answer were never generated, because the request was cancelled.
        """
        return None

    def next_requests(self, request: Request, now_s: float, missing_tokens: int = 0) -> Iterable[Request]:
        """All that follow on an answer: the next of its user or session, and what it has started beside."""
        following = self.next_request(request.session, now_s, missing_tokens)
        return () if following is None else (following,)

    @property
    def expected(self) -> int | None:
        """The number of requests at most, where it is known before the run."""
        return self.workload.requests

    @property
    def trace(self) -> RecordedTrace | None:
        """The recorded trace of the arrivals, with its counts of rows read and dropped; None without one."""
        return None

    def _requests(
        self, first_id: int, times_s: list[float], classes: Ints, prompts: Ints, outputs: Ints
    ) -> Iterator[Request]:
        """Requests with these arrivals, classes and lengths, and the next prefixes of the sampler."""
        sampler = self.sampler
        groups = sampler.draw_prefixes(classes) if sampler.prefixes else None
        patience = self._patience(classes)
        names, kinds, models = sampler.names, sampler.classes, sampler.models
        rows = zip(times_s, classes.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
        for offset, (at_s, index, prompt_tokens, output_tokens) in enumerate(rows):
            request = Request(
                first_id + offset,
                at_s,
                prompt_tokens,
                output_tokens,
                request_class=names[index],
                model=models[index],
                priority=kinds[index].priority,
            )
            if patience:
                request.patience_s, request.timeout_s = patience[offset]
            if groups is not None and (group := int(groups[offset])) >= 0:
                prefixes = sampler.prefixes[index]
                request.prompt_tokens += int(prefixes.lengths[group])
                request.block_hashes = prefixes.blocks(group)
                request.hash_block_tokens = prefixes.distribution.block_tokens
            yield request

    def _patience(self, classes: Ints) -> list[tuple[float, float]]:
        """How long the clients of the next requests wait for a first and a last token; empty if all wait for
        ever.
        """
        if not self.sampler.clients_give_up:
            return []
        patience_s, timeout_s = self.sampler.draw_patience(classes)
        return list(zip(patience_s.tolist(), timeout_s.tolist(), strict=True))


class OpenGenerator(RequestGenerator):
    """Arrivals of a process that does not depend on the service."""

    def __iter__(self) -> Iterator[Request]:
        for made, times_s, classes, prompts, outputs in self.blocks():
            yield from self._requests(made, times_s.tolist(), classes, prompts, outputs)

    def fresh(self) -> OpenGenerator:
        """Another one of the same requests, from the first on."""
        return OpenGenerator(self.workload, self.seed)

    def blocks(self) -> Iterator[tuple[int, Floats, Ints, Ints, Ints]]:
        """How many came before, and the arrivals, classes, prompts and answers of the next requests."""
        assert not isinstance(self.workload.arrivals, Clients | ClosedLoop | Sessions | Trace)
        made = 0
        for block in arrival_times(self.workload.arrivals, self.seed):
            times_s = block[: self.max_requests - made]
            times_s = times_s[: int(np.searchsorted(times_s, self.until_s))]
            # Whole blocks are drawn even where few are used: the first requests of a run must not depend on
            # how many follow, in whatever way a distribution fills a vector.
            classes = self.sampler.draw_classes(BLOCK)
            prompts, outputs = self.sampler.draw_lengths(classes)
            n = len(times_s)
            yield made, times_s, classes[:n], prompts[:n], outputs[:n]
            made += n
            if n < len(block) or made >= self.max_requests:
                return


class ClientsGenerator(RequestGenerator):
    """Clients that send each by a process of their own, one after the other in order of arrival."""

    def __iter__(self) -> Iterator[Request]:
        arrivals = self.workload.arrivals
        assert isinstance(arrivals, Clients)
        number = {name: index for index, name in enumerate(self.sampler.names)}
        merged = heapq.merge(
            *(self._times(process, name, number[name]) for name, process in arrivals.clients.items())
        )
        made = 0
        while block := list(itertools.islice(merged, BLOCK)):
            times_s, classes = [at_s for at_s, _ in block], np.array([index for _, index in block])
            prompts, outputs = self.sampler.draw_lengths(classes)
            n = bisect.bisect_left(times_s[: self.max_requests - made], self.until_s)
            yield from self._requests(made, times_s[:n], classes[:n], prompts[:n], outputs[:n])
            made += n
            if n < len(block) or made >= self.max_requests:
                return

    def _times(self, process: EndlessProcess, name: str, index: int) -> Iterator[tuple[float, int]]:
        for block in arrival_times(process, self.seed, name):
            yield from ((at_s, index) for at_s in block.tolist())


class ClosedLoopGenerator(RequestGenerator):
    """A fixed number of users, each of which waits for its answer, thinks, and sends again.

    The i-th request sent has the i-th lengths, whichever user sends it: two systems that are compared do the
    same work in the same order, at different times.
    """

    closed = True

    def __init__(self, workload: Workload, seed: int) -> None:
        super().__init__(workload, seed)
        assert isinstance(workload.arrivals, ClosedLoop)
        self.loop = workload.arrivals
        self._turns = [0] * self.loop.users
        self._since_s, self._ended = 0.0, 0
        self._made = 0
        self._draw_think_s = waits_by(self.loop.think_time_s, random_stream(seed, "think_time"))
        self._think_s: deque[float] = deque()
        self._unsent: Iterator[Request] = iter(())

    def __iter__(self) -> Iterator[Request]:
        users = self.loop.users
        for user in range(min(users, self.max_requests)):
            at_s = self.loop.ramp_s * user / users
            if at_s >= self.until_s:
                return
            yield self._send(user, at_s)

    def next_request(self, session: int, now_s: float, missing_tokens: int = 0) -> Request | None:
        """The next request of user `session`, whose think time begins at `now_s`."""
        if self._made >= self.max_requests:
            return None
        if not self._think_s:
            self._think_s.extend(self._draw_think_s(BLOCK).tolist())
        at_s = now_s + self._think_s.popleft()
        self._refuse_to_stand_still(now_s)
        return self._send(session, at_s) if at_s < self.until_s else None

    def _refuse_to_stand_still(self, now_s: float) -> None:
        """InfeasibleError where users send again and again and (nearly) no time passes: each request ends as
        it comes.
        """
        self._ended += 1
        if self._ended <= 10 * self.loop.users + MAX_AT_ONCE:
            return
        stay_s = self.loop.users * (now_s - self._since_s) / self._ended
        if stay_s < SHORTEST_STAY_S:
            raise InfeasibleError(
                f"the closed loop never leaves {now_s:g} s: {self._ended} requests in a row ended as they "
                f"came or {stay_s:.2g} s later (rejected as longer than max_model_len or the KV cache, "
                "cancelled by a patience_s or timeout_s, or served by steps that take no time)",
                "write what ends them longer, or a think_time_s above 0",
            )
        self._since_s, self._ended = now_s, 0

    def _send(self, user: int, at_s: float) -> Request:
        request = next(self._unsent, None)
        if request is None:
            classes = self.sampler.draw_classes(BLOCK)
            prompts, outputs = self.sampler.draw_lengths(classes)
            self._unsent = self._requests(self._made, [0.0] * BLOCK, classes, prompts, outputs)
            request = next(self._unsent)
        request.arrival_s, request.session, request.turn = at_s, user, self._turns[user]
        self._turns[user] += 1
        self._made += 1
        return request


class _Session(NamedTuple):
    """One session as drawn: when it starts, and of each turn its new tokens, the delay before it and the
    patience of its client.
    """

    start_s: float
    class_index: int
    prefix_group: int  # -1 is none
    lengths: list[tuple[int, int]]
    delays_s: list[float]
    patience: list[tuple[float, float]]


class _Turns:
    """Later turns of one session. A turn gets the hashes of its blocks when it is sent: those of all turns
    at once are as many as the square of the turns.
    """

    __slots__ = ("missing_tokens", "shared", "waiting")

    def __init__(self, delays_s: list[float], requests: list[Request], shared: tuple[int, ...]) -> None:
        self.waiting = deque(zip(delays_s, requests, strict=False))
        self.shared = shared
        self.missing_tokens = 0  # of earlier answers, which were cut short

    def next_request(self, session: int, now_s: float) -> Request:
        delay_s, request = self.waiting.popleft()
        last = request.total_tokens // request.hash_block_tokens
        request.block_hashes = self.shared + session_blocks(session, len(self.shared), last)
        request.prompt_tokens -= self.missing_tokens
        request.arrival_s = now_s + delay_s
        return request


class SessionGenerator(RequestGenerator):
    """Conversations in which every prompt begins with the whole conversation before it.

    A session is drawn whole when it starts, so that its turns, lengths and delays, and the ids of its
    requests, do not depend on how it is served.
    """

    closed = True

    def __init__(self, workload: Workload, seed: int) -> None:
        super().__init__(workload, seed)
        assert isinstance(workload.arrivals, Sessions)
        self.sessions = workload.arrivals
        self._waiting: dict[int, _Turns] = {}  # turns to come

    def __iter__(self) -> Iterator[Request]:
        made = 0
        for number, session in enumerate(self._sessions()):
            if session.start_s >= self.until_s or made >= self.max_requests:
                return
            first, *later = self._turns(number, session, made, self.max_requests - made)
            made += 1 + len(later)
            first.arrival_s = session.start_s
            if later:
                self._waiting[number] = _Turns(
                    session.delays_s[1:], later, first.block_hashes[: self._shared]
                )
            yield first

    def next_request(self, session: int, now_s: float, missing_tokens: int = 0) -> Request | None:
        """The next turn of a session whose last answer ended at `now_s`. Its prompt holds only what was
        generated of that answer.
        """
        turns = self._waiting.get(session)
        if turns is None:
            return None
        turns.missing_tokens += missing_tokens
        request = turns.next_request(session, now_s)
        if not turns.waiting or request.arrival_s >= self.until_s:
            del self._waiting[session]
        return request if request.arrival_s < self.until_s else None

    def _sessions(self) -> Iterator[_Session]:
        """All sessions in order of their start, drawn in blocks."""
        sampler = self.sampler
        draw_turns = lengths_by(self.sessions.turns, random_stream(self.seed, "turns"))
        draw_delays = waits_by(self.sessions.tool_delay_s, random_stream(self.seed, "tool_delay"))
        for block in arrival_times(self.sessions.starts, self.seed):
            for begin in range(0, len(block), SESSIONS_PER_BLOCK):
                starts_s = block[begin : begin + SESSIONS_PER_BLOCK]
                turns = np.minimum(draw_turns(len(starts_s)), MAX_TURNS)
                classes = sampler.draw_classes(len(starts_s))
                groups = sampler.draw_prefixes(classes)
                # Everything of a turn is one flat array over the block's turns, session after session.
                class_of_turn = np.repeat(classes, turns)
                prompts, outputs = sampler.draw_lengths(class_of_turn)
                lengths = list(zip(prompts.tolist(), outputs.tolist(), strict=True))
                patience = self._patience(class_of_turn)
                delays_s = draw_delays(len(lengths)).tolist()
                end = 0
                rows = zip(starts_s.tolist(), classes.tolist(), groups.tolist(), turns.tolist(), strict=True)
                for start_s, index, group, n in rows:
                    of, end = slice(end, end + n), end + n
                    yield _Session(start_s, index, group, lengths[of], delays_s[of], patience[of])

    def _turns(self, number: int, session: _Session, first_id: int, most: int) -> list[Request]:
        """The first requests of a session, `most` at most, up to the one that would outgrow the longest
        context.
        """
        sampler, index = self.sampler, session.class_index
        block_tokens, context_tokens = self.sessions.block_tokens, 0
        shared: tuple[int, ...] = ()
        blocks: tuple[int, ...]
        if session.prefix_group >= 0:
            prefixes = sampler.prefixes[index]
            context_tokens = int(prefixes.lengths[session.prefix_group])
            block_tokens = prefixes.distribution.block_tokens
            shared = prefixes.blocks(session.prefix_group)
        max_context_tokens = self.sessions.max_context_tokens or math.inf
        requests: list[Request] = []
        for turn, (prompt_tokens, output_tokens) in enumerate(session.lengths[:most]):
            prompt_tokens += context_tokens
            context_tokens = prompt_tokens + output_tokens
            if turn and context_tokens > max_context_tokens:
                break
            blocks = (
                () if turn else shared + session_blocks(number, len(shared), context_tokens // block_tokens)
            )
            request = Request(
                first_id + turn,
                0.0,
                prompt_tokens,
                output_tokens,
                blocks,
                block_tokens,
                number,
                turn,
                sampler.names[index],
                sampler.models[index],
                sampler.classes[index].priority,
            )
            if session.patience:
                request.patience_s, request.timeout_s = session.patience[turn]
            requests.append(request)
        self._shared = len(shared)
        return requests


class TraceGenerator(RequestGenerator):
    """A recorded trace played again: its arrivals, and lengths, classes, models and shared blocks where it
    has them.

    Lengths that the workload gives replace the trace's, and with them its shared blocks. Classes are the
    trace's own if it has a column for them, else drawn.
    """

    def __init__(self, workload: Workload, seed: int) -> None:
        super().__init__(workload, seed)
        assert isinstance(workload.arrivals, Trace)
        arrivals = workload.arrivals
        whole = recorded_trace(arrivals)
        if whole.arrival_s is None:
            raise InputError(
                Problem(
                    f"{whole.family} has lengths only, no arrivals; use it for prompt and output tokens, "
                    "as in {kind: trace, path: ...}, with another kind of arrivals",
                    whole.path,
                )
            )
        self._trace = played_part(arrivals)
        if self._trace.block_hashes is not None and self.sampler.prefixes:
            raise InputError(Problem("the trace has shared blocks of its own; leave out prefix", whole.path))
        own = [kind.output_tokens or workload.output_tokens for kind in self.sampler.classes]
        if not all(own):
            self._trace.refuse_unknown_answers()
        self.closed = self._trace.session is not None
        self._waiting: dict[int, deque[tuple[float, Request]]] = {}  # turns to come, with their delays
        self._after: dict[tuple[int, int], list[tuple[float, Request]]] = {}  # the same of trees of sessions

    @property
    def trace(self) -> RecordedTrace:
        """The part of the trace that is played."""
        return self._trace

    @property
    def expected(self) -> int:
        """Rows that are played."""
        return min(len(self._trace), self.max_requests)

    def __iter__(self) -> Iterator[Request]:
        if self._trace.session is None:
            yield from (request for request in self._rows() if request.arrival_s < self.until_s)
            return
        firsts = []
        delays_s = self._trace.delay_s if self._trace.delay_s is not None else np.zeros(len(self._trace))
        after = self._trace.after
        for row, (request, delay_s) in enumerate(zip(self._rows(), delays_s.tolist(), strict=False)):
            if after is not None and math.isnan(request.arrival_s):
                follows = after[row] or (request.session, request.turn - 1)
                self._after.setdefault(follows, []).append((delay_s, request))
            elif request.turn and after is None:
                self._waiting.setdefault(request.session, deque()).append((delay_s, request))
            elif request.arrival_s < self.until_s:
                firsts.append(request)
        yield from firsts

    def next_request(self, session: int, now_s: float, missing_tokens: int = 0) -> Request | None:
        """The next turn of a recorded session whose last answer ended at `now_s`."""
        waiting = self._waiting.get(session)
        if not waiting:
            return None
        delay_s, request = waiting.popleft()
        request.arrival_s = now_s + delay_s
        return request if request.arrival_s < self.until_s else None

    def next_requests(self, request: Request, now_s: float, missing_tokens: int = 0) -> Iterable[Request]:
        """What follows on an answer: the next turn, and of a tree every session that it has started."""
        if self._trace.after is None:
            return super().next_requests(request, now_s, missing_tokens)
        found = []
        for delay_s, following in self._after.pop((request.session, request.turn), ()):
            following.arrival_s = now_s + delay_s
            if following.arrival_s < self.until_s:
                found.append(following)
        return found

    def _rows(self) -> Iterator[Request]:
        trace, sampler, workload = self._trace, self.sampler, self.workload
        assert trace.arrival_s is not None
        n = self.expected
        if trace.request_class is None:
            classes = sampler.draw_classes(n)
        else:
            number = {name: index for index, name in enumerate(sampler.names)}
            classes = np.array([number.get(name, -1) for name in trace.request_class[:n]], dtype=np.int64)
        # The sampler gives 0 where the workload has no distribution of its own; the trace fills those in, and
        # its shared blocks are kept only for rows whose text is the recorded one.
        prompts, outputs = sampler.draw_lengths(classes)
        recorded = (prompts == 0) & (outputs == 0)
        prompts = np.where(prompts > 0, prompts, trace.prompt_tokens[:n])
        outputs = np.where(outputs > 0, outputs, trace.output_tokens[:n])
        rows = self._requests(0, trace.arrival_s[:n].tolist(), classes, prompts, outputs)
        assert isinstance(workload.arrivals, Trace)
        cache_bust = workload.arrivals.cache_bust
        own: dict[tuple[int, int], int] = {}
        roots = _roots(trace) if cache_bust == "session" else []
        for row, request in enumerate(rows):
            if trace.request_class is not None:
                request.request_class = trace.request_class[row]
                if classes[row] < 0:  # a class that only the trace has
                    request.model, request.priority = workload.model, 0
            if trace.model is not None and trace.model[row]:
                request.model = trace.model[row]
            if trace.block_hashes is not None and recorded[row] and cache_bust != "request":
                request.block_hashes = trace.block_hashes[row]
                if cache_bust == "session":
                    # A prefix that differs from session to session stands before all that they share.
                    request.block_hashes = tuple(
                        own.setdefault((roots[row], block), len(own)) for block in request.block_hashes
                    )
                request.hash_block_tokens = trace.hash_block_tokens
                if len(request.block_hashes) == -(-request.prompt_tokens // trace.hash_block_tokens):
                    # as many as cover the prompt, the last one perhaps partly: it ends with the prompt
                    request.hashed_tokens = request.prompt_tokens
            if trace.session is not None and trace.turn is not None:
                request.session, request.turn = int(trace.session[row]), int(trace.turn[row])
            yield request


def _roots(trace: RecordedTrace) -> list[int]:
    """For each row the session that its tree began with; below zero, its own, for rows outside sessions."""
    if trace.session is None:
        return [-1 - row for row in range(len(trace))]
    root: dict[int, int] = {}
    for row, session in enumerate(trace.session.tolist()):
        follows = trace.after[row] if trace.after is not None else None
        if session not in root:
            root[session] = session if follows is None else root.get(follows[0], session)
    return [root[session] if session >= 0 else -1 - row for row, session in enumerate(trace.session.tolist())]


_GENERATORS: dict[str, type[RequestGenerator]] = {
    "clients": ClientsGenerator,
    "closed_loop": ClosedLoopGenerator,
    "sessions": SessionGenerator,
    "trace": TraceGenerator,
}
