"""In which number formats a model runs: what the scenario writes, and else what its checkpoint says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sim.inputs.model import Model
from sim.inputs.precision import Checkpoint, Precision

FORMATS_OF_WEIGHTS = ("weights", "experts", "qkv_weights", "activation_scales")


def precision_of(written: Any, model: Any) -> Any:
    """The precision of a model that a scenario serves. Keys that are written win, and a written `weights`
    over all that the checkpoint says of weights; `model_fields_set` has those that are written.

    What is not a precision, or not a model, comes back as it is, for its own check to refuse.
    """
    published = _formats_of_checkpoint(model)
    if not published or not isinstance(written, Precision | Mapping | None):
        return written
    try:
        precision = written if isinstance(written, Precision) else Precision.model_validate(written or {})
    except ValidationError:
        return written
    own = precision.model_fields_set
    taken = {key: value for key, value in published.items() if key not in own and not _ruled_out(key, own)}
    values = {**Precision().model_dump(), **{key: getattr(precision, key) for key in own}, **taken}
    return Precision.model_construct(_fields_set=set(own), **values)


def precision_note(model: Model, precision: Precision) -> str | None:
    """A sentence on what a checkpoint decided, or on what the scenario decided against it; None where the
    checkpoint is not quantised.
    """
    if model.checkpoint is None:
        return None
    words, published = model.checkpoint.quantisation, model.checkpoint.precision
    if not published:
        return (
            f"{model.name} is quantised in its config.json ({words}); weights are taken as "
            f"{precision.weights}: write precision.weights"
        )
    taken = {key: value for key, value in published.items() if key not in precision.model_fields_set}
    taken = {key: value for key, value in taken.items() if getattr(precision, key) == value}
    if "weights" in taken:
        shown = ", ".join(f"precision.{key} = {value}" for key, value in taken.items())
        return f"{shown}, as quantization_config of {model.name} says ({words})"
    as_published = precision.weights == published.get("weights", precision.weights)
    if as_published and precision.experts == published.get("experts"):
        return None
    return (
        f"precision.weights = {precision.weights}, as the scenario says; quantization_config of "
        f"{model.name} says {words}"
    )


def _formats_of_checkpoint(model: Any) -> Mapping[str, Any]:
    """What the checkpoint of a model says, be it loaded or the values of one."""
    checkpoint = model.get("checkpoint") if isinstance(model, Mapping) else getattr(model, "checkpoint", None)
    if isinstance(checkpoint, Checkpoint):
        return checkpoint.precision
    published = checkpoint.get("precision") if isinstance(checkpoint, Mapping) else None
    return published if isinstance(published, Mapping) else {}


def _ruled_out(key: str, own: set[str]) -> bool:
    return "weights" in own and key in FORMATS_OF_WEIGHTS
