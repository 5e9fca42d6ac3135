"""`sim topology`: what a system is, what it looks like, and whether its parts reach each other."""

from __future__ import annotations

import re
from dataclasses import asdict
from itertools import product
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.output import Format, note, print_json, print_table, si
from sim.inputs.errors import InputError

if TYPE_CHECKING:
    from sim.cost.machine_basis import MachineBasis
    from sim.cost.network import Network
    from sim.inputs.topology import Topology

SERVERS_LOOKED_AT = 4

topology = typer.Typer(help="Show, draw or check a system.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A system's name, or a YAML file.")]
Nodes = Annotated[int | None, typer.Option("--nodes", help="How many servers.")]
Shape = Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")]


@topology.command()
def show(name: Name, nodes: Nodes = None, format: Shape = "table") -> None:
    """Print the parts of a system and the links between them."""
    import sim

    described = sim.load_topology(name, nodes=nodes)
    parts, wires = _parts(described), _wires(described)
    if format == "json":
        print_json({"name": described.name, "nodes": described.servers, "parts": parts, "wires": wires})
        return
    print(f"# {described.name}, {described.servers} server(s). {described.description}".rstrip())
    print_table(["kind", "count", "model"], [[part["kind"], part["count"], part["model"]] for part in parts])
    print_table(
        ["between", "pairs", "link", "parallel", "payload per direction", "latency"],
        [
            [
                wire["between"],
                wire["pairs"],
                wire["link"],
                wire["parallel"],
                si(wire["bytes_per_s"], "B/s", 4),
                si(wire["latency_s"], "s"),
            ]
            for wire in wires
        ],
    )


@topology.command()
def draw(
    name: Name,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write: .svg, .png or .html. Default NAME.svg.")
    ] = None,
    nodes: Nodes = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Draw a system: servers as boxes, parts in rows, links coloured by type."""
    import sim

    described = sim.load_topology(name, nodes=nodes)
    # A name may hold anything; a file named after it stays in this folder.
    path = out or Path(re.sub(r"[^\w.-]+", "_", described.name).lstrip(".") + ".svg")
    if path.exists() and not force:
        raise InputError(f"{path} exists; name another file with --out, or add --force")
    from sim.views.machine import draw_topology

    draw_topology(described, path)
    note(f"saved {path}")


@topology.command()
def check(name: Name, nodes: Nodes = None, format: Shape = "table") -> None:
    """Check that every GPU reaches every other; print bandwidth per GPU and across the middle, and what the
    description leaves out or borrows.

    Rates are payload per direction. The bisection is what the first half of the servers (of one server: of
    its GPUs) can send to the second by the best routing, and where the paths that traffic takes carry less
    of it, what each GPU sending to its counterpart gets. Oversubscription is what the NICs of a leaf can
    send over what its uplinks carry.
    """
    import sim
    from sim.catalog import is_machine_file
    from sim.cli.topology_gaps import gaps
    from sim.cost.machine_basis import machine_basis
    from sim.cost.network import Network
    from sim.inputs.topology_check import checked, halves

    described = _imported(name, nodes) if is_machine_file(name) else sim.load_topology(name, nodes=nodes)
    found = checked(described)
    network = Network(described.graph)
    paths, basis = _paths(network), machine_basis(described, network=network)
    left_open = list(gaps(described, network))
    senders, receivers = halves(described.graph)
    routed = network.bisection_bytes_per_s([*senders, *receivers[: len(senders)]])
    if format == "json":
        written = {**asdict(found), "routed_bisection_bytes_per_s": routed, "paths": paths}
        open_json = [{"what": what, "taken": taken} for what, taken in left_open]
        print_json({**written, "basis": basis_of(basis), "left_open": open_json})
        return
    print(f"# {found.name}: every GPU reaches every other")
    nvlink = found.largest_domain if described.peer_to_peer and found.largest_domain > 1 else None
    joins = _scale_up(described) if nvlink else "NVLink"
    rates = {
        f"one GPU into its {joins} domain": found.in_domain_bytes_per_s if nvlink else None,
        "the same, raw": found.in_domain_raw_bytes_per_s if nvlink else None,
        "one GPU across the middle": found.across_bytes_per_s,
    }
    across = {"bisection": found.bisection_bytes_per_s}
    if routed < 0.99 * found.bisection_bytes_per_s:
        across["the same, on the paths that traffic takes"] = routed
    print_table(
        ["", ""],
        [
            ["basis", basis.kind],
            ["servers", found.nodes],
            ["GPUs", f"{found.gpus} {', '.join(found.gpu_models)}"],
            ["peer-to-peer", "on" if described.peer_to_peer else "off: copies are staged in host memory"],
            [f"GPUs that {joins} joins", nvlink or "none"],
            *(["switches" if not one.name else f"switches, {one.name}", str(one)] for one in found.switches),
            *([what, si(rate, "B/s", 4)] for what, rate in rates.items() if rate is not None),
            *([what, f"{rate / 1e9:.6g} GB/s"] for what, rate in across.items()),
        ],
    )
    for line in filter(None, (basis.source and str(basis), basis.told)):
        print(line)
    print_table(
        ["path, for example", "through", "bytes/s", "latency"],
        [
            [
                f"{path['from']} to {path['to']}",
                joins.lower() if path["medium"] == "nvlink" else path["medium"],
                si(path["bytes_per_s"], "B/s", 4),
                si(path["latency_s"], "s"),
            ]
            for path in paths
        ],
    )
    if left_open:
        print_table(["left out or borrowed", "taken instead"], left_open)


def _scale_up(described: Topology) -> str:
    """What joins the GPUs of a domain: NVLink, or a link of another name."""
    graph = described.graph
    links = {
        edge["link"]
        for one, other, edge in graph.edges(data=True)
        if graph.nodes[one]["kind"] == "gpu" and graph.nodes[other]["kind"] in ("gpu", "nvswitch")
    }
    others = sorted(link for link in links if not link.startswith("nvlink"))
    return " and ".join(others) if others and len(others) == len(links) else "NVLink"


@topology.command("import")
def import_file(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What nvidia-smi topo -m printed, or NCCL's XML.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; without it the text is printed.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="The model of the GPUs, where the file does not name it.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a topology file from what a machine says of itself, with what had to be assumed marked."""
    from sim.catalog import imported_topology
    from sim.results.whole_files import whole_file

    if out is not None and out.exists() and not force:
        raise InputError(f"{out} exists; name another file with --out, or add --force")
    text, described = imported_topology(file, gpu)
    if out is None:
        print(text, end="")
        return
    with whole_file(out) as partial:
        partial.write_text(text, encoding="utf-8")
    gpus = ", ".join(described.gpu_models)
    note(f"written to {out}: {described.gpus_per_node} GPUs ({gpus}); sim topology check {out}")
    _note_assumed(text)


