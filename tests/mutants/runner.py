"""Runs the tests of a module against its mutants, each in a process forked where the tests are collected.

A mutant within a function is that function with other code (`__code__`), so that nothing is imported again. A
mutant outside of functions (a constant, a default) is the whole module, imported anew with all that uses it.
Per mutant only those tests run that reach the changed lines, the quickest first, until one fails. Polars has
no threads yet where a process forks: only a child uses it.

Why own code: mutmut finds the tests of each function by running all tests first and draws no sample;
cosmic-ray starts an interpreter per mutant, which takes longer than most tests here.
"""

from __future__ import annotations

import ast
import gc
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import Phase, settings

from tests.mutants.operators import Mutant, mutated

ROOT = Path(__file__).parents[2]
OPTIONS = [
    *"-q --no-header --tb=no -p no:cacheprovider -p no:xdist -W".split(),
    "ignore::pytest.PytestAssertRewriteWarning",
]
MOST_S = 1.5  # processor time of all tests of one mutant; the quickest are taken
FEW = 4  # so many parameters of a test are tried
TIMES = 3  # a test that takes so many times as long as while it was traced, and half a second, does not end
WALL_S = 120
ADDRESS_SPACE = 6 << 30

CALLS = 50  # of a function whose lines are looked at in a test
EXAMPLES = 30  # of a property
Functions = dict[tuple[str, str, int], list[FunctionType]]
Report = Callable[
    [int, str, str, float], None
]  # number of the mutant, what became of it, by which test, seconds


@dataclass(frozen=True)
class Target:
    """A module, the test files mapped to it, and its mutants with their numbers."""

    module: str
    tests: tuple[str, ...]
    mutants: tuple[tuple[int, Mutant], ...]

    @property
    def path(self) -> str:
        return str(ROOT / self.module)


@dataclass
class Reached:
    """A test that passes: its processor time, while its lines are traced, and those of each module."""

    index: int
    name: str
    seconds: float
    lines: dict[str, list[int]]


@dataclass(frozen=True)
class Runner:
    """A pytest plugin that, instead of running the tests once, runs them once per mutant."""

    targets: Sequence[Target]
    report: Report

    def pytest_collection(self) -> None:
        _load_profile()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = _few_of_each(session.items)
        paths = {target.path for target in self.targets}
        tests = [Reached(*one) for one in _asked(lambda: _reached(items, paths))]
        tests.sort(key=lambda one: one.seconds)
        total = sum(one.seconds for one in tests)
        print(f"\n{len(tests)} of {len(items)} tests reach these modules, {total:.1f} s traced", flush=True)
        functions = _functions_of(paths)
        gc.collect()
        gc.freeze()
        for target in self.targets:
            mapped = [one for one in tests if one.name.partition("::")[0] in target.tests]
            self._each(items, [one for one in mapped if target.path in one.lines], target, functions)
        return True

    def _each(
        self, items: Sequence[pytest.Item], tests: Sequence[Reached], target: Target, functions: Functions
    ) -> None:
        path = target.path
        print(f"{target.module}: {len(tests)} tests", flush=True)
        source = Path(path).read_text()
        original = _codes(compile(source, path, "exec", dont_inherit=True))
        for number, mutant in target.mutants:
            first, last = mutant.lines
            of_lines = [one for one in tests if any(first <= line <= last for line in one.lines[path])]
            tree = mutated(source, mutant.place, mutant.variant)
            codes = _codes(compile(tree, path, "exec", dont_inherit=True))
            changed = [key for key, code in codes.items() if original.get(key) != code]
            here = functions.get((path, *changed[0]), ()) if len(changed) == 1 else ()
            if here:
                self.report(number, *_killed(items, _within(of_lines), here, codes[changed[0]]))
            else:
                self.report(number, "whole", "", 0.0)


def _load_profile() -> None:
    """A failure is enough: no search for a smaller one."""
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", settings(), phases=phases, max_examples=EXAMPLES)
    settings.load_profile("mutants")


