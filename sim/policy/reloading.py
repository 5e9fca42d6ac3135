"""Whether a prefix that lies in a lower tier is reloaded or computed again.

A rule is a frozen dataclass, or any callable from a script. It takes the prefixes that could be reloaded,
from short to long (one for each tier at which the longest one could end), and returns how many of them to
take: 0 computes everything, `len(prefixes)` reloads the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix that a waiting sequence may reload, its first `held_tokens` tokens being in HBM already.

    `reload_s` is what its transfers take when nothing else uses the links; `compute_s` what prefilling the
    same tokens takes alone, in steps of their own.
    """

    tier: str
    tokens: int
    held_tokens: int
    n_bytes: float
    reload_s: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class ByCost:
    """The prefix that saves the most time; none where reloading takes at least `margin` times computing."""

    margin: float = 1.0

    def __call__(self, prefixes: Sequence[Prefix]) -> int:
        saved = [prefix.compute_s - self.margin * prefix.reload_s for prefix in prefixes]
        best = max(range(len(saved)), key=saved.__getitem__)
        return best + 1 if saved[best] > 0.0 else 0


@dataclass(frozen=True, slots=True)
class Always:
    """Everything that is there."""

    def __call__(self, prefixes: Sequence[Prefix]) -> int:
        return len(prefixes)


@dataclass(frozen=True, slots=True)
class Never:
    """Nothing: tiers are written and not read."""

    def __call__(self, prefixes: Sequence[Prefix]) -> int:
        return 0


ReloadRule = Callable[[Sequence[Prefix]], int]

RELOADS: dict[str, Callable[..., ReloadRule]] = {"cost": ByCost, "always": Always, "never": Never}
