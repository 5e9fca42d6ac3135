"""A table or JSON lines of one's own: which of its columns are what, and in which unit its times are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from sim.inputs.errors import InputError, Problem
from sim.reading.problems import did_you_mean
from sim.reading.traces.how import How
from sim.reading.traces.rows import BadRow, Family, Fields, Row, RowReader, time, tokens


def own_family(how: How, found: Sequence[str], lines: str, path: str, line: int) -> Family:
    """The family that `how.columns` describes. InputError for a column that the file does not have, and for
    times without a unit.
    """
    wanted = dict(how.columns)
    problems = [
        Problem(f"columns.{what}: the file has no column {name!r} (there are: {', '.join(found)[:300]})"
                f"{did_you_mean(name, found)}", path, line)
        for what, name in wanted.items() if name not in found
    ]  # fmt: skip
    problems += [
        Problem(f"columns.{what} is missing; say which column it is", path)
        for what in ("prompt_tokens", "output_tokens") if what not in wanted
    ]  # fmt: skip
    times = [wanted[what] for what in ("arrived_at", "delay") if what in wanted]
    if times and not how.time_unit:
        what = (
            f"time_unit is missing; say the unit of {times[0]!r}: s, ms, us, ns, or utc for dates with times"
        )
        problems.append(Problem(what, path))
    if "delay" in wanted and "session" not in wanted:
        problems.append(
            Problem("columns.delay needs columns.session: a delay is from the answer before", path)
        )
    if problems:
        raise InputError(problems)
    return Family(
        "columns of one's own",
        "",
        frozenset(wanted.values()),
        _reader,
        lines,
        arrivals=wanted.get("arrived_at"),
        time_unit=how.time_unit if times else "",
        scattered_sessions="session" in wanted,
    )


def _reader(how: How) -> RowReader:
    wanted = dict(how.columns)
    sessions: dict[str, list[int]] = {}  # its number, and the turn that came last

    def text(fields: Fields, what: str) -> str:
        found = fields.get(wanted[what]) if what in wanted else None
        return "" if found is None else str(found)

    def read(fields: Fields) -> Iterator[Row]:
        row = Row(
            0.0,
            tokens(fields, wanted["prompt_tokens"]),
            tokens(fields, wanted["output_tokens"]),
            request_class=text(fields, "request_class"),
            model=text(fields, "model"),
        )
        session = text(fields, "session")
        if session in sessions and text(fields, "delay"):
            known = sessions[session]
            known[1] += 1
            delay_s = time(fields, wanted["delay"], how.seconds(1.0))
            yield row._replace(time_s=math.nan, session=known[0], turn=known[1], delay_s=delay_s)
            return
        if "arrived_at" in wanted:
            row = row._replace(time_s=_time(fields, wanted["arrived_at"], how))
        if session and session not in sessions:
            sessions[session] = [len(sessions), 0]
            row = row._replace(session=sessions[session][0])
        yield row  # a later row of a session with a time of its own waits for nothing

    return read


def _time(fields: Fields, column: str, how: How) -> float:
    if how.time_unit != "utc":
        return time(fields, column, how.seconds(1.0))
    written = str(fields.get(column) or "")
    if not written:
        raise BadRow(f"no {column}")
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        raise BadRow(f"{column} is not a date with a time") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
