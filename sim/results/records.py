"""The rows of a run: one per request, per span of evenly growing steps, per group of gaps between tokens.

Memory grows with requests and with changes of the batch, not with tokens: while a batch stays the same its
step times grow by a constant (the KV cache grows by one token per sequence), and such a span is one row with
its first and last duration. Which steps share a row follows from the steps alone: each is taken into the open
row while it continues that row's line. So a run that adds whole spans leaves the same rows as a run that adds
single steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sim.results.columns import Kind, Table

if TYPE_CHECKING:
    import polars

Status = Literal["finished", "unfinished", "rejected", "aborted"]

LINE_TOLERANCE = 1e-6
"""Relative difference up to which a step continues the line of its row. Step times bend a little as contexts
grow: within a row of n steps, durations are then off by some 0.4 n of this, and their sum is exact.
"""
CLOCK_ULPS = 8
"""Units in the last place of the clock's reading by which a duration taken from it may be off."""
OPEN_ROWS = 64
"""Rows of one stage that are open at a time: more than a pipeline has batches in flight."""

LINK_COLUMNS: dict[str, Kind] = {
    "link": "text",
    "bytes_per_s": "number",
    "n_bytes": "number",
    "busy_s": "number",
    "shared_s": "number",
}
KV_TIER_COLUMNS: dict[str, Kind] = {
    "replica": "count",
    "model": "text",
    "tier": "text",
    "capacity_bytes": "number",
    "held_bytes": "number",
    "peak_bytes": "number",
    "asked_tokens": "count",
    "hit_tokens": "count",
    "hit_rate": "number",
    "reloaded_bytes": "number",
    "stored_bytes": "number",
    "evicted_bytes": "number",
    "lost_bytes": "number",
}
GPU_COLUMNS: dict[str, Kind] = {
    "gpu": "text",
    "model": "text",
    "replica": "count",
    "stage": "count",
    "busy_s": "number",
}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class RequestRecords(Table):
    """One row per request, written when it ends or when the run does; shown by request_id.

    Times are simulated seconds, NaN for what never happened. `output_tokens` were asked for,
    `generated_tokens` generated; `cached_tokens` of the prompt were found in the KV cache when the request
    was first admitted. `routed_s` is when a replica was chosen, `admitted_s` when it was first scheduled.
    `aborted_s` is when a request left the engine that its client had cancelled or whose replica had failed; a
    batch lets it go at the end of a step. A first token after the cancellation is not a `first_token_s`.
    `resubmissions` counts the replicas that failed while they had it.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "request_id": "count",
                "request_class": "text",
                "session": "count",
                "turn": "count",
                "model": "text",
                "replica": "count",
                "arrival_s": "number",
                "routed_s": "number",
                "admitted_s": "number",
                "first_token_s": "number",
                "finished_s": "number",
                "prompt_tokens": "count",
                "output_tokens": "count",
                "generated_tokens": "count",
                "cached_tokens": "count",
                "preemptions": "count",
                "status": "text",
                "aborted_s": "number",
                "resubmissions": "count",
            }
        )

    def add(
        self,
        request_id: int,
        arrival_s: float,
        prompt_tokens: int,
        output_tokens: int,
        *,
        status: Status = "finished",
        generated_tokens: int | None = None,
        routed_s: float = math.nan,
        admitted_s: float = math.nan,
        first_token_s: float = math.nan,
        finished_s: float = math.nan,
        cached_tokens: int = 0,
        preemptions: int = 0,
        aborted_s: float = math.nan,
        resubmissions: int = 0,
        replica: int = -1,
        request_class: str = "",
        model: str = "",
        session: int = -1,
        turn: int = 0,
    ) -> None:
        """One request. `generated_tokens` is by default `output_tokens` if it finished, else 0."""
        if generated_tokens is None:
            generated_tokens = output_tokens if status == "finished" else 0
        self.append(
            request_id,
            request_class,
            session,
            turn,
            model,
            replica,
            arrival_s,
            routed_s,
            admitted_s,
            first_token_s,
            finished_s,
            prompt_tokens,
            output_tokens,
            generated_tokens,
            cached_tokens,
            preemptions,
            status,
            aborted_s,
            resubmissions,
        )

    def order(self) -> NDArray[np.int64]:
        """By request_id: the order in which requests of one instant ended must not show."""
        return np.argsort(self["request_id"], kind="stable")


class StepRecords(Table):
    """One row per span of steps of one pipeline stage with one batch and evenly growing durations.

    `steps` steps from `start_s` to `end_s`, the first lasting `first_step_s`, the last `last_step_s`, the
    others evenly between. They follow each other without a pause, except where the batch passes other stages
    between them: `idle_s` of the span are such pauses, which grow evenly too. `prefill_tokens`,
    `decode_tokens` and `sequences` are per step; `kv_tokens` is the KV cache of the batch in tokens before
    the first step, and grows by `decode_tokens` per step. `gaps` is the number of sequences per step for
    which the step's duration is the time since their last token. Shown by replica, stage and start.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "replica": "count",
                "stage": "count",
                "start_s": "number",
                "end_s": "number",
                "steps": "count",
                "sequences": "count",
                "prefill_tokens": "count",
                "decode_tokens": "count",
                "gaps": "count",
                "kv_tokens": "count",
                "first_step_s": "number",
                "last_step_s": "number",
                "idle_s": "number",
            }
        )
        self._open: dict[tuple[int, int], dict[int, _OpenSpan]] = {}  # (replica, stage) -> by batch_id
        self._steps, self._end_s = self.columns["steps"], self.columns["end_s"]
        self._gaps, self._idle_s = self.columns["gaps"], self.columns["idle_s"]
        self._first_s, self._last_s = self.columns["first_step_s"], self.columns["last_step_s"]

    def add_steps(
        self,
        replica: int,
        start_s: float | NDArray[np.float64],
        ends_s: NDArray[np.float64] | list[float],
        sequences: int,
        prefill_tokens: int,
        decode_tokens: int,
        *,
        batch_id: int,
        stage: int = 0,
        kv_tokens: float = 0,
        kv_growth: float | None = None,
        gaps: int | None = None,
    ) -> None:
        """Steps of one batch, ending at `ends_s`, shape [steps]: one after the other from `start_s` on, or,
        where that is an array, each from its own start.

        Args:
            replica, stage: where the steps were computed.
            sequences, prefill_tokens, decode_tokens: of each step.
            batch_id: changes whenever the batch does (its sequences, or the tokens that each computes).
            kv_tokens: KV cache of the batch before the first step.
            kv_growth: tokens by which it grows per step; by default one per decode token.
            gaps: sequences for which a step's duration is the time since their last token. By default all
                decode tokens, which is right on one stage that never pauses between the steps of a sequence.
                The other gaps are written to `GapRecords`. Only with `gaps=0` may a row have pauses in it.

        Steps are taken one by one: each continues the batch's open row if it lies on that row's line, else it
        opens a row. So the rows do not depend on how many calls the steps come in.
        """
        gaps = decode_tokens if gaps is None else gaps
        growth = decode_tokens if kv_growth is None else kv_growth
        batch = replica, stage, sequences, prefill_tokens, decode_tokens, gaps
        spans = self._open.setdefault((replica, stage), {})
        span = spans.get(batch_id)
        if span is None and len(spans) == OPEN_ROWS:
            del spans[next(iter(spans))]  # the one opened first: its batch has most likely left
        if not isinstance(start_s, np.ndarray) and span is None and len(ends_s) == 1:
            # The most frequent case needs no arrays.
            end_s = ends_s[0]
            seconds_s = end_s - start_s
            spans[batch_id] = self._open_row(batch, start_s, kv_tokens, 1, seconds_s, end_s, seconds_s)
            return
        ends_s = np.asarray(ends_s)
        n = len(ends_s)
        pauses = isinstance(start_s, np.ndarray)
        if isinstance(start_s, np.ndarray):
            starts_s = start_s
        else:
            starts_s = np.empty(n)
            starts_s[0], starts_s[1:] = start_s, ends_s[:-1]
        seconds = ends_s - starts_s
        done = 0
        if span is not None and self._gaps[span.row] == gaps:
            done = self._continue(span, starts_s, ends_s, seconds)
        while done < n:
            first = last = done
            if not pauses and done + 1 < n:
                last += _steps_that_follow(ends_s[done + 1 :], seconds[done:])
            span = spans[batch_id] = self._open_row(
                batch, starts_s[first], kv_tokens + first * growth,
                last - first + 1, seconds[first], ends_s[last], seconds[last],
            )  # fmt: skip
            done = last + 1
            if pauses and done < n:
                done += self._continue(span, starts_s[done:], ends_s[done:], seconds[done:])

    def _open_row(
        self, batch: tuple[int, int, int, int, int, int], start_s: float, kv_tokens: float,
        steps: int, first_s: float, end_s: float, last_s: float,
    ) -> _OpenSpan:  # fmt: skip
        """A new row of steps that follow each other without a pause, the first of them of `first_s`, the last
        of `last_s`; `batch` is (replica, stage, sequences, prefill, decode tokens, gaps).
        """
        span = _OpenSpan(len(self))
        replica, stage, sequences, prefill_tokens, decode_tokens, gaps = batch
        self.append(
            replica, stage, start_s, end_s, steps, sequences, prefill_tokens, decode_tokens, gaps,
            round(kv_tokens), first_s, last_s, 0.0,
        )  # fmt: skip
        return span

    def _continue(self, span: _OpenSpan, starts_s: Floats, ends_s: Floats, seconds: Floats) -> int:
        """Take steps onto a row while each lies on the line through the row's first and last step, and while
        the pauses before them lie on a line too; the number taken.
        """
        row = span.row
        steps, first_s, last_s, end_s = (
            self._steps[row], self._first_s[row], self._last_s[row], self._end_s[row]
        )  # fmt: skip
        pauses = starts_s - np.concatenate(((end_s,), ends_s[:-1]))
        # A duration is a difference of two instants, so its rounding error grows with the clock's reading and
        # not with the duration.
        slack_s = LINE_TOLERANCE * np.abs(seconds) + CLOCK_ULPS * np.spacing(ends_s)
        taken = _on_line(steps, first_s, last_s, seconds, slack_s)
        if self._gaps[row]:
            # The row's durations stand for times between tokens: a pause, however regular, would be lost.
            paused = np.abs(pauses) > slack_s
            taken = min(taken, int(np.argmax(paused)) if paused.any() else taken)
        elif taken:
            # The first step of a row has no pause before it: a row of n steps has a line of n - 1 pauses.
            slack_s = slack_s[:taken] + LINE_TOLERANCE * np.abs(pauses[:taken])
            taken = _on_line(steps - 1, span.first_pause_s, span.last_pause_s, pauses[:taken], slack_s)
        if taken:
            if steps == 1:
                span.first_pause_s = float(pauses[0])
            span.last_pause_s = float(pauses[taken - 1])
            self._idle_s[row] += float(pauses[:taken].sum()) if not self._gaps[row] else 0.0
            self._steps[row] = steps + taken
            self._end_s[row] = float(ends_s[taken - 1])
            self._last_s[row] = float(seconds[taken - 1])
        return taken

    def order(self) -> NDArray[np.int64]:
        """By replica, stage and start: the order of appending depends on how spans were grouped."""
        return np.lexsort((self["start_s"], self["stage"], self["replica"]))


