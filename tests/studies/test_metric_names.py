"""Names of metrics, before a run and after it."""

from __future__ import annotations

import sim
from sim.studies.metric_names import metric_names
from tests.studies.scenarios import scenario


def test_every_number_of_a_run_has_its_name_before() -> None:
    tiers = {"engine.kv_tiers": {"host": {"capacity_bytes": 1e9}}}
    for change in ({}, tiers):
        found = sim.simulate(sim.with_changes(scenario(), change)).summary()
        numbers = {name for name, value in found.items() if isinstance(value, int | float)}
        assert numbers <= set(metric_names())


def test_a_summary_needs_no_polars_frame(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The workers of a sweep are forked, and polars' threads do not live through that."""
    import polars

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a polars frame is made where a forked worker would")

    for name in ("DataFrame", "Series", "LazyFrame", "from_dict", "from_dicts", "concat"):
        monkeypatch.setattr(polars, name, refused)
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    faulty = sim.with_changes(
        scenario(), {"faults": [{"at_s": 0.01, "until_s": 0.02, "place": "node0.gpu0", "capacity": 0.5}]}
    )
    summary = sim.simulate(faulty, seed=1).summary(percentiles=(99.9,))
    assert summary["completed"] == 10
    assert summary["blame"]
