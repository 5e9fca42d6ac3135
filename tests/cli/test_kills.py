"""A few kills of every verb that leaves files; `python -m tests.cli.kills --times 200` for many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.kills import VERBS


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_what_a_killed_command_leaves_is_whole_or_absent_and_no_process_stays() -> None:
    command = [sys.executable, "-m", "tests.cli.kills", "--quick", "--times", str(len(VERBS) - 1)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("all whole") == len(VERBS) - 1
