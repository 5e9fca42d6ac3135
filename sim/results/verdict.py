"""What a run says, in three to ten sentences of plain words with the number behind each.

Sentences are frozen words with a place for every number, and the numbers: words can be tested apart from
numbers, and numbers without parsing words. What limits is found from where the requests' time went (`blame`),
what they waited for (`stations`) and how far every station was used; nothing is simulated again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.results.basis import part_of
from sim.results.blame import CAUSES, BlameRecords
from sim.results.records import Records
from sim.results.setting import FaultSetting, PoolSetting, Setting
from sim.results.stations import (
    LinkUse,
    PoolUse,
    Waits,
    link_uses,
    pool_use,
    requests_of,
    waits_of,
)
from sim.results.verdict_words import BOUND, GROUPS, HELP, HOLDUPS, INSIDE, WORDS

Ints = NDArray[np.int64]
Rows = Mapping[str, NDArray[Any]]
Number = float | int | str

IDLE = 0.2  # share of the time in steps below which nothing is called a limit
WAITING = 0.05  # share of a request's time below which it is said not to wait
BUBBLES = 0.6  # share of the time in which a stage computes, below which bubbles are called the limit
ALIKE = 0.8  # of the largest share: another one is too near to say which matters more
LATE = 0.1  # difference of shares from which classes or lengths are told apart
LONGER = 1.5  # times the mean answer: the slowest are then said to have asked for more
SHOWN_LINKS, SHOWN_POOLS, SHOWN_FAULTS = 4, 3, 3
# All of these are assumed: they choose words, and every number that they choose by is in the sentence.


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words with a place for every number, and the numbers. `topic`: run, load, limit, use, links,
    objectives, slowest, changes or help; `about` is the one thing that it names, as a word to look up.

    >>> str(Sentence("limit", "{what} take {share:.0%}.", {"what": "seats", "share": 0.5}, "seats"))
    'seats take 50%.'
    """

    topic: str
    words: str
    numbers: Mapping[str, Number] = field(default_factory=dict, hash=False)
    about: str = ""

    def __str__(self) -> str:
        return self.words.format(**self.numbers)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `text` is the whole sentence."""
        return {
            "topic": self.topic, "about": self.about, "text": str(self), "words": self.words,
            "numbers": dict(self.numbers),
        }  # fmt: skip


class Verdict(tuple[Sentence, ...]):
    """The sentences of a run. Printed, and in a notebook, a line each.

    >>> Verdict([Sentence("load", "All is well.")])
    All is well.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__

    def about(self, topic: str) -> tuple[str, ...]:
        """What the sentences of a topic name."""
        return tuple(one.about for one in self if one.topic == topic)

    def _repr_html_(self) -> str:
        from html import escape

        return "".join(f"<p>{escape(str(one))}</p>\n" for one in self)


