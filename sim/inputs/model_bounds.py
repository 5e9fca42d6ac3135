"""How deep, wide and many the parts of a model may be."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim.inputs.quantities import NotBoolean

MAX_LAYERS = 4096  # sums run over layers; the deepest published transformer (DeepNet) has 1000
MAX_HEADS = 65_536
MAX_EXPERTS = 65_536  # each has a popularity and a place of its own
MAX_WIDTH = 10**9
Width = Annotated[int, NotBoolean, Field(ge=0, le=MAX_WIDTH)]
Heads = Annotated[int, NotBoolean, Field(gt=0, le=MAX_HEADS)]
Experts = Annotated[int, NotBoolean, Field(ge=0, le=MAX_EXPERTS)]
