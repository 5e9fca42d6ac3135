"""The word of every key that a scenario sets, by the table of all keys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sim.effects.engine_keys import ENGINE, PRECISION
from sim.effects.model_keys import MODEL
from sim.effects.ran import Group, Ran
from sim.effects.rules import Rule, Use
from sim.effects.service_keys import SERVICE
from sim.effects.topology_keys import TOPOLOGY
from sim.effects.workload_keys import WORKLOAD
from sim.results.key_words import ACTED, DidNotBind, Key, KeyWords, NoEffect, Word

BLOCKS = {
    "engine": ENGINE,
    "precision": PRECISION,
    "model": MODEL,
    "topology": TOPOLOGY,
    "workload": WORKLOAD,
}
OF_POOLS = ("engine", "precision", "model")
TABLE: dict[str, Rule] = {
    **{
        f"{block}.{name}".removesuffix("."): rule
        for block, rules in BLOCKS.items()
        for name, rule in rules.items()
    },
    **SERVICE,
}
"""By key: `*` stands for a name, `[]` for a place in a list, `**` for all that is below."""


def key_words(ran: Ran) -> KeyWords:
    """The words of all keys that the scenario sets and that the table knows."""
    words: dict[Key, Word] = {}
    for key in _in_order(ran):
        word = word_of(ran, key)
        if word is not None:
            words[key] = word
    return KeyWords(words)


def _in_order(ran: Ran) -> list[Key]:
    """As they are written, but of a fault without effect the key first that says why."""
    keys = list(ran.scenario.keys_written)
    for key in ran.faults_without_effect:
        if key in keys:
            first = next(place for place, other in enumerate(keys) if other[:2] == key[:2])
            keys.remove(key)
            keys.insert(first, key)
    return keys


def word_of(ran: Ran, key: Key) -> Word | None:
    """What came of one key; None for a label, and for a key that is set to nothing."""
    pool, inner = _pool_and_key(key)
    rule = rule_of(shape_of(inner))
    value = _value(ran.scenario, key)
    if rule is None or value is None:
        return None
    if inner[0] not in OF_POOLS:
        return rule(Use(ran, next(iter(ran.groups.values())), inner, value))
    groups = _groups_of(ran, pool, inner, value)
    if not groups:
        return NoEffect(f"every pool has its own {inner[0]}")
    return _strongest([rule(Use(ran, group, inner, value)) for group in groups])


def _pool_and_key(key: Key) -> tuple[str | None, Key]:
    """A key of a pool's engine is that of an engine."""
    if key[0] == "pools" and len(key) > 2 and key[2] in OF_POOLS:
        return str(key[1]), key[2:]
    return None, key


def _groups_of(ran: Ran, pool: str | None, key: Key, value: Any) -> list[Group]:
    """The pools that a key reaches: its own, or all that have the scenario's value."""
    if pool is not None:
        return [ran.groups[pool]]
    return [group for group in ran.groups.values() if _value(group.pool, key) == value]


def _strongest(words: list[Word]) -> Word:
    for kind in (type(ACTED), DidNotBind, NoEffect):
        for word in words:
            if isinstance(word, kind):
                return word
    return ACTED


def _value(described: Any, key: Key) -> Any:
    """What stands at a key; `kind` of a rule is the rule itself."""
    held = described
    for step in key:
        if step == "nodes" and held is described:
            return held.topology.nodes
        step = "source" if step == "from" else step
        if isinstance(held, Mapping):
            held = held.get(step)
        elif isinstance(held, tuple | list):
            held = held[step] if isinstance(step, int) and step < len(held) else None
        elif step == "kind" and not hasattr(held, "kind"):
            return held
        else:
            held = getattr(held, str(step), None)
        if held is None:
            return None
    return held


def shape_of(key: Key) -> str:
    """A key as the table has it: names of links, parts, classes and so on as `*`, places in lists as `[]`.

    >>> shape_of(("topology", "links", "nvlink4", "latency_s")), shape_of(("faults", 0, "at_s"))
    ('topology.links.*.latency_s', 'faults[].at_s')
    """
    if key[:2] == ("topology", "systems") and len(key) > 3:
        key = ("topology", *key[3:])
    shape = ""
    for place, step in enumerate(key):
        above = ".".join(str(one) for one in key[:place] if not isinstance(one, int))
        if isinstance(step, int):
            shape += "[]"
        elif above in NAMED or (place == 4 and key[3] == "flops"):
            shape += ".*"
        else:
            shape += f".{step}"
    return shape.lstrip(".")


NAMED = (
    "pools",
    "workload.classes",
    "model.checkpoint.precision",
    *(f"topology.{block}" for block in ("links", "parts", "transports", "gpus")),
)


@cache
def rule_of(shape: str) -> Rule | None:
    """The rule of a key of this shape; None where the table has none."""
    if shape in TABLE:
        return TABLE[shape]
    steps = shape.split(".")
    if len(steps) > 1 and (last := ".".join([*steps[:-1], "*"])) in TABLE:
        return TABLE[last]
    for end in range(len(steps) - 1, 0, -1):
        rule = TABLE.get(".".join([*steps[:end], "**"]))
        if rule is not None:
            return rule
    return None
