"""Broken inputs made from whole ones: a few changes of structure or of text, and the command that reads
them.

Every choice is drawn from one `random.Random`, so that a seed is a case, and hypothesis may draw instead.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.laws.key_scenarios import ARRIVALS, BASES, LENGTHS, SCENARIOS, TRACE, WAITS

ROOT = Path(__file__).parents[2]
LOAD = "load_result"  # no verb: the function that reads a saved run back, whose tables are then read
STUDY = "@study@"  # in kept rows: the digest of the study that is run beside them


@dataclass(frozen=True)
class Case:
    """Files of a folder, by name, and the words of one command that is run in it."""

    words: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()

    def json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Case:
        read = json.loads(text)
        return cls(tuple(read["words"]), tuple((name, content) for name, content in read["files"]))

    def __str__(self) -> str:
        files = "".join(f"--- {name}\n{content}\n" for name, content in self.files)
        return f"$ sim {' '.join(map(repr, self.words))}\n{files}"


# ---- values that belong nowhere

NASTY: tuple[Any, ...] = (
    math.nan, math.inf, -math.inf, True, False, None, -1, 0, 1, 2, 3, 1000, 10**6, 10**9, 10**12, 2**63,
    10**30,
    -(10**30), 0.0, -0.0, 0.5, 1.5, -0.5, 1e-9, 1e-300, 1e-320, 1e16, 1e308, "", " ", "x", "x2", "xinf",
    "xnan", "x-1",
    "é", "²", "١٢", "\u202e", "a" * 5000, "9" * 5000, "1e400", "5 GB", "5 GB/s", "5 parsecs", "-3 us",
    "nan", "inf",
    "true", "null", "12:30:45", "0x10", "1_000", "node0.gpu0", "node0", "all", "auto", "nd-h100-v5",
    "llama-3-8b",
    "../..", "/dev/null", "/", "~", "s.yaml", "<!--", "=1+1", "%s", "{}", "[]", [], {}, [1], [1, 2], [[]],
    [[1], [2]],
    [None], [math.nan], ["a"], {"kind": "x"}, {"": 1}, {1: 2}, {"a": {"a": {"a": 1}}}, [{}], [True],
    {"kind": []},
)  # fmt: skip
NOISE = (
    "\t", "\0", "\ufeff", "[", "]", "{", "}", ":", ": ", "- ", "#", "'", '"', "&a ", "*a", "*b",
    "!!python/object:os.system ",
    "!!binary ", "!x ", "|", ">", "? ", "---\n", "...\n", "%YAML 1.3\n", "<<: *a", "\r", "\n", "\n\n", "\\",
    ",", "é", "\u2028",
    "\ud83d\ude00", "0", "-", ".", "e", "nan", "[" * 300, "{a: " * 300, "- " * 300, "@", "`",
)  # fmt: skip


def plain(value: Any) -> Any:
    """Lists for tuples, as files have them."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every entry of nested dicts and lists."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, entry in entries:
        yield (*way, key)
        yield from places(entry, (*way, key))


def _at(value: Any, way: tuple[Any, ...]) -> Any:
    for step in way:
        value = value[step]
    return value


def mutated(value: Any, rng: random.Random, times: int = 1) -> Any:
    """Some entries dropped, doubled, exchanged, or replaced by nasty ones."""
    value = copy.deepcopy(value)
    for _ in range(times):
        ways = list(places(value))
        if not ways:
            return rng.choice(NASTY)
        # Depth first: else the hundred numbers of a GPU's kernels would be all that is ever changed.
        depth = rng.randint(1, max(map(len, ways)))
        way = rng.choice([way for way in ways if len(way) == depth] or ways)
        owner, key = _at(value, way[:-1]), way[-1]
        what = rng.randrange(12)
        if what == 0:
            del owner[key]
        elif what == 1 and isinstance(owner, list):
            owner.insert(key, copy.deepcopy(owner[key]))
        elif what == 1:
            owner[f"{key}_"] = owner[key]
        elif what == 2:
            owner[key] = copy.deepcopy(_at(value, rng.choice(ways)))
        elif what == 3:
            owner[key] = [owner[key]]
        elif what == 4:
            owner[key] = {rng.choice(("kind", "path", "name", key)): owner[key]}
        elif what == 5 and isinstance(owner[key], int | float) and not isinstance(owner[key], bool):
            owner[key] = owner[key] * rng.choice((-1, 0.5, 1e3, 1e6, 1e-6, 10**9))
        else:
            owner[key] = copy.deepcopy(rng.choice(NASTY))
    return value


