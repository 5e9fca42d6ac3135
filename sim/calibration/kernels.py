"""Kernel parameters of GPUs, fitted to measured times, and how well they predict what no fit saw.

Three errors are reported for each set: of the points it was fitted on; of points held out with their
whole shape, in five folds; and of the whole system predicted by its stand-in GPU, with nothing but the
datasheet of its own. A plain roofline stands beside them."""

from __future__ import annotations

import inspect
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sim.calibration.host_bound import WAITS, HostBound, host_bound, lender_in_words, waits_for_host
from sim.calibration.kernel_fit import (
    SEARCHED,
    Parameters,
    fit,
    fold_of,
    held_out,
    predicted_s,
    with_parameters,
    worth_fitting,
)
from sim.calibration.rooflines import roofline_s
from sim.calibration.stand_ins import stand_in_of
from sim.catalog import load_gpu
from sim.cost.kernels.kernels import KERNELS
from sim.inputs.errors import InputError
from sim.inputs.hardware import Gpu
from sim.reading.measurements import Measurement, read_measurements
from sim.reading.problems import did_you_mean
from sim.results.compared import ErrorSummary

MIN_POINTS = 20
MIN_OVER_ROOFLINE = 0.5  # of the datasheet's time; less is another unit, or another kernel
UNSEEN_FOLD = 0  # never fitted on: what `sim validate` shows is drawn from it

Key = tuple[str, str, str, str]  # engine, kernel, GPU, format


@dataclass(frozen=True, slots=True)
class Fit:
    """One set of parameters and its errors: on the points that it was fitted to; on each shape by a fit
    without it; by the parameters of the stand-in GPU, where that was measured under the same engine; of
    the plain roofline; and `by_others`, by the parameters of other engines on the same GPU.

    `by_size` has the bias in each fifth of the points, from the shortest to the longest, of the held-out
    errors if there are any and else of the fitted ones. `waits`: the table times the host, so that the
    parameters are those of another one, and `fitted` is what they are off from it.
    """

    engine: str
    op: str
    gpu: str
    variant: str
    parameters: Parameters
    fitted: ErrorSummary
    held_out: ErrorSummary | None
    stand_in: ErrorSummary | None
    roofline: ErrorSummary
    by_size: tuple[float, ...] = ()
    waits: HostBound | None = None
    by_others: Mapping[str, ErrorSummary] = field(default_factory=dict)


def errors_of(predicted: Sequence[float], measured: Sequence[float]) -> list[float]:
    """Relative errors of predicted seconds, from the shortest measured to the longest; where a prediction is
    NaN there is none.
    """
    pairs = zip(predicted, measured, strict=True)
    return [error for _, error in sorted((m, p / m - 1.0) for p, m in pairs if not math.isnan(p))]


