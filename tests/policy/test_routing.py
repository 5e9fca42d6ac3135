from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from sim.policy.routing import (
    ROUTERS,
    CentralQueue,
    LeastConnections,
    Nearest,
    PowerOfChoices,
    PrefixAware,
    Random,
    RoundRobin,
    SessionAffine,
    ShortestTokens,
)
from sim.scenario import Scenario, with_changes
from sim.simulate import simulate
from sim.workload.request import Request
from tests.laws.folding_scenarios import small


@dataclass
class View:
    index: int = 0
    routed: int = 0
    requests: int = 0
    tokens: int = 0
    has_seat: bool = True
    hops: int = 0
    cached: dict[int, int] = field(default_factory=dict)

    def cached_prompt_tokens(self, request):
        return self.cached.get(request.request_id, 0)


RANDOM = np.random.default_rng(0)
REQUEST = Request(0, 0.0, 100, 10)


def chosen(router, *views, request=REQUEST):
    return router(request, views, np.random.default_rng(0))


def test_round_robin_takes_turns():
    assert chosen(RoundRobin(), View(routed=3), View(routed=2), View(routed=2)) == 1


def test_least_connections_counts_requests_and_shortest_tokens_their_tokens():
    views = View(requests=5, tokens=10), View(requests=1, tokens=900)
    assert chosen(LeastConnections(), *views) == 1
    assert chosen(ShortestTokens(), *views) == 0


def test_of_replicas_with_the_same_load_the_first_serves():
    views = View(requests=2, tokens=2, routed=2), *[View(requests=1, tokens=1, routed=1)] * 3
    routers = RoundRobin(), LeastConnections(), ShortestTokens(), PrefixAware(), SessionAffine(), Nearest()
    assert [chosen(router, *views) for router in routers] == [1] * len(routers)


def test_random_is_even():
    drawn = [Random()(REQUEST, [View()] * 4, RANDOM) for _ in range(4000)]
    assert np.bincount(drawn) == pytest.approx([1000] * 4, rel=0.15)


def test_power_of_choices_takes_the_shorter_of_those_it_draws():
    views = [View(requests=n) for n in range(4)]
    drawn = np.bincount([PowerOfChoices(2)(REQUEST, views, RANDOM) for _ in range(4000)], minlength=4)
    assert drawn[3] == 0  # the longest is never the shorter of two
    assert drawn[:3] / 4000 == pytest.approx([1 / 2, 1 / 3, 1 / 6], rel=0.15)


def test_prefix_aware_weighs_cached_tokens_against_load():
    holder = View(tokens=500, cached={0: 90})
    assert chosen(PrefixAware(load_weight=0.1), View(), holder) == 1
    assert chosen(PrefixAware(load_weight=0.5), View(), holder) == 0


def test_a_session_stays_where_it_is():
    views = View(requests=9), View(requests=0), View(requests=0)
    assert chosen(SessionAffine(), *views, request=Request(0, 0.0, 1, 1, session=3)) == 0
    assert chosen(SessionAffine(), *views) == 1


def test_a_central_queue_keeps_what_nobody_has_a_seat_for():
    assert chosen(CentralQueue(), View(has_seat=False), View(has_seat=True)) == 1
    assert chosen(CentralQueue(), View(has_seat=False)) is None


def test_the_nearest_replica_serves_until_it_is_busier_than_the_way_is_worth():
    near, far = View(requests=3, hops=1), View(requests=0, hops=3)
    assert chosen(Nearest(requests_per_hop=2.0), near, far) == 0
    assert chosen(Nearest(requests_per_hop=1.0), near, far) == 1


SERVICE: dict[str, Any] = {
    "topology": "l40s-12",
    "model": small("llama-3-8b"),
    "replicas": 4,
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 60.0},
        "prompt_tokens": {"kind": "uniform", "low": 50, "high": 900},
        "output_tokens": {"kind": "uniform", "low": 5, "high": 100},
        "requests": 80,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("router", list(ROUTERS))
def test_every_router_serves_everything_and_the_same_seed_gives_the_same_rows(router):
    scenario = Scenario.model_validate({**SERVICE, "router": router})
    one, other = simulate(scenario, seed=3), simulate(scenario, seed=3)
    assert set(one.requests["status"]) == {"finished"}
    assert one.requests.equals(other.requests)


def test_any_callable_routes():
    def last(request, replicas, random):
        return len(replicas) - 1

    result = simulate(Scenario.model_validate({**SERVICE, "router": last}))
    assert set(result.requests["replica"]) == {3}


def test_replicas_get_as_much_as_their_router_gives_them():
    by_turns = simulate(Scenario.model_validate({**SERVICE, "router": "round_robin"}))
    assert by_turns.requests["replica"].value_counts()["count"].to_list() == [20] * 4


