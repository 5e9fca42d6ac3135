"""How long `import sim` and `sim --help` take, each in fresh processes, beside bare Python."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from benchmarks._tables import Figure, show

ROUNDS = 7


def cpu_s(*words: str) -> float:
    """CPU seconds of a fresh Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    cases = {
        "bare Python": ("-c", ""),
        "import sim": ("-c", "import sim"),
        "sim --help": ("-m", "sim", "--help"),
        "import sim, and all that a run needs": ("-c", "import sim; sim.simulate"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, words in cases.items():
            seconds[name].append(cpu_s(*words))
    goals = {"import sim": 0.5, "sim --help": 0.5}
    show(
        Figure(f"{name}: CPU time", statistics.median(times), "s", goals.get(name), at_most=True)
        for name, times in seconds.items()
    )


if __name__ == "__main__":
    main()
