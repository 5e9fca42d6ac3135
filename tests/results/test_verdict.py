"""The verdict of a run names the limit that it was built to have, with the numbers that its rows have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import sim
from sim.results.sentences import Sentence, Verdict
from sim.results.stations import STATIONS, waits_of
from sim.results.verdict_words import GROUPS, HELP, HOLDUPS, WORDS
from sim.setting import setting_of, store_kind
from tests.results.verdict_scenarios import BURST, KNOWN, described, poisson, pool, users

TOPICS = ("run", "load", "limit", "use", "links", "objectives", "slowest", "look", "changes", "help")


def numbers_of(verdict: Verdict, topic: str) -> dict[str, float | int | str]:
    return dict(next(one for one in verdict if one.topic == topic).numbers)


@pytest.mark.parametrize("name", KNOWN)
def test_the_verdict_names_the_limit_that_a_run_was_built_to_have(name: str) -> None:
    true, rest = KNOWN[name]
    verdict = sim.simulate(described(**rest)).explain()
    assert verdict.about("limit") == (true,)
    assert 3 <= len(verdict) <= 10
    assert all(str(one).endswith(".") and "{" not in str(one) for one in verdict)
    topics = [one.topic for one in verdict]
    assert topics == sorted(topics, key=TOPICS.index)


def test_every_kind_of_time_has_words_and_a_change_that_asks_for_less_of_it() -> None:
    kinds = {*GROUPS, *HOLDUPS, "failure", "hand_over", "service", "bubbles"}
    assert set(WORDS) == set(HELP) == kinds
    assert HOLDUPS == STATIONS


def test_waits_at_stations_add_up_to_the_time_until_requests_are_admitted() -> None:
    result = sim.simulate(described(engine={"max_num_seqs": 2}, workload=BURST))
    waits = waits_of(setting_of(result.scenario, result.deployment), result.records)
    rows = result.records.requests
    assert waits.seconds.sum() == pytest.approx((rows["admitted_s"] - rows["arrival_s"]).sum(), rel=1e-12)
    last = int(rows["request_id"][np.argmax(rows["admitted_s"])])
    own = waits.by_station(np.array([last]))
    assert sum(own.values()) == pytest.approx(rows["admitted_s"].max(), rel=1e-12)
    assert own[0, "seats"] > 0.9 * sum(own.values())


def test_the_first_line_has_machine_layout_pools_and_basis() -> None:
    pools = {
        "p": pool(2, "prefill", tensor_parallel_size=2),
        "d": pool(1, "decode", pipeline_parallel_size=2),
    }
    first = sim.simulate(described(pools=pools, workload=users(1, 1))).explain()[0]
    assert str(first).startswith(
        "llama-3-8b on nd-h100-v5, 6 of 8 GPUs (h100-sxm, 1 server), as p: 2 engines of TP 2; d: 1 engine of "
        "PP 2; kernels measured on h100-sxm, "
    )


def test_the_load_is_told_by_its_kind() -> None:
    fast = sim.simulate(described(engine={"max_num_seqs": 4}, workload=poisson(300, 60))).explain()
    assert fast.about("load") == ("saturated",)
    assert numbers_of(fast, "load")["came"] == pytest.approx(300, rel=0.5)
    assert "saturation" in fast.about("changes")[0]
    assert sim.simulate(described(workload=users(3, 6))).explain().about("load") == ("users",)


def test_objectives_are_told_by_class_and_by_length() -> None:
    classes = {
        "chat": {"prompt_tokens": 100, "output_tokens": 10, "slo": {"e2el_ms": 10_000}},
        "batch": {"prompt_tokens": 100, "output_tokens": 200, "slo": {"e2el_ms": 500}},
    }
    workload = {"arrivals": {"kind": "poisson", "rate_per_s": 5}, "requests": 30, "classes": classes}
    verdict = sim.simulate(described(workload=workload)).explain()
    assert verdict.about("objectives") == ("batch",)
    numbers = numbers_of(verdict, "objectives")
    assert (numbers["worst_share"], numbers["best_share"]) == (0.0, 1.0)
    assert numbers["output_tokens_longer"] == 0.0 or numbers["output_tokens_shorter"] == 1.0
    kept = sim.simulate(described(workload={**users(1, 2), "slo": {"e2el_ms": 10_000}})).explain()
    assert kept.about("objectives") == ("all",)
    assert sim.simulate(described(workload=users(1, 1))).explain().about("objectives") == ("none",)


def test_the_slowest_are_told_by_what_they_have_more_of_than_the_mean() -> None:
    verdict = sim.simulate(described(engine={"max_num_seqs": 2}, workload=BURST)).explain()
    assert verdict.about("slowest") == ("seats",)
    assert numbers_of(verdict, "slowest")["share"] > numbers_of(verdict, "limit")["share"]


def test_links_are_told_by_kind_with_what_the_busiest_carried() -> None:
    result = sim.simulate(described(engine={"tensor_parallel_size": 8}, workload=users(2, 4)))
    numbers = numbers_of(result.explain(), "links")
    assert numbers["kind_0"] == "nvlink4"
    links = result.links
    carried = (links["n_bytes"] / (links["bytes_per_s"] * result.end_s)).max()
    assert numbers["carried_0"] == pytest.approx(carried, rel=1e-12)
    named = setting_of(result.scenario, result.deployment).link_kinds
    assert all(name in named for name in links["link"])
    assert store_kind("node0.nvme3") == "nvme"


@dataclass(frozen=True)
class Mean:
    mean: float


@dataclass(frozen=True)
class Effect:
    key: str
    factor: float
    more: Mean
    elasticity: Mean
    is_clear: bool


@dataclass(frozen=True)
class Found:
    metric: str
    effects: tuple[Effect, ...]


def test_what_would_help_is_told_by_a_sensitivity_where_there_is_one() -> None:
    result = sim.simulate(described(workload=users(1, 2)))
    hbm = Effect("topology.gpus.h100-sxm.hbm_bytes_per_s", 1.1, Mean(-0.08), Mean(-0.85), is_clear=True)
    told = result.explain(Found("mean_tpot_ms", (hbm,)))[-1]
    assert str(told) == (
        "Of 1 numbers that were changed, topology.gpus.h100-sxm.hbm_bytes_per_s does most: 1.10 times it "
        "makes mean_tpot_ms -8.0%."
    )
    chance = Effect("router_staleness_s", 1.1, Mean(0.001), Mean(0.01), is_clear=False)
    assert result.explain(Found("mean_tpot_ms", (chance,)))[-1].about == "cannot tell"


def test_it_cannot_be_told_what_helps_where_two_things_are_alike() -> None:
    slow = {"host": {"step_s": 0.0045}, "async_scheduling": False}
    told = sim.simulate(described(engine=slow, workload=users(2, 6))).explain()[-1]
    assert told.about == "cannot tell"
    assert numbers_of_one(told) >= {"share", "share2", "help", "help2"}


def numbers_of_one(sentence: Sentence) -> set[str]:
    return set(sentence.numbers)


def test_a_run_of_which_every_request_was_refused_or_cut_has_a_verdict_too() -> None:
    refused = sim.simulate(described(engine={"max_model_len": 50}, workload=users(1, 2, 100)))
    assert "No request was let in" in str(refused.explain())
    cut = sim.with_changes(described(workload=poisson(50)), {"time_limit_s": 0.001})
    assert len(sim.simulate(cut).explain()) >= 3
