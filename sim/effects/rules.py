"""What the table of keys is written in: a rule tells the word of a key, an obstacle why nothing can have read
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sim.effects.ran import Group, Ran
from sim.policy.routing import Nearest
from sim.results.key_words import ACTED, DidNotBind, Key, NoEffect, Word


@dataclass(frozen=True)
class Use:
    """A key with its value, in a run, and the engines that it is of: those of the first pool, where it is of
    no engine.
    """

    ran: Ran
    group: Group
    key: Key
    value: Any


Rule = Callable[[Use], Word]
Obstacle = Callable[[Use], str]
"""Why nothing reads the key; an empty text where something does."""


def acted(use: Use) -> Word:
    """Some cost, route or decision rests on it wherever it stands."""
    return ACTED


def unless(*obstacles: Obstacle, then: Rule = acted) -> Rule:
    """`then`, but for the first obstacle that there is."""

    def rule(use: Use) -> Word:
        for obstacle in obstacles:
            why = obstacle(use)
            if why:
                return NoEffect(why)
        return then(use)

    return rule


def below(peak: Callable[[Use], float], what: str = "peak") -> Rule:
    """A limit that binds where the run came up to it."""

    def rule(use: Use) -> Word:
        came_to = peak(use)
        if isinstance(use.value, int | float) and came_to < use.value:
            return DidNotBind(f"{plain(use.value)}, {what} {plain(came_to)}")
        return ACTED

    return rule


def where(condition: Callable[[Use], Any], otherwise: str) -> Rule:
    """It acted where the condition holds, and did not bind where not."""
    return lambda use: ACTED if condition(use) else DidNotBind(otherwise)


def because(condition: Callable[[Use], Any], why: str) -> Obstacle:
    """An obstacle: `why` where the condition holds."""
    return lambda use: why if condition(use) else ""


def plain(number: float) -> str:
    """A number as in a table: whole ones in full, others with four digits."""
    return f"{number:,.0f}" if number == int(number) and abs(number) < 1e7 else f"{number:.4g}"


# ---- obstacles that many keys have

given = because(lambda use: use.group.given, "service_time is given, and no GPU is at work")
without_host = because(
    lambda use: "host" in use.ran.scenario.without, "`without` takes the host's time as nothing"
)
no_steps = because(lambda use: not use.group.worked, "no engine of this pool took a step")
no_prompts = because(lambda use: not use.group.peak_prefill, "no prompt was computed here")


def dense(use: Use) -> str:
    """A model without experts has nothing to route."""
    return "" if use.group.model.is_moe else f"{use.group.model.name} has no experts"


def no_sharing(use: Use) -> str:
    """Prefix caching lives on prompts that begin alike."""
    return "" if use.ran.shares_prefixes else "no two prompts of this traffic begin alike"


def no_caching(use: Use) -> str:
    """Blocks are hashed only where an engine keeps them."""
    return "" if use.ran.caches_prefixes else "enable_prefix_caching is false"


def one_server(use: Use) -> str:
    """Nothing goes from a server to itself over a network."""
    if use.ran.scenario.topology.servers == 1:
        return "there is one server"
    if counts_hops(use):
        return ""
    return "" if use.ran.bytes_between_servers else "no byte went from one server to another"


def counts_hops(use: Use) -> bool:
    """Whether a router reads how many links lie between places, which carry nothing for that."""
    scenario = use.ran.scenario
    return any(isinstance(router, Nearest) for router in (scenario.router, scenario.hand_over.router))


no_tensor_ranks = because(
    lambda use: use.group.engine.tensor_parallel_size == 1, "tensor_parallel_size is 1, so nothing is reduced"
)


def kv_memory(use: Use) -> Word:
    """What decides how many KV blocks there are."""
    if use.group.engine.num_gpu_blocks_override is not None:
        return DidNotBind(f"num_gpu_blocks_override says {use.group.engine.num_gpu_blocks_override:,} blocks")
    return kv_blocks(use)


def kv_blocks(use: Use) -> Word:
    """KV blocks bind where they run short, or where prefixes that are kept fill them."""
    if use.group.blocks_bind:
        return ACTED
    return DidNotBind(f"{use.group.blocks:,} KV blocks, peak {use.group.peak_blocks:,}")
