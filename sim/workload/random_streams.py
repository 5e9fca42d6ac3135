"""Random streams: one independent stream per source of randomness, and the draws of each distribution from
it.

Each source (arrivals, prompt lengths, think times, a router ...) has a stream of its own, seeded by the
run's seed and the source's name (common random numbers). How often one stream is used changes nothing in
another: two systems compared on one seed see the same requests.

A function `..._by` turns a distribution into a function that draws the next `n` values as one vector.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sim.inputs.engine import Speculation
from sim.inputs.lengths import (
    EmpiricalLength,
    ExponentialWait,
    FixedLength,
    FixedWait,
    GeometricLength,
    Lengths,
    LognormalLength,
    LognormalWait,
    ParetoLength,
    SharedPrefix,
    TraceFile,
    TraceLength,
    UniformLength,
    UniformWait,
    Waits,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DrawInts = Callable[[int], Ints]
DrawFloats = Callable[[int], Floats]
Columns = Callable[[TraceLength], tuple[Ints, Ints]]


def random_stream(seed: int, source: str) -> np.random.Generator:
    """The stream of one source of randomness, the same for the same seed and name on every machine.

    >>> float(random_stream(7, "arrivals").random()) == float(random_stream(7, "arrivals").random())
    True
    """
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(source.encode())]))


def tokens_by_step(speculation: Speculation, max_steps: int, stream: np.random.Generator) -> Ints:
    """Tokens that a sequence has generated after each of its first `max_steps` decode steps: one a step, and
    the drafts that are accepted before the first rejected one.
    """
    rate, drafts = speculation.acceptance_rate, speculation.num_speculative_tokens
    drawn = 1.0 - stream.random(max_steps)
    # Accepted drafts before the first rejection are geometric; one uniform number u in (0, 1] gives their
    # count as floor(log u / log rate). Rates 0 and 1 have no such logarithm: none or all are accepted.
    accepted = drafts * (drawn <= rate) if rate in (0.0, 1.0) else np.floor(np.log(drawn) / math.log(rate))
    return np.cumsum(1 + np.minimum(accepted, drafts).astype(np.int64))


def lengths_by(
    distribution: Lengths | None, stream: np.random.Generator, recorded: Ints | None = None
) -> DrawInts:
    """A function that draws the next `n` lengths, zeros without a distribution; `recorded` are the
    lengths in the trace that the distribution names, if it names one.
    """
    if distribution is None:
        return lambda n: np.zeros(n, dtype=np.int64)
    if isinstance(distribution, FixedLength):
        return lambda n: np.full(n, distribution.tokens, dtype=np.int64)
    if isinstance(distribution, UniformLength):
        return lambda n: stream.integers(distribution.low, distribution.high, size=n, endpoint=True)
    if isinstance(distribution, LognormalLength):
        drawn = _lognormal(distribution.mean, distribution.cv, stream)
        return lambda n: np.clip(np.rint(drawn(n)), distribution.low, distribution.high).astype(np.int64)
    if isinstance(distribution, ParetoLength):
        longest = float(distribution.high)
        return lambda n: np.rint(
            np.minimum(distribution.low * (1.0 - stream.random(n)) ** (-1.0 / distribution.shape), longest)
        ).astype(np.int64)
    if isinstance(distribution, GeometricLength):
        return lambda n: np.minimum(stream.geometric(1.0 / distribution.mean, size=n), distribution.high)
    if isinstance(distribution, EmpiricalLength):
        values = np.array(distribution.values, dtype=np.int64)
        chosen = choices_by(np.array(distribution.weights or [1.0] * len(values)), stream)
        return lambda n: values[chosen(n)]
    if isinstance(distribution, TraceLength):
        if recorded is None:
            raise ValueError("lengths of a trace are drawn from its rows; recorded is missing")
        rows = rows_by(distribution, len(recorded), stream)
        held = np.clip(recorded, distribution.low, distribution.high)
        return lambda n: held[rows(n)]
    # Zipf: the k-th length of the range has weight k ** -exponent
    ranks = np.arange(1, distribution.high - distribution.low + 2, dtype=np.float64)
    chosen = choices_by(ranks**-distribution.exponent, stream)
    return lambda n: distribution.low + chosen(n)


def prompt_and_output_lengths_by(
    prompt: Lengths | None, output: Lengths | None, seed: int, suffix: str, columns: Columns
) -> Callable[[int], tuple[Ints, Ints]]:
    """A function that draws the next `n` prompt and output lengths.

    Where both come from the same trace, whole rows are drawn: prompt and output of a request are correlated.
    """
    if isinstance(prompt, TraceLength) and isinstance(output, TraceLength):
        same_rows = (*TraceFile.model_fields, "order")
        if all(getattr(prompt, field) == getattr(output, field) for field in same_rows):
            prompts, outputs = columns(prompt)
            prompts = np.clip(prompts, prompt.low, prompt.high)
            outputs = np.clip(outputs, output.low, output.high)
            rows = rows_by(prompt, len(prompts), random_stream(seed, "trace_rows" + suffix))

            def whole_rows(n: int) -> tuple[Ints, Ints]:
                drawn = rows(n)
                return prompts[drawn], outputs[drawn]

            return whole_rows
    draw_prompt = lengths_by(
        prompt,
        random_stream(seed, "prompt_tokens" + suffix),
        columns(prompt)[0] if isinstance(prompt, TraceLength) else None,
    )
    draw_output = lengths_by(
        output,
        random_stream(seed, "output_tokens" + suffix),
        columns(output)[1] if isinstance(output, TraceLength) else None,
    )
    return lambda n: (draw_prompt(n), draw_output(n))


def rows_by(distribution: TraceLength, rows: int, stream: np.random.Generator) -> DrawInts:
    """A function that draws the next `n` rows of a trace: at random, or in order and then from the first one
    again.
    """
    if distribution.order == "random":
        return lambda n: stream.integers(0, rows, size=n)
    taken = 0

    def in_order(n: int) -> Ints:
        nonlocal taken
        taken += n
        return np.arange(taken - n, taken, dtype=np.int64) % rows

    return in_order


def choices_by(weights: Floats, stream: np.random.Generator) -> DrawInts:
    """A function that draws the next `n` indices, each with a probability proportional to its weight."""
    cumulated = np.cumsum(weights)
    cumulated /= cumulated[-1]
    return lambda n: np.minimum(np.searchsorted(cumulated, stream.random(n), side="right"), len(weights) - 1)


def waits_by(distribution: Waits, stream: np.random.Generator) -> DrawFloats:
    """A function that draws the next `n` waits, in seconds."""
    if isinstance(distribution, FixedWait):
        return lambda n: np.full(n, distribution.value_s)
    if isinstance(distribution, ExponentialWait):
        return lambda n: stream.exponential(distribution.mean_s, size=n)
    if isinstance(distribution, UniformWait):
        return lambda n: stream.uniform(distribution.low_s, distribution.high_s, size=n)
    assert isinstance(distribution, LognormalWait)
    return _lognormal(distribution.mean_s, distribution.cv, stream)


def prefixes_by(prefix: SharedPrefix, seed: int, suffix: str, columns: Columns) -> tuple[Ints, DrawInts]:
    """The length of each shared prefix, and a function that draws the prefix group of the next `n` requests;
    -1 is none. Group k is chosen with weight k ** -popularity.
    """
    distribution = prefix.tokens
    recorded = columns(distribution)[0] if isinstance(distribution, TraceLength) else None
    lengths = lengths_by(distribution, random_stream(seed, "prefix_tokens" + suffix), recorded)(prefix.groups)
    stream = random_stream(seed, "prefix_group" + suffix)
    chosen = choices_by(np.arange(1, prefix.groups + 1, dtype=np.float64) ** -prefix.popularity, stream)
    sharing = random_stream(seed, "prefix_share" + suffix)
    return lengths, lambda n: np.where(sharing.random(n) < prefix.share, chosen(n), -1)


def _lognormal(mean: float, cv: float, stream: np.random.Generator) -> DrawFloats:
    if mean == 0 or cv == 0:
        return lambda n: np.full(n, float(mean))
    # mean and coefficient of variation to the parameters of the normal distribution of the logarithm
    variance = math.log1p(cv * cv)
    location, scale = math.log(mean) - variance / 2, math.sqrt(variance)
    return lambda n: stream.lognormal(location, scale, size=n)
