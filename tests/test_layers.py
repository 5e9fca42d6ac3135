"""The folders are the architecture: a module imports from its own folder or from lower layers only, never in
a circle, and each folder's face says what it must not know.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "sim").rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES} - {ROOT / "sim"})
LAYERS = """version workers inputs theory
            reading results
            cost policy views
            catalog
            basis
            workload calibration microbenchmark
            scenario
            power_caps
            deployment
            energy
            effects setting
            runtime
            simulate
            timelines
            studies validation testing
            cli __init__
            __main__"""
RANK = {name: rank for rank, names in enumerate(LAYERS.splitlines()) for name in names.split()}

# Beside the layers, so that they hold however the layers are ordered: what a folder must not import ...
VIEWS = [f"sim.views.{path.stem}" for path in sorted((ROOT / "sim/views").glob("[!_]*.py"))]
CLOCK = ("simpy", "sim.runtime", "sim.simulate")
UNKNOWN_TO = {
    "inputs": ("yaml", "sim.reading", *CLOCK),
    "theory": ("sim.",),
    "cost": ("sim.policy", "sim.workload", "sim.scenario", *CLOCK),
    "policy": ("sim.cost", *CLOCK),
    "views": ("sim.scenario", "sim.cost", *CLOCK),
    "workload": ("sim.scenario", *CLOCK),
    "calibration": ("sim.scenario", "sim.deployment", *CLOCK),
    "scenario": ("sim.deployment", *CLOCK),
    "deployment": CLOCK,
    "effects": CLOCK,
    # A sweep shows its means, as a run shows itself, and draws nothing.
    "studies": ("altair", *(module for module in VIEWS if module != "sim.views.showing")),
    "cost/kernels": ("sim.cost.network", "sim.cost.paths", "sim.cost.link_graph"),
    "runtime": ("sim.reading.yaml_lines", "sim.views", "sim.catalog"),
    "runtime/fabric": ("sim.runtime.engine", "sim.runtime.kv", "sim.runtime.service"),
    "runtime/engine": (
        "sim.policy.routing",
        "sim.runtime.service",
        "sim.runtime.dispatcher",
        "sim.runtime.kv",
    ),
}
# ... and by which alone something is imported.
ONLY_IN = {
    "simpy": ("runtime", "simulate"),
    "sim.validation": ("validation", "cli"),
    "sim.cli": ("cli", "__main__"),
}


def imported(tree: ast.AST, package: list[str]) -> list[str]:
    """Dotted names of everything that a module imports, wherever it stands, relative ones resolved."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def without_typing(tree: ast.AST) -> ast.AST:
    """A module without what stands below `if TYPE_CHECKING:`."""

    class Leave(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)

    return Leave().visit(tree)


def is_below(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module.rstrip('.')}.")


def broken_rules(path: Path, source: str) -> list[str]:
    place = list(path.with_suffix("").relative_to(ROOT / "sim").parts)
    own, found = place[0], []
    folders = ["/".join(place[: depth + 1]) for depth in range(len(place))]
    unknown = [module for folder in folders for module in UNKNOWN_TO.get(folder, ())]
    for name in imported(ast.parse(source), ["sim", *place[:-1]]):
        if is_below(name, f"sim.{own}"):
            if any(module != "sim." and is_below(name, module) for module in unknown):
                found.append(f"{'/'.join(place[:-1])} must not know {name}")
            continue
        parts = name.split(".")
        other = parts[1] if parts[0] == "sim" and len(parts) > 1 else ""
        if other and own != "__init__" and RANK[other if other in RANK else "__init__"] >= RANK[own]:
            found.append(f"{own} imports {name}")
        elif any(is_below(name, module) for module in unknown) or any(
            is_below(name, module) and own not in allowed for module, allowed in ONLY_IN.items()
        ):
            found.append(f"{own} must not know {name}")
    return found


