"""Rows measured before a server was warm, found in the table alone.

More users never make a server faster. Where a row's latency is higher than that of the same configuration
with more users, the time of a first run (kernels compiled, graphs captured, caches filled) is in it: with ten
requests a user it weighs most where users are few.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from sim.validation.services.published_rows import Cells

VARYING = ("concurrency", "ttft_ms", "tpot_ms", "sample", "nonmonotonic")
MARGIN = 1.2  # assumed: runs of 26 rows that were published twice differ by up to 1.06 in 95 of 100 (TTFT)
REASON = (
    f"cold start: a latency is more than {100 * (MARGIN - 1.0):.0f} % above that of the same configuration "
    "with more users"
)


def cold_starts(rows: Sequence[Cells]) -> set[Hashable]:
    """The rows (`row_key`) of a table of closed loops that a cold start slowed down."""
    sweeps: dict[Hashable, list[Cells]] = {}
    for row in rows:
        sweeps.setdefault(row_key(row, VARYING), []).append(row)
    found: set[Hashable] = set()
    for sweep in sweeps.values():
        lowest = {"ttft_ms": float("inf"), "tpot_ms": float("inf")}  # of all rows with more users
        by_users: dict[int, list[Cells]] = {}
        for row in sweep:
            by_users.setdefault(int(row["concurrency"]), []).append(row)
        for users in sorted(by_users, reverse=True):
            for row in by_users[users]:
                if any(float(row[latency]) > MARGIN * value for latency, value in lowest.items()):
                    found.add(row_key(row))
            for latency in lowest:
                lowest[latency] = min(lowest[latency], *(float(row[latency]) for row in by_users[users]))
    return found


def row_key(row: Cells, without: Sequence[str] = ()) -> Hashable:
    """A row, or what of it is left without some columns, as a key."""
    return tuple((name, value) for name, value in row.items() if name not in without)
