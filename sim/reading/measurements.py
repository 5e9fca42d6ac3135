"""Measured kernel times from CSV files: public tables whose columns are known here, or a user's own.

A user's file has the columns `gpu, kernel, latency_us` and one column for each argument of that kernel
(`m, n, k, dtype` for gemm; `batch, kv_tokens, heads, kv_heads, head_dim, kv_dtype` for attention_decode;
see `sim kernel`). Optional: `engine`, `source`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.inputs.errors import InputError, Problem
from sim.reading.files_read import file_read
from sim.reading.published_names import GPUS
from sim.reading.text_files import refuse_what_is_no_file, shown_header

FORMATS = {
    "bfloat16": "bf16",
    "w4a16_mxfp4": "w4a16",
    "w4a8_mxfp4_mxfp8": "w4a8",
}


LONGEST_S = 1e4  # no kernel takes hours
LARGEST_SIZE = 10**15
MAX_BATCH = 1_000_000  # a row of prefill has a chunk for each sequence

# What grows along one curve of a table, while the rest stays: held out together.
SWEPT = ("m", "tokens", "kv_tokens", "chunks", "n_bytes", "sequences")
# Shapes of the dense models in layer tables; heads are 128 wide.
LAYER_SHAPES = {
    "Llama-3.1-8B": {"hidden": 4096, "inter": 14336, "heads": 32, "kv_heads": 8, "vocab": 128256},
    "Qwen3-32B": {"hidden": 5120, "inter": 25600, "heads": 64, "kv_heads": 8, "vocab": 151936},
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One timed kernel. `sizes` are the arguments of the function of that name in `sim.cost.kernels.kernels`.

    `variant` names the parameter set it belongs to (a number format), `shape` the curve it lies on: what
    stays the same along one sweep, which is held out as a whole."""

    gpu: str
    engine: str
    op: str
    variant: str
    sizes: Mapping[str, Any] = field(hash=False)
    shape: str = ""
    seconds: float = 0.0


Row = Mapping[str, str]


def read_measurements(path: str | Path) -> list[Measurement]:
    """All kernel times of one CSV file. InputError where the columns are not known or a value makes no
    sense.
    """
    path = Path(path)
    refuse_what_is_no_file(path, "a CSV file")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            file_read(path)
            rows = csv.DictReader(file)
            layout = _layout(path, rows.fieldnames or ())
            return list(_measurements(path, rows, layout))
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror}", str(path))) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(Problem(f"is not a CSV file: {error}", str(path))) from None


def _measurements(
    path: Path, rows: Iterable[Row], layout: Callable[[Row], Measurement | None]
) -> Iterator[Measurement]:
    problems = []
    for line, row in enumerate(rows, start=2):
        try:
            found = layout(row)
        except (ValueError, TypeError, KeyError, OverflowError, ZeroDivisionError, RecursionError) as error:
            problems.append(Problem(f"a value makes no sense: {error}", str(path), line))
            continue
        if found is not None and not 0 < found.seconds < LONGEST_S:
            what = f"must be more than 0 and less than {LONGEST_S * 1e6:g}"
            problems.append(Problem(what, str(path), line, "latency_us", row["latency_us"]))
        elif found is not None:
            yield found
    if problems:
        raise InputError(problems[:20])


def _layout(path: Path, columns: Iterable[str]) -> Callable[[Row], Measurement | None]:
    present = set(columns)
    for needed, layout in LAYOUTS:
        if set(needed.split()) <= present:
            return layout
    if not present:
        raise InputError(Problem("is empty", str(path)))
    raise InputError(
        Problem(f"has columns that are not known: {shown_header(sorted(present))}; a file of your own needs "
                "gpu, kernel, latency_us and the kernel's arguments", str(path), 1)
    )  # fmt: skip


def _gpu(row: Row) -> str:
    system = row.get("system") or row.get("gpu") or ""
    return GPUS.get(system, system.replace("_", "-"))


def _measured(row: Row, op: str, variant: str, shape: Iterable[object], **sizes: Any) -> Measurement:
    return Measurement(
        _gpu(row), row.get("framework") or row.get("engine") or "vllm", op, variant, sizes,
        "/".join(map(str, shape)), float(row["latency_us"]) * 1e-6,
    )  # fmt: skip


