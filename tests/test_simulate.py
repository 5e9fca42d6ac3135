"""One run: where it ends, what it refuses, and what a script may run beside it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import simpy

import sim
from sim.results.over_time import over_time
from sim.runtime.fabric import Fabric
from tests.scenario.small import scenario


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    poisson = {"arrivals": {"kind": "poisson", "rate_per_s": 4.0}, "prompt_tokens": 50}
    drawn = scenario(workload={**poisson, "output_tokens": 5, "requests": 5})
    first, again, other = (sim.simulate(drawn, seed).requests for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_a_limit_ends_a_run_there_and_counts_what_is_open() -> None:
    whole = sim.simulate(scenario())
    cut = sim.simulate(sim.with_changes(scenario(), {"time_limit_s": whole.end_s / 2}))
    assert cut.end_s == whole.end_s / 2
    assert cut.summary()["unfinished"] >= 1
    assert cut.unfinished
    assert whole.unfinished == ()


def test_a_run_without_a_limit_ends_with_its_last_request_whatever_comes_later() -> None:
    run = sim.simulate(scenario(faults=[{"at_s": 1e6, "replica": 0}]))
    assert run.end_s == run.requests["finished_s"].max()


@pytest.mark.parametrize(
    ("change", "refusal", "message"),
    [
        ({"time_limit_s": 0.0}, sim.InputError, "time_limit_s = 0: must be more than 0"),
        ({"default_model": "x"}, sim.InfeasibleError, "'x' is served by no pool; llama-3-8b are"),
        ({"replicas": 9}, sim.InfeasibleError, "9"),
    ],
)
def test_a_run_that_cannot_be_is_refused(
    change: dict[str, Any], refusal: type[Exception], message: str
) -> None:
    with pytest.raises(refusal, match=message):
        sim.simulate(scenario(**change))


def test_requests_that_can_never_go_on_are_an_error_that_names_the_link_that_is_down() -> None:
    dead = {"at_s": 0.0, "link": "node0.gpu0->nvlink0"}
    with pytest.raises(sim.UnfinishedError, match=r"no way around node0\.gpu0->nvlink0, which is down"):
        sim.simulate(scenario(engine={"tensor_parallel_size": 2}, faults=[dead]))


def test_a_script_s_process_shares_clock_and_links_and_the_run_waits_for_it() -> None:
    link = "node0.gpu0->nvlink0"
    ended: list[float] = []

    def copy(env: simpy.Environment, fabric: Fabric) -> Generator[simpy.Event, object, object]:
        yield env.timeout(1e-3)
        yield fabric.transfer({link: 1e12})
        ended.append(env.now)

    two = scenario(engine={"tensor_parallel_size": 2})
    plain, shared = sim.simulate(two), sim.simulate(two, beside=[copy])
    assert ended[0] > shared.end_s  # of the last request
    assert shared.requests["finished_s"].max() > plain.requests["finished_s"].max()
    sent = shared.links.filter(shared.links["link"] == link)["n_bytes"].item()
    assert sent >= 1e12


def test_without_a_cause_the_run_is_as_if_it_cost_nothing() -> None:
    free = sim.simulate(scenario(), without=["kernel_latency"])
    assert free.blame["kernel_latency"].sum() == 0.0
    assert free.end_s < sim.simulate(scenario()).end_s


def test_rates_per_gpu_are_over_the_gpus_that_serve() -> None:
    """A replica on one of eight GPUs; with two data-parallel ranks on two."""
    for ranks in (1, 2):
        eight = scenario(topology="nd-h100-v5", engine={"data_parallel_size": ranks})
        numbers = sim.simulate(eight).summary()
        assert numbers["output_throughput"] / numbers["output_throughput_per_gpu"] == pytest.approx(ranks)


def test_the_blocks_of_a_long_answer_grow_by_the_layers_without_a_window_alone() -> None:
    model = sim.load_model("llama-3-8b").model_copy(
        update={"layers": 6, "sliding_window": 64, "sliding_layers": 4}
    )
    alone = {"arrivals": {"kind": "burst"}, "prompt_tokens": 200, "output_tokens": 400, "requests": 1}
    result = sim.simulate(
        sim.Scenario.model_validate({"topology": "nd-h100-v5", "model": dict(model), "workload": alone})
    )
    last = result.kv_blocks["before"].to_list()[-1]
    assert last == 38 + 2 * 5  # of 599 tokens, and the window in each of the two groups of two layers
    assert result.kv_blocks["blocks"].max() == 3 * 13  # the prompt in one step
    held = over_time(result.records, 1e-3)
    room = [blocks * 16 / 3 for blocks in held["kv_blocks"]]
    assert held["kv_tokens"].to_list() == pytest.approx(room, abs=3)
