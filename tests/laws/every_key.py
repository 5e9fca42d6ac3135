"""Every number of a scenario, changed one at a time, and whether any record of the run takes notice.

A key is named as `--set` names it. What stands once per name in the scenario (pools, classes, kinds of GPU,
formats of kernels) is one key with a `*`; types of links, parts and transports are keys of their own, for
they are different machines. A law or rule that is chosen by its `kind` has it in braces:
`workload.arrivals{gamma}.cv`. The elements of a list are one key with a `[]`.

`walk` lists the keys that a scenario sets or may set, `schema_keys` all that there are.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import polars
from pydantic import BaseModel

import sim

RELATIVE = 1e-9
TABLES = ("requests", "steps", "gaps", "blame", "links", "gpus", "hand_overs", "kv_tiers")
ECHOED = {("links", "bytes_per_s")}  # says what was written, whatever came of it
BY_NAME = ("topology.links", "topology.parts", "topology.transports")
BOTH_WAYS = ("latency_s", "hop_s")
"""Keys that have to act in both directions: less of a latency is faster, more is slower."""
KERNELS = "topology.gpus.*.kernels."
RULES = ("router", "hand_over.router", "placement", "kv_reload")

Outcome = Literal["acted", "same", "cannot be", "refused"]
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Key:
    """One number of a scenario: the key it belongs to, where it stands, what it is (None: left out)."""

    name: str
    path: Path
    value: float | None
    whole: bool
    also: tuple[Path, ...] = ()
    """Where the same number stands for other formats and engines; all of them are changed."""


# ---- which keys there are


def walk(scenario: sim.Scenario) -> Iterator[Key]:
    """Every number that the scenario has, or has left out where one could stand."""
    for key in _walk(scenario, "", ()):
        if (
            scenario.pools
            and key.name.startswith(("engine.", "model.", "replicas"))
            and key.path[0] != "pools"
        ):
            continue  # what pools leave out was handed down to them
        if key.name.startswith("topology.transports.") and key.path[2] != scenario.wired.inter_node:
            continue  # one transport carries a run, and the others are there to be chosen
        yield key


def _walk(value: Any, name: str, path: Path, annotation: Any = None) -> Iterator[Key]:
    if isinstance(value, bool | str):
        return
    if isinstance(value, int | float):
        yield Key(name, path, value, isinstance(value, int))
    elif value is None:
        numbers = _numbers_in(annotation)
        if numbers:
            yield Key(name, path, None, float not in numbers)
    elif isinstance(value, BaseModel):
        for one, described in type(value).model_fields.items():
            below = _below(name, value, one)
            yield from _walk(getattr(value, one), below, (*path, one), described.annotation)
    elif dataclasses.is_dataclass(value):
        kind = _kind_of_rule(value)
        for one in dataclasses.fields(value):
            yield from _walk(getattr(value, one.name), f"{name}{{{kind}}}.{one.name}", (*path, one.name))
    elif isinstance(value, Mapping):
        for one, entry in value.items():
            yield from _walk(entry, _entry(name, one), (*path, one))
    elif isinstance(value, tuple | list):
        for at, entry in enumerate(value):
            yield from _walk(entry, f"{name}[]", (*path, at))


def _below(name: str, owner: BaseModel, one: str) -> str:
    return _folded(f"{name}{_braces(type(owner))}.{one}".lstrip("."))


def _entry(name: str, one: str) -> str:
    return _folded(f"{name}.{one}" if name in BY_NAME else f"{name}.*")


def _folded(name: str) -> str:
    """What is the same description in several places is one key: a pool's engine, a system among systems."""
    if name.startswith("pools.*.") and name.split(".")[2] in ("engine", "model", "precision"):
        name = name.removeprefix("pools.*.")
    if name.startswith("topology.systems.*."):
        name = "topology." + name.removeprefix("topology.systems.*.")
    return name.replace(".kernels.engines.*.", ".kernels.")


def _braces(owner: type[BaseModel]) -> str:
    kind = owner.model_fields.get("kind")
    names = get_args(kind.annotation) if kind is not None and get_origin(kind.annotation) is Literal else ()
    return f"{{{names[0]}}}" if len(names) == 1 else ""