def _note_assumed(text: str) -> None:
    for line in text.splitlines():
        if line.startswith("# - "):
            note(f"assumed: {line[4:]}")


def _imported(name: str, nodes: int | None) -> Topology:
    """The machine of a file that is no topology file, with a note of what was assumed."""
    from sim.catalog import imported_topology, load_topology

    text, described = imported_topology(name)
    note(f"{text.splitlines()[0][2:].split('. ')[0]}; to edit it: sim topology import {name} --out my.yaml")
    _note_assumed(text)
    return load_topology(described, nodes=nodes)


def basis_of(basis: MachineBasis) -> dict[str, Any]:
    """What a machine rests on, for JSON; the band is of messages above 1 MB."""
    band = basis.band(inf)
    return {
        "kind": basis.kind,
        "source": basis.source,
        "span": basis.span,
        "band": None if band is None else list(band),
    }


def _paths(network: Network) -> list[dict[str, Any]]:
    """One example of each kind of path between the GPUs of the first servers."""
    first_of_server: dict[int, str] = {}
    for gpu in network.gpus:
        first_of_server.setdefault(network.node_of[gpu], gpu)
    sources = list(first_of_server.values())[:SERVERS_LOOKED_AT]
    near = [gpu for gpu in network.gpus if first_of_server[network.node_of[gpu]] in sources]
    examples: dict[tuple[str, float, float], dict[str, Any]] = {}
    for source, target in product(sources, near):
        if source == target:
            continue
        path = network.path(source, target)
        bytes_per_s = path.bytes_per_s(network.capacity)
        examples.setdefault(
            (path.medium, bytes_per_s, round(path.latency_s, 12)),
            {
                "from": source,
                "to": target,
                "medium": path.medium,
                "bytes_per_s": bytes_per_s,
                "latency_s": path.latency_s,
            },
        )
    return list(examples.values())


def _parts(described: Topology) -> list[dict[str, Any]]:
    counts: dict[tuple[str, str], int] = {}
    for _, attributes in described.graph.nodes(data=True):
        key = attributes["kind"], attributes.get("model") or attributes.get("transport") or ""
        counts[key] = counts.get(key, 0) + 1
    return [{"kind": kind, "count": count, "model": model} for (kind, model), count in sorted(counts.items())]


def _wires(described: Topology) -> list[dict[str, Any]]:
    graph = described.graph
    counts: dict[tuple[str, str, int, float, float], int] = {}
    for source, target, edge in graph.edges(data=True):
        kinds = sorted((graph.nodes[source]["kind"], graph.nodes[target]["kind"]))
        key = (" - ".join(kinds), edge["link"], edge.get("count", 1), edge["bytes_per_s"], edge["latency_s"])
        counts[key] = counts.get(key, 0) + 1
    return [
        {
            "between": between,
            "pairs": count // 2,
            "link": link,
            "parallel": parallel,
            "bytes_per_s": bytes_per_s,
            "latency_s": latency_s,
        }
        for (between, link, parallel, bytes_per_s, latency_s), count in sorted(
            counts.items(), key=lambda item: item[0][:2]
        )
    ]