def noisy(text: str, rng: random.Random) -> str:
    """A text with signs put in, a stretch cut out, a line doubled or moved, or its end missing."""
    for _ in range(rng.randint(1, 3)):
        at, to = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        what = rng.randrange(6)
        if what <= 1:
            text = text[:at] + rng.choice(NOISE) + text[at:]
        elif what == 2:
            text = text[:at] + text[min(to, at + 20) :]
        elif what == 3:
            text = text[:at]
        else:
            lines = text.splitlines(keepends=True) or [""]
            line = rng.randrange(len(lines))
            lines.insert(rng.randrange(len(lines) + 1), lines[line] if what == 4 else lines.pop(line))
            text = "".join(lines)
    return text


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(value: Any, rng: random.Random | None = None) -> str:
    """A document; now and then with noise in it."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return noisy(text, rng) if rng is not None and rng.random() < 0.15 else text


# ---- whole inputs to begin with


@cache
def scenarios() -> tuple[dict[str, Any], ...]:
    """Small scenarios of many kinds, their models by name or inline."""
    found = []
    for written in BASES.values():
        scenario = plain(written)
        found.append(scenario)
        found.append({**scenario, "model": scenario["model"]["name"].partition(" ")[0]})
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        scenario = yaml.safe_load(path.read_text())
        scenario["workload"]["requests"] = min(scenario["workload"].get("requests", 4), 4)
        found.append(scenario)
    return tuple(found)


@cache
def _texts(pattern: str, most: int = 12) -> tuple[str, ...]:
    """Shipped files, their first rows if they are long."""
    found = []
    for path in sorted(ROOT.glob(pattern)):
        text = path.read_text()
        found.append(text if path.suffix in (".yaml", ".json") else "".join(text.splitlines(True)[:most]))
    return tuple(found)


NCCL_LOG = """\
# nThread 1 nGpus 8 minBytes 8 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1 validation: 1 graph: 0
# Collective test starting: all_reduce_perf
# Using devices
#  Rank  0 Group  0 Pid  1000 on  host1 device  0 [0x0b] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid  1001 on  host1 device  1 [0x1b] NVIDIA H100 80GB HBM3
#  Rank  2 Group  0 Pid  1002 on  host1 device  2 [0x2b] NVIDIA H100 80GB HBM3
#  Rank  3 Group  0 Pid  1003 on  host1 device  3 [0x3b] NVIDIA H100 80GB HBM3
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw
busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
           8            2     float     sum      -1    14.20    0.00    0.00      0    14.10    0.00    0.00
           0
        1024          256     float     sum      -1    14.90    0.07    0.10      0    14.80    0.07    0.10
        0
       65536        16384     float     sum      -1    19.20    3.41    5.12      0    19.10    3.43    5.15
       0
     1048576       262144     float     sum      -1    31.20   33.61   50.41      0    31.10   33.72   50.57
     0
    67108864     16777216     float     sum      -1   331.20  202.62  303.94      0   330.10  203.30  304.95
    0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 72.5