@cache
def _rules() -> dict[type, str]:
    """The rules that a scenario names by kind, with their names, as the schema of a scenario lists them."""
    found: dict[type, str] = {}
    at_all = SCENARIOS["textbook server"]
    for place, properties in _rule_schemas():
        for kind in properties["kind"]["enum"]:
            try:
                rule: Any = at_all.with_(**{place: kind})
            except sim.InputError:
                continue  # a rule with a knob that has to be given
            for step in place.split("."):
                rule = getattr(rule, step)
            found[type(rule)] = kind
    return found


def _rule_schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    schema = sim.Scenario.model_json_schema()
    yield from ((place, schema["properties"][place]["properties"]) for place in RULES if "." not in place)
    yield "hand_over.router", schema["$defs"]["HandOverRule"]["properties"]["router"]["properties"]


def _kind_of_rule(rule: Any) -> str:
    return _rules().get(type(rule), "explicit")


def _numbers_in(annotation: Any) -> set[type]:
    """Which numbers an annotation takes; those inside of containers and models are not among them."""
    if annotation in (int, float):
        return {annotation}
    if get_origin(annotation) is Annotated:
        return _numbers_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return {number for one in get_args(annotation) for number in _numbers_in(one)}
    return set()


def schema_keys() -> set[str]:
    """Every number that any scenario could have; below `links`, `parts` and `transports` with a `*`."""
    found: set[str] = set()
    _schema_keys(sim.Scenario, "", found, ())
    for place, properties in _rule_schemas():
        for rule, kind in _rules().items():
            if kind in properties["kind"]["enum"]:
                hints = get_type_hints(rule)
                found |= {f"{place}{{{kind}}}.{knob}" for knob, hint in hints.items() if _numbers_in(hint)}
    return found


def _schema_keys(annotation: Any, name: str, found: set[str], inside: tuple[Any, ...]) -> None:
    if annotation in (int, float):
        found.add(_folded(name))
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation in inside:
            return
        for one, described in annotation.model_fields.items():
            below = f"{name}{_braces(annotation)}.{one}".lstrip(".")
            _schema_keys(described.annotation, below, found, (*inside, annotation))
        return
    origin, of = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        _schema_keys(of[0], name, found, inside)
    elif origin in (Union, types.UnionType):
        for one in of:
            _schema_keys(one, name, found, inside)
    elif origin is dict:
        _schema_keys(of[1], f"{name}.*", found, inside)
    elif origin in (tuple, list):
        for one in of:
            if one is not Ellipsis:
                _schema_keys(one, f"{name}[]", found, inside)


def starred(name: str) -> str:
    """The name of a key with a `*` for the name of a link, part or transport, as `schema_keys` has it."""
    for place in BY_NAME:
        if name.startswith(f"{place}."):
            return ".".join([place, "*", *name.removeprefix(f"{place}.").split(".")[1:]])
    return name


# ---- small scenarios in which they stand


@dataclass(frozen=True)
class Case:
    """A small scenario, and its run as it was before anything is changed."""

    written: Mapping[str, Any] = field(repr=False)
    only: tuple[str, ...] = ("",)
    """The beginnings of the keys that it is there for."""

    @cached_property
    def scenario(self) -> sim.Scenario:
        return sim.Scenario.model_validate(dict(self.written))

    @cached_property
    def result(self) -> sim.Result:
        return sim.simulate(self.scenario)

    @cached_property
    def keys(self) -> dict[str, list[Key]]:
        found: dict[str, list[Key]] = {}
        for key in walk(self.scenario):
            if not key.name.startswith(self.only):
                continue
            found.setdefault(key.name, []).append(key)
        for name, keys in found.items():
            if name.startswith(KERNELS):
                found[name] = [replace(keys[0], also=tuple(key.path for key in keys[1:]))]
        return found

    def with_(self, **changes: Any) -> sim.Scenario:
        return sim.with_changes(self.scenario, changes)


@cache
def small(name: str, layers: int = 4, **changes: Any) -> dict[str, Any]:
    """A shipped model with few layers."""
    model = sim.load_model(name).model_dump()
    return {**model, "layers": layers, "name": f"{name} with {layers} layers", **changes}


def chat(requests: int = 12, rate_per_s: float = 40.0, **more: Any) -> dict[str, Any]:
    """Traffic of prompts and answers of mixed lengths."""
    return {
        "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
        "prompt_tokens": {"kind": "uniform", "low": 30, "high": 900},
        "output_tokens": {"kind": "uniform", "low": 2, "high": 40},
        "requests": requests,
        **more,
    }