@dataclass(slots=True)
class _OpenSpan:
    """A row that may still grow, with its first and its last pause between two steps."""

    row: int
    first_pause_s: float = 0.0
    last_pause_s: float = 0.0


def _on_line(count: int, first: float, last: float, values: Floats, slack: Floats) -> int:
    """How many of `values`, from the first on, continue a line of `count` values from `first` to `last`.

    A line of no value or of one is continued by any value: two points are always on a line. Each value is
    held against the one just before it and the slope from the first up to there, never against a fitted line:
    whether it is taken must not depend on values behind it, or rows would depend on how steps were grouped.

    >>> _on_line(3, 1.0, 1.2, np.array([1.3, 1.4, 1.6]), np.full(3, 1e-9))
    2
    """
    if not count:
        first = last = float(values[0])
        return 1 + (_on_line(1, first, last, values[1:], slack[1:]) if len(values) > 1 else 0)
    if len(values) == 1:
        return int(count == 1 or abs(last + (last - first) / (count - 1) - values[0]) <= slack[0])
    before = np.concatenate(((last,), values[:-1]))
    gone = np.arange(count - 1, count - 1 + len(values), dtype=np.float64)
    off = np.abs(before + (before - first) / np.maximum(gone, 1.0) - values) > slack
    if count == 1:
        off[0] = False
    return int(np.argmax(off)) if off.any() else len(values)


