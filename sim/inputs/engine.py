"""How a model is served: parallel sizes, scheduler limits, KV cache, launch mode and host time, in vLLM's
names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Annotated, Any, Literal

from annotated_types import MaxLen
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from sim.inputs.kv_tiers import KvTiers
from sim.inputs.model import Model
from sim.inputs.model_bounds import MAX_EXPERTS, Heads, Width
from sim.inputs.quantities import Fraction, NotBoolean, Seconds
from sim.inputs.unevenness import Jitter, Straggler

SCHEDULERS = ("vllm", "continuous", "static", "one_at_a_time")


def _rule_or_word(written: Any) -> Any:
    """One of `SCHEDULERS`, or a script's callable as it is."""
    if callable(written) or written in SCHEDULERS:
        return written
    words = [repr(word) for word in SCHEDULERS]
    raise PydanticKnownError("literal_error", {"expected": f"{', '.join(words[:-1])} or {words[-1]}"})


def _rule_as_word(rule: Any) -> str:
    if isinstance(rule, str):
        return rule
    return f"a script's {getattr(rule, '__qualname__', type(rule).__qualname__)}"


Scheduler = Annotated[
    Any,
    BeforeValidator(_rule_or_word),
    PlainSerializer(_rule_as_word),
    WithJsonSchema({"enum": list(SCHEDULERS), "type": "string"}),
]

MAX_RANKS = 1_000_000  # more than GPUs in the largest topology
MAX_BLOCK_TOKENS = 65_536
MAX_DRAFTS = 1024  # each has a place in the batch and a chance of its own
MAX_GRAPH_TOKENS = 65_536  # the sizes up to it are a list; vLLM captures up to 512
MAX_ENGINE_TOKENS = 10**12
MAX_STRAGGLERS = 4096

Ranks = Annotated[int, NotBoolean, Field(gt=0, le=MAX_RANKS)]
Limit = Annotated[int, NotBoolean, Field(gt=0, le=MAX_ENGINE_TOKENS)]
LimitOrNone = Annotated[int, NotBoolean, Field(ge=0, le=MAX_ENGINE_TOKENS)]
Share = Annotated[float, NotBoolean]


class HostTime(BaseModel):
    """Processor time of the engine around a step, exposed to the GPU when scheduling is not asynchronous.

    A synchronous engine schedules, prepares inputs, launches and hands out tokens while its GPUs idle; an
    asynchronous one does all that during the step before. With pipeline stages every further stage prepares
    its inputs again; `stage_s` is fitted on one measured service (Qwen2.5-72B, TP8 x PP2, vLLM 0.17 under
    Ray: 14.8 ms per token where the GPUs need 10.1), where only the sum with a step's is identifiable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_s: Seconds | None = Field(
        None,
        json_schema_extra={
            "tag": "fitted",
            "source": "unset, as measured for the engine and its executor: cost/host_time.py",
        },
    )
    stage_s: Seconds = Field(
        1.9e-3,
        json_schema_extra={
            "tag": "fitted",
            "source": "same point; what one step's host time leaves unexplained",
        },
    )
    async_step_s: Seconds = Field(
        0.0,
        json_schema_extra={"tag": "assumed", "source": "vLLM schedules step k+1 while step k runs"},
    )
    launch_s: Seconds | None = Field(
        None,
        json_schema_extra={
            "tag": "fitted",
            "source": "one launch without a CUDA graph; unset, as the engine and its host launch: "
            "cost/launches.py",
        },
    )
    sequence_s: Seconds | None = Field(
        None,
        json_schema_extra={
            "tag": "fitted",
            "source": "unset, as measured for the engine: cost/host_time.py",
        },
    )


class Draft(BaseModel):
    """The shapes of a dense draft: a small model, or the layer of an EAGLE head.

    `fused_states` hidden states of the served model are joined into one by a projection (2 in EAGLE, 3 in
    EAGLE-3; 0: none, a model of its own). `vocab` is that of its own output head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Annotated[int, NotBoolean, Field(gt=0, le=256)]
    hidden: Annotated[Width, Field(gt=0)]
    intermediate: Width
    heads: Heads
    kv_heads: Heads
    head_dim: Annotated[Width, Field(gt=0)]
    vocab: Annotated[Width, Field(gt=0)]
    fused_states: Annotated[int, NotBoolean, Field(ge=0, le=16)] = 0

    @property
    def model(self) -> Model:
        shapes = self.model_dump(exclude={"fused_states"})
        return Model(name="the draft", architecture="draft", **shapes)