def server(**workload: Any) -> dict[str, Any]:
    """A textbook server: its service times are given, no GPU is at work."""
    traffic = {**chat(20, 5.0), **workload}
    given = {"step_s": 0.01, "sequence_s": 0.001, "token_s": 1e-4}
    engine = {"service_time": given, "max_num_seqs": 4, "enable_prefix_caching": "prefix" in workload}
    return {"topology": "a100-x4", "model": small("llama-3-8b"), "engine": engine, "workload": traffic}


POOL = {"tensor_parallel_size": 4}
SESSIONS = {
    "kind": "sessions",
    "starts": {"kind": "poisson", "rate_per_s": 10.0},
    "turns": 3,
    "tool_delay_s": 0.05,
    "max_context_tokens": 4000,
}
TIERS = {
    "host": {"capacity_bytes": 3e7, "read_bytes_per_s": 2e9, "write_bytes_per_s": 2e9, "staging_bytes": 1e7},
    "nvme": {"capacity_bytes": 5e7, "read_bytes_per_s": 1e9, "write_bytes_per_s": 1e9},
    "remote": {"capacity_bytes": 1e9, "place": "node1.host0"},
}

BASES: dict[str, dict[str, Any]] = {
    "tensor parallel": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": {"tensor_parallel_size": 8},
        "workload": chat(),
    },
    "one GPU": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b", 8),
        "precision": {"weights": "fp8"},
        "workload": chat(prompt_tokens=3000),
    },
    "two servers": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b"),
        "engine": {"tensor_parallel_size": 16},
        "workload": chat(),
    },
    "two servers, typical InfiniBand": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b"),
        "engine": {"tensor_parallel_size": 16, "inter_node": "ib-typical"},
        "workload": chat(6),
    },
    "two servers, degraded InfiniBand": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b"),
        "engine": {"tensor_parallel_size": 16, "inter_node": "ib-degraded"},
        "workload": chat(6),
    },
    "two servers, TCP": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b"),
        "engine": {"tensor_parallel_size": 16, "inter_node": "tcp-eth0"},
        "workload": chat(6),
    },
    "pipeline": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b", 6),
        "engine": {
            "tensor_parallel_size": 8,
            "pipeline_parallel_size": 2,
            "executor": "ray",
            "step_gap_s": 1e-4,
            "frontend_s": 1e-3,
            "frontend_token_s": 1e-6,
            "long_prefill_token_threshold": 400,
        },
        "workload": chat(),
    },
    "experts": {
        "topology": "nd-h100-v5",
        "model": small("deepseek-v3", 6, dense_layer_indices=(0, 1, 2)),
        "precision": {"weights": "fp8_block", "kv_cache": "fp8"},
        "engine": {
            "data_parallel_size": 8,
            "enable_expert_parallel": True,
            "expert_routing": {"popularity": "zipf", "redundant_experts": 8, "placement": "balanced"},
        },
        "workload": chat(),
    },
    "experts of two servers": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("deepseek-v3", 5, dense_layer_indices=(0, 1, 2)),
        "precision": {"weights": "fp8_block", "kv_cache": "fp8"},
        "engine": {"data_parallel_size": 16, "enable_expert_parallel": True},
        "workload": chat(),
    },
    "experts counted": {
        "topology": "nd-h100-v5",
        "model": small("mixtral-8x7b"),
        "engine": {
            "data_parallel_size": 4,
            "enable_expert_parallel": True,
            "expert_routing": {"popularity": "given", "weights": (5, 1, 1, 1, 1, 1, 1, 1)},
        },
        "workload": chat(),
    },
    "experts under tensor parallel": {
        "topology": "nd-h100-v5",
        "model": small("gpt-oss-120b", sliding_layers=2),
        "precision": {"experts": "w4a16"},
        "engine": {"tensor_parallel_size": 2},
        "workload": chat(),
    },
    "experts of one GPU": {
        "topology": "nd-h100-v5",
        "model": small("qwen3-30b-a3b"),
        "workload": chat(),
    },
    "prompts and answers apart": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-70b"),
        "pools": {
            "prefill": {"replicas": 1, "engine": POOL},
            "decode": {"replicas": 3, "engine": POOL},
        },
        "hand_over": {"router": {"kind": "nearest", "requests_per_hop": 0.4}},
        "workload": chat(16, 200.0),
    },
    "tiers": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "engine": {"num_gpu_blocks_override": 150, "kv_tiers": TIERS},
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "drives": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "kv_reload": "always",
        "engine": {"num_gpu_blocks_override": 150, "kv_tiers": {"nvme": {"capacity_bytes": 1e9}}},
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "drives that hold up": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "kv_reload": "always",
        "engine": {
            "num_gpu_blocks_override": 150,
            "kv_tiers": {
                "nvme": {
                    "capacity_bytes": 5e7,
                    "read_bytes_per_s": 1e8,
                    "write_bytes_per_s": 1e8,
                    "staging_bytes": 1e7,
                },
            },
        },
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "a remote store": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "kv_reload": "always",
        "engine": {
            "num_gpu_blocks_override": 150,
            "kv_tiers": {
                "remote": {
                    "capacity_bytes": 5e7,
                    "place": "node1.host1",
                    "read_bytes_per_s": 1e8,
                    "write_bytes_per_s": 1e8,
                    "staging_bytes": 1e7,
                },
            },
        },
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "a remote store as fast as its links": {
        "topology": "nd-h100-v5",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "kv_reload": "always",
        "engine": {
            "num_gpu_blocks_override": 150,
            "kv_tiers": {"remote": {"capacity_bytes": 1e9, "place": "node1.host1"}},
        },
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "tiers written on eviction, over PCIe 4": {
        "topology": "l40s-12",
        "model": small("llama-3-8b"),
        "engine": {
            "num_gpu_blocks_override": 150,
            "kv_tiers": {"write": "on_eviction", "host": {"capacity_bytes": 1e9}},
        },
        "workload": chat(24, prefix={"tokens": 600, "groups": 5}),
    },
    "sessions behind PCIe switches": {
        "topology": "l40s-12",
        "model": small("llama-3-8b"),
        "replicas": 3,
        "router": {"kind": "prefix_aware", "load_weight": 0.3},
        "router_staleness_s": 0.01,
        "engine": {"tensor_parallel_size": 4, "num_gpu_blocks_override": 400},
        "placement": {"kind": "strided", "stride": 3},
        "workload": chat(24, arrivals=SESSIONS, prompt_tokens=150, output_tokens=20),
    },
    "PCIe servers": {
        "topology": "l40s-12",
        "nodes": 2,
        "model": small("llama-3-8b"),
        "replicas": 3,
        "placement": "strided",
        "engine": {"tensor_parallel_size": 8},
        "workload": chat(6),
    },
    "two tiers of switches": {
        "topology": {
            **sim.load_topology("l40s-12").model_dump(),
            "scale_out": [
                {
                    "of": "nic",
                    "link": "infiniband-hdr",
                    "latency_s": 1.3e-7,
                    "switch_ports": 4,
                    "down_ports": 2,
                    "rails": 1,
                }
            ],
        },
        "nodes": 3,
        "model": small("llama-3-8b"),
        "replicas": 4,
        "placement": "strided",
        "engine": {"tensor_parallel_size": 8},
        "workload": chat(8, 400.0),
    },
    "texts too long for the model": {
        "topology": "a100-x4",
        "model": small("llama-3-8b", max_context=700),
        "workload": chat(),
    },
    "every query head with keys of its own": {
        "topology": "hgx-b300",
        "model": small("llama-3-8b", kv_heads=32),
        "engine": {"gpu_memory_utilization": 0.0295, "max_num_batched_tokens": 1024},
        "workload": chat(24, 400.0),
    },
    "staged in host memory": {
        "topology": "a100-x4-no-p2p",
        "model": small("llama-3-8b"),
        "engine": {"tensor_parallel_size": 4},
        "workload": chat(6),
    },
    "routers of many": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "replicas": 4,
        "router": {"kind": "power_of_choices", "choices": 2},
        "router_staleness_s": 0.01,
        "workload": chat(24, 150.0),
    },
    "speculation": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": {
            "tensor_parallel_size": 2,
            "speculation": {"num_speculative_tokens": 3, "acceptance_rate": 0.7, "draft_s": 2e-4},
        },
        "workload": chat(),
    },
    "faults": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "replicas": 2,
        "engine": {"tensor_parallel_size": 4},
        "faults": [
            {"at_s": 0.05, "until_s": 0.1, "replica": 1},
            {"at_s": 0.12, "until_s": 0.2, "link": "node0.gpu0->nvlink0", "capacity": 0.2},
        ],
        "workload": chat(),
    },
    "few blocks": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": {
            "tensor_parallel_size": 2,
            "num_gpu_blocks_override": 80,
            "max_num_seqs": 6,
            "max_num_batched_tokens": 256,
            "max_model_len": 1000,
            "watermark": 0.05,
            "async_scheduling": False,
            "host": {"sequence_s": 1e-5},
        },
        "workload": chat(16, 200.0),
    },
    "whole prompts, kernel by kernel": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-8b"),
        "engine": {
            "backend": "trtllm",
            "enforce_eager": True,
            "batch_wait_timeout_iters": 3,
            "max_num_batched_tokens": 2048,
            "max_num_seqs": 8,
            "free_gpu_memory_fraction": 0.001,
            "capacity_scheduler_policy": "guaranteed_no_evict",
        },
        "workload": chat(16, 300.0),
    },
    "memory that is short": {
        "topology": "nd-h100-v5",
        "model": small("llama-3-70b", 40),
        "engine": {"gpu_memory_utilization": 0.98, "max_model_len": 2000},
        "workload": chat(16, 300.0),
    },
    "closed loop": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "engine": {"tensor_parallel_size": 4},
        "workload": chat(arrivals={"kind": "closed_loop", "users": 3, "think_time_s": 0.02, "ramp_s": 0.1}),
    },
    "textbook server": {**server(), "time_limit_s": 3.0, "warmup": 0.2},
    "impatient clients": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "engine": {"max_num_seqs": 2},
        "workload": chat(
            24,
            100.0,
            patience_s=0.1,
            timeout_s=0.2,
            duration_s=0.2,
            slo={"ttft_ms": 30, "tpot_ms": 5, "e2el_ms": 100},
            classes={
                "one": {"share": 1.0, "priority": 1, "slo": {"ttft_ms": 30, "tpot_ms": 4, "e2el_ms": 90}},
                "other": {"share": 2.0, "priority": 2},
            },
        )
        | {"name": ""},
    },
    "by priority": {
        "topology": "a100-x4",
        "model": small("llama-3-8b"),
        "engine": {"max_num_seqs": 2, "scheduling_policy": "priority"},
        "workload": chat(
            24,
            400.0,
            classes={"one": {"priority": 1}, "other": {"priority": 2}, "third": {"priority": 3}},
        ),
    },
}

