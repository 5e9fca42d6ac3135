"""Tables and summaries to files, byte for byte the same for the same rows.

A spreadsheet takes a cell that begins with =, +, -, @, a tab or a line end for a formula, and may fetch or
run what it names. Texts come from scenarios and traces of anyone's, so in CSV such a text has a quote before
it (OWASP, "CSV Injection"); `as_written` takes it off again. Numbers are no texts and stay as they are.
"""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars

_FORMULA = r"^'*[=+\-@\t\r\n]"  # a quote too, before what is quoted: so that it can be taken off again


def save_table(frame: polars.DataFrame, path: str | Path, *, kind: str = "") -> Path:
    """A frame as CSV or Parquet, by the ending of `path` or by `kind`, which is such an ending.

    Floats are written as Python's repr: they read back to the last bit.
    Null is an empty field. ValueError for another ending.
    """
    path = Path(path)
    kind = kind or path.suffix
    if kind == ".parquet":
        frame.write_parquet(path, compression="zstd")
    elif kind == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(map(no_formula, frame.columns))
            writer.writerows(_without_formulas(frame).iter_rows())
    else:
        raise ValueError(f"{path.name}: must end in .csv or .parquet")
    return path


def save_summary(numbers: dict[str, Any], path: str | Path) -> Path:
    """A summary as JSON. An infinite percentile is null there, and `censored_*` beside it says why."""
    path = Path(path)
    path.write_text(json.dumps(finite(numbers), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def finite(value: Any) -> Any:
    """`value` with null for numbers that JSON does not have (infinity), at any depth."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def no_formula(text: str) -> str:
    """A text that no spreadsheet takes for a formula.

    >>> no_formula("=1+1"), no_formula("'=1+1"), no_formula("chat")
    ("'=1+1", "''=1+1", 'chat')
    """
    return f"'{text}" if re.match(_FORMULA, text) else text


def as_written(frame: polars.DataFrame) -> polars.DataFrame:
    """A frame read from a saved table, with its texts as they were before `no_formula`."""
    import polars

    quoted = polars.col(polars.String)
    plain = polars.when(quoted.str.contains("^'" + _FORMULA[1:])).then(quoted.str.slice(1)).otherwise(quoted)
    return frame.with_columns(plain.name.keep())


def _without_formulas(frame: polars.DataFrame) -> polars.DataFrame:
    import polars

    texts = polars.col(polars.String)
    escaped = polars.when(texts.str.contains(_FORMULA)).then(polars.lit("'") + texts).otherwise(texts)
    # Truth as polars and spreadsheets write it, so that it reads back as such.
    return frame.with_columns(escaped.name.keep(), polars.col(polars.Boolean).cast(polars.String))
