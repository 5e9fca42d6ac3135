"""A run read back from its folder, which reports again: tables, verdict, charts, and the page of them all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.results.saved import SavedTables, read_manifest
from sim.views.showing import Shown


class SavedResult(Shown, SavedTables):
    """What a saved run left, under the names of `Result`; each table is read when it is first asked for.

    In `summary()` an infinite percentile is None: JSON has none. `manifest` is the dictionary of the file.
    """

    def report(self, path: str | Path) -> Path:
        """Write the page of the run again, as `Result.save` has left it, to a file of any name."""
        return self._write_report(Path(path), with_infinities(self.summary()))


def load_result(folder: str | Path) -> SavedResult:
    """Read a saved run back. InputError for a folder without a manifest, or with a file that is not as the
    run left it.
    """
    folder = Path(folder)
    return SavedResult(folder, read_manifest(folder))


def with_infinities(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """A summary from its file as the run had it: where requests are censored, a percentile without a number
    is infinite.

    >>> with_infinities({"p99_ttft_ms": None, "censored_ttft": 1, "classes": {}})["p99_ttft_ms"]
    inf
    """
    found = dict(numbers)
    for censored in [name for name in numbers if name.startswith("censored_")]:
        latency = censored.removeprefix("censored_")
        of_latency = re.compile(rf"(median|max|p[0-9.]+)_{re.escape(latency)}_ms")
        for name, value in numbers.items():
            if numbers[censored] and value is None and of_latency.fullmatch(name):
                found[name] = math.inf
    classes = numbers.get("classes") or {}
    return (
        {**found, "classes": {name: with_infinities(one) for name, one in classes.items()}}
        if ("classes" in numbers)
        else found
    )
