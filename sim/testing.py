"""For scripts that bring rules of their own: try a scheduler or a router before a long run trusts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sim.inputs.errors import InputError, Problem, UnfinishedError
from sim.scenario.scenario import Scenario
from sim.simulate import Result, simulate

_BURST = {
    "arrivals": {"kind": "burst"},
    "prompt_tokens": {"kind": "uniform", "low": 1, "high": 600},
    "output_tokens": {"kind": "uniform", "low": 1, "high": 40},
    "requests": 24,
}
_SESSIONS = {
    "arrivals": {
        "kind": "sessions",
        "starts": {"kind": "poisson", "rate_per_s": 5},
        "turns": {"kind": "uniform", "low": 1, "high": 4},
        "tool_delay_s": 0.05,
    },
    "prompt_tokens": 100,
    "output_tokens": 20,
    "requests": 24,
}
_POISSON = {**_BURST, "arrivals": {"kind": "poisson", "rate_per_s": 40}}
_ALONE = {"arrivals": {"kind": "burst"}, "prompt_tokens": 3000, "output_tokens": 5, "requests": 1}

_ENGINES: Mapping[str, dict[str, Any]] = {
    "one long prompt": {"engine": {}, "workload": _ALONE},
    "few seats": {"engine": {"max_num_seqs": 4}, "workload": _BURST},
    "few KV blocks": {"engine": {"num_gpu_blocks_override": 90, "max_model_len": 1000}, "workload": _BURST},
    "arrivals during steps": {"engine": {}, "workload": _POISSON},
    "shared prefixes": {"engine": {}, "workload": {**_POISSON, "prefix": {"tokens": 64, "share": 0.5}}},
    "two batches in flight": {"engine": {"pipeline_parallel_size": 2}, "workload": _POISSON},
}
_FLEETS: Mapping[str, dict[str, Any]] = {
    "one replica": {"workload": _BURST},
    "three replicas": {"replicas": 3, "workload": _POISSON},
    "sessions": {"replicas": 3, "workload": _SESSIONS},
    "old reports": {"replicas": 3, "router_staleness_s": 0.1, "workload": _POISSON},
    "a failure": {
        "replicas": 2,
        "workload": _POISSON,
        "faults": [{"replica": 1, "at_s": 0.2, "until_s": 0.6}],
    },
}


def check_scheduler(rule: Callable[..., Any]) -> None:
    """Try a scheduling rule on small services; InputError names the first service and what went wrong.

    Every request must end with the tokens it asked for, a run must come out the same twice, and the same
    whether its steps are folded or played one by one: a rule that answers differently for the same engine,
    as one that counts its calls, does not.

    >>> from sim.policy.scheduling import PrefillFirst
    >>> check_scheduler(PrefillFirst())
    >>> check_scheduler(lambda engine: [])
    Traceback (most recent call last):
    sim.inputs.errors.InputError: engine.scheduler = <lambda>: one long prompt: 1 requests are open ...
    """
    for name, described in _ENGINES.items():
        engine = {**described["engine"], "scheduler": rule}
        _try("engine.scheduler", rule, name, {**described, "engine": engine})


def check_router(router: Callable[..., Any]) -> None:
    """Try a router on small services; InputError names the first service and what went wrong.

    >>> check_router(lambda request, replicas, random: request.request_id % len(replicas))
    >>> check_router(lambda request, replicas, random: 1)
    Traceback (most recent call last):
    sim.inputs.errors.InputError: router = <lambda>: one replica: chose 1 for request 0: must be a place ...
    """
    for name, described in _FLEETS.items():
        _try("router", router, name, {**described, "router": router})


def _try(key: str, rule: Callable[..., Any], name: str, described: Mapping[str, Any]) -> None:
    scenario = Scenario.model_validate({"topology": "a100-x4", "model": "llama-3-8b", **described})
    label = getattr(rule, "__qualname__", type(rule).__qualname__)

    def wrong(what: str) -> InputError:
        return InputError(Problem(f"{name}: {what}", key=key, value=label))

    try:
        first, again, played = (simulate(scenario, fold=fold) for fold in (True, True, False))
    except UnfinishedError as error:
        raise wrong(error.reason.replace("\n", "; ")) from error
    except InputError as error:
        raise wrong("; ".join(problem.what for problem in error.problems)) from error
    for problem in _unserved(first):
        raise wrong(problem)
    if not first.requests.equals(again.requests):
        raise wrong("the same run came out differently the second time: must depend on what it is shown only")
    if not first.requests.equals(played.requests):
        raise wrong("folded and played steps differ: must answer the same for the same engine")


def _unserved(result: Result) -> Iterator[str]:
    rows = result.requests
    for status in rows["status"].unique().to_list():
        if status != "finished":
            yield f"{rows.filter(rows['status'] == status).height} requests are {status}"
