"""One engine as the rest of a run sees it: where requests go in, where their ends are reported, what a router
may know. What happens inside is `EngineCore` (`engine_core.py`), and nothing else reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from sim.cost.collectives.demands import Demand
from sim.cost.step_cost import StepCost
from sim.deployment import ReplicaPlan
from sim.runtime.engine.engine_core import EngineCore, EngineListener
from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.workload.request import Request


class Replica:
    """An engine and its sequences. `submit` puts a request in; listeners get a report of its end."""

    def __init__(self, core: EngineCore, plan: ReplicaPlan) -> None:
        self._core = core
        self.env = core.env
        self.stages = core.stages
        self.queues = core.queues  # the core's own list
        self._all_queues = tuple(core.queues)
        self.engine = core.engine
        self.role = core.role
        model, precision = plan.pool.model, plan.pool.precision
        self.index = plan.index
        self.model = model.name
        self.max_model_len = plan.limits.max_model_len
        self.gpus = plan.gpus
        self.layers = model.layers
        self.kv_bytes_per_token = model.kv_bytes_per_token(precision.kv_cache)
        self.shards = list(plan.shards)
        self.hops = plan.hops
        self.routed = 0
        self.stands_still = False
        self.seems_up = True  # False from when a failure is noticed
        self.unanswered = 0  # requests that it had when it failed, or got since, while that is not noticed
        self.on_room: Callable[[], None] | None = None  # blocks may be had that come from elsewhere wait for
        core.on_room = self._has_room

    def _settled(self, *, ends_now: bool = True) -> EngineCore:
        """The engine, with the rounds that a pipeline has folded settled up to this instant.

        The only way in for whatever reads or changes sequences, queues or blocks: while rounds are folded,
        all of these are as they were when the first of them began. `ends_now` False: what would end at this
        very instant does not.
        """
        self._core.settle(ends_now=ends_now)
        return self._core

    def listen(self, listener: EngineListener) -> None:
        """Report to one more listener."""
        self._core.listen(listener)

    # ---- requests

    def submit(self, request: Request) -> Sequence:
        """Queue a request that has just arrived; its lengths have been checked."""
        sequence = Sequence(request, request.output_tokens, self.env.now, self.index)
        self.take_up(sequence)
        return sequence

    def take_up(self, sequence: Sequence) -> None:
        """Queue a sequence that has no KV cache anywhere."""
        sequence.end_within(self.max_model_len)
        queue = self._emptiest()
        queue.hash_blocks(sequence, sequence.request)
        self.routed += 1
        self.enqueue(sequence, queue)

    def enqueue(self, sequence: Sequence, queue: RequestQueue) -> None:
        """Put a sequence behind those that wait in one of this engine's queues."""
        sequence.queue = queue
        sequence.replica = self.index
        self._settled().enqueue(sequence)

    def _emptiest(self) -> RequestQueue:
        """The data-parallel rank with the fewest requests, waiting ones counting four times (vLLM's DP
        balancer).
        """
        if len(self.queues) == 1:
            return self.queues[0]
        return min(self.queues, key=lambda queue: 4 * len(queue.waiting) + len(queue.running))

    def abort(self, sequence: Sequence) -> None:
        """Its client has cancelled it."""
        self._settled().abort(sequence)

    def tokens_by_now(self, sequence: Sequence) -> int:
        """Tokens that a sequence has generated, also within a run of folded steps."""
        return self._settled().tokens_by_now(sequence)

    def reserve(self, tokens: int) -> tuple[RequestQueue, int] | None:
        """Blocks for a KV cache that comes from elsewhere, in the queue with the most free; None if there
        are none.
        """
        if not self.is_up:
            return None
        core = self._settled()
        core.catch_up()  # folded steps that are over have taken their blocks
        for queue in sorted(self.queues, key=lambda queue: -queue.block_pool.free_blocks):
            blocks = queue.reserve(tokens)
            if blocks is not None:
                core.cut()  # how many steps the free blocks last for has to be worked out again
                return queue, blocks
        return None

    def could_reserve(self, tokens: int) -> bool:
        """True where `reserve` would find blocks. While rounds are folded, as of when they began."""
        return self.is_up and any(queue.could_reserve(tokens) for queue in self.queues)

    @property
    def is_idle(self) -> bool:
        """True where no step is under way."""
        return self._core.is_idle

    def give_back(self, queue: RequestQueue, blocks: int) -> None:
        """Blocks that were reserved are not needed: a sequence may be admitted that had no room."""
        core = self._settled()
        core.catch_up()  # what is in use at this instant is written down
        queue.block_pool.free(blocks)
        core.look_again()

    # ---- the engine itself

    @property
    def is_up(self) -> bool:
        return self._core.is_up

    @is_up.setter
    def is_up(self, is_up: bool) -> None:
        self._core.is_up = is_up

    def look_again(self) -> None:
        """Blocks have been freed outside of a step: a sequence may be admitted that had no room."""
        self._settled().look_again()

    def copies_freed_blocks(self) -> None:
        """A copy to a lower tier has ended, and HBM may evict what it read."""
        if self.waiting:
            self.look_again()
        self._has_room()

    def _has_room(self) -> None:
        if self.on_room is not None:
            self.on_room()

    def schedule_soon(self) -> None:
        """Blocks have been freed outside of a step: an engine that can begin a step looks at its queues."""
        self._settled().schedule_soon()

    def fail(self) -> list[Sequence]:
        """The engine and all that it holds are lost at this instant; its sequences, charged up to now."""
        self._settled(ends_now=False).fail()
        return [sequence for queue in self.queues for sequence in queue.fail()]

    def reprice(
        self, costs: list[StepCost], stage_send: Callable[[int, int], Demand], dead: Collection[int]
    ) -> None:
        """Traffic goes other ways from this instant on, at these prices; what crosses a `dead` link turns
        off.
        """
        core = self._settled()
        core.catch_up()
        core.reprice(costs, stage_send, dead)

    def stand_still(self) -> None:
        """No step begins any more when the one in progress has ended, until `go_on`."""
        self.stands_still = True
        self._settled().stand_still()

    def lose_ranks(self, ranks: Collection[int]) -> list[Sequence]:
        """Data-parallel ranks leave, between two steps, with what they hold: their sequences."""
        core = self._settled()
        return core.lose([queue for queue in self.queues if self._all_queues.index(queue) in ranks])

    def regain_ranks(self, ranks: Collection[int]) -> None:
        """Data-parallel ranks are back, empty."""
        here = [*self.queues, *(self._all_queues[rank] for rank in ranks)]
        self.queues[:] = [queue for queue in self._all_queues if queue in here]

    def go_on(self) -> None:
        """Steps begin again."""
        self.stands_still = False
        self._settled().go_on()

    def halt(self) -> None:
        """The last request has left: no step goes on."""
        self._settled(ends_now=False).halt()

    def stop(self) -> None:
        """The clock stops at this instant: what ends now does not end any more."""
        self._settled(ends_now=False).stop()

    # ---- what a router sees. Requests neither come nor go while rounds are folded, and the core counts the
    # tokens of folded steps and rounds: nothing of this has to settle, however often a router asks.

    @property
    def requests(self) -> int:
        if len(self.queues) == 1:  # asked of every replica at every arrival
            return self.queues[0].requests + self.unanswered
        return sum([queue.requests for queue in self.queues]) + self.unanswered

    @property
    def running(self) -> int:
        return sum([len(queue.running) for queue in self.queues])

    @property
    def waiting(self) -> int:
        return sum([len(queue.waiting) for queue in self.queues])

    @property
    def tokens(self) -> int:
        return self._core.tokens_begun + sum(queue.tokens for queue in self.queues)

    @property
    def has_seat(self) -> bool:
        return any(queue.requests < queue.limits.max_num_seqs for queue in self.queues)

    def cached_prompt_tokens(self, request: Request) -> int:
        """Prompt tokens of a request that this replica has in its KV cache."""
        self._settled().catch_up()
        probe = Sequence(request, request.output_tokens, self.env.now, self.index)
        self.queues[0].hash_blocks(probe, request)
        return max(queue.cached_tokens(probe) for queue in self.queues)
