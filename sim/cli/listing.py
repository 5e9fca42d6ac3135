"""`sim list`: what is shipped, and where each constant comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sim.cli.output import Format, print_json, print_table, si

if TYPE_CHECKING:
    from sim.inputs.hardware import Gpu, LinkType
    from sim.inputs.model import Model
    from sim.inputs.provenance import Provenance

Kind = Literal["topologies", "gpus", "links", "models", "workloads", "experiments"]
Row = dict[str, Any]


def listing(
    kind: Annotated[Kind | None, typer.Argument(help="Of which kind; by default the names of all.")] = None,
    name: Annotated[
        str | None, typer.Argument(help="One of them, with every constant and its source.")
    ] = None,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
) -> None:
    """List systems, GPUs, links, models, workloads and experiments; with a name, constants and sources."""
    if kind is None:
        names = {each: _names(each) for each in LISTS}
        if format == "json":
            print_json(names)
        else:
            print_table(["kind", "names"], [[each, " ".join(found)] for each, found in names.items()])
        return
    rows = LISTS[kind]() if name is None else _one(kind, name)
    if format == "json":
        print_json([{column: value for column, (value, _) in row.items()} for row in rows])
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    print_table(columns, [[row[column][1] if column in row else "" for column in columns] for row in rows])


def _names(kind: Kind) -> list[str]:
    from sim import catalog

    if kind == "experiments":
        return [row["name"][0] for row in _experiments()]
    return {
        "topologies": catalog.list_topologies,
        "gpus": catalog.list_gpus,
        "links": catalog.list_links,
        "models": catalog.list_models,
        "workloads": catalog.list_workloads,
    }[kind]()


def _row(**cells: Any) -> Row:
    """Cells as (what JSON says, what the table shows); a cell may give both."""
    return {column: cell if isinstance(cell, tuple) else (cell, cell) for column, cell in cells.items()}


def _in(value: float | None, unit: str, digits: int = 4) -> tuple[float | None, str]:
    return value, "" if value is None else si(value, unit, digits)


def _in_billions(count: float) -> tuple[float, str]:
    return count, f"{count / 1e9:.2f} billion"


def _topologies() -> list[Row]:
    from sim import catalog

    described = [catalog.load_topology(name) for name in catalog.list_topologies()]
    return [
        _row(
            name=each.name,
            gpus=each.gpus_per_node * each.nodes,
            gpu=" ".join(each.gpus),
            what=each.description,
        )
        for each in described
    ]


def _gpus() -> list[Row]:
    from sim import catalog

    return [_gpu_row(catalog.load_gpu(name)) for name in catalog.list_gpus()]


def _gpu_row(gpu: Gpu) -> Row:
    peaks = {f"{dtype}_flops": _in(gpu.flops.get(dtype), "FLOP/s") for dtype in ("bf16", "fp8", "fp4")}
    return _row(
        name=gpu.name,
        hbm_bytes=_in(gpu.hbm_bytes, "B"),
        hbm_bytes_per_s=_in(gpu.hbm_bytes_per_s, "B/s"),
        **peaks,
        sms=gpu.sms,
        pcie=gpu.pcie_generation,
    )


def _links() -> list[Row]:
    from sim import catalog

    return [_link_row(catalog.load_link(name)) for name in catalog.list_links()]


def _link_row(link: LinkType) -> Row:
    return _row(
        name=link.name,
        bytes_per_s=_in(link.bytes_per_s, "B/s"),
        efficiency=link.efficiency,
        payload_bytes_per_s=_in(link.payload_bytes_per_s, "B/s"),
        latency_s=_in(link.latency_s, "s"),
    )


def _models() -> list[Row]:
    from sim import catalog

    return [_model_row(catalog.load_model(name)) for name in catalog.list_models()]


def _model_row(model: Model) -> Row:
    return _row(
        name=model.name,
        parameters=_in_billions(model.parameters),
        active_parameters=_in_billions(model.active_parameters),
        bf16_weight_bytes=_in(float(model.weight_bytes("bf16")), "B"),
        kv_bytes_per_token=model.kv_bytes_per_token("bf16"),
        layers=model.layers,
        hidden=model.hidden,
    )


def _workloads() -> list[Row]:
    from sim import catalog

    found = []
    for name in catalog.list_workloads():
        described = catalog.load_workload(name).model_dump(mode="json", exclude_unset=True)
        cells = {key: (value, _brief(value)) for key, value in described.items()}
        found.append(_row(**{"name": name, **cells}))
    return found


def _experiments() -> list[Row]:
    """Each experiment's question: the first line of its docstring."""
    import ast
    from pathlib import Path

    folder = Path(__file__).parents[2] / "experiments"
    rows = []
    for path in sorted(folder.glob("[a-z]*.py")):
        question = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        rows.append(_row(name=path.stem, question=question))
    return rows


