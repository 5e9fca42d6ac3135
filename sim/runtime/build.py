"""From a scenario to replicas on a clock: placement, shards, memory, stages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import simpy

from sim.cost import kv_transfer, stage_sends
from sim.cost.collectives.demands import Demand
from sim.cost.given import GivenCost
from sim.cost.memory import MemoryPlan, default_limits, plan
from sim.cost.network import Network
from sim.cost.shard import Shard
from sim.cost.stage_cost import StageCost
from sim.cost.step_cost import StepCost
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError
from sim.policy.placement import Explicit
from sim.policy.scheduling import ContinuousBatching, PrefillFirst, StaticBatching
from sim.results.records import Records
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.engine_core import EngineCore, Rule
from sim.runtime.engine.queue import Ledger, RequestQueue
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.stage import Stage
from sim.runtime.engine.step_records import StepRecorder
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.build_tiers import SharedTiers, attach, queue_maker
from sim.runtime.kv.transfer import KvTransfers
from sim.scenario.scenario import Pool, Scenario

LONGEST_WITHOUT_MODEL = 1 << 30
NULL_BLOCKS = 1  # vLLM's block pool keeps one for whatever has none (`BlockPool.null_block`)
TOKENS_PRICED = 4096  # a hand-over is priced once at this length, long enough for large messages, and scaled


def shards_of(pool: Pool, scenario: Scenario, gpus: tuple[str, ...]) -> list[Shard]:
    """The pipeline stages of one replica on its GPUs; layers are spread evenly, the first stages taking the
    remainder.
    """
    engine, model = pool.engine, pool.model
    ranks, stages = engine.tensor_parallel_size, engine.pipeline_parallel_size
    model.check_tensor_parallel(ranks)
    if stages > model.layers:
        raise InfeasibleError(
            f"pipeline_parallel_size {stages} is more than the {model.layers} layers of {model.name}",
            f"{model.layers} is the most",
        )
    shards, first = [], 0
    graph = scenario.wired.graph
    together = ranks * engine.data_parallel_size
    for stage in range(stages):
        layers = model.layers // stages + (stage < model.layers % stages)
        members = gpus[stage * together : (stage + 1) * together]
        names = {graph.nodes[gpu]["model"] for gpu in members}
        if len(names) > 1:
            raise InfeasibleError(
                f"one pipeline stage spans {' and '.join(sorted(names))}; place it on one kind of GPU"
            )
        gpu = scenario.topology.gpu_models[names.pop()].under(engine.backend)
        groups = tuple(members[i : i + ranks] for i in range(0, together, ranks))
        shards.append(Shard(model, engine, pool.precision, gpu, groups, first, layers))
        first += layers
    return shards


def memory_of(pool: Pool, shards: list[Shard], gpus: int = 64) -> tuple[MemoryPlan, int]:
    """The memory plan of a replica on a machine of `gpus` GPUs, and the longest text it serves: the model's,
    or what the KV blocks hold, or what one step computes where prompts are not cut into chunks.
    """
    engine, context = pool.engine, pool.model.max_context
    if context and engine.max_model_len is not None and engine.max_model_len > context:
        raise InfeasibleError(
            f"max_model_len {engine.max_model_len} is more than {pool.model.name} was made for",
            f"{context} is the most",
        )
    memory = plan(shards, *default_limits(engine, shards[0].gpu), gpus)
    usable = usable_blocks(memory, engine)
    if usable < 1:
        raise InfeasibleError("one KV block is none: vLLM keeps it for itself", "num_gpu_blocks_override: 2")
    holds = int(usable * (1.0 - engine.watermark)) * engine.block_size
    whole = engine.max_num_batched_tokens if _whole_prompts(engine) else None
    if engine.max_model_len is None:
        longest = min(context or holds, holds, whole or holds)
    elif whole is not None and engine.max_model_len > whole:
        raise InfeasibleError(
            f"without chunked prefill a text of max_model_len {engine.max_model_len} must fit into one step "
            f"of max_num_batched_tokens {whole}",
            f"max_num_batched_tokens {engine.max_model_len}, or max_model_len {whole}",
        )
    elif engine.max_model_len > holds:
        raise InfeasibleError(
            f"max_model_len {engine.max_model_len} needs more KV cache than the {memory.blocks} blocks of "
            f"{engine.block_size} tokens that fit beside {pool.model.name}",
            f"max_model_len {holds} fits, or a larger gpu_memory_utilization or tensor_parallel_size",
        )
    else:
        longest = engine.max_model_len
    return memory, longest


def _whole_prompts(engine: Engine) -> bool:
    return engine.scheduler == "vllm" and not engine.enable_chunked_prefill


def usable_blocks(memory: MemoryPlan, engine: Engine) -> int:
    """KV blocks that sequences can have."""
    return memory.blocks - (NULL_BLOCKS if engine.backend == "vllm" else 0)


def scheduling_rule(engine: Engine) -> Rule:
    """The rule that an engine's settings name."""
    rules: dict[str, Callable[[], Rule]] = {
        "vllm": lambda: ContinuousBatching(
            chunked_prefill=engine.enable_chunked_prefill,
            long_prefill_token_threshold=engine.long_prefill_token_threshold,
            by_priority=engine.scheduling_policy == "priority",
            even_shares=engine.pipeline_parallel_size if engine.pipeline_split == "even" else 1,
        ),
        "continuous": PrefillFirst,
        "static": StaticBatching,
        "one_at_a_time": PrefillFirst,
    }
    return rules[engine.scheduler]()


