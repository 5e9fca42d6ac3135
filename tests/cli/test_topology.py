"""`sim topology`: parts, bandwidths and paths of a system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Sim


def test_topology_check_prints_bandwidths_that_the_datasheet_gives(sim: Sim) -> None:
    status, out, _ = sim("topology", "check", "nd-h100-v5", "--nodes", "2", "--format", "json")
    found = json.loads(out)
    assert status == 0
    assert found["gpus"] == 16
    assert found["in_domain_raw_bytes_per_s"] == pytest.approx(450e9)
    assert found["in_domain_bytes_per_s"] == pytest.approx(450e9 * 0.82)
    assert found["bisection_bytes_per_s"] == pytest.approx(8 * 50e9 * 0.98)


def test_topology_show_counts_the_parts(sim: Sim) -> None:
    _, out, _ = sim("topology", "show", "nd-h100-v5", "--format", "json")
    counts = {(part["kind"], part["model"]): part["count"] for part in json.loads(out)["parts"]}
    assert counts["gpu", "h100-sxm"] == 8
    assert counts["nvswitch", ""] == 4


def test_topology_check_tells_how_switches_are_oversubscribed_and_what_a_hash_leaves(
    sim: Sim, tmp_path: Path
) -> None:
    written = (Path(__file__).parents[2] / "topologies" / "dgx-a100.yaml").read_text()
    for more, told in (
        ("oversubscription: 2", "3 leaves, 1 spine, adaptive routing, oversubscription 2:1"),
        ("routing: static", "4 leaves, 2 spines, static routing, non-blocking"),
    ):
        file = tmp_path / "box.yaml"
        file.write_text(written.replace("switch_ports: 40", f"switch_ports: 40\n  rails: 1\n  {more}"))
        status, out, _ = sim("topology", "check", str(file), "--nodes", "8")
        assert status == 0
        assert told in out
        found = json.loads(sim("topology", "check", str(file), "--nodes", "8", "--format", "json")[1])
        assert ("on the paths that traffic takes" in out) == (
            found["routed_bisection_bytes_per_s"] < 0.99 * found["bisection_bytes_per_s"]
        )
        assert found["switches"][0]["leaves"] == int(told[0])
        assert f"{found['bisection_bytes_per_s'] / 1e9:.6g} GB/s" in out


def test_topology_check_and_list_tell_measured_machines_from_idealised_ones(sim: Sim) -> None:
    _, out, _ = sim("topology", "check", "l40s-12", "--format", "json")
    basis = json.loads(out)["basis"]
    assert (basis["kind"], basis["span"], basis["band"]) == ("idealised", "both sockets", [0.7, 15.3])
    _, out, _ = sim("topology", "check", "l40s-8")
    assert "measured: nccl-tests on 2, 4 and 8 L40S of this server" in out
    assert "best case" not in out
    _, out, _ = sim("list", "topologies", "--format", "json")
    assert {row["name"]: row["basis"] for row in json.loads(out)}["l40s-12"] == "idealised"
    _, out, _ = sim("list", "topologies", "l40s-12", "--format", "json")
    assert {"idealised"} == {row["value"] for row in json.loads(out) if row["constant"] == "basis"}


def test_a_collective_over_pcie_of_a_machine_that_was_not_measured_has_a_band(sim: Sim) -> None:
    asked = ("collective", "all_reduce", "-b", "1M", "-e", "1M", "--format", "json", "-t")
    _, out, err = sim(*asked, "l40s-12", "-n", "4")
    assert json.loads(out)["machine"]["band"] == [1.0, 4.27]
    assert "note: the machine is idealised" in err
    _, out, err = sim(*asked, "l40s-8")
    assert json.loads(out)["machine"]["band"] is None
    assert "best case" not in err


def test_topology_import_writes_what_check_reads(sim: Sim, tmp_path: Path) -> None:
    seen, own = tmp_path / "seen.txt", tmp_path / "my.yaml"
    seen.write_text("\tGPU0\tGPU1\nGPU0\t X \tNV12\nGPU1\tNV12\t X \n")
    status, out, err = sim("topology", "import", seen)
    assert (status, "kind: gpu, count: 2" in out, err) == (0, True, "")
    status, _, err = sim("topology", "import", seen, "--out", own)
    assert (status, "assumed: GPUs are a100-80gb-sxm" in err) == (0, True)
    assert sim("topology", "import", seen, "--out", own)[0] == 2
    tables = [sim("topology", "check", file, "--format", "json") for file in (seen, own)]
    found = [json.loads(out) for _, out, _ in tables]
    assert found[0]["bisection_bytes_per_s"] == found[1]["bisection_bytes_per_s"] == pytest.approx(12 * 20e9)
    assert "to edit it: sim topology import" in tables[0][2]
