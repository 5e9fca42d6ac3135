"""Output tokens of a stretch of a run, as services that report rates over time count them."""

from __future__ import annotations

import numpy as np

from sim.results.records import RequestRecords


def tokens_between(requests: RequestRecords, begin_s: float, end_s: float) -> float:
    """Output tokens of a stretch of time, those of each request spread evenly from its first to its last."""
    first, last = requests["first_token_s"], requests["finished_s"]
    inside_s = np.clip(np.minimum(last, end_s) - np.maximum(first, begin_s), 0.0, None)
    further = (requests["generated_tokens"] - 1) * inside_s / np.maximum(last - first, 1e-9)
    return float(further.sum() + ((first >= begin_s) & (first < end_s)).sum())
