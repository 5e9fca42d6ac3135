"""Watts and joules: laws that hold whatever the constants, counts held against the kernels that steps are
priced with, and what a run says where it knows nothing.
"""

from __future__ import annotations

from dataclasses import replace
from math import fsum
from typing import Any

import numpy as np
import pytest

import sim
from sim.catalog import load_gpu, load_model
from sim.cost.batch import Batch
from sim.cost.capped_cost import CappedCost
from sim.cost.kernels.kernels import KernelTiming, formula
from sim.cost.network import Network
from sim.cost.power import drawn_w
from sim.cost.stage_cost import StageCost
from sim.cost.step_cost import GivenCost
from sim.cost.step_work import StepWork
from sim.deployment import deployment_of
from sim.energy import MOST_STAGES
from sim.power_caps import power_cap_w
from sim.results.energy import TERMS, Energy, NoEnergy, energy_lines
from sim.results.metrics import meets
from tests.laws.key_scenarios import small

LENGTHS = {
    "prompt_tokens": {"kind": "uniform", "low": 30, "high": 600},
    "output_tokens": {"kind": "uniform", "low": 2, "high": 60},
}


def written(**more: Any) -> dict[str, Any]:
    return {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "workload": {"arrivals": {"kind": "poisson", "rate_per_s": 60}, "requests": 40, **LENGTHS},
        **more,
    }


def energy(described: dict[str, Any], **how: Any) -> Energy:
    found = sim.simulate(sim.Scenario.model_validate(described), **how).energy
    assert isinstance(found, Energy)
    return found


@pytest.fixture(scope="module")
def result() -> sim.Result:
    return sim.simulate(sim.Scenario.model_validate(written()))


@pytest.mark.parametrize("stages", [1, 2])
def test_energy_is_watts_integrated(stages: int) -> None:
    found = energy(written(engine={"pipeline_parallel_size": stages}))
    times, watts = found.over_time
    steps = np.diff(np.append(times, found.run_s))
    integral = float(np.dot(watts, steps)) + found.gpus * found.idle_w * times[0]
    assert integral == pytest.approx(found.gpu_j - found.terms_j["nvlink"], rel=1e-9)
    assert found.joules_between(0.0, found.run_s) == pytest.approx(integral, rel=1e-9)
    assert stages > 1 or found.peak_w == pytest.approx(found.row_w.max())
    assert set(found.terms_j) == set(TERMS) - {"server"}


def test_the_joules_of_requests_add_up_to_those_of_the_run(result: sim.Result) -> None:
    table = result.energy.by_request()  # type: ignore[union-attr]
    assert table["request_id"].n_unique() == 40
    total = fsum(table.drop("request_id").to_numpy().ravel())
    assert total == pytest.approx(result.energy.total_j, rel=1e-12)  # type: ignore[union-attr]


def test_a_folded_run_has_the_joules_of_a_played_one_to_the_last_bit(result: sim.Result) -> None:
    played = energy(written(), fold=False)
    assert played.terms_j == result.energy.terms_j  # type: ignore[union-attr]
    assert played.as_dict() == result.energy.as_dict()
    assert played.places == result.energy.places  # type: ignore[union-attr]


def test_stages_that_step_together_have_the_joules_of_played_ones_to_the_last_bit() -> None:
    described = written(engine={"pipeline_parallel_size": 2})
    assert energy(described).as_dict() == energy(described, fold=False).as_dict()


def test_without_work_a_gpu_draws_idle_power() -> None:
    workload = {"arrivals": {"kind": "constant", "rate_per_s": 0.001}, "requests": 2, **LENGTHS}
    found = energy(written(workload=workload))
    assert found.mean_gpu_w == pytest.approx(80.0, rel=1e-3)
    assert found.as_dict()["peak_gpu_w"] > 300.0


def test_a_run_without_a_step_has_idle_places() -> None:
    longer = {**written()["workload"], "prompt_tokens": {"kind": "fixed", "tokens": 200}}
    found = energy(written(engine={"max_model_len": 100}, workload=longer))
    assert not len(found.row_w)
    assert {one.gpu_peak_w for one in found.places} == {80.0}
    assert found.by_cause()["j_per_output_token"].is_null().all()


def test_twice_the_run_takes_twice_the_energy() -> None:
    def of(requests: int) -> float:
        kinds = {"prompt_tokens": 64, "output_tokens": 32}
        lengths = {name: {"kind": "fixed", "tokens": tokens} for name, tokens in kinds.items()}
        arrivals = {"kind": "constant", "rate_per_s": 2.0}
        found = energy(written(workload={"arrivals": arrivals, "requests": requests, **lengths}))
        return found.gpu_j - found.idle_w * found.run_s  # a run ends with its last request

    assert of(40) == pytest.approx(2.0 * of(20), rel=1e-9)


