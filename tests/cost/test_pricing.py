from __future__ import annotations

import pytest

from sim.catalog import load_gpu, load_model
from sim.cost.batch import Causes
from sim.cost.collectives.demands import Demand
from sim.cost.kernels.kernels import formula
from sim.cost.kernels.timing import KernelTiming
from sim.cost.network import Network
from sim.cost.pricing import Priced, Pricer, causes_of, kernel_causes, seconds_of, stripped, together
from sim.cost.program import Op
from sim.cost.shard import Shard
from sim.inputs.engine import Engine
from sim.inputs.precision import Precision
from tests.cost.small_graphs import NVLINK, servers


def pricer(ranks: int = 8, without: tuple[str, ...] = ()) -> Pricer:
    network = Network(servers())
    model = load_model("llama-3-8b")
    groups = (network.gpus[:ranks],)
    shard = Shard(model, Engine(), Precision(), load_gpu("h100-sxm"), groups, 0, model.layers)
    return Pricer(shard, network, frozenset(without), formula)


def test_transfers_that_begin_together_add_up_their_bytes_and_wait_for_the_latest() -> None:
    both = together([Demand((0, 1), (1.0, 2.0), 3.0, 4.0), Demand((1, 2), (5.0, 6.0), 7.0, 1.0)])
    assert both == Demand((0, 1, 2), (1.0, 7.0, 6.0), 7.0, 4.0)


def test_a_demand_is_stripped_of_its_latency_or_of_its_bytes() -> None:
    whole = Demand((0,), (8.0,), 2.0, 3.0)
    assert stripped(whole, frozenset()) == whole
    assert stripped(whole, frozenset({"collective_latency"})) == Demand((0,), (8.0,), 0.0, 3.0)
    assert stripped(whole, frozenset({"collective_bytes"})) == Demand((), (), 2.0)


def test_a_kernel_waits_for_its_launch_and_then_for_the_longer_of_arithmetic_and_memory() -> None:
    assert kernel_causes(KernelTiming(5.0, 1.0, 3.0, 2.0)) == Causes(compute=4.0, kernel_latency=1.0)
    assert kernel_causes(KernelTiming(5.0, 1.0, 2.0, 3.0)) == Causes(memory=4.0, kernel_latency=1.0)


def test_a_transfer_takes_its_latency_and_its_bytes_alone_and_says_which_is_which() -> None:
    priced = pricer().transfer("send", Demand((0,), (NVLINK,), 0.25))
    rate = pricer().network.capacity[0]
    assert priced.op.seconds == pytest.approx(0.25 + NVLINK / rate)
    assert priced.causes == pytest.approx(Causes(collective_latency=0.25, collective_bytes=NVLINK / rate))


def test_causes_of_ops_add_up_to_their_seconds() -> None:
    price = pricer()
    ops = [price.gemm("a", 8, 4096, 4096), price.elementwise("b", 1e6), *price.all_reduce(8)]
    assert causes_of(ops).total_s == pytest.approx(seconds_of(ops))
    assert causes_of([]) == Causes()
    assert causes_of([Priced(Op("x", 1.0), Causes(host=1.0))]).host == 1.0


def test_equal_collectives_are_one_object_and_one_rank_has_none() -> None:
    price = pricer()
    assert price.all_reduce(8)[0] is price.all_reduce(8)[0]
    assert pricer(ranks=1).all_reduce(8) == ()


@pytest.mark.parametrize("cause", ["kernel_latency", "host", "collective_latency", "collective_bytes"])
def test_a_cause_that_is_taken_away_costs_nothing(cause: str) -> None:
    price = pricer(without=(cause,))
    ops = [price.gemm("a", 8, 4096, 4096), *price.all_reduce(8), *price.host("wait", 1e-3)]
    assert getattr(causes_of(ops), cause) == 0.0
    assert seconds_of(ops) > 0.0
