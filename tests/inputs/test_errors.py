from __future__ import annotations

import pytest

from sim.inputs.errors import InfeasibleError, InputError, LocatedError, Problem, UnfinishedError


def test_a_problem_says_where_it_is_as_far_as_that_is_known() -> None:
    assert str(Problem("wrong", "a.yaml", 7, "engine.tp")) == "a.yaml:7: engine.tp: wrong"
    assert str(Problem("wrong", "a.yaml", key="engine.tp")) == "a.yaml: engine.tp: wrong"
    assert str(Problem("wrong")) == "wrong"


def test_an_input_error_has_one_line_for_each_problem() -> None:
    error = InputError(["one", Problem("two", key="b")])
    assert str(error) == "one\nb: two"
    assert error.problems == (Problem("one"), Problem("two", key="b"))


def test_an_infeasible_scenario_keeps_what_can_be_when_it_is_located() -> None:
    error = InfeasibleError("does not fit", "two GPUs do").at(Problem("", "a.yaml", 3, "engine"))
    assert str(error) == "a.yaml:3: engine: does not fit; two GPUs do"


def test_an_unfinished_run_lists_what_waits() -> None:
    assert (
        str(UnfinishedError("time is up", ["request 3", "request 4"])) == "time is up\nrequest 3\nrequest 4"
    )


def test_a_located_error_names_the_path_of_each_key() -> None:
    assert str(LocatedError([(("wires", 2, "to"), "no such part")])) == "wires.2.to: no such part"


@pytest.mark.parametrize(("error", "status"), [(InputError, 2), (InfeasibleError, 3), (UnfinishedError, 4)])
def test_each_refusal_has_its_exit_status(error: type, status: int) -> None:
    assert error.exit_status == status