def test_the_energy_of_pools_adds_up() -> None:
    one = {"replicas": 1, "model": small("llama-3-8b")}
    both = energy(written(pools={"a": one, "b": one}, router="round_robin"))
    replicas = energy(written(replicas=2, router="round_robin"))
    assert both.terms_j == pytest.approx(replicas.terms_j, rel=1e-12)
    assert both.gpus == 2


@pytest.fixture(scope="module")
def two_kinds() -> sim.Result:
    """Five replicas of two H100s each on two servers, and one of two B200s."""
    model = {**small("llama-3-8b"), "kv_heads": 2, "heads": 4}
    pool = {"model": model, "engine": {"tensor_parallel_size": 2}}
    pools = {"a": {**pool, "gpu": "h100-sxm", "replicas": 5}, "b": {**pool, "gpu": "b200-sxm"}}
    return sim.simulate(
        sim.Scenario.model_validate(
            written(
                topology={
                    "name": "three",
                    "systems": {"a": "nd-h100-v5", "b": "nd-h100-v5", "c": "hgx-b200"},
                },
                pools=pools,
                router="round_robin",
                power={"servers_per_rack": 2},
            )
        )
    )


def test_watts_of_places_add_up_to_those_of_the_run(two_kinds: sim.Result) -> None:
    found = two_kinds.energy
    assert isinstance(found, Energy)
    table = found.by_place()
    for kind in ("gpu", "node", "rack", "pool"):
        here = table.filter(table["kind"] == kind)
        assert here["gpus"].sum() == found.gpus == 12
        assert here["gpu_mean_w"].sum() * found.run_s == pytest.approx(found.gpu_j, rel=1e-9)
        assert here["mean_w"].sum() * found.run_s == pytest.approx(found.total_j, rel=1e-9)
        assert (here["peak_w"] >= here["mean_w"] - 1e-9).all()
        assert here["gpu_peak_w"].sum() >= found.peak_w - 1e-9  # not all peak at the same instant
    pools = {row["name"]: row for row in table.filter(table["kind"] == "pool").to_dicts()}
    numbers = two_kinds.summary()["energy"]
    assert numbers["pools"]["a"]["mean_w"] == pools["a"]["mean_w"]
    assert numbers["racks"]["places"] == 2


def test_causes_add_up_to_the_joules_of_the_run(two_kinds: sim.Result) -> None:
    found = two_kinds.energy
    assert isinstance(found, Energy)
    table = found.by_cause()
    assert table["j"].sum() == pytest.approx(found.total_j, rel=1e-9)
    assert (table["j"] >= 0.0).all()
    assert table["j_per_output_token"].sum() == pytest.approx(found.as_dict()["j_per_output_token"], rel=1e-9)
    of_causes = {
        cause: fsum(value for (_, one), value in found.causes_j.items() if one == cause)
        for cause in ("compute", "hbm", "links", "idle")
    }
    computing = fsum(found.terms_j[term] for term in ("step", "tensor", "activations"))
    assert of_causes["compute"] == pytest.approx(computing)
    for cause, term in (("hbm", "hbm"), ("links", "nvlink"), ("idle", "idle")):
        assert of_causes[cause] == pytest.approx(found.terms_j[term], rel=1e-9)
    assert of_causes["links"] > 0.0


def test_what_stands_around_gpus_is_their_datasheets_most_at_full_draw() -> None:
    """DGX H100, 10.2 kW; DGX B200, 14.3 kW; GB200 NVL72, 120 kW."""
    for name, board_w, gpus, whole_w in (
        ("h100-sxm", 700, 8, 10.2e3), ("b200-sxm", 1000, 8, 14.3e3), ("gb200", 1200, 72, 120e3),
    ):  # fmt: skip
        power = load_gpu(name).power
        assert power is not None
        inside_w = board_w + sum(power.around_w.values())
        assert gpus * inside_w * (1 + power.fans) / (1 - power.conversion) == pytest.approx(whole_w, rel=3e-3)


