"""What a run says, in three to ten sentences of plain words with the number behind each.

Sentences are frozen words with a place for every number, and the numbers: words can be tested apart from
numbers, and numbers without parsing words. What limits is found from where the requests' time went (`blame`),
what they waited for (`stations`) and how far every station was used; nothing is simulated again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from sim.results.basis import part_of
from sim.results.changes import changes
from sim.results.sentences import Number, Sentence, Verdict
from sim.results.setting import PoolSetting
from sim.results.told import IDLE, WAITING, Effects, Share, Told, behind, is_idle, limits, words_of
from sim.results.verdict_words import BOUND, GROUPS, HELP, HOLDUPS
from sim.results.where_to_look import where_to_look

# Assumed: they choose words, and every number that they choose by is in the sentence.
ALIKE = 0.8  # of the largest share: another one is too near to say which matters more
LATE = 0.1  # difference of shares from which classes or lengths are told apart
LONGER = 1.5  # times the mean answer: the slowest are then said to have asked for more
HALF = 0.5  # of the steps of prompts: one thing makes up most of them
FULL_KV = 0.9  # peak of the blocks in use: a larger batch would only wait for those
SHOWN_LINKS, SHOWN_POOLS = 4, 3


def verdict(told: Told) -> Verdict:
    """The sentences of a run, in the order of a reader's questions."""
    parts: tuple[Callable[[Told], Iterator[Sentence]], ...] = (
        _run, _load, _limit, _use, _links, _objectives, _slowest, where_to_look, changes, _help,
    )  # fmt: skip
    return Verdict(sentence for part in parts for sentence in part(told))


# ---- the run


def _run(told: Told) -> Iterator[Sentence]:
    setting = told.setting
    serving = {pool: engines_words(pool) for pool in setting.pools[:SHOWN_POOLS]}
    pools = "; ".join(f"{pool.name}: {text}" if pool.name else text for pool, text in serving.items())
    more = len(setting.pools) - len(serving)
    used = sum(pool.gpus * pool.engines for pool in setting.pools)
    words = "{models} on {machine}"
    if used:
        words += ", {used:,} of {gpus:,} GPUs ({kinds}, {servers:,} server{plural})"
    words += ", as {pools}"
    basis = told.numbers.get("basis") or {}
    rests = [
        f"{name} {BOUND.get(part.kind, part.kind)} {part.of}".strip()
        for name in ("kernels", "collectives", "host")
        if name in basis
        for part in (part_of(basis[name]),)
    ]
    words += "; {basis}." if rests else "; service times are given."
    models = ", ".join(dict.fromkeys(pool.model for pool in setting.pools))
    yield Sentence(
        "run",
        words,
        {
            "models": models, "machine": setting.machine, "used": used, "gpus": setting.gpus,
            "kinds": ", ".join(setting.gpu_kinds), "servers": setting.servers,
            "plural": "" if setting.servers == 1 else "s",
            "pools": pools + (f"; and {more} more pools" if more > 0 else ""), "basis": ", ".join(rests),
        },
        setting.machine,
    )  # fmt: skip


def engines_words(pool: PoolSetting) -> str:
    """`2 engines of TP 4`."""
    of = "" if pool.is_given else f" of {pool.layout}"
    return f"{pool.engines:,} engine{'' if pool.engines == 1 else 's'}{of}"


# ---- what limits


