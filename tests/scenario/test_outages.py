"""Outages of a scenario: which parts a machine has, what each takes out, and what is drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.inputs.errors import InfeasibleError, InputError
from sim.inputs.outages import KINDS, Outage
from sim.reading.data_files import topologies
from sim.scenario.outages import left_out, outages_of
from sim.scenario.parts_that_fail import PartsThatFail


def parts(name: str, nodes: int = 1, **how: Any) -> PartsThatFail:
    return PartsThatFail(sim.load_topology(name, nodes=nodes), 2)


def scenario(topology: str = "nd-h100-v5", nodes: int = 2, **outages: Any) -> sim.Scenario:
    return sim.Scenario.model_validate(
        {
            "topology": topology,
            "nodes": nodes,
            "model": "llama-3-8b",
            "replicas": 2,
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": 10},
                "prompt_tokens": 100,
                "output_tokens": 20,
                "duration_s": 10,
            },
            "outages": outages,
        }
    )


def at(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"at": [{"kind": kind, "name": name, "at_s": 1, **more}]}


def of(one: sim.Scenario, seed: int = 0) -> tuple[Outage, ...]:
    return outages_of(one, seed)


# ---- kinds and their members


@pytest.mark.slow
def test_a_rack_has_every_kind_of_part() -> None:
    rack = parts("gb200-nvl72", 2)
    counts = {kind: len(rack.of_kind(kind)) for kind in KINDS}
    assert counts == {
        "gpu": 144, "hbm_stack": 1152, "nvswitch_chip": 36, "nvlink": 2592, "switch_tray": 18,
        "compute_tray": 36, "host": 36, "noisy_host": 36, "nic": 144, "cable": 176, "rail": 4, "leaf": 8,
        "spine": 4, "power_shelf": 16, "rack": 2, "replica": 2,
    }  # fmt: skip
    tray = rack.of_kind("compute_tray")["node1.compute_tray3"]
    assert tray.gpus == tuple(f"node1.gpu{number}" for number in range(12, 16))
    assert tray.places == tuple(f"node1.nic{number}" for number in range(12, 16))
    assert rack.of_kind("switch_tray")["node0.switch_tray8"].places == (
        "node0.nvswitch16",
        "node0.nvswitch17",
    )
    assert len(rack.of_kind("rail")["rail2"].links) == 2 * 36  # one NIC of each tray, both directions


def test_a_part_takes_the_share_of_the_links_that_it_is() -> None:
    server = parts("nd-h100-v5", 2)
    up, down = server.of_kind("nvlink")["node0.gpu3-node0.nvswitch0"].links
    assert up[0].startswith("node0.gpu3->")
    assert down[0].endswith("->node0.gpu3")
    assert up[1] == down[1] == pytest.approx(1 / 18)  # one of the 5 to this chip, of 18 of the GPU
    stack = server.of_kind("hbm_stack")["node1.gpu7.hbm4"]
    assert (stack.gpus, stack.slower) == (("node1.gpu7",), 5 / 4)
    assert server.of_kind("host")["node1"].gpus == tuple(f"node1.gpu{number}" for number in range(8))
    spread = parts("gb200-nvl72", 2).of_kind("cable")["leaf0-spine1"].links
    assert {link for link, _ in spread} == {"leaf0->spine1", "spine1->leaf0"}


def test_switch_trays_above_servers_are_named_by_their_domain() -> None:
    racks = sim.load_topology("gb200-nvl72", nodes=4).model_copy(update={"domain": 144, "domain_tiers": 2})
    trays = PartsThatFail(racks, 1).of_kind("switch_tray")
    tops = [name for name in trays if name.startswith("domain")]
    assert len(tops) == 2 * 9
    assert {place.partition(".")[0] for place in trays["domain1.switch_tray0"].places} == {"domain1"}


@pytest.mark.slow
def test_the_parts_of_every_shipped_topology_can_fail() -> None:
    for path in sorted(topologies().glob("*.yaml")):
        topology = sim.load_topology(path.stem)
        every = PartsThatFail(topology, 1)
        there = [kind for kind in KINDS if every.of_kind(kind)]
        assert {"gpu", "host", "noisy_host", "replica"} <= set(there), path.stem
        links = {*every.network.link_id, *every.network.bundled}
        for kind in there:
            for part in every.of_kind(kind).values():
                assert {link for link, _ in part.links} <= links, (path.stem, kind)
                assert all(0.0 < share <= 1.0 + 1e-9 for _, share in part.links)
                assert set(part.holds) <= set(topology.graph)


def test_what_a_machine_does_not_have_is_refused_with_what_it_has() -> None:
    with pytest.raises(
        InputError, match=r"nd-h100-v5 has no rack; it has gpu \(16\), hbm_stack \(80\), nvsw"
    ):
        sim.with_changes(scenario(), {"outages": at("rack", "node0")})
    for kind, name, meant in (
        ("gpu", "node0.gpu9x", "node0.gpu"),
        ("nvlink", "node0.gpu3-node0.nvswitch9", "node0.gpu3-node0.nvswitch"),
        ("rail", "rail9", "rail"),
    ):
        with pytest.raises(InputError, match=f"there is no {kind} '{name}'; .*did you mean '{meant}"):
            sim.with_changes(scenario(), {"outages": at(kind, name)})


def test_a_scenario_file_says_the_line_of_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(
        "topology: nd-h100-v5\nmodel: llama-3-8b\nworkload: single-user\noutages:\n  at:\n"
        "    - {kind: spine, name: spine0, at_s: 1}\n  random: {rates: llama-4}\n"
    )
    with pytest.raises(InputError) as found:
        sim.load_scenario(path)
    told = str(found.value)
    for words in (
        "one.yaml:6: outages.at[0].kind", "nd-h100-v5 has no spine", "one.yaml:7: outages.random.rates",
        "did you mean 'llama-3'", "outages.random.until_s", "is needed where",
    ):  # fmt: skip
        assert words in told


@pytest.mark.parametrize(
    ("written", "what"),
    [
        (at("gpu", "node0.gpu1", capacity=0.5), "capacity is for .*a gpu that fails stops"),
        (at("nic", "node0.nic1", slower=2), "slower is for .*a nic has capacity"),
        (at("noisy_host", "node0"), "a noisy_host needs slower"),
        (at("gpu", "node0.gpu1", warned_s=3), "warned_s = 3: must be at most at_s = 1"),
        ({"random": {"rates": "delta"}}, "delta has no rate: .*a ratio alone"),
        ({"random": {"rates": "crusoe"}}, "shares of classes alone, and need the time between failures"),
        ({"random": {"rates": "b200", "gpu_time_between_failures_s": 9}}, "need no the time between"),
        ({"random": {"rates": {"rack": "1 h"}}}, "nd-h100-v5 has no rack"),
        ({"random": {"rates": "b200", "kinds": ["nic"]}}, "no class of b200 takes a nic; they take gpu"),
        ({"random": {"rates": "b200", "together": {"rack": 0.5}}}, "nd-h100-v5 has no rack"),
        ({"random": {"rates": "b200", "repair_mean_s": 9}}, "repair_mean_s and repair_median_s go together"),
        (
            {"random": {"rates": "b200", "repair_mean_s": 1, "repair_median_s": 2}},
            "repair_median_s = 2: must be at most repair_mean_s = 1",
        ),
        ({"random": {"rates": {}}}, "rates is empty"),
        ({"random": {"rates": "b200", "gaps": "exponential", "weibull_shape": 0.8}}, "exponential gaps have"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(written: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        sim.with_changes(scenario(), {"outages": written})


# ---- stated


def test_a_pattern_takes_all_that_it_names() -> None:
    assert [one.name for one in of(scenario(**at("gpu", "node?.gpu1")))] == ["node0.gpu1", "node1.gpu1"]
    (tray,) = of(scenario("gb200-nvl72", 1, **at("compute_tray", "node0.compute_tray0", until_s=5)))
    assert [fault.gpu or fault.place for fault in tray.faults] == [
        *(f"node0.gpu{number}" for number in range(4)), *(f"node0.nic{number}" for number in range(4)),
    ]  # fmt: skip
    assert {(fault.at_s, fault.until_s) for fault in tray.faults} == {(1.0, 5.0)}


def test_a_share_of_a_links_width_is_left() -> None:
    (one,) = of(scenario(**at("nvlink", "node0.gpu3-node0.nvswitch0", capacity=0.5)))
    assert [fault.capacity for fault in one.faults] == pytest.approx([35 / 36] * 2)
    (cable,) = of(scenario(**at("cable", "node0.nic3-leaf0")))
    assert [(fault.link, fault.capacity) for fault in cable.faults] == [
        ("node0.nic3->leaf0", 0.0), ("leaf0->node0.nic3", 0.0),
    ]  # fmt: skip


def test_a_rack_stops_when_it_has_too_few_power_shelves() -> None:
    """Eight, of which four are needed: from the fifth that is out until one is back."""
    shelves = [
        {
            "kind": "power_shelf",
            "name": f"node0.power_shelf{number}",
            "at_s": number + 1,
            "until_s": 20 + number,
        }
        for number in range(6)
    ]
    found = of(scenario("gb200-nvl72", 1, at=shelves))
    (dark,) = [fault for one in found for fault in one.faults]
    assert (dark.node, dark.at_s, dark.until_s) == ("node0", 5.0, 21.0)
    assert found[4].faults == (dark,)
    for_good = of(scenario("gb200-nvl72", 1, at=[{**one, "until_s": None} for one in shelves]))
    assert [fault.until_s for one in for_good for fault in one.faults] == [None]


def test_a_recorded_list_is_found_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("kind,name,at_s\ngpu,node0.gpu1,3\nrail,rail1,4\n")
    (tmp_path / "one.yaml").write_text(
        "topology: nd-h100-v5\nmodel: llama-3-8b\nworkload: single-user\noutages: {recorded: list.csv}\n"
    )
    with pytest.raises(InputError, match=r"list.csv:3: kind: nd-h100-v5 has no rail"):
        of(sim.load_scenario(tmp_path / "one.yaml"))
    (tmp_path / "list.csv").write_text("kind,name,at_s\ngpu,node0.gpu1,3\n")
    loaded = sim.load_scenario(tmp_path / "one.yaml")
    assert tmp_path / "list.csv" in loaded.files_read
    (one,) = of(loaded)
    assert (one.cause, one.name) == ("recorded", "node0.gpu1")


# ---- drawn

OFTEN = {"rates": "llama-3", "acceleration": 1e7}


def test_rates_by_gpu_are_divided_over_the_parts_of_a_kind() -> None:
    """All classes of Llama 3: one failure in 50,700 GPU-hours, on 16 GPUs accelerated to 88 in a second."""
    found = of(scenario(random={**OFTEN, "acceleration": 1e8, "repair_acceleration": 1e9}), 1)
    assert len(found) == pytest.approx(16 * 1e8 / (50_676 * 3600) * 10.0, rel=0.25)
    causes = Counter(one.cause for one in found)
    assert max(causes, key=lambda cause: causes[cause]) == "faulty GPU"
    assert {one.kind for one in found} <= {"gpu", "host", "nic", "cable", "replica"}


def test_a_seed_gives_the_same_list_and_another_class_changes_none_of_it() -> None:
    one = scenario(random=OFTEN)
    assert of(one, 3) == of(one, 3) != of(one, 4)
    gpus = of(scenario(random={**OFTEN, "kinds": ["gpu"]}), 3)
    assert [outage for outage in of(one, 3) if outage.kind == "gpu"] == list(gpus)
    assert of(scenario(random=OFTEN, seed=3), 8) == of(one, 3)


@pytest.mark.slow
def test_a_seed_of_faults_changes_no_arrival() -> None:
    runs = [sim.simulate(scenario(random=OFTEN, seed=seed)) for seed in (1, 2)]
    for column in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert runs[0].requests[column].equals(runs[1].requests[column])
    assert not runs[0].outages.equals(runs[1].outages)


@pytest.mark.slow
def test_failures_take_the_whole_that_they_are_in_as_often_as_said() -> None:
    random = {"rates": {"gpu": "20 s", "nic": "20 s"}, "together": {"compute_tray": 0.5, "rail": 0.2}}
    random |= {"until_s": 30, "repair_mean_s": 1, "repair_median_s": 1, "warned": 0.25, "warned_before_s": 2}
    found = of(scenario("gb200-nvl72", 2, random=random), 1)
    kinds = Counter(one.kind for one in found)
    of_gpus = [one for one in found if one.cause == "gpu"]
    assert sum(one.kind == "compute_tray" for one in of_gpus) / len(of_gpus) == pytest.approx(0.5, abs=0.1)
    assert kinds["rail"] / (len(found) - len(of_gpus)) == pytest.approx(0.2, abs=0.1)
    warned = [one for one in found if one.warned_s is not None]
    assert len(warned) / len(found) == pytest.approx(0.25, abs=0.06)
    assert all(one.at_s - one.warned_s == pytest.approx(min(2.0, one.at_s)) for one in warned)


def test_classes_of_parts_that_are_not_there_are_told() -> None:
    one = scenario("nd-h100-v5", 1, random=OFTEN)
    assert left_out(one) == ("network switch or cable: nd-h100-v5 has no cable",)
    assert not any(outage.kind == "cable" for outage in of(one, 1))


def test_more_outages_than_a_run_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.scenario.outages.MAX_OUTAGES", 1_000)
    with pytest.raises(InfeasibleError, match=r"come to 1,001 parts that fail.* at most 1,000 are"):
        of(scenario("gb200-nvl72", 1, **at("nvlink", "*")))
    random = {"rates": {"gpu": 1e-4}, "repair_mean_s": 1e-5, "repair_median_s": 1e-5}
    with pytest.raises(InfeasibleError, match="more than 1,000 outages before 10 s; an acceleration below"):
        of(scenario(random=random))