LENGTHS: tuple[Any, ...] = (
    {"kind": "fixed", "tokens": 40},
    {"kind": "uniform", "low": 20, "high": 60},
    {"kind": "lognormal", "mean": 40, "cv": 1.0, "low": 20, "high": 100},
    {"kind": "zipf", "exponent": 1.1, "low": 5, "high": 60},
    {"kind": "geometric", "mean": 40, "high": 80},
    {"kind": "empirical", "values": (20, 60, 90), "weights": (1.0, 2.0, 1.0)},
    {"kind": "trace", "name": "azure-llm-2023-conversation", "low": 600, "high": 1200},
    {"kind": "trace", "name": "azure-llm-2023-conversation", "low": 100, "high": 200},
)
TURNS: tuple[Any, ...] = (
    {"kind": "fixed", "tokens": 2},
    {"kind": "uniform", "low": 2, "high": 4},
    {"kind": "lognormal", "mean": 2, "cv": 1.0, "low": 2, "high": 3},
    {"kind": "zipf", "exponent": 1.1, "low": 2, "high": 4},
    {"kind": "geometric", "mean": 2, "high": 3},
    {"kind": "empirical", "values": (1, 2, 4), "weights": (1.0, 2.0, 1.0)},
)
WAITS: tuple[Any, ...] = (
    {"kind": "fixed", "value_s": 0.1},
    {"kind": "exponential", "mean_s": 0.1},
    {"kind": "uniform", "low_s": 0.05, "high_s": 0.2},
    {"kind": "lognormal", "mean_s": 0.1, "cv": 1.0},
)
ARRIVALS: tuple[Any, ...] = (
    {"kind": "poisson", "rate_per_s": 20.0},
    {"kind": "constant", "rate_per_s": 20.0},
    {"kind": "gamma", "rate_per_s": 20.0, "cv": 2.0},
    {"kind": "gamma", "rate_per_s": 20.0, "burstiness": 2.0},
    {"kind": "on_off", "on_rate_per_s": 40.0, "off_rate_per_s": 2.0, "mean_on_s": 0.1, "mean_off_s": 0.1},
    {"kind": "mmpp", "states": ({"rate_per_s": 40.0, "mean_stay_s": 0.1}, {"rate_per_s": 2.0,
    "mean_stay_s": 0.1})},
    {"kind": "time_varying", "pieces": ({"rate_per_s": 40.0, "duration_s": 0.1}, {"rate_per_s": 2.0,
    "duration_s": 0.1})},
    {"kind": "burst", "at_s": 0.1},
)  # fmt: skip
TRACE = {
    "kind": "trace",
    "name": "azure-llm-2023-conversation",
    "speedup": 2.0,
    "limit": 12,
    "duration_s": 60.0,
    "start_s": 1.0,
}