def replicas_of(
    scenario: Scenario,
    env: simpy.Environment,
    network: Network,
    fabric: Fabric,
    records: Records,
    *,
    fold: bool,
    seed: int = 0,
) -> tuple[list[Replica], dict[str, list[Replica]]]:
    """All replicas in the order of their pools, and by the name of the model they serve."""
    pools = [pool for pool in scenario.all_pools.values() for _ in range(pool.replicas)]
    placed = _placed(scenario, network, pools)
    replicas: list[Replica] = []
    by_model: dict[str, list[Replica]] = {}
    priced: dict[tuple[int, tuple[str, ...]], list[StepCost]] = {}
    shared: SharedTiers = {}
    for index, (pool, gpus) in enumerate(zip(pools, placed, strict=True)):
        replica = _replica(
            index, pool, scenario, gpus, env, network, fabric, records, priced, shared, fold, seed
        )
        replicas.append(replica)
        if pool.role != "decode":
            by_model.setdefault(pool.model.name, []).append(replica)
    return replicas, by_model


def _placed(scenario: Scenario, network: Network, pools: list[Pool]) -> list[tuple[str, ...]]:
    """The GPUs of every replica: pools that name a kind of GPU choose among those, the others among what is
    left.
    """
    sizes = [0 if pool.engine.service_time else pool.engine.world_size for pool in pools]
    placed: list[tuple[str, ...]] = [()] * len(pools)
    free = list(network.gpus)
    models = {gpu: str(network.places[gpu]["model"]) for gpu in free}
    if isinstance(scenario.placement, Explicit) and any(pool.gpu for pool in pools):
        raise InfeasibleError("an explicit placement names the GPUs of every pool; leave out gpu in pools")
    for kind in sorted({pool.gpu for pool in pools}, key=lambda kind: (kind is None, kind)):
        mine = [i for i, pool in enumerate(pools) if pool.gpu == kind]
        able = [gpu for gpu in free if kind is None or models[gpu] == kind]
        of_kind = scenario.placement(able, network.node_of, [sizes[i] for i in mine])
        for i, gpus in zip(mine, of_kind, strict=True):
            placed[i] = gpus
        taken = {gpu for gpus in of_kind for gpu in gpus}
        free = [gpu for gpu in free if gpu not in taken]
    return placed


