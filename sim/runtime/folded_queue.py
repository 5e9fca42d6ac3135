"""The whole run of a textbook queue as one fold: customers in order of arrival, each served alone.

Where replicas with given service times take one request at a time, in order of arrival and without anything
that comes in between, a run is Lindley's recursion: a service begins when its customer has come and a server
is free. `begins` works that out, and the rows of the run are columns of it, with the very floats that a run
on the clock gives; `tests/runtime/test_folded_queue.py` holds one against the other. Whatever makes the queue
unusual (a fault, an impatient client, an answer of two tokens, two events at one instant that would have an
order) is left to the clock: `fold_queue` then says so and has changed nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.inputs.engine import Engine
from sim.policy.routing import ROUTERS, CentralQueue
from sim.results.blame import CAUSES, BlameRecords
from sim.results.records import Records
from sim.runtime.engine.replica import Replica
from sim.scenario.scenario import Scenario
from sim.workload.generator import OpenGenerator, RequestGenerator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_SERVERS = 16
"""So many servers are looked through for a free one; with more, the clock's heap is as quick (assumed)."""
MOST_CUSTOMERS = 1_000_000
"""They are all in memory at once, and no signal is looked at before they are served."""


@dataclass(frozen=True, slots=True)
class Customers:
    """All requests of a run in order of arrival; classes are indices."""

    arrival_s: Floats
    classes: Ints
    prompt_tokens: Ints


def fold_queue(
    scenario: Scenario,
    replicas: list[Replica],
    generator: RequestGenerator,
    records: Records,
    blame: BlameRecords,
) -> float | None:
    """Write the rows of the whole run, and give the instant at which its last customer leaves. None, and
    nothing is written, where the queue is not one of a textbook.
    """
    if not isinstance(generator, OpenGenerator) or not _is_plain(scenario, replicas):
        return None
    customers = _customers(generator, replicas[0])
    if customers is None:
        return None
    given = replicas[0].engine.service_time
    assert given is not None, "`_is_plain` has looked"
    # As `GivenCost` adds them up: the order is part of the last bit.
    tokens = customers.prompt_tokens.astype(np.float64)
    service_s: Floats = (given.step_s + given.sequence_s) + given.token_s * tokens
    if float(service_s.min()) <= 0.0:
        return None  # a service without length ends at the instant at which it begins
    served = begins(customers.arrival_s, service_s, len(replicas))
    if served is None:
        return None
    start_s, server = served
    _write(scenario, generator, customers, service_s, start_s, server, records, blame, replicas)
    return float((start_s + service_s).max())


def begins(arrival_s: Floats, service_s: Floats, servers: int) -> tuple[Floats, Ints] | None:
    """When each service begins, and at which server: the first of those that are free. None where two events
    of one instant would have an order: services that end together, or as a customer comes.
    """
    start_s: list[float] = []
    server: list[int] = []
    if servers == 1:
        free_s = -1.0
        for came_s, lasts_s in zip(arrival_s.tolist(), service_s.tolist(), strict=True):
            begun_s = came_s if came_s > free_s else free_s
            start_s.append(begun_s)
            free_s = begun_s + lasts_s
        of_server = np.zeros(len(start_s), dtype=np.int64)
    else:
        frees_s = [-1.0] * servers
        for came_s, lasts_s in zip(arrival_s.tolist(), service_s.tolist(), strict=True):
            begun_s = max(came_s, min(frees_s))
            here = next(i for i, one in enumerate(frees_s) if one <= begun_s)
            start_s.append(begun_s)
            server.append(here)
            frees_s[here] = begun_s + lasts_s
        of_server = np.array(server, dtype=np.int64)
    begun = np.array(start_s)
    ends_s = np.sort(begun + service_s)
    if np.any(ends_s[1:] == ends_s[:-1]):
        return None
    place = np.minimum(np.searchsorted(ends_s, arrival_s), len(ends_s) - 1)
    if np.any(ends_s[place] == arrival_s):
        return None
    return begun, of_server


def _is_plain(scenario: Scenario, replicas: list[Replica]) -> bool:
    """Whether nothing but arrivals and ends of services happens in a run of this scenario."""
    engine, router = replicas[0].engine, scenario.router
    one_line = type(router) is CentralQueue or (len(replicas) == 1 and type(router) in ROUTERS.values())
    return (
        len(replicas) <= MOST_SERVERS
        and one_line
        and not scenario.router_staleness_s
        and not scenario.faults
        and scenario.outages is None
        and not scenario.pools
        and scenario.hedge is None
        and scenario.time_limit_s is None
        and _serves_one_by_one(engine)
        and len(replicas[0].queues) == 1
    )


