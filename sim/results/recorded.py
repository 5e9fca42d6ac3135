"""What a run did in some windows of its time, step by step and op by op, as plain rows for a timeline.

Steps that a run has folded are here as they would have been played: `RecordedStep.ops` works out the instants
of its ops when it is asked, so that a recording is small until it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

OUTSIDE = -1  # the layer of an op before or behind all layers


class RecordedTransfer(NamedTuple):
    """Bytes on links: they flow from `flows_s`, after the latency, to `end_s`; from each instant of `shares`
    on, so much of all bytes a second. `requests` are those whose bytes they are, where it is known.
    """

    name: str
    replica: int
    begin_s: float
    flows_s: float
    end_s: float
    links: tuple[int, ...]
    n_bytes: tuple[float, ...]
    shares: tuple[tuple[float, float], ...]
    requests: tuple[int, ...] = ()


class RecordedOp(NamedTuple):
    """A kernel, a wait or a collective of one step, on all GPUs of its stage."""

    name: str
    layer: int
    begin_s: float
    end_s: float
    transfer: RecordedTransfer | None = None


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One step of one pipeline stage, with the requests that it decodes and the prompts that it computes
    (request, tokens). `is_whole` False: it was cut off at `end_s`.
    """

    replica: int
    stage: int
    begin_s: float
    end_s: float
    decodes: tuple[int, ...]
    chunks: tuple[tuple[int, int], ...]
    kv_tokens: float
    n_ops: int
    ops: Callable[[], Iterator[RecordedOp]]
    is_whole: bool = True

    @property
    def requests(self) -> tuple[int, ...]:
        """All requests in the step, those with prompts first."""
        return (*(request for request, _ in self.chunks), *self.decodes)


class RecordedCause(NamedTuple):
    """Time of a request in one piece: waiting for one cause, or in `steps` (prefill, decode or recompute;
    empty where it waits) with their causes.
    """

    begin_s: float
    end_s: float
    seconds: Mapping[str, float]
    steps: str


class RecordedGpu(NamedTuple):
    """A GPU with the replica, stage and rank of the stage that it serves."""

    name: str
    node: str
    replica: int
    stage: int
    rank: int


@dataclass(frozen=True)
class Windows:
    """Stretches of time, rising and apart, and the requests that are of interest in them (None: all). Of the
    replicas in `replicas` alone (None: all).
    """

    spans: tuple[tuple[float, float], ...]
    requests: frozenset[int] | None = None
    replicas: frozenset[int] | None = None

    @classmethod
    def of(
        cls,
        spans: Sequence[tuple[float, float]],
        requests: frozenset[int] | None = None,
        replicas: frozenset[int] | None = None,
    ) -> Windows:
        """Windows that may overlap, as one each where they do.

        >>> Windows.of([(2.0, 3.0), (0.0, 1.0), (2.5, 4.0)]).spans
        ((0.0, 1.0), (2.0, 4.0))
        """
        found: list[tuple[float, float]] = []
        for begin_s, end_s in sorted(spans):
            if found and begin_s <= found[-1][1]:
                found[-1] = found[-1][0], max(found[-1][1], end_s)
            else:
                found.append((begin_s, end_s))
        return cls(tuple(found), requests, replicas)

    @property
    def end_s(self) -> float:
        return max((end_s for _, end_s in self.spans), default=0.0)

    def meet(self, begin_s: float, end_s: float) -> bool:
        """Whether any of the time from `begin_s` to `end_s` is in a window."""
        return any(begin_s < until_s and end_s > since_s for since_s, until_s in self.spans)


@dataclass
class Recorded:
    """The rows of all windows. Links are numbers: `links` has their names, `bytes_per_s` their capacities as
    built, `link_kinds` the kind by name.
    """

    windows: Windows
    steps: list[RecordedStep] = field(default_factory=list)
    transfers: list[RecordedTransfer] = field(default_factory=list)
    causes: dict[int, list[RecordedCause]] = field(default_factory=dict)
    gpus: tuple[RecordedGpu, ...] = ()
    links: tuple[str, ...] = ()
    bytes_per_s: tuple[float, ...] = ()
    link_kinds: Mapping[str, str] = field(default_factory=dict)
    end_s: float = inf