def _laws() -> Iterator[tuple[str, dict[str, Any]]]:
    """The textbook server with every law in every place where one can stand."""

    def with_prefix(law: Any) -> dict[str, Any]:
        return {"prefix": {"tokens": law, "groups": 30, "popularity": 0.5, "share": 0.7}}

    classes: Callable[[dict[str, Any]], dict[str, Any]] = lambda of: {"classes": {"one": of, "other": {}}}  # noqa: E731
    sessions = {**SESSIONS, "block_tokens": 16}
    places: tuple[tuple[str, Sequence[Any], Callable[[Any], dict[str, Any]]], ...] = (
        ("prompt_tokens", LENGTHS, lambda law: {"prompt_tokens": law}),
        ("output_tokens", LENGTHS, lambda law: {"output_tokens": law}),
        ("prefix", LENGTHS, with_prefix),
        ("prompt_tokens of a class", LENGTHS, lambda law: classes({"prompt_tokens": law})),
        ("output_tokens of a class", LENGTHS, lambda law: classes({"output_tokens": law})),
        ("prefix of a class", LENGTHS, lambda law: classes(with_prefix(law)) | {"prefix": {"tokens": 30}}),
        ("turns", TURNS, lambda law: {"arrivals": {**sessions, "turns": law}, "prompt_tokens": 30,
        "requests": 40}),
        ("tool_delay_s", WAITS, lambda law: {"arrivals": {**sessions, "tool_delay_s": law},
        "prefix": {"tokens": 32}}),
        ("think_time_s", WAITS, lambda law: {"arrivals": {"kind": "closed_loop", "users": 3,
        "think_time_s": law}}),
        ("patience_s", WAITS, lambda law: {"patience_s": law}),
        ("timeout_s", WAITS, lambda law: {"timeout_s": law}),
        ("patience_s of a class", WAITS, lambda law: classes({"patience_s": law})),
        ("timeout_s of a class", WAITS, lambda law: classes({"timeout_s": law})),
        ("arrivals", (*ARRIVALS, TRACE), lambda law: {"arrivals": law}),
        ("starts", ARRIVALS, lambda law: {"arrivals": {**sessions, "starts": law}, "prefix": {"tokens": 32}}),
    )  # fmt: skip
    for place, laws, workload in places:
        for number, law in enumerate(laws):
            yield f"{place} {law['kind']} {number}", server(**workload(law))


