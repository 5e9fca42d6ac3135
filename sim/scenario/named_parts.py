"""What a scenario writes by name or path, loaded, and what a pool leaves out, inherited: plain values in,
plain values out, before anything of them is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
from pydantic import BaseModel

from sim.catalog import load_draft, load_model, load_topology, load_workload, system_of
from sim.inputs.errors import InputError, LocatedError
from sim.inputs.topology import MAX_NODES, Topology
from sim.reading.expert_counts import read_expert_counts
from sim.reading.files_read import file_read
from sim.reading.workload_files import with_paths_from


def named_parts_loaded(written: Mapping[str, Any], near: Path | None) -> dict[str, Any]:
    """A scenario as written, with its topology, models, workload and expert counts loaded; paths are looked
    for in the folder `near` first.
    """
    data = dict(written)
    nodes = data.pop("nodes", None)
    if nodes is not None and (type(nodes) is not int or not 1 <= nodes <= MAX_NODES):
        what = f"must be a whole number of servers, from 1 to {MAX_NODES}, not {nodes!r}"
        raise LocatedError([(("nodes",), what)])
    if data.get("topology") is not None:
        data["topology"] = _topology(data["topology"], nodes, near)
    if isinstance(data.get("model"), str | Path):
        data["model"] = load_model(data["model"], near=near)
    if isinstance(data.get("workload"), str | Path):
        data["workload"] = load_workload(data["workload"], near=near)
    elif near is not None:
        data["workload"] = with_paths_from(near, data.get("workload"))
    outages = data.get("outages")
    if near is not None and isinstance(outages, Mapping):
        data["outages"] = _with_list_beside(outages, near)
    if isinstance(data.get("engine"), Mapping):
        data["engine"] = _with_draft(_with_expert_counts(data["engine"], near), near)
    # Last: pools inherit the model and the engine as loaded, so that each file is read once.
    if isinstance(data.get("pools"), Mapping):
        data["pools"] = {name: _inherited(name, pool, data, near) for name, pool in data["pools"].items()}
    return data


def _with_list_beside(outages: Mapping[str, Any], near: Path) -> Mapping[str, Any]:
    """Outages with the path of their list whole; the list itself is read when a run begins."""
    recorded = outages.get("recorded")
    if not recorded or not isinstance(recorded, str):
        return outages
    path = (near / recorded).resolve()
    if path.is_file():
        file_read(path)
    return {**outages, "recorded": str(path)}


def _topology(written: Any, nodes: int | None, near: Path | None) -> Any:
    """A name, a path, a graph or several systems as a topology; what is a block of its own stays one, unless
    it says things as only files do. `nodes` of the scenario wins over the topology's.
    """
    if isinstance(written, str | Path):
        written = load_topology(written, near=near)
    elif isinstance(written, Mapping) and isinstance(written.get("systems"), Mapping):
        systems = _loaded_systems(written["systems"], near)
        written = {"name": " and ".join(map(str, systems)), **written, "systems": systems}
    elif isinstance(written, Mapping) and _is_said_as_in_files(written):
        return _as_of_a_file(written, nodes, near)
    elif isinstance(written, nx.Graph):
        written = load_topology(written)  # type: ignore[arg-type]  # undirected ones are refused there
    if nodes is None:
        return written
    if not isinstance(written, Mapping | Topology):
        what = "must be a system's name or path, or a mapping with parts and wires"
        raise LocatedError([(("topology",), what)])
    return {**(dict(written) if isinstance(written, Topology) else written), "nodes": nodes}


def _is_said_as_in_files(written: Mapping[str, Any]) -> bool:
    """Whether a block has a server in `node`, one network without a list, a GPU or a link by its name alone,
    or a value with its source.
    """
    if "node" in written or isinstance(written.get("scale_out"), Mapping):
        return True
    parts, wires, networks = (_blocks(written.get(key)) for key in ("parts", "wires", "scale_out"))
    own = {
        name for key in ("links", "gpus") if isinstance(block := written.get(key), Mapping) for name in block
    }
    named = [*(part.get("model") for part in parts), *(wire.get("link") for wire in (*wires, *networks))]
    return any(isinstance(name, str) and name not in own for name in named) or _has_sources(written)


def _blocks(written: Any) -> list[Mapping[str, Any]]:
    """The mappings in a mapping or a list; other things are left to the check of the whole."""
    every = written.values() if isinstance(written, Mapping) else written
    if not isinstance(every, Iterable) or isinstance(every, str):
        return []
    return [block for block in every if isinstance(block, Mapping)]


def _has_sources(written: Any) -> bool:
    if isinstance(written, Mapping):
        return {"value", "tag"} <= written.keys() or any(map(_has_sources, written.values()))
    return isinstance(written, list | tuple) and any(map(_has_sources, written))


def _as_of_a_file(written: Mapping[str, Any], nodes: int | None, near: Path | None) -> Topology:
    try:
        return load_topology(written, nodes, near=near)
    except InputError as error:
        found = []
        for problem in error.problems:
            keys = re.findall(r"[^.\[\]]+", problem.key)
            at = tuple(int(key) if key.isdigit() else key for key in keys)
            found.append((("topology", *at), problem.what))
        raise LocatedError(found) from error


def _loaded_systems(written: Mapping[str, Any], near: Path | None) -> dict[str, Topology]:
    """Systems beside each other in one topology, each by the name of its own."""
    systems, problems = {}, []
    for name, block in written.items():
        try:
            systems[name] = system_of(block, near=near)
        except InputError as error:
            if any(problem.line for problem in error.problems):
                raise
            problems += [(("topology", "systems", name), problem.statement) for problem in error.problems]
    if problems:
        raise LocatedError(problems)
    return systems


def _with_expert_counts(engine: Mapping[str, Any], near: Path | None) -> Mapping[str, Any]:
    """An engine's settings with the popularity of its experts read, where they name a file of counts."""
    routing = engine.get("expert_routing")
    if not isinstance(routing, Mapping) or not isinstance(routing.get("weights"), str):
        return engine
    path = (near or Path()) / routing["weights"]
    counted = {"popularity": "given", **routing, "weights": read_expert_counts(path)}
    return {**engine, "expert_routing": counted}