class Speculation(BaseModel):
    """Speculative decoding: `num_speculative_tokens` drafts a step, each accepted with `acceptance_rate` if
    all before it were.

    `draft` is what drafts: the `config.json` of an EAGLE head or of a small model, in a scenario by its path,
    or `mtp`, a layer like the model's last. Its time, weights and KV cache are then worked out: as many
    passes as there are drafts, one after the other, each over one token of every sequence. Without it
    `draft_s` is the cost of one drafted token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_speculative_tokens: Annotated[int, NotBoolean, Field(gt=0, le=MAX_DRAFTS)]
    acceptance_rate: Fraction
    draft_s: Seconds = 0.0
    draft: Draft | Literal["mtp"] | None = None

    @model_validator(mode="after")
    def _time_is_given_once(self) -> Speculation:
        if self.draft is not None and self.draft_s:
            raise ValueError(
                "draft_s is the time of a draft whose shapes are not known; leave out one of draft, draft_s"
            )
        return self

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens a step, (1 - a^(g+1)) / (1 - a); Leviathan et al., "Fast inference ...", ICML 2023,
        eq. 1.
        """
        a, g = self.acceptance_rate, self.num_speculative_tokens
        return g + 1.0 if a >= 1.0 else (1.0 - a ** (g + 1)) / (1.0 - a)


class ExpertRouting(BaseModel):
    """Which experts tokens choose, and where the experts lie.

    `popularity` uniform, zipf (with `exponent`) or given (`weights` by expert, as counted by an engine; in a
    scenario also the name of a .csv or .yaml file of them).
    `redundant_experts` copies of the most popular ones and a `balanced` placement even out the ranks' loads
    (DeepSeek's EPLB).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    popularity: Literal["uniform", "zipf", "given"] = "uniform"
    exponent: Annotated[float, NotBoolean] = Field(default=1.0, ge=0.0, le=10.0)
    weights: Annotated[tuple[Annotated[float, NotBoolean], ...], MaxLen(MAX_EXPERTS)] = ()
    redundant_experts: Annotated[int, NotBoolean] = Field(default=0, ge=0, le=4096)
    placement: Literal["linear", "balanced"] = "linear"

    @model_validator(mode="before")
    @classmethod
    def _weights_are_given(cls, written: Any) -> Any:
        if isinstance(written, Mapping) and written.get("weights") and "popularity" not in written:
            return {**written, "popularity": "given"}
        return written

    @field_validator("weights")
    @classmethod
    def _weights_are_counts(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if weights:
            refuse_no_counts(weights)
        return weights

    @model_validator(mode="after")
    def _weights_and_popularity_agree(self) -> ExpertRouting:
        if self.weights and self.popularity != "given":
            raise ValueError(f"popularity = {self.popularity}: must be given beside weights")
        if self.popularity == "given" and not self.weights:
            raise ValueError("popularity = given: needs weights, a number for each expert or a file of them")
        return self


def refuse_no_counts(weights: Sequence[float]) -> None:
    """ValueError for counts or shares by expert that cannot be: negative or infinite ones, or none at all."""
    for expert, weight in enumerate(weights):
        if not 0.0 <= weight < inf:
            raise ValueError(f"{weight!r} of expert {expert}: must be a finite number, at least 0")
    if not any(weights):
        raise ValueError("no expert was ever chosen; one count above zero is needed")
    if sum(weights) == inf:
        raise ValueError("the sum is infinite; write smaller numbers, as in shares of 1")


class GivenServiceTime(BaseModel):
    """A step takes `step_s`, plus `sequence_s` for each sequence and `token_s` for each token in it, on no
    GPU at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_s: Seconds = 0.0
    sequence_s: Seconds = 0.0
    token_s: Seconds = 0.0


