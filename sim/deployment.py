"""Where a scenario's replicas stand and what fits there: GPUs, shards, memory and limits. No clock."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from sim.cost.block_groups import BlockGroups, block_tokens
from sim.cost.kernels.kernels import formula
from sim.cost.kernels.timing import peak_flops
from sim.cost.memory import GIB, MemoryPlan, default_limits, plan
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError, InputError, Problem
from sim.inputs.hardware import Gpu
from sim.inputs.model import Model
from sim.inputs.quantities import DTYPE_BYTES
from sim.policy.placement import Explicit
from sim.power_caps import power_cap_w
from sim.reading.problems import did_you_mean
from sim.results.kv_capacity import KvCapacity
from sim.scenario.precision import precision_note
from sim.scenario.scenario import Pool, Scenario

LONGEST_WITHOUT_MODEL = 1 << 30
NULL_BLOCKS = 1  # vLLM's block pool keeps one for whatever has none (`BlockPool.null_block`)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one scheduler of a replica may have at a time: sequences, tokens a step, KV blocks, tokens of one
    request.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    max_model_len: int


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """One replica: its GPUs in rank order, a shard for each pipeline stage, and what fits. A replica whose
    service time is given has no GPUs, shards or memory.
    """

    index: int
    pool: Pool
    gpus: tuple[str, ...]
    shards: tuple[Shard, ...]
    memory: MemoryPlan | None
    limits: Limits
    hops: int  # links between the gateway and its first GPU


@dataclass(frozen=True, slots=True)
class Deployment:
    """All replicas in the order of their pools, and what the engines of each pool can hold."""

    replicas: tuple[ReplicaPlan, ...]
    kv_capacities: tuple[KvCapacity, ...] = ()


def deployment_of(scenario: Scenario, network: Network) -> Deployment:
    """Place the replicas of a scenario on a network. InfeasibleError where they do not fit, with the nearest
    that does. Data-parallel ranks that are not in lock-step are replicas of their own.
    """
    pools = [pool for pool in scenario.all_pools.values() for _ in range(pool.replicas)]
    placed = placed_gpus(scenario, network, pools)
    engines = [engine for pool, gpus in zip(pools, placed, strict=True) for engine in _engines_of(pool, gpus)]
    replicas = tuple(
        _replica_plan(index, pool, gpus, scenario, network) for index, (pool, gpus) in enumerate(engines)
    )
    return Deployment(replicas, _kv_capacities(scenario, replicas))


def _kv_capacities(scenario: Scenario, replicas: tuple[ReplicaPlan, ...]) -> tuple[KvCapacity, ...]:
    """Of each pool with GPUs, that of the replica with the fewest blocks."""
    found, first = [], 0
    for name, pool in scenario.all_pools.items():
        engines = pool.replicas * pool.ranks_apart
        plans = replicas[first : first + engines]
        first += engines
        least = min(
            (plan for plan in plans if plan.memory), key=lambda plan: plan.limits.kv_blocks, default=None
        )
        if least is None or least.memory is None:
            continue
        model, longest = pool.model, least.limits.max_model_len
        formats = pool.precision.model_dump(exclude={"activation_scales"}, exclude_none=True)
        groups = least.memory.groups
        windowed = model.sliding_layers if longest > (model.sliding_window or longest) else 0
        engine = least.pool.engine
        needed = groups.longest(longest, least.limits.max_num_batched_tokens)
        lacking = least.memory.weight_bytes + least.memory.kv_bytes - least.shards[0].gpu.usable_hbm_bytes
        found.append(
            KvCapacity(
                name, model.name, formats, precision_note(model, pool.precision), least.memory.blocks,
                engine.block_size, longest, 0 if groups.windowed else windowed, groups.groups, needed,
                max(0.0, lacking),
            )
        )  # fmt: skip
    return tuple(found)


def _engines_of(pool: Pool, gpus: tuple[str, ...]) -> list[tuple[Pool, tuple[str, ...]]]:
    """A replica as engines that step each by itself: all of it, or each data-parallel rank with its GPUs."""
    apart = pool.ranks_apart
    if apart == 1:
        return [(pool, gpus)]
    ranks = pool.engine.tensor_parallel_size
    alone = pool.model_copy(update={"engine": pool.engine.model_copy(update={"data_parallel_size": 1})})
    together = ranks * apart  # rank order: stages outermost, then data, then tensor ranks
    return [
        (
            alone,
            tuple(
                gpu
                for first in range(rank * ranks, len(gpus), together)
                for gpu in gpus[first : first + ranks]
            ),
        )
        for rank in range(apart)
    ]


def _replica_plan(
    index: int, pool: Pool, gpus: tuple[str, ...], scenario: Scenario, network: Network
) -> ReplicaPlan:
    engine = pool.engine
    if engine.service_time is not None:
        return ReplicaPlan(index, pool, gpus, (), None, _limits_of_given_times(engine), 0)
    pool = _with_states(pool)
    engine = pool.engine
    shards = shards_of(pool, scenario, gpus)
    _refuse_ranks_without_experts(shards[0])
    if scenario.kernels is formula:
        _refuse_checkpoint_beyond(pool, shards)
    memory, longest = memory_of(pool, shards, len(network.gpus))
    seqs, tokens = default_limits(engine, shards[0].gpu)
    if _whole_prompts(engine):
        tokens = max(tokens, longest)  # or the longest prompt would never be admitted
    if engine.scheduler == "one_at_a_time":
        seqs = 1
    limits = Limits(seqs, tokens, usable_blocks(memory, engine), longest)
    hops = hops_between(network, gateway_of(network), gpus[0])
    return ReplicaPlan(index, pool, gpus, tuple(shards), memory, limits, hops)


def _refuse_ranks_without_experts(shard: Shard) -> None:
    """Refuse expert parallelism over more GPUs than there are experts, redundant copies counted."""
    ranks, experts = len(shard.ranks), shard.experts_with_copies
    if shard.model.is_moe and shard.engine.enable_expert_parallel and ranks > experts:
        copies = shard.engine.expert_routing.redundant_experts
        beside = f" and {copies} redundant copies" if copies else ""
        raise InfeasibleError(
            f"enable_expert_parallel over {ranks} GPUs leaves some without an expert: {shard.model.name} has "
            f"{shard.model.experts}{beside}",
            f"expert_routing.redundant_experts: {copies + ranks - experts} gives each one",
        )


def _with_states(pool: Pool) -> Pool:
    """The pool as its engine serves a model that keeps states: with larger blocks, and without prefix caching
    unless the scenario asks for it, as in vLLM.
    """
    engine, model = pool.engine, pool.model
    if not model.state_bytes_per_request:
        return pool
    if engine.kv_tiers is not None:
        raise InfeasibleError(
            f"{model.name} keeps states of texts, which tiers below HBM do not hold here",
            "leave out kv_tiers",
        )
    changes: dict[str, object] = {"block_size": block_tokens(model, engine, pool.precision.kv_cache)}
    if "enable_prefix_caching" not in engine.model_fields_set:
        changes["enable_prefix_caching"] = False
    return pool.model_copy(update={"engine": engine.model_copy(update=changes)})


def _refuse_checkpoint_beyond(pool: Pool, shards: list[Shard]) -> None:
    """Refuse number formats that a checkpoint decided and a GPU does not compute in: what the scenario writes
    itself is refused by its own name, where a kernel is priced.
    """
    for key in ("weights", "experts", "qkv_weights"):
        dtype = getattr(pool.precision, key)
        if dtype is None or key in pool.precision.model_fields_set:
            continue
        for gpu in {shard.gpu.name: shard.gpu for shard in shards}.values():
            try:
                peak_flops(gpu, dtype)
            except InputError:
                nearest = "w4a16" if DTYPE_BYTES[dtype] < 1 else "bf16"
                raise InfeasibleError(
                    f"{precision_note(pool.model, pool.precision)}; {gpu.name} has no arithmetic in {dtype}, "
                    "and weights that a kernel expands from it are not simulated",
                    f"precision.{key}: {nearest} is the nearest that it has",
                ) from None


def _limits_of_given_times(engine: Engine) -> Limits:
    """Limits of an engine whose service time is given: what is not written does not bind."""
    seqs = engine.max_num_seqs or 1
    longest = engine.max_model_len or LONGEST_WITHOUT_MODEL
    blocks = -(-longest // engine.block_size) * seqs  # the longest text in every seat
    if engine.scheduler == "one_at_a_time":
        seqs = 1
    return Limits(seqs, engine.max_num_batched_tokens or LONGEST_WITHOUT_MODEL, blocks, longest)


def gateway_of(network: Network) -> str:
    """Where requests come in: the first host, or the first GPU of a topology without hosts."""
    hosts = (name for name, place in network.places.items() if place.get("kind") == "host")
    return next(hosts, network.gpus[0])


def hops_between(network: Network, source: str, target: str) -> int:
    """Links on the way; 0 where there is none, as to a GPU that no host reaches."""
    try:
        return len(network.path(source, target).links)
    except InfeasibleError:
        return 0


def placed_gpus(scenario: Scenario, network: Network, pools: list[Pool]) -> list[tuple[str, ...]]:
    """The GPUs of every replica: pools that name a kind of GPU choose among those, the others among what is
    left.
    """
    sizes = [0 if pool.engine.service_time else pool.engine.world_size for pool in pools]
    placed: list[tuple[str, ...]] = [()] * len(pools)
    free = list(network.gpus)
    models = {gpu: str(network.places[gpu]["model"]) for gpu in free}
    if isinstance(scenario.placement, Explicit) and any(pool.gpu for pool in pools):
        raise InfeasibleError("an explicit placement names the GPUs of every pool; leave out gpu in pools")
    # Pools that name a kind come first: the others (None sorts last) could take the only GPUs of that kind.
    for kind in sorted({pool.gpu for pool in pools}, key=lambda kind: (kind is None, kind)):
        mine = [i for i, pool in enumerate(pools) if pool.gpu == kind]
        able = [gpu for gpu in free if kind is None or models[gpu] == kind]
        of_kind = scenario.placement(able, network.node_of, [sizes[i] for i in mine])
        for i, gpus in zip(mine, of_kind, strict=True):
            placed[i] = gpus
        taken = {gpu for gpus in of_kind for gpu in gpus}
        free = [gpu for gpu in free if gpu not in taken]
    return placed


def shards_of(pool: Pool, scenario: Scenario, gpus: tuple[str, ...]) -> list[Shard]:
    """The pipeline stages of one replica on its GPUs; layers are spread evenly, the first stages taking the
    remainder.
    """
    engine, model = pool.engine, pool.model
    ranks, stages = engine.tensor_parallel_size, engine.pipeline_parallel_size
    model.check_tensor_parallel(ranks)
    _check_context_parallel(model, engine)
    if stages > model.layers:
        raise InfeasibleError(
            f"pipeline_parallel_size = {stages}: must be at most {model.layers}, the layers of {model.name}",
            f"pipeline_parallel_size: {model.layers}",
        )
    shards, first = [], 0
    graph = scenario.wired.graph
    together = ranks * engine.data_parallel_size  # rank order: stages outermost, then data, then tensor ranks
    for stage in range(stages):
        layers = model.layers // stages + (stage < model.layers % stages)
        members = gpus[stage * together : (stage + 1) * together]
        names = {graph.nodes[gpu]["model"] for gpu in members}
        if len(names) > 1:
            raise InfeasibleError(
                f"one pipeline stage spans {' and '.join(sorted(names))}; place it on one kind of GPU"
            )
        gpu = _described(scenario, names.pop()).under(engine.backend)
        groups = tuple(members[i : i + ranks] for i in range(0, together, ranks))
        cap_w = None if scenario.power is None else power_cap_w(scenario, members)
        shards.append(Shard(model, engine, pool.precision, gpu, groups, first, layers, cap_w))
        first += layers
    return shards


def _described(scenario: Scenario, name: str) -> Gpu:
    """A kind of GPU by its name. InputError where parts or a graph name one that the topology has not."""
    described = scenario.topology.gpu_models
    if name not in described:
        known = ", ".join(described) or "it describes none"
        what = f"describes no GPU {name!r}, which engines would run on; {known}"
        raise InputError(Problem(what + did_you_mean(name, described), key="topology.gpus"))
    return described[name]


def _check_context_parallel(model: Model, engine: Engine) -> None:
    """InfeasibleError where ranks that would share a KV cache do not have the same heads."""
    size, ranks = engine.decode_context_parallel_size, engine.tensor_parallel_size
    copies = ranks if model.mla is not None else max(1, ranks // model.kv_heads)
    if size == 1 or copies % size == 0:
        return
    able = [n for n in range(1, copies + 1) if copies % n == 0]
    heads = "a latent cache" if model.mla is not None else f"{model.kv_heads} KV heads"
    raise InfeasibleError(
        f"decode_context_parallel_size = {size}: {ranks} tensor-parallel ranks keep {copies} copies of "
        f"{heads} of {model.name}",
        f"{', '.join(map(str, able))} {'do' if len(able) > 1 else 'does'}",
    )


def memory_of(pool: Pool, shards: list[Shard], gpus: int = 64) -> tuple[MemoryPlan, int]:
    """The memory plan of a replica on a machine of `gpus` GPUs, and its max_model_len: the model's context,
    or what the KV blocks hold, or what one step computes where prompts are not cut into chunks.
    """
    engine, context = pool.engine, pool.model.max_context
    if context and engine.max_model_len is not None and engine.max_model_len > context:
        raise InfeasibleError(
            f"max_model_len = {engine.max_model_len}: must be at most {context}, the context of "
            f"{pool.model.name}",
            f"max_model_len: {context}",
        )
    limits = default_limits(engine, shards[0].gpu)
    memory = plan(shards, *limits, gpus, whole_texts=pool.role != "both")
    usable = usable_blocks(memory, engine)
    if usable < 1:
        raise InfeasibleError(
            f"KV blocks = {memory.blocks}: must be at least 2, since vLLM keeps one for itself",
            "num_gpu_blocks_override: 2",
        )
    holds = _longest_text(memory.groups, int(usable * (1.0 - engine.watermark)), limits[1])
    whole = engine.max_num_batched_tokens if _whole_prompts(engine) else None
    if engine.max_model_len is None:
        return memory, min(context or holds, holds, whole or holds)
    if whole is not None and engine.max_model_len > whole:
        raise InfeasibleError(
            f"max_model_len = {engine.max_model_len}: must be at most max_num_batched_tokens = {whole}, "
            "since without chunked prefill one step computes a whole prompt",
            f"max_num_batched_tokens: {engine.max_model_len}, or max_model_len: {whole}",
        )
    if engine.max_model_len > holds:
        raise InfeasibleError(
            f"max_model_len = {engine.max_model_len}: must be at most {holds}, since {memory.blocks} blocks "
            f"of {engine.block_size} tokens fit beside {pool.model.name}: one such request needs "
            f"{memory.groups.longest(engine.max_model_len, limits[1]) * memory.block_bytes / GIB:.2f} GiB of "
            f"KV cache a GPU, and {memory.kv_bytes / GIB:.2f} GiB are left",
            f"max_model_len: {holds}, or a larger gpu_memory_utilization or tensor_parallel_size",
        )
    return memory, engine.max_model_len


def _longest_text(groups: BlockGroups, blocks: int, step_tokens: int) -> int:
    """Tokens of the longest text that so many blocks hold, to a whole block."""
    lengths = range(blocks + 1)  # in blocks; a text takes one of each group for as many tokens
    found = bisect_right(
        lengths, blocks, key=lambda length: groups.longest(length * groups.block_size, step_tokens)
    )
    return max(0, found - 1) * groups.block_size


def _whole_prompts(engine: Engine) -> bool:
    return engine.scheduler == "vllm" and not engine.enable_chunked_prefill


def usable_blocks(memory: MemoryPlan, engine: Engine) -> int:
    """KV blocks that sequences can have."""
    return memory.blocks - (NULL_BLOCKS if engine.backend == "vllm" else 0)
