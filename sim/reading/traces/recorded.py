"""A trace in memory: columns in order of arrival, and what was left out on the way there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.inputs.errors import InputError, Problem


@dataclass(frozen=True)
class RecordedTrace:
    """The rows of a trace that can be replayed, in order of arrival, the first one at time zero.

    `arrival_s` is None for a trace of lengths only, and NaN for a later turn of a session, which comes
    `delay_s` after the answer before it. `block_hashes[i]` are ids of prefix blocks of `hash_block_tokens`
    tokens, as in `Request`; `session` is -1 outside sessions. `after` has the session and turn whose answer
    a row follows, where that is not the turn before it. `time_unit` is the file's. `rows` were read,
    `dropped` says for each reason how many of them went; `is_whole` is False where the file goes
    on behind them.
    """

    path: str
    family: str
    source: str
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    arrival_s: NDArray[np.float64] | None = None
    session: NDArray[np.int64] | None = None
    turn: NDArray[np.int64] | None = None
    delay_s: NDArray[np.float64] | None = None
    request_class: tuple[str, ...] | None = None
    model: tuple[str, ...] | None = None
    block_hashes: tuple[tuple[int, ...], ...] | None = None
    hash_block_tokens: int = 0
    rows: int = 0
    dropped: tuple[tuple[str, int], ...] = ()
    out_of_order: int = 0
    is_whole: bool = True
    after: tuple[tuple[int, int] | None, ...] | None = None
    time_unit: str = ""

    def refuse_unknown_answers(self) -> None:
        """InputError where a row does not say how long its answer was, for what needs that."""
        unknown = int((self.output_tokens == 0).sum())
        if unknown:
            what = (
                f"{unknown} of {len(self)} rows have no answer and no output_tokens; write output_tokens: 128"
            )
            raise InputError(Problem(f"{what} (or a distribution) in the workload", self.path))

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @property
    def starts_s(self) -> NDArray[np.float64]:
        """Arrivals that the trace itself times: of all requests, or of the first turns of sessions."""
        if self.arrival_s is None:
            return np.empty(0)
        return self.arrival_s[~np.isnan(self.arrival_s)]

    @property
    def rate_per_s(self) -> float | None:
        """Implied mean rate: gaps over the time they span; None if there are no two arrivals apart."""
        starts = self.starts_s
        span_s = float(starts[-1] - starts[0]) if len(starts) > 1 else 0.0
        return (len(starts) - 1) / span_s if span_s > 0 else None

    def describe(self) -> str:
        """What was detected, kept and dropped, in one line for a person."""
        of = f"{self.rows}" if self.is_whole else f"the first {self.rows}"
        words = [f"{self.path}: {self.family}, {len(self)} of {of} rows"]
        if self.dropped:
            words.append("dropped " + ", ".join(f"{count} ({reason})" for reason, count in self.dropped))
        if self.out_of_order:
            words.append(f"{self.out_of_order} out of order, sorted by arrival")
        return "; ".join([*words, *self._measures()])

    def played(self) -> str:
        """The same of a part, for which the rows that were read and dropped are not counted."""
        return "; ".join([f"{self.path}: {len(self)} rows are played", *self._measures()])

    def _measures(self) -> Iterator[str]:
        if self.time_unit:
            blocks = f", blocks of {self.hash_block_tokens} tokens" if self.block_hashes else ""
            yield f"times in {self.time_unit}{blocks}"
        if self.arrival_s is None:
            yield "lengths only, no arrivals"
        elif self.rate_per_s is not None:
            span_s = float(self.starts_s[-1] - self.starts_s[0])
            yield f"{self.rate_per_s:.4g} arrivals/s over {span_s:.4g} s"
        if len(self):
            mean_in, mean_out = float(self.prompt_tokens.mean()), float(self.output_tokens.mean())
            yield f"mean {mean_in:.4g} tokens in, {mean_out:.4g} out"


def selected(
    trace: RecordedTrace,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    limit: int | None = None,
    speedup: float = 1.0,
) -> RecordedTrace:
    """A part of a trace, played faster: what arrives in `duration_s` of recorded time from `start_s` on, of
    that the first `limit` rows, with all times divided by `speedup`. Later turns go with the first turn of
    their session.

    Time zero of the part is `start_s`; with `start_s` 0 that is the first arrival.
    """
    keep = np.ones(len(trace), dtype=bool)
    arrival_s, delay_s = trace.arrival_s, trace.delay_s
    if arrival_s is not None:
        begun_s = arrival_s
        if trace.session is not None and trace.turn is not None:
            begun_s = _arrival_of_the_session(trace)
        keep &= begun_s >= start_s
        if duration_s is not None:
            keep &= begun_s < start_s + duration_s
        arrival_s = (arrival_s - start_s) / speedup
    if delay_s is not None:
        delay_s = delay_s / speedup
    rows = np.flatnonzero(keep)[:limit]
    taken = replace(trace, arrival_s=arrival_s, delay_s=delay_s)
    return replace(taken, **{name: _taken(getattr(taken, name), rows) for name in _COLUMNS})


_COLUMNS = (
    "prompt_tokens",
    "output_tokens",
    "arrival_s",
    "session",
    "turn",
    "delay_s",
    "request_class",
    "model",
    "block_hashes",
    "after",
)


def _taken(column: Any, rows: NDArray[np.int64]) -> Any:
    if column is None:
        return None
    return tuple(column[row] for row in rows) if isinstance(column, tuple) else column[rows]


def _arrival_of_the_session(trace: RecordedTrace) -> NDArray[np.float64]:
    """When the session of each row began; of a tree of sessions, when its first did."""
    assert trace.arrival_s is not None
    assert trace.session is not None
    first: dict[int, float] = {}
    found = trace.arrival_s.copy()
    for row, (session, at_s) in enumerate(zip(trace.session.tolist(), trace.arrival_s.tolist(), strict=True)):
        if session < 0:
            continue
        if session not in first:
            follows = trace.after[row] if trace.after is not None else None
            first[session] = at_s if follows is None else first.get(follows[0], at_s)
        found[row] = first[session]
    return found
