"""A collective played as its graph of sends: each is a transfer that starts when its predecessors have
arrived.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import simpy

from sim.cost.collectives.demands import Demand
from sim.cost.collectives.send_graphs import Send
from sim.cost.network import Network
from sim.runtime.fabric.fabric import Fabric


def play(env: simpy.Environment, fabric: Fabric, sends: Sequence[Send]) -> simpy.Process:
    """A process that ends when the last send has arrived; its value is the arrival time of every send.

    One process per send, which is good for tens or hundreds of sends. Simulations use the demand of the
    collective instead, one transfer; this form checks that one.
    """
    return env.process(_play(env, fabric, sends))


def alone_s(network: Network, sends: Sequence[Send]) -> float:
    """Seconds until the last of the sends has arrived, with all links to themselves."""
    env = simpy.Environment()
    played = play(env, Fabric(env, network), sends)
    env.run(played)
    return env.now if sends else 0.0


def _play(
    env: simpy.Environment, fabric: Fabric, sends: Sequence[Send]
) -> Generator[simpy.Event, None, list[float]]:
    arrived_s = [0.0] * len(sends)
    processes: list[simpy.Process] = []

    def one(number: int, send: Send) -> Generator[simpy.Event, None, None]:
        if send.after:
            yield simpy.AllOf(env, [processes[before] for before in send.after])
        n_bytes = send.load()
        yield fabric.start(Demand(tuple(n_bytes), tuple(n_bytes.values()), send.latency_s))
        arrived_s[number] = env.now

    for number, send in enumerate(sends):
        processes.append(env.process(one(number, send)))
    yield simpy.AllOf(env, processes)
    return arrived_s
