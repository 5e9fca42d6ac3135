"""Finds what is shipped, or what a path points to: topologies, GPUs, types of links, models, workloads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import networkx as nx

from sim.inputs.errors import InputError, Problem
from sim.inputs.hardware import Gpu, LinkType
from sim.inputs.topology import MAX_NODES, Topology
from sim.reading.data_files import data_folder, workloads
from sim.reading.problems import unknown_name
from sim.reading.topology_files import Library, gpu_of, kernels_of, links_of, topology_of
from sim.reading.yaml_lines import Document, read_yaml

if TYPE_CHECKING:
    from sim.inputs.model import Model
    from sim.inputs.workload import Workload

Kind = Literal["topology", "gpu", "links", "model", "workload"]

_PLACES: dict[Kind, tuple[str, str]] = {
    "topology": ("topologies", ".yaml"),
    "gpu": ("topologies/gpus", ".yaml"),
    "links": ("topologies/links", ".yaml"),
    "model": ("workloads/models", ".json"),
    "workload": ("workloads", ".yaml"),
}


def names_of(kind: Kind) -> list[str]:
    """Names of everything of a kind that is shipped."""
    folder, suffix = _PLACES[kind]
    return sorted(path.stem for path in (data_folder() / folder).glob(f"*{suffix}"))


def find(kind: Kind, name: str | Path, near: Path | None = None) -> Path:
    """The file of a shipped name, or of a path (relative to `near`, else to where the command runs).

    What has a suffix or a slash is a path. InputError names the nearest match where there is none.
    """
    text = str(name)
    folder, suffix = _PLACES[kind]
    looks_like_path = (
        isinstance(name, Path) or "/" in text or "\\" in text or text.endswith((".yaml", ".yml", ".json"))
    )
    if looks_like_path or Path(text).suffix:
        for base in (near, Path()) if near else (Path(),):
            path = base / Path(text).expanduser()
            if path.exists() if looks_like_path else path.is_file():
                return path
    if looks_like_path:
        raise InputError(
            Problem(f"there is no file {text}; give a path, or one of {', '.join(names_of(kind))}")
        )
    path = data_folder() / folder / f"{text}{suffix}"
    if text not in names_of(kind):
        raise InputError(Problem(unknown_name(kind, text, names_of(kind))))
    return path


def load_topology(
    name_or_path: str | Path | nx.DiGraph[str] | Topology | Mapping[str, Any],
    nodes: int | None = None,
    *,
    near: Path | None = None,
) -> Topology:
    """A shipped system by name, one's own by path, as a mapping that says what a file would, or a script's
    own graph; of `nodes` servers if given.

    >>> topology = load_topology("nd-h100-v5", nodes=2)
    >>> len(topology.graph.graph["gpus"]), topology.graph.edges["node0.gpu0", "node0.nvswitch0"]["count"]
    (16, 5)
    """
    if nodes is not None:
        _refuse_node_count(nodes)
    if isinstance(name_or_path, nx.Graph):
        return _topology_of_graph(name_or_path)
    if isinstance(name_or_path, Topology):
        return (
            name_or_path if nodes is None else Topology.model_validate({**dict(name_or_path), "nodes": nodes})
        )
    if isinstance(name_or_path, Mapping):
        written = Document(Path("topology"), dict(name_or_path), {})
        return topology_of(written, library(near), nodes=nodes)
    document = read_yaml(find("topology", name_or_path, near))
    return topology_of(document, library(document.path.parent), nodes=nodes)


def system_of(written: object, *, near: Path | None = None) -> Topology:
    """One of the systems that stand beside each other: a name, a path, or `{topology: ..., nodes: 2}`."""
    if isinstance(written, Topology):
        return written
    if isinstance(written, str | Path):
        return load_topology(written, near=near)
    if not isinstance(written, Mapping):
        raise InputError(f"{written!r}: must be a system's name, or topology and nodes")
    if "topology" not in written:
        return Topology.model_validate(written)
    unknown = [str(key) for key in written if key not in ("topology", "nodes")]
    if unknown:
        raise InputError(f"{', '.join(unknown)}: not a known key; known are topology, nodes")
    return load_topology(written["topology"], written.get("nodes"), near=near)


def _refuse_node_count(nodes: object) -> None:
    if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= MAX_NODES:
        what = f"must be a whole number of servers, from 1 to {MAX_NODES}"
        raise InputError(Problem(what, key="nodes", value=repr(nodes)))


def _topology_of_graph(graph: nx.DiGraph[str]) -> Topology:
    bare = Topology.of_graph(graph)
    models = {
        attributes["model"]
        for _, attributes in bare.own_graph.nodes(data=True)
        if attributes["kind"] == "gpu"
    }
    return Topology.of_graph(graph, gpus={model: load_gpu(model) for model in sorted(models)})


def load_gpu(name_or_path: str | Path, *, near: Path | None = None) -> Gpu:
    """A shipped GPU by name, or one's own by path."""
    return _gpu(find("gpu", name_or_path, near))


