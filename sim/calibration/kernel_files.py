"""Fitted kernel parameters as the files that ship: one for each GPU, every set with its origin and its
error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sim.calibration.host_bound import WAITS, lender_in_words
from sim.calibration.kernel_fit import SEARCHED, Parameters
from sim.calibration.kernels import Fit
from sim.calibration.stand_ins import STAND_INS, stand_in_of
from sim.catalog import load_gpu
from sim.cost.kernels.timing import number_format
from sim.inputs.kernel_parameters import DEFAULT_ENGINE, LENT

MIN_S_PER = 1e-15  # a millionth of a nanosecond: a fit that ended at its lower bound
# A kernel that takes so many times as long as another engine's, over its own points, was timed before it was
# tuned: vLLM's 8-bit experts with one scale on Hopper, four times as long. It says nothing of a service.
UNTUNED = 2.0
# What a GPU that was not measured borrows under every engine, and not from the default one alone.
LENT_BY_ENGINE = ("moe",)

# What a long prefill keeps of the isolated rate, beyond the throttle of single products. Fitted so that
# the products, attention and small kernels of one published run add up to its 782 ms without collectives.
_LONG_PREFILL = "prefill of Llama-3-70B, 4096 tokens, TP4 on 4 x A100: 878.6 ms, of which 96.5 ms collectives"
SUSTAINED: dict[str, tuple[float, str]] = {
    "a100-80gb-sxm": (0.761, _LONG_PREFILL),
    "a100-40gb-sxm": (0.761, _LONG_PREFILL),
}

SOURCES = {
    "vllm": "NVIDIA aiconfigurator 0.12.0, vLLM 0.24.0 (A100: 0.14.0), Apache-2.0; RTX: LLMServingSim, MIT",
    "trtllm": "NVIDIA aiconfigurator 0.12.0, TensorRT-LLM 1.3.0rc20 (A100: 1.0.0), Apache-2.0",
    "sglang": "NVIDIA aiconfigurator 0.12.0, SGLang, Apache-2.0",
}

Sets = dict[tuple[str, str], tuple[Parameters, str, str]]  # (kernel, format) -> parameters, tag, source


def written(fits: Sequence[Fit], command: str) -> dict[str, str]:
    """The text of each GPU's file, by GPU: for those measured, and for those that borrow from one of them."""
    measured = sorted({one.gpu for one in fits})
    own = {gpu: _default_sets([one for one in fits if one.gpu == gpu]) for gpu in measured}
    borrowers = (gpu for gpu, stand_in in STAND_INS.items() if stand_in in own)
    by_engine = {
        engine: {
            gpu: _sets_of([one for one in fits if one.gpu == gpu and one.engine == engine])
            for gpu in sorted({one.gpu for one in fits if one.engine == engine})
        }
        for engine in sorted({one.engine for one in fits} - {DEFAULT_ENGINE})
    }
    texts = {}
    for gpu in sorted({*measured, *borrowers}):
        others = {
            engine: sets | _borrowed_under_engine(gpu, engine_sets)
            for engine, engine_sets in by_engine.items()
            if (sets := engine_sets.get(gpu, {})) or gpu not in own
        }
        others = {engine: sets for engine, sets in others.items() if sets}
        texts[gpu] = _text(gpu, own.get(gpu, {}) | _borrowed(gpu, own), others, command)
    return texts


def _borrowed_under_engine(gpu: str, of_engine: Mapping[str, Sets]) -> Sets:
    """What a GPU without any measurement takes of its stand-in's kernels under the same engine."""
    if gpu in of_engine:
        return {}
    return {key: sets for key, sets in _borrowed(gpu, of_engine).items() if key[0] in LENT_BY_ENGINE}


def _borrowed(gpu: str, own: Mapping[str, Sets]) -> Sets:
    """What a GPU lacks and a stand-in has, in the formats that its own arithmetic knows."""
    there = own.get(gpu, {})
    # By kernel first: the one stand-in of all kernels only fills what is then still missing.
    lenders = [*((stand_in_of(gpu, op), (op,)) for op in SEARCHED), (STAND_INS.get(gpu, ""), tuple(SEARCHED))]
    borrowed: Sets = {}
    for stand_in, ops in lenders:
        for key, (parameters, _, source) in own.get(stand_in, {}).items():
            if key[0] in ops and not _has(there | borrowed, key) and _can_compute(gpu, key):
                first = LENT.search(source)
                origin = f"not measured on {gpu}: those of {first[1] if first else stand_in}, its stand-in"
                borrowed[key] = (parameters, "assumed", origin)
    return borrowed


