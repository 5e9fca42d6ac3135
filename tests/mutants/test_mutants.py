from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mutants.__main__ import MODULES, ROOT, drawn, equivalent, mapped_tests, modules
from tests.mutants.operators import described, mutated, numbers
from tests.mutants.runner import in_child, limit


def changes(source: str) -> list[tuple[str, str]]:
    """What stands where, for every mutant of a line."""
    found = [described("module.py", source, *at) for at in numbers(source)]
    return [(one.was, one.becomes) for one in found]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", ["x = a <= b", "x = a >= b"]),
        ("x = a != b", ["x = a == b"]),
        ("x = a - b", ["x = a + b"]),
        ("x = a // b", ["x = a / b"]),
        ("x = 2", ["x = 3", "x = 1"]),
        ("x = 0.5", ["x = 1.0"]),
        ("x = min(a, b)", ["x = max(a, b)"]),
        ("x = a and b", ["x = a or b"]),
        ("x = not a", ["x = a"]),
        ("x = a[b:]", ["x = a[:]"]),
        ("free -= n", ["pass", "free += n"]),
        ("release(blocks)", ["pass"]),
    ],
)
def test_an_operator_changes_one_thing(source: str, expected: list[str]) -> None:
    assert sorted(after for _, after in changes(source)) == sorted(expected)


@pytest.mark.parametrize(
    "source",
    [
        "assert a < b",
        'raise InputError(f"at least {n + 1}")',
        "x: tuple[1, 2]",
        "'''Words.'''",
        "zip(a, strict=True)",
    ],
)
def test_what_no_test_should_tell_is_left_alone(source: str) -> None:
    assert all(after == "pass" for _, after in changes(source))


def test_a_mutant_has_the_function_and_the_lines_of_its_statement() -> None:
    source = "class Pool:\n  def take(self, n):\n    if (self.free\n        < n):\n      wait()\n"
    one = described("module.py", source, *numbers(source)[0])
    assert (one.scope, one.lines, one.becomes) == ("Pool.take", (3, 4), "self.free <= n")
    assert "if self.free <= n:" in ast.unparse(mutated(source, one.place, one.variant))


def test_every_module_has_tests_that_exist_and_every_equivalent_a_reason() -> None:
    assert {str(one.relative_to(ROOT)).rpartition("/")[0] for one in modules()} >= {
        one for one in MODULES if not one.endswith(".py")
    }
    for path in modules():
        tests = mapped_tests(str(path.relative_to(ROOT)))
        assert tests or not numbers(path.read_text())
        assert all((ROOT / name).exists() for name in tests), tests
    for (module, function, was, becomes), why in equivalent().items():
        assert was != becomes
        assert function.rpartition(".")[2] in (ROOT / module).read_text()
        assert len(why.split()) > 3


def test_the_same_seed_draws_the_same_mutants() -> None:
    paths = [ROOT / "sim/cost/shard.py"]
    assert drawn(3, 7, paths) == drawn(3, 7, paths) != drawn(3, 8, paths)


def fails(tell: Callable[[str], None]) -> None:
    tell("first")
    tell("second")
    raise AssertionError


def never_ends(tell: Callable[[str], None]) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0.01)
    while True:
        pass


def test_a_child_tells_what_became_of_it() -> None:
    assert in_child(lambda tell: tell("first"))[:2] == ("survived", "")
    assert in_child(fails)[:2] == ("killed", "second")
    assert in_child(never_ends)[:2] == ("timeout", "")
    assert in_child(lambda tell: os.kill(os.getpid(), signal.SIGKILL))[0] == "killed"
    assert in_child(lambda tell: limit(1.0))[0] == "survived"


@pytest.mark.slow
def test_a_run_keeps_what_it_found_and_goes_on_there(tmp_path: Path) -> None:
    keep = tmp_path / "kept.jsonl"
    command = [
        sys.executable,
        "-m",
        "tests.mutants",
        "--sample",
        "1500",
        "--only",
        "cost/shard",
        "--keep",
        keep,
    ]
    first, second = (
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert "tests reach these modules" in first
    assert "tests reach these modules" not in second
    assert len(keep.read_text().splitlines()) == int(second.split("mutants,")[-2].split()[-1])
    assert first.splitlines()[-1] == second.splitlines()[-1]
