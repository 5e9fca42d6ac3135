"""Where the data that travels with the package lies: the only place that knows a checkout from a wheel.

A checkout has `topologies/`, `workloads/` and `experiments/` beside the package; a wheel carries them inside
it, in `sim/data`. Measured tables are in `sim/data/measured` either way.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
READ = ("*.py", "*.csv", "*.yaml", "*.json")
SHOWN_ONLY = ("cli", "views")  # folders that no simulated number depends on


@cache
def data_folder() -> Path:
    """The folder with `topologies/`, `workloads/` and `experiments/`."""
    in_wheel = PACKAGE / "data"
    return in_wheel if (in_wheel / "topologies").is_dir() else PACKAGE.parent


def topologies() -> Path:
    """Shipped systems; GPUs, links and parameters of collectives in folders below."""
    return data_folder() / "topologies"


def workloads() -> Path:
    """Shipped traffic; models and traces in folders below."""
    return data_folder() / "workloads"


def experiments() -> Path:
    """Shipped experiments: scripts, with their scenarios beside them."""
    return data_folder() / "experiments"


def experiment_scripts() -> list[Path]:
    """What `python` runs in that folder: scripts, and folders with a `__main__.py`; `stem` is its name."""
    folder = experiments()
    scripts = [*folder.glob("[a-z]*.py"), *(found.parent for found in folder.glob("[a-z]*/__main__.py"))]
    return sorted(scripts, key=lambda path: path.stem)


def experiment_source(script: Path) -> Path:
    """The module of an experiment: the script, or the `__init__.py` of a folder."""
    return script / "__init__.py" if script.is_dir() else script


def measured() -> Path:
    """Measured tables of kernels; of collectives and services in folders below."""
    return PACKAGE / "data" / "measured"


def accuracy_file() -> Path:
    """How far simulated times were from measured ones: what answers say they rest on."""
    return PACKAGE / "data" / "accuracy.json"


def code_digest() -> str:
    """Of everything that a simulated number may depend on: the package, and the files of systems and models
    beside it. Bands depend on more, on what was measured.
    """
    digest = hashlib.sha256()
    folders = [PACKAGE, *(data_folder() / name for name in ("topologies", "workloads"))]
    found = {path for folder in folders for pattern in READ for path in folder.rglob(pattern)}
    for path in sorted(found):
        if path.parent.name in SHOWN_ONLY or path == accuracy_file():
            continue
        base = PACKAGE if path.is_relative_to(PACKAGE) else data_folder()
        digest.update(path.relative_to(base).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
