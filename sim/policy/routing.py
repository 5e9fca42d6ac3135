"""Which replica serves a request.

A router is a frozen dataclass whose fields are its knobs; called with the request, read-only views of the
replicas that can take it and a random stream of its own, it returns the index of one, or None to keep the
request in a central queue until a replica has a free seat. Any callable with the same signature serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Annotated, Protocol, SupportsIndex

import numpy as np
from annotated_types import Ge, Le

from sim.inputs.errors import InputError, Problem


class RoutedRequest(Protocol):
    """What a router may know of a request."""

    @property
    def request_id(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def session(self) -> int: ...
    @property
    def model(self) -> str: ...


class ReplicaView(Protocol):
    """What a router may know of a replica; as old as the service's report interval when there is one."""

    @property
    def index(self) -> int: ...
    @property
    def routed(self) -> int:
        """Requests ever sent to it."""

    @property
    def requests(self) -> int:
        """Waiting and running requests."""

    @property
    def tokens(self) -> int:
        """Tokens still to be computed for the prompts of waiting and running requests, and tokens in their KV
        blocks.
        """

    @property
    def has_seat(self) -> bool:
        """A request sent now would start with the next step."""

    @property
    def hops(self) -> int:
        """Links between the replica and where the request comes from: the gateway, which is the first host of
        the topology, or, for a KV cache that is handed over, the replica that holds it.
        """

    def cached_prompt_tokens(self, request: RoutedRequest) -> int:
        """Prompt tokens whose KV blocks the replica holds."""


Router = Callable[[RoutedRequest, Sequence[ReplicaView], np.random.Generator], int | None]


def place_chosen(router: Router, request: RoutedRequest, chosen: object, replicas: int) -> int:
    """What a router has answered, as a place among so many replicas. InputError where it is none."""
    if type(chosen) is int and 0 <= chosen < replicas:  # nearly always
        return chosen
    if isinstance(chosen, SupportsIndex) and not isinstance(chosen, bool):  # numpy's integers count too
        place = index(chosen)
        if 0 <= place < replicas:
            return place
    name = getattr(router, "__qualname__", type(router).__qualname__)
    raise InputError(
        Problem(
            f"chose {chosen!r} for request {request.request_id}: must be a place from 0 to {replicas - 1} "
            "among the replicas that it was shown, or None to let the request wait",
            key="router",
            value=name,
        )
    )


def _first_smallest(loads: list[float]) -> int:
    """Position of the smallest; the first one on ties."""
    return loads.index(min(loads))


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Replicas in turn: the one that has been sent the fewest requests so far."""

    def __call__(
        self, request: RoutedRequest, replicas: Sequence[ReplicaView], random: np.random.Generator
    ) -> int | None:
        return _first_smallest([replica.routed for replica in replicas])


@dataclass(frozen=True, slots=True)
class Random:
    """Uniformly at random."""

    def __call__(
        self, request: RoutedRequest, replicas: Sequence[ReplicaView], random: np.random.Generator
    ) -> int | None:
        return int(random.integers(len(replicas)))


@dataclass(frozen=True, slots=True)
class LeastConnections:
    """The fewest waiting and running requests (nginx `least_conn`)."""

    def __call__(
        self, request: RoutedRequest, replicas: Sequence[ReplicaView], random: np.random.Generator
    ) -> int | None:
        return _first_smallest([replica.requests for replica in replicas])


@dataclass(frozen=True, slots=True)
class PowerOfChoices:
    """The shorter of `choices` replicas drawn at random (Mitzenmacher, "The power of two choices", 2001)."""

    choices: Annotated[int, Ge(1), Le(1_000_000)] = 2

    def __call__(
        self, request: RoutedRequest, replicas: Sequence[ReplicaView], random: np.random.Generator
    ) -> int | None:
        drawn = random.choice(len(replicas), size=min(self.choices, len(replicas)), replace=False)
        return int(min(drawn, key=lambda i: (replicas[int(i)].requests, int(i))))


@dataclass(frozen=True, slots=True)
class ShortestTokens:
    """Join the shortest queue, measured in tokens."""

    def __call__(
        self, request: RoutedRequest, replicas: Sequence[ReplicaView], random: np.random.Generator
    ) -> int | None:
        return _first_smallest([replica.tokens for replica in replicas])


@dataclass(frozen=True, slots=True)
class PrefixAware:
    """The most cached prompt tokens less `load_weight` times the replica's tokens."""

    load_weight: Annotated[float, Ge(0), Le(1e6)] = 0.1

    def __call__(
        self, request: RoutedRequest, replicas: Sequence[ReplicaView], random: np.random.Generator
    ) -> int | None:
        return _first_smallest(
            [
                self.load_weight * replica.tokens - replica.cached_prompt_tokens(request)
                for replica in replicas
            ]
        )


@dataclass(frozen=True, slots=True)
class SessionAffine:
    """A session stays where its first turn went, chosen by `session` modulo the replicas; others by least
    connections.
    """

    def __call__(
        self, request: RoutedRequest, replicas: Sequence[ReplicaView], random: np.random.Generator
    ) -> int | None:
        if request.session >= 0:
            return request.session % len(replicas)
        return _first_smallest([replica.requests for replica in replicas])


@dataclass(frozen=True, slots=True)
class CentralQueue:
    """One queue for all: a request waits until some replica has a free seat, and takes the first (M/M/c)."""

    def __call__(
        self, request: RoutedRequest, replicas: Sequence[ReplicaView], random: np.random.Generator
    ) -> int | None:
        return next((i for i, replica in enumerate(replicas) if replica.has_seat), None)


@dataclass(frozen=True, slots=True)
class Nearest:
    """The fewest requests, where every link on the way counts as `requests_per_hop` more.

    So near replicas come first, and farther ones when those are busier by what the way is worth. It matters
    most for `hand_over.router`, where the way is that of a KV cache.
    """

    requests_per_hop: Annotated[float, Ge(0), Le(1e6)] = 1.0

    def __call__(
        self, request: RoutedRequest, replicas: Sequence[ReplicaView], random: np.random.Generator
    ) -> int | None:
        return _first_smallest(
            [replica.requests + self.requests_per_hop * replica.hops for replica in replicas]
        )


ROUTERS: dict[str, type[Router]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_connections": LeastConnections,
    "power_of_choices": PowerOfChoices,
    "shortest_tokens": ShortestTokens,
    "prefix_aware": PrefixAware,
    "session_affine": SessionAffine,
    "central_queue": CentralQueue,
    "nearest": Nearest,
}