def _serves_one_by_one(engine: Engine) -> bool:
    return (
        engine.service_time is not None
        and engine.scheduler == "one_at_a_time"
        and engine.scheduling_policy == "fcfs"
        and engine.jitter is None
        and not engine.stragglers
        and engine.speculation is None
        and not engine.batch_wait_timeout_iters
        and not engine.frontend_s
        and not engine.frontend_token_s
    )


def _customers(generator: OpenGenerator, replica: Replica) -> Customers | None:
    """The requests of a run; None where one of them is more than one service."""
    sampler = generator.sampler
    if sampler.prefixes or sampler.clients_give_up:
        return None
    if generator.max_requests > MOST_CUSTOMERS and generator.workload.duration_s is None:
        return None
    if any(model not in ("", replica.model) for model in sampler.models):
        return None
    blocks = []
    customers = 0
    for _, times_s, classes, prompts, outputs in generator.fresh().blocks():
        customers += len(times_s)
        whole = prompts.max(initial=0) < replica.max_model_len and (outputs == 1).all()
        if not whole or prompts.min(initial=1) < 1 or customers > MOST_CUSTOMERS:
            return None
        blocks.append((times_s, classes, prompts))
    if not customers:
        return None
    times_s, classes, prompts = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
    return Customers(times_s, classes, prompts)


def _write(
    scenario: Scenario,
    generator: OpenGenerator,
    customers: Customers,
    service_s: Floats,
    start_s: Floats,
    server: Ints,
    records: Records,
    blame: BlameRecords,
    replicas: list[Replica],
) -> None:
    """The rows of the run, in the order in which services end."""
    end_s = start_s + service_s
    left = np.argsort(end_s, kind="stable")
    arrival_s, prompts = customers.arrival_s, customers.prompt_tokens
    at_router = type(scenario.router) is CentralQueue
    routed_s = start_s if at_router else arrival_s
    number, zeros = np.arange(len(left)), np.zeros(len(left), dtype=np.int64)
    names, models = generator.sampler.names, generator.sampler.models
    classes = customers.classes[left]
    records.requests.extend(
        {
            "request_id": number[left],
            "request_class": [names[index] for index in classes] if len(names) > 1 else names[0],
            "session": zeros - 1,
            "turn": zeros,
            "model": [models[index] for index in classes] if len(set(models)) > 1 else models[0],
            "replica": server[left],
            "arrival_s": arrival_s[left],
            "routed_s": routed_s[left],
            "admitted_s": start_s[left],
            "first_token_s": end_s[left],
            "finished_s": end_s[left],
            "prompt_tokens": prompts[left],
            "output_tokens": zeros + 1,
            "generated_tokens": zeros + 1,
            "cached_tokens": zeros,
            "preemptions": zeros,
            "status": "finished",
            "aborted_s": np.full(len(left), np.nan),
            "resubmissions": zeros,
        }
    )
    is_decode = prompts == 1  # to kernels, a prompt of one token is one
    seconds = end_s - start_s
    records.steps.extend(
        {
            "replica": server[left],
            "stage": zeros,
            "start_s": start_s[left],
            "end_s": end_s[left],
            "steps": zeros + 1,
            "sequences": zeros + 1,
            "prefill_tokens": np.where(is_decode, 0, prompts)[left],
            "decode_tokens": is_decode[left].astype(np.int64),
            "gaps": zeros,
            "kv_tokens": is_decode[left].astype(np.int64),
            "first_step_s": seconds[left],
            "last_step_s": seconds[left],
            "idle_s": zeros.astype(np.float64),
        }
    )
    causes = dict.fromkeys(CAUSES, zeros.astype(np.float64))
    causes["routing" if at_router else "admission"] = (start_s - arrival_s)[left]
    causes["prefill_compute"] = _charged(service_s, server, is_decode)[left]
    for rows in (blame, blame.ttft):
        rows.extend({"request_id": number[left], **causes})
    for replica in replicas:
        mine = np.flatnonzero(server == replica.index)
        blocks = -(-prompts[mine] // replica.engine.block_size)
        records.kv_blocks.one_by_one(replica.index, 0, start_s[mine], end_s[mine], blocks)


def _charged(service_s: Floats, server: Ints, is_decode: NDArray[np.bool_]) -> Floats:
    """Seconds of each service as they are charged: a decode's are a difference of two readings of its
    engine's ledger (`StepLedger`), which counts decodes.
    """
    charged = service_s.copy()
    for one in np.unique(server[is_decode]):
        mine = np.flatnonzero(is_decode & (server == one))
        read_s = np.concatenate(((0.0,), np.cumsum(service_s[mine])))
        charged[mine] = read_s[1:] - read_s[:-1]
    return charged
