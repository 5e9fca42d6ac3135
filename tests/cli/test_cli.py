"""The command line: exit statuses, one message, no traceback, JSON alone on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.cli import status_of
from sim.cli.output import print_table, si, size_bytes
from sim.inputs.errors import InputError

Said = tuple[int, str, str]
Sim = Callable[..., Said]


@pytest.fixture
def sim(capsys: pytest.CaptureFixture[str]) -> Sim:
    """Runs `sim` with the given words in this process: status, standard output, standard error."""

    def run(*words: str) -> Said:
        status = status_of([str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.mark.parametrize("words", [
    ["--help"], ["run", "--help"], ["collective", "--help"], ["kernel", "-h"], ["topology", "--help"],
    ["topology", "draw", "--help"], ["list", "--help"], ["schema", "--help"], ["--version"],
])  # fmt: skip
def test_help_is_there_for_every_command(sim: Sim, words: list[str]) -> None:
    status, out, err = sim(*words)
    assert (status, err) == (0, "")
    assert out.startswith(("Usage: sim", "sim 0."))


@pytest.mark.parametrize(("words", "hint"), [
    (["rnu", "x.yaml"], "run"),
    (["topology", "shwo", "x"], "show"),
    (["run", "x.yaml", "--sede", "3"], "--seed"),
    (["run", "x.yaml", "--seed", "three"], "integer"),
    (["run", "x.yaml", "--format", "xml"], "json"),
    (["run"], "scenario"),
    (["run", "no/such/file.yaml"], "no/such/file.yaml"),
    (["list", "gpus", "h100-smx"], "h100-sxm"),
    (["list", "topologies", "nd-h100-v6"], "nd-h100-v5"),
    (["list", "models", "lama-3-8b"], "llama-3-8b"),
    (["topology", "check", "nd-h100"], "nd-h100-v5"),
    (["collective", "all_reduce", "--topology", "nd-h100-v55"], "nd-h100-v5"),
    (["collective", "all_reduce", "--topology", "nd-h100-v5", "-b", "8Q"], "64K"),
    (["collective", "all_reduce", "--topology", "nd-h100-v5", "-b", "1M", "-e", "8"], "-e = 8: must be"),
    (["collective", "all_reduce", "--topology", "nd-h100-v5", "-f", "1"], "-f = 1: must be more than 1"),
    (["collective", "all_reduce", "--topology", "nd-h100-v5", "--ranks", "9"], "must be from 1 to 8"),
    (["collective", "allreduce", "--topology", "nd-h100-v5"], "all_reduce"),
    (["kernel", "h100-sxm", "gem"], "gemm"),
    (["kernel", "h100-sxm", "gemm", "--m", "8"], "needs n, k"),
    (["kernel", "h100-sxm", "gemm", "--m", "8", "--n", "8", "--k", "8", "--q", "8"], "q is not"),
    (["kernel", "h100-sxm", "gemm", "--m"], "--m 64"),
    (["kernel", "h100-sxm", "gemm", "--m", "8", "--n", "many", "--k", "8"], "whole number"),
    (["kernel", "h100-sxm", "gemm", "--m", "8", "--n", "-8", "--k", "8"], "negative"),
    (["kernel", "h100-sxm", "gemm", "--m", "8", "--n", "8", "--k", "8", "--dtype", "bf17"], "bf16"),
    (["kernel", "h100-smx", "gemm", "--m", "8", "--n", "8", "--k", "8"], "h100-sxm"),
])  # fmt: skip
def test_wrong_words_give_status_2_and_a_message_that_names_what_would_be_right(
    sim: Sim, words: list[str], hint: str
) -> None:
    status, out, err = sim(*words)
    assert (status, out) == (2, "")
    assert hint in err
    assert all(line.startswith("sim: ") for line in err.splitlines())
    assert "Traceback" not in err


def test_lists_name_what_is_shipped_and_the_source_of_every_constant(sim: Sim) -> None:
    _, out, _ = sim("list", "--format", "json")
    names = json.loads(out)
    assert "nd-h100-v5" in names["topologies"]
    assert "qwen2.5-72b" in names["models"]
    for kind in ("gpus", "links"):
        for name in names[kind]:
            status, out, _ = sim("list", kind, name, "--format", "json")
            assert status == 0
            for constant in json.loads(out):
                assert constant["tag"] in ("datasheet", "measured", "fitted", "assumed"), (name, constant)
                assert constant["source"], (name, constant)


@pytest.mark.parametrize("kind", ["topologies", "gpus", "links", "models", "workloads", "experiments"])
def test_every_list_prints_as_table_and_as_json(sim: Sim, kind: str) -> None:
    status, table, _ = sim("list", kind)
    assert status == 0
    status, out, _ = sim("list", kind, "--format", "json")
    assert status == 0
    assert all(row["name"] in table for row in json.loads(out))


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


def test_a_schema_describes_every_kind_of_file(sim: Sim) -> None:
    for kind in ("scenario", "topology", "workload", "model"):
        status, out, _ = sim("schema", kind)
        assert status == 0
        assert json.loads(out)["type"] == "object"


def test_collective_prints_the_columns_of_nccl_tests(sim: Sim) -> None:
    words = "collective all_reduce --topology nd-h100-v5 --ranks 8 -b 8 -e 8G -f 2".split()
    status, out, err = sim(*words)
    assert (status, err) == (0, "")
    assert "busbw (GB/s)" in out
    assert len([line for line in out.splitlines() if line.strip()[:1].isdigit()]) == 31
    status, out, _ = sim(*words, "--format", "json")
    rows = json.loads(out)["rows"]
    assert [rows[0]["n_bytes"], rows[-1]["n_bytes"]] == [8, 8 * 2**30]
    for row in rows:
        assert row["algbw_bytes_per_s"] == pytest.approx(row["n_bytes"] / row["total_s"])
        assert row["busbw_bytes_per_s"] == pytest.approx(row["algbw_bytes_per_s"] * 2 * 7 / 8)


def test_kernel_prints_the_parts_of_its_time(sim: Sim) -> None:
    words = "kernel h100-sxm gemm --m 64 --n 8192 --k 8192 --dtype bf16".split()
    status, out, _ = sim(*words)
    assert status == 0
    assert "memory" in out
    _, out, _ = sim(*words, "--format", "json")
    timing = json.loads(out)
    assert timing["total_s"] > 2 * 8192 * 8192 / 3.35e12


def test_a_broken_pipe_and_an_interrupt_are_quiet() -> None:
    command = f"{sys.executable} -m sim list links --format json | head -c 10"
    piped = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (piped.stdout[:1], piped.stderr) == ("[", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_is_reported_in_a_sentence() -> None:
    command = f"{sys.executable} -m sim list links > /dev/full"
    found = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr == "sim: what the command prints cannot be written: No space left on device\n"


def test_an_interrupt_has_status_130(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.catalog.names_of", interrupted)
    assert sim("list") == (130, "", "")


@pytest.mark.parametrize("code", ["import sim", "import sim; sim.InputError", "from sim.cli.app import app"])
def test_start_up_imports_nothing_heavy(code: str) -> None:
    heavy = "numpy polars pint networkx altair scipy simpy pydantic rich.table".split()
    code += f"; import sys; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"


def test_every_exported_name_is_there_and_simulate_stays_a_function() -> None:
    import importlib

    import sim as package

    assert set(package.__all__) == set(package._HOME)
    for name in package.__all__:
        assert getattr(package, name) is not None
    importlib.import_module("sim.simulate")
    assert callable(package.simulate)
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        package.simulat  # noqa: B018


@pytest.mark.parametrize(("written", "n_bytes"), [
    ("8", 8), ("1K", 1024), ("1.5k", 1536), ("8G", 8 * 2**30), ("8 GiB", 8 * 2**30), ("8GB", 8e9),
    ("64 B", 64),
])  # fmt: skip
def test_sizes_are_read_as_nccl_tests_reads_them(written: str, n_bytes: float) -> None:
    assert size_bytes(written, "-b") == n_bytes


@pytest.mark.parametrize("written", ["", "-8", "8X", "0", "1e400", "99999999T"])
def test_what_is_no_size_is_refused(written: str) -> None:
    with pytest.raises(InputError, match="-b"):
        size_bytes(written, "-b")


@pytest.mark.parametrize(("value", "unit", "shown"), [
    (0.0, "s", "0 s"), (950e-9, "s", "950 ns"), (2.5, "s", "2.5 s"), (4096.0, "s", "4.1e+03 s"),
    (25e9, "B/s", "25 GB/s"), (0.5, "B", "0.5 B"), (float("inf"), "B/s", "inf B/s"), (1e6, "B/s", "1 MB/s"),
])  # fmt: skip
def test_prefixes_keep_numbers_readable(value: float, unit: str, shown: str) -> None:
    assert si(value, unit) == shown


def test_a_piped_table_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a", "b"], [["x" * 300, 1], ["[bold]", 2.5]])
    out = capsys.readouterr().out
    assert "x" * 300 in out
    assert "[bold]" in out