def bias_by_size(errors: Sequence[float]) -> tuple[float, ...]:
    """The median with its sign in each fifth of errors that are ordered by size; of fewer than five points,
    in as many parts as have any.
    """
    fifths = [errors[len(errors) * i // 5 : len(errors) * (i + 1) // 5] for i in range(5)]
    return tuple(median(part) for part in fifths if part)


def measurements_of(paths: Iterable[str | Path]) -> list[Measurement]:
    """All measurements of CSV files, or of the CSV files in folders whose columns are kernels'."""
    found: list[Measurement] = []
    for path in map(Path, paths):
        if path.is_dir():
            for file in sorted(path.glob("*.csv")):
                if file.name.startswith(("gemm", "attention", "moe_experts", "layer_kernels")):
                    found += read_measurements(file)
        else:
            found += read_measurements(path)
    return found


def grouped(measured: Iterable[Measurement]) -> dict[Key, list[Measurement]]:
    """Measurements by the set of parameters they belong to; sets of fewer than twenty points are left out."""
    groups: dict[Key, list[Measurement]] = defaultdict(list)
    gpus: dict[str, Gpu] = {}
    for one in measured:
        gpu = gpus.get(one.gpu)
        if gpu is None:
            gpu = gpus[one.gpu] = load_gpu(one.gpu)
        if worth_fitting(gpu, one):
            groups[one.engine, one.op, one.gpu, one.variant].append(one)
    order = list(SEARCHED)
    kept = [key for key, points in groups.items() if len(points) >= MIN_POINTS]
    return {key: groups[key] for key in sorted(kept, key=lambda key: (key[0], order.index(key[1]), *key[2:]))}


def checked(measured: Sequence[Measurement]) -> Sequence[Measurement]:
    """The measurements of a user, if a fit can make sense of them; InputError with the reason where not."""
    for one in measured:
        if one.op not in SEARCHED:
            known = ", ".join(SEARCHED) + did_you_mean(one.op, SEARCHED)
            raise InputError(f"kernel = {one.op!r}: must be one of {known}")
        if one.op.startswith("mla"):
            continue
        try:
            inspect.signature(KERNELS[one.op]).bind(load_gpu(one.gpu), **one.sizes)
        except TypeError as error:
            raise InputError(f"a row of {one.op} on {one.gpu} does not have its arguments: {error}") from None
        try:
            KERNELS[one.op](load_gpu(one.gpu), **one.sizes)
        except (InputError, TypeError, ValueError, ArithmeticError) as error:
            raise InputError(f"a row of {one.op} on {one.gpu} is none of this kernel: {error}") from None
    groups = grouped(measured)
    if not groups:
        counts = Counter(f"{one.op} {one.variant} on {one.gpu}" for one in measured)
        there = ", ".join(f"{count} of {name}" for name, count in counts.most_common(5))
        raise InputError(f"a fit needs {MIN_POINTS} points of one kernel, format and GPU; there are {there}")
    for (_, op, name, variant), points in groups.items():
        gpu = load_gpu(name)
        over = median(one.seconds / max(roofline_s(gpu, one), 1e-9) for one in points)
        if over < MIN_OVER_ROOFLINE:
            raise InputError(
                f"{op} {variant} on {name}: the median time is {over:.2g} of what the datasheet's rates "
                "need; latency_us are microseconds"
            )
    return measured


def seen_of(points: Sequence[Measurement], folds: int = 5) -> list[Measurement]:
    """What parameters are fitted on: all shapes but one fold, which stays unseen for good."""
    seen = [one for one in points if fold_of(one.shape, folds) != UNSEEN_FOLD]
    return seen if len(seen) >= MIN_POINTS else list(points)


def calibrate(
    measured: Iterable[Measurement],
    *,
    cross_validate: bool = True,
    folds: int = 5,
) -> list[Fit]:
    """Fits every set of parameters that there are points for, but for tables that wait for the host, which
    take those of another one. InputError for unknown GPUs and files.
    """
    groups = grouped(measured)
    waiting = host_bound(groups)
    # By engine and GPU, with the sets fitted so far: products come first, and latent attention is a block
    # of them.
    gpus: dict[tuple[str, str], Gpu] = {}
    fits: list[Fit] = []
    sets: dict[Key, Parameters] = {}
    for key, points in (*_of_keys(groups, groups.keys() - waiting.keys()), *_of_keys(groups, waiting.keys())):
        engine, op, name, variant = key
        gpu = gpus.setdefault((engine, name), _bare(name))
        waits = waiting.get(key)
        parameters = fit(gpu, seen_of(points, folds)) if waits is None else sets[waits.lender]
        sets[key] = parameters
        gpus[engine, name] = with_parameters(gpu, op, variant, parameters)
    # Errors only now: a stand-in's sets must be there before another GPU borrows them.
    for key, points in groups.items():
        engine, op, name, variant = key
        gpu, seconds = gpus[engine, name], [one.seconds for one in points]
        seen = seen_of(points, folds)
        fitted = errors_of([predicted_s(gpu, one) for one in seen], [one.seconds for one in seen])
        waits = waiting.get(key)
        fitted_here = cross_validate and waits is None
        unseen = errors_of(held_out(gpu, points, folds), seconds) if fitted_here else None
        stand_in = None
        relative = gpus.get((engine, stand_in_of(name, op)))
        lends = relative is not None and (engine, op, relative.name, variant) in sets.keys() - waiting.keys()
        if relative is not None and lends and waits is None:
            borrowed = _bare(name).model_copy(update={"kernels": relative.kernels})
            stand_in = ErrorSummary.of(errors_of([predicted_s(borrowed, one) for one in points], seconds))
        others = {
            other: ErrorSummary.of(errors_of([predicted_s(by, one) for one in points], seconds))
            for (other, where), by in gpus.items()
            if other != engine and where == name and (other, op, name, variant) in sets and op == "moe"
        }
        fits.append(
            Fit(
                engine,
                op,
                name,
                variant,
                sets[key],
                ErrorSummary.of(fitted),
                ErrorSummary.of(unseen) if unseen is not None else None,
                stand_in,
                ErrorSummary.of(errors_of([roofline_s(gpu, one) for one in points], seconds)),
                bias_by_size(fitted if unseen is None else unseen),
                waits,
                others,
            )
        )
    return fits


def _of_keys(
    groups: Mapping[Key, list[Measurement]], keys: Collection[Key]
) -> list[tuple[Key, list[Measurement]]]:
    return [(key, points) for key, points in groups.items() if key in keys]


def _bare(name: str) -> Gpu:
    return load_gpu(name).model_copy(update={"kernels": None})


def with_engine(gpu: Gpu, engine: str) -> Gpu:
    """The GPU with the kernels of `engine`, where it has a set of its own for it."""
    others = gpu.kernels.engines if gpu.kernels else {}
    return gpu.model_copy(update={"kernels": others[engine]}) if engine in others else gpu


def shipped_predictions(measured: Iterable[Measurement]) -> list[tuple[Measurement, float, float]]:
    """Each measurement worth comparing, with seconds by the shipped parameters and by the plain roofline."""
    gpus: dict[tuple[str, str], Gpu] = {}
    predictions = []
    for one in measured:
        gpu = gpus.get((one.gpu, one.engine))
        if gpu is None:
            gpu = gpus[one.gpu, one.engine] = with_engine(load_gpu(one.gpu), one.engine)
        if worth_fitting(gpu, one) and not waits_for_host(gpu, one.engine, one.op, one.variant):
            predictions.append((one, predicted_s(gpu, one), roofline_s(gpu, one)))
    return predictions


def table(fits: Sequence[Fit]) -> str:
    """The errors of all sets, in percent: fitted, held out by shape, borrowed from the stand-in GPU,
    plain roofline.
    """
    head = f"{'engine':7} {'kernel':18} {'GPU':14} {'format':10} {'points':>6}"
    head += "  fitted    held out  stand-in  roofline  by size"
    lines = [head]
    for one in fits:
        columns = [_percent(part) for part in (one.fitted, one.held_out, one.stand_in, one.roofline)]
        by_size = " ".join(f"{100 * error:+.0f}" for error in one.by_size)
        if one.waits is not None:
            own = (one.engine, one.op, one.gpu, one.variant)
            by_size += f"  {WAITS}: those of {lender_in_words(own, one.waits.lender)}"
        lines.append(
            f"{one.engine:7} {one.op:18} {one.gpu:14} {one.variant:10} {one.roofline.count:6}  "
            f"{'  '.join(columns)}  {by_size}"
        )
    return "\n".join(lines)


def _percent(errors: ErrorSummary | None) -> str:
    if errors is None or not errors.count:
        return " -/-    "
    return f"{100 * errors.median:.1f}/{100 * errors.p90:.0f}".ljust(8)


def summary(fits: Sequence[Fit]) -> Mapping[tuple[str, str], tuple[float, float]]:
    """By engine and kernel: the median over all sets of their held-out medians, and of their 90th
    percentiles.
    """
    medians: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for one in fits:
        errors = one.held_out or one.fitted
        if one.waits is not None:
            continue
        medians[one.engine, one.op].append((errors.median, errors.p90))
    return {key: (median(m for m, _ in pairs), median(p for _, p in pairs)) for key, pairs in medians.items()}


def rows(fits: Sequence[Fit]) -> list[dict[str, object]]:
    """The table as plain rows, for JSON: errors as fractions."""
    listed: list[dict[str, object]] = []
    for one in fits:
        row: dict[str, object] = {
            "engine": one.engine,
            "kernel": one.op,
            "gpu": one.gpu,
            "format": one.variant,
            "points": one.roofline.count,
        }
        for name, errors in (
            ("fitted", one.fitted),
            ("held_out", one.held_out),
            ("nearest_kin", one.stand_in),
            ("roofline", one.roofline),
        ):
            row[f"{name}_median"] = None if errors is None else errors.median
            row[f"{name}_p90"] = None if errors is None else errors.p90
        row["by_size"] = list(one.by_size)
        if one.waits is not None:
            row["waits_for_host_s"] = one.waits.excess_s
        row["parameters"] = one.parameters.model_dump(exclude_unset=True)
        listed.append(row)
    return listed