def _few_of_each(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Of a test with many parameters some, spread evenly."""
    by_function: dict[str, list[pytest.Item]] = {}
    for item in items:
        by_function.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return [
        same[at * len(same) // few]
        for same in by_function.values()
        for few in [min(len(same), FEW)]
        for at in range(few)
    ]


def _within(tests: Sequence[Reached]) -> list[Reached]:
    taken: list[Reached] = []
    total = 0.0
    for one in tests:
        total += one.seconds
        if taken and total > MOST_S:
            break
        taken.append(one)
    return taken


def _functions_of(paths: Collection[str]) -> Functions:
    found: Functions = {}
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename in paths:
            code = one.__code__
            key = code.co_filename, code.co_qualname, code.co_firstlineno
            found.setdefault(key, []).append(one)
    return found


def _codes(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """The code of every function of a module and of its classes, without those within functions."""
    found: dict[tuple[str, int], CodeType] = {}
    for one in code.co_consts:
        if isinstance(one, CodeType):
            if one.co_flags & 0x01:  # optimised: a function, and no class body
                found[one.co_qualname, one.co_firstlineno] = one
            else:
                found |= _codes(one)
    return found


def _run(item: pytest.Item, following: pytest.Item | None) -> bool | None:
    """Whether a test passes; None where it is skipped."""
    reports = runtestprotocol(item, log=False, nextitem=following)
    if any(one.skipped for one in reports):
        return None
    return all(one.passed for one in reports)


def _reached(items: Sequence[pytest.Item], paths: Collection[str]) -> list[Any]:
    """Runs in a child: index, name, processor time and lines by module, of every test that passes."""
    lines: dict[str, set[int]] = {}
    calls: Counter[CodeType] = Counter()

    def within(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            lines[frame.f_code.co_filename].add(frame.f_lineno)
        return within

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        path = frame.f_code.co_filename
        if path not in paths:
            return None
        lines.setdefault(path, set()).add(frame.f_lineno)
        calls[frame.f_code] += 1
        return within if calls[frame.f_code] <= CALLS else None

    found: list[Any] = []
    for at, item in enumerate(items):
        lines.clear()
        calls.clear()
        began = time.process_time()
        sys.settrace(trace)
        passed = _run(item, None if at + 1 == len(items) else items[at + 1])
        sys.settrace(None)
        if passed is False:
            print(f"{item.nodeid} fails without any mutant", flush=True)
        if passed and lines:
            seconds = time.process_time() - began
            found.append((at, item.nodeid, seconds, {path: sorted(of) for path, of in lines.items()}))
    return found


def _killed(
    items: Sequence[pytest.Item], tests: Sequence[Reached], functions: Sequence[FunctionType], code: CodeType
) -> tuple[str, str, float]:
    if not tests:
        return "survived", "no test reaches it", 0.0

    def act(tell: Callable[[str], None]) -> None:
        for function in functions:
            function.__code__ = code
        for at, one in enumerate(tests):
            tell(one.name)
            limit(one.seconds)
            following = items[tests[at + 1].index] if at + 1 < len(tests) else None
            if _run(items[one.index], following) is False:
                os._exit(1)

    return in_child(act)


def limit(seconds: float) -> None:
    """End this process where a test takes far longer than it should."""
    signal.setitimer(signal.ITIMER_PROF, 0.5 + TIMES * seconds)


def in_child(act: Callable[[Callable[[str], None]], None]) -> tuple[str, str, float]:
    """Fork and act; what became of the child: killed or survived, the test that it ran last, seconds."""
    began = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            _bounded()
            act(lambda name: _tell(writing, name))
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        names = said.read().split("\n")
    _, status = os.waitpid(child, 0)
    last = names[-2] if len(names) > 1 else ""
    seconds = time.monotonic() - began
    if os.WIFSIGNALED(status):
        how = "timeout" if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM) else "killed"
        return how, last, seconds
    return ("killed", last, seconds) if os.WEXITSTATUS(status) else ("survived", "", seconds)


def _tell(writing: int, name: str) -> None:
    os.write(writing, f"{name}\n".encode())


def _bounded() -> None:
    """Silence, no files of core, a bound of memory and of time."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(WALL_S)


def _asked(act: Callable[[], Any]) -> Any:
    """What a function returns, called in a child, so that nothing here remembers it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            with os.fdopen(writing, "w") as out:
                out.write(json.dumps(act()))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    os.waitpid(child, 0)
    return json.loads(text or "[]")


class _OneModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module changed."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(self.name, self.path, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, self.path, "exec", dont_inherit=True), module.__dict__)


class _OneByOne:
    """A pytest plugin of a child with a module imported anew: a time limit and the name of each test."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def pytest_collection(self) -> None:
        _load_profile()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.tell(item.nodeid)
        limit(MOST_S)
        return (yield)


def imported_anew(mutant: Mutant, tests: Sequence[str]) -> tuple[str, str, float]:
    """What becomes of a mutant outside of functions; nothing of the simulator may be imported here yet."""

    def act(tell: Callable[[str], None]) -> None:
        path = ROOT / mutant.module
        tree = mutated(path.read_text(), mutant.place, mutant.variant)
        name = mutant.module.removesuffix(".py").replace("/", ".")
        sys.meta_path.insert(0, _OneModule(name, str(path), tree))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        os._exit(pytest.main([*OPTIONS, "-x", *tests], plugins=[_OneByOne(tell)]) != 0)

    return in_child(act)


def run_tests(targets: Sequence[Target], report: Report) -> None:
    """Fork; collect the tests there; run them against the mutants; then those that need a fresh import."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        said = os.fdopen(writing, "w")

        def tell(*row: Any) -> None:
            said.write(json.dumps(row) + "\n")
            said.flush()

        try:
            tests = dict.fromkeys(name for target in targets for name in target.tests)
            pytest.main([*OPTIONS, "-s", *tests], plugins=[Runner(targets, tell)])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writing)
    later: set[int] = set()
    with os.fdopen(reading) as lines:
        for line in lines:
            number, status, by, seconds = json.loads(line)
            if status == "whole":
                later.add(number)
            else:
                report(number, status, by, seconds)
    os.waitpid(child, 0)
    for target in targets:
        for number, mutant in target.mutants:
            if number in later:
                report(number, *imported_anew(mutant, target.tests))