def _replica(
    index: int,
    pool: Pool,
    scenario: Scenario,
    gpus: tuple[str, ...],
    env: simpy.Environment,
    network: Network,
    fabric: Fabric,
    records: Records,
    priced: dict[tuple[int, tuple[str, ...]], list[StepCost]],
    shared: SharedTiers,
    fold: bool,
    seed: int,
) -> Replica:
    engine = pool.engine
    costs: list[StepCost]
    if engine.service_time is not None:
        given = engine.service_time
        costs = [GivenCost(given.step_s, given.sequence_s, given.token_s)]
        seqs = engine.max_num_seqs or 1
        tokens = engine.max_num_batched_tokens or LONGEST_WITHOUT_MODEL
        longest = engine.max_model_len or LONGEST_WITHOUT_MODEL
        blocks = -(-longest // engine.block_size) * seqs
        shards: list[Shard] = []
    else:
        shards = shards_of(pool, scenario, gpus)
        memory, longest = memory_of(pool, shards, len(network.gpus))
        seqs, tokens = default_limits(engine, shards[0].gpu)
        if _whole_prompts(engine):
            tokens = max(tokens, longest)
        blocks = usable_blocks(memory, engine)
        costs = priced.setdefault(
            (id(pool), gpus),
            [StageCost(shard, network, frozenset(scenario.without), scenario.kernels) for shard in shards],
        )
    if engine.scheduler == "one_at_a_time":
        seqs = 1

    def stage_send(stage: int, n_tokens: int) -> Demand:
        return stage_sends.activations(
            network, shards[stage], shards[stage + 1], n_tokens, frozenset(scenario.without)
        )

    ledger = Ledger() if len(costs) == 1 else None
    queue_of: Callable[..., RequestQueue] = RequestQueue
    if engine.kv_tiers is not None:
        queue_of = queue_maker(network, fabric, shards, costs, shared, scenario.kv_reload, tokens)
    no_evict = engine.capacity_scheduler_policy == "guaranteed_no_evict"
    queues = [
        queue_of(
            env,
            BlockPool(
                blocks,
                engine.block_size,
                enable_prefix_caching=engine.enable_prefix_caching,
                watermark=engine.watermark,
            ),
            token_budget=tokens,
            max_num_seqs=seqs,
            by_priority=engine.scheduling_policy == "priority",
            ledger=ledger,
            reserve_full_prompt=engine.scheduler_reserve_full_isl,
            async_scheduling=engine.schedules_async and engine.scheduler == "vllm" and pool.role == "both",
            draft_tokens=engine.speculation.num_speculative_tokens if engine.speculation else 0,
            guaranteed_no_evict=no_evict and pool.role != "prefill",
        )
        for _ in range(engine.data_parallel_size)
    ]
    loop = EngineCore(
        env,
        fabric,
        [Stage(env, fabric, cost, fold=fold) for cost in costs],
        queues,
        stage_send,
        StepRecorder(index, records.steps, records.gaps, in_flight=len(costs)),
        engine=engine,
        rule=scheduling_rule(engine),
        ledger=ledger,
        role=pool.role,
        first_token_from_prefill=scenario.hand_over.first_token == "prefill",
        seed=seed,
    )
    replica = Replica(
        loop,
        index=index,
        model=pool.model.name,
        max_model_len=longest,
        gpus=gpus,
        layers=pool.model.layers,
        kv_bytes_per_token=pool.model.kv_bytes_per_token(pool.precision.kv_cache),
        shards=shards,
        hops=hops_between(network, gateway_of(network), gpus[0]) if gpus else 0,
    )
    attach(replica)
    return replica


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


def kv_transfer_of(
    scenario: Scenario,
    network: Network,
    fabric: Fabric,
    replicas: list[Replica],
    random: np.random.Generator,
    records: Records,
) -> KvTransfers | None:
    """The way from prefill to decode replicas; None in a service that does not set them apart."""
    senders = [replica for replica in replicas if replica.role == "prefill"]
    receivers: dict[str, list[Replica]] = {}
    for replica in replicas:
        if replica.role == "decode":
            receivers.setdefault(replica.model, []).append(replica)
    for replica in senders:
        if replica.model not in receivers:
            raise InfeasibleError(
                f"{replica.model} is prefilled and no pool decodes it", "add a pool with role: decode"
            )
    if not senders:
        if receivers:
            raise InfeasibleError("a pool decodes and none prefills", "add a pool with role: prefill")
        return None
    without = frozenset(scenario.without)
    per_token: dict[tuple[int, int, tuple[int, int]], Demand] = {}

    def demands(sender: Replica, receiver: Replica, groups: tuple[int, int], tokens: float) -> Demand:
        key = sender.index, receiver.index, groups
        one = per_token.get(key)
        if one is None:
            whole = kv_transfer.kv_cache(
                network, sender.shards, receiver.shards, TOKENS_PRICED, groups, without=without
            )
            per = tuple(amount / TOKENS_PRICED for amount in whole.n_bytes)
            one = per_token[key] = Demand(whole.links, per, whole.latency_s, whole.min_flow_s / TOKENS_PRICED)
        n_bytes = tuple(amount * tokens for amount in one.n_bytes)
        return Demand(one.links, n_bytes, one.latency_s, one.min_flow_s * tokens)

    pending = KvTransfers(
        fabric,
        receivers,
        scenario.hand_over.router,
        random,
        demands,
        records.hand_overs,
        hops=lambda sender, receiver: hops_between(network, sender.gpus[0], receiver.gpus[0]),
        layerwise=scenario.hand_over.kv == "layerwise",
    )
    pending.attach(senders)
    return pending
