"""The command, run in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.cli import status_of

Sim = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sim(capsys: pytest.CaptureFixture[str]) -> Sim:
    """Runs `sim` with the given words: status, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        status = status_of([str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
