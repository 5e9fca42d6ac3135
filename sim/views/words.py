"""What a report calls things, and what each means, in words for readers who do not know the code."""

from __future__ import annotations

CAUSES = {
    "prefill_compute": "arithmetic of prompts",
    "decode_compute": "arithmetic of answers",
    "memory": "reading GPU memory",
    "kernel_latency": "start-up of kernels",
    "collective_latency": "start-up of collectives",
    "collective_bytes": "bytes of collectives",
    "host": "work on the host",
    "sharing": "links shared with others",
    "pipeline": "pipeline stages",
    "interference": "prompts of others",
    "routing": "router",
    "admission": "waiting to be let in",
    "preempted": "waiting after preemption",
    "recompute": "computed again",
    "hand_over": "KV caches on their way",
}

MEANINGS = {
    "prefill_compute": "kernels bound by arithmetic, in steps up to its first token",
    "decode_compute": "kernels bound by arithmetic, in steps after it",
    "memory": "kernels that wait for weights, KV cache and activations from HBM",
    "kernel_latency": "what a kernel takes however little it does: launches, first tiles",
    "collective_latency": "what a collective takes however few its bytes: launches and hops over links",
    "collective_bytes": "bytes of all-reduces and the like, over links that carry nothing else",
    "host": "the engine's processor, which GPUs wait for, and the API server",
    "sharing": "what transfers lost because other traffic was on their links",
    "pipeline": "waiting for a pipeline stage that is busy, and sends between stages",
    "interference": "what prompts of other requests added to the steps that it was in",
    "routing": "from arrival until it is in the queue of an engine",
    "admission": "in that queue until its first step: what it waited for is in the table below",
    "preempted": "in the queue again, after it had lost its KV blocks",
    "recompute": "steps that compute again what a preemption or a failure threw away",
    "hand_over": "its KV cache waiting for room in another engine, or on its way there or from a tier",
}

HEADLINES = {  # numbers of a summary: words, and the meaning
    "completed": ("requests finished", "Requests whose last token was out by the end of the run."),
    "unfinished": ("requests unfinished", "Requests that were still under way when the run stopped."),
    "aborted": ("requests aborted", "Requests that their client or a failure took from an engine."),
    "rejected": ("requests rejected", "Requests whose prompt is too long for the engine."),
    "cut_answers": ("answers cut", "Answers that ended where prompt and answer had max_model_len tokens."),
    "warmup_requests": ("left out as warm-up", "The first requests, which no number here counts."),
    "duration": ("duration (s)", "Simulated seconds from the first arrival that counts to the last token."),
    "request_throughput": ("requests/s", "Requests finished, over the duration."),
    "output_throughput": ("output tokens/s", "Tokens of answers, over the duration, of all GPUs together."),
    "output_throughput_per_gpu": (
        "output tokens/s per GPU",
        "The same over the GPUs that serve: what a GPU yields.",
    ),
    "output_throughput_per_user": (
        "output tokens/s per user",
        "One over the mean time per output token: how fast one answer is written.",
    ),
    "total_token_throughput": ("tokens/s with prompts", "Tokens of prompts and answers, over the duration."),
    "request_goodput": (
        "requests/s within objectives",
        "Requests that kept all their objectives (workload.slos), over the duration.",
    ),
    "slo_attainment": (
        "share within objectives",
        "Of the requests that have objectives, the share that kept all of them.",
    ),
    "mean_concurrency": ("requests at a time", "Requests that were in the system, waiting or running; mean."),
    "preemptions": ("preemptions", "How often a running request lost its KV blocks and had to begin again."),
    "resubmissions": ("resubmissions", "How often a request went to another engine when its own failed."),
    "prefix_hit_rate": (
        "prompt tokens cached",
        "The share of prompt tokens that were found in the KV cache and not computed again.",
    ),
    "median_ttft_ms": (
        "median time to first token (ms)",
        "Half of the requests had their first token by then.",
    ),
    "p99_ttft_ms": ("p99 time to first token (ms)", "99 of 100 requests had their first token by then."),
    "median_tpot_ms": (
        "median time per output token (ms)",
        "Of one request: the mean time between its tokens. Half of the requests were faster.",
    ),
    "p99_itl_ms": (
        "p99 between tokens (ms)",
        "99 of 100 pauses between two tokens of an answer were shorter: the stutter that a reader sees.",
    ),
    "median_e2el_ms": ("median end to end (ms)", "From arrival to the last token; half of the requests."),
}
QUIET_AT_ZERO = (
    "unfinished", "aborted", "rejected", "cut_answers", "warmup_requests", "preemptions", "resubmissions",
    "prefix_hit_rate",
)  # fmt: skip
"""Counts that say something only where they are not zero."""

LATENCIES = {  # what blame and distributions are of
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "time between tokens",
    "e2el": "end to end",
}
STATIONS = {
    "down": "an engine that is down",
    "batch": "the batch under way to end (scheduler: static)",
    "seats": "a place in the batch (max_num_seqs)",
    "KV blocks": "KV blocks",
    "prompts": "prompts that fill every step (max_num_batched_tokens)",
    "steps": "the step under way",
}
