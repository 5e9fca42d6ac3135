"""Files that describe systems, GPUs and types of links."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sim.inputs.errors import InputError, Problem
from sim.inputs.hardware import Gpu, LinkType
from sim.inputs.kernel_parameters import KernelParameters
from sim.inputs.parts import is_selection, part_of
from sim.inputs.topology import Topology
from sim.reading.problems import did_you_mean, problems_of, unknown_name, validated
from sim.reading.provenance import separated
from sim.reading.yaml_lines import Document, Key

REPEATED = ("parts", "wires")  # what may stand in a `node:` block
LEVELS = (*REPEATED, "scale_out", "transports", "links", "gpus", "nodes", "node", "systems")


@dataclass(frozen=True)
class Library:
    """Where a topology file finds the GPUs and links that it names."""

    gpu_names: Sequence[str]
    gpu: Callable[[str], Gpu]
    link_names: Sequence[str]
    link: Callable[[str], LinkType]
    system: Callable[[Any], Topology]  # what stands under one name in `systems`


def gpu_of(
    document: Document,
    name: str,
    kernels: KernelParameters | None = None,
    measured: Callable[[str], Gpu] | None = None,
) -> Gpu:
    """The GPU that a file of its own describes; with `kernels`, unless the file has them itself, or names a
    GPU whose kernels stand in, which `measured` finds.

    InputError with all problems.
    """
    problems: list[Problem] = []
    block = separated({"name": name, **document.data}, document, (), problems)
    if kernels is not None:
        block.setdefault("kernels", kernels)
    if measured is not None:
        lend_kernels(block, document, ("kernels",), measured, problems)
    gpu = validated(Gpu, block, document)
    if problems:
        raise InputError(problems)
    return gpu


def lend_kernels(
    block: dict[str, Any],
    document: Document,
    at: Key,
    measured: Callable[[str], Gpu],
    problems: list[Problem],
) -> None:
    """`kernels: l40s` in a GPU's block becomes the kernels of that GPU, marked as borrowed."""
    lender = block.get("kernels")
    if not isinstance(lender, str):
        return
    kernels = None
    try:
        kernels = measured(lender).kernels
    except InputError as error:
        problems += [document.problem(at, problem.what) for problem in error.problems]
    else:
        if kernels is None:
            what = (
                f"{lender} has no kernels of its own that could stand in; sim list gpus names those that have"
            )
            problems.append(document.problem(at, what))
    block["kernels"] = kernels.lent(lender, str(block.get("name", ""))) if kernels is not None else None


def kernels_of(document: Document) -> KernelParameters:
    """The kernel parameters that a file of their own describes. InputError with all problems."""
    problems: list[Problem] = []
    kernels = validated(KernelParameters, separated(document.data, document, (), problems), document)
    if problems:
        raise InputError(problems)
    return kernels


def links_of(document: Document) -> dict[str, LinkType]:
    """The types of links that a file describes, by name. InputError with all problems."""
    links: dict[str, LinkType] = {}
    problems: list[Problem] = []
    for name, block in document.data.items():
        try:
            links[name] = validated(
                LinkType, _named(separated(block, document, (name,), problems), name), document, (name,)
            )
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return links


def topology_of(document: Document, library: Library, *, nodes: int | None = None) -> Topology:
    """The system that a file describes, of `nodes` servers where that is given. InputError with all problems.

    `parts` and `wires` may stand in a `node:` block, as what is repeated. A link or GPU that the file
    describes itself goes before the library's; where the name is known, keys that the file leaves out are
    taken from there.
    """
    reading = _Reading(document, library)
    data = reading.block(nodes)
    try:
        topology = Topology.model_validate(data)
    except ValidationError as error:
        found = problems_of(error, reading.document, (), Topology)
        reported = {problem.key.partition(".")[0] for problem in reading.problems}
        known = {problem.key for problem in reading.problems}
        reading.problems += [
            problem for problem in found if problem.key not in known and problem.key not in reported
        ]  # one message where a name is unknown, not a second one that the wire is wrong
    if reading.problems:
        in_order = sorted(reading.problems, key=lambda problem: problem.line or 0)
        raise InputError(in_order)
    return topology


