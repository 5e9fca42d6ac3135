"""Rows of the ledger from closed forms of collectives and sizes of models: equal to the last digits.

"Published" is here what the formula gives. The laws of queues are in `laws.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.catalog import load_model, load_topology
from sim.cost.collectives.choice import collective
from sim.cost.network import Network
from sim.results.compared import Row

CLOSED_FORM = "closed form"


def formula_rows() -> Iterator[Row]:
    """Collectives without software time against bytes over links, and the sizes of models."""
    n_bytes = 2.0**30
    for name, ranks in (("nd-h100-v5", 8), ("a100-x4", 4), ("hgx-b200", 8)):
        network = Network(load_topology(name).graph)
        members = network.gpus[:ranks]
        rate = min(network.capacity[link] for link in network.path(members[0], members[1]).links)
        shares = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}
        for op, share in shares.items():
            expected_s = share * (ranks - 1) / ranks * n_bytes / rate
            timing = collective(network, op, n_bytes, members, library="none")
            min_flow_s = timing.bytes_s
            case = f"{name}, {ranks} GPUs, 1 GiB, bytes alone"
            yield Row(case, op, "ms", 1e3 * expected_s, 1e3 * min_flow_s, "predicted", CLOSED_FORM)
    for name, billions in (("llama-3-70b", 70.55), ("qwen2.5-72b", 72.71), ("deepseek-v3", 671.0)):
        parameters = load_model(name).parameters / 1e9
        source = "published checkpoint"
        yield Row(name, "parameters", "10^9", billions, parameters, "predicted", source)
