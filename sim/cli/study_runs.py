"""Where the runs of a study go, where their rows are kept, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli.output import note
from sim.cli.signals import signals
from sim.inputs.errors import InfeasibleError, InputError, UnfinishedError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import polars

    from sim.studies.kept import Kept
    from sim.studies.points import Keeps, Row
    from sim.studies.store import Store

SECONDS_TO_CONNECT = 10


@contextmanager
def places_of(
    out: Path | None, force: bool, store: Path | None, resume: bool, recompute: bool
) -> Iterator[tuple[Kept | None, Keeps | None]]:
    """The table of a study, and what keeps its rows as they come: the store, else lines beside the table."""
    with kept_in(out, force, store) as table, stored_in(store, resume, recompute) as rows:
        yield table, rows or table


@contextmanager
def stored_in(store: Path | None, resume: bool, recompute: bool) -> Iterator[Store | None]:
    """The store of a study; None without one."""
    if store is None:
        if resume or recompute:
            raise InputError("--resume and --recompute are about --store FILE; name the file")
        yield None
        return
    from sim.studies.store import stored

    with stored(store, resume=resume, recompute=recompute) as rows:
        yield rows
        if rows.taken_up:
            note(f"{rows.taken_up} runs were in {store}")
        if rows.failure:
            note(f"runs were not kept as they ended: {rows.failure}")


@contextmanager
def kept_in(out: Path | None, force: bool, store: Path | None = None) -> Iterator[Kept | None]:
    """Where the rows of a study are kept as they come; None without a table. With a store beside it, the
    table is only written at the end.
    """
    if out is None:
        yield None
        return
    from sim.studies.kept import kept

    with kept(out, force=force or (store is not None and out.is_file())) as keep:
        yield keep
        if keep.failure:
            note(f"runs were not kept as they ended: {keep.failure}")


@contextmanager
def executor_at(scheduler: str | None) -> Iterator[Executor | None]:
    """The executor of a dask or a Ray cluster, or None for the processors here."""
    if scheduler is None:
        yield None
        return
    if scheduler.startswith("ray://"):
        yield _ray_executor(scheduler)
        return
    try:
        from distributed import Client  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise InputError("--scheduler needs dask: pip install 'fabricsim[sweep]'") from error
    try:
        client = Client(scheduler, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise InputError(
            f"there is no dask scheduler at {scheduler} ({str(error).splitlines()[0]}); "
            "`dask scheduler` says its address, as in tcp://host:8786"
        ) from error
    with client:
        yield client.get_executor(pure=False, retries=2)


def _ray_executor(address: str) -> Executor:
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise InputError(f"--scheduler {address} needs ray: pip install 'ray[client]'") from error
    from sim.studies.on_ray import RayExecutor

    try:
        ray.init(address)
    except Exception as error:  # ray raises what its transport raises: several kinds
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"there is no Ray cluster at {address} ({first})") from error
    return RayExecutor(ray)


def save(table: polars.DataFrame, keep: Kept | None, out: Path | None, rows: Sequence[Row]) -> None:
    sys.stdout.flush()  # a full disk costs the file, not the numbers
    if keep is not None:
        is_complete = all(row.status != "not run" for row in rows)
        keep.save(table, is_complete=is_complete)
        note(f"saved in {out}" if is_complete else f"saved in {out}, incomplete: the same command goes on")


def end(rows: Sequence[Row]) -> None:
    """Exit as the runs did: a study in which something ran is a success, one that was cut short is none."""
    ran = sum(row.status != "not run" for row in rows)
    if ran < len(rows) or signals.number:
        signals.end(f"{ran} of {len(rows)} points have run")
    if any(row.status == "done" for row in rows):
        return
    from sim.studies.points import DIED

    by_status = {row.status: row.reason for row in reversed(rows)}
    what = f"none of {len(rows)} points has numbers"
    if by_status.get("failed") == DIED:
        raise UnfinishedError(f"{what}: {DIED}")
    if "failed" in by_status:
        raise RuntimeError(f"{what}: {by_status['failed']}")
    if "wrong input" in by_status:
        raise InputError(f"{what}: {by_status['wrong input']}")
    if "infeasible" in by_status:
        raise InfeasibleError(f"{what}: {by_status['infeasible']}")
    raise UnfinishedError(f"{what}: {by_status['unfinished']}")
