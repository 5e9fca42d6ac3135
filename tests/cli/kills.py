"""Kills commands at random moments, and looks at what they leave: `python -m tests.cli.kills --times 200`.

Nothing half-written may load, nothing that was there or had ended may be lost, and no process may stay.
Commands begin as forks of this process, in which everything is imported, so that most kills hit their work.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SCENARIO = """
topology: a100-x4
model: llama-3-8b
engine: {scheduler: one_at_a_time, service_time: {token_s: 10 us}}
workload: {arrivals: {kind: poisson, rate_per_s: 1}, prompt_tokens: 50000, output_tokens: 1, requests: 1500}
"""
LOADED = ("polars", "altair", "vl_convert", "yaml", "sim.cli.app", "sim.views.report", "sim.views.machine",
          "sim.studies.sweep", "sim.studies.kept", "sim.studies.compare", "sim.studies.capacity",
          "sim.runtime.build", "sim.validation.ledger")  # fmt: skip
SECONDS_FOR_WORKERS = 2.0


@dataclass(frozen=True)
class Verb:
    """Words of a command, `{}` for its output; whether a complete output is there before; what must hold
    after a kill, of the output and of that of a whole run.
    """

    words: str
    out: str
    holds: Callable[[Path, Path], bool]
    there_before: bool = False


def is_whole_run(out: Path, reference: Path) -> bool:
    import sim

    return not out.exists() or sim.load_result(out).manifest == sim.load_result(reference).manifest


def is_there(out: Path, reference: Path) -> bool:
    return out.exists() and is_whole_run(out, reference)


def is_same_file(out: Path, reference: Path) -> bool:
    return not out.exists() or out.read_bytes() == reference.read_bytes()


def has_whole_lines(out: Path, reference: Path) -> bool:
    """What `--keep` has kept is the beginning of what a whole run keeps, but for a line that is cut off."""
    return not out.exists() or reference.read_bytes().startswith(out.read_bytes())


SWEEP = "sweep {s} --over engine.max_num_seqs=1,2,3 --seeds 3 --out {out}"
VERBS = (
    Verb("run {s} --out {out}", "run", is_whole_run),
    Verb("run {s} --out {out} --force", "again", is_there, there_before=True),
    Verb(SWEEP, "sweep.csv", is_same_file),
    Verb("compare {s} {t} --seeds 3 --out {out}", "compare.csv", is_same_file),
    Verb("capacity {s} --slo p99_ttft_ms=5000 --tolerance 0.2 --out {out}", "capacity.csv", is_same_file),
    Verb("topology draw gb200-nvl72 --force --out {out}", "rack.svg", is_same_file),
    Verb("validate services --processes 1 --keep {out}", "kept.jsonl", has_whole_lines),
)


def begun(words: list[str], folder: Path) -> int:
    """The process of a command, in a session of its own."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.setsid()
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from sim.cli import main

        try:
            main(words)
        except SystemExit as end:
            os._exit(int(end.code or 0))
    return pid


def processes_of(session: int) -> list[str]:
    """Processes of a session that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(entry.name)
    return found


def kills(
    times: int, seed: int, verbs: tuple[Verb, ...] = VERBS, verbose: bool = False
) -> dict[str, list[int]]:
    """By verb: how often it was killed, how often it had ended before, how often its output was there.

    AssertionError where something does not hold.
    """
    import importlib

    for name in LOADED:
        importlib.import_module(name)
    draw, began = random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        scenario, slower = folder / "s.yaml", folder / "t.yaml"
        scenario.write_text(SCENARIO)
        slower.write_text(SCENARIO.replace("10 us", "11 us"))
        counts: dict[str, list[int]] = {}
        took_s: dict[str, float] = {}
        for number in range(times):
            verb = verbs[number % len(verbs)]
            reference, out = folder / f"whole-{verb.out}", folder / verb.out

            def words(target: Path, verb: Verb = verb) -> list[str]:
                return verb.words.format(s=scenario, t=slower, out=target).split()

            if verb.words not in took_s:
                started = time.monotonic()
                if "--keep" in verb.words:
                    took_s[verb.words] = 5.0  # it takes minutes: its beginning is killed
                    pid = begun(words(reference), folder)
                    time.sleep(15.0)
                    os.kill(pid, signal.SIGINT)
                    os.waitpid(pid, 0)
                else:
                    _, status = os.waitpid(begun(words(reference), folder), 0)
                    assert status == 0, (folder / "log").read_text()
                    took_s[verb.words] = time.monotonic() - started
            if verb.there_before and not out.exists():
                shutil.copytree(reference, out)
            pid = begun(words(out), folder)
            time.sleep(draw.uniform(0.0, 1.1 * took_s[verb.words]))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            killed = time.monotonic()
            while left := processes_of(pid):
                assert time.monotonic() - killed < SECONDS_FOR_WORKERS, f"{verb.words}: {left} stay"
                time.sleep(0.05)
            assert verb.holds(out, reference), f"{verb.words}: kill {number}"
            if verbose:
                print(f"{time.monotonic() - began:6.1f} s  {verb.words}", file=sys.stderr, flush=True)
            count = counts.setdefault(verb.words.partition(" {")[0] + " " + verb.out, [0, 0, 0])
            count[0] += 1
            count[1] += status == 0
            count[2] += out.exists()
            rows = out.with_name(f"{out.name}.rows")
            if rows.exists() and draw.random() < 0.3:
                # The same command goes on, runs nothing twice, and comes to the same bytes.
                ended = max(0, rows.read_bytes().count(b"\n") - 1)
                _, status = os.waitpid(begun(words(out), folder), 0)
                said = (folder / "log").read_text()
                assert status == 0, said
                assert not ended or f"going on with {ended} runs" in said
                assert verb.holds(out, reference)
                assert not rows.exists()
            going_on = rows.exists() or ("--keep" in verb.words and status != 0)
            if not verb.there_before and not going_on:
                shutil.rmtree(out, ignore_errors=True)
                out.unlink(missing_ok=True)
        return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="without the verb that takes minutes by itself")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    verbs = VERBS[:-1] if wanted.quick else VERBS
    for name, (killed, ended, there) in kills(wanted.times, wanted.seed, verbs, verbose=True).items():
        print(f"{name:40} {killed:4} kills, {ended:3} after the end, output there {there:3} times: all whole")


if __name__ == "__main__":
    main()
