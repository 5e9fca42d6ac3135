"""Memory pressure gets worse with sparse models: what a decode step reads, holds and computes.

A dense model reads all its weights in a step and uses each for every sequence. A mixture of experts reads
those experts that any of its tokens chose: with few sequences few, with some tens nearly all of them, each
for a few tokens. It has more weights to hold for as much arithmetic, so that arithmetic keeps memory company
only at far larger batches.

By hand: a GPU that does 5e15 flop/s in FP8 and reads 8e12 bytes/s is busy with arithmetic from 312 tokens a
weight on. Of DeepSeek-V3's 256 experts a token chooses 8: 32 times as many tokens, 10,000 sequences.
Where it stops: routed experts are chosen evenly; the second chart counts bytes and no step.
"""

from __future__ import annotations

from dataclasses import dataclass

import sim
from sim.theory import domain_sizing as theory
from sim.views.answer import Figure, Row, Section

from . import draw

MODELS = ("llama-3-70b", "mixtral-8x22b", "qwen3-235b-a22b", "deepseek-v3", "kimi-k2.5")
CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)
BATCHES = tuple(1 << power for power in range(15))
GPU = theory.Gpu(flop_per_s=5e15, hbm_bytes_per_s=8e12, hbm_bytes=186e9, link_bytes_per_s=9e11)
DATASHEET = "NVIDIA GB200: 5 PFLOP/s of dense FP8, 8 TB/s"


@dataclass(frozen=True)
class Shape:
    """Parameters of a model: all, and those that one token uses."""

    name: str
    held: float
    active: float
    experts: int
    chosen: int
    kv_bytes_per_token: float

    def gpus(self, context: int) -> float:
        """GPUs whose memory holds the weights in FP8, and the caches of as many sequences as `balanced`."""
        return (self.held + self.balanced * context * self.kv_bytes_per_token) / GPU.hbm_bytes

    @property
    def routed(self) -> float:
        """Parameters of all routed experts: what is held and not active, over the share not chosen."""
        return 0.0 if self.experts == 0 else (self.held - self.active) / (1.0 - self.chosen / self.experts)

    def read(self, batch: int) -> float:
        """Bytes of FP8 weights that a step with one token a sequence reads."""
        if self.experts == 0:
            return self.held
        hit = theory.distinct_experts(self.experts, self.chosen, batch) / self.experts
        return self.held - self.routed * (1.0 - hit)

    def intensity(self, batch: int) -> float:
        """Flop per byte of weights."""
        return 2.0 * self.active * batch / self.read(batch)

    @property
    def balanced(self) -> float:
        """Sequences at which arithmetic takes as long as reading every weight once."""
        return GPU.flop_per_hbm_byte * self.held / (2.0 * self.active)


def shape(name: str) -> Shape:
    model = sim.load_model(name)
    experts = model.experts if model.is_moe else 0
    chosen = model.experts_per_token if model.is_moe else 0
    return Shape(
        name,
        float(model.parameters),
        float(model.active_parameters),
        experts,
        chosen,
        model.kv_bytes_per_token("fp8"),
    )


def section(quick: bool) -> Section:
    shapes = [shape(name) for name in MODELS]
    rows = []
    for one in shapes:
        rows += [
            Row(one.name, "parameters held, over those that a token uses", "ratio", None,
                one.held / one.active),
            Row(one.name, "bytes read for a token, batch 1", "GB", None, one.read(1) / 1e9),
            Row(one.name, "bytes read for a token, batch 64", "GB", None, one.read(64) / 64 / 1e9),
            Row(one.name, "flop per byte of weights, batch 64", "flop/B", None, one.intensity(64)),
            Row(one.name, "sequences until arithmetic keeps up with reading weights", "", None,
                one.balanced, source=DATASHEET),
            *(Row(one.name, f"GPUs that hold so many with {context} tokens each", "GPUs", None,
                  one.gpus(context), source=DATASHEET) for context in (4096, 32768)),
        ]  # fmt: skip
    dense, sparse = shapes[0], max(shapes, key=lambda one: one.held / one.active)
    return Section(
        "Memory pressure gets worse with sparse models",
        (
            (
                "A weight that is read from memory is used for every sequence that needs it. In a dense "
                "model that is the whole batch; in a mixture of experts it is the few that chose the expert, "
                "while a batch of some tens already reads nearly all of them. The first chart has the "
                "arithmetic that a byte of weights is read for. The second has what follows for the domain: "
                "how many GPUs hold the model and the sequences that would keep its arithmetic busy."
            ),
        ),
        tuple(rows),
        (
            f"{dense.name} keeps its arithmetic busy from {dense.balanced:.0f} sequences on, {sparse.name} "
            f"from {sparse.balanced:,.0f}: it holds {sparse.held / sparse.active:.0f} weights for each that "
            f"a token uses. With 4 K of context that takes {dense.gpus(4096):.0f} and "
            f"{sparse.gpus(4096):.0f} GPUs of 186 GB. A large domain gathers that many sequences: it "
            "spreads the experts, frees memory for caches, and brings each expert the tokens of all GPUs."
        ),
        "parameters and caches by the models' configurations, in FP8; peaks and memory by the datasheet.",
        (
            Figure(
                "sparse",
                "at equal batches a sparse model does a fraction of the arithmetic for every byte that it "
                "reads, and the batch that makes up for it fills the memory of many GPUs.",
                lambda: picture(shapes),
            ),
        ),
    )


def picture(shapes: list[Shape]) -> draw.Chart:
    data = [
        {"batch": batch, "intensity": one.intensity(batch), "model": one.name}
        for one in shapes
        for batch in BATCHES
    ]
    balance = [
        {"batch": batch, "intensity": GPU.flop_per_hbm_byte, "model": "GB200, FP8: flop/s over bytes/s"}
        for batch in (BATCHES[0], BATCHES[-1])
    ]
    holding = [
        {"context": context, "gpus": one.gpus(context), "model": one.name}
        for one in shapes
        for context in CONTEXTS
    ]
    return draw.beside(
        [
            draw.lines(
                data + balance,
                draw.axis("batch", "sequences (log)", log=True),
                draw.axis("intensity", "flop per byte of weights (log)", log=True),
                colour="model",
            ),
            draw.lines(
                holding,
                draw.axis("context", "tokens of context (log)", log=True),
                draw.axis("gpus", "GPUs that hold the balanced batch (log)", log=True, values=draw.SIZES),
                colour="model",
                points=True,
            ),
        ],
        "Memory pressure, from dense to sparse",
        "decode in FP8",
        independent=True,
    )