class Engine(BaseModel):
    """One engine: a replica of the model over tensor_parallel_size x pipeline_parallel_size GPUs, and its
    scheduler.

    `decode_context_parallel_size` tensor-parallel ranks share the KV cache of a text by its tokens, where
    they would each keep a copy of the same heads (vLLM's `-dcp`).

    `data_parallel_lock_step`: the data-parallel ranks go through every step together, as they must where they
    share experts; unset, where the model has any. Else each rank is a replica of its own, behind the router
    of all.

    `scheduler` is a word, or from a script any callable that takes an `EngineView` and returns grants
    (`sim.policy.scheduling`; `sim.testing.check_scheduler` tries one).

    `backend`: the engine whose kernels and all-reduces run, where they were measured.
    `batch_wait_timeout_iters`: so many steps new prompts wait for more of them while others decode
    (TensorRT-LLM). A request spends `frontend_s`, and `frontend_token_s` for each prompt token, before the
    engine has it; `step_gap_s` lies between two steps.

    `sampler`: whether sampling sorts all logits (vLLM before 0.17, with and without experts) or a kernel
    picks among them, which needs less memory beside the KV cache; `auto`: a mixture of experts sorts, as most
    of the measured ones do. `moe_backend`: whose kernels compute experts in 4 bits, by which their weights
    are padded; `auto`: Triton's on Hopper, Marlin's on GPUs before it.

    `jitter` and `stragglers`: kernels that take longer in some steps, and on some ranks in all of them; every
    step has the pace of its slowest rank.

    `disable_hybrid_kv_cache_manager`: layers with a sliding window keep the KV cache of whole texts.

    `capacity_scheduler_policy`, in TensorRT-LLM's words, admits where blocks are few: `max_utilization` every
    request that fits now, of which some are preempted later (vLLM); `guaranteed_no_evict` those that are sure
    to fit to the end of their longest answer (TensorRT-LLM's default). `free_gpu_memory_fraction`,
    TensorRT-LLM's too, is the cache's share of the memory that weights and buffers leave; where it is given,
    `gpu_memory_utilization`, a share of all memory for all of them, has no effect.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensor_parallel_size: Ranks = 1
    pipeline_parallel_size: Ranks = 1
    data_parallel_size: Ranks = 1
    decode_context_parallel_size: Ranks = 1
    data_parallel_lock_step: bool | None = None
    enable_expert_parallel: bool = False
    expert_routing: ExpertRouting = ExpertRouting()
    dispatch_dtype: Literal["fp8", "bf16", "nvfp4"] = "fp8"
    all2all_backend: Literal[
        "auto", "allgather_reducescatter", "one_sided", "deepep_low_latency", "deepep_high_throughput"
    ] = "auto"
    enable_dbo: bool = False

    backend: Literal["vllm", "sglang", "trtllm"] = "vllm"
    scheduler: Scheduler = "vllm"
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    max_num_seqs: Limit | None = None
    max_num_batched_tokens: Limit | None = None
    max_model_len: Limit | None = None
    enable_chunked_prefill: bool = True
    batch_wait_timeout_iters: LimitOrNone = 0
    long_prefill_token_threshold: LimitOrNone = 0
    scheduler_reserve_full_isl: bool = True
    capacity_scheduler_policy: Literal["max_utilization", "guaranteed_no_evict"] = "max_utilization"
    async_scheduling: bool | None = None
    pipeline_split: Literal["vllm", "even"] = "vllm"

    block_size: Annotated[int, NotBoolean, Field(gt=0, le=MAX_BLOCK_TOKENS)] = 16
    gpu_memory_utilization: Share = Field(0.9, gt=0.0, le=1.0)
    free_gpu_memory_fraction: Share | None = Field(None, gt=0.0, le=1.0)
    num_gpu_blocks_override: Limit | None = None
    enable_prefix_caching: bool = True
    kv_tiers: KvTiers | None = None
    watermark: Share = Field(0.0, ge=0.0, lt=1.0)

    enforce_eager: bool = False
    max_cudagraph_capture_size: Annotated[int, NotBoolean] | None = Field(None, ge=0, le=MAX_GRAPH_TOKENS)
    sampler: Literal["auto", "sort", "kernel"] = "auto"
    moe_backend: Literal["auto", "triton", "marlin"] = "auto"
    disable_hybrid_kv_cache_manager: bool = False
    disable_custom_all_reduce: bool = False
    collectives: Literal["auto", "nccl", "vllm", "sglang", "trtllm", "flashinfer"] = "auto"

    executor: Literal["uni", "mp", "ray"] = "mp"
    inter_node: str | None = None
    host: HostTime = HostTime.model_validate({})
    frontend_s: Seconds = 0.0
    frontend_token_s: Seconds = 0.0
    step_gap_s: Seconds = 0.0
    speculation: Speculation | None = None

    service_time: GivenServiceTime | None = None
    jitter: Jitter | None = None
    stragglers: Annotated[tuple[Straggler, ...], MaxLen(MAX_STRAGGLERS)] = ()

    @property
    def world_size(self) -> int:
        """GPUs of one replica."""
        return self.data_parallel_size * self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def collectives_library(self) -> str:
        """Whose all-reduce kernels run: the engine's own, unless another library is named."""
        if self.disable_custom_all_reduce:
            return "nccl"
        return self.backend if self.collectives == "auto" else self.collectives

    @property
    def schedules_async(self) -> bool:
        """Asynchronous scheduling: vLLM's default, except under Ray and with pipeline stages (vllm#25887,
        vllm#32618).
        """
        if self.async_scheduling is not None:
            return self.async_scheduling
        return self.executor != "ray" and self.pipeline_parallel_size == 1

    @model_validator(mode="after")
    def _tiers_have_prefixes(self) -> Engine:
        if self.kv_tiers is not None and not self.enable_prefix_caching:
            raise ValueError("kv_tiers keep prefixes; they need enable_prefix_caching: true")
        if self.kv_tiers is not None and self.service_time is not None:
            raise ValueError("kv_tiers move KV to and from GPUs; an engine with a service_time has none")
        return self

    @model_validator(mode="after")
    def _stragglers_are_ranks(self) -> Engine:
        ranks = [straggler.rank for straggler in self.stragglers]
        for place, rank in enumerate(ranks):
            if rank >= self.world_size:
                raise ValueError(
                    f"stragglers[{place}].rank = {rank}: must be from 0 to {self.world_size - 1}, a rank of "
                    f"{self.world_size} GPUs"
                )
            if rank in ranks[:place]:
                raise ValueError(f"stragglers[{place}].rank = {rank}: stands there twice; write one factor")
        return self

    @model_validator(mode="after")
    def _shared_experts_are_in_step(self) -> Engine:
        if self.data_parallel_lock_step is False and self.enable_expert_parallel:
            raise ValueError(
                "data_parallel_lock_step = false: must be true beside enable_expert_parallel: true, "
                "since ranks that share experts exchange tokens at every step"
            )
        return self

    @model_validator(mode="after")
    def _budget_covers_a_sequence(self) -> Engine:
        seqs, tokens = self.max_num_seqs, self.max_num_batched_tokens
        if seqs is not None and tokens is not None and tokens < seqs:
            raise ValueError(
                f"max_num_batched_tokens = {tokens}: must be at least max_num_seqs = {seqs}, "
                "a token for every running sequence"
            )
        return self
