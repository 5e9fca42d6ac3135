"""Published rows that are kept as they end, and taken up again."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.inputs.errors import InfeasibleError, InputError
from sim.results.compared import Row
from sim.validation import checkpoint as checkpoint
from sim.validation.checkpoint import Case, Outcome, outcomes

CASES = [Case("numbers", {"n": str(n)}) for n in range(6)]


def doubled(case: Case) -> list[Row]:
    n = int(case.cells["n"])
    if n == 3:
        raise InfeasibleError("three is too many")
    return [Row(f"{n}", "n", "1", float(n), 2.0 * n, "predicted", "here", size=1.0, of={"n": str(n)})]


def never(case: Case) -> list[Row]:
    raise AssertionError("run again")


def numbers(found: list[Outcome]) -> list[list[float]]:
    return [[row.simulated for row in one.rows] for one in found]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_outcomes_come_in_the_order_of_the_cases_whoever_ends_first(processes: int) -> None:
    found = outcomes(doubled, CASES, processes)
    assert numbers(found) == [[0.0], [2.0], [4.0], [], [8.0], [10.0]]
    assert "three is too many" in found[3].reason


def test_what_has_ended_is_not_run_again(tmp_path: Path) -> None:
    keep = tmp_path / "ledger.jsonl"
    first = outcomes(doubled, CASES, 1, keep)
    assert outcomes(never, CASES, 1, keep) == first


def test_an_interrupted_run_goes_on_with_what_is_left(tmp_path: Path) -> None:
    keep = tmp_path / "ledger.jsonl"
    outcomes(doubled, CASES[:4], 1, keep)
    text = keep.read_text(encoding="utf-8")
    keep.write_text(text[:-20], encoding="utf-8")  # cut off within the fourth line
    ran: list[str] = []

    def watched(case: Case) -> list[Row]:
        ran.append(case.cells["n"])
        return doubled(case)

    outcomes(watched, CASES, 1, keep)
    assert ran == ["3", "4", "5"]
    assert numbers(outcomes(never, CASES, 1, keep)) == [[0.0], [2.0], [4.0], [], [8.0], [10.0]]


def test_what_other_code_gave_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = tmp_path / "ledger.jsonl"
    outcomes(doubled, CASES[:1], 1, keep)
    monkeypatch.setattr(checkpoint, "code_digest", lambda: "of other code")
    with pytest.raises(AssertionError, match="run again"):
        outcomes(never, CASES[:1], 1, keep)


def test_progress_counts_every_case_from_none_to_all() -> None:
    ended: list[tuple[int, int]] = []
    outcomes(doubled, CASES, 1, on_progress=lambda done, total: ended.append((done, total)))
    assert ended == [(n, 6) for n in range(7)]


@pytest.mark.parametrize("text", ["{}", "[]\n", "a letter to a friend"])
def test_a_file_of_something_else_is_refused_and_stays_as_it_is(tmp_path: Path, text: str) -> None:
    keep = tmp_path / "mine.json"
    keep.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.json:1: is not a row of a checkpoint"):
        outcomes(doubled, CASES, 1, keep)
    assert keep.read_text(encoding="utf-8") == text
