"""Every example in the documentation and in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for page in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("sim/**/*.md"),
        *ROOT.glob("topologies/**/*.md"),
        *ROOT.glob("workloads/**/*.md"),
        *ROOT.glob("experiments/**/*.md"),
    ]
)
MODULES = sorted(path for path in (ROOT / "sim").rglob("*.py") if ">>>" in path.read_text())
RUN_ELSEWHERE = ("sim/README.md",)  # tests/test_how_to.py runs its recipes, each in an interpreter of its own
SLOW = ("docs/queueing.md", "docs/rules_of_your_own.md")  # they serve tens of thousands of customers
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
BLOCK = re.compile(r"^```(?:python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(test: doctest.DocTest) -> None:
    said: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if name(page) in SLOW else ())
        for page in PAGES
        if name(page) not in RUN_ELSEWHERE
    ],
    ids=name,
)
def test_the_examples_of_a_page_print_what_it_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = page.read_text()
    # Lines outside python blocks are blanked, so that a failure names the line of the page.
    kept, end = "", 0
    for block in BLOCK.finditer(text):
        kept += "\n" * text.count("\n", end, block.start(1)) + block.group(1)
        end = block.end(1)
    run(doctest.DocTestParser().get_doctest(kept, {"__name__": "__main__"}, name(page), str(page), 0))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_links_only_to_what_is_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if ":" not in target]
    missing = [t for t in targets if not t.startswith("#") and not (page.parent / t.split("#")[0]).exists()]
    assert missing == []


@pytest.mark.slow
@pytest.mark.parametrize("path", MODULES, ids=name)
def test_the_examples_in_docstrings_print_what_they_say(path: Path) -> None:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(dotted)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, dotted):
        run(test)


COMMAND = re.compile(r"^\.venv/bin/sim (.*?)(?:\s+#.*)?$", re.MULTILINE)
COMMANDS = sorted({command for page in PAGES for command in COMMAND.findall(page.read_text())})


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_a_page_shows_works(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sim.cli import status_of

    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    if "--out" in words:
        place = words.index("--out") + 1
        words[place] = str(tmp_path / Path(words[place]).name)
    assert status_of(words) == 0
