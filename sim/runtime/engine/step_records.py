"""The rows that an engine's steps leave: spans of steps, and gaps between tokens that are not one step long.

A row of a step says how many gaps between tokens it stands for, so that inter-token latencies need no row per
token. Gaps of another length than the step (after a missed step, or between the turns of a pipelined batch)
have rows of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sim.cost.batch import Batch
from sim.cost.step_cost import FloatArray
from sim.results.records import GapRecords, StepRecords
from sim.runtime.engine.flight import Flight
from sim.runtime.engine.stage import Passed


class StepRecorder:
    """Writes the rows of one replica. A batch's number changes when its members do, so that rows never mix
    batches. `in_flight` batches may take turns.
    """

    def __init__(self, replica: int, steps: StepRecords, gaps: GapRecords, in_flight: int = 1) -> None:
        self.replica = replica
        self.steps = steps
        self.gaps = gaps
        self._number = 0
        self._numbers: deque[tuple[list[int], int]] = deque(maxlen=in_flight)  # of the last batches

    def number_of(self, members: list[int]) -> int:
        """The number of a batch of decodes of these requests; of a new one where there are none."""
        if not members:  # a step with prompt chunks, after which the batches are others
            self._numbers.clear()
            self._number += 1
            return self._number
        for known in self._numbers:
            if known[0] == members:
                self._numbers.remove(known)
                break
        else:
            self._number += 1
            known = members, self._number
        self._numbers.append(known)
        return known[1]

    def passed(self, stage: int, batch: Batch, number: int, passed: Passed, *, gaps_are_steps: bool) -> None:
        """The steps of one stage."""
        self._rows(stage, batch, number, passed, 0, batch.decodes if gaps_are_steps else 0)

    def of_one_stage(self, flight: Flight, passed: Passed, *, gives_tokens: bool) -> None:
        """The steps of an engine with one stage. A sequence that missed a step has a longer gap than the
        step, and one that gets its first token has none. A prefill engine (`gives_tokens` False) makes no
        gaps, also not with sequences that come back from a decode replica that failed.
        """
        on_time, late = flight.on_time_and_late() if gives_tokens else (0, [])
        if late or on_time != flight.batch.decodes:
            self._passed_late(flight.batch, flight.request_ids, passed, late, on_time)
        else:
            self.passed(0, flight.batch, flight.number, passed, gaps_are_steps=True)

    def _passed_late(
        self, batch: Batch, members: list[int], passed: Passed, since_s: list[float], on_time: int
    ) -> None:
        """As `passed`, where in the first step only `on_time` tokens come one step after the last of their
        sequence; those of the sequences whose last was at `since_s` come later.

        The first step stands apart, so that its gaps can be counted apart.
        """
        now = float(passed.ends_s[0])
        for last_s in since_s:
            self.gaps.add_gaps(self.replica, 1, 1, now - last_s, now - last_s, at_s=now)
        apart = Passed(passed.start_s, passed.ends_s[:1], passed.causes, 0.0, 0.0)
        self._rows(0, batch, self.number_of([]), apart, 0, on_time)
        following = self.number_of(members)
        if passed.steps > 1:
            self._rows(0, batch, following, passed, 1, batch.decodes)

    def rounds_passed(
        self, stage: int, batch: Batch, number: int, starts_s: FloatArray, ends_s: FloatArray
    ) -> None:
        """Steps of one stage between which a batch of decodes was at the others; `batch` is that of the
        first.
        """
        self.steps.add_steps(
            self.replica,
            starts_s,
            ends_s,
            batch.decodes,
            0,
            batch.decodes,
            batch_id=number,
            stage=stage,
            kv_tokens=batch.decode_kv_tokens,
            kv_growth=batch.decodes * batch.decode_growth,
            gaps=0,
        )

    def gaps_of(self, number: int, last_token_s: Iterable[float], now: float) -> None:
        """Gaps of a pipelined batch: of all sequences whose last tokens came together, one row."""
        since: dict[float, int] = {}
        for last_s in last_token_s:
            since[last_s] = since.get(last_s, 0) + 1
        for last_s, sequences in since.items():
            gap_s = now - last_s
            self.gaps.add_gaps(self.replica, sequences, 1, gap_s, gap_s, batch_id=number, at_s=now)

    def _rows(self, stage: int, batch: Batch, number: int, passed: Passed, skip: int, gaps: int) -> None:
        growth = batch.decodes * batch.decode_growth
        self.steps.add_steps(
            self.replica,
            float(passed.ends_s[skip - 1]) if skip else passed.start_s,
            passed.ends_s[skip:],
            batch.decodes + len(batch.chunks),
            batch.prefill_tokens,
            batch.decodes,
            batch_id=number,
            stage=stage,
            kv_tokens=batch.decode_kv_tokens + skip * growth,
            kv_growth=growth,
            gaps=gaps,
        )
