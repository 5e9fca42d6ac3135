"""`sim trace`: the timeline of a saved run, with every op in the time that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.inputs.errors import InputError

WINDOW = typer.Option(metavar="FROM..TO", help="Draw every op of this time: 2s..2.2s.")
REQUESTS = typer.Option(metavar="N,N,...", help="Draw every op while these requests are there: 3,7.")
SLOWEST = typer.Option(min=0, metavar="N", help="The same for the N slowest requests.")


def trace(
    folder: Annotated[Path, typer.Argument(help="A folder that sim run --out has left.")],
    window: Annotated[str | None, WINDOW] = None,
    requests: Annotated[str | None, REQUESTS] = None,
    slowest: Annotated[int, SLOWEST] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: FOLDER.perfetto-trace, beside it.")
    ] = None,
) -> None:
    """Write the timeline of a saved run, for ui.perfetto.dev, with every op in a window of time."""
    import sim
    from sim.cli.output import note
    from sim.timelines import timeline

    saved = sim.load_result(folder)
    whole = folder.resolve() if folder.name in ("", "..") else folder
    path = whole.with_name(f"{whole.name}.perfetto-trace") if out is None else out
    missing = timeline(
        saved,
        path,
        window=window_of("--window", window),
        requests=request_numbers("--requests", requests),
        slowest=slowest,
    )
    for what in missing:
        note(f"note: {what}")
    note(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it at https://ui.perfetto.dev")


def window_of(option: str, text: str | None) -> tuple[float, float] | None:
    """`2s..2.2s` in seconds.

    >>> window_of("--window", "2s..2200ms")
    (2.0, 2.2)
    """
    if text is None:
        return None
    from sim.inputs.quantities import SECONDS

    begin, dots, end = text.partition("..")
    if not dots or not begin.strip() or not end.strip():
        raise InputError(f"{option} {text!r}: must be two instants, as in 2s..2.2s")
    try:
        begin_s, end_s = SECONDS(begin.strip()), SECONDS(end.strip())
    except ValueError as error:
        raise InputError(f"{option} {text!r}: {error}") from error
    if not 0.0 <= begin_s < end_s:
        raise InputError(f"{option} {text!r}: must begin at 0 or later and end after that, as in 2s..2.2s")
    return begin_s, end_s


def request_numbers(option: str, text: str | None) -> tuple[int, ...]:
    """`3,7` as numbers.

    >>> request_numbers("--requests", "3, 7")
    (3, 7)
    """
    words = [] if text is None else [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdigit()):
            raise InputError(f"{option} {text!r}: {word!r} must be the number of a request, as in 3,7")
    return tuple(dict.fromkeys(map(int, words)))