def _count(row: Row, name: str, most: int = LARGEST_SIZE) -> int:
    number = int(row[name])
    if not 0 <= number <= most:
        raise ValueError(f"{name} = {row[name][:40]}: must be from 0 to {most}")
    return number


def _gemm(row: Row) -> Measurement:
    dtype = FORMATS.get(row["dtype"], row["dtype"])
    m, n, k = _count(row, "m"), _count(row, "n"), _count(row, "k")
    return _measured(row, "gemm", dtype, (n, k), m=m, n=n, k=k, dtype=dtype)


def _attention_prefill(row: Row) -> Measurement:
    batch, new, past = _count(row, "batch", MAX_BATCH), _count(row, "isl"), _count(row, "past")
    heads, kv_heads = int(row["heads"]), int(row["kv_heads"])
    dtype, kv_dtype = row["attn_dtype"], row["kv_dtype"]
    variant = "fp8" if dtype == "fp8" else "kv_fp8" if kv_dtype == "fp8" else "bf16"
    return _measured(
        row, "attention_prefill", variant, (heads, kv_heads, batch), chunks=[(new, past)] * batch,
        heads=heads, kv_heads=kv_heads, head_dim=int(row["head_dim"]), dtype=dtype, kv_dtype=kv_dtype,
    )  # fmt: skip


def _attention_decode(row: Row) -> Measurement:
    batch, length = int(row["batch"]), int(row["kv_len"])
    heads, kv_heads = int(row["heads"]), int(row["kv_heads"])
    return _measured(
        row, "attention_decode", row["kv_dtype"], (heads, kv_heads, batch), batch=batch,
        kv_tokens=batch * length, heads=heads, kv_heads=kv_heads,
        head_dim=int(row["head_dim"]), kv_dtype=row["kv_dtype"],
    )  # fmt: skip


def _latent_attention(row: Row) -> Measurement:
    # The whole block: projections and attention. `sim.calibration.kernel_fit` adds up the same parts.
    batch, new, past, heads = int(row["batch"]), int(row["isl"]), int(row["past"]), int(row["heads"])
    op = "mla_decode" if row["phase"] == "generation" else "mla_prefill"
    gemm_dtype = FORMATS.get(row["gemm_dtype"], row["gemm_dtype"])
    variant = row["kv_dtype"] if op == "mla_decode" else "kv_fp8" if row["kv_dtype"] == "fp8" else "bf16"
    return _measured(
        row, op, variant, (heads, batch, gemm_dtype), batch=batch, new=new, past=past, heads=heads,
        gemm_dtype=gemm_dtype, kv_dtype=row["kv_dtype"],
    )  # fmt: skip


def _moe(row: Row) -> Measurement:
    sizes = {name: int(row[name]) for name in ("tokens", "hidden", "inter", "topk", "experts", "tp", "ep")}
    dtype, routing = FORMATS.get(row["dtype"], row["dtype"]), row["routing"]
    shape = (row["model_like"], sizes["tp"], sizes["ep"], routing)
    return _measured(row, "moe", dtype, shape, **sizes, dtype=dtype, routing=routing)


