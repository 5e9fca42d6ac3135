"""Exact statistics of very many durations that come in evenly growing groups, not written out one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WRITTEN_OUT = 2_000_000  # values that are written out and sorted once; of more, only those near a percentile
NARROWED_TO = 100_000  # how many of those


@dataclass(frozen=True)
class Durations:
    """Group i holds `counts[i]` values, evenly from `first_s[i]` to `last_s[i]`, each `weights[i]` times.

    Steps of a decode batch are such a group: as many as steps, each the gap of every sequence in the batch.

    >>> spans = Durations.of([1.0, 5.0], [3.0, 5.0], [3, 1], [2, 1])     # 1 1 2 2 3 3 5
    >>> spans.total, spans.mean, spans.percentiles([0, 50, 100])
    (7, 2.4285714285714284, [1.0, 2.0, 5.0])
    """

    first_s: Floats
    last_s: Floats
    counts: Ints
    weights: Ints

    @classmethod
    def of(
        cls,
        first_s: Sequence[float] | Floats,
        last_s: Sequence[float] | Floats,
        counts: Sequence[int] | Ints,
        weights: Sequence[int] | Ints,
    ) -> Durations:
        """Groups from columns; groups without values are left out."""
        kept = (np.asarray(counts) > 0) & (np.asarray(weights) > 0)
        first, last = np.asarray(first_s, dtype=np.float64)[kept], np.asarray(last_s, dtype=np.float64)[kept]
        sizes = np.asarray(counts, dtype=np.int64)[kept]
        return cls(
            first,
            np.where(sizes == 1, first, last),
            sizes,
            np.asarray(weights, dtype=np.int64)[kept],
        )

    @property
    def total(self) -> int:
        """How many values there are."""
        return int(np.sum(self.counts * self.weights))

    @property
    def mean(self) -> float | None:
        """Their mean; None of none."""
        total = self.total
        return float(np.sum(self._sums) / total) if total else None

    @property
    def std(self) -> float | None:
        """Their standard deviation (of the whole population, as numpy's); None of none."""
        total, mean = self.total, self.mean
        if mean is None:
            return None
        middles = (self.first_s + self.last_s) / 2 - mean
        within = self._slopes**2 * (self.counts.astype(np.float64) ** 2 - 1) / 12
        return math.sqrt(float(np.sum(self.counts * self.weights * (middles**2 + within))) / total)

    def percentiles(self, percents: Sequence[float]) -> list[float | None]:
        """Percentiles as numpy's default: linear between the two nearest order statistics; None of none.

        Cost grows with the groups, and with no more than `WRITTEN_OUT` values whatever the total.
        """
        total = self.total
        if not total:
            return [None] * len(percents)
        few = int(np.sum(self.counts)) <= WRITTEN_OUT
        statistic = self._sorted(np.zeros_like(self.counts), self.counts, 0) if few else self._narrowed
        found: list[float | None] = []
        for percent in percents:
            position = percent / 100 * (total - 1)
            rank = min(int(position), total - 1)
            low = statistic(rank)
            share = position - rank
            high = statistic(rank + 1) if share > 0 else low
            found.append(low + share * (high - low))
        return found

    @property
    def _slopes(self) -> Floats:
        slopes: Floats = (self.last_s - self.first_s) / np.maximum(self.counts - 1, 1)
        return slopes

    @property
    def _sums(self) -> Floats:
        sums: Floats = self.counts * self.weights * ((self.first_s + self.last_s) / 2)
        return sums

    def _narrowed(self, rank: int) -> float:
        """The value with `rank` values before it: halves the range until what is left can be sorted."""
        lows, highs = np.minimum(self.first_s, self.last_s), np.maximum(self.first_s, self.last_s)
        slopes = np.abs(self._slopes)
        low, high = float(lows.min()), float(highs.max())
        from_index = np.zeros(len(lows), dtype=np.int64)
        to_index = self.counts.copy()  # values from_index..to_index of each group are still candidates
        before = 0
        while int(np.sum(to_index - from_index)) > NARROWED_TO and low < high:
            middle = low + (high - low) / 2
            if not low < middle < high:
                break
            steps = (middle - lows) / np.where(slopes > 0, slopes, 1.0)
            flat = np.where(lows <= middle, self.counts, 0)
            below = np.where(slopes > 0, np.clip(np.floor(steps) + 1, 0, self.counts), flat).astype(np.int64)
            below = np.clip(below, from_index, to_index)
            under = before + int(np.sum((below - from_index) * self.weights))
            if rank < under:
                to_index, high = below, middle
            else:
                from_index, low, before = below, middle, under
        return self._sorted(from_index, to_index, before)(rank)

    def _sorted(self, from_index: Ints, to_index: Ints, before: int) -> Callable[[int], float]:
        """Values by rank, of those between two indices of each group; `before` values are below them."""
        lows, slopes = np.minimum(self.first_s, self.last_s), np.abs(self._slopes)
        sizes = to_index - from_index
        groups = np.repeat(np.arange(len(sizes)), sizes)
        offsets = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + from_index[groups]
        values = lows[groups] + offsets * slopes[groups]
        order = np.argsort(values, kind="stable")
        cumulated = before + np.cumsum(self.weights[groups][order])
        values = values[order]
        return lambda rank: float(values[np.searchsorted(cumulated, rank, side="right")])
