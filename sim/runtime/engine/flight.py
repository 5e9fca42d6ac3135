"""A batch on its way through the stages of an engine: the sequences in it, and where its seconds went."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan

from sim.cost.batch import Batch, Causes
from sim.policy.scheduling import Grants
from sim.runtime.engine.attribution import REQUEST_INTERFERENCE, STEP_PIPELINE, as_seen, no_seconds
from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.speculation import Speculator
from sim.runtime.fabric.transfer import Transfer

NOTHING_CHARGED: tuple[tuple[float, int, float], list[float]] = (nan, 0, nan), []


@dataclass(slots=True)
class Part:
    """What one queue has in a step: a token for each member of its cohort, where the step is `together` with
    it, and the grants of other sequences. `samples` says of each grant whether it brings its sequence to its
    last known token, so that the step gives it a new one.
    """

    queue: RequestQueue
    together: bool
    grants: Grants[Sequence]
    samples: list[bool]

    @property
    def request_ids(self) -> list[int]:
        apart = [sequence.request.request_id for sequence, _ in self.grants]
        return [*self.queue.cohort.members, *apart] if self.together else apart


def begun(queue: RequestQueue, granted: Grants[Sequence], speculator: Speculator) -> tuple[Part, Batch]:
    """A step of one queue and its work; from here on the granted tokens count as computed."""
    together = queue.begins_together(granted)
    decodes = len(queue.cohort.members) if together else 0
    kv_tokens = float(queue.cohort.kv_tokens) if together else 0.0
    sampled, drafts = decodes, speculator.drafts
    grants, samples = granted[decodes:], []
    chunks: list[tuple[int, int]] = []
    for sequence, tokens in grants:
        past = sequence.own_computed
        is_last = past + tokens == sequence.request.prompt_tokens + sequence.own_generated
        samples.append(is_last)
        sequence.own_computed = past + tokens
        sequence.in_flight += 1
        sampled += is_last
        if tokens == 1 and is_last:  # kernels treat a chunk of one token as a decode
            decodes += 1
            if not drafts:
                kv_tokens += past + 1
            else:  # the mean context, so that folded steps grow by the same number of tokens each
                generated = sequence.decode_steps * speculator.tokens_per_step
                kv_tokens += sequence.request.prompt_tokens + 1 + generated
        else:
            chunks.append((tokens, past))
    logits = sampled + decodes * drafts
    batch = Batch(tuple(chunks), decodes, kv_tokens, logits, 1 + drafts, speculator.tokens_per_step)
    return Part(queue, together, grants, samples), batch


@dataclass(slots=True)
class Flight:
    """A batch in flight. `number` is its number in the rows; `causes` are the seconds of this step so far, by
    `STEP_CAUSES`. The batch came to `stage` at `since_s`; `sent` are its activations on their way to the
    next. `caught_up` counts folded steps whose blocks are allocated before the run of steps has ended.

    A step with chunks of prompts is priced again when it has ended, for what the sequences in it did to each
    other: `without_chunks`, and, where it has several, of `chunk_tokens` together, with one chunk of one
    token instead of them.
    """

    parts: list[Part]
    batch: Batch
    start_s: float
    number: int = -1
    causes: list[float] = field(default_factory=no_seconds)
    done: bool = False
    caught_up: int = 0
    stage: int = 0
    since_s: float = 0.0
    sent: Transfer | None = None
    without_chunks: Causes | None = None
    with_least_chunk: Causes | None = None
    chunk_tokens: int = 0
    charged: tuple[tuple[float, int, float], list[float]] = NOTHING_CHARGED  # to the last sequence

    @property
    def grants(self) -> Grants[Sequence]:
        """Grants of sequences outside the cohorts."""
        parts = self.parts
        return parts[0].grants if len(parts) == 1 else [one for part in parts for one in part.grants]

    @property
    def request_ids(self) -> list[int]:
        return [number for part in self.parts for number in part.request_ids]

    def seen_by(self, chunk_tokens: int) -> list[float]:
        """The seconds of this step as a sequence sees them that computes so many tokens of a prompt in it (0:
        it decodes).

        A decode sees the step without chunks, and interference. A prompt sees the step with its own chunk and
        the decodes: between one token and all tokens of the chunks, that is taken as linear in tokens, so
        that a step with any number of prompts is priced once more and not once for each of them.
        """
        if self.without_chunks is None:
            return self.causes
        if not chunk_tokens:
            return as_seen(self.causes, self.without_chunks, 0.0)
        if self.with_least_chunk is None:  # the only chunk
            return self.causes
        share = (chunk_tokens - 1) / max(1, self.chunk_tokens - 1)
        return as_seen(self.causes, self.with_least_chunk, share)

    def charge_chunk(self, sequence: Sequence, tokens: int, now: float) -> None:
        """Charge a sequence for a step that computed so many tokens of its prompt, where one batch is in
        flight. Steps before it in which it ran and computed nothing were those of others.
        """
        if sequence.charged_s < self.start_s and not sequence.recomputing:
            sequence.wait(REQUEST_INTERFERENCE, self.start_s)
        sequence.charge(self.seen_by(tokens), now)

    def charge(self, sequence: Sequence, now: float, chunk_tokens: int = 0) -> None:
        """Charge a sequence for this step on all stages, where several batches are in flight.

        Chunks of one prompt may be in flight together: each is charged for the part of its step that follows
        on the step before. Seconds without a cause of their own are waits between stages.
        """
        alike = sequence.charged_s, chunk_tokens, now  # as nearly all decodes of a batch are
        if alike != self.charged[0]:
            lasted, since = now - self.start_s, now - sequence.charged_s
            share = min(1.0, since / lasted) if lasted > 0.0 else 0.0
            causes = [share * seconds for seconds in self.seen_by(chunk_tokens)]
            causes[STEP_PIPELINE] += since - sum(causes)
            self.charged = alike, causes
        sequence.charge(self.charged[1], now)

    def on_time_and_late(self) -> tuple[int, list[float]]:
        """How many sequences get a token from this step that got their last one as it began; and the last
        token times of those that have missed steps since.
        """
        on_time, late = 0, []
        for part in self.parts:
            if part.together:
                cohort = part.queue.cohort
                if cohort.last_token_s == self.start_s:
                    on_time += len(cohort.members)
                else:
                    late += [cohort.last_token_s] * len(cohort.members)
            for (sequence, _), samples in zip(part.grants, part.samples, strict=True):
                last_s = sequence.last_token_s
                if samples and last_s is not None:
                    if last_s == self.start_s:
                        on_time += 1
                    else:
                        late.append(last_s)
        return on_time, late

    def last_tokens_s(self) -> list[float]:
        """The last token times of the sequences that get a token from this step."""
        return [
            sequence.last_token_s
            for part in self.parts
            for (sequence, _), samples in zip(part.grants, part.samples, strict=True)
            if samples and not sequence.dropped and sequence.last_token_s is not None
        ]