def _steps_that_follow(ends_s: Floats, seconds: Floats) -> int:
    """How many steps that end at `ends_s` continue a row of one step, the first of `seconds`, which they
    follow without a pause: `_on_line` with a count of 1.

    A fresh row has no history: its line is that of `seconds` alone, with nothing to concatenate. This is the
    bulk of all folded steps.
    """
    before, values = seconds[:-1], seconds[1:]
    slack = LINE_TOLERANCE * values + CLOCK_ULPS * np.spacing(ends_s)
    off = np.abs(before + (before - seconds[0]) / _counts(len(before)) - values) > slack
    off[0] = False
    first = int(off.argmax())
    return first if off[first] else len(off)


@cache
def _room(power: int) -> Floats:
    """1, 1, 2, 3 ...: the number of steps up to each, as a divisor; arrays by powers of two, made once."""
    return np.maximum(np.arange(1 << power, dtype=np.float64), 1.0)


def _counts(n: int) -> Floats:
    return _room(n.bit_length())[:n]


class GapRecords(Table):
    """Times between tokens that are not the duration of a step: after a preemption, a pause, across
    pipeline stages.

    One row is `sequences` x `gaps` of them: per sequence the first ends at `at_s` and lasts `first_gap_s`,
    the last lasts `last_gap_s`, the others evenly between. Shown by replica and time.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "replica": "count",
                "at_s": "number",
                "sequences": "count",
                "gaps": "count",
                "first_gap_s": "number",
                "last_gap_s": "number",
            }
        )
        self._open: dict[int, dict[int, int]] = {}  # replica -> row by batch_id
        self._gaps = self.columns["gaps"]
        self._first_s, self._last_s = self.columns["first_gap_s"], self.columns["last_gap_s"]

    def add_gaps(
        self,
        replica: int,
        sequences: int,
        n_gaps: int,
        first_gap_s: float,
        last_gap_s: float,
        *,
        at_s: float,
        batch_id: int = -1,
    ) -> None:
        """`n_gaps` consecutive gaps of each of `sequences` sequences; the first of them ends at `at_s`.

        With a `batch_id` they are added to the batch's open row if they continue its line.
        """
        rows = self._open.setdefault(replica, {})
        row = rows.get(batch_id) if batch_id >= 0 else None
        if row is not None and self.columns["sequences"][row] == sequences:
            taken = steps_that_continue(
                self._gaps[row],
                self._first_s[row],
                self._last_s[row],
                n_gaps,
                first_gap_s,
                last_gap_s,
                CLOCK_ULPS * math.ulp(at_s),
            )
            if taken == n_gaps:
                self._gaps[row] += n_gaps
                self._last_s[row] = last_gap_s
                return
            if taken == 1:
                self._gaps[row] += 1
                self._last_s[row] = first_gap_s
                first_gap_s += (last_gap_s - first_gap_s) / (n_gaps - 1)
                at_s += first_gap_s
                n_gaps -= 1
        if batch_id >= 0:
            if batch_id not in rows and len(rows) == OPEN_ROWS:
                del rows[next(iter(rows))]
            rows[batch_id] = len(self)
        self.append(replica, at_s, sequences, n_gaps, first_gap_s, last_gap_s)

    def order(self) -> NDArray[np.int64]:
        """By replica and time."""
        return np.lexsort((self["at_s"], self["replica"]))


class KvBlockRecords(Table):
    """KV blocks of each scheduler (`rank` of a replica with data-parallel attention) that sequences hold.

    A row is an instant at which sequences came, went or computed a part of a prompt: `before` and `blocks`
    are the blocks in use just before and after. From the `blocks` of one row to `before` of the next the
    decodes grow, a token a step each, so that a straight line is right to within a block per sequence. A
    prefix that only the cache keeps is not in use. Shown by replica, rank and time, with the blocks that
    there are (`of_blocks`) and their size in tokens.
    """

    def __init__(self) -> None:
        super().__init__(
            {"replica": "count", "rank": "count", "at_s": "number", "before": "count", "blocks": "count"}
        )
        # (replica, rank) -> blocks, tokens of each, and how many hold the same tokens of different layers
        self.pools: dict[tuple[int, int], tuple[int, int, int]] = {}
        self._last: dict[tuple[int, int], int] = {}  # its last row
        self._at_s, self._blocks = self.columns["at_s"], self.columns["blocks"]

    def open(self, replica: int, rank: int, of_blocks: int, block_size: int, groups: int = 1) -> None:
        """A scheduler with all of its blocks free."""
        self.pools[replica, rank] = of_blocks, block_size, groups
        self._last[replica, rank] = len(self)
        self.append(replica, rank, 0.0, 0, 0)

    def add(self, replica: int, rank: int, at_s: float, before: int, blocks: int) -> None:
        """A change; several of one instant are one."""
        pool = replica, rank
        last = self._last[pool]
        if self._at_s[last] == at_s:
            self._blocks[last] = blocks
        elif before != blocks or before != self._blocks[last]:
            self._last[pool] = len(self)
            self.append(replica, rank, at_s, before, blocks)

    def one_by_one(self, replica: int, rank: int, start_s: Floats, end_s: Floats, blocks: Ints) -> None:
        """The changes of a scheduler whose sequences hold their blocks one after the other."""
        if not len(blocks):
            return
        last = self._last[replica, rank]
        follows = np.concatenate((start_s[1:] == end_s[:-1], (False,)))  # the next begins as this one ends
        after = np.where(follows, np.concatenate((blocks[1:], (0,))), 0)
        begins = ~np.concatenate(((False,), follows[:-1]))
        if start_s[0] == self._at_s[last]:  # several changes of one instant are one
            self._blocks[last] = int(blocks[0])
            begins[0] = False
        zeros = np.zeros(len(blocks), dtype=np.int64)
        pairs = {
            "replica": (zeros + replica, zeros + replica),
            "rank": (zeros + rank, zeros + rank),
            "at_s": (start_s, end_s),
            "before": (zeros, blocks),
            "blocks": (blocks, after),
        }
        kept = np.stack((begins, np.ones(len(blocks), dtype=np.bool_)), axis=1).ravel()
        self.extend({name: np.stack(pair, axis=1).ravel()[kept] for name, pair in pairs.items()})
        self._last[replica, rank] = len(self) - 1

    def order(self) -> NDArray[np.int64]:
        """By replica, rank and time."""
        return np.lexsort((self["at_s"], self["rank"], self["replica"]))

    def frame(self) -> polars.DataFrame:
        import polars

        frame = super().frame()
        sizes = [self.pools[pool] for pool in frame.select("replica", "rank").iter_rows()]
        columns = {
            name: polars.Series([size[i] for size in sizes], dtype=polars.Int64)
            for i, name in enumerate(("of_blocks", "block_size"))
        }
        return frame.with_columns(**columns)


class HandOverRecords(Table):
    """One row per KV transfer from a prefill to a decode replica: when the prefill ended, when blocks were
    reserved for it, when all of it had arrived, and the KV bytes of the prompt.

    Shown by request_id.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "request_id": "count",
                "sender": "count",
                "receiver": "count",
                "prefilled_s": "number",
                "reserved_s": "number",
                "arrived_s": "number",
                "n_bytes": "number",
            }
        )

    def order(self) -> NDArray[np.int64]:
        return np.argsort(self["request_id"], kind="stable")


