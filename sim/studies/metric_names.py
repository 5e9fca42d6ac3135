"""The names under which a run may have numbers, known before any has run."""

from __future__ import annotations

from collections.abc import Iterable

from sim.inputs.errors import InputError
from sim.inputs.kv_tiers import TIERS
from sim.reading.problems import did_you_mean
from sim.results.columns import Table
from sim.results.energy import FLAT
from sim.results.kv_capacity import KEYS
from sim.results.metrics import summary
from sim.results.records import KV_TIER_COLUMNS, Records
from sim.runtime.kv.tier_rows import kv_tier_summary

BLOCKS = ("classes", "blame")  # no numbers, but blocks of them


def metric_names() -> tuple[str, ...]:
    """Those of `Result.summary()` that are numbers, or None."""
    of_requests = [name for name in summary(Records(), gpus=1) if name not in BLOCKS]
    tiers = Table(KV_TIER_COLUMNS)
    for tier in ("hbm", *TIERS):
        tiers.append(*({"text": tier, "count": 0, "number": 0.0}[kind] for kind in KV_TIER_COLUMNS.values()))
    return (*of_requests, *FLAT, *KEYS, *kv_tier_summary(tiers))


def check_metric(name: str, known: Iterable[str]) -> None:
    """InputError for a metric that a summary does not have."""
    if name not in known:
        raise InputError(f"there is no metric {name!r}{did_you_mean(name, known)}; p99_ttft_ms is one")
