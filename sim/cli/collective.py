"""`sim collective`: what a collective takes alone, in the columns of nccl-tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import Format, print_json, print_table, size_bytes
from sim.inputs.errors import InputError

if TYPE_CHECKING:
    from sim.cost.collectives.choice import CollectiveTiming
    from sim.microbenchmark import Collective

MAX_ROWS = 10_000
SWITCH_POINTS = {"vllm": "vLLM's own table of sizes, all_reduce_utils.py"}
"""Where an engine's sizes for its kernels are from; of the others, `choice` in topologies/collectives."""


def collective(
    op: Annotated[
        str,
        typer.Argument(help="all_reduce, all_gather, reduce_scatter, broadcast, all_to_all or send_recv."),
    ],
    topology: Annotated[str, typer.Option("--topology", "-t", help="A system's name, or a YAML file.")],
    ranks: Annotated[int | None, typer.Option("--ranks", "-n", help="How many GPUs, in rank order.")] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", help="How many servers.")] = None,
    smallest: Annotated[str, typer.Option("-b", "--minbytes", help="Smallest size: 8, 64K, 1M, 8G.")] = "8",
    largest: Annotated[str, typer.Option("-e", "--maxbytes", help="Largest size.")] = "128M",
    factor: Annotated[
        float, typer.Option("-f", "--stepfactor", help="Each size is this many times the last.")
    ] = 2.0,
    library: Annotated[str, typer.Option(help="Whose choice of algorithm: auto, nccl or vllm.")] = "auto",
    algorithm: Annotated[
        str, typer.Option(help="ring, tree, nvls, ...; auto leaves it to the library.")
    ] = "auto",
    protocol: Annotated[
        str, typer.Option(help="ll, ll128 or simple; auto leaves it to the library.")
    ] = "auto",
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
) -> None:
    """Time and bandwidth of a collective on an idle machine, by message size.

    Columns are those of nccl-tests: algbw is size over time, busbw scales it so that it can be held against
    the speed of a link. Sizes K, M and G are powers of 1024, as in nccl-tests; GB/s are powers of 1000.
    """
    if ranks == 1:
        raise InputError("--ranks 1: must be at least 2; one GPU has no other to exchange with")
    sizes = _sizes(size_bytes(smallest, "-b"), size_bytes(largest, "-e"), factor)

    import sim
    from sim.cli.topology import basis_of
    from sim.cost.machine_basis import machine_basis

    described = sim.load_topology(topology, nodes=nodes)
    machine = machine_basis(described, ranks)
    timings = [
        sim.collective(
            described,
            op,
            n_bytes=n_bytes,
            ranks=ranks,
            library=library,
            algorithm=algorithm,
            protocol=protocol,
        )
        for n_bytes in sizes
    ]
    if machine.told and any(timing.pcie_span for timing in timings):
        print(f"note: {machine.told}", file=sys.stderr)
    from sim.results.basis import collective_note

    notes = [note for one, other in pairwise(timings) for note in _switch_point(one, other)]
    notes += list(filter(None, dict.fromkeys(collective_note(timing.basis) for timing in timings[-1:])))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if format == "json":
        rows = [
            {
                "n_bytes": timing.n_bytes,
                "total_s": timing.total_s,
                "latency_s": timing.latency_s,
                "algbw_bytes_per_s": timing.algbw_bytes_per_s,
                "busbw_bytes_per_s": timing.busbw_bytes_per_s,
                "algorithm": timing.algorithm,
                "protocol": timing.protocol,
                "library": timing.library,
                "basis": timing.basis.as_dict(),
            }
            for timing in timings
        ]
        written = {"topology": described.name, "op": op, "ranks": timings[0].ranks, "rows": rows}
        written["machine"] = basis_of(machine)
        print_json({**written, "notes": notes} if notes else written)
        return
    print(f"# {op} on {described.name}, {timings[0].ranks} GPUs, {described.servers} server(s), alone")
    print_table(
        [
            "size (B)",
            "time (us)",
            "algbw (GB/s)",
            "busbw (GB/s)",
            "algorithm",
            "protocol",
            "library",
            "band (us)",
        ],
        [
            [
                f"{int(timing.n_bytes)}",
                f"{timing.total_s * 1e6:.2f}",
                f"{timing.algbw_bytes_per_s / 1e9:.2f}",
                f"{timing.busbw_bytes_per_s / 1e9:.2f}",
                timing.algorithm,
                timing.protocol,
                timing.library,
                _band_us(timing),
            ]
            for timing in timings
        ],
    )
    for line in _rests_on(timings):
        print(line)


def _rests_on(timings: Sequence[Collective]) -> Iterator[str]:
    """A line for each basis that some of the sizes have."""
    lines: dict[str, list[Collective]] = {}
    for timing in timings:
        lines.setdefault(f"{timing.basis}", []).append(timing)
    for text, own in lines.items():
        sizes = f", from {int(own[0].n_bytes)} B" if len(lines) > 1 else ""
        yield f"Rests on{sizes}: {text}"


def _band_us(timing: Collective) -> str:
    if timing.basis.band is None:
        return ""
    low, high = (timing.total_s * 1e6 * share for share in timing.basis.band)
    return f"{low:.1f} to {high:.1f}"


def _switch_point(one: CollectiveTiming, other: CollectiveTiming) -> Iterator[str]:
    """Why a larger message takes less time, where an engine changes its kernel between the two sizes."""
    if other.total_s < one.total_s and (one.algorithm, one.library) != (other.algorithm, other.library):
        engine = one.library if one.library != "nccl" else other.library
        source = SWITCH_POINTS.get(engine, "its timings, where their slope changes")
        yield (
            f"{int(other.n_bytes)} B take less than {int(one.n_bytes)} B: between them {engine} goes over "
            f"from {one.algorithm} ({one.library}) to {other.algorithm} ({other.library}); source: {source}"
        )


def _sizes(smallest: int, largest: int, factor: float) -> list[int]:
    if largest < smallest:
        raise InputError(f"-e = {largest}: must be at least -b, which is {smallest}")
    if not factor > 1.0:
        raise InputError(f"-f = {factor:g}: must be more than 1")
    sizes, size = [], float(smallest)
    while round(size) <= largest:
        sizes.append(round(size))
        size *= factor
        if len(sizes) > MAX_ROWS:
            raise InputError(f"-f = {factor:g}: makes more than {MAX_ROWS} sizes; 2 is usual")
    return sorted(set(sizes))
