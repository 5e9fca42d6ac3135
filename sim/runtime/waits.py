"""What waits for what, of a run that stands still or was cut: the message behind exit status 4."""

from __future__ import annotations

from collections.abc import Iterator

from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.replica import Replica
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.offloading_queue import TieredQueue
from sim.runtime.service import Service

NAMED = 5
"""Requests, links and engines that a line names; of more it says how many there are."""


def waits(service: Service, fabric: Fabric) -> Iterator[str]:
    """A line for each place where something waits: the router's lines, the engines, the transfers of KV
    caches, the copies between tiers, the links. What runs has a line too, so that all open requests appear.
    """
    yield from _at_router(service)
    yield from _on_the_way(service)
    for replica in service.replicas:
        yield from _at_replica(replica, service.why_down.get(replica.index, ""))
    if service.kv_transfers is not None:
        yield from service.kv_transfers.waits()
    for replica in service.replicas:
        for queue in replica.queues:
            yield from _in_tiers(replica, queue)
    down = dict.fromkeys(link for _, links in fabric.stalled() for link in links)
    for link in down:
        yield f"transfers wait for {link}, which is down"


def _at_router(service: Service) -> Iterator[str]:
    for model, numbers in service.in_line():
        replicas = service.takers(model)
        up = [replica for replica in replicas if replica.is_up]
        if not up:
            why = f"{_named('replica', [one.index for one in replicas])} of {model}, all of which have failed"
        elif not any(replica.has_seat for replica in up):
            why = f"a free seat at {_named('replica', [one.index for one in up])} of {model}"
        else:
            why = f"the router to name one of {_named('replica', [one.index for one in up])} of {model}"
        yield f"router: {_named('request', numbers)} {_wait(numbers)} for {why}"


def _on_the_way(service: Service) -> Iterator[str]:
    numbers = service.in_frontend()
    if numbers:
        yield f"API server: {_named('request', numbers)} {_are(numbers)} on the way to a replica"


def _at_replica(replica: Replica, why_down: str) -> Iterator[str]:
    if not replica.is_up:
        yield f"replica {replica.index} has failed{why_down}"
    if not replica.requests:
        return
    loading = replica.requests - replica.running - replica.waiting
    yield (
        f"replica {replica.index}: {replica.running} running, {replica.waiting} waiting, "
        + (f"{loading} whose KV cache is being loaded, " if loading else "")
        + f"{sum(queue.block_pool.free_blocks for queue in replica.queues)} of "
        f"{sum(queue.block_pool.blocks for queue in replica.queues)} KV blocks free"
    )
    for queue in replica.queues:
        if queue.waiting and not queue.running:
            head = queue.waiting[0]
            needs = queue.block_pool.blocks_of(head.known_tokens)
            yield (
                f"replica {replica.index}: request {head.request.request_id} is the first in its queue and "
                f"needs {needs} KV blocks, of which it holds {queue.held_blocks(head)}"
            )


def _in_tiers(replica: Replica, queue: RequestQueue) -> Iterator[str]:
    if not isinstance(queue, TieredQueue):
        return
    if queue.loading:
        numbers = [sequence.request.request_id for sequence in queue.loading]
        named = _named("request", numbers)
        yield f"replica {replica.index}: {named} {_wait(numbers)} for KV from a lower tier"
    if queue.copying:
        yield f"replica {replica.index}: {queue.copying} prefixes stay in HBM until they are copied"


def _named(kind: str, numbers: list[int]) -> str:
    """`request 3`, `requests 3, 4, 5`, or the first of many and how many more."""
    some = ", ".join(map(str, numbers[:NAMED]))
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"{kind}{'s' if len(numbers) > 1 else ''} {some}{more}"


def _wait(numbers: list[int]) -> str:
    return "wait" if len(numbers) > 1 else "waits"


def _are(numbers: list[int]) -> str:
    return "are" if len(numbers) > 1 else "is"
