"""One engine as everybody else sees it: where requests go in, who is told when they leave, what a router may
know. What happens inside is the engine's loop (`engine_loop.py`).
"""

from __future__ import annotations

from sim.cost.shard import Shard
from sim.runtime.engine.engine_core import EngineCore
from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.workload.request import Request


class Replica:
    """An engine and its sequences. `submit` puts a request in; the `loop` tells of its end."""

    def __init__(
        self,
        loop: EngineCore,
        *,
        index: int,
        model: str,
        max_model_len: int,
        gpus: tuple[str, ...],
        layers: int = 1,
        kv_bytes_per_token: float = 0.0,
        shards: list[Shard] | None = None,
        hops: int = 0,
    ) -> None:
        self.loop = loop
        self.env = loop.env
        self.stages = loop.stages
        self.queues = loop.queues
        self.engine = loop.engine
        self.role = loop.role
        self.index = index
        self.model = model
        self.max_model_len = max_model_len
        self.gpus = gpus
        self.layers = layers
        self.kv_bytes_per_token = kv_bytes_per_token
        self.shards = shards or []
        self.hops = hops
        self.routed = 0

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
        self.loop.enqueue(sequence)

    def _emptiest(self) -> RequestQueue:
        """The data-parallel rank with the fewest requests, waiting ones counting four times (vLLM's DP
        balancer).
        """
        if len(self.queues) == 1:
            return self.queues[0]
        return min(self.queues, key=lambda queue: 4 * len(queue.waiting) + len(queue.running))

    def abort(self, sequence: Sequence) -> None:
        """Its client has given up."""
        self.loop.abort(sequence)

    def tokens_by_now(self, sequence: Sequence) -> int:
        """What a sequence has generated, also within a run of steps."""
        return self.loop.tokens_by_now(sequence)

    def reserve(self, tokens: int) -> tuple[RequestQueue, int] | None:
        """Blocks for a KV cache that comes from elsewhere, in the queue with the most free; None if there
        are none.
        """
        if not self.is_up:
            return None
        self.loop.catch_up()
        queue = max(self.queues, key=lambda queue: queue.block_pool.free_blocks)
        blocks = queue.reserve(tokens)
        if blocks is None:
            return None
        self.loop.cut()  # how many steps the blocks last for has to be worked out again
        return queue, blocks

    # ---- the engine itself

    @property
    def is_up(self) -> bool:
        return self.loop.is_up

    @is_up.setter
    def is_up(self, is_up: bool) -> None:
        self.loop.is_up = is_up

    def fail(self) -> list[Sequence]:
        """The engine and all that it holds are lost at this instant; its sequences, charged up to now."""
        self.loop.fail()
        return [sequence for queue in self.queues for sequence in queue.fail()]

    def stop(self) -> None:
        """The clock stops at this instant: what ends now does not end any more."""
        self.loop.stop()

    # ---- what a router sees

    @property
    def requests(self) -> int:
        return sum([queue.requests for queue in self.queues])

    @property
    def running(self) -> int:
        return sum([len(queue.running) for queue in self.queues])

    @property
    def waiting(self) -> int:
        return sum([len(queue.waiting) for queue in self.queues])

    @property
    def tokens(self) -> int:
        return self.loop.tokens_begun + sum(queue.tokens for queue in self.queues)

    @property
    def has_seat(self) -> bool:
        return any(queue.requests < queue.limits.max_num_seqs for queue in self.queues)

    def cached_prompt_tokens(self, request: Request) -> int:
        """Prompt tokens of a request that this replica has in its KV cache."""
        self.loop.catch_up()
        self.loop.leave_rounds()
        probe = Sequence(request, request.output_tokens, self.env.now, self.index)
        self.queues[0].hash_blocks(probe, request)
        return max(queue.cached_tokens(probe) for queue in self.queues)