def write(fits: Sequence[Fit], folder: Path, command: str) -> list[Path]:
    """Writes the files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for gpu, text in written(fits, command).items():
        paths.append(folder / f"{gpu}.yaml")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def _can_compute(gpu: str, key: tuple[str, str]) -> bool:
    op, variant = key
    if op not in ("gemm", "moe"):
        return variant != "fp8" or "fp8" in load_gpu(gpu).flops
    return any(name in load_gpu(gpu).flops for name in number_format(variant).arithmetic)


def _has(sets: Sets, key: tuple[str, str]) -> bool:
    # Small kernels have one set, whatever the format of their numbers.
    return key in sets or (key[0] in ("elementwise", "sampling") and any(key[0] == op for op, _ in sets))


def _sets_of(fits: Sequence[Fit]) -> Sets:
    return {
        (one.op, one.variant): (one.parameters, "assumed" if one.waits else "fitted", _source(one))
        for one in fits
    }


def _default_sets(fits: Sequence[Fit]) -> Sets:
    """The default engine's own kernels; another's where it has none, or was timed untuned, and says so."""
    sets = _sets_of([one for one in fits if one.engine == DEFAULT_ENGINE])
    untuned = {(one.op, one.variant): one.by_others for one in fits if one.engine == DEFAULT_ENGINE}
    for one in fits:
        if one.engine == DEFAULT_ENGINE:
            continue
        key = one.op, one.variant
        beside = untuned.get(key, {}).get(one.engine)
        if key not in sets:
            why = f"not measured under {DEFAULT_ENGINE}"
        elif beside is not None and 1.0 + beside.bias < 1.0 / UNTUNED:
            why = f"timed untuned under {DEFAULT_ENGINE}, {1.0 / (1.0 + beside.bias):.2g} times as long"
        else:
            continue
        sets[key] = (one.parameters, "fitted", f"{why}: those of {one.engine}; {_source(one)}")
    return sets


def _source(one: Fit) -> str:
    if one.waits is not None:
        lender = lender_in_words((one.engine, one.op, one.gpu, one.variant), one.waits.lender)
        table = f"{SOURCES.get(one.engine, one.engine)}; {one.roofline.count} points"
        return (
            f"not measured on {one.gpu}: those of {lender}; its own table ({table}) "
            f"{WAITS}, {one.waits.excess_s * 1e6:.0f} us more whatever the work"
        )
    errors = one.held_out or one.fitted
    kind = "held out" if one.held_out else "fitted"
    source = SOURCES.get(one.engine, one.engine)
    error = f"{kind} error {errors.median:.1%} median, {errors.p90:.0%} p90"
    return f"{source}; {one.roofline.count} points, {error}"


def _text(gpu: str, sets: Sets, others: Mapping[str, Sets], command: str) -> str:
    lines = [
        f"# How fast the kernels of {gpu} really run: fractions of the datasheet peaks, floors and paces.",
        f"# Written by `{command}`; the meaning of each number is in sim/inputs/kernel_parameters.py.",
        *_blocks(sets, ""),
    ]
    if gpu in SUSTAINED:
        lines.append(f"sustained_flop_fraction: {SUSTAINED[gpu][0]:.3g}")
    if others:
        lines.append("engines:")
        for engine, theirs in others.items():
            lines += [
                f"  {engine}:",
                *_blocks(theirs, "    "),
                "    provenance:",
                *_origins(theirs, "      "),
            ]
    lines += ["provenance:", *_origins(sets, "  ")]
    if gpu in SUSTAINED:
        lines.append(f'  sustained_flop_fraction: {{tag: fitted, source: "{SUSTAINED[gpu][1]}"}}')
    return "\n".join(lines) + "\n"


def _blocks(sets: Sets, indent: str) -> list[str]:
    lines = []
    for op in SEARCHED:
        chosen = {variant: sets[op, variant][0] for kernel, variant in sorted(sets) if kernel == op}
        if not chosen:
            continue
        if op in ("elementwise", "sampling"):
            lines.append(f"{indent}{op}: {_inline(next(iter(chosen.values())))}")
            continue
        lines.append(f"{indent}{op}:")
        lines += [f"{indent}  {variant}: {_inline(parameters)}" for variant, parameters in chosen.items()]
    return lines


def _origins(sets: Sets, indent: str) -> list[str]:
    lines = [f'{indent}"*": {{tag: assumed, source: "defaults, those of an H100 under vLLM"}}']
    for (op, variant), (_, tag, source) in sorted(sets.items()):
        key = op if op in ("elementwise", "sampling") else f"{op}.{variant}"
        lines.append(f'{indent}{key}: {{tag: {tag}, source: "{source}"}}')
    return lines


def _inline(parameters: Parameters) -> str:
    values = parameters.model_dump(exclude_unset=True)
    return "{" + ", ".join(f"{name}: {_number(name, value)}" for name, value in values.items()) + "}"


def _number(name: str, value: float) -> str:
    if name.endswith("_s"):
        return f"{value * 1e6:.4g} us"
    if "s_per_" in name:
        if value < MIN_S_PER:
            return "0 ns"
        return f"{value * 1e9:.4g} ns"
    return f"{value:.4f}" if value < 10 else f"{value:.1f}"
