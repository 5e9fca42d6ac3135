"""A scenario as a file that `load_scenario` reads: shipped parts by name, the rest as it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sim.catalog import load_model, load_topology
from sim.inputs.errors import InputError, Problem
from sim.results.whole_files import whole_file
from sim.scenario.loading import load_scenario
from sim.scenario.scenario import Scenario

RULES = ("router", "placement", "kernels", "kv_reload")


def write_scenario(scenario: Scenario, path: str | Path, comment: str = "") -> Path:
    """Write a scenario as YAML, and read it again to see that it is the same. Traces are named by their whole
    path. InputError for a scenario with a script's own rule or graph, which no file can have.
    """
    import yaml

    path = Path(path)
    for key in RULES:
        rule = getattr(scenario, key)
        if callable(rule) and not hasattr(rule, "__dataclass_fields__") and not _is_word(rule):
            raise InputError(Problem("a script's own rule cannot be written into a file", key=key))
    for brief in (True, False):
        data = _written(scenario, brief=brief)
        head = "".join(f"# {line}\n" for line in comment.splitlines())
        with whole_file(path) as partial:
            partial.write_text(head + yaml.safe_dump(data, sort_keys=False, width=110), encoding="utf-8")
        with suppress(InputError):
            if _is_same(load_scenario(path), scenario):
                return path
    path.unlink()
    raise InputError(f"{path}: this scenario has what no file can say (a script's rule or graph)")


def _is_word(rule: Any) -> bool:
    return getattr(rule, "__module__", "").startswith("sim.")


def _written(scenario: Scenario, *, brief: bool) -> dict[str, Any]:
    data = scenario.model_dump(mode="json", by_alias=True)
    data = {key: value for key, value in data.items() if value not in (None, "", [], {})}
    if scenario.outages is not None:
        data["outages"] = scenario.outages.model_dump(mode="json", exclude_defaults=True)
    topology = scenario.topology
    with suppress(InputError):
        if load_topology(topology.name).model_copy(update={"nodes": topology.nodes}) == topology:
            data["topology"] = topology.name
            if topology.nodes != load_topology(topology.name).nodes:
                data["nodes"] = topology.nodes
    data["workload"] = _with_whole_paths(data["workload"])
    blocks: list[tuple[dict[str, Any], Any]] = [(data, scenario)]
    blocks += ((data["pools"][name], pool) for name, pool in scenario.pools.items())
    for block, described in blocks:
        with suppress(InputError):
            if load_model(described.model.name) == described.model:
                block["model"] = described.model.name
        if brief:
            block["engine"] = described.engine.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            block["precision"] = described.precision.model_dump(mode="json", exclude_none=True)
    if brief:
        for key in (*RULES, "hand_over"):
            default = Scenario.model_fields[key].get_default(call_default_factory=True)
            if getattr(scenario, key) == default or data.get(key) == default:
                data.pop(key, None)
        for name, pool in scenario.pools.items():
            if pool.model == scenario.model:
                del data["pools"][name]["model"]
            if pool.precision == scenario.precision:
                del data["pools"][name]["precision"]
            data["pools"][name] = {k: v for k, v in data["pools"][name].items() if v is not None}
            # A pool that names no engine has that of the scenario; one that does names what differs from it.
            own, above = data["pools"][name].pop("engine"), data["engine"]
            differs = {key: value for key, value in own.items() if above.get(key) != value}
            lacks = [key for key in above if key not in own]
            if differs or lacks:
                data["pools"][name]["engine"] = own if lacks else differs
    return data


def _with_whole_paths(block: Any) -> Any:
    if isinstance(block, Mapping):
        found = {key: _with_whole_paths(value) for key, value in block.items() if value is not None}
        for key in ("path", "tokenizer") if found.get("kind") == "trace" else ():
            if found.get(key) and Path(str(found[key])).exists():
                found[key] = str(Path(found[key]).resolve())
        return found
    return [_with_whole_paths(one) for one in block] if isinstance(block, list) else block


def _is_same(one: Scenario, other: Scenario) -> bool:
    """Whether two scenarios are the same but for their names and for how the paths of traces are written."""
    return all(
        getattr(one, field) == getattr(other, field)
        for field in Scenario.model_fields
        if field not in ("name", "workload")
    ) and _with_whole_paths(one.workload.model_dump(mode="json")) == _with_whole_paths(
        other.workload.model_dump(mode="json")
    )
