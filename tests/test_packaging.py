"""What is installed elsewhere works there: the wheel carries its data, and every command finds it from an
empty folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from sim.reading.data_files import experiment_scripts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem: path.name for path in experiment_scripts()}
EXPERIMENTS = sorted(SCRIPTS)
FEW_SECONDS = (
    "does_llama70b_need_nvlink",
    "how_to_split_twelve_l40s",
    "why_is_tp16_slower_than_tp8",
)


@dataclass(frozen=True)
class Installed:
    """A wheel unpacked into `site`, and an empty folder to run in."""

    site: Path
    folder: Path

    def python(self, *words: str) -> str:
        """Standard output of a Python that imports from the wheel only; -P keeps the folder off its path."""
        done = subprocess.run(
            [sys.executable, "-P", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.site)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sim(self, *words: str) -> str:
        return self.python("-m", "sim", *words)

    def experiment(self, name: str, *words: str) -> str:
        return self.python(str(self.site / "sim/data/experiments" / SCRIPTS[name]), *words)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site folder of a wheel built once."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (archive,) = folder.glob("fabricsim-*.whl")
    zipfile.ZipFile(archive).extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Installed:
    return Installed(wheel, tmp_path)


def test_a_wheel_is_imported_from_where_it_lies_and_puts_only_its_package_there(installed: Installed) -> None:
    assert installed.python("-c", "import sim; print(sim.__file__)").strip().startswith(str(installed.site))
    assert sorted(path.name for path in installed.site.iterdir() if path.suffix != ".dist-info") == ["sim"]


def test_a_wheel_lists_what_the_checkout_ships(installed: Installed) -> None:
    names = json.loads(installed.sim("list", "--format", "json"))
    for kind, folder in (
        ("topologies", "topologies"),
        ("gpus", "topologies/gpus"),
        ("workloads", "workloads"),
    ):
        assert names[kind] == sorted(path.stem for path in (ROOT / folder).glob("*.yaml"))
    assert names["models"] == sorted(path.stem for path in (ROOT / "workloads/models").glob("*.json"))
    assert names["experiments"] == EXPERIMENTS
    table = installed.sim("list")
    assert all(name in table for found in names.values() for name in found)


def test_a_wheel_lists_all_experiments_with_their_questions(installed: Installed) -> None:
    rows = json.loads(installed.sim("list", "experiments", "--format", "json"))
    assert [row["name"] for row in rows] == EXPERIMENTS
    assert all("?" in row["question"] for row in rows)


def test_a_wheel_runs_a_collective_a_scenario_and_a_ledger(installed: Installed) -> None:
    assert "busbw" in installed.sim("collective", "all_reduce", "--topology", "nd-h100-v5", "-e", "64")
    scenario = "topology: nd-h100-v5\nmodel: llama-3-8b\nworkload: single-user\n"
    (installed.folder / "x.yaml").write_text(scenario)
    assert json.loads(installed.sim("run", "x.yaml", "--format", "json"))["completed"] == 5
    ledger = json.loads(installed.sim("validate", "formulas", "--format", "json"))
    assert {row["section"] for row in ledger["rows"]} == {"formulas"}


def test_a_wheel_draws_a_topology_into_the_folder_where_it_runs(installed: Installed) -> None:
    installed.sim("topology", "draw", "dgx-a100")
    assert [path.name for path in installed.folder.iterdir()] == ["dgx-a100.svg"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_starts_from_the_wheel(installed: Installed, name: str) -> None:
    assert "--quick" in installed.experiment(name, "--help")


@pytest.mark.parametrize("name", FEW_SECONDS)
def test_an_experiment_runs_from_the_wheel(installed: Installed, name: str) -> None:
    answer = json.loads(installed.experiment(name, "--quick", "--format", "json"))
    assert answer["rows"]
    assert answer["takeaway"]