class Effects(Protocol):
    """What a study of sensitivity found: `sim.studies.sensitivity.Sensitivity` is one."""

    @property
    def metric(self) -> str: ...
    @property
    def effects(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Told:
    """A run that has ended, as its verdict asks about it. `met` and `promised` say which rows of `kept` keep
    their objectives and which have some.
    """

    setting: Setting
    records: Records
    blame: BlameRecords
    links: Rows
    gpus: Rows
    numbers: Mapping[str, Any]
    kept: Rows
    met: NDArray[np.bool_]
    promised: NDArray[np.bool_]
    ended: str
    sensitivity: Effects | None = None

    @property
    def pools(self) -> tuple[PoolSetting, ...]:
        return self.setting.pools

    @cached_property
    def requests(self) -> dict[str, NDArray[Any]]:
        return requests_of(self.records)

    @cached_property
    def waits(self) -> Waits:
        return waits_of(self.setting, self.records)

    @cached_property
    def uses(self) -> tuple[PoolUse, ...]:
        """By pool."""
        found = []
        for pool in self.pools:
            mine = (self.gpus["replica"] >= pool.first) & (self.gpus["replica"] < pool.first + pool.engines)
            busy_s = float(self.gpus["busy_s"][mine].mean()) if mine.any() else 0.0
            found.append(pool_use(pool, self.records, busy_s))
        return tuple(found)

    @cached_property
    def link_uses(self) -> tuple[LinkUse, ...]:
        return link_uses(self.links, self.setting.link_kinds, self.records.end_s)

    @cached_property
    def causes(self) -> tuple[Ints, NDArray[np.float64]]:
        """Ids and seconds by cause, from arrival to the end."""
        return self.blame.in_order()

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """Where the time of all requests went, the largest share first."""
        return self.shares_of(None)

    def shares_of(self, ids: Ints | None) -> tuple[Share, ...]:
        """Where the time of some requests went; None: of all."""
        seconds = self.seconds_of(ids)
        total = sum(seconds.values())
        found = [Share(kind, number, s / total, s) for (kind, number), s in seconds.items() if s > 0.0]
        return tuple(sorted(found, key=lambda one: -one.share))

    def seconds_of(self, ids: Ints | None) -> dict[tuple[str, int], float]:
        """Seconds by kind of time and pool (-1: of all pools)."""
        waits = self.waits.by_station(ids)
        found = {(station, number): s for (number, station), s in waits.items()}
        of, table = self.causes
        table = table if ids is None else table[np.isin(of, ids)]
        sums = dict(zip(CAUSES, table.sum(axis=0).tolist(), strict=True))
        for kind, names in GROUPS.items():
            found[kind, -1] = sum(sums[name] for name in names)
        lost = sums["preempted"] + sums["recompute"]
        failed = bool((self.requests["resubmissions"] > 0).any())
        found["failure" if failed else "KV blocks", -1] = lost
        apart = sum(s for (number, _), s in waits.items() if self.pools[number].role == "decode")
        found["hand_over", -1] = max(0.0, sums["hand_over"] - apart)
        merged = {key: s for key, s in found.items() if s > 0.0}
        if ("KV blocks", -1) in merged and len(self.pools) == 1:
            merged["KV blocks", 0] = merged.pop(("KV blocks", -1)) + merged.get(("KV blocks", 0), 0.0)
        return merged

    @cached_property
    def prompt_steps(self) -> tuple[Share, ...]:
        """What the steps that computed a request's own prompt went to, the largest share first."""
        sums = dict(zip(CAUSES, self.blame.ttft.in_order()[1].sum(axis=0).tolist(), strict=True))
        seconds = {
            kind: sum(sums[name] for name in names) for kind, names in GROUPS.items() if kind in INSIDE
        }
        total = sum(seconds.values())
        found = [Share(kind, -1, s / total, s) for kind, s in seconds.items() if s > 0.0]
        return tuple(sorted(found, key=lambda one: -one.share))

    @property
    def waiting_share(self) -> float:
        """Share of their time that requests wait to be let in, or in for room elsewhere."""
        return sum(one.share for one in self.shares if one.kind in HOLDUPS)

    @property
    def busy(self) -> float:
        """Share of the run in which the busiest pool is in a step."""
        return max((use.busy for use in self.uses), default=0.0)


@dataclass(frozen=True, slots=True)
class Share:
    """A kind of time, in the engines of one pool or (-1) of all, as a share of what requests spent."""

    kind: str
    pool: int
    share: float
    seconds: float


def verdict(told: Told) -> Verdict:
    """The sentences of a run, in the order of a reader's questions."""
    parts: tuple[Callable[[Told], Iterator[Sentence]], ...] = (
        _run, _load, _limit, _use, _links, _objectives, _slowest, _changes, _help,
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


def _is_idle(told: Told) -> bool:
    return told.busy < IDLE and told.waiting_share <= WAITING


def limits(told: Told) -> tuple[Share, ...]:
    """What limits, the first first; bubbles where stages stand idle although requests are there."""
    found = list(told.shares)
    if told.pools and all(pool.is_given for pool in told.pools):
        found = [
            Share("service", one.pool, one.share, one.seconds) if one.kind in GROUPS else one for one in found
        ]
    for number, use in enumerate(told.uses):
        if use.stages is not None and use.stages < BUBBLES:
            found.insert(0, Share("bubbles", number, 1.0 - use.stages, 0.0))
    return tuple(found)


def words_of(told: Told, share: Share) -> str:
    """A kind of time in words, with the pool or the kind of link that it is of."""
    text = WORDS[share.kind]
    over = next((use.kind for use in told.link_uses if use.joins), None)
    if share.kind == "collectives" and over is not None:
        text += f" over {over}"
    pool = told.pools[share.pool] if share.pool >= 0 else None
    if pool is not None and pool.name and len(told.pools) > 1:
        text += f" of pool {pool.name}"
    return text


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
    elif _is_idle(told):
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
    yield Sentence("limit", f"{words}.", values, "nothing" if _is_idle(told) else about)


def behind(told: Told, share: Share) -> Share | None:
    """What the steps of prompts are made of, where others' prompts hold requests up; else None."""
    if share.kind not in ("prompts", "interference", "steps") or told.pools[0].is_given:
        return None
    return next(iter(told.prompt_steps), None)


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
        yield Sentence("objectives", "The scenario sets no objectives (workload.slos).", {}, "none")
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


# ---- what changed


def _changes(told: Told) -> Iterator[Sentence]:
    found = list(_changed(told))
    if not found:
        words = "Nothing changed on the way: no saturation, fault, preemption or resubmission."
        yield Sentence("changes", words, {}, "nothing")
        return
    texts, values = [], dict[str, Number]()
    for number, (_, text, numbers) in enumerate(found):
        texts.append(text.replace("{", f"{{c{number}_"))
        values |= {f"c{number}_{name}": value for name, value in numbers.items()}
    about = ", ".join(dict.fromkeys(kind for kind, _, _ in found))
    yield Sentence("changes", f"On the way: {'; '.join(texts)}.", values, about)


def _changed(told: Told) -> Iterator[tuple[str, str, dict[str, Number]]]:
    """What changed in a run: a word to look up, the words, and their numbers."""
    numbers, rows = told.numbers, told.requests
    if not len(rows["request_id"]):
        return
    since_s = _waiting_since(rows, told.records.end_s)
    if numbers.get("saturated") and since_s is not None:
        yield (
            "saturation",
            "from {since_s:.3g} s on there were always requests that waited",
            {"since_s": since_s},
        )
    begun = [fault for fault in told.setting.faults if fault.at_s <= told.records.end_s]
    for fault in begun[:SHOWN_FAULTS]:
        yield "fault", *_fault(told, fault)
    if len(begun) > SHOWN_FAULTS:
        yield "fault", "and {more:,} more faults", {"more": len(begun) - SHOWN_FAULTS}
    hit = rows["preemptions"] > 0
    if hit.any():
        words = (
            "KV blocks ran out {n:,} times, for {hit:,} of {all:,} requests, which ran between {from_s:.3g} "
            "s and {to_s:.3g} s (preemptions)"
        )
        began_s = rows["admitted_s"][hit]
        yield "preemptions", words, {
            "n": int(rows["preemptions"].sum()), "hit": int(hit.sum()), "all": len(hit),
            "from_s": float(began_s[~np.isnan(began_s)].min(initial=told.records.end_s)),
            "to_s": float(rows["left_s"][hit].max()),
        }  # fmt: skip
    resubmitted = int(rows["resubmissions"].sum())
    if resubmitted:
        words = "{n:,} requests went to another engine when theirs failed (resubmissions)"
        yield "resubmissions", words, {"n": resubmitted}
    lost = {name: int(numbers.get(name) or 0) for name in ("unfinished", "aborted", "rejected")}
    if any(lost.values()):
        counts = {name: count for name, count in lost.items() if count}
        told_of = ", ".join(f"{{{name}:,}} {name}" for name in counts)
        yield "lost", f"of all requests {told_of}", {**counts}


def _waiting_since(rows: Rows, end_s: float) -> float | None:
    """From when on, to the last arrival, at least one request waited; None where none did then."""
    arrival_s, admitted_s = np.sort(rows["arrival_s"]), rows["admitted_s"]
    admitted_s = np.sort(np.where(np.isnan(admitted_s), np.inf, admitted_s))
    last_s = float(arrival_s[-1])
    at_s = np.unique(np.concatenate((arrival_s, admitted_s[admitted_s <= last_s])))
    waiting = np.searchsorted(arrival_s, at_s, side="right") - np.searchsorted(admitted_s, at_s, side="right")
    empty = np.flatnonzero(waiting <= 0)
    since_s = float(at_s[empty[-1]]) if len(empty) else 0.0
    return since_s if since_s < last_s else None


def _fault(told: Told, fault: FaultSetting) -> tuple[str, dict[str, Number]]:
    rows = told.requests
    ends_s = told.records.end_s if fault.until_s is None else fault.until_s
    ttft_s = rows["first_token_s"] - rows["arrival_s"]
    during = (rows["arrival_s"] >= fault.at_s) & (rows["arrival_s"] < ends_s) & ~np.isnan(ttft_s)
    others = ~during & ~np.isnan(ttft_s)
    values: dict[str, Number] = {"what": fault.what, "at_s": fault.at_s, "until_s": ends_s}
    until = "until {until_s:.3g} s" if fault.until_s is not None else "to the end"
    words = (
        f"{{what}} from {{at_s:.3g}} s {until}"
        if fault.slows
        else f"{{what}} was down from {{at_s:.3g}} s {until}"
    )
    if during.any() and others.any():
        values |= {
            "during_ms": float(ttft_s[during].mean()) * 1e3, "others_ms": float(ttft_s[others].mean()) * 1e3
        }  # fmt: skip
        words += (
            " (requests that came then had their first token after {during_ms:,.0f} ms in the mean, others "
            "after {others_ms:,.0f} ms)"
        )
    return words, values


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


HALF = 0.5  # of the steps of prompts: one thing makes up most of them (assumed)
FULL_KV = 0.9  # peak of the blocks in use: a larger batch would only wait for those


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
