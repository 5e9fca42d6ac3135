"""A row of the ledger of validation: what was published, what the simulator says, and how it got there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["predicted", "fitted"]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """`fitted`: this very number set a constant; `predicted`: nothing was fitted on it.

    `published` is None of what only compares the two, such as a correlation. `section` says which part of
    the ledger it is in, `size` how large the case is (bytes, tokens, users), for errors against size, and
    `of` what errors are summed up by: the model, the GPU and the like.
    """

    case: str
    quantity: str
    unit: str
    published: float | None
    simulated: float
    kind: Kind
    source: str
    section: str = ""
    size: float | None = None
    of: Mapping[str, str] = field(default_factory=dict)

    @property
    def error(self) -> float | None:
        """(simulated - published) / published."""
        return self.simulated / self.published - 1.0 if self.published else None

    def as_dict(self) -> dict[str, Any]:
        """The row with its error, as experiments print it."""
        return {**asdict(self), "error": self.error}
