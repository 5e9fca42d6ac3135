"""Tables and summaries to files, byte for byte the same for the same rows."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars


def save_table(frame: polars.DataFrame, path: str | Path) -> Path:
    """A frame as CSV or Parquet, by the ending of `path`. Floats as Python's repr: they read back to the
    last bit.

    Null is an empty field. ValueError for another ending.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        frame.write_parquet(path, compression="zstd")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(frame.columns)
            writer.writerows(frame.iter_rows())
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
