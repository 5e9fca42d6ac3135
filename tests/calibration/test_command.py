"""Commands of studies say in a line what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("calibration.kernels", ["nowhere"], "nowhere: cannot be read"),
        ("calibration.collectives", ["fit", "nowhere"], "nowhere: there is no such file or folder"),
        ("calibration.collectives", ["guess", "nowhere"], "invalid choice: 'guess'"),
        ("calibration.expert_exchange", ["nowhere"], "nowhere: there is no such file or folder"),
        ("calibration.expert_exchange", [], "the following arguments are required"),
        ("calibration.held_out", ["nowhere"], "nowhere: there is no such file or folder"),
        ("calibration.held_out", [".", "kernls"], "did you mean 'kernels'?"),
        ("calibration.held_out_collectives", ["nowhere"], "nowhere: there is no such file or folder"),
    ],
)
def test_a_command_of_a_study_says_in_a_line_what_is_wrong(
    module: str, arguments: list[str], said: str
) -> None:
    command = [sys.executable, "-m", f"sim.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
