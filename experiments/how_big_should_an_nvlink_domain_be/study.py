"""The sections of the study put together."""

from __future__ import annotations

from pathlib import Path

from sim.views.answer import Answer, tell_study

from . import hump

QUESTION = "How big should an NVLink domain be?"


def answer(quick: bool, store: Path | None = None) -> Answer:
    """How big should an NVLink domain be?"""
    sections = (hump.section(quick),)
    rows = tuple(row for section in sections for row in section.rows)
    return Answer(QUESTION, rows, "x", (), sections=sections)


def main() -> None:
    tell_study(answer)