def test_fans_and_conversion_take_their_shares(result: sim.Result) -> None:
    terms = result.energy.terms_j  # type: ignore[union-attr]
    inside_j = fsum(value for name, value in terms.items() if name not in ("fans", "conversion"))
    assert terms["fans"] == pytest.approx(0.32 * inside_j)
    assert terms["conversion"] == pytest.approx(0.04 * result.energy.total_j)  # type: ignore[union-attr]
    assert terms["host"] == pytest.approx(146.0 * result.energy.run_s)  # type: ignore[union-attr]


def test_a_tray_is_a_server_where_a_node_is_a_rack_and_unknown_racks_say_why(result: sim.Result) -> None:
    rack = energy(written(topology="gb200-nvl72", replicas=5, router="round_robin"))
    nodes = [one for one in rack.places if one.kind == "node"]
    assert [(one.name, one.gpus) for one in nodes] == [("node0.tray0", 4), ("node0.tray1", 1)]
    assert [one.gpus for one in rack.places if one.kind == "rack"] == [5]
    numbers = result.summary()["energy"]
    assert "servers_per_rack" in numbers["racks"]["unavailable"]
    assert numbers["nodes"]["places"] == 1


def test_a_gpu_with_no_word_of_its_server_has_watts_of_gpus_alone() -> None:
    found = energy(written(topology="hgx-b300"))
    numbers = found.as_dict(100.0)
    assert "host_w" in numbers["servers"]["unavailable"]
    assert numbers["j_per_output_token"] is None
    assert "output_tokens_per_s_per_drawn_mw" not in numbers
    assert numbers["nodes"]["of"] == "GPUs alone"
    assert any("unavailable, because b300" in line for line in energy_lines(numbers, {}))


def test_tokens_of_a_megawatt_are_objectives_of_which_more_is_better(result: sim.Result) -> None:
    numbers = result.summary()
    for name in ("output_tokens_per_s_per_mw", "output_tokens_per_s_per_drawn_mw"):
        assert meets(numbers, {name: 0.9 * numbers[name]})
        assert not meets(numbers, {name: 1.1 * numbers[name]})
    drawn_mw = result.energy.total_j / result.energy.run_s / 1e6  # type: ignore[union-attr]
    assert numbers["output_tokens_per_s_per_drawn_mw"] == pytest.approx(
        numbers["output_throughput"] / drawn_mw
    )


def test_pools_of_two_kinds_of_gpu_idle_each_at_its_own_watts() -> None:
    one = {"replicas": 1, "model": small("llama-3-8b")}
    pools = {"a": {**one, "gpu": "h100-sxm"}, "b": {**one, "gpu": "b200-sxm"}}
    topology = {"name": "two", "systems": {"a": "nd-h100-v5", "b": "hgx-b200"}}
    found = energy(written(topology=topology, pools=pools, router="round_robin"))
    times, watts = found.over_time
    integral = float(np.dot(watts, np.diff(np.append(times, found.run_s)))) + 274.0 * times[0]
    assert found.gpus * found.idle_w == pytest.approx(80.0 + 194.0)
    assert integral == pytest.approx(found.gpu_j - found.terms_j["nvlink"], rel=1e-9)


def test_each_replica_of_one_pool_draws_what_its_own_kind_of_gpu_does() -> None:
    topology = {"name": "two", "systems": {"a": "nd-h100-v5", "b": "hgx-b200"}}
    limits = {"gpu_cap_w": 300, "servers_per_rack": 1}
    found = energy(written(topology=topology, replicas=16, router="round_robin", power=limits))
    assert set(found.row_idle_w[found.row_stage >= 8 * MOST_STAGES].tolist()) == {194.0}
    assert set(found.row_idle_w[found.row_stage < 8 * MOST_STAGES].tolist()) == {80.0}
    assert found.row_w.max() <= 300.0 * (1.0 + 1e-9)


def test_what_flows_is_what_is_asked_for_up_to_the_limit() -> None:
    flowing = drawn_w(np.array([10.0, 350.0, 700.0, 1e6]), 700.0)
    assert flowing[0] == pytest.approx(10.0, rel=1e-6)
    assert flowing[1] == pytest.approx(350.0, rel=0.02)
    assert flowing[2] == pytest.approx(700.0 / 2**0.25)
    assert flowing[3] == pytest.approx(700.0)
    assert (np.diff(flowing) > 0.0).all()


