"""Links and chips that fail during a run: what slows down, what comes back, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from sim.inputs.errors import InputError, UnfinishedError
from sim.scenario import Scenario, with_changes
from sim.simulate import simulate


def scenario(topology: str = "nd-h100-v5", **rest: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "topology": topology,
            "model": "llama-3-8b",
            "engine": {"tensor_parallel_size": 8},
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": 1},
                "prompt_tokens": 4096,
                "output_tokens": 20,
                "requests": 3,
            },
            **rest,
        }
    )


def bytes_s(run: Scenario) -> float:
    """Time of the collectives' bytes, and what they lost to slower links."""
    blame = simulate(run).blame
    return float((blame["collective_bytes"] + blame["sharing"]).sum())


def test_a_link_at_half_its_capacity_makes_the_ring_through_it_twice_as_slow() -> None:
    whole = scenario(engine={"tensor_parallel_size": 8, "disable_custom_all_reduce": True})
    half = with_changes(whole, {"faults": [{"at_s": 0, "link": "node0.gpu3->nvlink0", "capacity": 0.5}]})
    assert bytes_s(half) > 1.3 * bytes_s(whole)


def test_a_lost_chip_costs_every_gpu_its_share_of_the_links() -> None:
    rack = scenario("gb200-nvl72")
    chip = with_changes(rack, {"faults": [{"at_s": 0, "place": "node0.nvswitch5"}]})
    links = simulate(chip).links
    nvlinks = links.filter(links["link"].str.contains("nvlink0"))["bytes_per_s"]
    built = simulate(rack).links
    before = built.filter(built["link"].str.contains("nvlink0"))["bytes_per_s"]
    assert (nvlinks / before).to_list() == pytest.approx([17 / 18] * 144)


@pytest.mark.parametrize("until_s", [0.02, 0.0731])
def test_what_is_repaired_is_as_it_was_and_folding_does_not_show(until_s: float) -> None:
    fault = {"at_s": 0.01, "until_s": until_s, "place": "node0.gpu1", "capacity": 0.1}
    run = scenario(faults=[fault])
    folded, played = simulate(run), simulate(run, fold=False)
    assert folded.requests.equals(played.requests)
    assert folded.steps.equals(played.steps)
    whole = simulate(scenario())
    assert folded.end_s > whole.end_s
    last, of_whole = folded.requests.row(-1, named=True), whole.requests.row(-1, named=True)
    lasted, lasts = (one["finished_s"] - one["arrival_s"] for one in (last, of_whole))
    assert lasted == pytest.approx(lasts, rel=1e-9)


def test_a_run_that_waits_for_a_dead_link_says_so() -> None:
    dead = scenario(faults=[{"at_s": 0.01, "link": "nvlink0->node0.gpu2"}])
    with pytest.raises(UnfinishedError, match=r"nvlink0->node0\.gpu2, which is down"):
        simulate(dead)


def test_a_transfer_waits_for_its_link_to_come_back() -> None:
    down = scenario(faults=[{"at_s": 0.01, "until_s": 5.0, "link": "nvlink0->node0.gpu2"}])
    assert simulate(down).requests["finished_s"].min() > 5.0


def test_what_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"faults\.0\.place.*did you mean 'node0.gpu7'"):
        simulate(scenario(faults=[{"at_s": 0, "place": "node0.gpu77"}]))
    with pytest.raises(Exception, match="one link or of one place"):
        scenario(faults=[{"at_s": 0}])
