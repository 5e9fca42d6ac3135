"""vLLM on eight H200 at prompts of growing length: a table that is shipped and not held against.

Its servers lost time somewhere. A first token of MiniMax-M2.5 takes 0.45 s or more however short the prompt;
with 8,192 tokens and four users it takes 1,435 ms on eight ranks, where InferenceX's closed loops of the
same model on the same GPUs and layout have 197 and 198 ms.
"""

from __future__ import annotations

from sim.validation.services.published_rows import Cells

CONTAMINATED = (
    "contaminated: 0.4 s in every prefill step of MiniMax-M2.5; 8,192 tokens of one of four users take "
    "1.43 s, in closed loops of the same model, GPUs and layout 0.20 s"
)


def sweep_left_out(row: Cells) -> str:
    if row["model"].startswith("zai-org/GLM"):
        return (
            "GLM-5 (sparse attention, multi-token prediction of unknown acceptance) has no description here"
        )
    if row["model"].startswith("Qwen/Qwen3.5"):
        return "Qwen3.5-397B (linear attention in most layers) has no model description here"
    return CONTAMINATED
