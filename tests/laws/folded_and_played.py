"""Runs of one scenario, folded and played, and where their records differ.

Every number of every row of every table has to agree to 1e-9 of itself, and rows have to be as many and in
the same order. A duration is a difference of two readings of the clock and is known no better than those, so
`CLOCK_ULPS` units in the last place of the run's end are let pass as well: 1e-13 s in a run of a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars

from sim.scenario.scenario import Scenario
from sim.simulate import Beside, Result, simulate

TABLES = ("requests", "steps", "gaps", "blame", "links", "gpus", "hand_overs", "kv_tiers", "kv_blocks")
RELATIVE = 1e-9
CLOCK_ULPS = 64


def differences(
    scenario: Scenario | dict[str, Any], *, seed: int = 0, beside: Sequence[Beside] = ()
) -> tuple[list[str], Result]:
    """What is not the same in the two runs, in words; and the folded run."""
    if not isinstance(scenario, Scenario):
        scenario = Scenario.model_validate(scenario)
    folded = simulate(scenario, seed=seed, beside=beside)
    played = simulate(scenario, seed=seed, fold=False, beside=beside)
    found = []
    if not math.isclose(folded.end_s, played.end_s, rel_tol=RELATIVE):
        found.append(f"end_s: folded {folded.end_s!r}, played {played.end_s!r}")
    clock = CLOCK_ULPS * math.ulp(max(folded.end_s, 1.0))
    for name in TABLES:
        found += _table_differences(name, getattr(folded, name), getattr(played, name), clock)
    return found, folded


def _table_differences(
    name: str, folded: polars.DataFrame, played: polars.DataFrame, clock: float
) -> list[str]:
    if folded.shape != played.shape:
        return [f"{name}: folded {folded.shape}, played {played.shape}"]
    found = []
    for column in folded.columns:
        if folded[column].dtype != polars.Float64:
            if not folded[column].equals(played[column]):
                found.append(f"{name}.{column} differs")
            continue
        one, other = folded[column].to_numpy(), played[column].to_numpy()
        apart = np.abs(one - other) > RELATIVE * np.maximum(np.abs(one), np.abs(other)) + clock
        apart |= np.isnan(one) != np.isnan(other)
        if apart.any():
            row = int(np.flatnonzero(apart)[0])
            found.append(
                f"{name}.{column} in {int(apart.sum())} of {len(one)} rows; first row {row}: "
                f"folded {one[row]!r}, played {other[row]!r}"
            )
    return found
