"""Broken inputs end with a documented status and a message: no traceback, no hang, no memory without end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.cases import KINDS, QUICK, SMALL, Case, as_yaml
from tests.fuzz.known import is_known
from tests.fuzz.worker import Fault, Worker

EXAMPLES = {"study": 6, "options": 15}
"""Studies begin processes, and options slow a run down: fewer of them, so that all take a minute."""
ARRIVE = {"kind": "poisson", "rate_per_s": 20.0}
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One process for all of it."""
    worker = Worker()
    yield worker
    worker.close()


def told(case: Case, fault: Fault) -> str:
    return f"{fault.kind} at {fault.place}\n{case}\n{fault.text}\n{case.json()}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_broken_input_is_refused_or_runs(kind: str, worker: Worker) -> None:
    make = KINDS[kind][1]

    @settings(max_examples=EXAMPLES.get(kind, 30), derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32))
    def law(seed: int) -> None:
        case = make(random.Random(seed))
        fault = worker.run(case)
        assert fault is None or is_known(fault), told(case, fault)

    law()


@pytest.mark.slow
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_once_went_wrong_is_refused_or_runs(path: Path, worker: Worker) -> None:
    case = Case.of_json(path.read_text())
    fault = worker.run(case)
    assert fault is None, told(case, fault)


@pytest.mark.slow
def test_faults_are_seen(worker: Worker) -> None:
    """The harness itself: a case that is in order is none, and nonsense on the command line is refused."""
    assert worker.run(Case(("list",))) is None
    assert worker.run(Case(("nosuch",))) is None


@pytest.mark.slow
def test_a_run_is_long_because_it_was_asked_to_be_or_hangs() -> None:
    worker = Worker(1.0)
    many = as_yaml({**SMALL, "workload": {**QUICK, "arrivals": ARRIVE, "requests": 10**6}})
    few = as_yaml({**SMALL, "workload": {**QUICK, "output_tokens": 8000}})
    worker.run(Case(("run", "s.yaml"), (("s.yaml", as_yaml(SMALL)),)))  # imports take their time
    assert worker.run(Case(("run", "s.yaml"), (("s.yaml", many),))) is None
    fault = worker.run(Case(("run", "s.yaml", "--no-fold"), (("s.yaml", few),)))
    worker.close()
    assert fault is not None
    assert (fault.kind, "--max-cpu 0.5 s" in fault.text) == ("hang", True)
