"""The request sampler: class, lengths and patience of requests, and the blocks of text that they share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.catalog import find_trace
from sim.inputs.arrivals import Trace
from sim.inputs.lengths import SharedPrefix, TraceLength
from sim.inputs.workload import RequestClass, Workload
from sim.reading.files_read import file_read
from sim.reading.traces import How, RecordedTrace, Wanted, read_trace, selected
from sim.workload.random_streams import (
    DrawFloats,
    DrawInts,
    Floats,
    Ints,
    choices_by,
    prefixes_by,
    prompt_and_output_lengths_by,
    random_stream,
    waits_by,
)

_BLOCK_BITS = 24  # of a block's hash: 16 million blocks, more than the longest text has
_GROUP_BITS = 24  # 16 million shared prefixes, more than a description may have


@dataclass(frozen=True)
class Prefixes:
    """The shared prefixes of one distribution: their lengths, and the hashes of their blocks.

    A simulated hash is an integer that encodes where the block comes from, so that blocks are equal where
    their text is: (distribution, group, block) here, (session, block) in `session_blocks`.
    """

    distribution: SharedPrefix
    number: int
    lengths: Ints

    def blocks(self, group: int) -> tuple[int, ...]:
        """Hashes of the full blocks of prefix `group`: negative, hence never those of a session or a
        trace.
        """
        return self._cached(group)

    @functools.cached_property
    def _cached(self) -> functools._lru_cache_wrapper[tuple[int, ...]]:
        return functools.lru_cache(maxsize=None)(self._blocks)

    def _blocks(self, group: int) -> tuple[int, ...]:
        first = ((self.number << _GROUP_BITS) + group) << _BLOCK_BITS
        return tuple(
            -1 - first - block for block in range(int(self.lengths[group]) // self.distribution.block_tokens)
        )


def session_blocks(session: int, first: int, last: int) -> tuple[int, ...]:
    """Hashes of blocks `first` to `last` (excluded) of a session's text."""
    base = session << _BLOCK_BITS
    return tuple(range(base + first, base + last))


class RequestSampler:
    """Draws classes, lengths, prefixes and patience of requests, each from a random stream of its own.

    A class with distributions of its own draws from streams of its own, and the workload's distributions are
    drawn for every request all the same: so adding such a class changes no other request.
    """

    def __init__(self, workload: Workload, seed: int) -> None:
        named = workload.classes or {"": RequestClass()}
        self.names = list(named)
        self.classes = list(named.values())
        self.models = [kind.model or workload.model for kind in self.classes]
        for distribution in (workload.output_tokens, *(kind.output_tokens for kind in self.classes)):
            if isinstance(distribution, TraceLength):
                recorded_trace(distribution).refuse_unknown_answers()
        self._class = choices_by(
            np.array([kind.share for kind in self.classes]), random_stream(seed, "classes")
        )
        prompt, output = workload.prompt_tokens, workload.output_tokens
        self._common = prompt_and_output_lengths_by(prompt, output, seed, "", _lengths_of)
        self._own: dict[int, Callable[[int], tuple[Ints, Ints]]] = {}
        self._common_prefix: DrawInts | None = None
        self._own_prefix: dict[int, DrawInts] = {}
        self.prefixes: dict[int, Prefixes] = {}  # by class; -1 is a class that only the trace has
        if workload.prefix is not None:
            lengths, self._common_prefix = prefixes_by(workload.prefix, seed, "", _lengths_of)
            common = Prefixes(workload.prefix, 0, lengths)
            self.prefixes = dict.fromkeys(range(-1, len(self.classes)), common)
        for index, (name, kind) in enumerate(named.items()):
            own_prompt, own_output = kind.prompt_tokens or prompt, kind.output_tokens or output
            if kind.prompt_tokens is not None or kind.output_tokens is not None:
                self._own[index] = prompt_and_output_lengths_by(
                    own_prompt, own_output, seed, f".{name}", _lengths_of
                )
            if kind.prefix is not None:
                lengths, self._own_prefix[index] = prefixes_by(kind.prefix, seed, f".{name}", _lengths_of)
                self.prefixes[index] = Prefixes(kind.prefix, index + 1, lengths)
        self._patience = _waits_of(workload, named, "patience_s", seed)
        self._timeout = _waits_of(workload, named, "timeout_s", seed)
        self.clients_give_up = bool(self._patience or self._timeout)

    def draw_classes(self, n: int) -> Ints:
        """The classes of the next `n` requests or sessions, as indices."""
        return self._class(n) if len(self.classes) > 1 else np.zeros(n, dtype=np.int64)

    def draw_lengths(self, classes: Ints) -> tuple[Ints, Ints]:
        """Prompt and output tokens of the next requests, of these classes; 0 without a distribution."""
        prompts, outputs = self._common(len(classes))
        for index, draw in self._own.items():
            mine = np.flatnonzero(classes == index)
            if len(mine):
                prompts[mine], outputs[mine] = draw(len(mine))
        return prompts, outputs

    def draw_prefixes(self, classes: Ints) -> Ints:
        """The prefix group of each of the next requests or sessions; -1 for none."""
        groups = self._common_prefix(len(classes)) if self._common_prefix else np.full(len(classes), -1)
        for index, draw in self._own_prefix.items():
            mine = np.flatnonzero(classes == index)
            if len(mine):
                groups[mine] = draw(len(mine))
        return groups

    def draw_patience(self, classes: Ints) -> tuple[Floats, Floats]:
        """Seconds that the clients of the next requests wait for their first and for their last token; inf
        without a limit.
        """
        return _drawn_waits(self._patience, classes), _drawn_waits(self._timeout, classes)