"""  # noqa: E501
KERNELS = """\
gpu,kernel,latency_us,m,n,k,dtype
h100-sxm,gemm,10.0,1,4096,4096,bf16
h100-sxm,gemm,12.0,64,4096,4096,bf16
h100-sxm,gemm,40.0,512,4096,4096,bf16
h100-sxm,gemm,300.0,4096,4096,4096,bf16
"""
QUICK = {"arrivals": {"kind": "burst"}, "prompt_tokens": 40, "output_tokens": 4, "requests": 3}
KEYS = (
    "engine.tensor_parallel_size", "engine.max_num_seqs", "engine.max_model_len",
    "topology.links.nvlink4.latency_s",
    "topology.own_graph", "topology.parts.gpu.count", "nodes", "replicas", "router", "router.kind",
    "faults.0", "faults.²",
    "workload.arrivals.rate_per_s", "workload.requests", "workload.prompt_tokens", "model", "model.layers",
    "model.mla.x",
    "topology", "kernels", "kernels.path", "placement.kind", "precision.weights",
    "engine.kv_tiers.host.capacity_bytes",
    "engine.speculation.acceptance_rate", "pools.prefill.replicas", "hand_over.kv", "time_limit_s",
    "warmup", "cooldown", "without",
    "", ".", "..", "engine.", ".engine", "engine..x", "a" * 300, "workload.arrivals.kind",
    "topology.gpus.h100-sxm.hbm_bytes",
    "topology.wires.0.links", "topology.wires", "workload.classes", "engine.host", "engine.host.step_s.x",
    "topology.name.x",
)  # fmt: skip


# ---- the cases


def _change_words(rng: random.Random) -> list[str]:
    """`--set` with some key and some value."""
    words = []
    for _ in range(rng.randint(1, 2)):
        value = rng.choice(NASTY)
        shown = value if isinstance(value, str) and rng.random() < 0.7 else json.dumps(value)
        words += [
            "--set",
            rng.choice((f"{rng.choice(KEYS)}={shown}", f"{rng.choice(KEYS)}{shown}", f"={shown}")),
        ]
    return words


def scenario_case(rng: random.Random) -> Case:
    """A scenario with a few things wrong in it."""
    scenario = mutated(rng.choice(scenarios()), rng, rng.randint(1, 3))
    return Case(("run", "s.yaml"), (("s.yaml", as_yaml(scenario, rng)),))


def traffic_case(rng: random.Random) -> Case:
    """Laws of arrivals, lengths and waits with a few things wrong in them."""
    laws = plain((*ARRIVALS, TRACE, {"kind": "closed_loop", "users": 2, "think_time_s": 0.1, "ramp_s": 0.1}))
    arrivals = rng.choice(laws)
    if rng.random() < 0.3:
        delay = rng.choice(plain(WAITS))
        turns = rng.choice(plain(LENGTHS))
        arrivals = {"kind": "sessions", "starts": arrivals, "turns": turns, "tool_delay_s": delay}
    workload = {
        "arrivals": arrivals,
        "prompt_tokens": rng.choice(plain(LENGTHS)),
        "output_tokens": rng.choice(plain(LENGTHS)),
        "requests": 5,
        "duration_s": 2.0,
        "prefix": {"tokens": rng.choice(plain(LENGTHS)), "groups": 3, "popularity": 1.0, "share": 0.5},
        "patience_s": rng.choice(plain(WAITS)),
        "timeout_s": rng.choice(plain(WAITS)),
        "slo": {"ttft_ms": 100},
        "classes": {"one": {"share": 1, "priority": 1}, "two": {"share": 2, "prompt_tokens": 50}},
    }
    for optional in ("duration_s", "prefix", "patience_s", "timeout_s", "slo", "classes"):
        if rng.random() < 0.6:
            del workload[optional]
    broken = mutated(workload, rng, rng.randint(1, 2))
    scenario = {**rng.choice(scenarios()), "workload": "w.yaml"}
    return Case(("run", "s.yaml"), (("s.yaml", as_yaml(scenario)), ("w.yaml", as_yaml(broken, rng))))


def topology_case(rng: random.Random) -> Case:
    """A description of a machine with a few things wrong in it, looked at in several ways."""
    written = yaml.safe_load(rng.choice(_texts("topologies/*.yaml")))
    text = as_yaml(mutated(written, rng, rng.randint(1, 3)), rng)
    scenario = {"topology": "t.yaml", "model": "llama-3-8b", "workload": QUICK}
    words: tuple[str, ...] = rng.choice((
        ("topology", "check", "t.yaml"),
        ("topology", "check", "t.yaml", "--nodes", rng.choice(("1", "2", "9"))),
        ("topology", "show", "t.yaml", "--format", "json"),
        ("topology", "draw", "t.yaml", "--out", "t.html"),
        ("collective", rng.choice(("all_reduce", "all_gather", "all_to_all", "send_recv")), "-t", "t.yaml",
        "-e", "1M"),
        ("collective", "all_reduce", "-t", "t.yaml", "--nodes", "2", "-b", "1M", "-e", "1M"),
        ("run", "s.yaml"),
        ("run", "s.yaml", "--set", "nodes=2", "--set", "engine.tensor_parallel_size=2"),
    ))  # fmt: skip
    return Case(words, (("t.yaml", text), ("s.yaml", as_yaml(scenario))))


def model_case(rng: random.Random) -> Case:
    """A model's config.json with a few things wrong in it."""
    written = json.loads(rng.choice(_texts("workloads/models/*.json")))
    text = json.dumps(mutated(written, rng, rng.randint(1, 3)), indent=1)
    if rng.random() < 0.15:
        text = noisy(text, rng)
    engine = rng.choice(
        ({"tensor_parallel_size": 8}, {}, {"data_parallel_size": 8, "enable_expert_parallel": True})
    )
    scenario = {"topology": "hgx-b300", "model": "m.json", "engine": engine, "workload": QUICK}
    return Case(("run", "s.yaml"), (("s.yaml", as_yaml(scenario)), ("m.json", text)))


