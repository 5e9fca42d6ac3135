"""An engine's queue without an engine: steps are taken by hand, with `take`."""

from __future__ import annotations

from types import SimpleNamespace

from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.queue import QueueLimits, RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.workload.request import Request


class OneEngine(RequestQueue):
    """A queue whose steps take a second each and are over at once."""

    def __init__(
        self,
        *,
        budget=2048,
        seqs=8,
        blocks=1000,
        block_size=16,
        caching=False,
        by_priority=False,
        watermark=0.0,
        reserve_full_prompt=True,
        guaranteed_no_evict=False,
    ):
        cache = BlockPool(blocks, block_size, enable_prefix_caching=caching, watermark=watermark)
        super().__init__(
            SimpleNamespace(now=0.0),
            cache,
            QueueLimits(
                token_budget=budget,
                max_num_seqs=seqs,
                by_priority=by_priority,
                reserve_full_prompt=reserve_full_prompt,
                guaranteed_no_evict=guaranteed_no_evict,
            ),
            ledger=None,
        )
        self.finished = []

    def add(self, request_id, prompt, output=4, *, arrival_s=0.0, priority=0, hashes=(), hash_tokens=16):
        request = Request(
            request_id,
            arrival_s,
            prompt,
            output,
            tuple(hashes),
            hash_tokens if hashes else 0,
            priority=priority,
        )
        sequence = Sequence(request, output, self.env.now, 0)
        sequence.queue = self
        self.hash_blocks(sequence, request)
        self.enqueue(sequence)
        return sequence

    def take(self, rule):
        """What the rule grants, by request id; then the step passes."""
        grants = rule(self)
        self.block_pool.check()
        for sequence, tokens in grants:
            sequence.computed += tokens
        self.env.now += 1.0
        for sequence, _ in grants:
            if sequence.computed == sequence.known_tokens:
                sequence.generated += 1
                sequence.recomputing = False
                if sequence.generated == sequence.output_tokens:
                    self.finish(sequence)
                    self.finished.append(sequence.request.request_id)
        self.block_pool.check()
        return [(sequence.request.request_id, tokens) for sequence, tokens in grants]
