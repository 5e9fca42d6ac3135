"""Where a run's requests stood: how far each station was used, and for which of them requests waited.

A station is what a request needs to go on: a place in the batch (a seat), KV blocks, tokens of a step, a
link. Waiting is charged by looking at the engine at a few instants of every wait: all seats taken, too few
free blocks for the first in line, a step full of prompts, or the step that was under way. Everything comes
from rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.results.over_time import blocks_in_use
from sim.results.records import Records
from sim.results.setting import PoolSetting, Setting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = Mapping[str, NDArray[Any]]

STATIONS = ("down", "batch", "seats", "KV blocks", "prompts", "steps")
"""What a request waits for before its steps: in the order in which the engine is asked."""
LOOKS = 8  # at the engine, in every wait
FULL = 0.9  # of the tokens of a step: it had no room for another prompt's chunk worth speaking of
ROWS_LOOKED_AT = 20_000  # waits of which each is looked at `LOOKS` times; of more, once


@dataclass(frozen=True)
class Visits:
    """Requests in the engines of one pool: who is in which engine from when to when, and who waited to get
    in.
    """

    replica: Ints
    start_s: Floats
    end_s: Floats
    blocks: Floats  # for all that each may come to hold
    waiting: Ints  # request ids
    waits_at: Ints  # the engine of each
    wait_start_s: Floats
    wait_end_s: Floats
    needs: Floats  # KV blocks of its prompt


@dataclass(frozen=True)
class Waits:
    """Seconds that requests waited, by request, pool and station (numbers of STATIONS)."""

    request_id: Ints
    pool: Ints
    station: Ints
    seconds: Floats

    def by_station(self, of: Ints | None = None) -> dict[tuple[int, str], float]:
        """Seconds by (pool, station), of all requests or of those named."""
        chosen = np.ones(len(self.seconds), bool) if of is None else np.isin(self.request_id, of)
        found: dict[tuple[int, str], float] = {}
        for number in np.unique(self.pool[chosen]).tolist():
            mine = chosen & (self.pool == number)
            sums = np.bincount(self.station[mine], self.seconds[mine], minlength=len(STATIONS))
            found |= {(number, STATIONS[i]): float(s) for i, s in enumerate(sums.tolist()) if s > 0.0}
        return found


@dataclass(frozen=True, slots=True)
class PoolUse:
    """Shares of the run: in steps with decodes alone (`decodes`), with prompts (`prompts`), the mean and the
    highest use of KV blocks and seats, and `stages`, the time in which a pipeline stage computes of that in
    which requests are there (None: no pipeline).
    """

    busy: float
    decodes: float
    prompts: float
    step_tokens: float
    kv: float
    kv_peak: float
    seats: float
    seats_peak: float
    stages: float | None = None


@dataclass(frozen=True, slots=True)
class LinkUse:
    """Links of one kind: the share of its capacity that the busiest carried, the mean of those in use, and
    the share of the run in which the busiest carried anything. `joins` two places: a memory that is read has
    a rate, too.
    """

    kind: str
    carried: float
    mean: float
    busy: float
    joins: bool


def requests_of(records: Records) -> dict[str, NDArray[Any]]:
    """Columns of the requests that were let in, with `left_s`: when each left, or the end of the run."""
    rows = records.requests
    let_in = rows["status"] != "rejected"
    found = {name: rows[name][let_in] for name in rows.kinds}
    left_s = np.fmin(found["finished_s"], found["aborted_s"])
    found["left_s"] = np.where(np.isnan(left_s), np.maximum(records.end_s, found["arrival_s"]), left_s)
    return found


def visits_of(pool: PoolSetting, records: Records, rows: Rows, *, unplaced: bool = False) -> Visits:
    """The visits of a pool; into a pool of decodes a request waits from the end of its prefill until blocks
    are reserved for it. `unplaced`: requests that no engine was chosen for yet wait here.
    """
    size, groups = _block_size(pool, records)
    whole = np.ceil((rows["prompt_tokens"] + rows["output_tokens"]) / size) * groups
    prompt = np.ceil(rows["prompt_tokens"] / size) * groups
    end_s = records.end_s
    hand_overs = {name: records.hand_overs[name] for name in records.hand_overs.kinds}
    place = np.argsort(rows["request_id"], kind="stable")
    handed = place[np.searchsorted(rows["request_id"], hand_overs["request_id"], sorter=place)]
    if pool.role == "decode":
        at, first_s = hand_overs["receiver"], hand_overs["prefilled_s"]
        start_s, left_s = hand_overs["reserved_s"], rows["left_s"][handed]
        row = handed
    else:
        row, at, first_s = np.arange(len(rows["request_id"])), rows["replica"].copy(), rows["arrival_s"]
        start_s, left_s = rows["admitted_s"], rows["left_s"].copy()
        at[handed] = hand_overs["sender"]
        left_s[handed] = np.where(np.isnan(hand_overs["prefilled_s"]), end_s, hand_overs["prefilled_s"])
        if pool.role == "both":
            left_s = rows["left_s"]
    mine = (at >= pool.first) & (at < pool.first + pool.engines)
    if unplaced:
        mine |= at < 0
    began = mine & ~np.isnan(start_s) & (at >= 0)
    waited_s = np.fmin(np.where(np.isnan(start_s), left_s, start_s), np.maximum(end_s, first_s))
    waits = mine & (waited_s > first_s)
    return Visits(
        at[began],
        start_s[began],
        np.maximum(left_s[began], start_s[began]),
        whole[row][began],
        rows["request_id"][row][waits],
        at[waits],
        first_s[waits],
        waited_s[waits],
        prompt[row][waits],
    )


def _block_size(pool: PoolSetting, records: Records) -> tuple[int, int]:
    sizes = [size for (replica, _), size in records.kv_blocks.pools.items() if replica in pool.replicas]
    return (sizes[0][1], sizes[0][2]) if sizes else (16, 1)


def waits_of(setting: Setting, records: Records) -> Waits:
    """What every request waited for until it was admitted, and until a decode engine had room for it."""
    rows, engines = requests_of(records), _Engines(records)
    entry = next((number for number, pool in enumerate(setting.pools) if pool.role != "decode"), 0)
    parts = [
        _waits(pool, setting, engines, visits_of(pool, records, rows, unplaced=number == entry))
        for number, pool in enumerate(setting.pools)
    ]
    ids, codes, seconds = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    pools = np.concatenate([np.full(len(one), number) for number, (one, _, _) in enumerate(parts)])
    return Waits(ids.astype(np.int64), pools, codes, seconds)


class _Engines:
    """Steps of the first stage and KV blocks by engine, each split once."""

    def __init__(self, records: Records) -> None:
        steps = records.steps
        first = steps["stage"] == 0
        names = ("replica", "start_s", "end_s", "prefill_tokens", "decode_tokens")
        self.steps = _by_replica({name: steps[name][first] for name in names}, "start_s")
        rows = records.kv_blocks
        self.kv = _by_replica({name: rows[name] for name in rows.kinds}, "at_s")
        self.of_blocks: dict[int, int] = {}
        for (replica, _), (blocks, _, _) in rows.pools.items():
            self.of_blocks[replica] = self.of_blocks.get(replica, 0) + blocks

    def step_at(self, replica: int, at_s: Floats) -> tuple[Rows, Ints, NDArray[np.bool_]]:
        """The steps of an engine, the row of the one under way at each instant, and whether there is one."""
        steps = self.steps.get(replica)
        if steps is None:
            return {}, np.zeros(len(at_s), np.int64), np.zeros(len(at_s), bool)
        latest = np.searchsorted(steps["start_s"], at_s, side="right") - 1
        row = np.maximum(latest, 0)
        return steps, row, (latest >= 0) & (at_s < np.maximum.accumulate(steps["end_s"])[row])


def _by_replica(columns: Rows, by: str) -> dict[int, dict[str, NDArray[Any]]]:
    """Rows of each engine, in order of one column."""
    order = np.lexsort((columns[by], columns["replica"]))
    of = columns["replica"][order]
    numbers, first = np.unique(of, return_index=True)
    ends = [*first.tolist()[1:], len(of)][: len(numbers)]
    return {
        number: {name: column[order[begin:end]] for name, column in columns.items()}
        for number, begin, end in zip(numbers.tolist(), first.tolist(), ends, strict=True)
    }


def _waits(
    pool: PoolSetting, setting: Setting, engines: _Engines, visits: Visits
) -> tuple[Ints, Ints, Floats]:
    looks = LOOKS if len(visits.waiting) <= ROWS_LOOKED_AT else 1
    fractions = (np.arange(looks) + 0.5) / looks
    length_s = visits.wait_end_s - visits.wait_start_s
    at_s = (visits.wait_start_s[:, None] + fractions * length_s[:, None]).ravel()
    replica = np.repeat(visits.waits_at, looks)
    codes = np.full(len(at_s), STATIONS.index("steps"))
    down = [fault for fault in setting.faults if fault.stops]
    for number in np.unique(replica).tolist():
        here = np.flatnonzero(replica == number)
        if number >= 0:
            codes[here] = _stations_at(pool, engines, visits, number, at_s[here])
        if down:
            idle = ~engines.step_at(number, at_s[here])[2] & (codes[here] == STATIONS.index("steps"))
            for fault in down:
                until_s = np.inf if fault.until_s is None else fault.until_s
                failed = idle & (at_s[here] >= fault.at_s) & (at_s[here] < until_s)
                codes[here[failed]] = STATIONS.index("down")
    return np.repeat(visits.waiting, looks), codes, np.repeat(length_s / looks, looks)


def _stations_at(pool: PoolSetting, engines: _Engines, visits: Visits, replica: int, at_s: Floats) -> Ints:
    """The station that holds up those who wait for one engine, at each of these instants."""
    mine = visits.replica == replica
    starts, ends = np.sort(visits.start_s[mine]), np.sort(visits.end_s[mine])
    inside = np.searchsorted(starts, at_s, side="right") - np.searchsorted(ends, at_s, side="right")
    codes = np.full(len(at_s), STATIONS.index("steps"))
    codes[_prompts_at(pool, engines, replica, at_s)] = STATIONS.index("prompts")
    codes[_blocks_lack(pool, engines, visits, replica, at_s) & (inside > 0)] = STATIONS.index("KV blocks")
    codes[inside >= pool.seats] = STATIONS.index("seats")
    if pool.waits_for_batch:
        codes[inside > 0] = STATIONS.index("batch")
    return codes


def _blocks_lack(
    pool: PoolSetting, engines: _Engines, visits: Visits, replica: int, at_s: Floats
) -> NDArray[np.bool_]:
    """Whether too few blocks are free for the prompt of the request that has waited longest."""
    line = np.flatnonzero(visits.waits_at == replica)
    if replica not in engines.kv or not len(line):
        return np.zeros(len(at_s), bool)
    if pool.reserves_all:
        mine = visits.replica == replica
        used = _sum_until(visits.start_s[mine], visits.blocks[mine], at_s)
        used -= _sum_until(visits.end_s[mine], visits.blocks[mine], at_s)
    else:
        used = np.sum(list(blocks_in_use(at_s, engines.kv[replica]).values()), axis=0)
    line = line[np.argsort(visits.wait_start_s[line], kind="stable")]
    # The first in line is the one that came first of those not yet let in: the highest end so far tells.
    until_s = np.maximum.accumulate(visits.wait_end_s[line])
    head = np.minimum(np.searchsorted(until_s, at_s, side="right"), len(line) - 1)
    lacks: NDArray[np.bool_] = engines.of_blocks[replica] - used < visits.needs[line][head]
    return lacks


def _sum_until(times_s: Floats, amounts: Floats, at_s: Floats) -> Floats:
    order = np.argsort(times_s, kind="stable")
    sums: Floats = np.concatenate(([0.0], np.cumsum(amounts[order])))
    return sums[np.searchsorted(times_s[order], at_s, side="right")]


def _prompts_at(pool: PoolSetting, engines: _Engines, replica: int, at_s: Floats) -> NDArray[np.bool_]:
    """Whether the step under way has prompts, and its tokens are all that it may have."""
    steps, row, under_way = engines.step_at(replica, at_s)
    if not steps:
        return under_way
    prompts = steps["prefill_tokens"][row]
    full = prompts + steps["decode_tokens"][row] >= FULL * pool.step_tokens
    found: NDArray[np.bool_] = under_way & (prompts > 0) & full
    return found


# ---- how far each station was used


def pool_use(pool: PoolSetting, records: Records, busy_s: float) -> PoolUse:
    """How far the stations of a pool were used; `busy_s` is the mean of its GPUs' seconds in steps."""
    end_s = records.end_s or 1.0
    steps = {name: records.steps[name] for name in records.steps.kinds}
    mine = (steps["replica"] >= pool.first) & (steps["replica"] < pool.first + pool.engines)
    first = mine & (steps["stage"] == 0)
    length_s = (steps["first_step_s"] + steps["last_step_s"]) / 2 * steps["steps"]
    engine_s = end_s * pool.engines
    with_prompts = first & (steps["prefill_tokens"] > 0)
    tokens = steps["prefill_tokens"] + steps["decode_tokens"]
    prompts_s = float(length_s[with_prompts].sum())
    full_s = float((length_s * np.minimum(1.0, tokens / pool.step_tokens))[with_prompts].sum())
    in_steps_s = float(length_s[first].sum())
    visits = visits_of(pool, records, requests_of(records))
    seats, seats_peak = _seats(visits, pool, end_s)
    kv, kv_peak = _kv(pool, records, end_s)
    stages = None
    if pool.stages > 1:
        there_s = sum(_occupied_s(visits, replica) for replica in pool.replicas)
        stages = min(1.0, float(length_s[mine].sum()) / pool.stages / there_s) if there_s else None
    return PoolUse(
        busy_s / end_s if busy_s else min(1.0, in_steps_s / engine_s),
        (in_steps_s - prompts_s) / engine_s,
        prompts_s / engine_s,
        full_s / prompts_s if prompts_s else 0.0,
        kv,
        kv_peak,
        seats,
        seats_peak,
        stages,
    )


