"""Files of the trade by their first bytes, so that one in the wrong place is refused by its name, with the
command that reads it, and never as bad YAML.
"""

from __future__ import annotations

import re

from sim.reading.machines.kinds import machine_kind

HEAD = 200_000  # characters, beyond which no kind is told

_AS_TRACE = "name it in a scenario: workload: {arrivals: {kind: trace, path: FILE}}"
_KINDS = (
    ("NCCL's graph dump", r"<graphs\b", "the machine is in the file of NCCL_TOPO_DUMP_FILE"),
    ("lstopo XML", r"<!DOCTYPE topology|<topology\b", "take NCCL_TOPO_DUMP_FILE, or nvidia-smi topo -m"),
    ("what rocm-smi --showtopo prints", r"ROCm System Management|= Weight between", "write parts and wires"),
    ("the table of nvidia-smi", r"\| NVIDIA-SMI \d", "take nvidia-smi topo -m"),
    ("a log of nccl-tests", r"# nThread \d|# Using devices", "read it with sim calibrate collectives FILE"),
    ("JSON of nccl-tests", r'"out_of_place"\s*:', "read it with sim calibrate collectives FILE"),
    (
        "a result of vllm bench serve",
        r'"(?:mean|median|p99)_(?:ttft|tpot)_ms"\s*:',
        "put a run beside it with sim compare-run RUN FILE",
    ),
    (
        "a result of AIPerf",
        r'"(?:time_to_first_token|request_latency|inter_token_latency)"\s*:\s*\{\s*"unit"',
        "put a run beside it with sim compare-run RUN FILE",
    ),
    ("a trace as JSON lines", r'^\s*\{[^\n]*"(?:input_length|input_toks|hash_ids)"', _AS_TRACE),
    ("a trace of AIPerf", r'^\s*\{[^\n]*"(?:session_id|text_input|input_sequence_length)"', _AS_TRACE),
    ("conversations in text (ShareGPT)", r'"conversations"\s*:\s*\[', _AS_TRACE),
    ("the config.json of a model", r'"architectures"\s*:\s*\[', "name it under model: in a scenario"),
    ("a trace as CSV", r"^\s*(?:arrival_s,|TIMESTAMP,ContextTokens|Timestamp,)", _AS_TRACE),
)


def known_kind(text: str) -> str:
    """What a file is and what reads it, as `this is X; Y`; empty for what no kind fits."""
    head = text[:HEAD]
    machine = machine_kind(head)
    if machine:
        return f"this is {machine}; write a topology from it: sim topology import FILE --out my.yaml"
    for name, pattern, advice in _KINDS:
        if re.search(pattern, head):
            return f"this is {name}; {advice}"
    return ""