def _routers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Several replicas behind routers with knobs, and answers handed over by such routers."""
    for kind, knob in (
        ("nearest", "requests_per_hop"),
        ("power_of_choices", "choices"),
        ("prefix_aware", "load_weight"),
    ):
        rule = {"kind": kind, knob: 1}
        shared = chat(24, 150.0, prefix={"tokens": 300, "groups": 6})
        near = {**BASES["PCIe servers"], "placement": "packed", "router": rule, "workload": shared}
        yield f"router {kind}", near
        apart = {**BASES["prompts and answers apart"], "hand_over": {"router": rule}, "workload": shared}
        yield f"handed over by {kind}", apart


SCENARIOS: dict[str, Case] = {
    **{name: Case(written) for name, written in BASES.items()},
    **{name: Case(written, ("router", "hand_over")) for name, written in _routers()},
    **{name: Case(written, ("workload",)) for name, written in _laws()},
}
SCENARIOS["every query head with keys of its own"] = replace(
    SCENARIOS["every query head with keys of its own"], only=("topology.gpus",)
)
_SHARED_UPLINKS = {
    name: number
    for name, number in BASES["two tiers of switches"]["topology"]["scale_out"][0].items()
    if name != "down_ports"
}
SCENARIOS["uplinks that NICs share"] = Case(
    {
        **BASES["two tiers of switches"],
        "topology": {
            **BASES["two tiers of switches"]["topology"],
            "scale_out": [{**_SHARED_UPLINKS, "oversubscription": 1.0}],
        },
    },
    ("topology.scale_out",),
)
KERNEL_SCENARIOS = (
    "one GPU",
    "tensor parallel",
    "experts",
    "experts of one GPU",
    "every query head with keys of its own",
    "two tiers of switches",
    "impatient clients",
    "experts under tensor parallel",
    "PCIe servers",
    "whole prompts, kernel by kernel",
)
"""Where kernels' parameters are changed: each of them stands in every scenario."""
SCENARIOS["textbook server"] = replace(
    SCENARIOS["textbook server"], only=("engine", "workload", "time_limit_s", "warmup", "replicas")
)