def _seats(visits: Visits, pool: PoolSetting, end_s: float) -> tuple[float, float]:
    """Mean and highest share of the seats that are taken."""
    if not len(visits.start_s):
        return 0.0, 0.0
    mean = float((visits.end_s - visits.start_s).sum()) / (end_s * pool.seats * pool.engines)
    peak = 0
    for replica in np.unique(visits.replica).tolist():
        mine = visits.replica == replica
        starts, ends = np.sort(visits.start_s[mine]), np.sort(visits.end_s[mine])
        inside = np.arange(1, len(starts) + 1) - np.searchsorted(ends, starts, side="right")
        peak = max(peak, int(inside.max()))
    return mean, peak / pool.seats


def _occupied_s(visits: Visits, replica: int) -> float:
    """Seconds in which at least one request is in an engine."""
    mine = visits.replica == replica
    order = np.argsort(visits.start_s[mine], kind="stable")
    starts, ends = visits.start_s[mine][order], visits.end_s[mine][order]
    if not len(starts):
        return 0.0
    until = np.maximum.accumulate(ends)
    gaps = np.maximum(0.0, starts[1:] - until[:-1])
    return float(until[-1] - starts[0] - gaps.sum())


def _kv(pool: PoolSetting, records: Records, end_s: float) -> tuple[float, float]:
    """Mean and highest share of the KV blocks of an engine that sequences hold."""
    rows = {name: records.kv_blocks[name] for name in records.kv_blocks.kinds}
    mine = (rows["replica"] >= pool.first) & (rows["replica"] < pool.first + pool.engines)
    rows = {name: column[mine] for name, column in rows.items()}
    sizes = {key: size[0] for key, size in records.kv_blocks.pools.items() if key[0] in pool.replicas}
    if not sizes or not len(rows["at_s"]):
        return 0.0, 0.0
    at_s = np.linspace(0.0, end_s, 200)
    in_use = blocks_in_use(at_s, rows)
    total = sum(sizes.values())
    mean = float(np.sum([held.mean() for held in in_use.values()])) / total
    least = min(sizes.values())
    peak = float(np.maximum(rows["before"], rows["blocks"]).max()) / least
    return mean, min(1.0, peak)


def link_uses(links: Rows, kinds: Mapping[str, str], end_s: float) -> tuple[LinkUse, ...]:
    """The use of each kind of link that carried anything, the most used first."""
    if not end_s:
        return ()
    names = [kinds.get(name, "links") for name in links["link"].tolist()]
    return tuple(sorted(_by_kind(links, names, end_s), key=lambda one: -one.carried))


def _by_kind(links: Rows, names: list[str], end_s: float) -> Iterator[LinkUse]:
    of = np.array(names, dtype=object)
    for kind in dict.fromkeys(names):
        used = (of == kind) & (links["n_bytes"] > 0)
        if used.any():
            carried = links["n_bytes"][used] / (np.maximum(links["bytes_per_s"][used], 1e-300) * end_s)
            busy = links["busy_s"][used] / end_s
            joins = any("->" in name for name in links["link"][used].tolist())
            yield LinkUse(kind, float(carried.max()), float(carried.mean()), float(busy.max()), joins)
