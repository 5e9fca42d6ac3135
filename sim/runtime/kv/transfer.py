"""KV transfers: a prompt's KV cache goes over the fabric from the replica that prefilled it to the one that
decodes it.

The receiver reserves blocks before any byte is sent; a transfer whose receiver has no room waits in line,
first come first served. `kv: whole` sends the cache in one piece after the prefill. `kv: layerwise` sends it
behind the step that computes the prompt's last chunk: one flow carries all layers but the last, and starts
when the first layer is computed, or later, so late that it ends when the last of its layers is computed (on
links without other traffic); a second flow carries the last layer when the step has ended. The sender keeps
its blocks until everything has arrived.

The bytes share links with the collectives of both replicas. A sequence's time on the way is charged to
`hand_over`, as far as its transfers take when alone, and to `sharing` beyond that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import nan

import numpy as np

from sim.cost.collectives.demands import Demand
from sim.inputs.errors import InfeasibleError
from sim.policy.routing import RoutedRequest, Router, place_chosen
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
class _PendingTransfer:
    """One sequence whose KV cache goes, or is about to go, from one replica to another."""

    sequence: InEngine
    sender: Replica
    receiver: Replica
    target_queue: RequestQueue | None = None  # of the receiver, once blocks are reserved in it
    blocks: int = 0
    held_blocks: HeldBlocks | None = None  # the sender's blocks, once the prefill has ended
    is_streaming: bool = False  # layerwise: all layers but the last were sent behind the step
    has_streamed: bool = False  # and have arrived
    prefilled_s: float = nan
    reserved_s: float = nan
    shared_s: float = 0.0  # what its transfers lost to others on their links
    transfer: Transfer | None = None  # the last one that was started
    tokens: int = 0  # whose KV goes over
    part: float = 1.0  # of their layers, in that transfer

    def __post_init__(self) -> None:
        self.tokens = self.sequence.computed


class _ReceiverView:
    """A decode replica as a router sees it: sequences whose transfer is pending count as its own."""

    def __init__(self, replica: Replica, inbound: Sequence[_PendingTransfer], hops: int) -> None:
        self.index = replica.index
        self.routed = replica.routed
        self.requests = replica.requests + len(inbound)
        self.has_seat = replica.has_seat
        self.hops = hops
        self._replica = replica
        self._inbound = inbound

    @property
    def tokens(self) -> int:
        """A sum over all sequences, computed only for a router that reads it."""
        return self._replica.tokens + sum(pending.tokens for pending in self._inbound)

    def cached_prompt_tokens(self, request: RoutedRequest) -> int:
        return self._replica.cached_prompt_tokens(request)  # type: ignore[arg-type]


class KvTransfers:
    """All KV transfers between the prefill and decode replicas of one service."""

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
        self._built_capacity = tuple(fabric.capacity)  # of links without faults
        self._pending: dict[int, _PendingTransfer] = {}  # by request_id
        self._lines: dict[int, deque[_PendingTransfer]] = {}  # prefilled, without blocks; by receiver

    def attach(self, senders: Sequence[Replica]) -> None:
        """Take over every prompt that one of these replicas has prefilled."""
        for sender in senders:
            last_chunk = partial(self._last_chunk_begins, sender) if self.layerwise else None
            sender.listen(EngineListener(prefilled=partial(self._prefilled, sender), last_chunk=last_chunk))
        for receivers in self.receivers.values():
            for receiver in receivers:
                receiver.on_room = partial(self.send_waiting, receiver)

    def send_waiting(self, receiver: Replica) -> None:
        """Send what stands in a receiver's line, as far as its free blocks go."""
        # In order and without overtaking: a long prompt at the head is not starved by short ones behind it.
        line = self._lines.get(receiver.index)
        while line and self._reserve(line[0]):
            pending = line.popleft()
            self._send(pending, 1.0, self._arrived)

    def abort(self, sequence: InEngine) -> bool:
        """Drop a sequence's transfer, if it has one. True where no engine has the sequence any more."""
        pending = self._pending.pop(sequence.request.request_id, None)
        if pending is None:
            return False
        if pending.transfer is not None:
            self.fabric.abort(pending.transfer)
        line = self._lines.get(pending.receiver.index, ())
        if pending in line:
            line.remove(pending)  # type: ignore[union-attr]
        if pending.target_queue is not None:
            pending.receiver.give_back(pending.target_queue, pending.blocks)
        # Also without blocks to free: the one that leaves may have stood at the head, in the others' way.
        self.send_waiting(pending.receiver)
        if pending.held_blocks is None:
            return False  # its prefill goes on: the sender's engine still has it
        pending.held_blocks.free()
        pending.sender.look_again()
        sequence.wait(REQUEST_HAND_OVER, self.fabric.env.now)
        return True

    def fail(self, replica: Replica) -> list[InEngine]:
        """A sender or receiver fails, and with it all transfers from and to it. Returns the sequences that no
        engine has any more; the others are still in the sender, which loses them itself if it is what failed.
        """
        broken = [one for one in self._pending.values() if replica in (one.sender, one.receiver)]
        return [one.sequence for one in broken if self.abort(one.sequence)]

    def recovered(self, receiver: Replica) -> None:
        """A receiver is up again. What was to go to one that is still down, since all were down when it
        chose, chooses among those that are up.
        """
        for pending in list(self._pending.values()):
            was = pending.receiver
            if was.model == receiver.model and not was.is_up:
                was.routed -= 1
                pending.receiver = self._choose(pending.sequence, pending.sender)
                if pending in self._lines.get(was.index, ()):
                    self._lines[was.index].remove(pending)
                    self._lines.setdefault(pending.receiver.index, deque()).append(pending)
        for other in self.receivers.get(receiver.model, ()):
            self.send_waiting(other)

    def waits(self) -> Iterator[str]:
        """What stands in line for blocks of a receiver, and what is on the fabric, a line of text for each
        receiver.
        """
        for replica in {one.receiver.index: one.receiver for one in self._pending.values()}.values():
            here = [one for one in self._pending.values() if one.receiver is replica]
            in_line = [one for one in here if one in self._lines.get(replica.index, ())]
            if in_line:
                first = in_line[0]
                free = max(queue.block_pool.free_blocks for queue in replica.queues)
                owed = any(queue.is_owed_blocks for queue in replica.queues)
                why = (
                    "which has failed"
                    if not replica.is_up
                    else f"{free} are free" + (", and a preempted request comes first" if owed else "")
                )
                size = replica.queues[0].block_pool.block_size
                yield (
                    f"KV transfers to replica {replica.index}: {len(in_line)} wait for blocks there; request "
                    f"{first.sequence.request.request_id} from replica {first.sender.index} is the first and "
                    f"needs {-(-(first.tokens + 1) // size)}, {why}"
                )
            under_way = sum(one.target_queue is not None for one in here)
            if under_way:
                yield f"KV transfers to replica {replica.index}: {under_way} are under way"

    # ---- for the self-checks

    def holders(self, queue: RequestQueue) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The blocks of a queue that transfers hold: at the sender what is sent, at the receiver the room."""
        for one in self._pending.values():
            held = one.held_blocks
            if held is not None and held.block_pool is queue.block_pool:
                yield held.unhashed, held.hashes
            if one.target_queue is queue:
                yield one.blocks, ()

    def could_send(self) -> Iterator[str]:
        """Transfers that wait for blocks although there are enough."""
        for line in self._lines.values():
            if line:
                first = line[0]
                number, where = first.sequence.request.request_id, first.receiver.index
                up = [one for one in self.receivers[first.sender.model] if one.is_up]
                if first.receiver.could_reserve(first.tokens + 1):
                    yield f"the KV cache of request {number} waits, and replica {where} has room for it"
                elif up and not first.receiver.is_up:
                    yield f"the KV cache of request {number} waits for replica {where}, which is down"

    # ---- one transfer

    def _open(self, sequence: InEngine, sender: Replica) -> _PendingTransfer:
        """Choose the receiver of a sequence's KV cache."""
        receiver = self._choose(sequence, sender)
        pending = self._pending[sequence.request.request_id] = _PendingTransfer(sequence, sender, receiver)
        return pending

    def _choose(self, sequence: InEngine, sender: Replica) -> Replica:
        all_receivers = self.receivers[sender.model]
        # With all of them down, the transfer waits in line at one of them: `reserve` refuses until it is up.
        candidates = [replica for replica in all_receivers if replica.is_up] or all_receivers
        inbound: dict[int, list[_PendingTransfer]] = {replica.index: [] for replica in candidates}
        for other in self._pending.values():
            if other.receiver.index in inbound:
                inbound[other.receiver.index].append(other)
        views = [
            _ReceiverView(replica, inbound[replica.index], self.hops(sender, replica))
            for replica in candidates
        ]
        chosen = self.router(sequence.request, views, self.random)
        # No central queue here: a router that answers None gets the first replica, in whose line the
        # transfer then waits.
        place = 0 if chosen is None else place_chosen(self.router, sequence.request, chosen, len(candidates))
        receiver = candidates[place]
        receiver.routed += 1
        return receiver

    def _last_chunk_begins(self, sender: Replica, sequence: InEngine, step_s: float) -> None:
        """Layerwise: send all layers but the last while the step of `step_s` runs, if the receiver has room
        at its beginning; otherwise the cache goes in one piece after the step.
        """
        self.abort(sequence)  # streamed before, and preempted since: it is computed, and sent, once more
        pending = self._open(sequence, sender)
        if not self._lines.get(pending.receiver.index) and self._reserve(pending):
            pending.is_streaming = True
            layers = sender.layers
            if layers > 1:
                self._send(pending, 1.0 - 1.0 / layers, self._streamed, step_s)
            else:
                pending.has_streamed = True

    def _streamed(self, pending: _PendingTransfer) -> None:
        pending.has_streamed = True
        if pending.held_blocks is not None:
            self._send_last_layer(pending)

    def _prefilled(self, sender: Replica, sequence: InEngine) -> None:
        pending = self._pending.get(sequence.request.request_id) or self._open(sequence, sender)
        pending.held_blocks = sequence.queue.detach(sequence)
        pending.prefilled_s = self.fabric.env.now
        sequence.mark = None
        if pending.is_streaming:
            # The last layer waits for those before it: with one flow at a time, `transfer` is all that an
            # abort has to stop.
            if pending.has_streamed:
                self._send_last_layer(pending)
            return
        line = self._lines.setdefault(pending.receiver.index, deque())
        line.append(pending)
        self.send_waiting(pending.receiver)

    def _reserve(self, pending: _PendingTransfer) -> bool:
        """Blocks at the receiver, for the prompt and the token that its first decode step writes."""
        reserved = pending.receiver.reserve(pending.tokens + 1)
        if reserved is None:
            return False
        pending.target_queue, pending.blocks = reserved
        pending.reserved_s = self.fabric.env.now
        return True

    def _send_last_layer(self, pending: _PendingTransfer) -> None:
        self._send(pending, 1.0 / pending.sender.layers, self._arrived)

    def _send(
        self,
        pending: _PendingTransfer,
        part: float,
        on_sent: Callable[[_PendingTransfer], None],
        behind_s: float = 0.0,
    ) -> None:
        """Start the transfer of a part of the layers, at once or behind a step that takes `behind_s`."""
        pending.part = part
        demand = self._demand_of(pending)
        if behind_s:
            # Two bounds on the start: the first layer must be computed, and the last byte must not leave
            # before the last of these layers is. Starting just in time, one flow runs at its full rate and
            # stands for one flow per layer.
            layer_s, computed_s = behind_s / pending.sender.layers, part * behind_s
            after_s = max(layer_s, computed_s - demand.isolated_s(self._built_capacity))
            demand = replace(demand, latency_s=demand.latency_s + after_s)

        def done(transfer: Transfer) -> None:
            pending.shared_s += transfer.excess_flow_s
            on_sent(pending)

        pending.transfer = self.fabric.start(demand, on_done=done)

    def _demand_of(self, pending: _PendingTransfer) -> Demand:
        """What the part of its layers that is sent puts on the links."""
        assert pending.target_queue is not None
        groups = (
            pending.sender.queues.index(pending.sequence.queue),
            pending.receiver.queues.index(pending.target_queue),
        )
        return self.demands(pending.sender, pending.receiver, groups, pending.part * pending.tokens)

    def reprice(self, demands: Demands, dead: Collection[int]) -> list[InEngine]:
        """KV caches go other ways from this instant on. What is on its way over a `dead` link turns off, or
        ends where there is no other way: the sequences that no engine has any more.
        """
        self.demands = demands
        lost = []
        for pending in list(self._pending.values()):
            if pending.transfer is not None and pending.transfer.crosses(dead):
                try:
                    self.fabric.divert(pending.transfer, self._demand_of(pending))
                except InfeasibleError:
                    if self.abort(pending.sequence):
                        lost.append(pending.sequence)
        return lost

    def _arrived(self, pending: _PendingTransfer) -> None:
        """All layers have arrived: the sender's blocks are free, the receiver queues the sequence."""
        sequence, receiver = pending.sequence, pending.receiver
        assert pending.held_blocks is not None
        assert pending.target_queue is not None
        del self._pending[sequence.request.request_id]
        self.records.append(
            sequence.request.request_id,
            pending.sender.index,
            receiver.index,
            pending.prefilled_s,
            pending.reserved_s,
            self.fabric.env.now,
            pending.tokens * pending.sender.kv_bytes_per_token,
        )
        pending.held_blocks.free()
        pending.sender.schedule_soon()
        sequence.end_within(receiver.max_model_len)
        sequence.unhashed_blocks = pending.blocks
        sequence.received = True
        # One known token is left to compute, for the next step to sample after it: the one that the prefill
        # sampled, or the prompt's last one where the first token comes from decode.
        sequence.computed = sequence.request.prompt_tokens + sequence.generated - 1
        now = self.fabric.env.now
        # Time before `charged_s` was the step's and is charged already: what the layers behind it lost to
        # sharing counts only as far as the sequence waited for it, so that causes add up to the latency.
        shared_s = min(pending.shared_s, now - sequence.charged_s)
        sequence.wait(REQUEST_HAND_OVER, now - shared_s)
        sequence.wait(REQUEST_SHARING, now)
        receiver.enqueue(sequence, pending.target_queue)
