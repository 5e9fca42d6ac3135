"""What changed while a run went on, as one sentence: saturation, faults, preemptions, requests lost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.results.sentences import Number, Sentence
from sim.results.setting import FaultSetting
from sim.results.told import Rows, Told

SHOWN_FAULTS = 3


def changes(told: Told) -> Iterator[Sentence]:
    """One sentence with everything that changed, each with its time, or that nothing did."""
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
