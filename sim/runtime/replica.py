"""One engine: its queue, its KV blocks, and the loop "choose a batch, let its time pass, hand out the
tokens".

The loop keeps as many batches in flight as there are pipeline stages. While a batch of decodes cannot change
(nobody finishes, no block runs out, nobody can be admitted) it is handed to the stage as many steps at once;
an arrival ends that run with the step in progress, which is when an engine would have looked at its queue
again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import simpy

from sim.cost.batch import Batch
from sim.cost.demands import Demand
from sim.cost.steps import FloatArray
from sim.inputs.engine import Engine
from sim.policy.scheduling import EngineView, Grants
from sim.results.blame import CAUSES, STEP_CAUSES
from sim.results.records import GapRecords, StepRecords
from sim.runtime.clock import SCHEDULE, at
from sim.runtime.fabric import Fabric, Transfer
from sim.runtime.kv_cache import KvCache
from sim.runtime.request import Request
from sim.runtime.sequence import Sequence
from sim.runtime.stage import Passed, Stage

Rule = Callable[[EngineView[Sequence]], Grants[Sequence]]

SHARING, PIPELINE = STEP_CAUSES, STEP_CAUSES + 1
ADMISSION, PREEMPTED = CAUSES.index("admission"), CAUSES.index("preempted")
MOST_FOLDED_STEPS = 65536  # bounds the vectors of one run of steps; a longer run is cut in two


@dataclass(slots=True)
class _InFlight:
    """A batch on its way through the stages."""

    grants: Grants[Sequence]
    samples: list[bool]  # whether a grant brings its sequence to its last known token
    batch: Batch
    batch_id: int
    start_s: float
    causes: list[float] = field(default_factory=lambda: [0.0] * (STEP_CAUSES + 2))
    done: bool = False


class Replica:
    """An engine and its sequences. `submit` puts a request in; `on_first_token` and `on_finished` tell of
    it.
    """

    def __init__(
        self,
        env: simpy.Environment,
        fabric: Fabric,
        stages: list[Stage],
        hand_over: Callable[[int, int], Demand],
        *,
        index: int,
        engine: Engine,
        model: str,
        rule: Rule,
        max_num_seqs: int,
        token_budget: int,
        max_model_len: int,
        kv_cache: KvCache,
        steps: StepRecords,
        gaps: GapRecords,
        gpus: tuple[str, ...] = (),
    ) -> None:
        self.env = env
        self.fabric = fabric
        self.stages = stages
        self.hand_over = hand_over  # (stage that sends, tokens) -> demand
        self.index = index
        self.engine = engine
        self.model = model
        self.rule = rule
        self.max_num_seqs = max_num_seqs
        self.token_budget = token_budget
        self.max_model_len = max_model_len
        self.kv_cache = kv_cache
        self.steps = steps
        self.gaps = gaps
        self.gpus = gpus

        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.routed = 0
        self.preemptions = 0
        self.on_first_token: Callable[[Sequence], None] = lambda sequence: None
        self.on_finished: Callable[[Sequence], None] = lambda sequence: None

        self._flying: deque[_InFlight] = deque()
        self._hand_overs: dict[tuple[int, int], Demand] = {}
        self._most_in_flight = len(stages)
        self._speculation = engine.speculation
        self._tokens_per_step = engine.speculation.tokens_per_step if engine.speculation else 1.0
        self._lookahead = 1 if engine.schedules_ahead and len(stages) == 1 else 0
        self._step = 0  # steps begun so far
        self._batch_id = 0
        self._batch_members: list[int] = []
        self._schedule_pending = False
        self._ledger = [0.0] * (
            STEP_CAUSES + 2
        )  # seconds by cause of all steps of a single-stage engine so far

    # ---- requests

    def submit(self, request: Request) -> Sequence:
        """Queue a request. Raises nothing: lengths were checked by the service."""
        most = self.max_model_len - request.prompt_tokens
        sequence = Sequence(request, max(1, min(request.output_tokens, most)), self.env.now, self.index)
        self._name_blocks(sequence, request.block_hashes, request.hash_block_tokens)
        if self._flying:
            done = self.stages[0].steps_done() if self._most_in_flight == 1 else 0
            sequence.eligible_step = self._step + done + self._lookahead
        self.routed += 1
        self._enqueue(sequence)
        if self._most_in_flight == 1 and self._flying:
            self.stages[0].cut(self._lookahead)
        else:
            self._schedule_soon()
        return sequence

    def _enqueue(self, sequence: Sequence) -> None:
        if self.engine.scheduling_policy == "fcfs":
            self.waiting.append(sequence)
            return
        key = (sequence.priority, sequence.arrival_s)
        position = next(
            (i for i, other in enumerate(self.waiting) if (other.priority, other.arrival_s) > key),
            len(self.waiting),
        )
        self.waiting.insert(position, sequence)

    def _name_blocks(self, sequence: Sequence, names: tuple[int, ...], tokens_per_name: int) -> None:
        """The prefixes this sequence could share, and how many of its tokens each covers (whole blocks
        only).
        """
        if not self.kv_cache.caches or not names or not tokens_per_name:
            sequence.names = ()
            return
        size = self.kv_cache.block_size
        longest = sequence.request.prompt_tokens + sequence.output_tokens
        ends = [min((i + 1) * tokens_per_name, longest) // size * size for i in range(len(names))]
        kept = [i for i, end in enumerate(ends) if end > (ends[i - 1] if i else 0)]
        sequence.names = tuple(names[i] for i in kept)
        sequence.name_ends = tuple(ends[i] for i in kept)

    # ---- what a router sees

    @property
    def requests(self) -> int:
        return len(self.running) + len(self.waiting)

    @property
    def tokens(self) -> int:
        growth = 0
        if self._flying and self._most_in_flight == 1:
            growth = self.stages[0].steps_done() * self._flying[0].batch.decodes
        held = sum(sequence.computed for sequence in self.running)
        waiting = sum(sequence.known_tokens for sequence in self.waiting)
        prompts = sum(max(0, sequence.pending_tokens - 1) for sequence in self.running)
        return held + growth + waiting + prompts

    @property
    def has_seat(self) -> bool:
        return len(self.running) + len(self.waiting) < self.max_num_seqs

    def cached_prompt_tokens(self, request: Request) -> int:
        """Prompt tokens of a request that this replica has in its KV cache."""
        probe = Sequence(request, request.output_tokens, self.env.now, self.index)
        self._name_blocks(probe, request.block_hashes, request.hash_block_tokens)
        return self.cached_tokens(probe)

    # ---- what a scheduling rule may ask

    def next_waiting(self) -> Sequence | None:
        if self.waiting and self.waiting[0].eligible_step <= self._step:
            return self.waiting[0]
        return None

    def cached_tokens(self, sequence: Sequence) -> int:
        most = (sequence.known_tokens - 1) // self.kv_cache.block_size * self.kv_cache.block_size
        units = self.kv_cache.cached_units(sequence.names, len(sequence.names))
        return min(sequence.name_ends[units - 1], most) if units else 0

    def allocate(self, sequence: Sequence, tokens: int) -> bool:
        cache = self.kv_cache
        held = sequence.nameless_blocks + self._named_blocks(sequence)
        needed = -(-(sequence.computed + tokens) // cache.block_size) - held
        if needed > cache.free:
            return False
        if needed > 0:
            cache.take(needed)
            sequence.nameless_blocks += needed
        self._publish(sequence, sequence.computed + tokens)
        return True

    def admit(self, sequence: Sequence, cached_tokens: int, tokens: int) -> bool:
        cache = self.kv_cache
        units = 0
        if cached_tokens:
            units = cache.cached_units(sequence.names, len(sequence.names))
        prefix = sequence.names[:units]
        named = sequence.name_ends[units - 1] // cache.block_size if units else 0
        needed = max(0, -(-(cached_tokens + tokens) // cache.block_size) - named)
        if needed + cache.evictable(prefix) > cache.free - cache.reserve:
            return False
        cache.hold(prefix)
        cache.take(needed)
        sequence.held = units
        sequence.nameless_blocks = needed
        sequence.computed = cached_tokens
        if sequence.admitted_s is None:
            sequence.admitted_s = self.env.now
            sequence.cached_tokens = cached_tokens
            sequence.wait(ADMISSION, self.env.now)
        else:
            sequence.wait(PREEMPTED, self.env.now)
        sequence.mark = tuple(self._ledger)
        self.waiting.popleft()
        self.running.append(sequence)
        self._publish(sequence, cached_tokens + tokens)
        return True

    def preempt(self, sequence: Sequence) -> None:
        if self._most_in_flight == 1:
            self._settle(sequence)
        else:
            sequence.wait(CAUSES.index("pipeline"), self.env.now)
        sequence.dropped = sequence.in_flight
        if not sequence.names and self.kv_cache.caches:
            self._name_for_return(sequence)
        self._release(sequence)
        sequence.computed = 0
        sequence.preemptions += 1
        sequence.recomputing = True
        self.preemptions += 1
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)

    def _name_for_return(self, sequence: Sequence) -> None:
        """A preempted sequence's full blocks can be found again until they are evicted: name each of them."""
        full = sequence.computed // self.kv_cache.block_size
        first = -((sequence.request.request_id + 1) << 24)
        sequence.names = tuple(first - i for i in range(full))
        sequence.name_ends = tuple((i + 1) * self.kv_cache.block_size for i in range(full))
        self._publish(sequence, sequence.computed)

    def _named_blocks(self, sequence: Sequence) -> int:
        return sequence.name_ends[sequence.held - 1] // self.kv_cache.block_size if sequence.held else 0

    def _publish(self, sequence: Sequence, computed: int) -> None:
        """Give names to the blocks that `computed` tokens fill, as far as nobody else has."""
        names, ends, size = sequence.names, sequence.name_ends, self.kv_cache.block_size
        while sequence.held < len(names) and ends[sequence.held] <= computed:
            start = ends[sequence.held - 1] if sequence.held else 0
            blocks = (ends[sequence.held] - start) // size
            if not self.kv_cache.publish(names[sequence.held], blocks):
                return  # computed twice at the same time: this copy stays nameless
            sequence.nameless_blocks -= blocks
            sequence.held += 1

    def _release(self, sequence: Sequence) -> None:
        self.kv_cache.give_back(sequence.nameless_blocks, sequence.names[: sequence.held])
        sequence.nameless_blocks = sequence.held = 0

    # ---- the loop

    def _schedule_soon(self) -> None:
        """Look at the queue at this instant, after everything else that happens in it."""
        if not self._schedule_pending:
            self._schedule_pending = True
            at(self.env, self.env.now, self._schedule, SCHEDULE)

    def _schedule(self, _: object = None) -> None:
        self._schedule_pending = False
        while len(self._flying) < self._most_in_flight and (self.running or self.waiting):
            grants = self.rule(self)
            if not grants:
                if (
                    self.waiting
                    and not self._flying
                    and not self.running
                    and self.waiting[0].eligible_step > self._step
                ):
                    self._step = self.waiting[0].eligible_step
                    continue
                return
            self._start(grants)

    def _start(self, grants: Grants[Sequence]) -> None:
        samples = [sequence.computed + tokens == sequence.known_tokens for sequence, tokens in grants]
        batch = self._batch(grants, samples)
        self._step += 1
        flight = _InFlight(grants, samples, batch, self._identity(grants, batch), self.env.now)
        self._flying.append(flight)
        steps = self._steps_alike(flight) if not batch.chunks and self._most_in_flight == 1 else 1
        self._enter(0, flight, steps)

    def _batch(self, grants: Grants[Sequence], samples: list[bool]) -> Batch:
        """The work of a step; from here on the granted tokens count as computed."""
        chunks: list[tuple[int, int]] = []
        decodes = 0
        kv_tokens = 0.0
        speculation = self._speculation
        for sequence, tokens in grants:
            past = sequence.computed
            sequence.computed = past + tokens
            sequence.in_flight += 1
            if tokens == 1 and past >= sequence.request.prompt_tokens:
                decodes += 1
                if speculation is None:
                    kv_tokens += past + 1
                else:  # the mean context, so that a run of steps grows evenly
                    steps = sequence.decode_steps
                    kv_tokens += sequence.request.prompt_tokens + 1 + steps * self._tokens_per_step
            else:
                chunks.append((tokens, past))
        drafts = speculation.num_speculative_tokens if speculation else 0
        logits = sum(samples) + decodes * drafts
        return Batch(tuple(chunks), decodes, kv_tokens, logits, 1 + drafts, self._tokens_per_step)

    def _gain(self, sequence: Sequence, steps: int) -> int:
        """Tokens that a decoding sequence gets in its next `steps` steps; with drafts, their expected number."""
        if self._speculation is None:
            return steps
        done, rate = sequence.decode_steps, self._tokens_per_step
        return math.floor((done + steps) * rate + 1e-9) - math.floor(done * rate + 1e-9)

    def _steps_left(self, sequence: Sequence) -> int:
        """Decode steps until its last token."""
        left = sequence.output_tokens - sequence.generated
        if self._speculation is None:
            return left
        steps = max(1, math.floor(left / self._tokens_per_step) - 1)
        while self._gain(sequence, steps) < left:
            steps += 1
        return steps

    def _identity(self, grants: Grants[Sequence], batch: Batch) -> int:
        """A number that changes when the batch does."""
        members = [] if batch.chunks else [sequence.request.request_id for sequence, _ in grants]
        if not members or members != self._batch_members:
            self._batch_id += 1
            self._batch_members = members
        return self._batch_id

    def _steps_alike(self, flight: _InFlight) -> int:
        """For how many steps from now on this very batch of decodes is sure to be chosen if nothing
        arrives.
        """
        if len(flight.grants) < len(self.running):
            return 1
        head = self.waiting[0] if self.waiting else None
        if head is not None and head.eligible_step > self._step - 1:
            return max(1, head.eligible_step - self._step + 1)
        steps = min(self._steps_left(sequence) for sequence, _ in flight.grants)
        steps = min(steps, MOST_FOLDED_STEPS)
        size, free = self.kv_cache.block_size, self.kv_cache.free
        if self._blocks_for(flight, steps - 1, size) > free:
            low, high = 1, steps
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (
                    (middle, high) if self._blocks_for(flight, middle - 1, size) <= free else (low, middle)
                )
            steps = low
        return steps

    def _blocks_for(self, flight: _InFlight, more: int, size: int) -> int:
        """New blocks that `more` further steps of the batch take."""
        if self._speculation is not None:
            grown = [
                (sequence.computed, sequence.computed + self._gain(sequence, 1 + more) - 1)
                for sequence, _ in flight.grants
            ]
        else:
            grown = [(sequence.computed, sequence.computed + more) for sequence, _ in flight.grants]
        return sum(-(-after // size) - -(-before // size) for before, after in grown)

    def _enter(self, stage: int, flight: _InFlight, steps: int) -> None:
        self.stages[stage].start(flight.batch, steps, lambda passed: self._passed(stage, flight, passed))

    def _passed(self, stage: int, flight: _InFlight, passed: Passed) -> None:
        causes = flight.causes
        for cause, seconds in enumerate(passed.causes):
            causes[cause] += seconds
        causes[SHARING] += passed.sharing_s
        causes[PIPELINE] += passed.waited_s
        self._record(stage, flight, passed)
        if stage + 1 == len(self.stages):
            self._arrived(flight, passed)
            return
        sent_s = self.env.now
        tokens = flight.batch.tokens
        demand = self._hand_overs.get((stage, tokens))
        if demand is None:
            demand = self._hand_overs[stage, tokens] = self.hand_over(stage, tokens)

        def received(transfer: Transfer) -> None:
            causes[PIPELINE] += self.env.now - sent_s
            self._enter(stage + 1, flight, 1)

        self.fabric.start(demand, on_done=received)

    def _arrived(self, flight: _InFlight, passed: Passed) -> None:
        flight.done = True
        if self._most_in_flight == 1:
            self._flying.popleft()
            self._hand_out(flight, passed)
        else:
            while self._flying and self._flying[0].done:
                self._hand_out(self._flying.popleft(), passed)
        self._schedule_soon()

    def _hand_out(self, flight: _InFlight, passed: Passed) -> None:
        """Give every sequence the tokens of the steps that have passed."""
        now, more = self.env.now, passed.steps - 1
        single = self._most_in_flight == 1
        if single:
            self._step += more
            for cause, seconds in enumerate(flight.causes):
                self._ledger[cause] += seconds
        if more:
            self._grow(flight, more)
        if not single:
            self._record_gaps(flight, now)
        finished = []
        for (sequence, _), samples in zip(flight.grants, flight.samples, strict=True):
            sequence.in_flight -= 1
            if sequence.dropped:  # preempted while this step was under way
                sequence.dropped -= 1
                continue
            if not single:
                self._charge_step(sequence, flight, now)
            if not samples:
                continue
            if sequence.generated == 0 or sequence.recomputing:
                self._settle(sequence)
            sequence.recomputing = False
            if sequence.generated == 0 or self._speculation is None:
                sequence.generated += 1 + more
            else:
                sequence.generated += self._speculated(sequence, 1 + more)
            if sequence.first_token_s is None:
                sequence.first_token_s = now
                self.on_first_token(sequence)
            sequence.last_token_s = now
            if sequence.generated >= sequence.output_tokens:
                finished.append(sequence)
        for sequence in finished:
            self._settle(sequence)
            sequence.finished_s = now
            self._release(sequence)
            self.running.remove(sequence)
            self.on_finished(sequence)

    def _speculated(self, sequence: Sequence, steps: int) -> int:
        """Tokens from `steps` steps with drafts. The KV entries of accepted drafts count as computed; their blocks are
        taken with the next step's."""
        gained = min(self._gain(sequence, steps), sequence.output_tokens - sequence.generated)
        sequence.decode_steps += steps
        sequence.computed += max(0, gained - steps)
        return gained

    def _grow(self, flight: _InFlight, steps: int) -> None:
        """The blocks and tokens of the further steps of a folded run, as scheduling them one by one would
        have taken.
        """
        size = self.kv_cache.block_size
        needed = self._blocks_for(flight, steps, size)
        if needed:
            self.kv_cache.take(needed)
        for sequence, _ in flight.grants:
            before = -(-sequence.computed // size)
            sequence.computed += steps
            sequence.nameless_blocks += -(-sequence.computed // size) - before
            self._publish(sequence, sequence.computed)

    # ---- where the time went

    def _settle(self, sequence: Sequence) -> None:
        """Charge a sequence of a single-stage engine for all steps since it was last charged."""
        if self._most_in_flight == 1 and sequence.mark is not None:
            causes = [now - then for now, then in zip(self._ledger, sequence.mark, strict=True)]
            sequence.charge(causes, self.env.now)
            sequence.mark = tuple(self._ledger)

    def _charge_step(self, sequence: Sequence, flight: _InFlight, now: float) -> None:
        """Charge one step through the pipeline; chunks of one prompt may overlap, then each gets its
        share.
        """
        lasted, since = now - flight.start_s, now - sequence.charged_s
        share = min(1.0, since / lasted) if lasted > 0.0 else 0.0
        causes = [share * seconds for seconds in flight.causes]
        causes[PIPELINE] += since - sum(causes)
        sequence.charge(causes, now)

    # ---- rows

    def _record(self, stage: int, flight: _InFlight, passed: Passed) -> None:
        """Rows of the steps, one per stretch of evenly growing durations; a late token's gap is a row of its
        own.
        """
        ends = passed.ends_s
        starts = np.concatenate(((passed.start_s,), ends[:-1]))
        seconds = ends - starts
        late = self._late(flight) if len(self.stages) == 1 else []
        first = 0
        if late:
            now = float(ends[0])
            for since_s in late:
                self.gaps.add_gaps(self.index, 1, 1, now - since_s, now - since_s, at_s=now)
            self._batch_id += 1
            gaps = max(0, flight.batch.decodes - len(late))
            self._add_steps(stage, flight, starts, ends, seconds, 0, 0, self._batch_id, gaps)
            self._batch_members, flight.batch_id = [], self._batch_id + 1
            self._batch_id += 1
            self._batch_members = [sequence.request.request_id for sequence, _ in flight.grants]
            first = 1
        for begin, end in _straight(seconds[first:]):
            gaps = flight.batch.decodes if len(self.stages) == 1 else 0
            self._add_steps(
                stage, flight, starts, ends, seconds, begin + first, end + first, flight.batch_id, gaps
            )

    def _record_gaps(self, flight: _InFlight, now: float) -> None:
        """Times between tokens of a pipelined batch: of all sequences whose last tokens came together, one
        row.
        """
        since: dict[float, int] = {}
        for (sequence, _), samples in zip(flight.grants, flight.samples, strict=True):
            if samples and not sequence.dropped and sequence.last_token_s is not None:
                since[sequence.last_token_s] = since.get(sequence.last_token_s, 0) + 1
        for last_s, sequences in since.items():
            gap_s = now - last_s
            self.gaps.add_gaps(self.index, sequences, 1, gap_s, gap_s, batch_id=flight.batch_id, at_s=now)

    def _late(self, flight: _InFlight) -> list[float]:
        """When the last tokens came of those sequences whose next one takes longer than this step."""
        return [
            sequence.last_token_s
            for (sequence, _), samples in zip(flight.grants, flight.samples, strict=True)
            if samples and sequence.last_token_s is not None and sequence.last_token_s != flight.start_s
        ]

    def _add_steps(
        self,
        stage: int,
        flight: _InFlight,
        starts: FloatArray,
        ends: FloatArray,
        seconds: FloatArray,
        first: int,
        last: int,
        batch_id: int,
        gaps: int,
    ) -> None:
        batch = flight.batch
        self.steps.add_steps(
            self.index,
            float(starts[first]),
            float(ends[last]),
            last - first + 1,
            batch.decodes + len(batch.chunks),
            batch.prefill_tokens,
            batch.decodes,
            float(seconds[first]),
            float(seconds[last]),
            batch_id=batch_id,
            stage=stage,
            kv_tokens=round(batch.decode_kv_tokens + first * batch.decodes * batch.decode_growth),
            gaps=gaps,
        )


def _straight(seconds: FloatArray) -> list[tuple[int, int]]:
    """First and last index of each stretch over which the durations grow evenly."""
    n = len(seconds)
    if n <= 2:
        return [(0, n - 1)] if n else []
    bends = np.diff(seconds, 2)
    sharp = np.flatnonzero(np.abs(bends) > 1e-9 * np.abs(seconds[1:-1]))
    if not len(sharp):
        return [(0, n - 1)]
    pieces, first = [], 0
    for bend in sharp:
        last = int(bend) + 1
        if last >= first:
            pieces.append((first, last))
            first = last + 1
    if first < n:
        pieces.append((first, n - 1))
    return pieces