def _layer(row: Row) -> Measurement | None:
    """A whole-layer operator; of vLLM only, and only where its sizes are known."""
    shapes = LAYER_SHAPES.get(row.get("model", ""))
    if "vidur" in row.get("source", "") or shapes is None:
        return None
    op, tokens, tp = row["op"], int(row["tokens"]), int(row["tp"])
    hidden, inter, vocab = shapes["hidden"], shapes["inter"] // tp, shapes["vocab"]
    query, key = shapes["heads"] * 128 // tp, shapes["kv_heads"] * 128 // tp
    product = {
        "qkv_proj": (query + 2 * key, hidden),
        "o_proj": (hidden, query),
        "gate_up_proj": (2 * inter, hidden),
        "down_proj": (hidden, inter),
        "lm_head": (vocab // tp, hidden),
    }.get(op)
    if product is not None:
        n, k = product
        return _measured(row, "gemm", "bf16", product, m=tokens, n=n, k=k, dtype="bf16")
    if op == "sampler":
        return _measured(row, "sampling", "fp32", (row["model"],), sequences=tokens, vocab=vocab)
    widths = {"layernorm": 4 * hidden, "act_fn": 3 * inter, "rotary_emb": 2 * (query + key)}
    width = widths.get(op)
    if width is None:
        return None
    return _measured(row, "elementwise", "bf16", (row["model"], tp, op), n_bytes=2.0 * tokens * width)


def _mixed(row: Row) -> Measurement | None:
    # Attention of one step: of prefill alone, of decodes alone, or of both in one call.
    chunk, seen, decodes, length = (
        int(row[c]) for c in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    )
    heads, kv_heads = int(row["heads"]), int(row["kv_heads"])
    same = {"heads": heads, "kv_heads": kv_heads, "head_dim": 128, "kv_dtype": "bf16"}
    if chunk and not decodes:
        chunks = [(chunk, seen)]
        return _measured(
            row, "attention_prefill", "bf16", (heads, kv_heads, seen), chunks=chunks, dtype="bf16", **same
        )
    if decodes and not chunk:
        shape = (heads, kv_heads, decodes)
        return _measured(
            row, "attention_decode", "bf16", shape, batch=decodes, kv_tokens=decodes * length, **same
        )
    if chunk and decodes:
        return _measured(
            row, "attention_mixed", "bf16", (heads, kv_heads, chunk, decodes), chunks=[(chunk, seen)],
            batch=decodes, kv_tokens=decodes * length, dtype="bf16", **same,
        )  # fmt: skip
    return None


def _own(row: Row) -> Measurement:
    known = {"gpu", "kernel", "latency_us", "engine", "source"}
    sizes = {
        name: _value(name, text)
        for name, text in row.items()
        if name is not None and name not in known and text not in ("", None)
    }
    dtype = str(sizes.get("kv_dtype" if row["kernel"] == "attention_decode" else "dtype", "bf16"))
    shape = [f"{name}={value}" for name, value in sorted(sizes.items()) if name not in SWEPT]
    return _measured(row, row["kernel"], dtype, shape, **sizes)


def _value(name: str, text: str) -> Any:
    """A cell: a size, the chunks of a batch as pairs of new and earlier tokens, a flag, or a format."""
    if name == "chunks":
        return _chunks(text)
    if text in ("True", "False", "true", "false"):
        return text.lower() == "true"
    try:
        number: float = int(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            if text.startswith(("[", "{")):
                raise ValueError(f"{name} = {text[:40]}: must be a number or a word") from None
            return text
    if not 0 <= number <= LARGEST_SIZE:
        raise ValueError(f"{name} = {text[:40]}: must be from 0 to {LARGEST_SIZE:g}")
    return number


def _chunks(text: str) -> list[tuple[int, int]]:
    import json

    what = f"chunks = {text[:40]}: must be a list of pairs of new and earlier tokens, as in [[512, 0]]"
    try:
        pairs = json.loads(text)
    except ValueError:
        raise ValueError(what) from None
    chunks = []
    for pair in pairs if isinstance(pairs, list) and pairs else [None]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(what)
        if not all(type(tokens) is int and 0 <= tokens <= LARGEST_SIZE for tokens in pair):
            raise ValueError(what)
        chunks.append((pair[0], pair[1]))
    return chunks


LAYOUTS: list[tuple[str, Callable[[Row], Measurement | None]]] = [
    ("gpu kernel latency_us", _own),
    ("system framework dtype m n k latency_us", _gemm),
    (
        "system framework batch isl past heads kv_heads head_dim attn_dtype kv_dtype latency_us",
        _attention_prefill,
    ),
    ("system framework batch kv_len heads kv_heads head_dim kv_dtype latency_us", _attention_decode),
    ("system framework phase batch isl past heads gemm_dtype kv_dtype latency_us", _latent_attention),
    ("system framework dtype tokens hidden inter topk experts tp ep routing latency_us", _moe),
    ("gpu op tokens gemm_n gemm_k latency_us", _layer),
    ("gpu heads kv_heads prefill_chunk kv_prefill n_decode kv_decode latency_us", _mixed),
]
