"""The folders are the architecture: a module imports from its own package or from lower layers only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "sim").rglob("*.py"))
LAYERS = """version inputs theory
            reading results
            cost policy views
            catalog
            workload calibration microbenchmark
            scenario
            deployment
            runtime
            simulate
            studies validation
            cli __init__
            __main__"""
RANK = {name: rank for rank, names in enumerate(LAYERS.splitlines()) for name in names.split()}


def imported(tree: ast.AST, package: list[str]) -> list[str]:
    """Dotted names of everything that a module imports, wherever it stands, relative ones resolved."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def broken_rules(path: Path, source: str) -> list[str]:
    place = list(path.with_suffix("").relative_to(ROOT / "sim").parts)
    own, found = place[0], []
    for name in imported(ast.parse(source), ["sim", *place[:-1]]):
        parts = name.split(".")
        if parts[0] == "simpy" and own not in ("runtime", "simulate"):
            found.append(f"{path.name} imports simpy")
        if parts[0] == "sim" and len(parts) > 1 and own != "__init__":
            other = parts[1] if parts[1] in RANK else "__init__"
            if own != other and RANK[other] >= RANK[own]:
                found.append(f"{own} imports {name}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_lower_layers_and_simpy_stays_in_the_runtime(path: Path) -> None:
    assert broken_rules(path, path.read_text()) == []


def test_the_rules_are_seen_to_break() -> None:
    cost, cli = ROOT / "sim/cost/x.py", ROOT / "sim/cli/x.py"
    assert broken_rules(cost, "import simpy") == ["x.py imports simpy"]
    lazy = "def f():\n    from ..runtime import fabric"
    assert broken_rules(cost, lazy) == ["cost imports sim.runtime.fabric"]
    assert broken_rules(cost, "from sim import simulate") == ["cost imports sim.simulate"]
    assert broken_rules(cost, "import sim.inputs.model") == broken_rules(cli, "import sim.views.charts") == []
