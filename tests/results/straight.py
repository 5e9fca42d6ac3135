"""Steps whose durations lie on a line, as the records take them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.results.records import StepRecords


def add_straight(
    rows: StepRecords,
    replica: int,
    start_s: float,
    end_s: float,
    n_steps: int,
    sequences: int,
    prefill_tokens: int,
    decode_tokens: int,
    first_step_s: float,
    last_step_s: float,
    **rest: Any,
) -> None:
    """`n_steps` steps from `start_s` to `end_s`, the first and last lasting as long as given."""
    seconds = np.linspace(first_step_s, last_step_s, n_steps)
    ends_s = start_s + np.cumsum(seconds)
    ends_s[-1] = end_s
    rows.add_steps(replica, start_s, ends_s, sequences, prefill_tokens, decode_tokens, **rest)