def circle(sources: Mapping[str, str]) -> list[str]:
    """One circle of imports among modules by name, lazy ones counted and typing-only ones not; empty where
    there is none.
    """
    graph = {name: set(_needed(name, source, sources)) for name, source in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _needed(name: str, source: str, known: Mapping[str, str]) -> Iterator[str]:
    """The modules that a module imports: of `a.b.c` the longest beginning that is a module."""
    for target in imported(without_typing(ast.parse(source)), name.split(".")[:-1]):
        while target and target not in known:
            target = target.rpartition(".")[0]
        if target and target != name:
            yield target


def module_name(path: Path) -> str:
    parts = path.with_suffix("").relative_to(ROOT).parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def face_problems(source: str) -> list[str]:
    """What the face of a folder lacks: a line and a paragraph that say what lives there and what it must not
    know.
    """
    text = ast.get_docstring(ast.parse(source)) or ""
    problems = [] if len(re.split(r"\.\s+", text)) > 2 else ["says too little of what lives there"]
    if text.count("\n\n") > 1:
        problems.append("is more than a line and a paragraph")
    if not re.search(r"\b[Kk]nows\s+no(thing)?\b", text):
        problems.append("does not say what it must not know")
    return problems


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_lower_layers_and_only_what_its_folder_may_know(path: Path) -> None:
    assert broken_rules(path, path.read_text()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "sim/runtime").rglob("*.py")), ids=lambda path: path.stem)
def test_every_module_of_the_runtime_has_a_test_file_of_its_name(path: Path) -> None:
    place = path.relative_to(ROOT / "sim")
    assert path.stem == "__init__" or (ROOT / "tests" / place.with_name(f"test_{path.name}")).exists()


@pytest.mark.slow
def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle({module_name(path): path.read_text() for path in MODULES}) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_face_of_a_folder_says_what_lives_there_and_what_it_must_not_know(folder: Path) -> None:
    assert face_problems((folder / "__init__.py").read_text()) == []


def test_every_folder_and_module_has_a_layer() -> None:
    places = {path.relative_to(ROOT / "sim").with_suffix("").parts[0] for path in MODULES}
    assert places == set(RANK)


def test_the_rules_are_seen_to_break() -> None:
    cost, cli = ROOT / "sim/cost/x.py", ROOT / "sim/cli/x.py"
    assert broken_rules(cost, "import simpy") == ["cost must not know simpy"]
    lazy = "def f():\n    from ..runtime import fabric"
    assert broken_rules(cost, lazy) == ["cost imports sim.runtime.fabric"]
    assert broken_rules(cost, "from sim import simulate") == ["cost imports sim.simulate"]
    assert broken_rules(cost, "import sim.inputs.model") == broken_rules(cli, "import sim.views.charts") == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("calibration/x.py", "import simpy.events"),
        ("calibration/x.py", "from sim.scenario import Scenario"),
        ("calibration/x.py", "def f(): from sim.simulate import simulate"),
        ("workload/x.py", "from sim.runtime import clock"),
        ("deployment.py", "import simpy"),
        ("deployment.py", "from sim.runtime.build import World"),
        ("policy/x.py", "from sim.cost.network import Network"),
        ("inputs/x.py", "import yaml"),
        ("views/x.py", "from sim.cost.network import Network"),
        ("theory/x.py", "from sim.inputs.model import Model"),
        ("studies/x.py", "def f(): from sim.views.lines import lines_chart"),
        ("studies/x.py", "from sim.validation.ledger import ledger"),
        ("simulate.py", "import sim.validation"),
        ("cli/x.py", "import simpy"),
        ("validation/x.py", "import sim.cli"),
    ],
)
def test_the_rules_of_folders_are_seen_to_break(path: str, line: str) -> None:
    assert len(broken_rules(ROOT / "sim" / path, line)) == 1


def test_a_circle_is_seen_whether_lazy_or_through_a_face_but_not_for_typing() -> None:
    lazy = {"p.a": "import p.b", "p.b": "def f():\n    from p.a import g"}
    assert set(circle(lazy)) == {"p.a", "p.b"}
    face = {"p": "from p.a import A", "p.a": "from q.b import B", "q.b": "from p import A"}
    assert set(circle(face)) == {"p", "p.a", "q.b"}
    assert circle({"p.a": "import p.b", "p.b": "if TYPE_CHECKING:\n    from p.a import A"}) == []
    assert circle({"p.a": "from .b import B", "p.b": "import json"}) == []


def test_a_poor_face_is_seen() -> None:
    good = "Queues and batches.\n\nA queue admits. Knows nothing of files."
    assert face_problems(f'"""{good}"""') == []
    assert face_problems('"""Queues. Knows no clock."""') == ["says too little of what lives there"]
    assert face_problems(f'"""{good}\n\nMore."""') == ["is more than a line and a paragraph"]
    assert face_problems('"""One. Two. Three."""') == ["does not say what it must not know"]
