"""A workload in a YAML file, or as a block inside a larger one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim.inputs.workload import Workload
from sim.reading.problems import validated
from sim.reading.yaml_lines import Document, Key, read_yaml


def read_workload(path: str | Path) -> Workload:
    """The workload that a file describes. InputError with all its problems, each with its line."""
    document = read_yaml(path)
    workload = workload_of(document)
    return workload if workload.name else workload.model_copy(update={"name": Path(path).stem})


def workload_of(document: Document, at: Key = ()) -> Workload:
    """The workload at the path `at` of a document. Paths of traces are relative to the document's folder."""
    block: Any = document.data
    for key in at:
        block = block[key]
    return validated(Workload, with_paths_from(document.path.parent, block), document, at)


def with_paths_from(folder: Path, block: Any) -> Any:
    """`block` with the relative files of each trace resolved against `folder`, where such a file is."""
    if isinstance(block, dict):
        resolved = {key: with_paths_from(folder, value) for key, value in block.items()}
        for key in ("path", "tokenizer") if resolved.get("kind") == "trace" else ():
            path = resolved.get(key)
            if isinstance(path, str) and (folder / path).exists():
                resolved[key] = str(folder / path)
        return resolved
    return block