def test_news_that_are_old_send_bursts_to_one_replica():
    fresh = Scenario.model_validate({**SERVICE, "router": "shortest_tokens"})
    stale = with_changes(fresh, {"router_staleness_s": 0.5})
    spread = [simulate(one, seed=1).requests["replica"].to_numpy() for one in (fresh, stale)]
    runs = [int((np.diff(replicas) == 0).sum()) for replicas in spread]
    assert runs[1] > 2 * runs[0]


def test_turns_of_a_session_find_their_prefix_only_where_they_were():
    talk = {
        "arrivals": {"kind": "sessions", "starts": {"kind": "poisson", "rate_per_s": 10.0}, "turns": 5},
        "prompt_tokens": 200,
        "output_tokens": 20,
        "requests": 100,
    }
    rates = {
        router: simulate(Scenario.model_validate({**SERVICE, "workload": talk, "router": router})).summary()[
            "prefix_hit_rate"
        ]
        for router in ("random", "session_affine", "prefix_aware")
    }
    assert rates["session_affine"] > 1.5 * rates["random"]
    assert rates["prefix_aware"] == pytest.approx(rates["session_affine"], rel=0.1)


def test_a_model_table_sends_each_request_to_its_model_and_unknown_ones_to_the_default():
    other = {**small("llama-3-8b"), "name": "other"}
    scenario = Scenario.model_validate(
        {
            "topology": "l40s-12",
            "model": small("llama-3-8b"),
            "pools": {
                "plain": {"replicas": 2},
                "other": {"model": other, "engine": {"tensor_parallel_size": 4}},
            },
            "default_model": "other",
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
                "prompt_tokens": 100,
                "output_tokens": 10,
                "requests": 60,
                "classes": {
                    "a": {"model": "llama-3-8b with 4 layers"},
                    "b": {"model": "other"},
                    "c": {"model": "nobody knows"},
                },
            },
        }
    )
    rows = simulate(scenario).requests
    went = {name: set(part["replica"]) for (name,), part in rows.group_by("request_class")}
    assert went == {"a": {0, 1}, "b": {2}, "c": {2}}


def test_pools_may_differ_in_gpus_and_parallel_sizes():
    scenario = Scenario.model_validate(
        {
            **SERVICE,
            "pools": {
                "singles": {"replicas": 2},
                "pair": {"engine": {"tensor_parallel_size": 2}},
                "pipeline": {"engine": {"pipeline_parallel_size": 2}},
            },
        }
    )
    result = simulate(scenario)
    assert set(result.requests["replica"]) == {0, 1, 2, 3}
    used = result.gpus.filter(result.gpus["replica"] >= 0)
    assert used.group_by("replica").len().sort("replica")["len"].to_list() == [1, 1, 2, 2]


@pytest.mark.slow
def test_two_placements_are_compared_on_the_same_requests():
    rows = {}
    for placement in (
        "packed",
        "strided",
        "rail_aligned",
        {"kind": "explicit", "ranks": [[0, 11], [1, 10], [2, 9]]},
    ):
        scenario = Scenario.model_validate(
            {**SERVICE, "replicas": 3, "engine": {"tensor_parallel_size": 2}, "placement": placement}
        )
        rows[str(placement)] = simulate(scenario, seed=5).requests
    packed = rows["packed"]
    for other in rows.values():
        for column in ("arrival_s", "prompt_tokens", "output_tokens"):
            assert other[column].to_list() == packed[column].to_list()
    explicit = rows[str({"kind": "explicit", "ranks": [[0, 11], [1, 10], [2, 9]]})]
    assert (packed["finished_s"] - packed["arrival_s"]).mean() < (
        explicit["finished_s"] - explicit["arrival_s"]
    ).mean()  # across the sockets all-reduces take longer


def test_a_kv_cache_goes_to_the_decoder_in_its_own_server_if_that_is_asked_for():
    data = {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "placement": {"kind": "explicit", "ranks": [[0], [8], [1]]},
        "pools": {"prefill": {"role": "prefill"}, "decode": {"role": "decode", "replicas": 2}},
        "workload": {
            "arrivals": {"kind": "constant", "rate_per_s": 50.0},
            "prompt_tokens": 2000,
            "output_tokens": 4,
            "requests": 20,
        },
    }
    passed = {}
    for router in ("round_robin", "nearest"):
        result = simulate(Scenario.model_validate({**data, "hand_over": {"router": router}}))
        passed[router] = (set(result.requests["replica"]), result.blame["hand_over"].sum())
    assert passed["nearest"][0] == {2}
    assert passed["round_robin"][0] == {1, 2}
    assert passed["nearest"][1] < passed["round_robin"][1]