@dataclass
class Records:
    """All rows of one run. `end_s` is when it stopped: later than the last row at a time limit."""

    requests: RequestRecords = field(default_factory=RequestRecords)
    steps: StepRecords = field(default_factory=StepRecords)
    gaps: GapRecords = field(default_factory=GapRecords)
    hand_overs: HandOverRecords = field(default_factory=HandOverRecords)
    kv_blocks: KvBlockRecords = field(default_factory=KvBlockRecords)
    end_s: float = 0.0

    def sorted_copy(self) -> Records:
        """A copy with the rows of each table in the order in which they are shown, to be read only: sums over
        rows then come out alike, to the last bit, of a run and of its saved copy.
        """
        return Records(
            self.requests.sorted_copy(),
            self.steps.sorted_copy(),
            self.gaps.sorted_copy(),
            self.hand_overs.sorted_copy(),
            self.kv_blocks.sorted_copy(),
            self.end_s,
        )


def steps_that_continue(
    steps: int,
    first_s: float,
    last_s: float,
    n_steps: int,
    next_first_s: float,
    next_last_s: float,
    slack_s: float,
) -> int:
    """How many of the next `n_steps` steps, taken one by one, continue the line of a row: 0, 1 or all.

    A row of one step has no slope yet, so that the next step always continues it.

    >>> steps_that_continue(3, 1.0, 1.2, 4, 1.3, 1.6, 0.0), steps_that_continue(1, 1.0, 1.0, 2, 1.1, 1.1, 0.0)
    (4, 1)
    """
    slope_s = (last_s - first_s) / (steps - 1) if steps > 1 else next_first_s - last_s
    slack_s += LINE_TOLERANCE * abs(next_first_s)
    if steps > 1 and abs(last_s + slope_s - next_first_s) > slack_s:
        return 0
    if n_steps == 1:
        return 1
    next_slope_s = (next_last_s - next_first_s) / (n_steps - 1)
    return n_steps if abs(next_slope_s - slope_s) <= slack_s else 1