# ---- what a change of one of them does


def changed(case: Case, key: Key, value: float) -> sim.Scenario:
    """The scenario with another number at a key; one in a list is changed with the whole list."""
    if key.also:
        paths = (key.path, *key.also)
        return sim.with_changes(case.scenario, {".".join(map(str, path)): value for path in paths})
    cut = next((at for at, step in enumerate(key.path) if isinstance(step, int)), len(key.path))
    dotted = ".".join(str(step) for step in key.path[:cut])
    if cut == len(key.path):
        return sim.with_changes(case.scenario, {dotted: value})
    held: Any = case.scenario.model_dump()
    for step in key.path[:cut]:
        held = held[step]
    return sim.with_changes(case.scenario, {dotted: _with_element(held, key.path[cut:], value)})


def _with_element(held: Any, path: Path, value: float) -> Any:
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(first, int):
        return [_with_element(one, rest, value) if at == first else one for at, one in enumerate(held)]
    return {**held, first: _with_element(held[first], rest, value)}


def outcome(case: Case, key: Key, value: float) -> Outcome:
    """What comes of one changed number: other records, the same, a refusal by the run or by the schema."""
    before = case.result  # whatever goes wrong with it is not the change's
    try:
        after = sim.simulate(changed(case, key, value))
    except sim.InputError:
        return "refused"
    except (sim.InfeasibleError, sim.UnfinishedError):
        return "cannot be"
    return "acted" if differ(before, after) else "same"


