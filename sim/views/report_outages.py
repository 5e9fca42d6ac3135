"""What outages did to a run, on its report: before, during and after, what was lost, and the list of them."""

from __future__ import annotations

from html import escape

from sim.results.outages import outage_lines, outage_rows
from sim.views.report_run import Section, Shown, details_html
from sim.views.table_html import table


def outages(of: Shown) -> Section | None:
    """The part of the page about outages; None where nothing was to fail."""
    numbers = of.numbers.get("outages")
    if numbers is None:
        return None
    lines = "".join(
        f"<li>{escape(line[0].upper() + line[1:])}.</li>"
        for line in (*outage_lines(numbers), *(f"left out: {what}" for what in numbers.get("left_out", ())))
    )
    rates = ""
    if "before" in numbers:
        rates = table(["", "before", "during", "after"], outage_rows(numbers))
    listed = numbers.get("list", ())
    rows = [
        [
            one["what"],
            one["cause"],
            f"{one['at_s']:.4g}",
            "-" if one["until_s"] is None else f"{one['until_s']:.4g}",
            "-" if one["warned_s"] is None else f"{one['warned_s']:.4g}",
            ", ".join(of.engine_name(engine) for engine in one["engines"]) or "-",
            "-" if one["recovered_after_s"] is None else f"{one['recovered_after_s']:.3g}",
        ]
        for one in listed
    ]
    columns = [
        "what failed", "class", "from (s)", "until (s)", "warned (s)", "engines stopped",
        "recovered after (s)",
    ]  # fmt: skip
    more = numbers["count"] - len(listed)
    words = f"{len(listed)} outages" + (f" of {numbers['count']}" if more > 0 else "")
    each = details_html(words, table(columns, rows), open_=len(rows) <= 12) if rows else ""
    return Section("outages", "Outages", f"{rates}<ul>{lines}</ul>{each}")
