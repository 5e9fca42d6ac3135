"""`sim list`: what is shipped, and where each constant comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sim.cli.output import Format, print_json, print_table, si

if TYPE_CHECKING:
    from pydantic import BaseModel

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
    configs: Annotated[
        Path | None,
        typer.Option(help="With models: the config.json files of a folder, not the shipped ones."),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(help="Put the table of --configs, or of topologies, into this Markdown page."),
    ] = None,
) -> None:
    """List systems, GPUs, links, models, workloads and experiments; with a name, constants and sources."""
    if kind == "topologies" and name is None and configs is None and write is not None:
        from sim.cli.machine_table import write_tables

        write_tables(write)
        return
    if configs is not None or write is not None:
        _configs(kind, configs, write)
        return
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


def _configs(kind: Kind | None, folder: Path | None, page: Path | None) -> None:
    from sim.cli.model_table import table_of, write_table
    from sim.inputs.errors import InputError

    if kind != "models" or folder is None:
        raise InputError(
            "--configs FOLDER, with or without --write PAGE, goes with `sim list models`; --write PAGE alone "
            "with `sim list topologies`"
        )
    if page is None:
        typer.echo(table_of(folder))
    else:
        write_table(folder, page)


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
    from collections import Counter

    from sim import catalog
    from sim.basis import kernel_basis
    from sim.cost.kernels.kernels import formula
    from sim.validation.machines import machine_points

    described = [catalog.load_topology(name) for name in catalog.list_topologies()]
    published = Counter(point.system for point in machine_points())

    def kernels(gpu: Gpu) -> str:
        part = kernel_basis(gpu, formula, "vllm", [("gemm", "bf16")], "memory")
        return "measured" if part.kind == "measured" else f"{part.of}'s"

    return [
        _row(
            name=each.name,
            gpus=each.gpus_per_node * each.nodes,
            gpu=" ".join(each.gpus),
            basis=each.basis,
            kernels=" ".join(kernels(gpu) for gpu in each.gpus.values()),
            published=(published[each.name], published[each.name] or "none found"),
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

    from sim.reading.data_files import experiment_scripts, experiment_source

    rows = []
    for path in experiment_scripts():
        text = experiment_source(path).read_text(encoding="utf-8")
        question = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        rows.append(_row(name=path.stem, question=question))
    return rows


def _one(kind: Kind, name: str) -> list[Row]:
    from sim import catalog
    from sim.inputs.errors import InputError
    from sim.reading.problems import unknown_name

    if kind == "experiments":
        found = [row for row in _experiments() if row["name"][0] == name]
        if not found:
            raise InputError(unknown_name("experiment", name, _names("experiments")))
        return found
    if kind == "models":
        model = catalog.load_model(name)
        derived = [_row(constant=column, value=cell) for column, cell in _model_row(model).items()]
        return [*derived[1:5], *_constants(model)]
    loaders: dict[str, Callable[[str], BaseModel]] = {
        "gpus": catalog.load_gpu,
        "links": catalog.load_link,
        "topologies": catalog.load_topology,
        "workloads": catalog.load_workload,
    }
    return list(_constants(loaders[kind](name)))


def _constants(
    described: BaseModel,
    owner: str = "",
    provenance: Mapping[str, Provenance] | None = None,
    inside: str = "",
) -> Iterator[Row]:
    """One row per value that was written, with its tag and source where it has one.

    `owner` is the path to `described`; `inside` the part of it below the description that `provenance` is of.
    """
    from pydantic import BaseModel

    from sim.inputs.provenance import provenance_of

    own: Mapping[str, Provenance] | None = getattr(described, "provenance", None)
    if own is not None:
        provenance, inside = own, ""
    for field, value in described:
        if field in ("provenance", "name", "own_graph") or value is None:
            continue
        for key, inner in _nested(value, field):
            if isinstance(inner, BaseModel):
                yield from _constants(inner, f"{owner}{key}.", provenance, f"{inside}{key}.")
                continue
            known = provenance_of(provenance, inside + key) if provenance else None
            if inner in ("", (), {}) or (known is None and field not in described.model_fields_set):
                continue
            row = _row(constant=owner + key, value=(inner, _with_unit(key, inner)))
            if provenance is not None:
                row |= _row(tag=known.tag if known else "", source=known.source if known else "")
            yield row


def _nested(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """The descriptions and plain values in a field, with their paths."""
    from pydantic import BaseModel

    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _nested(inner, f"{at}.{key}")
    elif isinstance(value, tuple) and any(isinstance(inner, BaseModel) for inner in value):
        for place, inner in enumerate(value):
            yield from _nested(inner, f"{at}.{place}")
    else:
        yield at, value


def _with_unit(key: str, value: Any) -> str:
    if isinstance(value, float):
        for ending, unit in (("bytes_per_s", "B/s"), ("_per_s", "/s"), ("bytes", "B"), ("_s", "s")):
            if key.endswith(ending):
                return si(value, unit, 4) if ending != "_per_s" else f"{value:g}{unit}"
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
