"""A run read back from the folder that it was saved in."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.inputs.errors import InputError
from sim.results.blame import BlameRecords
from sim.results.columns import Kind
from sim.results.nearest_theory import Nearest
from sim.results.records import (
    GPU_COLUMNS,
    KV_TIER_COLUMNS,
    LINK_COLUMNS,
    GapRecords,
    HandOverRecords,
    KvBlockRecords,
    Records,
    RequestRecords,
    StepRecords,
)
from sim.results.saving import as_written
from sim.results.sentences import Sentence, Verdict
from sim.results.setting import Surroundings

if TYPE_CHECKING:
    import polars

FORMAT = 1
MANIFEST, VERDICT, SCENARIO = "manifest.json", "verdict.json", "scenario.resolved.yaml"
THEORY, SETTING = "theory.json", "setting.json"
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
class SavedTables:
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
    def title(self) -> str:
        """Model and machine, as the report is called."""
        return str(self.manifest.get("title", self.folder.name))

    @property
    def scenario_file(self) -> Path:
        """The scenario as it was run, for `sim.load_scenario`."""
        return self.folder / SCENARIO

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
        return self._json("summary.json")

    def theory(self) -> tuple[Nearest, ...]:
        """The closed form that came nearest to each station. InputError where an older version has left the
        folder.
        """
        if THEORY not in self.manifest["files"]:
            raise InputError(f"{self.folder} has no {THEORY}: an older version left it; run it again")
        try:
            return tuple(Nearest.from_dict(one) for one in self._json(THEORY)["stations"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.folder / THEORY} is not as a run leaves it; run it again") from error

    @cached_property
    def surroundings(self) -> Surroundings:
        """Machine, pools, faults and objectives, as the report shows them. InputError where an older version
        has left the folder.
        """
        if SETTING not in self.manifest["files"]:
            raise InputError(f"{self.folder} has no {SETTING}: an older version left it; run it again")
        try:
            return Surroundings.from_dict(self._json(SETTING))
        except (AttributeError, KeyError, TypeError) as error:
            raise _edited(self.folder / SETTING, error) from error

    def explain(self) -> Verdict:
        """What the run said, in three to ten sentences with their numbers. InputError where an older version
        has left the folder.
        """
        path = self.folder / VERDICT
        if VERDICT not in self.manifest["files"]:
            raise InputError(f"{self.folder} has no {VERDICT}: an older version left it; run it again")
        try:
            return Verdict(
                Sentence(one["topic"], one["words"], one["numbers"], one["about"])
                for one in self._json(VERDICT)["sentences"]
            )
        except (KeyError, TypeError) as error:
            raise _edited(path, error) from error

    @property
    def scenario_text(self) -> str:
        """The scenario as it was run, as YAML."""
        try:
            return (self.folder / SCENARIO).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise _edited(self.folder / SCENARIO, error) from error

    @cached_property
    def records(self) -> Records:
        """The rows of the run as it had them, for the functions of `sim.results`."""
        found = Records(end_s=self.end_s)
        tables = {
            "requests": found.requests, "steps": found.steps, "gaps": found.gaps,
            "hand_overs": found.hand_overs, "kv_blocks": found.kv_blocks,
        }  # fmt: skip
        for name, table in tables.items():
            frame = getattr(self, name)
            for row in frame.select(list(table.kinds)).iter_rows():
                table.append(*(math.nan if value is None else value for value in row))
        engines = list(self.summary()["engines"].values())
        sizes = self.kv_blocks.select("replica", "rank", "of_blocks", "block_size").unique()
        for replica, rank, of_blocks, block_size in sizes.iter_rows():
            groups = _groups(engines, of_blocks, block_size)
            found.kv_blocks.pools[replica, rank] = of_blocks, block_size, groups
        return found

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise _edited(path, error) from error
        return found

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


def _groups(engines: Sequence[Mapping[str, Any]], of_blocks: int, block_size: int) -> int:
    """Groups of layers that have blocks of their own, from what an engine with so many blocks holds: its
    tokens are the blocks of one group.
    """
    nearest = min(engines, key=lambda one: abs(one["kv_cache_blocks"] - of_blocks), default=None)
    if nearest is None or not nearest["kv_cache_tokens"]:
        return 1
    groups: float = float(nearest["kv_cache_blocks"]) * block_size / nearest["kv_cache_tokens"]
    return max(1, round(groups))


def _edited(path: Path, error: Exception) -> InputError:
    """A file that is gone, or was changed together with its digest."""
    said = str(error).partition("\n")[0][:200]
    return InputError(f"{path} is not as a run leaves it: {said}; run it again")


MANIFEST_KEYS = {"seed": int, "end_s": int | float, "ended": str, "complete": bool, "files": dict}


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of a saved run. InputError for a folder without one, or with a file that is not as the run
    left it.
    """
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
    return manifest
