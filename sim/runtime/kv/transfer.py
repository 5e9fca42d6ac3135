"""From prefill to decode: a prompt's KV cache goes over the fabric to the replica that will decode it.

Blocks are reserved at the receiver before anything is sent; a prompt whose receiver has no room waits in
line. The cache goes in one piece when the prefill has ended, or layer by layer behind the step that computes
the last chunk: one flow that begins when the first layer is there, or as late as it can to be through with
all but the last layer when they are computed (as if nobody disturbed the step); the last one is sent when the
step ends. The sender keeps its blocks until everything has arrived. All of it is traffic like any other: it
shares links with the collectives of both replicas, and what that costs is charged to sharing on either side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import nan

import numpy as np

from sim.cost.collectives.demands import Demand
from sim.policy.routing import RoutedRequest, Router
from sim.results.records import HandOverRecords
from sim.runtime.engine.attribution import REQUEST_HAND_OVER, REQUEST_SHARING
from sim.runtime.engine.engine_core import EngineListener
from sim.runtime.engine.queue import HeldBlocks, RequestQueue
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.sequence import Sequence as InEngine
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.transfer import Transfer

Demands = Callable[[Replica, Replica, tuple[int, int], float], Demand]
"""(sender, receiver, their data-parallel ranks, tokens; of a part of the layers a part) -> the transfer."""


@dataclass(slots=True)
class _Pending:
    """One sequence on its way from one replica to another."""

    sequence: InEngine
    sender: Replica
    receiver: Replica
    landing: RequestQueue | None = None  # where blocks are reserved, once they are
    blocks: int = 0
    left: HeldBlocks | None = None  # the sender's blocks, once the prefill has ended
    pushing: bool = False  # all layers but the last are on their way
    pushed: bool = False
    prefilled_s: float = nan
    reserved_s: float = nan
    shared_s: float = 0.0  # by how much its transfers took longer than alone
    transfer: Transfer | None = None  # the last one that was begun
    tokens: int = 0  # whose KV goes over

    def __post_init__(self) -> None:
        self.tokens = self.sequence.computed


class _Receiver:
    """A decode replica as a router sees it: what is on its way counts as being there."""

    def __init__(self, replica: Replica, coming: Sequence[_Pending], hops: int) -> None:
        self.index = replica.index
        self.routed = replica.routed
        self.requests = replica.requests + len(coming)
        self.has_seat = replica.has_seat
        self.hops = hops
        self._replica = replica
        self._coming = coming

    @property
    def tokens(self) -> int:
        """Counted over all sequences, so only for a router that asks."""
        return self._replica.tokens + sum(passage.tokens for passage in self._coming)

    def cached_prompt_tokens(self, request: RoutedRequest) -> int:
        return self._replica.cached_prompt_tokens(request)  # type: ignore[arg-type]


class KvTransfers:
    """Passages between prefill and decode replicas of one service."""

    def __init__(
        self,
        fabric: Fabric,
        receivers: dict[str, list[Replica]],
        router: Router,
        random: np.random.Generator,
        demands: Demands,
        records: HandOverRecords,
        *,
        hops: Callable[[Replica, Replica], int],
        layerwise: bool,
    ) -> None:
        self.fabric = fabric
        self.receivers = receivers
        self.router = router
        self.random = random
        self.demands = demands
        self.records = records
        self.hops = hops
        self.layerwise = layerwise
        self._whole = tuple(fabric.capacity)  # of links without faults
        self._pending: dict[int, _Pending] = {}
        self._lines: dict[int, deque[_Pending]] = {}

    def attach(self, senders: Sequence[Replica]) -> None:
        """Take over every prompt that one of these replicas has prefilled."""
        for sender in senders:
            last_chunk = partial(self._last_chunk_begins, sender) if self.layerwise else None
            sender.listen(EngineListener(prefilled=partial(self._prefilled, sender), last_chunk=last_chunk))

    def blocks_are_free(self, receiver: Replica) -> None:
        """A receiver has freed blocks: whoever stands in line for them may come."""
        line = self._lines.get(receiver.index)
        while line and self._reserved(line[0]):
            passage = line.popleft()
            self._send(passage, 1.0, self._arrived)

    def abort(self, sequence: InEngine) -> bool:
        """Give up a sequence's passage, if it has one. True where it was nowhere else any more."""
        passage = self._pending.pop(sequence.request.request_id, None)
        if passage is None:
            return False
        if passage.transfer is not None:
            self.fabric.abort(passage.transfer)
        line = self._lines.get(passage.receiver.index, ())
        if passage in line:
            line.remove(passage)  # type: ignore[union-attr]
        if passage.landing is not None:
            passage.landing.block_pool.free(passage.blocks)
            passage.receiver.look_again()
        self.blocks_are_free(passage.receiver)
        if passage.left is None:
            return False
        passage.left.free()
        passage.sender.look_again()
        sequence.wait(REQUEST_HAND_OVER, self.fabric.env.now)
        return True

    def fail(self, replica: Replica) -> list[InEngine]:
        """A sender or receiver fails, and with it all pending to and from it; the sequences that had left
        their sender, and are lost.
        """
        broken = [one for one in self._pending.values() if replica in (one.sender, one.receiver)]
        return [one.sequence for one in broken if self.abort(one.sequence)]

    # ---- one passage

    def _passage(self, sequence: InEngine, sender: Replica) -> _Pending:
        all_receivers = self.receivers[sender.model]
        candidates = [replica for replica in all_receivers if replica.is_up] or all_receivers
        coming: dict[int, list[_Pending]] = {replica.index: [] for replica in candidates}
        for other in self._pending.values():
            if other.receiver.index in coming:
                coming[other.receiver.index].append(other)
        views = [
            _Receiver(replica, coming[replica.index], self.hops(sender, replica)) for replica in candidates
        ]
        chosen = self.router(sequence.request, views, self.random)
        receiver = candidates[0 if chosen is None else chosen]
        receiver.routed += 1
        passage = self._pending[sequence.request.request_id] = _Pending(sequence, sender, receiver)
        return passage

    def _last_chunk_begins(self, sender: Replica, sequence: InEngine, step_s: float) -> None:
        """Layer by layer: all but the last layer are sent while the step of `step_s` runs, if the receiver
        has room already.
        """
        passage = self._passage(sequence, sender)
        if not self._lines.get(passage.receiver.index) and self._reserved(passage):
            passage.pushing = True
            layers = sender.layers
            if layers > 1:
                self._send(passage, 1.0 - 1.0 / layers, self._pushed, step_s)
            else:
                passage.pushed = True

    def _pushed(self, passage: _Pending) -> None:
        passage.pushed = True
        if passage.left is not None:
            self._send(passage, 1.0 / passage.sender.layers, self._arrived)

    def _prefilled(self, sender: Replica, sequence: InEngine) -> None:
        passage = self._pending.get(sequence.request.request_id) or self._passage(sequence, sender)
        passage.left = sequence.queue.detach(sequence)
        passage.prefilled_s = self.fabric.env.now
        sequence.mark = None
        if passage.pushing:
            if passage.pushed:
                self._send(passage, 1.0 / sender.layers, self._arrived)
            return
        line = self._lines.setdefault(passage.receiver.index, deque())
        line.append(passage)
        self.blocks_are_free(passage.receiver)

    def _reserved(self, passage: _Pending) -> bool:
        reserved = passage.receiver.reserve(passage.tokens + 1)
        if reserved is None:
            return False
        passage.landing, passage.blocks = reserved
        passage.reserved_s = self.fabric.env.now
        return True

    def _send(
        self,
        passage: _Pending,
        part: float,
        then: Callable[[_Pending], None],
        behind_s: float = 0.0,
    ) -> None:
        assert passage.landing is not None
        groups = (
            passage.sender.queues.index(passage.sequence.queue),
            passage.receiver.queues.index(passage.landing),
        )
        demand = self.demands(passage.sender, passage.receiver, groups, part * passage.tokens)
        if behind_s:
            layer_s, computed_s = behind_s / passage.sender.layers, part * behind_s
            after_s = max(layer_s, computed_s - demand.isolated_s(self._whole))
            demand = replace(demand, latency_s=demand.latency_s + after_s)

        def done(transfer: Transfer) -> None:
            passage.shared_s += transfer.lost_s
            then(passage)

        passage.transfer = self.fabric.start(demand, on_done=done)

    def _arrived(self, passage: _Pending) -> None:
        sequence, receiver = passage.sequence, passage.receiver
        assert passage.left is not None
        assert passage.landing is not None
        del self._pending[sequence.request.request_id]
        self.records.append(
            sequence.request.request_id,
            passage.sender.index,
            receiver.index,
            passage.prefilled_s,
            passage.reserved_s,
            self.fabric.env.now,
            passage.tokens * passage.sender.kv_bytes_per_token,
        )
        passage.left.free()
        passage.sender.schedule_soon()
        sequence.end_within(receiver.max_model_len)
        sequence.unhashed_blocks = passage.blocks
        sequence.received = True
        sequence.computed = sequence.request.prompt_tokens + sequence.generated - 1
        now = self.fabric.env.now
        shared_s = min(passage.shared_s, now - sequence.charged_s)
        sequence.wait(REQUEST_HAND_OVER, now - shared_s)
        sequence.wait(REQUEST_SHARING, now)
        receiver.enqueue(sequence, passage.landing)
