from __future__ import annotations

from pathlib import Path

import pytest

from sim.inputs.errors import InputError
from sim.views.answer import Answer, Figure, Section
from sim.views.study_markdown import BEGIN, END, WIDTH, markdown, write_study

SECTION = Section("A part", ("What is done. " * 20,), (), "so it is.", "rests on this.", (
    Figure("curve", "it bends.", lambda: None),  # type: ignore[arg-type,return-value]
))  # fmt: skip
ANSWER = Answer("Why?", (), "because.", ("a note",), sections=(SECTION,))


def test_a_study_is_its_text_pictures_and_takeaways() -> None:
    text = markdown(ANSWER, "images/x_{}.png")
    places = [text.index(part) for part in (
        "**Takeaway.** because.", "## 1. A part", "What is done.", "![curve](images/x_curve.png)",
        "*It bends.*", "**Takeaway.** so it is.", "What the numbers rest on: rests on this.", "## Notes",
        "* a note",
    )]  # fmt: skip
    assert places == sorted(places)
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_page_keeps_what_stands_outside_of_its_marks(tmp_path: Path) -> None:
    page, drawn = tmp_path / "docs" / "page.md", tmp_path / "out"
    page.parent.mkdir()
    drawn.mkdir()
    (drawn / "curve.png").write_bytes(b"picture")
    page.write_text(f"# By hand\n\n{BEGIN}\nold\n{END}\n\nend\n")
    for _ in range(2):  # again and again the same
        write_study(ANSWER, page, drawn, "x_")
        assert (
            page.read_text()
            == f"# By hand\n\n{BEGIN}\n\n{markdown(ANSWER, 'images/x_{}.png')}\n\n{END}\n\nend\n"
        )
    assert (page.parent / "images" / "x_curve.png").read_bytes() == b"picture"
    page.write_text("# No marks\n")
    with pytest.raises(InputError, match=r"page\.md: has no lines <!-- study -->"):
        write_study(ANSWER, page, drawn, "x_")
