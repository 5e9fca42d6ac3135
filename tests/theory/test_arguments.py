"""No closed form answers what it cannot: every argument of every public function has a bound."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest

from sim.theory import domain_sizing, pipeline, queueing
from sim.theory.arguments import BOUNDS, SEVERAL, bounded

MODULES = (queueing, pipeline, domain_sizing)
FUNCTIONS = [
    function
    for module in MODULES
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__.startswith(module.__name__) and not name.startswith("_")
]
NO_NUMBERS = {
    "gpu", "model", "assume", "algorithm", "between", "service", "each", "order", "speeds", "preemptive",
}  # fmt: skip
INSIDE: dict[str, Any] = {
    "gpu": domain_sizing.BLACKWELL,
    "model": domain_sizing.LLAMA_3_70B,
    "algorithm": "ring",
    **{name: [1.0] for name in SEVERAL},
    "service_rates": [2.0],
    "arrival_rates": [0.5],
    "loads": [0.25],
    "link_loads_bytes_per_s": [0.25],
    "through_load": 0.25,
    "between": queueing.exponential(2.0),
    "service": queueing.exponential(1.0),
    "each": queueing.exponential(1.0),
    "order": "srpt",
    "speeds": [None],
    "batch": 2,
    "delayed": 0.5,
    "each_s": 0.5,
    "kv_token_s": 0.1,
    "kv_tokens": 10.0,
    "arrival_rate": 0.5,
    "rho": 0.5,
    "load": 0.5,
    "again": 0.5,
    "percent": 50.0,
    "unavailability": 0.5,
    "contention": 0.5,
    "hbm_bytes": 10.0,
}


def asked(function: Callable[..., Any], **changed: Any) -> Any:
    """The function at a point inside its bounds, but for `changed`."""
    needed = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]
    return function(**{**{name: INSIDE.get(name, 1) for name in needed}, **changed})


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_value_beyond_its_bound_is_refused_by_name(function: Callable[..., Any]) -> None:
    asked(function)
    for name in inspect.signature(function).parameters:
        if name in NO_NUMBERS:
            continue
        bound = BOUNDS[name]
        several = name in SEVERAL
        for wrong in (nan, inf, -inf, -1.0, True, bound.maximum * 1.01, *([0.5] if bound.is_whole else [])):
            value: Any = [wrong] if several else wrong
            with pytest.raises(ValueError, match=f"{name} = .*: must be"):
                asked(function, **{name: value})
        if several:
            with pytest.raises(ValueError, match=f"{name} is empty"):
                asked(function, **{name: []})


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (lambda: queueing.power_of_choices(0.9, 0), "choices = 0"),
        (lambda: queueing.erlang_c(5.0, 4), "load = 5.0: must be below servers = 4"),
        (lambda: queueing.mg1(0.5, 1.0, -1.0), "cv2 = -1.0"),
        (lambda: queueing.mm1k(0.0, 1.0, 3), "arrival_rate = 0: must be above 0"),
        (lambda: queueing.kingman_bound(0.0, 1.0, 1.0, 1.0), "arrival_rate = 0"),
        (lambda: queueing.erlang_a(2.0, 1.0, 1, 1e12), "patience_s"),
        (lambda: queueing.usl_peak(0.1, 0.0), "coherence = 0"),
        (lambda: queueing.closed_loop_rate(3, 0.0), "response_s = 0"),
        (lambda: queueing.capped_batch_rate(3, 0.0, 0.0), "fixed_s = 0"),
        (lambda: queueing.hyperexponential(1.0, 0.5), "cv2 = 0.5: must be at least 1"),
        (lambda: queueing.mg1_batches(0.5, 1.0, 1.0, 0.5), "batch = 0.5: must be at least 1"),
        (lambda: queueing.mg1_batches(0.5, 1.0, 1.0, 1.5), "batch_cv2 = 0.0: too small"),
        (lambda: queueing.mmck(0.5, 1.0, 4, 3), "places = 3: must be at least servers = 4"),
        (lambda: queueing.poisson_percentile(701.0, 50.0), "must be at most 700"),
        (lambda: queueing.machine_repair(3, 0.0, 1.0), "think_s = 0.0: must be above 0"),
        (lambda: queueing.repairable(3, 2, 1.0, 1.0), "needed = 3"),
        (lambda: queueing.priorities([0.1], [1.0, 1.0], [1.0]), "must be as many"),
        (lambda: queueing.by_size("lifo", 0.5, queueing.exponential(1.0)), "one of srpt, psjf, fb"),  # type: ignore[arg-type]
        (lambda: queueing.by_size("fb", 0.5, queueing.constant(1.0)), "sizes are all the same"),
        (lambda: queueing.time_of_size("fb", 0.5, queueing.uniform(1.0), 9.0), "size_s = 9.0"),
        (lambda: queueing.flow_rate_bounds([0.1], [1.0, 1.0]), "1 loads and 2 capacities"),
        (lambda: queueing.closed_network(3, [0.0]), "demands_s are all 0"),
        (lambda: queueing.closed_bounds(3, [0.0]), "demands_s are all 0"),
        (lambda: queueing.load_dependent_network(3, [0.0], [None]), "demands_s are all 0"),
        (lambda: queueing.load_dependent_network(3, [1.0], []), "1 demands_s and 0 speeds"),
        (lambda: queueing.load_dependent_network(3001, [1.0], [None]), "users = 3001"),
        (lambda: queueing.load_dependent_network(3, [1.0], [lambda n: 0.0]), "must be above 0 for every"),
        (lambda: queueing.fork_join(0.5, 1.0, 33), "ranks = 33: must be at most 32"),
        (lambda: queueing.decode_batch(1.0, 10.0, 1.0, 0.0), "each_s = 0"),
        (lambda: queueing.decode_batch(1.0, 10.0, 1.0, 0.2), "load 2: the queue grows"),
        (lambda: queueing.decode_batch(1.0, 10.0, 1.0, 0.01).chance(-1), "n = -1"),
        (lambda: queueing.decode_batch_with_seats(1.0, 10.0, 0.0, 0.0, 3), "fixed_s = 0"),
        (lambda: queueing.decode_loop(1, 10.0, 0.0, 0.0), "fixed_s = 0"),
        (lambda: queueing.prefill_first_limit(0.5, 3, 1.0), "output_tokens = 0.5: must be at least 1"),
        (lambda: queueing.kv_memory_limit(10.0, 1.0, [1.0], [1.0, 2.0]), "1 prompts and 2 outputs"),
        (lambda: queueing.kv_memory_limit(10.0, 1.0, [1.0], [0.0]), "outputs = 0.0: must be"),
        (lambda: queueing.fluid_point([1.0], [1.0], [1.0, 2.0], 1.0, 0.0, 1.0), "must be as many"),
        (lambda: queueing.fluid_point([1.0], [9.0], [9.0], 1.0, 0.0, 1.0), "KV tokens would be held"),
        (lambda: pipeline.throughput_per_s([0.0], 1), "stage_s are all 0"),
        (lambda: domain_sizing.tokens_that_fit(1.0, 2.0, 1.0), "weight_bytes = 2.0"),
        (lambda: domain_sizing.distinct_experts(4, 8, 1), "chosen = 8"),
        (lambda: domain_sizing.Assumptions(hbm_efficiency=0.0), "hbm_efficiency = 0.0"),
        (lambda: domain_sizing.all_reduce_bytes(1.0, 2, "tree"), "must be one of ring, in-switch"),  # type: ignore[arg-type]
        (lambda: domain_sizing.Gpu(0.0, 1.0, 1.0, 1.0), "Gpu: flop_per_s = 0.0"),
    ],
)
def test_a_question_without_an_answer_is_refused(question: Callable[[], Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        question()


def test_far_ends_are_answered() -> None:
    """Where the plain formula overflows: a full M/M/1/K loses all that is more than it serves."""
    assert queueing.mm1k(2.0, 1.0, 2000).lost == pytest.approx(0.5)
    assert pytest.approx(2.0) == queueing.mm1k(0.5, 1.0, 5000).W
    assert queueing.power_of_choices(0.9, 10**9) == pytest.approx(1.0)
    assert queueing.barrier(10**9) == pytest.approx(21.300481502)
    assert queueing.dynamic_batching(1.0, 0.0, 0.5).rho == 0.0
    assert queueing.erlang_a(3000.0, 1.0, 10, 10.0).lost == pytest.approx(1.0 - 10.0 / 3000.0)
    assert domain_sizing.at_least_up(3, 2, 0.1) == 0.0


def test_an_argument_without_a_bound_passes() -> None:
    assert bounded(lambda colour: colour)("red") == "red"
