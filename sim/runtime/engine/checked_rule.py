"""A scheduling rule of a script, and the engine as it may see it: what `EngineView` says, and nothing else.

Every wish and every answer is looked at, so that a rule that grants what is not there ends the run with one
message, and not with wrong numbers. The rules that are shipped are called without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Ordered
from typing import Any, NoReturn, cast

from sim.inputs.errors import InputError, Problem
from sim.policy.scheduling import EngineView, Grants
from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.sequence import Sequence


class CheckedRule:
    """Calls a script's rule with a `CheckedView`, and checks its grants."""

    def __init__(self, rule: Callable[[Any], Any]) -> None:
        self.rule = rule

    @property
    def name(self) -> str:
        return str(getattr(self.rule, "__qualname__", type(self.rule).__qualname__))

    def __call__(self, queue: EngineView[Sequence]) -> Grants[Sequence]:
        view = CheckedView(cast(RequestQueue, queue), self.name)
        return view.checked(self.rule(view))


class CheckedView:
    """What a script's rule may ask of the engine for one step: `sim.policy.scheduling.EngineView`."""

    def __init__(self, queue: RequestQueue, name: str) -> None:
        self._queue = queue
        self._name = name
        self._covered: dict[int, int] = {}  # tokens with blocks from this step, by the id of their sequence

    @property
    def token_budget(self) -> int:
        return self._queue.token_budget

    @property
    def draft_tokens(self) -> int:
        return self._queue.draft_tokens

    @property
    def max_running(self) -> int:
        return self._queue.max_running

    @property
    def running(self) -> Ordered[Sequence]:
        return _Live(self._queue)

    @property
    def requests(self) -> int:
        return self._queue.requests

    def next_waiting(self) -> Sequence | None:
        return self._queue.next_waiting()

    def cached_tokens(self, sequence: Sequence) -> int:
        return self._queue.cached_tokens(sequence)

    def allocate_together(self, max_grants: int, /) -> Grants[Sequence]:
        grants = self._queue.allocate_together(max_grants)
        for sequence, tokens in grants:
            self._covered[id(sequence)] = tokens
        return list(grants)

    def allocate(self, sequence: Sequence, tokens: int) -> bool:
        self._refuse_unless_running(sequence, "allocates blocks to")
        self._refuse_unless_pending(sequence, tokens, sequence.pending_tokens, "allocates blocks for")
        has_room = self._queue.allocate(sequence, tokens)
        if has_room:
            self._covered[id(sequence)] = tokens
        return has_room

    def admit(self, sequence: Sequence, cached_tokens: int, tokens: int) -> bool:
        queue = self._queue
        if sequence is not queue.next_waiting():
            self._refuse(f"admits {_named(sequence)}", "must be what next_waiting() gives")
        if len(queue.running) >= queue.max_running:
            self._refuse(
                f"admits {_named(sequence)} beside {len(queue.running)} that run",
                f"must leave at most max_running = {queue.max_running} running",
            )
        found = queue.cached_tokens(sequence)
        if cached_tokens not in (0, found):
            self._refuse(
                f"admits {_named(sequence)} with cached_tokens = {cached_tokens!r}",
                f"must be 0, or {found} as cached_tokens() says",
            )
        self._refuse_unless_pending(sequence, tokens, sequence.known_tokens - cached_tokens, "admits")
        is_in = queue.admit(sequence, cached_tokens, tokens)
        if is_in:
            self._covered[id(sequence)] = tokens
        return is_in

    def preempt(self, sequence: Sequence) -> None:
        self._refuse_unless_running(sequence, "preempts")
        self._covered.pop(id(sequence), None)
        self._queue.preempt(sequence)

    def checked(self, grants: object) -> Grants[Sequence]:
        """The grants of the rule, every one with blocks, and none twice."""
        if not isinstance(grants, Iterable) or isinstance(grants, str):
            raise self._wrong(f"returned {grants!r}", "must be a list of (sequence, tokens)")
        checked: Grants[Sequence] = []
        seen: set[int] = set()
        for grant in grants:
            if not (isinstance(grant, tuple) and len(grant) == 2 and isinstance(grant[0], Sequence)):
                self._refuse(f"granted {grant!r}", "must be (sequence, tokens)")
            sequence, tokens = grant
            self._refuse_unless_running(sequence, "grants tokens to")
            if id(sequence) in seen:
                self._refuse(f"grants tokens to {_named(sequence)} twice", "must be once a step")
            seen.add(id(sequence))
            covered = self._covered.get(id(sequence), 0)
            if type(tokens) is not int or not 1 <= tokens <= covered:
                self._refuse(
                    f"grants {tokens!r} tokens to {_named(sequence)}",
                    f"must be 1 to {covered}, for which it was given blocks in this step"
                    if covered
                    else "must first get blocks for them, by allocate, allocate_together or admit",
                )
            checked.append((sequence, tokens))
        return checked

    def _refuse_unless_running(self, sequence: Any, does: str) -> None:
        if not any(sequence is one for one in self._queue.running):
            self._refuse(f"{does} {_named(sequence)}", "must be one of running")

    def _refuse_unless_pending(self, sequence: Sequence, tokens: Any, pending: int, does: str) -> None:
        if type(tokens) is not int or not 1 <= tokens <= pending:
            whole = f"must be 1 to {pending}, its pending tokens" if pending else "must wait for its step"
            self._refuse(f"{does} {tokens!r} tokens of {_named(sequence)}", whole)

    def _refuse(self, what: str, right: str) -> NoReturn:
        raise self._wrong(what, right)

    def _wrong(self, what: str, right: str) -> InputError:
        return InputError(Problem(f"{what}: {right}", key="engine.scheduler", value=self._name))


class _Live(Ordered[Sequence]):
    """The running sequences as they are at any moment, to read and not to change."""

    def __init__(self, queue: RequestQueue) -> None:
        self._queue = queue

    def __len__(self) -> int:
        return len(self._queue.running)

    def __getitem__(self, place: Any) -> Any:
        return self._queue.running[place]


def _named(sequence: Any) -> str:
    return f"request {sequence.request.request_id}" if isinstance(sequence, Sequence) else repr(sequence)
