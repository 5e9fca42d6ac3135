"""sim/README.md leads to what is there: its folders and places exist, and its recipes run as they stand."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sim"
PAGE = PACKAGE / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")
PLACE = re.compile(r"^\| (.+\?) \| `([\w/]+\.py)` `([\w.]+)` \|$", re.MULTILINE)
PLACES = PLACE.findall(TEXT)
BLOCK = re.compile(r"^```(yaml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RECIPES = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL))
MAX_BOXES = 12
RUN = """
import doctest, pathlib, sys
text = pathlib.Path(sys.argv[1]).read_text()
test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, sys.argv[2], sys.argv[1], 0)
sys.exit(doctest.DocTestRunner(verbose=False).run(test).failed)
"""


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{PAGE} has no section {title!r}"
    return found.group(1)


def names_in(source: str) -> set[str]:
    """Functions, classes and constants of a module; of what a class defines, `Class.name`."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    collect(ast.parse(source).body, "")
    return found


def elsewhere(symbol: str) -> list[str]:
    """Where a symbol is instead: what a message about a wrong place should say."""
    return [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if symbol in names_in(path.read_text(encoding="utf-8"))
    ]


def test_twenty_questions_or_more_have_one_place_each() -> None:
    rows = [line for line in section("Where is X decided?").splitlines() if line.startswith("| ")][2:]
    assert len(PLACES) == len(rows) >= 20
    assert len({question for question, _, _ in PLACES}) == len(PLACES)


@pytest.mark.parametrize(("question", "file", "symbol"), PLACES, ids=[question for question, _, _ in PLACES])
def test_the_place_that_decides_a_question_exists(question: str, file: str, symbol: str) -> None:
    path = PACKAGE / file
    known = names_in(path.read_text(encoding="utf-8")) if path.is_file() else set()
    assert symbol in known, f"{question} {file} has no {symbol}; it is in {elsewhere(symbol) or 'no file'}"


def test_every_path_in_the_text_exists() -> None:
    paths = set(re.findall(r"`((?:[\w.]+/)+(?:\w+\.py)?|\w+\.py)`", TEXT))
    for picture in re.findall(r"^```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        paths |= set(re.findall(r"(?:\w+/)+(?:\w+\.py)?", picture))
    bases = (PACKAGE, ROOT, PACKAGE / "cost/collectives", PACKAGE / "validation")
    assert [path for path in sorted(paths) if not any((base / path).exists() for base in bases)] == []


def test_the_table_of_folders_has_every_folder_and_every_module_beside_them() -> None:
    listed = set(re.findall(r"^\| `([\w/.]+?)/?` \|", section("Folders"), re.MULTILINE))
    inner = {"cost/kernels", "cost/collectives", "runtime/fabric", "runtime/engine", "runtime/kv"}
    top = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert listed == top | modules | inner


@pytest.mark.parametrize("title", ["A request's way", "A transfer's way"])
def test_a_picture_has_at_most_twelve_boxes(title: str) -> None:
    picture = section(title).split("```")[1]
    edges = re.findall(r"\+-+\+", picture)  # of a box, the upper and the lower one
    assert 0 < len(edges) / 2 <= MAX_BOXES


def test_there_is_a_recipe_for_each_kind_of_extension() -> None:
    kinds = "GPU|model family|collective|router|scheduling rule|cause|metric|experiment"
    assert [title.partition(" ")[2] for title in RECIPES] == kinds.split("|")


@pytest.mark.slow
@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_runs_as_it_stands(title: str, tmp_path: Path) -> None:
    code = ""
    for language, block in BLOCK.findall(RECIPES[title]):
        if language == "python":
            code += block
            continue
        name = re.match(r"# (\S+\.yaml)\n", block)
        assert name is not None, "the first line of a file's block is its name, as in `# mine.yaml`"
        (tmp_path / name.group(1)).write_text(block, encoding="utf-8")
    (tmp_path / "recipe.txt").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUN, "recipe.txt", title],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ">>>" in code
    assert done.returncode == 0, done.stdout + done.stderr