def candidates(key: Key) -> dict[str, list[float]]:
    """Other values, by direction: less and more of what there is; anything where nothing is."""
    last = key.name.rsplit(".", 1)[-1].removesuffix("[]")
    value = key.value
    if not value:  # None or zero
        at_first: tuple[float, ...] = (1, 4, 64) if key.whole else (0.5, 0.01, 2.0)
        if last.endswith("_s") and "bytes" not in last and "rate" not in last:
            at_first = (1e-3, 0.05)
        elif last.endswith("bytes_per_s"):
            at_first = (1e9, 1e7)
        elif last.endswith("_ms"):
            at_first = (10.0, 100.0)
        return {"more": list(at_first)}
    if isinstance(value, float) and not math.isfinite(value):
        return {}
    if key.whole:
        less = [value // 2, value - 1] if value > 1 else [0] if value == 1 else [value * 2]
        return {"less": list(dict.fromkeys(less)), "more": [value * 2, value + 1]}
    if 0.01 < value <= 1:
        return {"less": [value / 2, value / 10], "more": [value * 2, (1 + value) / 2 if value < 1 else 1.2]}
    return {"less": [value / 10], "more": [value * 10]}


def differ(one: sim.Result, other: sim.Result) -> bool:
    """Whether any number of any record is another, by more than rounding."""
    return any(_tables_differ(name, getattr(one, name), getattr(other, name)) for name in TABLES) or (
        _numbers_differ(_summary(one), _summary(other))
    )


def _summary(result: sim.Result) -> list[float]:
    return [
        math.nan if number is None else float(number)
        for number in _leaves(result.summary())
        if number is None or isinstance(number, int | float)
    ]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for entry in value.values():
            yield from _leaves(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value


def _tables_differ(name: str, one: polars.DataFrame, other: polars.DataFrame) -> bool:
    if one.shape != other.shape or one.columns != other.columns:
        return True
    for column in one.columns:
        if (name, column) in ECHOED or one[column].equals(other[column]):
            continue
        if one[column].dtype != polars.Float64:
            return True
        if _numbers_differ(one[column].to_numpy(), other[column].to_numpy()):
            return True
    return False


def _numbers_differ(one: Any, other: Any) -> bool:
    first, second = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if first.shape != second.shape:
        return True
    with np.errstate(invalid="ignore"):
        apart = np.abs(first - second) > RELATIVE * np.maximum(np.abs(first), np.abs(second)) + 1e-12
    return bool((apart | (np.isnan(first) != np.isnan(second))).any())


@dataclass
class Findings:
    """What was seen of a key: by direction and scenario, the outcomes of the values that were tried."""

    seen: dict[str, dict[str, list[Outcome]]] = field(default_factory=dict)

    def outcomes(self, direction: str) -> set[Outcome]:
        return {one for outcomes in self.seen.get(direction, {}).values() for one in outcomes}

    def heard(self, direction: str) -> bool:
        """Whether some run was another, or could not be."""
        return bool(self.outcomes(direction) & {"acted", "cannot be"})


def directions(name: str) -> tuple[str, ...]:
    """In which directions a key has to act: in one, or each of two."""
    return ("less", "more") if name.endswith(BOTH_WAYS) and name.startswith("topology.") else ("either",)


def _wanted(name: str, direction: str) -> str:
    return direction if len(directions(name)) > 1 else "either"


def probe(
    names: Sequence[str] | None = None, first_of: Mapping[str, str] | None = None, most: int | None = None
) -> dict[str, Findings]:
    """Changes each key in one scenario after the other until a record takes notice; all keys, or some.

    `first_of` names the scenario in which to look first for a key, `most` is in how many to look.
    """
    where: dict[str, list[str]] = {}
    for scenario, case in SCENARIOS.items():
        for name in case.keys:
            if not name.startswith(KERNELS) or scenario in KERNEL_SCENARIOS:
                where.setdefault(name, []).append(scenario)
    found: dict[str, Findings] = {}
    for name in names if names is not None else where:
        findings = found[name] = Findings()
        scenarios = where.get(name, [])
        hint = (first_of or {}).get(name)
        if hint in scenarios:
            scenarios = [hint, *(one for one in scenarios if one != hint)]
        for scenario in scenarios[:most]:
            open_ways = [way for way in directions(name) if not findings.heard(way)]
            if not open_ways:
                break
            _probe_in(SCENARIOS[scenario], name, scenario, findings)
    return found


def _probe_in(case: Case, name: str, scenario: str, findings: Findings) -> None:
    for key in _spread(case.keys[name]):
        for direction, values in candidates(key).items():
            way = _wanted(name, direction)
            for value in values:
                if findings.heard(way):
                    break
                seen = findings.seen.setdefault(way, {}).setdefault(scenario, [])
                seen.append(outcome(case, key, value))


def _spread(keys: list[Key], most: int = 8) -> list[Key]:
    """Some of many places of one key, evenly from among them."""
    return keys if len(keys) <= most else keys[:: -(-len(keys) // most)]


def silent(found: Mapping[str, Findings]) -> set[str]:
    """The keys that no record took notice of, nor any check; with the direction, where both have to act."""
    return {
        name if way == "either" else f"{name}, {way}"
        for name, findings in found.items()
        for way in directions(name)
        if "same" in findings.outcomes(way) and not findings.heard(way)
    }


def main() -> None:
    """Print every key with its scenarios and what came of changing it there, silent ones first."""
    found = probe()
    quiet = silent(found)
    for name in sorted(found, key=lambda name: (not any(one.startswith(name) for one in quiet), name)):
        print(name, *sorted(one for one in quiet if one.partition(", ")[0] == name), sep="  !! ")
        for way, seen in found[name].seen.items():
            for scenario, outcomes in seen.items():
                print(f"    {way} in {scenario}: {', '.join(sorted(set(outcomes)))}")


if __name__ == "__main__":
    main()
