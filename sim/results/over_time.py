"""How a run looked at each moment: requests running and waiting, tokens per second, KV cache in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.results.records import Records
from sim.results.sojourn_times import sojourns

if TYPE_CHECKING:
    import polars

Floats = NDArray[np.float64]


def over_time(records: Records, every_s: float = 1.0, replica: int | None = None) -> polars.DataFrame:
    """One row per `every_s` seconds of simulated time, of one replica or of all.

    `t` is the end of the interval; `running` and `waiting` are the requests that were admitted and not, at
    `t` (a preempted request counts as running); `prompt_throughput` and `gen_throughput` are tokens per
    second of steps over the interval. `kv_blocks` are the KV blocks that sequences hold at `t`, from their
    admission to their end (or the end of their KV transfer), of `kv_blocks_total`; `kv_tokens` is what these
    blocks have room for, and `kv_cache_usage` the share in use. Names are those of vLLM's log. ValueError
    unless `every_s` is above zero.
    """
    import polars

    if not every_s > 0:
        raise ValueError(f"every_s = {every_s}: must be more than 0")
    ours = np.ones(len(records.requests), dtype=bool)
    steps = {name: records.steps[name] for name in records.steps.kinds}
    kv_rows = {name: records.kv_blocks[name] for name in records.kv_blocks.kinds}
    pools = records.kv_blocks.pools
    if replica is not None:
        ours = records.requests["replica"] == replica
        mine = steps["replica"] == replica
        steps = {name: column[mine] for name, column in steps.items()}
        mine = kv_rows["replica"] == replica
        kv_rows = {name: column[mine] for name, column in kv_rows.items()}
        pools = {pool: size for pool, size in pools.items() if pool[0] == replica}
    first_stage = steps["stage"] == 0
    steps = {name: column[first_stage] for name, column in steps.items()}
    names = ("arrival_s", "admitted_s", "finished_s", "aborted_s", "status")
    requests = {name: records.requests[name][ours] for name in names}
    arrived, admitted, gone = map(np.sort, sojourns(requests))
    last_s = max(records.end_s, *(float(np.nanmax(c, initial=0.0)) for c in (arrived, gone, steps["end_s"])))
    edges: Floats = np.arange(0, int(np.ceil(last_s / every_s)) + 1, dtype=np.float64) * every_s
    at_s = edges[1:]
    so_far = [np.searchsorted(column, at_s, side="right") for column in (arrived, admitted, gone)]
    in_use = blocks_in_use(at_s, kv_rows)
    blocks, tokens = np.zeros((2, len(at_s)))
    for pool, (_, block_size, groups) in pools.items():
        blocks += in_use[pool]
        tokens += in_use[pool] * block_size / groups
    of_blocks = sum(of_blocks for of_blocks, _, _ in pools.values())
    return polars.DataFrame(
        {
            "t": at_s,
            "running": so_far[1] - so_far[2],
            "waiting": so_far[0] - so_far[1],
            "prompt_throughput": np.diff(_tokens_until(edges, steps, "prefill_tokens")) / every_s,
            "gen_throughput": np.diff(_tokens_until(edges, steps, "decode_tokens")) / every_s,
            "kv_tokens": np.rint(tokens).astype(np.int64),
            "kv_blocks": np.rint(blocks).astype(np.int64),
            "kv_blocks_total": np.full(len(at_s), of_blocks),
            "kv_cache_usage": blocks / of_blocks if of_blocks else blocks,
        }
    )


def _tokens_until(edges: Floats, steps: dict[str, NDArray[Any]], kind: str) -> Floats:
    """Tokens of steps up to each edge; those of a row are taken as spread evenly over its time."""
    tokens = (steps["steps"] * steps[kind]).astype(np.float64)
    return spread_until(edges, steps["start_s"], steps["end_s"], tokens)


def spread_until(edges: Floats, begin_s: Floats, end_s: Floats, tokens: Floats) -> Floats:
    """The sum of amounts (tokens, say) up to each edge, each spread evenly from its begin to its end."""
    # far shorter than an interval is as good as a point, and spares the lines below their worst rounding
    short = end_s - begin_s < 1e-3 * float(edges[1] - edges[0]) if len(edges) > 1 else end_s <= begin_s
    order = np.argsort(end_s[short], kind="stable")
    reached = np.searchsorted(end_s[short][order], edges, side="right")
    total: Floats = np.concatenate(([0.0], np.cumsum(tokens[short][order])))[reached]
    # any other adds rate x (t - begin) from its begin to its end: slopes and offsets that change at the two
    begin_s, end_s, tokens = begin_s[~short], end_s[~short], tokens[~short]
    rates = tokens / (end_s - begin_s)
    for times_s, sign in ((begin_s, 1.0), (end_s, -1.0)):
        order = np.argsort(times_s, kind="stable")
        slopes = np.concatenate(([0.0], np.cumsum(sign * rates[order])))
        offsets = np.concatenate(([0.0], np.cumsum(sign * (rates * times_s)[order])))
        reached = np.searchsorted(times_s[order], edges, side="right")
        total = total + slopes[reached] * edges - offsets[reached]
    return total


def blocks_in_use(at_s: Floats, rows: Mapping[str, NDArray[Any]]) -> dict[tuple[int, int], Floats]:
    """KV blocks in use at each time, by (replica, rank); `rows` are columns of `KvBlockRecords`."""
    found: dict[tuple[int, int], Floats] = {}
    for replica, rank in sorted(set(zip(rows["replica"].tolist(), rows["rank"].tolist(), strict=True))):
        own = np.flatnonzero((rows["replica"] == replica) & (rows["rank"] == rank))
        own = own[np.argsort(rows["at_s"][own], kind="stable")]
        changes_s, before, after = (rows[name][own] for name in ("at_s", "before", "blocks"))
        last = np.maximum(np.searchsorted(changes_s, at_s, side="right") - 1, 0)
        following = np.minimum(last + 1, len(own) - 1)
        between = following > last
        length_s = np.where(between, changes_s[following] - changes_s[last], 1.0)
        grown = np.where(between, before[following] - after[last], 0)
        found[replica, rank] = after[last] + (at_s - changes_s[last]) / length_s * grown
    return found
