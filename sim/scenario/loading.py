"""A scenario from its YAML file: names and paths resolved beside the file, all problems reported with their
lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.catalog import load_model, load_topology, load_workload
from sim.inputs.errors import InputError, Problem
from sim.reading.files_read import files_read
from sim.reading.problems import problems_of
from sim.reading.workload_files import with_paths_from
from sim.reading.yaml_lines import Document, read_yaml
from sim.scenario.scenario import Scenario
from sim.scenario.written_keys import keys_written


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario from a YAML file. Paths in it are relative to the file. InputError names every problem
    at once.
    """
    with files_read() as found:
        scenario = _read(Path(path))
    scenario.__dict__["files_read"] = frozenset(found)  # the model is frozen, and this is no field of it
    return scenario


def _read(path: Path) -> Scenario:
    document = read_yaml(path)
    data = dict(document.data)
    near = document.path.parent
    problems: list[Problem] = []
    for key, load in (("topology", load_topology), ("model", load_model), ("workload", load_workload)):
        if isinstance(data.get(key), str):
            data[key] = _loaded(load, data[key], near, document, (key,), problems)
    if isinstance(data.get("workload"), Mapping):
        data["workload"] = with_paths_from(near, data["workload"])
    pools = data.get("pools")
    if isinstance(pools, Mapping):
        for name, pool in pools.items():
            if isinstance(pool, dict) and isinstance(pool.get("model"), str):
                pool["model"] = _loaded(
                    load_model, pool["model"], near, document, ("pools", name, "model"), problems
                )
    data.setdefault("name", document.path.stem)
    kernels = data.get("kernels")
    if isinstance(kernels, Mapping) and isinstance(kernels.get("path"), str):
        data["kernels"] = {**kernels, "path": str(near / kernels["path"])}
    try:
        scenario = Scenario.model_validate(data, context={"near": near})
    except ValidationError as error:
        unloaded = {problem.key for problem in problems}
        problems += [
            found for found in problems_of(error, document, (), Scenario) if found.key not in unloaded
        ]
    except InputError as error:
        problems += error.problems
    if problems:
        in_order: list[Problem] = sorted(problems, key=lambda problem: problem.line or 0)
        raise InputError(in_order)
    scenario.__dict__["keys_written"] = keys_written(document.data, near)
    return scenario


def _loaded(
    load: Callable[..., Any],
    name: str,
    near: Path,
    document: Document,
    key: tuple[str, ...],
    problems: list[Problem],
) -> Any:
    """What a name stands for; its problems are those of the line that names it, or of the file that it
    names.
    """
    try:
        return load(name, near=near)
    except InputError as error:
        problems += [
            problem if problem.line is not None else document.problem(key, problem.statement)
            for problem in error.problems
        ]
        return None