def _load(told: Told) -> Iterator[Sentence]:
    numbers, rows = told.numbers, told.requests
    n = len(rows["request_id"])
    if not n:
        yield Sentence("load", "No request was let in, so that nothing is known.", {}, "nothing")
        return
    span_s = float(np.ptp(rows["arrival_s"]))
    values: dict[str, Number] = {
        "came": n / span_s if span_s else 0.0,
        "done": numbers.get("request_throughput") or 0.0,
        "growth": numbers.get("backlog_growth_per_s") or 0.0,
        "wait": told.waiting_share,
        "busy": told.busy,
        "users": told.setting.users or 0,
        "plural": "" if told.setting.users == 1 else "s",
        "verb": "s" if told.setting.users == 1 else "",
    }
    if numbers.get("saturated") and not told.setting.users:
        words = (
            "Requests come faster than they are served: {came:.3g} a second came, {done:.3g} a second ended, "
            "and {growth:.3g} more were there every second."
        )
        yield Sentence("load", words, values, "saturated")
    elif told.setting.users:
        words = (
            "{users:,} user{plural} ask{verb} again when answered: {done:.3g} requests a second ended, and a "
            "request waited {wait:.0%} of its time to be let in."
        )
        yield Sentence("load", words, values, "users")
    elif values["wait"] > WAITING:  # type: ignore[operator]
        words = (
            "Requests are served at {done:.3g} a second and wait {wait:.0%} of their time to be let in; the "
            "engines are in steps {busy:.0%} of the time."
        )
        yield Sentence("load", words, values, "waiting")
    else:
        words = (
            "The engines keep up with {done:.3g} requests a second: these wait {wait:.1%} of their time to "
            "be let in, and the engines are in steps {busy:.0%} of the time."
        )
        yield Sentence("load", words, values, "idle" if told.busy < IDLE else "keeps up")


def _limit(told: Told) -> Iterator[Sentence]:
    found = limits(told)
    if not found:
        return
    first, *others = found
    values: dict[str, Number] = {"what": words_of(told, first), "share": first.share}
    if first.kind == "bubbles":
        values["computes"] = 1.0 - first.share
        values["stages"] = told.pools[first.pool].stages
        words = (
            "What limits the throughput is {what}: each of {stages} stages computes {computes:.0%} of the "
            "time in which requests are there"
        )
    elif is_idle(told):
        words = "Nothing limits the throughput; of a request's time {share:.0%} is {what}"
    else:
        words = "What limits is {what}: {share:.0%} of the time of requests"
    inner = behind(told, first)
    if inner is not None:
        values |= {"inner": words_of(told, inner), "inner_share": inner.share}
        words += "; of the steps that compute prompts {inner_share:.0%} are {inner}"
    next_ones = [one for one in others if one.share >= WAITING][: 1 if inner is not None else 2]
    if (
        inner is None
        and first.kind in HOLDUPS
        and (inside := [one for one in others if one.kind in GROUPS][:1])
    ):
        next_ones = [*[one for one in next_ones if one.kind in HOLDUPS][:1], *inside]
    for number, one in enumerate(next_ones, 2):
        values |= {f"what{number}": words_of(told, one), f"share{number}": one.share}
        words += f"{'; then' if number == 2 else ','} {{what{number}}} {{share{number}:.0%}}"
    about = first.kind if inner is None else f"{first.kind}, {inner.kind}"
    yield Sentence("limit", f"{words}.", values, "nothing" if is_idle(told) else about)


# ---- how far stations were used


def _use(told: Told) -> Iterator[Sentence]:
    order = sorted(range(len(told.pools)), key=lambda number: -told.uses[number].busy)
    parts, values = [], dict[str, Number]()
    for number in sorted(order[:SHOWN_POOLS]):
        pool, use = told.pools[number], told.uses[number]
        shown = {
            "busy": use.busy, "prompts": use.prompts, "step_tokens": use.step_tokens, "decodes": use.decodes,
            "kv": use.kv, "kv_peak": use.kv_peak, "seats": use.seats, "seats_peak": use.seats_peak,
        }  # fmt: skip
        values |= {f"{name}_{number}": value for name, value in shown.items()}
        values[f"pool_{number}"] = pool.name
        text = (f"pool {{pool_{number}}}: " if pool.name else "") + f"engines in steps {{busy_{number}:.0%}}"
        if not pool.is_given:
            text += (
                f" (with prompts {{prompts_{number}:.0%}}, filling {{step_tokens_{number}:.0%}} of the "
                f"tokens of a step; decodes alone {{decodes_{number}:.0%}}), KV blocks {{kv_{number}:.0%}} "
                f"(peak {{kv_peak_{number}:.0%}})"
            )
        text += f", seats {{seats_{number}:.0%}} (peak {{seats_peak_{number}:.0%}})"
        if use.stages is not None:
            values[f"stages_{number}"] = use.stages
            text += f", stages {{stages_{number}:.0%}} of the time with requests"
        parts.append(text)
    sums = told.numbers.get("blame", {}).get("e2el", {}).get("mean") or {}
    whole = sum(sums.values())
    tail = ""
    if whole:
        # what rounding leaves below zero is zero
        values |= {
            name: max(0.0, sums[cause] / whole) for name, cause in (("router", "routing"), ("host", "host"))
        }
        tail = "; of a request's time the router takes {router:.1%}, the host {host:.1%}"
    if parts:
        yield Sentence("use", f"In use, of the run: {'; '.join(parts)}{tail}.", values, "stations")


