"""Transfers per second, against bare SimPy timeouts of the same process.

Every figure is the median of the rounds, all of them run in turn; the ratio is taken within a round, so what
else the machine is doing divides out. Two shapes of network: a crossbar (one link up, one down per GPU),
whose transfers soon form one connected component, and a three-tier fat tree of 1,024 hosts with random pairs
on one path each. A small change is one inside a server of a two-tier fat tree of 128 servers with 1,024 GPUs,
while transfers between random GPUs of other servers are on their way.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator

from simpy import Environment, Event

from sim.catalog import load_topology
from sim.cost.network import Network
from sim.runtime.fabric.fabric import Fabric, Transfer
from sim.runtime.fabric.transfer import Bytes

ROUNDS = 3
BYTES_PER_S = 50e9
PORTS = 16  # of each switch of the fat tree: 16 pods of 8 x 8 hosts


def timeouts(count: int) -> float:
    """Timeouts per second of one process that waits again and again."""
    env = Environment()

    def wait() -> Iterator[Event]:
        for _ in range(count):
            yield env.timeout(1e-6)

    env.process(wait())
    return _rate(env, count)


def alone(count: int, links: int = 16) -> float:
    """One after the other over the links of a group of eight GPUs, without other traffic: a played decode
    step.
    """
    env = Environment()
    fabric = Fabric(env, dict.fromkeys(range(links), BYTES_PER_S))
    demand = Bytes(tuple(range(links)), (1e5,) * links, 1e-6)
    left = count

    def again(_: Transfer | None) -> None:
        nonlocal left
        if left:
            left -= 1
            fabric.start(demand, on_done=again)

    again(None)
    return _rate(env, count)


def two_groups(count: int, links: int = 16) -> float:
    """Two groups play over the same links, out of step with each other."""
    env = Environment()
    fabric = Fabric(env, dict.fromkeys(range(links), BYTES_PER_S))
    left = count

    def begin(n_bytes: float) -> None:
        demand = Bytes(tuple(range(links)), (n_bytes,) * links, 1e-6)

        def again(_: Transfer | None) -> None:
            nonlocal left
            if left:
                left -= 1
                fabric.start(demand, on_done=again)

        again(None)

    begin(1e5)
    begin(1.3e5)
    return _rate(env, count)


def random_traffic(
    paths: Callable[[random.Random], tuple[int, ...]], links: int, at_once: int, count: int
) -> float:
    """Always `at_once` transfers of random size between random places; `count` of them timed, once all are
    there.
    """
    env = Environment()
    fabric = Fabric(env, dict.fromkeys(range(links), BYTES_PER_S))
    rng = random.Random(1)
    left = count

    def again(_: Transfer | None) -> None:
        nonlocal left
        left -= 1
        path = paths(rng)
        fabric.start(Bytes(path, (rng.expovariate(1e-7),) * len(path)), on_done=again)

    for _ in range(at_once):
        again(None)
    env.run(1e-12)
    left = count
    return _rate(env, count, lambda: left > 0)


def crossbar(rng: random.Random, gpus: int = 72) -> tuple[int, ...]:
    source, target = rng.sample(range(gpus), 2)
    return source, gpus + target


def fat_tree(rng: random.Random) -> tuple[int, ...]:
    """Up by a random way, down by the only one. Links are numbered by tier and direction."""
    half = PORTS // 2
    hosts = PORTS * half * half
    source, target = rng.sample(range(hosts), 2)
    up, down = range(0, 3 * hosts, hosts), range(3 * hosts, 6 * hosts, hosts)
    edge, other_edge = source // half, target // half
    if edge == other_edge:
        return up[0] + source, down[0] + target
    way = rng.randrange(half)
    if edge // half == other_edge // half:
        return up[0] + source, up[1] + edge * half + way, down[1] + other_edge * half + way, down[0] + target
    core = rng.randrange(half)
    pod, other_pod = edge // half, other_edge // half
    return (
        up[0] + source,
        up[1] + edge * half + way,
        up[2] + (pod * half + way) * half + core,
        down[2] + (other_pod * half + way) * half + core,
        down[1] + other_edge * half + way,
        down[0] + target,
    )


def small_change_beside(network: Network, others: int, count: int = 3000) -> float:
    """Two transfers that share a link inside a server start and end, while `others` transfers between
    random GPUs of all other servers are under way.
    """
    env = Environment()
    fabric = Fabric(env, network)
    rng = random.Random(1)
    inside = network.path(*network.gpus[:2]).links
    for _ in range(others):
        source, target = (
            network.gpus[8 * server + rng.randrange(8)] for server in rng.sample(range(1, 128), 2)
        )
        path = network.path(source, target).links
        fabric.start(Bytes(path, (1e15,) * len(path)))
    left = count

    def again(_: Transfer | None) -> None:
        nonlocal left
        left -= 1
        fabric.start(Bytes(inside, (rng.expovariate(1e-7),) * len(inside)), on_done=again)

    again(None)
    again(None)
    env.run(1e-12)
    return _rate(env, count, lambda: left > 0)


def _rate(env: Environment, count: int, going: Callable[[], bool] | None = None) -> float:
    started = time.process_time()
    if going is None:
        env.run()
    else:
        while going():
            env.step()
    return count / (time.process_time() - started)


def main() -> None:
    tree = 6 * PORTS**3 // 4
    cases: dict[str, Callable[[], float]] = {
        "alone, 16 links": lambda: alone(50_000),
        "two groups on 16 links": lambda: two_groups(10_000),
    }
    for at_once, count in ((8, 10_000), (64, 4_000), (512, 800), (4096, 100)):
        cases[f"crossbar of 72, {at_once} at once"] = lambda n=at_once, c=count: random_traffic(
            crossbar, 144, n, c
        )
    for at_once, count in ((8, 10_000), (64, 4_000), (512, 800), (4096, 100)):
        cases[f"fat tree of 1024, {at_once} at once"] = lambda n=at_once, c=count: random_traffic(
            fat_tree, tree, n, c
        )
    network = Network(load_topology("nd-h100-v5", nodes=128).graph)
    for others in (0, 64, 512, 4096):
        cases[f"small change, {others} elsewhere"] = lambda n=others: small_change_beside(network, n)
    rates: dict[str, list[float]] = {name: [] for name in cases}
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            bare = timeouts(100_000)
            rates[name].append(case())
            ratios[name].append(rates[name][-1] / bare)
    print("| case | transfers/s | of bare timeouts |\n|---|---|---|")
    for name in cases:
        print(f"| {name} | {statistics.median(rates[name]):,.0f} | {statistics.median(ratios[name]):.4f} |")


if __name__ == "__main__":
    main()
