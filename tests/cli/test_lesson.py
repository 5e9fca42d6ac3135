"""`sim lesson`: labs listed, refused where there is none, and written as pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Sim


def test_labs_are_listed_with_their_questions(sim: Sim) -> None:
    status, out, err = sim("lesson")
    assert (status, err) == (0, "")
    assert "Little's law" in out
    _, out, _ = sim("lesson", "--format", "json")
    labs = json.loads(out)
    assert [lab["lab"] for lab in labs] == list(range(1, 15))
    assert all(lab["question"].endswith("?") and Path(lab["file"]).is_file() for lab in labs)


@pytest.mark.parametrize("words", [("open", "99"), ("export", "99")])
def test_a_lab_that_is_not_there_is_refused_with_the_nearest(sim: Sim, words: tuple[str, str]) -> None:
    status, out, err = sim("lesson", *words)
    assert (status, out) == (2, "")
    assert "there is no lab 99; they are 1 to 14, the nearest is 14: Prefill first" in err


def test_without_marimo_a_lab_says_what_to_install(sim: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, out, err = sim("lesson", "open", "1")
    assert (status, out) == (2, "")
    assert "pip install 'fabricsim[notebooks]'" in err


@pytest.mark.slow
def test_a_lab_is_written_as_a_page_with_an_index(sim: Sim, tmp_path: Path) -> None:
    status, out, err = sim("lesson", "export", "11", "--out", tmp_path / "pages", "--share", "0.05")
    assert (status, out) == (0, "")
    page = tmp_path / "pages/lab_11_the_tail_at_scale.html"
    assert err.splitlines() == [f"wrote {page}", f"wrote {tmp_path / 'pages/index.html'}"]
    assert "Lock my prediction" in page.read_text()
    assert page.name in (tmp_path / "pages/index.html").read_text()
