"""A study as a page of the documentation: its text, pictures and takeaways in Markdown, between two marks of
the page. What stands before the first is written by hand.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from sim.views.page_marks import put_between

if TYPE_CHECKING:
    from sim.views.answer import Answer

BEGIN, END = "<!-- study -->", "<!-- end of the study -->"
WIDTH = 130  # characters of a line of the documentation


def markdown(answer: Answer, pictures: str) -> str:
    """The study but for its rows. `pictures` is where a figure's file is, `{}` standing for its name."""
    parts = [f"**Takeaway.** {answer.takeaway}"]
    for i, section in enumerate(answer.sections, 1):
        parts += [f"## {i}. {section.title}", *section.text]
        for figure in section.figures:
            parts += [f"![{figure.name}]({pictures.format(figure.name)})", f"*{_capital(figure.takeaway)}*"]
        parts += [f"**Takeaway.** {section.takeaway}", f"What the numbers rest on: {section.basis}"]
    parts.append("## Notes")
    lines = [_wrapped(part) for part in parts]
    lines.append(
        "\n".join(textwrap.fill(f"* {note}", WIDTH, subsequent_indent="  ") for note in answer.notes)
    )
    return "\n\n".join(lines)


def write_study(answer: Answer, page: Path, drawn: Path, prefix: str) -> None:
    """Put the study between the marks of a page, and the pictures of the folder `drawn` into `images` beside
    it, their names behind `prefix`. InputError where the page has no marks.
    """
    put_between(page, BEGIN, END, markdown(answer, f"images/{prefix}{{}}.png"))
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    for section in answer.sections:
        for figure in section.figures:
            (images / f"{prefix}{figure.name}.png").write_bytes((drawn / f"{figure.name}.png").read_bytes())


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _wrapped(paragraph: str) -> str:
    if paragraph.startswith(("#", "![")):
        return paragraph
    return textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)