def _with_draft(engine: Mapping[str, Any], near: Path | None) -> Mapping[str, Any]:
    """An engine's settings with the shapes of its draft read, where they name a model or a config.json."""
    speculation = engine.get("speculation")
    if not isinstance(speculation, Mapping):
        return engine
    draft = speculation.get("draft")
    if not isinstance(draft, str | Path) or draft == "mtp":
        return engine
    return {**engine, "speculation": {**speculation, "draft": load_draft(draft, near=near)}}


def _inherited(name: str, pool: Any, scenario: Mapping[str, Any], near: Path | None) -> Any:
    """A pool with what it leaves out taken from the scenario, key by key inside `engine` and `precision`."""
    if not isinstance(pool, Mapping):
        return pool
    pool = dict(pool)
    if name in ("prefill", "decode"):
        pool.setdefault("role", name)
    if isinstance(pool.get("model"), str | Path):
        pool["model"] = load_model(pool["model"], near=near)
    if "model" not in pool and "model" in scenario:
        pool["model"] = scenario["model"]
    for block in ("engine", "precision"):
        above, own = scenario.get(block), pool.get(block, {})
        if isinstance(above, BaseModel):
            # A dump writes a script's scheduler as text, which could not be read back.
            rule = {"scheduler": above.scheduler} if "scheduler" in above.model_fields_set else {}  # type: ignore[attr-defined]
            above = {**above.model_dump(exclude_unset=True), **rule}
        if isinstance(above, Mapping) and isinstance(own, Mapping):
            pool[block] = {**above, **own}
    if isinstance(pool.get("engine"), Mapping):
        pool["engine"] = _with_draft(_with_expert_counts(pool["engine"], near), near)
    return pool
