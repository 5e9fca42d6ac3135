"""A run that has ended, as its verdict asks about it: where the time of its requests went, what they waited
for, how far every station was used, and what limits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.results.blame import CAUSES, BlameRecords
from sim.results.records import Records
from sim.results.setting import PoolSetting, Setting
from sim.results.stations import LinkUse, PoolUse, Waits, link_uses, pool_use, requests_of, waits_of
from sim.results.verdict_words import GROUPS, HOLDUPS, INSIDE, WORDS

Ints = NDArray[np.int64]
Rows = Mapping[str, NDArray[Any]]

# Assumed: they choose words, and every number that they choose by is in the sentence.
IDLE = 0.2  # share of the time in steps below which nothing is called a limit
WAITING = 0.05  # share of a request's time below which it is said not to wait
BUBBLES = 0.6  # share of the time in which a stage computes, below which bubbles are called the limit


class Effects(Protocol):
    """What a study of sensitivity found: `sim.studies.sensitivity.Sensitivity` is one."""

    @property
    def metric(self) -> str: ...
    @property
    def effects(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Told:
    """A run that has ended, as its verdict asks about it. `met` and `promised` say which rows of `kept` keep
    their objectives and which have some.
    """

    setting: Setting
    records: Records
    blame: BlameRecords
    links: Rows
    gpus: Rows
    numbers: Mapping[str, Any]
    kept: Rows
    met: NDArray[np.bool_]
    promised: NDArray[np.bool_]
    ended: str
    sensitivity: Effects | None = None

    @property
    def pools(self) -> tuple[PoolSetting, ...]:
        return self.setting.pools

    @cached_property
    def requests(self) -> dict[str, NDArray[Any]]:
        return requests_of(self.records)

    @cached_property
    def waits(self) -> Waits:
        return waits_of(self.setting, self.records)

    @cached_property
    def uses(self) -> tuple[PoolUse, ...]:
        """By pool."""
        found = []
        for pool in self.pools:
            mine = (self.gpus["replica"] >= pool.first) & (self.gpus["replica"] < pool.first + pool.engines)
            busy_s = float(self.gpus["busy_s"][mine].mean()) if mine.any() else 0.0
            found.append(pool_use(pool, self.records, busy_s))
        return tuple(found)

    @cached_property
    def link_uses(self) -> tuple[LinkUse, ...]:
        return link_uses(self.links, self.setting.link_kinds, self.records.end_s)

    @cached_property
    def causes(self) -> tuple[Ints, NDArray[np.float64]]:
        """Ids and seconds by cause, from arrival to the end."""
        return self.blame.in_order()

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """Where the time of all requests went, the largest share first."""
        return self.shares_of(None)

    def shares_of(self, ids: Ints | None) -> tuple[Share, ...]:
        """Where the time of some requests went; None: of all."""
        seconds = self.seconds_of(ids)
        total = sum(seconds.values())
        found = [Share(kind, number, s / total, s) for (kind, number), s in seconds.items() if s > 0.0]
        return tuple(sorted(found, key=lambda one: -one.share))

    def seconds_of(self, ids: Ints | None) -> dict[tuple[str, int], float]:
        """Seconds by kind of time and pool (-1: of all pools)."""
        waits = self.waits.by_station(ids)
        found = {(station, number): s for (number, station), s in waits.items()}
        of, table = self.causes
        table = table if ids is None else table[np.isin(of, ids)]
        sums = dict(zip(CAUSES, table.sum(axis=0).tolist(), strict=True))
        for kind, names in GROUPS.items():
            found[kind, -1] = sum(sums[name] for name in names)
        lost = sums["preempted"] + sums["recompute"]
        failed = bool((self.requests["resubmissions"] > 0).any())
        found["failure" if failed else "KV blocks", -1] = lost
        apart = sum(s for (number, _), s in waits.items() if self.pools[number].role == "decode")
        found["hand_over", -1] = max(0.0, sums["hand_over"] - apart)
        merged = {key: s for key, s in found.items() if s > 0.0}
        if ("KV blocks", -1) in merged and len(self.pools) == 1:
            merged["KV blocks", 0] = merged.pop(("KV blocks", -1)) + merged.get(("KV blocks", 0), 0.0)
        return merged

    @cached_property
    def prompt_steps(self) -> tuple[Share, ...]:
        """What the steps that computed a request's own prompt went to, the largest share first."""
        sums = dict(zip(CAUSES, self.blame.ttft.in_order()[1].sum(axis=0).tolist(), strict=True))
        seconds = {
            kind: sum(sums[name] for name in names) for kind, names in GROUPS.items() if kind in INSIDE
        }
        total = sum(seconds.values())
        found = [Share(kind, -1, s / total, s) for kind, s in seconds.items() if s > 0.0]
        return tuple(sorted(found, key=lambda one: -one.share))

    @property
    def waiting_share(self) -> float:
        """Share of their time that requests wait to be let in, or in for room elsewhere."""
        return sum(one.share for one in self.shares if one.kind in HOLDUPS)

    @property
    def busy(self) -> float:
        """Share of the run in which the busiest pool is in a step."""
        return max((use.busy for use in self.uses), default=0.0)


@dataclass(frozen=True, slots=True)
class Share:
    """A kind of time, in the engines of one pool or (-1) of all, as a share of what requests spent."""

    kind: str
    pool: int
    share: float
    seconds: float


def is_idle(told: Told) -> bool:
    return told.busy < IDLE and told.waiting_share <= WAITING


def limits(told: Told) -> tuple[Share, ...]:
    """What limits, the first first; bubbles where stages stand idle although requests are there."""
    found = list(told.shares)
    if told.pools and all(pool.is_given for pool in told.pools):
        found = [
            Share("service", one.pool, one.share, one.seconds) if one.kind in GROUPS else one for one in found
        ]
    for number, use in enumerate(told.uses):
        if use.stages is not None and use.stages < BUBBLES:
            found.insert(0, Share("bubbles", number, 1.0 - use.stages, 0.0))
    return tuple(found)


def behind(told: Told, share: Share) -> Share | None:
    """What the steps of prompts are made of, where others' prompts hold requests up; else None."""
    if share.kind not in ("prompts", "interference", "steps") or told.pools[0].is_given:
        return None
    return next(iter(told.prompt_steps), None)


def words_of(told: Told, share: Share) -> str:
    """A kind of time in words, with the pool or the kind of link that it is of."""
    text = WORDS[share.kind]
    over = next((use.kind for use in told.link_uses if use.joins), None)
    if share.kind == "collectives" and over is not None:
        text += f" over {over}"
    pool = told.pools[share.pool] if share.pool >= 0 else None
    if pool is not None and pool.name and len(told.pools) > 1:
        text += f" of pool {pool.name}"
    return text
