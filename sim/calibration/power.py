"""Fit what a GPU draws to measured services: idle power is given, five numbers are fitted.

A row is a service in its steady state: watts, running sequences, tokens a second. The mean step lasts
sequences / (tokens a second); its bytes and FLOPs are those of `sim.cost.step_work`. Every number has its
sign by its meaning: none is negative, and a FLOP costs at most a picojoule in 16 bits. What a fit predicts
for a model is from a fit without any row of that model; constant watts stand beside.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.catalog import list_gpus, load_gpu, load_model, load_topology
from sim.cost.batch import Batch
from sim.cost.network import Network
from sim.cost.power import drawn_w
from sim.cost.shard import Shard
from sim.cost.stage_cost import StageCost
from sim.cost.step_work import StepWork
from sim.inputs.engine import Engine
from sim.inputs.errors import InputError, Problem
from sim.inputs.hardware import Gpu
from sim.inputs.model import Model
from sim.inputs.power import GpuPower
from sim.inputs.precision import Precision
from sim.reading.published_names import GPUS, MODELS, SYSTEMS

Floats = NDArray[np.float64]
MOST_J_PER_FLOP = 1e-12  # assumed: the most that tensor cores in 16 bits take with what feeds them


@dataclass(frozen=True)
class PowerRow:
    """One measured service: watts of one GPU, and what it did; its median time between tokens, if known."""

    model: str
    gpu: str
    gpus: int
    sequences: float
    prompt_tokens: float
    output_tokens: float
    tokens_per_s: float
    watts: float
    expert_parallel: bool = False
    weights: str = "bf16"
    experts: str | None = None
    median_itl_s: float | None = None

    @property
    def step_s(self) -> float:
        """The mean step, prompts of others in it included."""
        return self.sequences / self.tokens_per_s


@dataclass(frozen=True)
class PowerFit:
    """What was fitted for one GPU, and the relative errors on models that no fit saw."""

    gpu: str
    power: GpuPower
    errors: tuple[float, ...]
    errors_of_simulated_steps: tuple[float, ...]
    constant_errors: tuple[float, ...]
    by_model: dict[str, tuple[float, ...]]


def shard_of(row: PowerRow, model: Model, gpu: Gpu, ranks: Sequence[str]) -> Shard:
    """The service on these GPUs."""
    precision = Precision.model_validate({"weights": row.weights, "experts": row.experts})
    engine = Engine.model_validate(
        {"tensor_parallel_size": row.gpus, "enable_expert_parallel": row.expert_parallel}
    )
    return Shard(model, engine, precision, gpu, (tuple(ranks),), 0, model.layers)


def simulated_step_s(row: PowerRow, model: Model, gpu: Gpu) -> tuple[float, float] | None:
    """A step as the simulator prices it, without the host's time: of decodes alone, and the mean, which in
    the share of steps in which a prompt comes has it beside the decodes. None for a GPU without a shipped
    machine.
    """
    system = SYSTEMS.get(row.gpu)
    if system is None:
        return None
    network = Network(load_topology(system).graph)
    shard = shard_of(row, model, gpu, network.gpus[: row.gpus])
    cost = StageCost(shard, network, frozenset({"host"}))
    decodes = max(1, round(row.sequences))
    kv_tokens = decodes * (row.prompt_tokens + row.output_tokens / 2.0)
    alone = cost.step(Batch((), decodes, kv_tokens, decodes))[0]
    chunk = (int(row.prompt_tokens), 0)
    beside = cost.step(Batch((chunk,), decodes, kv_tokens, decodes + 1))[0]
    return alone, alone + row.sequences / row.output_tokens * (beside - alone)


class Rates(NamedTuple):
    """What one GPU does a second in the mean step: bytes of HBM and FLOPs, each over the datasheet's, and
    values of activations.
    """

    hbm: float
    tensor: float
    values_per_s: float

    def faster(self, factor: float) -> Rates:
        """The same work in steps that are so many times as short."""
        return Rates(*(factor * one for one in self))


def rates_of(row: PowerRow, model: Model, gpu: Gpu) -> Rates:
    """The mean of steps with decodes alone and of those in which a prompt comes as well. A prompt hits
    experts that decodes do not, all at once: spread over all steps it would seem to read them in each.
    """
    work = StepWork(shard_of(row, model, gpu, [str(rank) for rank in range(row.gpus)]))
    sequences, none = np.array([row.sequences]), np.zeros(1)
    kv_tokens = sequences * (row.prompt_tokens + row.output_tokens / 2.0)
    prompts_a_step = row.sequences / row.output_tokens
    together, with_prompts = max(prompts_a_step, 1.0), min(prompts_a_step, 1.0)
    prompts = np.array([together * row.prompt_tokens])
    alone = work.of(none, sequences, sequences, kv_tokens)
    beside = work.of(prompts, sequences, sequences + together, kv_tokens, row.prompt_tokens / 2.0)
    hbm_bytes, peak_s, values = (
        float(one[0] + with_prompts * (other[0] - one[0])) / row.step_s
        for one, other in zip(alone, beside, strict=True)
    )
    return Rates(hbm_bytes / gpu.hbm_bytes_per_s, peak_s, values)


def predicted_w(power: GpuPower, rates: Sequence[Rates]) -> Floats:
    """Watts of one GPU at each of these rates."""
    hbm, tensor, values = np.array(rates).T
    asked = power.idle_w + power.step_w + power.hbm_w * hbm + power.tensor_w * tensor
    return drawn_w(asked + power.activation_nj * 1e-9 * values, power.max_w)


def fit(
    rows: Sequence[tuple[PowerRow, Rates]],
    gpu: Gpu,
    idle_w: float,
    board_w: float,
    slower: Mapping[PowerRow, float] | None = None,
) -> PowerFit:
    """Fit `rows`, each with its rates, of one GPU. `slower`: how many times a row's
    simulated step its measured one lasts, for what the same fit predicts from simulated steps.
    """
    models = sorted({row.model for row, _ in rows})
    if len(models) < 3:
        raise InputError(f"{gpu.name}: rows of {len(models)} models; three are the fewest that tell anything")
    errors: list[float] = []
    simulated: list[float] = []
    constant: list[float] = []
    by_model: dict[str, tuple[float, ...]] = {}
    for left_out in models:
        seen = [one for one in rows if one[0].model != left_out]
        unseen = [one for one in rows if one[0].model == left_out]
        power = _fitted(seen, gpu, idle_w, board_w)
        watts = np.array([row.watts for row, _ in unseen])
        found = np.abs(predicted_w(power, [rates for _, rates in unseen]) / watts - 1.0)
        by_model[left_out] = tuple(found.tolist())
        errors += found.tolist()
        for row, rates in unseen:
            if slower and row in slower:
                watts_of = predicted_w(power, [rates.faster(slower[row])])
                simulated.append(abs(float(watts_of[0]) / row.watts - 1.0))
        constant += np.abs(np.median([row.watts for row, _ in seen]) / watts - 1.0).tolist()
    return PowerFit(
        gpu.name,
        _fitted(rows, gpu, idle_w, board_w),
        tuple(errors),
        tuple(simulated),
        tuple(constant),
        by_model,
    )


def _fitted(rows: Sequence[tuple[PowerRow, Rates]], gpu: Gpu, idle_w: float, board_w: float) -> GpuPower:
    from scipy.optimize import least_squares

    watts, rates = np.array([row.watts for row, _ in rows]), [one for _, one in rows]
    most = gpu.flops.get("bf16", max(gpu.flops.values())) * MOST_J_PER_FLOP

    def power_of(numbers: Sequence[float]) -> GpuPower:
        step, of_hbm, of_tensor, of_value, limit = (float(number) for number in numbers)
        return GpuPower(
            idle_w=idle_w,
            step_w=step,
            hbm_w=of_hbm,
            tensor_w=of_tensor,
            activation_nj=of_value,
            max_w=limit,
        )

    start = [0.1 * board_w, 0.4 * board_w, 0.5 * most, 5.0, 0.95 * board_w]
    bounds = ([0.0, 0.0, 0.0, 0.0, 0.8 * board_w], [board_w, 4.0 * board_w, most, 100.0, 1.2 * board_w])

    def residuals(numbers: Any, /) -> Any:
        return predicted_w(power_of(numbers), rates) / watts - 1.0

    # The median matters, and a few services were measured on machines that others' rows contradict.
    found = least_squares(residuals, start, bounds=bounds, loss="soft_l1", f_scale=0.05)
    return power_of([round(float(number), 2) for number in found.x])


COLUMNS = (
    "model", "gpu", "gpus", "mean_batch", "mean_output_tokens", "power_w", "output_tok_per_s"
)  # fmt: skip
PROMPTS = {"lm-arena-chat": 400.0, "gpqa": 300.0, "sourcegraph-fim": 1500.0}
"""Tokens of a prompt by task, where a row does not say: assumed; the leaderboard gives none."""
WEIGHTS: dict[str, dict[str, Any]] = {
    "bfloat16": {}, "fp8": {"weights": "fp8"}, "mxfp4": {"experts": "w4a16"}
}  # fmt: skip


def read_power_rows(path: Path) -> list[PowerRow]:
    """Rows of a CSV as ML.ENERGY's leaderboard has them, watts of all GPUs. InputError for others."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lacking = [name for name in COLUMNS if not rows or name not in rows[0]]
    if lacking:
        raise InputError(Problem(f"has no column {', '.join(lacking)}", file=str(path)))
    return [_row(row, line, path) for line, row in enumerate(rows, 2)]