def _cells(text: str, rng: random.Random) -> str:
    """A table with some cells replaced."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(rng.randint(1, 3)):
        row = rng.choice(rows)
        value = rng.choice(NASTY)
        row[rng.randrange(len(row))] = "" if value is None else str(value).replace(",", ";")
    return "\n".join(",".join(row) for row in rows) + "\n"


def trace_case(rng: random.Random) -> Case:
    """A recorded trace with a few cells or signs wrong in it."""
    text = rng.choice((*_texts("workloads/traces/*.csv"), *_texts("workloads/traces/*.jsonl")))
    if text.startswith("{"):
        rows = [json.loads(line) for line in text.splitlines()]
        text = "".join(json.dumps(row) + "\n" for row in mutated(rows, rng, rng.randint(1, 3)))
        name = "t.jsonl"
    else:
        text, name = _cells(text, rng), "t.csv"
    if rng.random() < 0.3:
        text = noisy(text, rng)
    trace = {"kind": "trace", "path": name}
    lengths = {"arrivals": {"kind": "burst"}, "prompt_tokens": trace, "output_tokens": trace, "requests": 4}
    workload = rng.choice(({"arrivals": {**trace, "limit": 5}}, {"arrivals": trace}, lengths))
    scenario = {"topology": "a100-x4", "model": "llama-3-8b", "workload": workload}
    return Case(("run", "s.yaml"), (("s.yaml", as_yaml(scenario)), (name, text)))


def measured_case(rng: random.Random) -> Case:
    """A table of measured kernels with a few cells or signs wrong in it."""
    text = rng.choice((KERNELS, KERNELS, *_texts("sim/data/measured/*.csv", 6)))
    text = _cells(text, rng) if rng.random() < 0.7 else noisy(text, rng)
    kernels = {"kind": "measured", "path": "k.csv"}
    scenario = {"topology": "nd-h100-v5", "model": "llama-3-8b", "kernels": kernels, "workload": QUICK}
    words: tuple[str, ...] = ("run", "s.yaml")
    if rng.random() < 0.3:
        words = ("calibrate", "kernels", "k.csv", "--no-cross-validation")
    return Case(words, (("s.yaml", as_yaml(scenario)), ("k.csv", text)))


def collectives_case(rng: random.Random) -> Case:
    """A log of nccl-tests, or a table of measured collectives, with a few things wrong in it."""
    tables = _texts("sim/data/measured/collectives/*.csv", 6)
    text = rng.choice((NCCL_LOG, NCCL_LOG, NCCL_LOG, *tables))
    text = noisy(text, rng) if text is NCCL_LOG or rng.random() < 0.4 else _cells(text, rng)
    name = "n.log" if text.startswith(("#", " ")) else "n.csv"
    words = ["calibrate", "collectives", name]
    if rng.random() < 0.6:
        words += ["--op", rng.choice(("all_reduce", "all_gather", "all_to_all", "x", ""))]
    if rng.random() < 0.6:
        words += ["--system", rng.choice(("nd-h100-v5", "h100_sxm", "dgx-a100", "l40s-12", "x", ""))]
    return Case(tuple(words), ((name, text),))


def change_case(rng: random.Random) -> Case:
    """A whole scenario, and changes from the command line that do not fit."""
    scenario = as_yaml(rng.choice(scenarios()))
    return Case(("run", "s.yaml", *_change_words(rng)), (("s.yaml", scenario),))


def words_case(rng: random.Random) -> Case:
    """Verbs and options with nonsense behind them."""
    small = {"topology": "a100-x4", "model": "llama-3-8b", "workload": QUICK}
    words = list(rng.choice((
        ("run", "s.yaml", "--seed", "1"), ("run", "s.yaml", "--out", "o", "--format", "json"), ("run",
        "s.yaml", "--no-fold"),
        ("list",), ("list", "gpus", "h100-sxm"), ("list", "models", "llama-3-8b"), ("list", "topologies",
        "l40s-12"),
        ("list", "workloads", "agents"), ("schema", "scenario"), ("schema", "topology"),
        ("collective", "all_reduce", "-t", "nd-h100-v5", "-b", "8", "-e", "1M", "-f", "8"),
        ("collective", "all_reduce", "-t", "nd-h100-v5", "-n", "4", "--nodes", "2", "--algorithm", "ring",
        "--protocol", "ll"),
        ("collective", "send_recv", "-t", "l40s-12", "-n", "2", "--library", "nccl"),
        ("kernel", "h100-sxm", "gemm", "--m", "64", "--n", "4096", "--k", "4096"),
        ("kernel", "h100-sxm", "attention_decode", "--batch", "8", "--kv-tokens", "1000", "--heads", "32",
        "--kv-heads", "8"),
        ("topology", "show", "l40s-12"), ("topology", "check", "nd-h100-v5", "--nodes", "3"),
        ("topology", "draw", "a100-x4", "--out", "x.svg"), ("validate", "nosuch", "--points", "s.yaml"),
        ("sweep", "s.yaml", "--over", "replicas=1,2", "--seeds", "1"), ("compare", "s.yaml", "s.yaml",
        "--seeds", "2"),
        ("capacity", "s.yaml", "--slo", "p99_ttft_ms=500"), ("calibrate", "kernels", "s.yaml"),
    )))  # fmt: skip
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(words) + 1)
        value = rng.choice(NASTY)
        text = value if isinstance(value, str) else json.dumps(value)
        what = rng.randrange(4)
        if what == 0 and at < len(words) and len(words) > 1:
            del words[at]
        elif what <= 2 and 0 < at < len(words):
            words[at] = text
        else:
            words.insert(at, text)
    if words and words[0] == "validate" and "nosuch" not in words:
        words.insert(1, "nosuch")  # all of it takes minutes, and rightly so
    changed = tuple(word.replace("\0", "") for word in words)
    return Case(changed, (("s.yaml", as_yaml(small)),))


def experts_case(rng: random.Random) -> Case:
    """Counts of experts, as a table or as YAML, with a few things wrong in them."""
    if rng.random() < 0.5:
        rows = "".join(f"{expert},{100 + expert}\n" for expert in range(8))
        text, name = "expert,tokens\n" + rows, "e.csv"
        text = _cells(text, rng) if rng.random() < 0.7 else noisy(text, rng)
    else:
        counts: Any = rng.choice((list(range(1, 9)), dict.fromkeys(range(8), 10)))
        text, name = as_yaml(mutated({"counts": counts}, rng, rng.randint(1, 2)), rng), "e.yaml"
    engine = {"enable_expert_parallel": True, "tensor_parallel_size": 2, "expert_routing": {"weights": name}}
    scenario = {"topology": "a100-x4", "model": "mixtral-8x7b", "engine": engine, "workload": QUICK}
    return Case(("run", "s.yaml"), (("s.yaml", as_yaml(scenario)), (name, text)))


SMALL = {"topology": "a100-x4", "model": "llama-3-8b", "workload": QUICK}
OPEN = {**SMALL, "workload": {**QUICK, "arrivals": {"kind": "poisson", "rate_per_s": 5.0}, "duration_s": 1.0}}
STUDIES: tuple[tuple[str, ...], ...] = (
    ("sweep", "s.yaml", "--over", "replicas=1,2", "--seeds", "1", "--out", "t.csv"),
    ("sweep", "s.yaml", "--over", "engine.max_num_seqs=1,2", "--over", "replicas=1", "--out", "t.parquet"),
    ("sweep", "s.yaml", "--over", "engine.tensor_parallel_size=1,3", "--format", "json",
     "--metric", "p99_ttft_ms"),
    ("compare", "s.yaml", "other.yaml", "--seeds", "2", "--out", "t.csv"),
    ("compare", "s.yaml", "other.yaml", "--seeds", "2", "--set", "replicas=2", "--format", "json"),
    ("capacity", "s.yaml", "--slo", "p99_ttft_ms=500", "--tolerance", "0.5", "--out", "t.csv"),
    ("capacity", "s.yaml", "--slo", "mean_tpot_ms=50", "--tolerance", "0.5", "--set", "replicas=2"),
)  # fmt: skip


@cache
def _row_of_a_study(replicas: int) -> dict[str, Any]:
    """A line as a study keeps it, of the first run of a sweep."""
    import sim
    from sim.studies.kept import plain, row_digest
    from sim.studies.points import Point, row_of

    row = row_of(sim.Scenario.model_validate(OPEN), Point(0, (("replicas", replicas),), 0))
    numbers = {"summary": row.summary, "causes": row.causes, "wall_s": 0.1, "links": row.links}
    key = json.dumps([0, [["replicas", replicas]], 0])
    line = {"key": key, "status": row.status, "reason": row.reason, **numbers}
    return json.loads(json.dumps({**line, "digest": row_digest(line)}, default=plain))  # type: ignore[no-any-return]


def study_case(rng: random.Random) -> Case:
    """Studies with an option or a scenario that is wrong, or beside what an earlier one has left."""
    words = list(rng.choice(STUDIES))
    scenario: Any = OPEN
    if rng.random() < 0.4:
        scenario = mutated(scenario, rng)
    if rng.random() < 0.4:
        words += rng.choice(
            (_change_words(rng), ["--force"], ["--metric", "x"], ["--seeds", rng.choice(("0", "3", "-1"))])
        )
    if rng.random() < 0.4:
        at = rng.randrange(2, len(words))
        value = rng.choice(NASTY)
        words[at] = (value if isinstance(value, str) else json.dumps(value)).replace("\0", "")
    files = [("s.yaml", as_yaml(scenario)), ("other.yaml", as_yaml(SMALL))]
    if rng.random() < 0.5:
        lines = [{"study": STUDY}, _row_of_a_study(1), _row_of_a_study(rng.choice((1, 2)))]
        text = "".join(json.dumps(line) + "\n" for line in mutated(lines, rng, rng.randint(0, 2)))
        files.append(("t.csv.rows", noisy(text, rng) if rng.random() < 0.4 else text))
    if rng.random() < 0.2:
        files.append((rng.choice(("t.csv", "t.parquet", ".t.csv.lock", ".t.csv.partial", "t.csv/x")), "x"))
    return Case(tuple(words), tuple(files))  # fmt: skip


def as_bytes(text: str) -> bytes:
    """The bytes of a file: those of a binary one as they were, and of what no text can have as it can be."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


