"""KV transfers between replicas that are nothing but their books: what waits, and what a failure ends."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simpy

from sim.cost.collectives.demands import Demand
from sim.results.records import HandOverRecords
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.queue import HeldBlocks
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.transfer import KvTransfers

BLOCK = 4


class Queue:
    """A queue with a pool; one that owes blocks to a preempted sequence gives none to others."""

    def __init__(self, blocks: int) -> None:
        self.block_pool = BlockPool(blocks, BLOCK, enable_prefix_caching=True)
        self.is_owed_blocks = False

    def detach(self, sequence: Any) -> HeldBlocks:
        return HeldBlocks(self.block_pool, sequence.blocks, ())


class Replica:
    """What KV transfers know of a replica."""

    model = "m"
    max_model_len = 1000
    kv_bytes_per_token = 1.0
    has_seat = True
    requests = tokens = 0

    def __init__(self, index: int, blocks: int = 100, layers: int = 4) -> None:
        self.index, self.layers = index, layers
        self.queues = [Queue(blocks)]
        self.is_up = True
        self.routed = 0
        self.came: list[int] = []
        self.asked: list[int] = []

    def listen(self, listener: Any) -> None:
        self.listener = listener

    def could_reserve(self, tokens: int) -> bool:
        return self.is_up and -(-tokens // BLOCK) <= self.queues[0].block_pool.free_blocks

    def reserve(self, tokens: int) -> tuple[Queue, int] | None:
        self.asked.append(tokens)
        if not self.could_reserve(tokens):
            return None
        self.queues[0].block_pool.allocate(-(-tokens // BLOCK))
        return self.queues[0], -(-tokens // BLOCK)

    def give_back(self, queue: Queue, blocks: int) -> None:
        queue.block_pool.free(blocks)

    def look_again(self) -> None:
        pass

    schedule_soon = look_again

    def cached_prompt_tokens(self, request: Any) -> int:
        return 0

    def enqueue(self, sequence: Any, queue: Queue) -> None:
        assert queue is self.queues[0]
        self.came.append(sequence.request.request_id)


class Prompt:
    """A sequence of ten prefilled tokens in a sender, whose queue holds three blocks for it."""

    generated, charged_s, blocks, mark = 1, 0.0, 3, "of a step"

    def __init__(self, number: int, sender: Replica, tokens: int = 10) -> None:
        self.request = SimpleNamespace(request_id=number, prompt_tokens=tokens)
        self.computed = tokens
        self.queue = sender.queues[0]
        self.queue.block_pool.allocate(self.blocks)
        self.charged: list[str] = []

    def wait(self, cause: int, now: float) -> None:
        self.charged.append(str(cause))

    def end_within(self, tokens: int) -> None:
        pass


class World:
    """Senders 0 and 1, receivers 2 and 3; a token is a byte on a link of one byte a second."""

    def __init__(
        self, *, layerwise: bool = False, blocks: int = 100, layers: int = 4, router: Any = None
    ) -> None:
        self.env = simpy.Environment()
        self.senders = [Replica(0, layers=layers), Replica(1, layers=layers)]
        self.receivers = [Replica(2, blocks), Replica(3, blocks)]
        self.chosen: deque[int] = deque()
        self.transfers = KvTransfers(
            Fabric(self.env, {"link": 1.0}),
            {"m": self.receivers},  # type: ignore[dict-item]
            router or (lambda *_: self.chosen.popleft()),
            np.random.default_rng(0),
            lambda sender, receiver, groups, tokens: Demand((0,), (tokens,)),
            HandOverRecords(),
            hops=lambda sender, receiver: 10 * sender.index + receiver.index,
            layerwise=layerwise,
        )
        self.transfers.attach(self.senders)  # type: ignore[arg-type]

    def prefilled(self, number: int, sender: int, receiver: int, tokens: int = 10) -> Prompt:
        self.chosen.append(receiver)
        prompt = Prompt(number, self.senders[sender], tokens)
        self.senders[sender].listener.prefilled(prompt)
        return prompt

    def waits(self) -> list[str]:
        return list(self.transfers.waits())


def test_a_router_sees_how_far_each_receiver_is_from_the_sender() -> None:
    seen: list[Any] = []

    def look(request: Any, replicas: Any, random: Any) -> int:
        seen.append([(one.hops, one.requests) for one in replicas])
        return 1

    world = World(router=look)
    world.prefilled(0, 0, 1)
    world.prefilled(1, 1, 1)
    assert seen == [[(2, 0), (3, 0)], [(12, 0), (13, 1)]]


def test_a_receiver_is_asked_for_the_prompt_and_the_token_after_it() -> None:
    world = World()
    prompt = world.prefilled(0, 0, 0, tokens=15)
    world.env.run()
    receiver, sender = world.receivers[0], world.senders[0]
    assert (receiver.asked, receiver.came) == ([16], [0])
    assert (receiver.queues[0].block_pool.used, sender.queues[0].block_pool.used) == (4, 0)
    assert prompt.mark is None  # the time on the way is not the step's
    assert prompt.computed == 15


def test_a_failure_ends_the_transfers_from_and_to_it_alone() -> None:
    world = World()
    prompts = [world.prefilled(number, *way) for number, way in enumerate([(0, 0), (1, 1), (1, 0)])]
    lost = world.transfers.fail(world.receivers[0])  # type: ignore[arg-type]
    assert lost == [prompts[0], prompts[2]]
    world.env.run()
    assert (world.receivers[0].came, world.receivers[1].came) == ([], [1])
    assert all(one.queues[0].block_pool.used == 0 for one in (*world.senders, world.receivers[0]))
    world.prefilled(3, 0, 1)
    assert [one.request.request_id for one in world.transfers.fail(world.senders[0])] == [3]  # type: ignore[arg-type]


def test_a_prompt_that_is_still_computed_stays_with_its_engine_when_its_transfer_ends() -> None:
    world = World(layerwise=True)
    world.chosen.append(0)
    prompt = Prompt(0, world.senders[0])
    world.senders[0].listener.last_chunk(prompt, 8.0)
    assert world.receivers[0].queues[0].block_pool.used == 3
    assert world.transfers.fail(world.receivers[0]) == []  # type: ignore[arg-type]
    assert world.receivers[0].queues[0].block_pool.used == 0
    assert prompt.charged == []
    assert not world.transfers.abort(prompt)  # type: ignore[arg-type]


@pytest.mark.parametrize(("layers", "arrived_s"), [(4, 2.0 + 7.5 + 2.5), (1, 8.0 + 10.0)])
def test_all_layers_but_the_last_go_behind_the_step_and_of_one_layer_none(
    layers: int, arrived_s: float
) -> None:
    """A step of 8 s computes a layer in 2 s, and 2.5 s send it: the first three go from 2 s on."""
    world = World(layerwise=True, layers=layers)
    world.chosen.append(0)
    prompt = Prompt(0, world.senders[0])
    world.senders[0].listener.last_chunk(prompt, 8.0)
    world.env.run(until=8.0)
    world.senders[0].listener.prefilled(prompt)
    world.env.run()
    assert world.receivers[0].came == [0]
    assert world.env.now == pytest.approx(arrived_s)


def test_one_that_leaves_the_line_lets_those_behind_it_go() -> None:
    world = World(blocks=6)
    first = world.prefilled(0, 0, 0)
    second = world.prefilled(1, 0, 0, tokens=20)
    third = world.prefilled(2, 1, 0)
    in_line = "KV transfers to replica 2: 2 wait for blocks there; request 1 from replica 0 is the first"
    assert world.waits() == [
        f"{in_line} and needs 6, 3 are free",
        "KV transfers to replica 2: 1 are under way",
    ]
    world.receivers[0].queues.append(Queue(1))
    world.receivers[0].queues[1].is_owed_blocks = True
    assert "needs 6, 3 are free, and a preempted request comes first" in world.waits()[0]
    world.receivers[0].is_up = False
    assert "needs 6, which has failed" in world.waits()[0]
    world.receivers[0].is_up = True
    del world.receivers[0].queues[1]
    assert world.transfers.abort(second)  # type: ignore[arg-type]
    assert world.waits() == ["KV transfers to replica 2: 2 are under way"]
    world.env.run()
    assert sorted(world.receivers[0].came) == [0, 2]
    assert first.mark is third.mark is None


def test_what_stood_in_line_for_a_replica_that_is_down_goes_to_the_first_that_is_up_again() -> None:
    world = World(blocks=3)  # for one of the two
    for receiver in world.receivers:
        receiver.is_up = False
    world.prefilled(0, 0, 0)
    world.prefilled(1, 1, 1)
    assert [one.routed for one in world.receivers] == [1, 1]
    world.receivers[1].is_up = True
    world.chosen.extend((0, 0))
    world.transfers.recovered(world.receivers[1])  # type: ignore[arg-type]
    assert [one.routed for one in world.receivers] == [0, 2]
    assert [len(line) for line in world.transfers._lines.values()] == [0, 1]
    world.env.run()
    assert world.receivers[1].came == [1]  # the one that stood there before
