"""Where a constant comes from: every figure in a shipped file says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Tag = Literal["datasheet", "measured", "fitted", "assumed"]
TAGS: tuple[str, ...] = get_args(Tag)


class Provenance(BaseModel):
    """How a constant is known, and from where.

    `datasheet`: the vendor states it. `measured`: a published measurement. `fitted`: chosen so that a
    measurement comes out. `assumed`: none of these; `source` then gives the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tag: Tag
    source: str = Field(min_length=1)

    def __str__(self) -> str:
        return f"{self.tag}: {self.source}"


def provenance_of(provenance: Mapping[str, Provenance], key: str) -> Provenance | None:
    """The entry for `key`, else for the nearest block around it (`flops` for `flops.bf16`), else for `*`."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        found = provenance.get(".".join(parts[:end]))
        if found is not None:
            return found
    return provenance.get("*")