@cache
def _saved_run() -> tuple[tuple[str, str], ...]:
    """The files of a folder that a run has left."""
    import sim

    with tempfile.TemporaryDirectory() as folder:
        sim.simulate(sim.Scenario.model_validate(SMALL)).save(Path(folder) / "o")
        paths = sorted((Path(folder) / "o").iterdir())
        return tuple((path.name, path.read_bytes().decode("utf-8", "surrogateescape")) for path in paths)


def saved_case(rng: random.Random) -> Case:
    """The folder of a run with one of its files broken, read back or written over."""
    saved = dict(_saved_run())
    manifest = json.loads(saved["manifest.json"])
    broken = rng.choice((*saved, "manifest.json", "manifest.json", "manifest.json"))
    if broken == "manifest.json":
        text = json.dumps(mutated(manifest, rng, rng.randint(1, 2)))
        saved[broken] = noisy(text, rng) if rng.random() < 0.3 else text
    elif rng.random() < 0.2:
        del saved[broken]
    else:
        text = saved[broken]
        saved[broken] = (
            _cells(text, rng) if broken.endswith(".csv") and text and rng.random() < 0.6 else noisy(text, rng)
        )
        if rng.random() < 0.7:  # as somebody who edits a table and mends its digest
            content = as_bytes(saved[broken])
            manifest["files"][broken] = hashlib.sha256(content).hexdigest()
            saved["manifest.json"] = json.dumps(manifest)
    words: tuple[str, ...] = rng.choice((
        (LOAD, "o"), (LOAD, "o"), (LOAD, "o"),
        ("run", "s.yaml", "--out", "o", "--force"), ("run", "s.yaml", "--out", "o"),
        ("run", "o/scenario.resolved.yaml"),
    ))  # fmt: skip
    scenario = ("s.yaml", as_yaml(SMALL))
    return Case(words, (scenario, *((f"o/{name}", text) for name, text in saved.items())))


