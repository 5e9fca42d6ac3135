"""`python -m tests.fuzz --minutes 60 --out found`: broken inputs for so long, each distinct fault as a file.

A fault that is found is made smaller while it stays the same fault.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz.cases import KINDS, Case, any_case, as_yaml, places
from tests.fuzz.known import is_known
from tests.fuzz.worker import SECONDS, Fault, Worker


def main() -> None:
    """Fuzz until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="processor time of one case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--out", type=Path, help="folder for one file per fault")
    asked = parser.parse_args()
    worker = Worker(asked.seconds)
    found: dict[tuple[str, str], int] = {}
    began = time.monotonic()
    seed = asked.seed
    while time.monotonic() - began < asked.minutes * 60:
        rng = random.Random(seed)
        case = KINDS[asked.kind][1](rng) if asked.kind else any_case(rng)
        fault = worker.run(case)
        if fault is not None:
            if fault.signature not in found:
                print(f"seed {seed}: {fault.kind} at {fault.place}", flush=True)
                smallest = minimised(case, fault, worker)
                if asked.out is not None:
                    asked.out.mkdir(parents=True, exist_ok=True)
                    name = f"{len(found):02}.txt"
                    text = f"seed {seed}\n{fault.kind} at {fault.place}\n\n{smallest}\n"
                    text += f"{fault.text}\n{smallest.json()}\n"
                    (asked.out / name).write_text(text, errors="backslashreplace")
            found[fault.signature] = found.get(fault.signature, 0) + 1
        seed += 1
    worker.close()
    print(f"{seed - asked.seed} cases, {len(found)} distinct faults")
    for (kind, place), times in sorted(found.items()):
        print(f"{times:5} {kind} at {place}")
    if not all(is_known(Fault(kind, place, "")) for kind, place in found):
        raise SystemExit(1)


def minimised(case: Case, fault: Fault, worker: Worker, most_s: float = 40.0) -> Case:
    """The same fault with as little as can be found in some time."""
    until = time.monotonic() + most_s
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(case):
            if time.monotonic() > until:
                return case
            again = worker.run(candidate)
            if again is not None and again.signature == fault.signature:
                case, smaller = candidate, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """The case with one thing less: a file, an entry of a document, a run of lines, a word."""
    for at, (name, text) in enumerate(case.files):
        rest = case.files[:at], case.files[at + 1 :]
        yield Case(case.words, (*rest[0], *rest[1]))
        for shorter in _shorter(name, text):
            yield Case(case.words, (*rest[0], (name, shorter), *rest[1]))
    for at in range(1, len(case.words)):
        yield Case((*case.words[:at], *case.words[at + 1 :]), case.files)


def _shorter(name: str, text: str) -> Iterator[str]:
    try:
        value: Any = yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = None
    if isinstance(value, dict | list):
        for way in sorted(places(value), key=len):
            less: Any = yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text)
            owner = less
            for step in way[:-1]:
                owner = owner[step]
            del owner[way[-1]]
            yield as_yaml(less) if name.endswith(".yaml") else json.dumps(less, indent=1)
        return
    lines = text.splitlines(keepends=True)
    size = max(len(lines) // 2, 1)
    while lines and size:
        for first in range(0, len(lines), size):
            yield "".join(lines[:first] + lines[first + size :])
        size //= 2


if __name__ == "__main__":
    main()
