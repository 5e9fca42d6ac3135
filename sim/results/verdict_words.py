"""The words of a verdict: what each kind of time is called, and the change that asks for less of it."""

from __future__ import annotations

GROUPS = {
    "arithmetic": ("prefill_compute", "decode_compute"),
    "memory": ("memory",),
    "kernel_latency": ("kernel_latency",),
    "collectives": ("collective_latency", "collective_bytes"),
    "sharing": ("sharing",),
    "host": ("host",),
    "pipeline": ("pipeline",),
    "interference": ("interference",),
}
"""Kinds of time inside of steps, of causes of `results.blame`."""
INSIDE = ("arithmetic", "memory", "kernel_latency", "collectives", "sharing", "host")
"""Those that a step would have alone."""
HOLDUPS = ("down", "batch", "seats", "KV blocks", "prompts", "steps")
"""Kinds of time before a step: the stations."""

WORDS = {
    "down": "waiting for an engine that is down",
    "batch": "waiting for the batch under way to end",
    "seats": "waiting for a place in the batch (max_num_seqs)",
    "KV blocks": "waiting for KV blocks",
    "prompts": "waiting behind prompts that fill every step (max_num_batched_tokens)",
    "steps": "waiting for the step under way",
    "failure": "computing again what a failed engine had",
    "arithmetic": "arithmetic of the GPUs",
    "memory": "reading weights and KV cache from GPU memory",
    "kernel_latency": "start-up of kernels",
    "collectives": "collectives",
    "sharing": "links shared with other traffic",
    "host": "the engine's work on the host",
    "pipeline": "waiting for pipeline stages and the sends between them",
    "interference": "prompts of other requests in its steps",
    "hand_over": "KV caches on their way",
    "service": "the given service time",
    "bubbles": "pipeline bubbles",
}

HELP = {
    "down": "a spare engine, or a shorter repair",
    "batch": "scheduler: vllm in place of whole batches",
    "seats": "a larger max_num_seqs",
    "KV blocks": "more KV blocks: a KV cache in fp8, a larger gpu_memory_utilization, or more GPUs an engine",
    "prompts": "more engines for prompts, or faster ones",
    "steps": "more engines",
    "failure": "fewer failures, or engines that lose less at once",
    "arithmetic": "more GPUs, or weights in a format with faster arithmetic",
    "memory": "weights or KV cache in fewer bits, or more GPUs an engine",
    "kernel_latency": "fewer and larger kernels: CUDA graphs, larger batches",
    "collectives": "faster links between the GPUs of an engine, or fewer GPUs an engine",
    "sharing": "traffic that shares links kept apart, or faster links",
    "host": "a faster host, or async_scheduling",
    "pipeline": "fewer pipeline stages, or more requests in flight",
    "interference": "a smaller max_num_batched_tokens, or prefill apart from decode",
    "hand_over": "faster links for KV caches",
    "service": "more engines, or shorter service times",
    "bubbles": "more requests in flight, or tensor in place of pipeline parallelism",
}
BOUND = {"measured": "measured on", "stand-in": "borrowed from", "datasheet": "by the datasheet of"}
