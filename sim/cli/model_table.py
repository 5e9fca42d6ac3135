"""The table of docs/models.md: what each `config.json` of a folder comes to, beside its published size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli.output import note
from sim.views.page_marks import put_between

if TYPE_CHECKING:
    from sim.inputs.model import Model

BEGIN, END = "<!-- table of models -->", "<!-- end of the table -->"
HEAD = (
    "model", "family", "parameters (10⁹)", "published", "a token's", "published", "layers",
    "KV bytes a token", "state of a request (MB)",
)  # fmt: skip


def models_of(folder: Path) -> list[tuple[Model, dict[str, object]]]:
    """Every config.json of a folder, with what it says of itself under names that begin with `_`."""
    from sim.inputs.errors import InputError
    from sim.reading.huggingface import read_model

    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"{folder} has no .json files; a folder with config.json files of models does")
    found = []
    for file in files:
        model = read_model(file)
        written = json.loads(file.read_text(encoding="utf-8"))
        found.append((model, {key: value for key, value in written.items() if key.startswith("_")}))
    return found


def table_of(folder: Path) -> str:
    """Markdown, one model a line; figures of bf16 caches and of the whole model, before any sharding."""
    lines = ["| " + " | ".join(HEAD) + " |", "| --- | --- " + "| ---: " * (len(HEAD) - 2) + "|"]
    for model, about in models_of(folder):
        cells = (
            f"[{model.name}]({about['_source']})" if "_source" in about else model.name,
            model.architecture,
            f"{model.parameters / 1e9:.2f}",
            _billions(about.get("_published_parameters")),
            f"{model.active_parameters / 1e9:.2f}",
            _billions(about.get("_published_active_parameters")),
            _layers(model),
            f"{model.kv_bytes_per_token():,.0f}",
            f"{model.state_bytes_per_request / 1e6:.1f}" if model.state_bytes_per_request else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_table(folder: Path, page: Path) -> None:
    """Put the table between its two marks in a page. InputError where the page has none."""
    put_between(page, BEGIN, END, table_of(folder))
    note(f"written to {page}")


def _billions(count: object) -> str:
    return f"{count / 1e9:g}" if isinstance(count, int | float) else "none"


def _layers(model: Model) -> str:
    """Layers by what they keep."""
    shapes = [model.shape_of(layer) for layer in range(model.layers)]
    windowed = sum(shape.keeps_kv and bool(shape.sliding_window) for shape in shapes)
    if not model.layer_shapes:
        windowed = model.sliding_layers if model.sliding_window else 0
    counts = {
        "attention": sum(shape.keeps_kv for shape in shapes) - windowed,
        "window": windowed,
        "state": sum(shape.linear is not None for shape in shapes),
        "neither": sum(not shape.attention for shape in shapes),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