def _waits_of(
    workload: Workload, named: dict[str, RequestClass], field: str, seed: int
) -> dict[int, DrawFloats]:
    """Draws of a wait by class, those of all classes without a distribution of their own under -1."""
    found: dict[int, DrawFloats] = {}
    common = getattr(workload, field)
    if common is not None:
        found[-1] = waits_by(common, random_stream(seed, field))
    for index, (name, kind) in enumerate(named.items()):
        own = getattr(kind, field)
        if own is not None:
            found[index] = waits_by(own, random_stream(seed, f"{field}.{name}"))
    return found


def _drawn_waits(draws: dict[int, DrawFloats], classes: Ints) -> Floats:
    n = len(classes)
    waits_s = draws[-1](n) if -1 in draws else np.full(n, np.inf)
    for index, draw in draws.items():
        if index >= 0:
            mine = np.flatnonzero(classes == index)
            waits_s[mine] = draw(len(mine))
    return waits_s


def describe_traces(workload: Workload) -> list[str]:
    """One line for each recorded trace of a workload: its family, the rows dropped and why, its rate; and one
    for the part that is played, where that is not the whole trace.
    """
    lines = dict.fromkeys(recorded_trace(trace).describe() for trace in workload.traces)
    if isinstance(workload.arrivals, Trace):
        whole, part = recorded_trace(workload.arrivals), played_part(workload.arrivals)
        if len(part) < len(whole) or workload.arrivals.speedup != 1.0:
            lines[part.played()] = None
    return list(lines)


def played_part(arrivals: Trace) -> RecordedTrace:
    """The rows of a trace that the workload selects, at the speed-up that it sets."""
    return selected(
        recorded_trace(arrivals),
        start_s=arrivals.start_s,
        duration_s=arrivals.duration_s,
        limit=arrivals.limit,
        speedup=arrivals.speedup,
    )


def recorded_trace(trace: Trace | TraceLength) -> RecordedTrace:
    """The trace named in a workload: a shipped one, or a file, of which arrivals may want a part only.
    InputError if there is none.
    """
    path = find_trace(trace.name) if trace.name is not None else Path(trace.path or "").expanduser()
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0  # read_trace raises the error
    file_read(path)
    wanted = Wanted()
    if isinstance(trace, Trace):
        wanted = Wanted(trace.start_s, trace.duration_s, trace.limit)
    how = How(
        tuple((trace.columns or {}).items()),
        trace.time_unit or "",
        trace.block_tokens or 0,
        trace.tokenizer or "",
        trace.characters_per_token or 0.0,
    )
    return _read_once(path, changed, wanted, how)


@functools.lru_cache(maxsize=8)
def _read_once(path: Path, changed: int, wanted: Wanted, how: How) -> RecordedTrace:
    return read_trace(path, wanted, how)


def _lengths_of(distribution: TraceLength) -> tuple[Ints, Ints]:
    trace = recorded_trace(distribution)
    return trace.prompt_tokens, trace.output_tokens
