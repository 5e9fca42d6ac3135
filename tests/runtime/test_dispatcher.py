"""Requests go on in order of arrival, to the replica that the router names among those that can take them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import simpy

from sim.policy.routing import LeastConnections
from sim.runtime.dispatcher import Dispatcher, Routing


def replica(index: int, model: str = "one", **more: Any) -> Any:
    engine = SimpleNamespace(frontend_s=more.pop("frontend_s", 0.0), frontend_token_s=0.0)
    what = {"seems_up": True, "role": "both", "max_model_len": 1000, "requests": 0, "tokens": 0, **more}
    view = {"routed": 0, "has_seat": True, "hops": 0, "cached_prompt_tokens": lambda request: 0}
    return SimpleNamespace(index=index, model=model, engine=engine, **{**view, **what})


def request(number: int, model: str = "one", tokens: int = 10) -> Any:
    return SimpleNamespace(request_id=number, model=model, prompt_tokens=tokens, session=-1)


class Desk:
    """A dispatcher, and what comes out of it: (request, replica, when) and requests that are too long."""

    def __init__(self, *replicas: Any, router: Any = None, **routing: Any) -> None:
        self.env = simpy.Environment()
        self.open: dict[int, Any] = {}
        self.routed: list[tuple[int, int, float]] = []
        self.too_long: list[int] = []
        models: dict[str, list[Any]] = {}
        for one in replicas:
            models.setdefault(one.model, []).append(one)
        self.dispatcher = Dispatcher(
            self.env,
            Routing(models, "one", router or LeastConnections(), np.random.default_rng(0), **routing),
            self.open,
            on_routed=self._take,
            on_too_long=lambda what: self.too_long.append(what.request_id),
        )

    def _take(self, routed: Any) -> None:
        what, replica, _ = routed
        replica.requests += 1
        replica.routed += 1
        self.routed.append((what.request_id, replica.index, self.env.now))

    def send(self, *requests: Any) -> list[tuple[int, int]]:
        """Add requests and route; where those went that were routed by this."""
        before = len(self.routed)
        for one in requests:
            self.open[one.request_id] = one
            self.dispatcher.add(one, one.prompt_tokens)
        self.dispatcher.route()
        return [(number, index) for number, index, _ in self.routed[before:]]


def test_a_request_that_the_router_keeps_holds_up_its_own_model_and_no_other() -> None:
    def first_seat(what: Any, replicas: Any, random: Any) -> int | None:
        return next((i for i, one in enumerate(replicas) if one.has_seat), None)

    busy, free = replica(0, has_seat=False), replica(1, "two")
    desk = Desk(busy, free, router=first_seat)
    assert desk.send(request(0), request(1), request(2, "two")) == [(2, 1)]
    busy.has_seat = True
    assert desk.send() == [(0, 0), (1, 0)]


def test_a_router_may_change_the_list_that_it_gets() -> None:
    def last(what: Any, replicas: Any, random: Any) -> int:
        place = len(replicas) - 1
        replicas.clear()
        return place

    assert Desk(replica(0), replica(1), router=last).send(request(0), request(1)) == [(0, 1), (1, 1)]


def test_requests_of_a_model_that_no_pool_serves_go_to_the_default_one() -> None:
    assert Desk(replica(0), replica(1, "two")).send(request(0, "three")) == [(0, 0)]


def test_the_next_request_in_line_is_routed_by_a_view_that_has_this_one() -> None:
    assert Desk(replica(0), replica(1)).send(*map(request, range(4))) == [(0, 0), (1, 1), (2, 0), (3, 1)]


def test_a_stale_view_is_of_the_last_multiple_of_the_interval_but_for_what_the_router_sent() -> None:
    seen = []

    def look(what: Any, replicas: Any, random: Any) -> int:
        seen.append((replicas[0].requests, replicas[0].routed))
        return 0

    desk = Desk(replica(0), router=look, staleness_s=1.0)
    desk.send(request(0), request(1))
    desk.env.run(until=0.9)
    desk.send(request(2))
    desk.env.run(until=1.1)
    desk.send(request(3))
    desk.env.run(until=2.05)
    desk.send(request(4))
    assert seen == [(0, 0), (0, 1), (0, 2), (3, 3), (4, 4)]


def test_a_text_goes_to_replicas_that_take_it_and_back_where_none_does() -> None:
    desk = Desk(replica(0, max_model_len=100), replica(1, max_model_len=200))
    sent = desk.send(request(0, tokens=99), request(1, tokens=100), request(2, tokens=199))
    assert sent == [(0, 0), (1, 1), (2, 1)]
    assert desk.send(request(3, tokens=200)) == []
    assert desk.too_long == [3]


def test_a_prompt_must_fit_where_it_is_decoded_too() -> None:
    prefill, decode = replica(0, role="prefill"), replica(1, max_model_len=50)
    desk = Desk(prefill, receivers={"one": [decode, replica(2)]})
    desk.send(request(0, tokens=49), request(1, tokens=50))
    assert (desk.routed, desk.too_long) == ([(0, 0, 0.0)], [1])


def test_a_replica_that_is_down_gets_nothing_and_requests_wait_for_it() -> None:
    one, other = replica(0), replica(1)
    desk = Desk(one, other)
    one.seems_up = False
    desk.dispatcher.replica_failed()
    assert desk.send(request(0)) == [(0, 1)]
    other.seems_up = False
    desk.dispatcher.replica_failed()
    assert desk.send(request(1)) == []
    one.seems_up = True
    desk.dispatcher.replica_recovered(one)
    desk.dispatcher.route_soon()
    desk.env.run()
    assert desk.routed[-1][:2] == (1, 0)


def test_a_request_reaches_its_replica_after_the_api_servers_time() -> None:
    desk = Desk(replica(0, frontend_s=0.5))
    desk.send(request(0))
    desk.env.run()
    assert desk.routed == [(0, 0, 0.5)]
    without = Desk(replica(0, frontend_s=0.5), has_frontend=False)
    assert without.send(request(0)) == [(0, 0)]


def test_a_cancelled_request_leaves_the_line_without_being_routed() -> None:
    only = replica(0)
    desk = Desk(only, router=lambda what, replicas, random: 0 if only.has_seat else None)
    only.has_seat = False
    desk.send(request(0), request(1))
    del desk.open[0]
    only.has_seat = True
    assert desk.send() == [(1, 0)]
