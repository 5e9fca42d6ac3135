"""How far engines and links were used while a run went on: one value per interval, by engine and by link.

Everything comes from rows. What an engine did is exact to the width of an interval. Of a link the rows have
the bytes of the whole run; over time they are spread as the tokens of the steps that put them there, and
those of KV caches as the transfers went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.results.over_time import blocks_in_use, spread_until
from sim.results.records import Records
from sim.results.setting import PoolSetting, Setting, Surroundings, Traffic
from sim.results.stations import requests_of, visits_of

Floats = NDArray[np.float64]
Rows = Mapping[str, NDArray[Any]]

INTERVALS = 120  # of a chart that is 760 pixels wide


@dataclass(frozen=True)
class EngineOverTime:
    """One engine in every interval: requests that run and wait at its end; tokens/s of answers and of
    prompts, and the share of its GPUs' time in steps, over it; KV blocks that sequences hold at its end, of
    `of_blocks`.
    """

    replica: int
    running: Floats
    waiting: Floats
    output_tokens_per_s: Floats
    prompt_tokens_per_s: Floats
    busy: Floats
    kv_blocks: Floats
    of_blocks: int


def edges_of(end_s: float, intervals: int = INTERVALS) -> Floats:
    """The edges of the intervals of a run.

    >>> edges_of(2.0, 4).tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    return np.linspace(0.0, end_s or 1.0, intervals + 1)


def engines_over_time(records: Records, setting: Setting, edges: Floats) -> tuple[EngineOverTime, ...]:
    """Every engine of every pool, in order."""
    requests = requests_of(records)
    steps = {name: records.steps[name] for name in records.steps.kinds}
    seconds = (steps["first_step_s"] + steps["last_step_s"]) / 2 * steps["steps"]
    blocks = blocks_in_use(edges[1:], {name: records.kv_blocks[name] for name in records.kv_blocks.kinds})
    width_s = float(edges[1] - edges[0])
    entry = next((number for number, pool in enumerate(setting.pools) if pool.role != "decode"), 0)
    found = []
    for number, pool in enumerate(setting.pools):
        visits = visits_of(pool, records, requests, unplaced=number == entry and pool.engines == 1)
        for replica in pool.replicas:
            of = steps["replica"] == replica
            first = of & (steps["stage"] == 0)

            def rate(rows: NDArray[np.bool_], amounts: Floats) -> Floats:
                begin_s, end_s = steps["start_s"][rows], steps["end_s"][rows]
                until = spread_until(edges, begin_s, end_s, amounts[rows].astype(np.float64))
                return np.maximum(0.0, np.diff(until)) / width_s

            held = [counts for (owner, _), counts in blocks.items() if owner == replica]
            sizes = [size[0] for (owner, _), size in records.kv_blocks.pools.items() if owner == replica]
            here, waits = visits.replica == replica, np.isin(visits.waits_at, _places(replica, pool))
            found.append(
                EngineOverTime(
                    replica,
                    _there(edges[1:], visits.start_s[here], visits.end_s[here]),
                    _there(edges[1:], visits.wait_start_s[waits], visits.wait_end_s[waits]),
                    rate(first, steps["decode_tokens"] * steps["steps"]),
                    rate(first, steps["prefill_tokens"] * steps["steps"]),
                    np.minimum(1.0, rate(of, seconds) / pool.stages),
                    np.sum(held, axis=0) if held else np.zeros(len(edges) - 1),
                    sum(sizes),
                )
            )
    return tuple(found)


def _places(replica: int, pool: PoolSetting) -> list[int]:
    """Where those who wait for an engine are written to wait: a request without an engine waits for the only
    one there is.
    """
    return [replica, -1] if pool.engines == 1 else [replica]


def _there(at_s: Floats, starts_s: Floats, ends_s: Floats) -> Floats:
    come = np.searchsorted(np.sort(starts_s), at_s, side="right")
    gone = np.searchsorted(np.sort(ends_s), at_s, side="right")
    return (come - gone).astype(np.float64)


def links_over_time(
    records: Records, surroundings: Surroundings, links: Rows, edges: Floats
) -> dict[str, tuple[Floats, tuple[int, ...]]]:
    """Of every link that carried anything: the share of its capacity that it carried in every interval, and
    the numbers of the traffic that put it there. A link that nothing is known to use carries evenly.
    """
    profiles = _profiles(records, surroundings.traffic, edges)
    gpus_of = {replica: pool.gpus for pool in surroundings.setting.pools for replica in pool.replicas}
    width_s = float(edges[1] - edges[0])
    even = np.full(len(edges) - 1, 1.0 / (len(edges) - 1))
    found = {}
    for name, rate, total in zip(
        links["link"].tolist(), links["bytes_per_s"].tolist(), links["n_bytes"].tolist(), strict=True
    ):
        if not total > 0.0:
            continue
        numbers = tuple(
            number for number in surroundings.traffic_on.get(name, ()) if profiles[number].sum() > 0.0
        )
        handed = {n: profiles[n] for n in numbers if surroundings.traffic[n].kind == "hand-overs"}
        others = [profiles[n] for n in numbers if n not in handed]
        moved = sum(
            (handed[n] / max(1, gpus_of.get(surroundings.traffic[n].replica, 1)) for n in handed),
            np.zeros(len(edges) - 1),
        )
        if others:
            sums = np.sum(others, axis=0)
            of_caches = min(total, float(moved.sum()))
            carried = (total - of_caches) * sums / sums.sum()
            if of_caches:
                carried = carried + of_caches * moved / moved.sum()
        else:
            carried = total * (moved / moved.sum() if handed else even)
        found[name] = np.minimum(1.0, carried / (max(rate, 1e-300) * width_s)), numbers
    return found


def _profiles(records: Records, traffic: Sequence[Traffic], edges: Floats) -> list[Floats]:
    """Of every traffic its course: tokens of steps in every interval, or bytes of KV caches."""
    steps = {name: records.steps[name] for name in records.steps.kinds}
    tokens = (steps["prefill_tokens"] + steps["decode_tokens"]) * steps["steps"]
    moves = {name: records.hand_overs[name] for name in records.hand_overs.kinds}
    end_s = np.where(np.isnan(moves["arrived_s"]), float(edges[-1]), moves["arrived_s"])
    begin_s = np.where(np.isnan(moves["reserved_s"]), end_s, moves["reserved_s"])
    found = []
    for one in traffic:
        if one.kind == "hand-overs":
            of = (moves["sender"] == one.replica) & (moves["receiver"] == one.to)
            until = spread_until(edges, begin_s[of], end_s[of], moves["n_bytes"][of].astype(np.float64))
        else:
            of = (steps["replica"] == one.replica) & (steps["stage"] == one.stage)
            until = spread_until(
                edges, steps["start_s"][of], steps["end_s"][of], tokens[of].astype(np.float64)
            )
        found.append(np.maximum(0.0, np.diff(until)))
    return found
