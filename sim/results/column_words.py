"""What every column of every table of a run means, with its unit: the page docs/columns.md.

`sim schema columns` prints the page. Tests hold it against the tables of a run.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.results.blame import CAUSES

Words = dict[str, tuple[str, str]]
"""By column: its unit (empty: a name or a flag) and what it is."""

CAUSE_WORDS = {
    "prefill_compute": "kernels bound by arithmetic, before the first token",
    "decode_compute": "kernels bound by arithmetic, after it",
    "memory": "kernels bound by HBM: weights, KV cache, activations",
    "kernel_latency": "start-up of kernels",
    "collective_latency": "start-up and hops of collectives",
    "collective_bytes": "bytes of collectives, over links that carry nothing else",
    "host": "processor time of the engine that GPUs wait for, and the API server",
    "sharing": "what transfers lost to other traffic on their links",
    "pipeline": "waiting for a pipeline stage, and sends between stages",
    "interference": "what prompts of other requests added to its steps",
    "routing": "from arrival to the queue of a replica",
    "admission": "in the queue, before the first step",
    "preempted": "in the queue, after a preemption",
    "recompute": "steps that compute again what a preemption or a failure threw away",
    "hand_over": "KV cache on its way to another replica or tier",
}
_BLAME: Words = {
    "request_id": ("", "number of the request"),
    **{cause: ("s", CAUSE_WORDS[cause]) for cause in CAUSES},
}

TABLES: dict[str, tuple[str, Words]] = {
    "requests": (
        "One row per request, by its number. A time is empty where it never came.",
        {
            "request_id": ("", "number, in order of arrival"),
            "request_class": ("", "class of the workload; empty without classes"),
            "session": ("", "number of its session; -1 without"),
            "turn": ("count", "turn of the session, from 0"),
            "model": ("", "model that was asked for"),
            "replica": ("", "engine that it was routed to last; -1 for none"),
            "arrival_s": ("s", "when it came"),
            "routed_s": ("s", "when a replica was chosen"),
            "admitted_s": ("s", "when it was first scheduled"),
            "first_token_s": ("s", "when its first token was out"),
            "finished_s": ("s", "when its last token was out"),
            "prompt_tokens": ("tokens", "length of the prompt"),
            "output_tokens": ("tokens", "length of the answer that it asked for"),
            "generated_tokens": ("tokens", "length of the answer that it got"),
            "cached_tokens": ("tokens", "of the prompt, found in the KV cache when it was first admitted"),
            "preemptions": ("count", "how often it lost its KV blocks"),
            "status": ("", "finished, unfinished, rejected or aborted"),
            "aborted_s": ("s", "when it left an engine that its client or a failure took it from"),
            "resubmissions": ("count", "replicas that failed while they had it"),
        },
    ),
    "steps": (
        "One row per stretch of steps of one pipeline stage with one batch, whose durations lie on a line.",
        {
            "replica": ("", "engine"),
            "stage": ("", "pipeline stage, from 0"),
            "start_s": ("s", "begin of the first step"),
            "end_s": ("s", "end of the last step"),
            "steps": ("count", "steps in the row"),
            "sequences": ("count", "sequences of each step"),
            "prefill_tokens": ("tokens", "of prompts, in each step"),
            "decode_tokens": ("tokens", "of answers, in each step"),
            "gaps": ("count", "sequences of each step for which it is the time since their last token"),
            "kv_tokens": ("tokens", "KV cache of the batch before the first step"),
            "first_step_s": ("s", "duration of the first step"),
            "last_step_s": ("s", "duration of the last step; the others lie evenly between"),
            "idle_s": ("s", "pauses between the steps of the row"),
        },
    ),
    "gaps": (
        "Times between tokens that are not the duration of a step.",
        {
            "replica": ("", "engine"),
            "at_s": ("s", "end of the first gap"),
            "sequences": ("count", "sequences that have these gaps"),
            "gaps": ("count", "gaps of each sequence"),
            "first_gap_s": ("s", "length of the first gap"),
            "last_gap_s": ("s", "length of the last gap; the others lie evenly between"),
        },
    ),
    "links": (
        "One row per link and direction.",
        {
            "link": ("", "from -> to, or the name of a memory that has a rate of its own"),
            "bytes_per_s": ("bytes/s", "mean capacity over the run"),
            "n_bytes": ("bytes", "carried"),
            "busy_s": ("s", "with at least one transfer"),
            "shared_s": ("s", "with at least two transfers"),
        },
    ),
    "gpus": (
        "One row per GPU.",
        {
            "gpu": ("", "name in the topology"),
            "model": ("", "kind of GPU"),
            "replica": ("", "engine that it serves; -1 for none"),
            "stage": ("", "its pipeline stage; -1 for none"),
            "busy_s": ("s", "in steps"),
        },
    ),
    "blame": ("Seconds by cause from arrival to the last token; they add up to the latency.", _BLAME),
    "blame_ttft": ("Seconds by cause from arrival to the first token.", _BLAME),
    "blame_itl": ("Seconds by cause from the first token to the last, all gaps together.", _BLAME),
    "kv_blocks": (
        "One row per instant at which sequences came, went or computed a part of a prompt.",
        {
            "replica": ("", "engine"),
            "rank": ("", "data-parallel rank"),
            "at_s": ("s", "the instant"),
            "before": ("blocks", "in use just before"),
            "blocks": ("blocks", "in use just after"),
            "of_blocks": ("blocks", "that there are"),
            "block_size": ("tokens", "of a block"),
        },
    ),
    "kv_tiers": (
        "One row per replica and tier of KV cache; empty without `engine.kv_tiers`.",
        {
            "replica": ("", "engine"),
            "model": ("", "model"),
            "tier": ("", "hbm, host, nvme or remote"),
            "capacity_bytes": ("bytes", "room"),
            "held_bytes": ("bytes", "held at the end"),
            "peak_bytes": ("bytes", "held at most"),
            "asked_tokens": ("tokens", "known tokens of all admissions"),
            "hit_tokens": ("tokens", "of these, found here and used"),
            "hit_rate": ("share", "hit_tokens of asked_tokens"),
            "reloaded_bytes": ("bytes", "read back into HBM"),
            "stored_bytes": ("bytes", "written into the tier"),
            "evicted_bytes": ("bytes", "dropped for want of room"),
            "lost_bytes": ("bytes", "lost to failures"),
        },
    ),
    "hand_overs": (
        "One row per KV transfer from a prefill to a decode replica.",
        {
            "request_id": ("", "number of the request"),
            "sender": ("", "prefill engine"),
            "receiver": ("", "decode engine"),
            "prefilled_s": ("s", "end of the prefill"),
            "reserved_s": ("s", "when blocks were reserved at the receiver"),
            "arrived_s": ("s", "when all of it had come"),
            "n_bytes": ("bytes", "KV cache of the prompt"),
        },
    ),
    "over_time()": (
        "One row per interval; computed by `result.over_time()`, and in no file.",
        {
            "t": ("s", "end of the interval"),
            "running": ("requests", "admitted and not gone, at `t`"),
            "waiting": ("requests", "come and not admitted, at `t`"),
            "prompt_throughput": ("tokens/s", "of prompts, over the interval"),
            "gen_throughput": ("tokens/s", "of answers, over the interval"),
            "kv_tokens": ("tokens", "that the blocks in use have room for"),
            "kv_blocks": ("blocks", "that sequences hold, at `t`"),
            "kv_blocks_total": ("blocks", "that there are"),
            "kv_cache_usage": ("share", "kv_blocks of kv_blocks_total"),
        },
    ),
}


def columns_page() -> str:
    """The page of all columns, as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Columns of every table"
    yield ""
    yield "Written by `sim schema columns > docs/columns.md`. Tables are `result.NAME` in Python and "
    "`NAME.csv` (or"
    yield "`.parquet`) in the folder of a run. Times are simulated seconds from the start of the run."
    blame = [name for name, (_, words) in TABLES.items() if words is _BLAME]
    for name, (what, words) in TABLES.items():
        yield from ("", f"## {name}", "", what, "")
        if words is _BLAME and name != blame[0]:
            yield f"The columns are those of `{blame[0]}`."
            continue
        yield from ("| column | unit | |", "| --- | --- | --- |")
        yield from (f"| `{column}` | {unit} | {text} |" for column, (unit, text) in words.items())
