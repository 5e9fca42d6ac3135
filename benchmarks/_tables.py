"""How figures are shown: one line each, with the goal and whether it is met."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A measured figure. `goal` is its lower bound, or, with `at_most`, its upper bound."""

    what: str
    value: float
    unit: str = ""
    goal: float | None = None
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.goal is None or (self.value <= self.goal if self.at_most else self.value >= self.goal)

    @property
    def row(self) -> str:
        goal = "" if self.goal is None else f"{'<=' if self.at_most else '>='} {_shown(self.goal)}"
        met = "" if self.goal is None else "yes" if self.is_met else "**no**"
        return f"| {self.what} | {_shown(self.value)} {self.unit} | {goal} | {met} |"


def show(figures: Iterable[Figure]) -> None:
    """A Markdown table on standard output."""
    print("| | figure | goal | met |\n|---|---:|---:|---|")
    for figure in figures:
        print(figure.row, flush=True)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