@pytest.mark.parametrize(
    ("model", "ranks", "weights"),
    [("llama-3.1-70b", 4, "bf16"), ("qwen3-30b-a3b", 2, "bf16"), ("deepseek-v3", 8, "fp8_block")],
)
@pytest.mark.parametrize("decodes", [8, 256])
def test_bytes_and_flops_of_a_step_are_those_of_its_kernels(
    model: str, ranks: int, weights: str, decodes: int
) -> None:
    """HBM bytes, and the FLOPs of products, by another way: the sums over the kernels of the priced step."""
    gpu = load_gpu("h100-sxm" if model != "deepseek-v3" else "b200-sxm")
    scenario = sim.Scenario.model_validate(
        {
            "topology": "nd-h100-v5" if model != "deepseek-v3" else "hgx-b200",
            "model": load_model(model),
            "precision": {"weights": weights},
            "engine": {"tensor_parallel_size": ranks, "max_num_seqs": 256, "max_model_len": 4096},
            "workload": "single-user",
        }
    )
    network = Network(scenario.wired.graph)
    shard = replace(deployment_of(scenario, network).replicas[0].shards[0])
    context = 1000.0
    batch = Batch((), decodes, decodes * context, decodes)
    one = np.array([float(decodes)])
    work = StepWork(shard).of(np.zeros(1), one, one, one * context)
    priced = _memory_s(shard, network, batch) * gpu.hbm_bytes_per_s
    # Kernels reach 0.7 to 0.9 of the rate; experts in 8 bits on B200 were fitted at up to 1.3 of it, with a
    # time for every token beside.
    assert 0.7 < float(work.hbm_bytes[0]) / priced < (1.05 if model != "deepseek-v3" else 1.3)


def test_values_of_a_token_are_passes_over_its_activations() -> None:
    scenario = sim.Scenario.model_validate(written(engine={"tensor_parallel_size": 2}))
    shard = deployment_of(scenario, Network(scenario.wired.graph)).replicas[0].shards[0]
    one, none = np.ones(1), np.zeros(1)
    done = StepWork(shard).of(none, one, one, one * 100.0)
    a_layer = 8 * 4096 + 3 * (14336 + 4096)
    assert done.values[0] == (shard.layers * a_layer + 8 * shard.model.vocab) / 2


def _memory_s(shard: Any, network: Network, batch: Batch) -> float:
    """Seconds in which the kernels of a step would move their bytes at the rates that they reach: more
    than at the datasheet's rate.
    """

    def meter(gpu: Any, op: str, **sizes: Any) -> KernelTiming:
        moved = formula(gpu, op, **sizes).memory_s
        return KernelTiming(moved, 0.0 * moved, 0.0 * moved, moved)

    free = frozenset({"collective_latency", "collective_bytes", "host"})
    return StageCost(shard, network, free, meter).step(batch)[0]


def test_a_gpu_without_constants_has_no_watts_and_says_so() -> None:
    found = sim.simulate(
        sim.Scenario.model_validate({**written(prices={"gpu_hour": 1, "kwh": 1}), "topology": "l40s-8"})
    )
    numbers = found.summary()
    assert isinstance(found.energy, NoEnergy)
    assert "l40s" in numbers["energy"]["unavailable"]
    assert numbers["mean_gpu_w"] is None
    assert numbers["j_per_output_token"] is None
    assert "kwh needs watts" in numbers["cost"]["unavailable"]


def test_dollars_are_hours_of_all_gpus_over_tokens(result: sim.Result) -> None:
    priced = sim.simulate(sim.with_changes(result.scenario, {"prices": {"gpu_hour": 2.0, "kwh": 0.1}}))
    numbers = priced.summary()
    assert isinstance(priced.energy, Energy)
    kilowatts = priced.energy.total_j / priced.energy.run_s / 1e3
    assert numbers["cost"]["usd_per_hour"] == pytest.approx(2.0 + 0.1 * kilowatts)
    tokens_per_hour = numbers["output_throughput"] * 3600
    expected = numbers["cost"]["usd_per_hour"] / tokens_per_hour * 1e6
    assert numbers["usd_per_million_output_tokens"] == pytest.approx(expected)
    assert "cost" not in result.summary()


