"""`python -m tests.mutants --sample 500 --seed 1 --keep FILE`: which small changes of code the tests see.

A seeded sample of the mutants of the modules in `MODULES`, each against the tests mapped to its module
(`tests_of.txt`). A mutant is killed where a test fails, or does not end. Mutants that no test can kill,
because nothing changes, are listed with the reason in `equivalent.yaml` and counted apart. With `--keep`, an
interrupted run goes on where it stopped, and `--again` runs the survivors against tests that changed since.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from tests.mutants.operators import Mutant, described, numbers

for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")  # read when numpy is imported: a process that forks has one thread

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
MODULES = (
    "sim/cost",
    "sim/policy/reloading.py",
    "sim/policy/scheduling.py",
    "sim/runtime/engine",
    "sim/runtime/fabric",
    "sim/runtime/kv",
)
LIGHT = ("networkx", "numpy", "simpy", "pydantic", "yaml", "pint", "hypothesis", "pytest")

Row = dict[str, Any]
Wanted = dict[tuple[str, tuple[str, ...]], list[Mutant]]


def main() -> None:
    """Draw, run, count."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=500, help="how many mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="modules whose path has this in it")
    parser.add_argument("--keep", type=Path, help="file of results, a line each, appended to")
    parser.add_argument("--again", action="store_true", help="run kept survivors against tests that changed")
    parser.add_argument("--show", action="store_true", help="run nothing: the kept survivors and the score")
    asked = parser.parse_args()
    mutants = [one for one in drawn(asked.sample, asked.seed, modules()) if asked.only in one.module]
    kept = _read(asked.keep)
    rows = {one: kept[key(one)] for one in mutants if key(one) in kept}
    if not asked.show:
        _run(_to_run(mutants, rows, asked.again), rows, asked.keep)
    print(summary(rows))


def drawn(sample: int, seed: int, paths: Sequence[Path]) -> list[Mutant]:
    """The sample, in the order of modules and lines."""
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    every = [(name, *at) for name, source in sources.items() for at in numbers(source)]
    chosen = random.Random(seed).sample(every, min(sample, len(every)))
    return [described(name, sources[name], place, variant) for name, place, variant in sorted(chosen)]


def modules() -> list[Path]:
    """The files whose mutants are drawn."""
    named = [ROOT / one for one in MODULES]
    return sorted(path for one in named for path in ([one] if one.is_file() else one.rglob("*.py")))


def mapped_tests(module: str) -> list[str]:
    """The test of the same name, then those that `tests_of.txt` gives to the module or a folder above it."""
    own = Path("tests", *Path(module).parts[1:-1], f"test_{Path(module).name}")
    found = [str(own)] if (ROOT / own).exists() else []
    for line in (FOLDER / "tests_of.txt").read_text().splitlines():
        of, _, names = line.partition(":")
        if names and not of.startswith("#") and (module == of or module.startswith(f"{of}/")):
            found += names.split()
    return list(dict.fromkeys(found))


def equivalent() -> dict[tuple[str, str, str, str], str]:
    """The mutants that change nothing that could be seen, each with the reason."""
    listed = yaml.safe_load((FOLDER / "equivalent.yaml").read_text()) or []
    return {
        (module, one["in"], one["was"], one["becomes"]): one["why"]
        for module, of_module in dict(listed).items()
        for one in of_module
    }


def key(mutant: Mutant) -> tuple[Any, ...]:
    """What a kept result is found by: the mutant and the text of its module."""
    return _digest(mutant.module), mutant.module, mutant.place, mutant.variant


@functools.cache
def _digest(name: str) -> str:
    return hashlib.sha256((ROOT / name).read_bytes()).hexdigest()[:12]


def _read(keep: Path | None) -> dict[tuple[Any, ...], Row]:
    if keep is None or not keep.exists():
        return {}
    rows = [json.loads(line) for line in keep.read_text().splitlines()]
    return {(row["digest"], row["module"], row["place"], row["variant"]): row for row in rows}


def _to_run(mutants: Iterable[Mutant], rows: Mapping[Mutant, Row], again: bool) -> Wanted:
    """The mutants by module and tests to run: all that are mapped; of survivors those that changed."""
    equal = equivalent()
    found: Wanted = {}
    for one in mutants:
        tests = mapped_tests(one.module)
        if one in rows:
            if not again or rows[one]["status"] != "survived" or one.told in equal:
                continue
            seen = rows[one].get("tests", {})
            tests = [name for name in tests if seen.get(name) != _digest(name)]
        if tests:
            found.setdefault((one.module, tuple(tests)), []).append(one)
    return found


def _run(wanted: Wanted, rows: dict[Mutant, Row], keep: Path | None) -> None:
    for name in LIGHT:
        __import__(name)
    from tests.mutants.runner import Target, run_tests

    numbered = [one for of_module in wanted.values() for one in of_module]
    by_folder: dict[Path, list[Target]] = {}
    tests_of: dict[Mutant, tuple[str, ...]] = {}
    for (module, tests), of_module in wanted.items():
        mutants = tuple((number, one) for number, one in enumerate(numbered) if one in of_module)
        by_folder.setdefault(Path(module).parent, []).append(Target(module, tests, mutants))
        tests_of |= dict.fromkeys(of_module, tests)

    def report(number: int, status: str, by: str, seconds: float) -> None:
        mutant = numbered[number]
        row: Row = {"digest": _digest(mutant.module), "status": status, "by": by}
        row |= {"seconds": round(seconds, 2), **asdict(mutant)}
        seen = rows.get(mutant, {}).get("tests", {})
        row["tests"] = seen | {name: _digest(name) for name in tests_of[mutant]}
        rows[mutant] = row
        if keep is not None:
            with keep.open("a") as out:
                out.write(json.dumps(row) + "\n")
        if status == "survived":
            print(f"  {told(mutant)}  ({by or 'every test passes'})", flush=True)

    for targets in by_folder.values():
        run_tests(targets, report)


def told(mutant: Mutant) -> str:
    """A mutant in one line."""
    return f"{mutant.module}:{mutant.line} {mutant.scope}: {mutant.was}  ->  {mutant.becomes}"


def summary(rows: Mapping[Mutant, Row]) -> str:
    """The score by folder, and the survivors that are no equivalents."""
    equal = equivalent()
    survived = [one for one in rows if rows[one]["status"] == "survived"]
    same = [one for one in survived if one.told in equal]
    lines = [told(one) for one in survived if one.told not in equal]
    for folder in (*dict.fromkeys(str(Path(one.module).parent) for one in rows), ""):
        here = [one for one in rows if not folder or str(Path(one.module).parent) == folder]
        apart = sum(one in same for one in here)
        alive = sum(one in survived for one in here) - apart
        killed = len(here) - apart - alive
        share = killed / max(len(here) - apart, 1)
        lines.append(
            f"{folder or 'all':26} {len(here):4} mutants, {apart:3} equivalent, "
            f"{killed:4} killed, {alive:3} survived: {share:.1%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