POINTS = "sim/data/measured/serving/closed_loops.csv"


def points_case(rng: random.Random) -> Case:
    """A table of closed loops of one's own, and kept rows, with a few cells or signs wrong in them."""
    head, *rows = (ROOT / POINTS).read_text().splitlines(True)
    text = head + "".join(rng.sample(rows, 2))
    text = _cells(text, rng) if rng.random() < 0.7 else noisy(text, rng)
    words = ["validate", "closed-loops", "--points", "p.csv", "--processes", "1"]
    files = [("p.csv", text)]
    if rng.random() < 0.4:
        kept = {"digest": "x", "key": "x", "rows": [], "reason": ""}
        lines = "".join(json.dumps(line) + "\n" for line in mutated([kept, kept], rng))
        files.append(("k.jsonl", noisy(lines, rng) if rng.random() < 0.4 else lines))
        words += ["--keep", "k.jsonl"]
    words += rng.choice(([], ["--summary"], ["--format", "json"], ["--out", "charts"], ["--out", "p.csv"]))
    return Case(tuple(words), tuple(files))


COUNTS: tuple[Any, ...] = (10**9, 10**12, 2**63, 0, -1, True, math.nan, "1e3")
"""What a whole number is tried with: more than any machine has, nothing, and what is none."""


@cache
def whole_numbers() -> dict[str, tuple[str, tuple[str | int, ...]]]:
    """Every key with a whole number: a scenario in which it stands, and where."""
    found: dict[str, tuple[str, tuple[str | int, ...]]] = {}
    for name, case in SCENARIOS.items():
        for key, places in case.keys.items():
            if places[0].whole and key not in found:
                found[key] = name, places[0].path
    return found