def load_link(name: str) -> LinkType:
    """A shipped type of link."""
    links = _shipped_links()
    if name not in links:
        raise InputError(Problem(unknown_name("link", name, sorted(links))))
    return links[name]


def load_model(name_or_path: str | Path, *, near: Path | None = None) -> Model:
    """A shipped model by name, or the Hugging Face `config.json` at a path."""
    from sim.reading.huggingface import read_model

    path = find("model", name_or_path, near)
    named = path.parent.name if path.stem == "config" else path.stem
    return read_model(path, named)


def load_draft(name_or_path: str | Path, *, near: Path | None = None) -> dict[str, int]:
    """The shapes of a draft (`sim.inputs.engine.Draft`): a shipped model, or the `config.json` of a small
    model or an EAGLE head.
    """
    from sim.reading.drafts import read_draft

    return read_draft(find("model", name_or_path, near))


def load_workload(name_or_path: str | Path, *, near: Path | None = None) -> Workload:
    """A shipped workload by name, or one's own by path."""
    from sim.reading.workload_files import read_workload

    return read_workload(find("workload", name_or_path, near))


def find_trace(name: str) -> Path:
    """The file of a shipped trace. InputError names the nearest match where there is none."""
    shipped = _shipped_traces()
    if name not in shipped:
        raise InputError(Problem(unknown_name("trace", name, list(shipped))))
    return shipped[name]


def list_topologies() -> list[str]:
    """Names of the shipped systems."""
    return names_of("topology")


def list_gpus() -> list[str]:
    """Names of the shipped GPUs."""
    return names_of("gpu")


def list_links() -> list[str]:
    """Names of the shipped types of links."""
    return sorted(_shipped_links())


def list_models() -> list[str]:
    """Names of the shipped models."""
    return names_of("model")


def list_workloads() -> list[str]:
    """Names of the shipped workloads."""
    return names_of("workload")


def list_traces() -> list[str]:
    """Names of the shipped request traces."""
    return list(_shipped_traces())


def library(near: Path | None = None) -> Library:
    """The shipped GPUs, links and systems, for files in the folder `near` that name them."""
    return Library(list_gpus(), load_gpu, list_links(), load_link, partial(system_of, near=near))


def _shipped_traces() -> dict[str, Path]:
    """Traces by name; each keeps the format that it was published in, so that suffixes differ."""
    files = (workloads() / "traces").glob("*.[cj]s*")
    return {path.stem: path for path in sorted(files, key=lambda path: path.stem)}


@cache
def _shipped_links() -> dict[str, LinkType]:
    links: dict[str, LinkType] = {}
    for name in names_of("links"):
        links |= links_of(read_yaml(find("links", name)))
    return links


def kernels_file(gpu: Path) -> Path:
    """Where the fitted kernel parameters of the GPU in the file `gpu` stand: in `kernels/` beside it."""
    return gpu.parent / "kernels" / gpu.name


def _gpu(path: Path) -> Gpu:
    kernels = kernels_file(path)
    return _gpu_as_of(
        path, path.stat().st_mtime_ns, kernels.stat().st_mtime_ns if kernels.is_file() else None
    )


@cache
def _gpu_as_of(path: Path, changed_ns: int, kernels_changed_ns: int | None) -> Gpu:
    fitted = kernels_of(read_yaml(kernels_file(path))) if kernels_changed_ns is not None else None
    return gpu_of(read_yaml(path), path.stem, fitted, load_gpu)


def imported_topology(file: str | Path, gpu: str = "") -> tuple[str, Topology]:
    """A topology file for the server that `nvidia-smi topo -m` or NCCL's XML shows: its text, in which what
    had to be assumed is marked, and the topology that this text describes.
    """
    from sim.reading.machines import MAX_BYTES, read_machine, topology_text
    from sim.reading.text_files import text_of
    from sim.reading.yaml_lines import parse_yaml

    path = Path(file)
    text = text_of(path, "what nvidia-smi topo -m prints, or NCCL's XML", MAX_BYTES)
    machine = read_machine(path, text, list_gpus(), gpu)
    generation = load_gpu(machine.gpu).pcie_generation
    written = topology_text(machine, path.name, list_links(), generation)
    return written, topology_of(parse_yaml(written, path), library(path.parent))


def is_machine_file(file: str | Path) -> bool:
    """Whether a file is one that `imported_topology` reads."""
    from sim.reading.machines.kinds import machine_kind

    path = Path(file)
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as lines:
        return bool(machine_kind(lines.read(20_000)))