def _row(row: dict[str, str], line: int, path: Path) -> PowerRow:
    try:
        gpus = int(row["gpus"])
        return PowerRow(
            row["model"],
            row["gpu"],
            gpus,
            float(row["mean_batch"]),
            float(row.get("prompt_tokens") or PROMPTS.get(row.get("task", ""), 400.0)),
            float(row["mean_output_tokens"]),
            float(row["output_tok_per_s"]),
            float(row["power_w"]) / gpus,
            int(row.get("expert_parallel") or 1) > 1,
            **WEIGHTS.get(row.get("weights", "bfloat16"), {}),
            median_itl_s=1e-3 * float(row["median_itl_ms"]) if row.get("median_itl_ms") else None,
        )
    except (ValueError, TypeError) as error:
        raise InputError(Problem(f"line {line}: {error}", file=str(path))) from error


def fits(rows: Sequence[PowerRow], models: Path | None = None) -> tuple[list[PowerFit], list[str]]:
    """A fit for each GPU whose idle watts are known, and the models that no file describes. `models`: a
    folder of config.json files, named as published with `--` for `/`.
    """
    known = models_of(rows, models)
    found = []
    for name in dict.fromkeys(row.gpu for row in rows):
        gpu = gpu_of(name)
        if gpu is None or gpu.power is None:
            continue
        priced = [(row, model) for row in rows if row.gpu == name and (model := known[row.model]) is not None]
        used = [(row, rates_of(row, model, gpu)) for row, model in priced]
        if used:
            steps = {row: simulated_step_s(row, model, gpu) for row, model in priced}
            slower = {row: row.step_s / step[1] for row, step in steps.items() if step}
            board_w = BOARD_W.get(gpu.name, gpu.power.max_w)
            found.append(fit(used, gpu, gpu.power.idle_w, board_w, slower))
    return found, [name for name, model in known.items() if model is None]


BOARD_W = {"h100-sxm": 700.0, "h200-sxm": 700.0, "b200-sxm": 1000.0}
"""Watts of the board by the datasheet."""


def models_of(rows: Sequence[PowerRow], folder: Path | None) -> dict[str, Model | None]:
    """The model of every row by its published name; None where no file describes it."""
    return {name: _model(name, folder) for name in dict.fromkeys(row.model for row in rows)}


def gpu_of(name: str) -> Gpu | None:
    for one in (GPUS.get(name.lower(), name.lower()), f"{name.lower()}-sxm"):
        if one in list_gpus():
            return load_gpu(one)
    return None


def _model(name: str, folder: Path | None) -> Model | None:
    """A shipped model by its published name, or a file of the folder."""
    own = None if folder is None else folder / f"{name.replace('/', '--')}.json"
    if own is not None and own.is_file():
        return load_model(own)
    shipped = MODELS.get(name) or MODELS.get(name.rpartition("/")[2])
    return None if shipped is None else load_model(shipped)