@cache
def _resolved(name: str) -> str:
    from sim.views.naming import scenario_text

    return scenario_text(SCENARIOS[name].scenario)


def with_count(key: str, count: Any) -> Case:
    """A whole scenario with another number at one key."""
    name, path = whole_numbers()[key]
    scenario = yaml.safe_load(_resolved(name))
    owner = scenario
    for step in path[:-1]:
        if isinstance(owner, dict):
            owner.setdefault(step, {})
        owner = owner[step]
    owner[path[-1]] = count
    return Case(("run", "s.yaml"), (("s.yaml", as_yaml(scenario)),))


def count_case(rng: random.Random) -> Case:
    """One whole number of a scenario replaced."""
    return with_count(rng.choice(sorted(whole_numbers())), rng.choice(COUNTS))


OPTIONS: tuple[tuple[str, ...], ...] = (
    ("--check",), ("--percentiles", "50,99.9"), ("--percentiles", "nan"), ("--percentiles", ",,"),
    ("--max-memory", "4GB"), ("--max-memory", "1"), ("--max-memory", "nan"), ("--no-fold",),
    ("--seed", "7"), ("--seed", "18446744073709551616"),
    ("--format", "json"), ("--out", "o"), ("--out", "s.yaml"), ("--out", "/dev/null/x"), ("--force",),
)  # fmt: skip


def options_case(rng: random.Random) -> Case:
    """A scenario with something wrong in it, under several options at once."""
    scenario = mutated(rng.choice(scenarios()), rng, rng.randint(0, 1))
    words = [word for option in rng.sample(OPTIONS, rng.randint(1, 3)) for word in option]
    return Case(("run", "s.yaml", *words), (("s.yaml", as_yaml(scenario)),))


KINDS: dict[str, tuple[int, Callable[[random.Random], Case]]] = {
    "scenario": (8, scenario_case),
    "traffic": (5, traffic_case),
    "topology": (5, topology_case),
    "model": (3, model_case),
    "trace": (3, trace_case),
    "measured": (2, measured_case),
    "collectives": (2, collectives_case),
    "change": (3, change_case),
    "words": (3, words_case),
    "experts": (1, experts_case),
    "study": (3, study_case),
    "saved": (2, saved_case),
    "points": (1, points_case),
    "options": (3, options_case),
    "count": (3, count_case),
}


def any_case(rng: random.Random) -> Case:
    """A case of any kind."""
    kinds = [kind for kind, (weight, _) in KINDS.items() for _ in range(weight)]
    return KINDS[rng.choice(kinds)][1](rng)
