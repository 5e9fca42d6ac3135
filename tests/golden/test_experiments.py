"""Every experiment's quick run against its saved answer, beside this file.

Numbers may differ in their last digits, wherever they stand; all else may not.
`pytest tests/golden -m "" --refresh` saves the answers anew: read the difference before committing it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sim.reading.data_files import experiment_scripts

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
EXPERIMENTS = experiment_scripts()
RELATIVE, ABSOLUTE = 1e-6, 1e-9
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
FIELDS = {"case", "quantity", "unit", "published", "simulated", "error", "kind", "source"}


def told(experiment: Path) -> dict[str, Any]:
    """What an experiment prints, run as a person runs it."""
    run = subprocess.run(
        [sys.executable, str(experiment), "--quick", "--format", "json"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def differences(saved: Any, now: Any, where: str = "") -> list[str]:
    """What differs, each with its place."""
    if isinstance(saved, dict) and isinstance(now, dict):
        return [
            found
            for key in sorted({*saved, *now})
            for found in differences(saved.get(key), now.get(key), f"{where}.{key}" if where else key)
        ]
    if isinstance(saved, list) and isinstance(now, list):
        if len(saved) != len(now):
            return [f"{where}: {len(saved)} were saved, {len(now)} are there"]
        return [
            found
            for i, (one, other) in enumerate(zip(saved, now, strict=True))
            for found in differences(one, other, f"{where}[{i}]")
        ]
    if isinstance(saved, str) and isinstance(now, str):
        same = NUMBER.sub("#", saved) == NUMBER.sub("#", now) and all(
            abs(_value(a) - _value(b)) <= 1.001 * _last_digit(a)
            for a, b in zip(NUMBER.findall(saved), NUMBER.findall(now), strict=True)
        )
    elif _is_number(saved) and _is_number(now):
        same = _close(saved, now, RELATIVE)
    else:
        same = saved == now
    return [] if same else [f"{where}: {saved!r} was saved, now {now!r}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(text: str) -> float:
    return float(text.replace(",", "").rstrip("."))


def _last_digit(text: str) -> float:
    """What one more in the last digit of a number in a text is: 0.1 for 12.3."""
    mantissa, _, exponent = text.rstrip(".").partition("e")
    return float(10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])))


def _close(a: float, b: float, relative: float) -> bool:
    return abs(a - b) <= max(relative * max(abs(a), abs(b)), ABSOLUTE)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_says_what_it_said(experiment: Path, refresh: bool) -> None:
    answer = told(experiment)
    saved = HERE / f"{experiment.stem}.json"
    if refresh:
        saved.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    assert saved.is_file(), f"no saved answer; pytest {HERE.name} -m '' --refresh writes it"
    found = differences(json.loads(saved.read_text(encoding="utf-8")), answer)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("saved", sorted(HERE.glob("*.json")), ids=lambda path: path.stem)
def test_a_saved_answer_has_an_experiment_and_the_fields_that_scripts_rely_on(saved: Path) -> None:
    assert saved.stem in {path.stem for path in EXPERIMENTS}
    answer = json.loads(saved.read_text(encoding="utf-8"))
    assert answer["question"].endswith("?")
    assert answer["takeaway"]
    assert answer["rows"]
    for row in answer["rows"]:
        assert row.keys() >= FIELDS
        assert row["kind"] in ("predicted", "fitted")
        assert row["published"] is None or row["source"]


def test_last_digits_may_differ_and_nothing_else() -> None:
    saved = {"rows": [1.0, "12.3 ms"], "unit": "ms"}
    assert differences(saved, {"rows": [1.0 + 1e-9, "12.4 ms"], "unit": "ms"}) == []
    assert differences(saved, {"rows": [1.001, "12.3 ms"], "unit": "ms"}) != []
    assert differences(saved, {"rows": [1.0, "13 ms"], "unit": "ms"}) != []
    assert differences(saved, {"rows": [1.0, "12.3 s"], "unit": "ms"}) != []
    assert differences(saved, {"rows": [1.0], "unit": "ms"}) != []
    assert differences(saved, {"rows": [1.0, "12.3 ms"], "unit": None}) != []
