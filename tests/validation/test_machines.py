"""Shipped machines against numbers that others have published, and each of them used once."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim
from sim.cli.machine_table import HEAD, POINT_HEAD, machines_table, points_table
from sim.inputs.topology_check import checked
from sim.validation.machines import MachinePoint, machine_points

EVERY = sim.list_topologies()


@pytest.mark.slow
@pytest.mark.parametrize("point", list(machine_points()), ids=lambda point: f"{point.system}: {point.what}")
def test_a_published_number_lies_in_the_band_of_its_basis(point: MachinePoint) -> None:
    assert point.system in EVERY
    published, _ = point.published
    value, band = point.simulated()
    low, high = band or (0.9 * value, 1.1 * value)  # the links alone: within a tenth
    assert (low <= published <= high) != bool(point.outside), (low, published, high)
    least = 0.6 if "no kernel of" not in (point.outside or "") else 0.35
    assert least <= value / published <= 1.5, "and not far off, whatever the band allows"


@pytest.mark.slow
def test_every_machine_passes_its_check_reduces_and_serves_a_llama() -> None:
    for name in EVERY:
        topology = sim.load_topology(name)
        found = checked(topology)
        assert found.gpus == len(topology.graph.graph["gpus"])
        ranks = min(topology.gpus_per_node, 4)
        if ranks > 1:
            timing = sim.collective(topology, "all_reduce", 2**26, ranks)
            best = found.in_domain_raw_bytes_per_s or 64e9  # in-switch sums may pass the rate of a ring
            assert 0.0 < timing.busbw_bytes_per_s < 2.0 * best, name
            low, high = timing.basis.band or (
                1.0,
                1.0,
            )  # without points of its kind a measured machine has none
            assert 0.4 < low <= 1.1 <= high + 0.2 < 20.0, name
            assert timing.basis.band is not None or timing.basis.kind == "measured", name
        service = sim.Scenario.model_validate(
            {
                "topology": topology,
                "model": "llama-3-8b",
                "precision": {"weights": "fp16", "kv_cache": "fp16"},
                "engine": {"tensor_parallel_size": ranks, "max_model_len": 2048},
                "workload": {
                    "arrivals": {"kind": "burst"},
                    "prompt_tokens": 100,
                    "output_tokens": 5,
                    "requests": 1,
                },
            }
        )
        result = sim.simulate(service)
        read_s = 16.06e9 / ranks / topology.gpu(topology.graph.graph["gpus"][0]).hbm_bytes_per_s
        assert read_s < result.summary()["mean_tpot_ms"] / 1e3 < 2.5 * read_s + 8e-3, name


@pytest.mark.slow
def test_a_gpu_of_another_make_borrows_the_times_of_the_host_and_says_so() -> None:
    bases = {}
    for name in ("mi300x-x8", "hgx-h20"):
        service = sim.Scenario.model_validate(
            {"topology": name, "model": "llama-3-8b", "workload": "single-user"}
        )
        bases[name] = sim.simulate(service).summary()["basis"]
    assert bases["mi300x-x8"]["host"]["basis"] == "stand-in"
    assert bases["mi300x-x8"]["kernels"]["of"] == "h100-sxm"
    assert (bases["hgx-h20"]["host"]["basis"], bases["hgx-h20"]["kernels"]["of"]) == ("fitted", "h200-sxm")


@pytest.mark.slow
def test_the_page_of_machines_is_as_its_command_writes_it() -> None:
    page = (Path(__file__).parents[2] / "docs" / "machines.md").read_text(encoding="utf-8")
    for table, head in ((machines_table(), HEAD), (points_table(), POINT_HEAD)):
        assert table.startswith("| " + " | ".join(head))
        assert table in page, "run `sim list topologies --write docs/machines.md`"
