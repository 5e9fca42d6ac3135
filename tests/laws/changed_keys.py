"""What comes of a key that is changed, one at a time: whether any record of the run takes notice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars

import sim
from sim.results.energy import FLAT
from tests.laws.every_key import KERNELS, Key, Path
from tests.laws.key_scenarios import KERNEL_SCENARIOS, SCENARIOS, Case

RELATIVE = 1e-9
TABLES = ("requests", "steps", "gaps", "blame", "links", "gpus", "hand_overs", "kv_tiers")
ECHOED = {("links", "bytes_per_s")}  # says what was written, whatever came of it
BOTH_WAYS = ("latency_s", "hop_s")
"""Keys that have to act in both directions: less of a latency is faster, more is slower."""

ABOUT_ITSELF = ("basis", "keys", "energy", "cost", *FLAT)
"""Parts of a summary that say what the scenario is, or are worked out from rows and constants: a key that
moves only watts moves no record of the run. Keys of power and prices are held against these parts alone.
"""

Outcome = Literal["acted", "same", "cannot be", "refused"]


def changed(case: Case, key: Key, value: float) -> sim.Scenario:
    """The scenario with another number at a key; one in a list is changed with the whole list."""
    if key.also:
        paths = (key.path, *key.also)
        return sim.with_changes(case.scenario, {".".join(map(str, path)): value for path in paths})
    cut = next((at for at, step in enumerate(key.path) if isinstance(step, int)), len(key.path))
    dotted = ".".join(str(step) for step in key.path[:cut])
    if cut == len(key.path):
        return sim.with_changes(case.scenario, {dotted: value})
    held: Any = case.scenario.model_dump()
    for step in key.path[:cut]:
        held = held[step]
    return sim.with_changes(case.scenario, {dotted: _with_element(held, key.path[cut:], value)})


def _with_element(held: Any, path: Path, value: float) -> Any:
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(first, int):
        return [_with_element(one, rest, value) if at == first else one for at, one in enumerate(held)]
    return {**held, first: _with_element(held[first], rest, value)}


def outcome(case: Case, key: Key, value: float) -> Outcome:
    """What comes of one changed number: other records, the same, a refusal by the run or by the schema."""
    before = case.result  # whatever goes wrong with it is not the change's
    try:
        after = sim.simulate(changed(case, key, value))
    except sim.InputError:
        return "refused"
    except (sim.InfeasibleError, sim.UnfinishedError):
        return "cannot be"
    if key.name.startswith("prices") or ".power." in key.name:
        return "acted" if _power(before) != _power(after) else "same"
    return "acted" if differ(before, after) else "same"


def _power(result: sim.Result) -> tuple[Any, Any]:
    numbers = result.summary()
    return numbers["energy"], numbers.get("cost")


def candidates(key: Key) -> dict[str, list[float]]:
    """Other values, by direction: less and more of what there is; anything where nothing is."""
    last = key.name.rsplit(".", 1)[-1].removesuffix("[]")
    value = key.value
    if not value:  # None or zero
        at_first: tuple[float, ...] = (1, 4, 64) if key.whole else (0.5, 0.01, 2.0)
        if last.endswith("_s") and "bytes" not in last and "rate" not in last:
            at_first = (1e-3, 0.05)
        elif last.endswith("bytes_per_s"):
            at_first = (1e9, 1e7)
        elif last.endswith("_ms"):
            at_first = (10.0, 100.0)
        return {"more": list(at_first)}
    if isinstance(value, float) and not math.isfinite(value):
        return {}
    if key.whole:
        less = [value // 2, value - 1] if value > 1 else [0] if value == 1 else [value * 2]
        return {"less": list(dict.fromkeys(less)), "more": [value * 2, value + 1]}
    if 0.01 < value <= 1:
        return {"less": [value / 2, value / 10], "more": [value * 2, (1 + value) / 2 if value < 1 else 1.2]}
    return {"less": [value / 10], "more": [value * 10]}


def differ(one: sim.Result, other: sim.Result) -> bool:
    """Whether any number of any record is another, by more than rounding."""
    return any(_tables_differ(name, getattr(one, name), getattr(other, name)) for name in TABLES) or (
        _numbers_differ(_summary(one), _summary(other))
    )


def _summary(result: sim.Result) -> list[float]:
    return [
        math.nan if number is None else float(number)
        for number in _leaves(
            {name: block for name, block in result.summary().items() if name not in ABOUT_ITSELF}
        )
        if number is None or isinstance(number, int | float)
    ]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for entry in value.values():
            yield from _leaves(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value


def _tables_differ(name: str, one: polars.DataFrame, other: polars.DataFrame) -> bool:
    if one.shape != other.shape or one.columns != other.columns:
        return True
    for column in one.columns:
        if (name, column) in ECHOED or one[column].equals(other[column]):
            continue
        if one[column].dtype != polars.Float64:
            return True
        if _numbers_differ(one[column].to_numpy(), other[column].to_numpy()):
            return True
    return False


def _numbers_differ(one: Any, other: Any) -> bool:
    first, second = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if first.shape != second.shape:
        return True
    with np.errstate(invalid="ignore"):
        apart = np.abs(first - second) > RELATIVE * np.maximum(np.abs(first), np.abs(second)) + 1e-12
    return bool((apart | (np.isnan(first) != np.isnan(second))).any())


@dataclass
class Findings:
    """What was seen of a key: by direction and scenario, the outcomes of the values that were tried."""

    seen: dict[str, dict[str, list[Outcome]]] = field(default_factory=dict)

    def outcomes(self, direction: str) -> set[Outcome]:
        return {one for outcomes in self.seen.get(direction, {}).values() for one in outcomes}

    def heard(self, direction: str) -> bool:
        """Whether some run was another, or could not be."""
        return bool(self.outcomes(direction) & {"acted", "cannot be"})


def directions(name: str) -> tuple[str, ...]:
    """In which directions a key has to act: in one, or each of two."""
    return ("less", "more") if name.endswith(BOTH_WAYS) and name.startswith("topology.") else ("either",)


def _wanted(name: str, direction: str) -> str:
    return direction if len(directions(name)) > 1 else "either"


def probe(
    names: Sequence[str] | None = None, first_of: Mapping[str, str] | None = None, most: int | None = None
) -> dict[str, Findings]:
    """Changes each key in one scenario after the other until a record takes notice; all keys, or some.

    `first_of` names the scenario in which to look first for a key, `most` is in how many to look.
    """
    where: dict[str, list[str]] = {}
    for scenario, case in SCENARIOS.items():
        for name in case.keys:
            if not name.startswith(KERNELS) or scenario in KERNEL_SCENARIOS:
                where.setdefault(name, []).append(scenario)
    found: dict[str, Findings] = {}
    for name in names if names is not None else where:
        findings = found[name] = Findings()
        scenarios = where.get(name, [])
        hint = (first_of or {}).get(name)
        if hint in scenarios:
            scenarios = [hint, *(one for one in scenarios if one != hint)]
        for scenario in scenarios[:most]:
            open_ways = [way for way in directions(name) if not findings.heard(way)]
            if not open_ways:
                break
            _probe_in(SCENARIOS[scenario], name, scenario, findings)
    return found


def _probe_in(case: Case, name: str, scenario: str, findings: Findings) -> None:
    for key in _spread(case.keys[name]):
        for direction, values in candidates(key).items():
            way = _wanted(name, direction)
            for value in values:
                if findings.heard(way):
                    break
                seen = findings.seen.setdefault(way, {}).setdefault(scenario, [])
                seen.append(outcome(case, key, value))


def _spread(keys: list[Key], most: int = 8) -> list[Key]:
    """Some of many places of one key, evenly from among them."""
    return keys if len(keys) <= most else keys[:: -(-len(keys) // most)]


def silent(found: Mapping[str, Findings]) -> set[str]:
    """The keys that no record took notice of, nor any check; with the direction, where both have to act."""
    return {
        name if way == "either" else f"{name}, {way}"
        for name, findings in found.items()
        for way in directions(name)
        if "same" in findings.outcomes(way) and not findings.heard(way)
    }


def main() -> None:
    """Print every key with its scenarios and what came of changing it there, silent ones first."""
    found = probe()
    quiet = silent(found)
    for name in sorted(found, key=lambda name: (not any(one.startswith(name) for one in quiet), name)):
        print(name, *sorted(one for one in quiet if one.partition(", ")[0] == name), sep="  !! ")
        for way, seen in found[name].seen.items():
            for scenario, outcomes in seen.items():
                print(f"    {way} in {scenario}: {', '.join(sorted(set(outcomes)))}")


if __name__ == "__main__":
    main()
