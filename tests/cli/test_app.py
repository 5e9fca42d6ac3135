"""The command line: exit statuses, one message, no traceback, JSON alone on standard output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Sim


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


@pytest.mark.slow
def test_a_broken_pipe_and_an_interrupt_are_quiet() -> None:
    command = f"{sys.executable} -m sim list links --format json | head -c 10"
    piped = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (piped.stdout[:1], piped.stderr) == ("[", "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_is_reported_in_a_sentence() -> None:
    command = f"{sys.executable} -m sim list links > /dev/full"
    found = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr == "sim: what the command prints cannot be written: No space left on device\n"


def test_an_interrupt_has_status_130_and_says_so(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.catalog.names_of", interrupted)
    assert sim("list") == (130, "", "sim: interrupted (Ctrl-C)\n")


def test_a_bug_is_said_in_a_paragraph_with_a_status_of_its_own(
    sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a link")

    monkeypatch.setattr("sim.catalog.names_of", broken)
    status, out, err = sim("list")
    assert (status, out) == (70, "")
    assert err.startswith("sim: this is a bug in fabricsim ")
    for part in ("KeyError: 'a link' in ", ".py:", "report it", "SIM_DEBUG=1"):
        assert part in err
    assert err.count("\n") == 1
    monkeypatch.setenv("SIM_DEBUG", "1")
    status, _, err = sim("list")
    assert (status, err.startswith("Traceback")) == (70, True)


@pytest.mark.parametrize("words", [
    ["topology", "draw", "a100-x4", "--out", "{}/none/x.svg"],
    ["topology", "draw", "a100-x4", "--out", "{}/f/x.svg"],
    ["collective", "all_reduce", "--topology", "{}"],
    ["validate", "laws", "--out", "{}/f/x"],
    ["validate", "laws", "--write", "{}/f/x.md"],
    ["validate", "services", "--keep", "{}/f/x.jsonl"],
])  # fmt: skip
def test_a_file_that_cannot_be_read_or_written_is_a_sentence(
    sim: Sim, tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "f").touch()
    status, out, err = sim(*(word.format(tmp_path) for word in words))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("sim: ")


@pytest.mark.parametrize("code", ["import sim", "import sim; sim.InputError", "from sim.cli.app import app"])
def test_start_up_imports_nothing_heavy(code: str) -> None:
    heavy = "numpy polars pint networkx altair scipy simpy pydantic rich.table".split()
    code += f"; import sys; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"
