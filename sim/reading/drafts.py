"""The `config.json` of a draft -> its shapes: a small model, or an EAGLE head (one layer, and a projection
that joins hidden states of the served model).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sim.inputs.errors import InputError, Problem
from sim.reading.huggingface import MAX_BYTES, model_of, read_model
from sim.reading.text_files import text_of

# Hidden states that are joined: one and the embedding of the last token in EAGLE (Li et al., arXiv
# 2401.15077); three of different depths in EAGLE-3 (arXiv 2503.01840)
FUSED_BY_EAGLE, FUSED_BY_EAGLE_3 = 2, 3


def read_draft(path: Path) -> dict[str, int]:
    """Fields of a `Draft`. InputError as of a model; also for drafts with experts or with layers that
    differ.
    """
    keys = _keys_of(path)
    architecture = " ".join(map(str, keys.get("architectures") or [])).lower()
    eagle = "eagle" in architecture or "eagle" in str(keys.get("model_type", "")).lower()
    if eagle:
        known = "qwen3" if "qwen3" in architecture else "llama"
        model = model_of({**keys, "architectures": [], "model_type": known}, path.stem, str(path))
    else:
        model = read_model(path)
    if model.is_moe or model.mla is not None or model.layer_shapes:
        what = f"is a draft of {model.architecture}: dense ones with plain attention are known, and `mtp`"
        raise InputError(Problem(what, str(path)))
    vocab = keys.get("draft_vocab_size")
    fused = (FUSED_BY_EAGLE_3 if "eagle3" in architecture or vocab else FUSED_BY_EAGLE) if eagle else 0
    sizes = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim")
    shapes = {name: int(getattr(model, name)) for name in sizes}
    given = isinstance(vocab, int) and not isinstance(vocab, bool) and vocab > 0
    return shapes | {"vocab": int(vocab or 0) if given else model.vocab, "fused_states": fused}


def _keys_of(path: Path) -> dict[str, Any]:
    """The keys, to tell an EAGLE head; what is no JSON is for the reader of models to refuse."""
    try:
        keys = json.loads(text_of(path, "a config.json", MAX_BYTES))
    except (ValueError, RecursionError):
        return {}
    return keys if isinstance(keys, dict) else {}
