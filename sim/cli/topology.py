"""`sim topology`: what a system is, what it looks like, and whether its parts reach each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.output import Format, note, print_json, print_table, si
from sim.inputs.errors import InputError

if TYPE_CHECKING:
    from sim.inputs.topology import Topology

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
        print_json({"name": described.name, "nodes": described.nodes, "parts": parts, "wires": wires})
        return
    print(f"# {described.name}, {described.nodes} server(s). {described.description}".rstrip())
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
    path = out or Path(f"{described.name}.svg")
    if path.exists() and not force:
        raise InputError(f"{path} exists; name another file with --out, or add --force")
    from sim.views.machine import draw_topology

    draw_topology(described, path)
    note(f"saved {path}")


@topology.command()
def check(name: Name, nodes: Nodes = None, format: Shape = "table") -> None:
    """Check that every GPU reaches every other; print bandwidth per GPU and across the middle."""
    import sim
    from sim.cost.network import Network

    described = sim.load_topology(name, nodes=nodes)
    found = _reach(Network(described.graph))
    if format == "json":
        print_json({"name": described.name, "nodes": described.nodes, **found})
        return
    print(f"# {described.name}: every GPU reaches every other")
    print_table(
        ["", ""],
        [
            ["GPUs", found["gpus"]],
            ["links (directed)", found["links"]],
            ["out of one GPU", si(found["gpu_bytes_per_s"], "B/s", 4)],
            ["bisection, each direction", si(found["bisection_bytes_per_s"], "B/s", 4)],
        ],
    )
    print_table(
        ["pair", "through", "bytes/s", "latency"],
        [
            [
                f"{pair['from']} to {pair['to']}",
                pair["medium"],
                si(pair["bytes_per_s"], "B/s", 4),
                si(pair["latency_s"], "s"),
            ]
            for pair in found["pairs"]
        ],
    )


def _reach(network: Any) -> dict[str, Any]:
    """Paths from the first GPU of each server to every GPU, and one example of each kind of path."""
    first_of_server: dict[int, str] = {}
    for gpu in network.gpus:
        first_of_server.setdefault(network.node_of[gpu], gpu)
    examples: dict[tuple[str, float, float], dict[str, Any]] = {}
    for source in first_of_server.values():
        for target in network.gpus:
            if source == target:
                continue
            network.path(target, source)
            path = network.path(source, target)
            bytes_per_s = min(network.capacity[link] for link in path.links)
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
    return {
        "gpus": len(network.gpus),
        "links": len(network.links),
        "gpu_bytes_per_s": _out_of_one_gpu(network),
        "bisection_bytes_per_s": network.bisection_bytes_per_s(),
        "pairs": list(examples.values()),
    }


def _out_of_one_gpu(network: Any) -> float:
    """The most that the first GPU can send to its peers: over NVLink, else along its best path."""
    first = network.gpus[0]
    reached = [network.path(first, other) for other in network.gpus[1:]]
    best = max((min(network.capacity[link] for link in path.links) for path in reached), default=0.0)
    return max(network.nvlink_bytes_per_s(first) if network.peer_to_peer else 0.0, best)


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