@pytest.mark.parametrize(
    ("prices", "what"),
    [
        ({}, "write one of gpu_hour and published"),
        ({"gpu_hour": 1, "published": "rented_3_years"}, "write one of gpu_hour and published"),
        ({"published": "rented_3_years", "kwh": 0.1}, "include electricity"),
        ({"gpu_hour": True}, "is not a number"),
        ({"gpu_hour": -1}, "greater than or equal to 0"),
    ],
)
def test_prices_that_contradict_themselves_are_refused(prices: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        sim.Scenario.model_validate(written(prices=prices))


# ---- limits


def capped(result: sim.Result, **power: Any) -> sim.Result:
    return sim.simulate(sim.with_changes(result.scenario, {"power": power}))


def test_a_limit_that_no_step_reaches_changes_no_record(result: sim.Result) -> None:
    loose = capped(result, gpu_cap_w=700.0)
    assert loose.requests.equals(result.requests)
    assert loose.energy.as_dict() == result.energy.as_dict()  # type: ignore[union-attr]
    words = loose.summary()["keys"]["did_not_bind"]["power.gpu_cap_w"]
    assert words.startswith("the hottest step drew ")


def test_steps_slow_down_until_none_draws_more_than_its_limit(result: sim.Result) -> None:
    ends = [result.end_s]
    for cap_w in (420.0, 250.0):
        tight = capped(result, gpu_cap_w=cap_w)
        assert isinstance(tight.energy, Energy)
        assert tight.energy.row_w.max() == pytest.approx(cap_w)
        assert tight.summary()["keys"]["acted"][-1] == "power.gpu_cap_w"
        ends.append(tight.end_s)
    assert ends == sorted(ends)
    assert ends[-1] > ends[0]


def test_a_capped_run_folds_to_the_last_bit() -> None:
    """The limit binds in some steps only."""
    workload = {"arrivals": {"kind": "poisson", "rate_per_s": 60}, "requests": 10, **LENGTHS}
    described = written(engine={"tensor_parallel_size": 2}, power={"gpu_cap_w": 460.0}, workload=workload)
    one, other = (sim.simulate(sim.Scenario.model_validate(described), fold=fold) for fold in (True, False))
    assert one.energy.row_w.min() < 450.0 < one.energy.row_w.max()  # type: ignore[union-attr]
    assert one.requests.equals(other.requests)
    assert one.energy.as_dict() == other.energy.as_dict()


def test_a_step_under_its_limit_lasts_as_the_measured_law_says() -> None:
    """A GB300 multiplies at 617 TFLOP/s under 500 W, and at 1,600 to 2,174 under its 1,400 W."""
    scenario = sim.Scenario.model_validate(
        written(topology="gb300-nvl72", power={"gpu_cap_w": 500.0}, model=small("llama-3-8b", 2))
    )
    shard = deployment_of(scenario, Network(scenario.wired.graph)).replicas[0].shards[0]
    so_short_s = 1e-6  # that more is asked for than the board allows
    slowed_s, _ = CappedCost(GivenCost(so_short_s), shard).step(Batch(((8192, 0),), 0, 0, 1))
    assert slowed_s / so_short_s == pytest.approx(((1400 - 194) / (500 - 194)) ** (1 / 1.25), rel=1e-3)
    assert 617 / 2174 < so_short_s / slowed_s < 617 / 1600


def test_a_racks_limit_is_shared_out_and_never_passed() -> None:
    """16 H100s and 227 W around each, times 1.375 for fans and conversion."""
    limits = {"rack_cap_w": 14.2e3, "servers_per_rack": 2}
    workload = {"arrivals": {"kind": "burst"}, "requests": 16, **LENGTHS}
    described = written(nodes=2, replicas=16, router="round_robin", power=limits, workload=workload)
    scenario = sim.Scenario.model_validate(described)
    cap_w = power_cap_w(scenario, ["node0.gpu0", "node1.gpu7"])
    assert cap_w == pytest.approx(14.2e3 / 1.375 / 16 - 227.0)
    result = sim.simulate(scenario)
    assert isinstance(result.energy, Energy)
    (rack,) = (one for one in result.energy.places if one.kind == "rack")
    assert rack.peak_w is not None
    assert rack.peak_w <= 14.2e3 * (1 + 1e-9)
    assert result.energy.row_w.max() == pytest.approx(cap_w)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"power": {"gpu_cap_w": 60}}, "gpu_cap_w = 60 leaves 60 W a GPU: must be more than the 80 W"),
        ({"power": {"rack_cap_w": 4e4}}, "power.servers_per_rack says it"),
        ({"power": {"rack_cap_w": 2e3, "servers_per_rack": 1}}, "rack_cap_w: 6 kW leaves 347 W a GPU"),
        ({"topology": "l40s-8", "power": {"gpu_cap_w": 200}}, "needs the watts of a l40s"),
        ({"topology": "hgx-b300", "power": {"rack_cap_w": 4e4, "servers_per_rack": 2}}, "no host_w"),
    ],
)
def test_limits_that_cannot_be_are_refused_with_what_can(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(sim.InfeasibleError, match=what):
        sim.simulate(sim.Scenario.model_validate(written(**changes)))
