"""Published numbers beside simulated ones, one row each, and how far such rows are off.

Experiments, validation and calibration share both: a `Row` is what an experiment prints, what the ledger of
validation holds and what its charts draw; an `ErrorSummary` is what any of them says of many errors at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

RowKind = Literal["predicted", "fitted"]
BOX = "box"  # of what a row is: the topology that stood for the machine it was measured on


@dataclass(frozen=True, slots=True)
class Row:
    """One published number and what the simulator gives for it.

    `published` is None where there is none. `fitted`: this very number set a constant; `predicted`: it set
    none. `estimate` is what a few lines of arithmetic on the same inputs give: a check that owes nothing to
    the simulator. In the ledger of validation, `section` names the part, `size` says how large the case is
    (bytes, tokens, users), for errors against size, and `of` has what errors are grouped by: the model, the
    GPU and the like. A law has the 95 % `interval` of what is simulated, and says whether the published value
    `is_outside` of what chance explains. `is_sampled`: a sample of its table has it too.
    """

    case: str
    quantity: str
    unit: str
    published: float | None
    simulated: float
    kind: RowKind = "predicted"
    source: str = ""
    estimate: float | None = None
    section: str = ""
    size: float | None = None
    of: Mapping[str, str] = field(default_factory=dict, hash=False)
    interval: tuple[float, float] | None = None
    is_outside: bool = False
    is_sampled: bool = False

    @property
    def error(self) -> float | None:
        """(simulated - published) / published; None without a published number, or of one that is zero."""
        return self.simulated / self.published - 1.0 if self.published else None

    def as_dict(self, *optional: str) -> dict[str, Any]:
        """The fields that every row has, those named, and the error: a row of JSON."""
        law = ("interval", "is_outside") if self.interval or self.is_outside else ()
        return {name: getattr(self, name) for name in (*COMMON, *optional, *law, "error")}


COMMON = ("case", "quantity", "unit", "published", "simulated", "kind", "source")


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Relative errors, summed up: how many there are, the median and the 90th percentile of their size, and
    their bias, the median with its sign. NaN of no errors at all.
    """

    count: int
    median: float
    p90: float
    bias: float

    @classmethod
    def of(cls, errors: Sequence[float]) -> ErrorSummary:
        """Percentiles between two errors are interpolated linearly, as numpy does.

        >>> ErrorSummary.of([-0.3, -0.1, 0.2])
        ErrorSummary(count=3, median=0.2, p90=0.28, bias=-0.1)
        """
        if not len(errors):
            return cls(0, np.nan, np.nan, np.nan)
        sizes = np.abs(errors)
        median, p90 = float(np.quantile(sizes, 0.5)), float(np.quantile(sizes, 0.9))
        return cls(len(errors), median, p90, float(np.median(errors)))