def _links(told: Told) -> Iterator[Sentence]:
    uses = told.link_uses[:SHOWN_LINKS]
    if not uses:
        return
    values: dict[str, Number] = {}
    parts = []
    for number, use in enumerate(uses):
        values |= {f"kind_{number}": use.kind, f"carried_{number}": use.carried, f"busy_{number}": use.busy}
        parts.append(f"{{kind_{number}}} {{carried_{number}:.1%}}, in use {{busy_{number}:.0%}} of the time")
    words = "The busiest link of each kind carried, of its capacity: " + "; ".join(parts) + "."
    yield Sentence("links", words, values, uses[0].kind)


# ---- objectives


def _objectives(told: Told) -> Iterator[Sentence]:
    promised, met, rows = told.promised, told.met, told.kept
    if not promised.any():
        yield Sentence("objectives", "The scenario sets no objectives (workload.slo).", {}, "none")
        return
    share = float(met.sum() / promised.sum())
    values: dict[str, Number] = {"share": share, "n": int(promised.sum())}
    if share == 1.0:
        yield Sentence("objectives", "All {n:,} requests keep their objectives.", values, "all")
        return
    words, about = "{share:.1%} of {n:,} requests keep their objectives", "some"
    by_class = {
        str(name): float(met[mine].sum() / mine.sum())
        for name in sorted(set(rows["request_class"][promised].tolist()))
        if (mine := promised & (rows["request_class"] == name)).any()
    }
    if len(by_class) > 1:
        worst, best = min(by_class, key=by_class.__getitem__), max(by_class, key=by_class.__getitem__)
        values |= {
            "worst": worst or "the others", "worst_share": by_class[worst],
            "best": best or "the others", "best_share": by_class[best],
        }  # fmt: skip
        words += ": class {worst} {worst_share:.0%}, class {best} {best_share:.0%}"
        about = worst
    for column, name in (("prompt_tokens", "prompts"), ("output_tokens", "answers")):
        tokens = rows[column]
        middle = float(np.median(tokens[promised]))
        longer, shorter = promised & (tokens > middle), promised & (tokens <= middle)
        if not (longer.any() and shorter.any()):
            continue
        of = float(met[longer].sum() / longer.sum()), float(met[shorter].sum() / shorter.sum())
        if abs(of[0] - of[1]) > LATE:
            values |= {f"{column}_above": middle, f"{column}_longer": of[0], f"{column}_shorter": of[1]}
            words += (
                f"; with {name} of more than {{{column}_above:,.0f}} tokens {{{column}_longer:.0%}}, with "
                f"shorter ones {{{column}_shorter:.0%}}"
            )
    yield Sentence("objectives", f"{words}.", values, about)


# ---- the slowest


