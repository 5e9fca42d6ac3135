"""What is installed elsewhere works there: the wheel carries topologies, workloads and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_carries_its_data_and_runs_outside_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("fabricsim-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    assert not (tmp_path / "installed" / "topologies").exists()

    def sim(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
        command = [sys.executable, "-P", "-m", "sim", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    names = json.loads(sim("list", "--format", "json"))
    for kind, folder in (
        ("topologies", "topologies"),
        ("gpus", "topologies/gpus"),
        ("workloads", "workloads"),
    ):
        assert names[kind] == sorted(path.stem for path in (ROOT / folder).glob("*.yaml"))
    assert names["models"] == sorted(path.stem for path in (ROOT / "workloads/models").glob("*.json"))
    assert "busbw" in sim("collective", "all_reduce", "--topology", "nd-h100-v5", "-e", "64")
    (tmp_path / "x.yaml").write_text("topology: nd-h100-v5\nmodel: llama-3-8b\nworkload: single-user\n")
    assert json.loads(sim("run", "x.yaml", "--format", "json"))["completed"] == 5
