"""At which instant and on which track of the timeline a reader of a verdict looks first, as one sentence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.results.sentences import Number, Sentence
from sim.results.told import Told

SAME_S = 1e-9  # steps that differ by less are alike: the first of them is named


def where_to_look(told: Told) -> Iterator[Sentence]:
    """The slowest request, where it waited longest: in the queue, or in the longest of its steps."""
    rows = told.requests
    there_s = rows["left_s"] - rows["arrival_s"]
    let_in = np.flatnonzero(~np.isnan(rows["admitted_s"]) & ~np.isnan(there_s))
    if len(let_in) < 2:
        return
    row = let_in[np.argmax(np.round(there_s[let_in] / SAME_S))]
    arrival_s, admitted_s, left_s = (float(rows[name][row]) for name in ("arrival_s", "admitted_s", "left_s"))
    request, replica = int(rows["request_id"][row]), int(rows["replica"][row])
    values: dict[str, Number] = {"request": request, "replica": replica, "queue_s": admitted_s - arrival_s}
    words = "Look first at {at_s:.6g} s of the timeline, on "
    if 2.0 * (admitted_s - arrival_s) >= left_s - arrival_s:
        values["at_s"] = arrival_s
        words += (
            "the track requests waiting of replica {replica}: there request {request}, the slowest, begins "
            "to wait {queue_s:.3g} s to be let in."
        )
        yield Sentence("look", words, values, "queue")
        return
    steps = told.records.steps
    here = (steps["replica"] == replica) & (steps["end_s"] > admitted_s) & (steps["start_s"] < left_s)
    if not here.any():
        return
    spans = {name: steps[name][here] for name in steps.kinds}
    begin_s = np.where(
        spans["last_step_s"] > spans["first_step_s"] + SAME_S,
        spans["end_s"] - spans["last_step_s"],
        spans["start_s"],
    )
    longest_s = np.maximum(spans["first_step_s"], spans["last_step_s"])
    order = np.lexsort((spans["start_s"], spans["stage"], -np.round(longest_s / SAME_S)))
    step = order[0]
    values |= {
        "at_s": float(begin_s[step]),
        "stage": int(spans["stage"][step]),
        "step_ms": float(longest_s[step]) * 1e3,
        "prompt_tokens": int(spans["prefill_tokens"][step]),
        "decodes": int(spans["decode_tokens"][step]),
    }
    words += (
        "the track stage {stage} of replica {replica}: there begins the longest step of request {request}, "
        "the slowest ({step_ms:.3g} ms, {prompt_tokens:,} tokens of prompts and {decodes:,} decodes); sim "
        "trace DIR --requests {request} draws all of its steps op by op."
    )
    yield Sentence("look", words, values, "step")