def _one(kind: Kind, name: str) -> list[Row]:
    from sim import catalog
    from sim.inputs.errors import InputError
    from sim.reading.problems import unknown_name

    if kind == "gpus":
        gpu = catalog.load_gpu(name)
        return list(_constants(_dumped(gpu), gpu.provenance))
    if kind == "links":
        link = catalog.load_link(name)
        return list(_constants(_dumped(link), link.provenance))
    if kind == "topologies":
        topology = catalog.load_topology(name)
        rows = list(_constants(_dumped(topology), topology.provenance))
        for link in topology.links.values():
            rows += _constants(_dumped(link), link.provenance, f"links.{link.name}.")
        for gpu in topology.gpus.values():
            rows += _constants(_dumped(gpu), gpu.provenance, f"gpus.{gpu.name}.")
        return rows
    if kind == "models":
        model = catalog.load_model(name)
        derived = {column: value for column, (value, _) in _model_row(model).items()}
        return list(_constants({**derived, **_dumped(model)}, {}))
    if kind == "workloads":
        return list(_constants(_dumped(catalog.load_workload(name)), {}))
    found = [row for row in _experiments() if row["name"][0] == name]
    if not found:
        raise InputError(unknown_name("experiment", name, _names("experiments")))
    return found


def _dumped(described: Any) -> dict[str, Any]:
    apart = {"links", "gpus", "own_graph"}
    dumped: dict[str, Any] = described.model_dump(mode="json", exclude=apart, exclude_none=True)
    return dumped


def _constants(
    described: Mapping[str, Any], provenance: Mapping[str, Provenance], owner: str = ""
) -> Iterable[Row]:
    """One row per value, with its tag and source where it has one."""
    from sim.inputs.provenance import provenance_of

    for key, value in _leaves(described):
        if key.endswith("name") or "provenance" in key.split("."):
            continue
        known = provenance_of(provenance, key)
        cells: dict[str, Any] = {"constant": owner + key, "value": (value, _with_unit(key, value))}
        if provenance:
            cells |= {"tag": known.tag if known else "", "source": known.source if known else ""}
        yield _row(**cells)


def _leaves(value: Any, at: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{at}.{place}")
    elif value not in ("", {}, [], ()):
        yield at, value


def _with_unit(key: str, value: Any) -> str:
    if isinstance(value, float):
        for ending, unit in (("bytes_per_s", "B/s"), ("bytes", "B"), ("_s", "s")):
            if key.endswith(ending):
                return si(value, unit, 4)
        return si(value, "FLOP/s", 4) if key.startswith("flops.") else f"{value:g}"
    return _brief(value)


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        shown = [_brief(inner) if key == "kind" else f"{key}={_brief(inner)}" for key, inner in value.items()]
        return " ".join(shown)
    if isinstance(value, list | tuple):
        return " ".join(_brief(inner) for inner in value)
    return str(value)


LISTS: dict[Kind, Callable[[], list[Row]]] = {
    "topologies": _topologies,
    "gpus": _gpus,
    "links": _links,
    "models": _models,
    "workloads": _workloads,
    "experiments": _experiments,
}
