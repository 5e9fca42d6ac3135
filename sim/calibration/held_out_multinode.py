"""How well the model of collectives between servers holds on what it was not fitted to.

Held out in turn are each system, each number of servers and each operation. Beside it stands a plain
alpha-beta model: one latency, and one share of the NICs' rate for each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from sim.calibration.collectives import Raw
from sim.calibration.fitting import CurveErrors, Floats, log_fit
from sim.calibration.multinode import FREE, fitted, neutral, ratios
from sim.calibration.multinode_points import MultinodePoint, cluster_network, gave_its_rate, ranks_of
from sim.cost.collectives.parameters import parameters_of
from sim.results.compared import ErrorSummary

FOLDS: dict[str, Callable[[MultinodePoint], object]] = {
    "system": lambda one: one.system,
    "servers": lambda one: one.nodes,
    "op": lambda one: one.op,
}


def held_out_multinode(measured: Sequence[MultinodePoint], files: Raw) -> list[CurveErrors]:
    """Errors on each system, number of servers and operation by parameters that saw none of its points.

    Every fit starts at the middle of the bounds, so nothing of what is held out is in its start. Send/recv
    that gave the rate of its fabric is left out.
    """
    rows = []
    for how, key in FOLDS.items():
        for out in sorted({key(one) for one in measured}, key=str):
            seen = [one for one in measured if key(one) != out]
            unseen = [one for one in measured if key(one) == out and not gave_its_rate(one)]
            # Fewer different points than free numbers would leave some of these at their start.
            if not unseen or len({(one.op, one.n_bytes) for one in seen}) < len(FREE):
                continue
            found = ratios(unseen, parameters_of(fitted(neutral(files), seen)))
            rows += _by_curve(how, unseen, found, alpha_beta(seen))
    return rows


def multinode_errors(measured: Sequence[MultinodePoint], files: Raw, how: str) -> list[CurveErrors]:
    """Errors of given parameters, with the plain model fitted on the same points beside them. As above, no
    send/recv that gave the rate of its fabric.
    """
    rows = [one for one in measured if not gave_its_rate(one)]
    return _by_curve(how, rows, ratios(rows, parameters_of(files)), alpha_beta(measured))


def _by_curve(
    how: str,
    measured: Sequence[MultinodePoint],
    found: Sequence[float],
    plain: Callable[[MultinodePoint], float],
) -> list[CurveErrors]:
    groups: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for one, ratio in zip(measured, found, strict=True):
        of_plain = plain(one) / one.seconds - 1.0
        groups.setdefault((one.system, one.op, one.nodes), []).append((ratio - 1.0, of_plain))
    return [
        CurveErrors(
            how, system, "nccl", op, nodes, *(ErrorSummary.of(part) for part in zip(*of, strict=True))
        )
        for (system, op, nodes), of in sorted(groups.items())
    ]


def alpha_beta(seen: Sequence[MultinodePoint]) -> Callable[[MultinodePoint], float]:
    """Alpha-beta: one latency, and for each operation (for those not seen all together) one share of the
    rate of the NICs of a server's GPUs, both fitted to what was seen.
    """
    ops = sorted({one.op for one in seen})

    def seconds(one: MultinodePoint, alpha_s: float, share: float) -> float:
        return alpha_s + _bus_bytes(one) / (share * _nic_rate(one.system, one.nodes) * one.gpus_per_node)

    def of_seen(values: Floats) -> list[float]:
        return [seconds(one, values[0], values[1 + ops.index(one.op)]) / one.seconds for one in seen]

    alpha_s, *fitted = log_fit(of_seen, [30e-6, *(0.8 for _ in ops)]).tolist()
    shares = dict(zip(ops, fitted, strict=True))
    middle = float(np.exp(np.mean(np.log(fitted))))
    return lambda one: seconds(one, alpha_s, shares.get(one.op, middle))


def _bus_bytes(one: MultinodePoint) -> float:
    n = one.nodes * one.gpus_per_node
    share = {"all_reduce": 2.0 * (n - 1) / n, "send_recv": 1.0, "broadcast": 1.0}.get(one.op, (n - 1) / n)
    return one.n_bytes * share


@cache
def _nic_rate(system: str, nodes: int) -> float:
    network = cluster_network(system, nodes)
    path = network.path(network.gpus[0], ranks_of(network, 1)[1])
    return path.bytes_per_s(network.capacity)
