"""On any machine a lone operation is no slower for more bandwidth, less latency, one more rail, or a feature.

GPUs are of a kind that was measured: one that no file names takes the constants of the generation whose
NVLink is nearest, and so another start-up with another rate.
"""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.catalog import load_gpu
from sim.cost.collectives.choice import collective
from sim.cost.collectives.expert_exchange import ExpertChoice, exchange
from sim.cost.kernels.kernels import KERNELS
from sim.cost.network import Network
from tests.cost.small_graphs import servers

NO_SLOWER = 1.0 + 1e-9
OPS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv")
KINDS = {"gpu", "nvswitch", "pcie_switch", "host", "nic", "switch"}
MODELS = {True: ("h100-sxm", "a100-80gb-sxm", "b200-sxm", "gb200"), False: ("l40s", "rtx-pro-6000")}


@st.composite
def machines(draw: st.DrawFn, nodes: tuple[int, ...] = (1, 2, 3)) -> nx.DiGraph:
    """Servers with or without NVLink, of any rates and latencies."""
    chips = draw(st.sampled_from((0, 1, 4)))
    gpus = draw(st.sampled_from((2, 4, 8)))
    graph = servers(
        nodes=draw(st.sampled_from(nodes)),
        gpus=gpus,
        chips=chips,
        nics=draw(st.sampled_from([count for count in (1, 2, 4, 8) if count <= gpus])),
        nvlink=draw(st.sampled_from((100e9, 240e9, 369e9, 720e9))),
        nic=draw(st.sampled_from((12e9, 49e9, 98e9))),
        pcie=draw(st.sampled_from((12e9, 26e9, 55e9))),
        gpus_per_switch=draw(st.sampled_from((1, 2))),
        spines=2,
        reduces=draw(st.booleans()),
    )
    model = draw(st.sampled_from(MODELS[chips > 0]))
    latencies = st.sampled_from((0.05e-6, 0.2e-6, 0.415e-6, 1e-6, 4e-6))
    of_link = {kinds: draw(latencies) for kinds in _link_kinds(graph)}
    of_place = {kind: draw(latencies) for kind in sorted(KINDS)}
    for here, there, edge in graph.edges(data=True):
        edge["latency_s"] = of_link[_kinds(graph, here, there)]
    for _, place in graph.nodes(data=True):
        place["latency_s"] = of_place[place["kind"]]
        if place["kind"] == "gpu":
            place["model"] = model
    return graph


def _kinds(graph: nx.DiGraph, here: str, there: str) -> tuple[str, ...]:
    return tuple(sorted((graph.nodes[here]["kind"], graph.nodes[there]["kind"])))


def _link_kinds(graph: nx.DiGraph) -> list[tuple[str, ...]]:
    return sorted({_kinds(graph, here, there) for here, there in graph.edges})


def changed(graph: nx.DiGraph, key: str, factor: float, what: Any) -> nx.DiGraph:
    """With a rate or a latency of one kind of link or place times `factor`."""
    other = graph.copy()
    for here, there, edge in other.edges(data=True):
        if _kinds(graph, here, there) == what:
            edge[key] *= factor
    for _, place in other.nodes(data=True):
        if place["kind"] == what and key in place:
            place[key] *= factor
    return other


def price(graph: nx.DiGraph, op: str, n_bytes: float, ranks: int, library: str) -> float:
    network = Network(graph)
    gpus = network.gpus[:ranks]
    if op in ("dispatch", "combine"):
        demand = exchange(
            network, op, gpus, n_bytes / 7168.0, 7168.0, ExpertChoice(64, 4), has_prefill=library == "nccl"
        )
        return demand.isolated_s(network.capacity)
    return collective(network, op, n_bytes, gpus, library=library).total_s


def calls(graph: nx.DiGraph) -> st.SearchStrategy[tuple[str, float, int, str]]:
    gpus = sum(place["kind"] == "gpu" for _, place in graph.nodes(data=True))
    exchanges = ("dispatch", "combine") if any(kind == "nvswitch" for _, kind in graph.nodes("kind")) else ()
    return st.tuples(
        st.sampled_from(OPS + exchanges),
        st.sampled_from([1024.0 * 4**power for power in range(10)]),
        st.integers(2, gpus),
        st.sampled_from(("nccl", "vllm", "sglang", "trtllm")),
    )


@settings(max_examples=40)
@given(st.data())
def test_a_faster_link_or_place_never_slows_an_operation(data: st.DataObject) -> None:
    graph = data.draw(machines())
    call = data.draw(calls(graph))
    what = data.draw(st.sampled_from([*_link_kinds(graph), "host"]))
    assert price(changed(graph, "bytes_per_s", 2.0, what), *call) <= price(graph, *call) * NO_SLOWER


@pytest.mark.slow
@settings(max_examples=40)
@given(st.data())
def test_a_shorter_latency_never_slows_an_operation(data: st.DataObject) -> None:
    graph = data.draw(machines())
    call = data.draw(calls(graph))
    what = data.draw(st.sampled_from([*_link_kinds(graph), *sorted(KINDS - {"gpu"})]))
    assert price(changed(graph, "latency_s", 0.5, what), *call) <= price(graph, *call) * NO_SLOWER


@settings(max_examples=40)
@given(st.data())
def test_copies_from_gpu_to_gpu_never_slow_an_operation(data: st.DataObject) -> None:
    graph = data.draw(machines())
    call = data.draw(calls(graph))
    staged = graph.copy()
    staged.graph["peer_to_peer"] = False
    assert price(graph, *call) <= price(staged, *call) * NO_SLOWER


@settings(max_examples=40)
@given(st.data())
def test_one_more_rail_never_slows_an_operation(data: st.DataObject) -> None:
    nics = data.draw(st.sampled_from((1, 2, 4)))
    options = {"nodes": 2, "spines": data.draw(st.sampled_from((0, 2))), "nic": 49e9, "nvlink": 369e9}
    fewer, more = servers(nics=nics, **options), servers(nics=2 * nics, **options)
    call = data.draw(calls(more))
    assert price(more, *call) <= price(fewer, *call) * NO_SLOWER


@pytest.mark.parametrize("gpu", ["h100-sxm", "b200-sxm", "l40s", "rtx-4090", "a100-80gb-sxm"])
@pytest.mark.parametrize("rate", ["hbm_bytes_per_s", "flops"])
@given(tokens=st.sampled_from((1, 8, 64, 129, 1024, 8192)), width=st.sampled_from((1024, 4096, 14336)))
@settings(max_examples=20)
def test_a_faster_gpu_never_slows_a_kernel(gpu: str, rate: str, tokens: int, width: int) -> None:
    built = load_gpu(gpu)
    value = getattr(built, rate)
    doubled = {name: 2 * one for name, one in value.items()} if isinstance(value, dict) else 2 * value
    faster = built.model_copy(update={rate: doubled})
    shapes: dict[str, dict[str, Any]] = {
        "gemm": {"m": tokens, "n": width, "k": 4096, "dtype": "bf16"},
        "elementwise": {"n_bytes": float(tokens * width)},
    }
    for kernel, shape in shapes.items():
        assert KERNELS[kernel](faster, **shape).total_s <= KERNELS[kernel](built, **shape).total_s * NO_SLOWER
