"""A run read back from the folder that it was saved in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.inputs.errors import InputError
from sim.results.blame import BlameRecords
from sim.results.columns import Kind
from sim.results.records import (
    GPU_COLUMNS,
    KV_TIER_COLUMNS,
    LINK_COLUMNS,
    GapRecords,
    HandOverRecords,
    KvBlockRecords,
    RequestRecords,
    StepRecords,
)
from sim.results.saving import as_written

if TYPE_CHECKING:
    import polars

FORMAT = 1
MANIFEST = "manifest.json"
KINDS: dict[str, Mapping[str, Kind]] = {
    "requests": RequestRecords().kinds,
    "steps": StepRecords().kinds,
    "gaps": GapRecords().kinds,
    "links": LINK_COLUMNS,
    "gpus": GPU_COLUMNS,
    **dict.fromkeys(("blame", "blame_ttft", "blame_itl"), BlameRecords().kinds),
    "kv_blocks": {**KvBlockRecords().kinds, "of_blocks": "count", "block_size": "count"},
    "kv_tiers": KV_TIER_COLUMNS,
    "hand_overs": HandOverRecords().kinds,
}
TABLES = tuple(KINDS)


@dataclass(frozen=True)
class SavedResult:
    """What a saved run left, under the names of `Result`; each table is read when it is first asked for.

    In `summary()` an infinite percentile is None: JSON has none. `manifest` is the dictionary of the file.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return int(self.manifest["seed"])

    @property
    def end_s(self) -> float:
        return float(self.manifest["end_s"])

    @property
    def ended(self) -> str:
        """How the run ended: `all requests ended`, `time limit`, `interrupted`, or `CPU budget`."""
        return str(self.manifest["ended"])

    @property
    def is_complete(self) -> bool:
        """Whether every request had come and left when the run ended."""
        return bool(self.manifest["complete"])

    @property
    def scenario_file(self) -> Path:
        """The scenario as it was run, for `sim.load_scenario`."""
        return self.folder / "scenario.resolved.yaml"

    @cached_property
    def requests(self) -> polars.DataFrame:
        return self._table("requests")

    @cached_property
    def steps(self) -> polars.DataFrame:
        return self._table("steps")

    @cached_property
    def gaps(self) -> polars.DataFrame:
        return self._table("gaps")

    @cached_property
    def links(self) -> polars.DataFrame:
        return self._table("links")

    @cached_property
    def gpus(self) -> polars.DataFrame:
        return self._table("gpus")

    @cached_property
    def blame(self) -> polars.DataFrame:
        return self._table("blame")

    @cached_property
    def blame_ttft(self) -> polars.DataFrame:
        return self._table("blame_ttft")

    @cached_property
    def blame_itl(self) -> polars.DataFrame:
        return self._table("blame_itl")

    @cached_property
    def kv_blocks(self) -> polars.DataFrame:
        return self._table("kv_blocks")

    @cached_property
    def kv_tiers(self) -> polars.DataFrame:
        return self._table("kv_tiers")

    @cached_property
    def hand_overs(self) -> polars.DataFrame:
        return self._table("hand_overs")

    def summary(self) -> dict[str, Any]:
        path = self.folder / "summary.json"
        try:
            numbers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise _edited(path, error) from error
        return numbers

    def _table(self, name: str) -> polars.DataFrame:
        import polars

        types = {"number": polars.Float64, "count": polars.Int64, "text": polars.String}
        schema = {column: types[kind] for column, kind in KINDS[name].items()}
        path = self.folder / f"{name}.parquet"
        try:
            if path.exists():
                return polars.read_parquet(path)
            path = self.folder / f"{name}.csv"
            frame = polars.read_csv(path, schema=schema)
        except (OSError, polars.exceptions.PolarsError) as error:
            raise _edited(path, error) from error
        # Null is an empty field, and so is an empty text; texts are never null.
        frame = frame.with_columns(polars.col(polars.String).fill_null(""))
        return as_written(frame)


def _edited(path: Path, error: Exception) -> InputError:
    """A file that is gone, or was changed together with its digest."""
    said = str(error).partition("\n")[0][:200]
    return InputError(f"{path} is not as a run leaves it: {said}; run it again")


MANIFEST_KEYS = {"seed": int, "end_s": int | float, "ended": str, "complete": bool, "files": dict}


def load_result(folder: str | Path) -> SavedResult:
    """Read a saved run back. InputError for a folder without a manifest, or with a file that is not as the
    run left it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; name one that sim run --out or Result.save has left")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} has no {MANIFEST}: an older version left it, or its run was cut off; run it again"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        written = manifest.get("format") if isinstance(manifest, dict) else None
        raise InputError(f"{folder / MANIFEST}: format = {written!r}: must be {FORMAT} for this version")
    for key, kind in MANIFEST_KEYS.items():
        if not isinstance(manifest.get(key), kind):
            raise InputError(f"{folder / MANIFEST}: {key} = {manifest.get(key)!r}: no run has left that")
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{folder} has lost {name}; run it again")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise InputError(f"{path} is not as the run left it (its digest differs); run it again")
    return SavedResult(folder, manifest)
