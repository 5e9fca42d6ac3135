"""Exact statistics of very many durations that come in evenly growing groups, not written out one by one."""

from __future__ import annotations

import functools
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
        statistic = self._written_out() if few else functools.cache(self._without_twins()._narrowed)
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

    def _without_twins(self) -> Durations:
        """The same values with equal groups put together: halving cannot tell them apart."""
        order = np.lexsort((self.counts, self.last_s, self.first_s))
        first_s, last_s, counts = self.first_s[order], self.last_s[order], self.counts[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (np.diff(first_s) != 0) | (np.diff(last_s) != 0) | (np.diff(counts) != 0)
        weights = np.add.reduceat(self.weights[order], np.flatnonzero(new))
        return Durations(first_s[new], last_s[new], counts[new], weights)

    def _written_out(self) -> Callable[[int], float]:
        lows, slopes = np.minimum(self.first_s, self.last_s), np.abs(self._slopes)
        return _sorted(lows, slopes, self.weights, np.zeros_like(self.counts), self.counts, 0)

    def _narrowed(self, rank: int) -> float:
        """The value with `rank` values before it: halves the range until what is left can be sorted."""
        lows, slopes, weights = np.minimum(self.first_s, self.last_s), np.abs(self._slopes), self.weights
        low, high = float(lows.min()), float(np.maximum(self.first_s, self.last_s).max())
        begin, end = np.zeros(len(lows), dtype=np.int64), self.counts  # the candidates of each group
        before = 0
        while int(np.sum(end - begin)) > NARROWED_TO:
            middle = low + (high - low) / 2
            if not low < middle < high:
                break
            steps = (middle - lows) / np.where(slopes > 0, slopes, 1.0)
            flat = np.where(lows <= middle, end, begin)
            under = np.where(slopes > 0, np.floor(np.minimum(steps, end)) + 1, flat).astype(np.int64)
            under = np.clip(under, begin, end)
            below = before + int(np.sum((under - begin) * weights))
            if rank < below:
                end, high = under, middle
            else:
                begin, low, before = under, middle, below
            kept = end > begin
            lows, slopes, weights = lows[kept], slopes[kept], weights[kept]
            begin, end = begin[kept], end[kept]
        return _sorted(lows, slopes, weights, begin, end, before)(rank)


def _sorted(
    lows: Floats, slopes: Floats, weights: Ints, begin: Ints, end: Ints, before: int
) -> Callable[[int], float]:
    """Values by rank, of those from `begin` to `end` of each group; `before` values are below them."""
    sizes = end - begin
    groups = np.repeat(np.arange(len(sizes)), sizes)
    offsets = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + begin[groups]
    values = lows[groups] + offsets * slopes[groups]
    order = np.argsort(values, kind="stable")
    cumulated = before + np.cumsum(weights[groups][order])
    values = values[order]
    return lambda rank: float(values[np.searchsorted(cumulated, rank, side="right")])