class _Reading:
    """One pass over one file: data for `Topology`, and what is wrong with it so far."""

    def __init__(self, document: Document, library: Library) -> None:
        self.library = library
        self.problems: list[Problem] = []
        self.document = self._lifted(document)

    def _lifted(self, document: Document) -> Document:
        """With what stands in `node:` put at the top, its lines with it."""
        if isinstance(
            document.data.get("scale_out"), Mapping
        ):  # one network may stand without the sign of a list
            inner = {key[1:]: line for key, line in document.lines.items() if key[0:1] == ("scale_out",)}
            lines = {("scale_out", 0, *key): line for key, line in inner.items()}
            document = Document(document.path, document.data, {**document.lines, **lines})
        node = document.data.get("node")
        if node is None:
            return document
        if not isinstance(node, Mapping):
            self.problems.append(
                document.problem(("node",), "is not a mapping; write parts and wires below it")
            )
            node = {}
        for name in node:
            if name not in REPEATED:
                beside = f"; {name} stands beside node" if name in Topology.model_fields else ""
                meant = beside or did_you_mean(str(name), REPEATED)
                what = f"is not a known key; parts and wires belong here{meant}"
                self.problems.append(document.problem(("node", name), what))
            elif name in document.data:
                self.problems.append(
                    document.problem((name,), f"stands at the top and in node; keep node.{name}")
                )
        data = {name: value for name, value in document.data.items() if name != "node"}
        lines = {key: line for key, line in document.lines.items() if key[:1] != ("node",)}
        lines |= {
            key[1:]: line for key, line in document.lines.items() if key[:1] == ("node",) and len(key) > 1
        }
        lifted = {name: value for name, value in node.items() if name in REPEATED}
        return Document(document.path, {**lifted, **data}, lines)

    def block(self, nodes: int | None) -> dict[str, Any]:
        """The file's data in the form that `Topology` takes."""
        data = dict(self.document.data)
        data.setdefault("name", self.document.path.stem)
        if nodes is not None:
            data["nodes"] = nodes
        if data.pop("own_graph", None) is not None:
            self.problems.append(
                self.document.problem(("own_graph",), "is not a known key; a graph comes from a script")
            )
        if isinstance(data.get("basis"), Mapping):
            head = {"basis": data["basis"], "provenance": data.get("provenance", {})}
            data |= self._separated(head, ())
        if isinstance(data.get("scale_out"), Mapping):
            data["scale_out"] = [data["scale_out"]]
        self._check_levels(data)
        if isinstance(data.get("collectives"), Mapping):
            data["collectives"] = self._separated(data["collectives"], ("collectives",))
        for name in ("parts", "transports"):
            if isinstance(data.get(name), Mapping):
                data[name] = {key: self._separated(block, (name, key)) for key, block in data[name].items()}
        for name in ("wires", "scale_out"):
            if isinstance(data.get(name), list):
                data[name] = [self._separated(block, (name, i)) for i, block in enumerate(data[name])]
        self._check_part_names(data)
        if isinstance(data.get("systems"), Mapping):
            data["systems"] = self._systems(data["systems"])
        data["links"] = self._types(
            data, "links", self._links_used(data), self.library.link_names, self._link
        )
        data["gpus"] = self._types(data, "gpus", self._gpus_used(data), self.library.gpu_names, self._gpu)
        return data

    def _systems(self, written: Mapping[str, Any]) -> dict[str, Topology]:
        """The systems that stand beside each other, each by the name or path of its topology."""
        systems: dict[str, Topology] = {}
        for name, block in written.items():
            try:
                systems[name] = self.library.system(block)
            except InputError as error:
                self.problems += [
                    problem if problem.line else self.document.problem(("systems", name), problem.statement)
                    for problem in error.problems
                ]
        return systems

    def _separated(self, block: Any, at: Key) -> Any:
        return separated(block, self.document, at, self.problems)

    def _check_levels(self, data: dict[str, Any]) -> None:
        """Blocks that stand one level too deep, among the parts, or have a near name that is not theirs."""
        parts = data.get("parts")
        if isinstance(parts, Mapping):
            for name in [name for name in parts if name in LEVELS and not _is_part(parts[name])]:
                what = "stands among the parts; it belongs beside 'parts', indented as far"
                self.problems.append(self.document.problem(("parts", name), what))
            data["parts"] = {
                name: part for name, part in parts.items() if name not in LEVELS or _is_part(part)
            }
        if not ({"parts", "node", "systems"} & {*data, *self.document.data}):
            for name in data:
                if name not in Topology.model_fields and did_you_mean(str(name), ("node", *REPEATED)):
                    what = f"is not a known key{did_you_mean(str(name), ('node', *REPEATED))}"
                    self.problems.append(self.document.problem((name,), what))

    def _check_part_names(self, data: Mapping[str, Any]) -> None:
        parts = data.get("parts")
        known = list(parts) if isinstance(parts, Mapping) else []
        for i, wire in _blocks(data.get("wires")):
            for end in ("from", "to"):
                self._check_selection(wire.get(end), known, ("wires", i, end))
        for i, network in _blocks(data.get("scale_out")):
            self._check_selection(network.get("of"), known, ("scale_out", i, "of"))

    def _check_selection(self, selection: Any, known: list[str], at: Key) -> None:
        # Without any part that is the fault, and a selection that is none is told by the wire.
        if (
            isinstance(selection, str)
            and known
            and is_selection(selection)
            and part_of(selection) not in known
        ):
            self.problems.append(self.document.problem(at, unknown_name("part", part_of(selection), known)))

    def _links_used(self, data: Mapping[str, Any]) -> list[tuple[str, Key]]:
        wires = [(wire.get("link"), ("wires", i, "link")) for i, wire in _blocks(data.get("wires"))]
        networks = [(one.get("link"), ("scale_out", i, "link")) for i, one in _blocks(data.get("scale_out"))]
        return [(name, at) for name, at in [*wires, *networks] if isinstance(name, str)]

    def _gpus_used(self, data: Mapping[str, Any]) -> list[tuple[str, Key]]:
        parts = data.get("parts")
        blocks = parts.items() if isinstance(parts, Mapping) else ()
        models = [
            (part.get("model"), ("parts", name, "model"))
            for name, part in blocks
            if isinstance(part, Mapping)
        ]
        return [(name, at) for name, at in models if isinstance(name, str)]

    def _types(
        self,
        data: Mapping[str, Any],
        kind: str,
        used: list[tuple[str, Key]],
        known: Sequence[str],
        described: Callable[[str, Any], Any],
    ) -> dict[str, Any]:
        """The links (or GPUs) that are used: described in the file, or in the library."""
        own = data.get(kind, {})
        if not isinstance(own, Mapping):
            self.problems.append(
                self.document.problem((kind,), "is not a mapping; write names and blocks below it")
            )
            own = {}
        types: dict[str, Any] = {}
        for name in [*dict.fromkeys(name for name, _ in used), *own]:
            if name in known or name in own:
                types[name] = types.get(name) or described(name, own.get(name))
        for name, at in used:
            if name not in types:
                self.problems.append(
                    self.document.problem(at, unknown_name(kind[:-1], name, sorted({*known, *own})))
                )
        return types

    def _link(self, name: str, own: Any) -> Any:
        return self._over_library(name, own, "links", self.library.link_names, self.library.link)

    def _gpu(self, name: str, own: Any) -> Any:
        return self._over_library(name, own, "gpus", self.library.gpu_names, self.library.gpu)

    def _over_library(
        self, name: str, own: Any, kind: str, known: Sequence[str], shipped: Callable[[str], LinkType | Gpu]
    ) -> Any:
        if own is None:
            return shipped(name)
        block = self._separated(own, (kind, name))
        if kind == "gpus" and isinstance(block, dict):
            block = {"name": name, **block}
            lend_kernels(block, self.document, (kind, name, "kernels"), self.library.gpu, self.problems)
        if not isinstance(block, dict) or name not in known:
            return _named(block, name)
        base = shipped(name).model_dump()
        provenance = {**base["provenance"], **block.get("provenance", {})}
        return {**base, **block, "provenance": provenance}


def _named(block: Any, name: str) -> Any:
    return {"name": name, **block} if isinstance(block, Mapping) else block


def _is_part(written: Any) -> bool:
    return isinstance(written, Mapping) and "kind" in written


def _blocks(written: Any) -> list[tuple[int, Mapping[str, Any]]]:
    if not isinstance(written, Sequence) or isinstance(written, str):
        return []
    return [(i, block) for i, block in enumerate(written) if isinstance(block, Mapping)]
