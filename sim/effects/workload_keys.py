"""Keys of the traffic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sim.effects.rules import Rule, Use, acted, because, no_caching, plain, unless, where
from sim.inputs.arrivals import ClosedLoop, Sessions, TimeVarying, Trace
from sim.inputs.workload import RequestClass, Slo
from sim.results.key_words import ACTED, DidNotBind, Word


def _arrived(use: Use) -> int:
    return len(use.ran.requests["request_id"])


def _last_arrival_s(use: Use) -> float:
    return float(use.ran.requests["arrival_s"].max(initial=0.0))


def _follows_up(use: Use) -> bool:
    """Whether requests come after answers, so that the last arrival does not say what was left out."""
    arrivals = use.ran.workload.arrivals
    return isinstance(arrivals, ClosedLoop | Sessions) or bool((use.ran.requests["turn"] > 0).any())


def _requests(use: Use) -> Word:
    if isinstance(use.value, int) and _arrived(use) < use.value:
        return DidNotBind(f"{use.value:,}, {_arrived(use):,} came")
    return ACTED


def _duration(use: Use) -> Word:
    most = use.ran.workload.requests
    if use.value is None or (most is None and not isinstance(use.ran.workload.arrivals, Trace)):
        return ACTED
    last_s = use.ran.end_s if _follows_up(use) else _last_arrival_s(use)
    if last_s < float(use.value) and (most is None or _arrived(use) >= most or _follows_up(use)):
        return DidNotBind(
            f"{plain(float(use.value))} s, the last request came at {plain(_last_arrival_s(use))} s"
        )
    return ACTED


# ---- classes


def _class(use: Use) -> str:
    return str(use.key[2])


def _own_in_all(field: str) -> Callable[[Use], str]:
    """Why a default of the workload is not read: every class has one of its own."""

    def obstacle(use: Use) -> str:
        classes = use.ran.workload.classes
        if classes and all(getattr(kind, field) is not None for kind in classes.values()):
            return f"every class has its own {field}"
        return ""

    return obstacle


def _no_request_of_it(use: Use) -> str:
    return "" if (use.ran.requests["request_class"] == _class(use)).any() else "no request was of this class"


def _one_class(use: Use) -> str:
    return "" if len(use.ran.workload.classes) > 1 else "there is one class"


def _first_come(use: Use) -> str:
    by_priority = [
        pool
        for pool in use.ran.scenario.all_pools.values()
        if pool.engine.scheduling_policy == "priority" or callable(pool.engine.scheduler)
    ]
    return "" if by_priority else "scheduling_policy is fcfs"


def _one_priority(use: Use) -> Word:
    if len({kind.priority for kind in use.ran.classes.values()}) > 1:
        return ACTED
    return DidNotBind("all requests have one priority")


def _one_model(use: Use) -> str:
    models = {pool.model.name for pool in use.ran.scenario.all_pools.values()}
    return "" if len(models) > 1 else f"every replica serves {models.pop()}"


# ---- lengths


TRACE_FILE: dict[str, Rule] = dict.fromkeys(
    ("name", "path", "columns.*", "time_unit", "tokenizer", "characters_per_token"), acted
)


def _lengths(field: str) -> dict[str, Rule]:
    """The keys of a distribution of lengths; bounds that no draw came near did not bind."""
    column = {"prompt_tokens": "prompt_tokens", "output_tokens": "output_tokens"}.get(field)

    def high(use: Use) -> Word:
        if column is None or _kind(use) not in ("lognormal", "geometric"):
            return ACTED
        longest = int(use.ran.requests[column].max(initial=0))
        if isinstance(use.value, int) and longest < use.value:
            return DidNotBind(f"{use.value:,}, longest {longest:,}")
        return ACTED

    def low(use: Use) -> Word:
        rows = use.ran.requests
        alone = column == "output_tokens" or not (use.ran.shares_prefixes or (rows["turn"] > 0).any())
        if column is None or not alone or _kind(use) != "lognormal" or not _arrived(use):
            return ACTED
        shortest = int(rows[column].min())
        if isinstance(use.value, int) and shortest > use.value:
            return DidNotBind(f"{use.value:,}, shortest {shortest:,}")
        return ACTED

    names = ("", "kind", "tokens", "mean", "cv", "exponent", "values", "values[]", "weights", "weights[]")
    rest: dict[str, Rule] = dict.fromkeys((*names, *TRACE_FILE, "block_tokens", "shape", "order"), acted)
    return {**rest, "low": low, "high": high}


def _kind(use: Use) -> str:
    """The kind of the law that the key is of."""
    law = use.ran.scenario
    for step in use.key[:-1]:
        law = law[step] if isinstance(law, dict | tuple) else getattr(law, str(step), None)  # type: ignore[assignment]
    return str(getattr(law, "kind", ""))


WAITS = ("", "kind", "value_s", "mean_s", "cv", "low_s", "high_s")


def _patience(use: Use) -> Word:
    if (use.ran.requests["status"] == "aborted").any():
        return ACTED
    return DidNotBind("no client gave up")


def _no_further_turn(use: Use) -> str:
    return "" if (use.ran.requests["turn"] > 0).any() else "no user sent a second request"


# ---- shared prefixes


def _prefix(use: Use) -> object:
    mine = use.ran.workload.classes[_class(use)] if use.key[1] == "classes" else RequestClass()
    return mine.prefix or use.ran.workload.prefix


def _hits(use: Use) -> bool:
    return bool(use.ran.requests["cached_tokens"].any())


def _one_group(use: Use) -> str:
    return "" if getattr(_prefix(use), "groups", 1) > 1 else "there is one group"


def _same_lengths(use: Use) -> str:
    """Without a cache, groups differ by the length of their prefix only."""
    fixed = getattr(getattr(_prefix(use), "tokens", None), "kind", "") == "fixed"
    return no_caching(use) if fixed else ""


_no_hit = "no prompt found its beginning kept"
PREFIX: dict[str, Rule] = {
    **{f"tokens.{name}".removesuffix("."): rule for name, rule in _lengths("tokens").items()},
    "groups": unless(_same_lengths),
    "popularity": unless(_one_group, _same_lengths),
    "share": acted,
    "block_tokens": unless(no_caching, then=where(_hits, _no_hit)),
}


# ---- objectives


def _objective(use: Use) -> Word:
    """A promise that every request keeps says what the share within objectives is, and moves it not."""
    rows, field = use.ran.requests, str(use.key[-1])
    mine = np.full(len(rows["status"]), True)
    if use.key[1] == "classes":
        mine = rows["request_class"] == _class(use)
    mine &= rows["status"] == "finished"
    seconds = {
        "ttft_ms": rows["first_token_s"] - rows["arrival_s"],
        "tpot_ms": (rows["finished_s"] - rows["first_token_s"]) / np.maximum(rows["generated_tokens"] - 1, 1),
        "e2el_ms": rows["finished_s"] - rows["arrival_s"],
    }[field][mine]
    slowest_ms = float(seconds.max(initial=0.0)) * 1e3
    if use.value is not None and slowest_ms < float(use.value):
        return DidNotBind(f"{plain(float(use.value))} ms, slowest {plain(slowest_ms)} ms")
    return ACTED


SLO: dict[str, Rule] = dict.fromkeys(Slo.model_fields, _objective)


# ---- arrivals


def _too_late(use: Use) -> Word:
    """A piece of a rate that begins after the last arrival."""
    arrivals, number = use.ran.workload.arrivals, use.key[-2]
    starts = arrivals.starts if isinstance(arrivals, Sessions) else arrivals
    if isinstance(starts, TimeVarying) and isinstance(number, int):
        begins_s = sum(piece.duration_s for piece in starts.pieces[:number])
        if begins_s > _last_arrival_s(use):
            return DidNotBind(f"it begins at {plain(begins_s)} s, the last request came before")
    return ACTED


def _repeats(use: Use) -> Word:
    arrivals = use.ran.workload.arrivals
    starts = arrivals.starts if isinstance(arrivals, Sessions) else arrivals
    if isinstance(starts, TimeVarying):
        whole_s = sum(piece.duration_s for piece in starts.pieces)
        if _last_arrival_s(use) < whole_s and use.ran.workload.requests is not None:
            return DidNotBind(f"the pieces last {plain(whole_s)} s, the last request came before")
    return ACTED


def _trace_rows(use: Use) -> Word:
    arrivals = use.ran.workload.arrivals
    played = len(use.ran.requests["arrival_s"])
    if isinstance(arrivals, Trace) and isinstance(use.value, int) and played < use.value:
        return DidNotBind(f"{use.value:,}, {played:,} rows are played")
    return ACTED


def _max_context(use: Use) -> Word:
    """The turn that would outgrow it is left out, so that none that came shows it: far below is sure."""
    longest = use.ran.longest_tokens
    if isinstance(use.value, int) and 2 * longest < use.value:
        return DidNotBind(f"{use.value:,}, longest text {longest:,}")
    return ACTED


STARTS: dict[str, Rule] = {
    "kind": acted,
    "rate_per_s": acted,
    "burstiness": acted,
    "cv": acted,
    "on_rate_per_s": acted,
    "off_rate_per_s": acted,
    "mean_on_s": acted,
    "mean_off_s": acted,
    "states[].rate_per_s": acted,
    "states[].mean_stay_s": acted,
    "pieces[].rate_per_s": _too_late,
    "pieces[].duration_s": _too_late,
    "repeat": _repeats,
    "at_s": acted,
    "shape": acted,
}
ARRIVALS: dict[str, Rule] = {
    **STARTS,
    "users": acted,
    "ramp_s": unless(
        because(lambda use: getattr(use.ran.workload.arrivals, "users", 2) == 1, "there is one user")
    ),
    **{f"think_time_s.{name}".removesuffix("."): unless(_no_further_turn) for name in WAITS},
    **{f"tool_delay_s.{name}".removesuffix("."): unless(_no_further_turn) for name in WAITS},
    **TRACE_FILE,
    **{f"clients.*.{name}": acted for name in STARTS},
    "speedup": acted,
    "limit": _trace_rows,
    "duration_s": acted,
    "start_s": acted,
    "cache_bust": unless(no_caching),
    **{f"starts.{name}": rule for name, rule in STARTS.items()},
    **{f"turns.{name}".removesuffix("."): rule for name, rule in _lengths("turns").items()},
    "max_context_tokens": _max_context,
    "block_tokens": unless(no_caching, then=where(_hits, _no_hit)),
}


def _of_class(rule: Rule) -> Rule:
    return unless(_no_request_of_it, then=rule)


def _laws(field: str, rules: dict[str, Rule]) -> dict[str, Rule]:
    """A law of the workload, and of a class of its own."""
    common = {
        f"{field}.{name}".removesuffix("."): unless(_own_in_all(field), then=rule)
        for name, rule in rules.items()
    }
    own = {f"classes.*.{field}.{name}".removesuffix("."): _of_class(rule) for name, rule in rules.items()}
    return {**common, **own}


WORKLOAD: dict[str, Rule] = {
    "": acted,
    "requests": _requests,
    "duration_s": _duration,
    **{f"arrivals.{name}": rule for name, rule in ARRIVALS.items()},
    **_laws("prompt_tokens", _lengths("prompt_tokens")),
    **_laws("output_tokens", _lengths("output_tokens")),
    **_laws("prefix", PREFIX),
    **_laws("slo", SLO),
    **_laws("patience_s", dict.fromkeys(WAITS, _patience)),
    **_laws("timeout_s", dict.fromkeys(WAITS, _patience)),
    "classes.*.share": unless(_one_class),
    "classes.*.priority": unless(_first_come, _no_request_of_it, then=_one_priority),
    "classes.*.model": unless(_one_model, _no_request_of_it),
    "model": unless(_one_model),
}