def _slowest(told: Told) -> Iterator[Sentence]:
    ids, table = told.causes
    if len(ids) < 2:
        return
    total_s = table.sum(axis=1)
    n = max(1, len(ids) // 100)
    slowest = ids[np.argsort(-total_s, kind="stable")[:n]]
    from_s = float(np.sort(total_s)[-n])
    theirs, of_all = told.seconds_of(slowest), told.seconds_of(None)
    extra = {key: s / n - of_all.get(key, 0.0) / len(ids) for key, s in theirs.items()}
    whole_s = sum(theirs.values())
    mean_s = float(total_s.mean())
    if not extra or not whole_s or from_s <= (1.0 + WAITING) * mean_s:
        words = (
            "The slowest 1 % are no slower than the rest: {from_s:.3g} s against {mean_s:.3g} s in the mean."
        )
        yield Sentence("slowest", words, {"from_s": from_s, "mean_s": mean_s}, "alike")
        return
    kind, pool = max(extra, key=extra.__getitem__)
    what = Share(kind, pool, theirs[kind, pool] / whole_s, theirs[kind, pool])
    rows = told.records.requests
    asked = rows["output_tokens"]
    theirs_asked, mean_asked = float(asked[np.isin(rows["request_id"], slowest)].mean()), float(asked.mean())
    values: dict[str, Number] = {
        "n": n, "from_s": from_s, "mean_s": mean_s, "what": words_of(told, what), "share": what.share,
        "asked": theirs_asked, "mean_asked": mean_asked,
    }  # fmt: skip
    many = (
        "The slowest 1 % ({n:,} requests, from {from_s:.3g} s on"
        if n > 1
        else "The slowest request ({from_s:.3g} s"
    )
    words = f"{many}; the mean is {{mean_s:.3g}} s) spent {{share:.0%}} of it on {{what}}"
    if theirs_asked > LONGER * mean_asked:
        words += ", and asked for {asked:,.0f} tokens where the mean is {mean_asked:,.0f}"
    yield Sentence("slowest", f"{words}.", values, kind)


# ---- what would help


def _help(told: Told) -> Iterator[Sentence]:
    if told.sensitivity is not None:
        yield _by_sensitivity(told.sensitivity)
        return
    found = limits(told)
    if not found:
        return
    first = found[0]
    second = next((one for one in found[1:] if HELP[one.kind] != HELP[first.kind]), None)
    values: dict[str, Number] = {
        "what": words_of(told, first), "share": first.share, "help": help_of(told, first)
    }  # fmt: skip
    if first.kind != "bubbles" and second is not None and second.share >= ALIKE * first.share:
        values |= {"what2": words_of(told, second), "share2": second.share, "help2": help_of(told, second)}
        words = (
            "Which one change would help most cannot be told: {what} ({share:.0%}) and {what2} "
            "({share2:.0%}) are about alike, and ask for different things ({help}; {help2}); sim "
            "sensitivity tries each."
        )
        yield Sentence("help", words, values, "cannot tell")
        return
    words = (
        "Most would help: {help}; at most {share:.0%} of a request's time is to be had, and what it costs "
        "elsewhere only sim sensitivity can tell."
    )
    if first.kind == "bubbles":
        words = "Most would help: {help}; what that costs elsewhere only sim sensitivity can tell."
    yield Sentence("help", words, values, first.kind)


def help_of(told: Told, share: Share) -> str:
    """The change that the largest share asks for."""
    use = told.uses[share.pool] if 0 <= share.pool < len(told.uses) else None
    if share.kind == "seats" and use is not None and use.kv_peak > FULL_KV:
        return "more engines: KV blocks would not hold more requests at once"
    inner = behind(told, share)
    if inner is not None and inner.share > HALF:
        return f"{HELP[inner.kind]} (what the steps of prompts are made of); or {HELP[share.kind]}"
    if share.kind == "kernel_latency" and any(pool.eager for pool in told.pools):
        return "enforce_eager: false"
    if share.kind == "collectives" and any(pool.is_moe for pool in told.pools):
        return "faster links between the GPUs of an engine, or experts on fewer servers"
    return HELP[share.kind]


def _by_sensitivity(found: Effects) -> Sentence:
    clear = [effect for effect in found.effects if effect.is_clear]
    values: dict[str, Number] = {"metric": found.metric, "tried": len(found.effects)}
    if not clear:
        words = "Of {tried:,} numbers that were changed, none has an effect on {metric} beyond chance."
        return Sentence("help", words, values, "cannot tell")
    effect = clear[0]
    values |= {
        "key": effect.key,
        "factor": effect.factor,
        "more": effect.more.mean,
        "slope": effect.elasticity.mean,
    }
    words = (
        "Of {tried:,} numbers that were changed, {key} does most: {factor:.2f} times it makes {metric} "
        "{more:+.1%}."
    )
    return Sentence("help", words, values, str(effect.key))
