"""Quantities with units: fields that take a number in the base unit or text such as `450 GB/s`.

One unit per kind inside `sim`: seconds, bytes, bytes/s, FLOP/s, 1/s. GB is 1e9 and GiB is 2**30. A lone `b`
or `bps` is refused, because it leaves open whether bits or bytes are meant, a factor of 8. The common
spellings are read from a small table; anything else (`2 GB/minute`) goes to pint, which is imported only
then.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

if TYPE_CHECKING:
    import pint

DTYPE_BYTES: dict[str, float] = {
    "fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "fp4": 0.5, "int4": 0.5,
    "nvfp4": 0.5625,  # 4-bit values and one 8-bit scale per 16 of them
    "fp8_block": 1 + 4 / 128**2,  # 8-bit values and one 32-bit scale per 128 x 128 of them
    "w4a16": 0.53125, "w4a8": 0.53125,  # MXFP4: 4-bit values and one 8-bit scale per 32 of them
}  # fmt: skip

_SI = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_BYTES = {f"{prefix}B": scale for prefix, scale in (_SI | _BINARY).items()}
_BITS = {f"{prefix}bit": scale / 8 for prefix, scale in (_SI | _BINARY).items()}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
_FLOPS = {f"{prefix}FLOP/s": scale for prefix, scale in _SI.items()}
_FLOPS |= {f"{prefix}FLOPS": scale for prefix, scale in _SI.items()}
_WATTS = {"W": 1.0, "kW": 1e3, "MW": 1e6, "mW": 1e-3}
_RATES = {"/s": 1.0, "1/s": 1.0, "Hz": 1.0, "kHz": 1e3, "/min": 1 / 60, "/h": 1 / 3600}


def _per_second(units: dict[str, float]) -> dict[str, float]:
    return {f"{unit}/s": scale for unit, scale in units.items()}


_BITS_OR_BYTES = re.compile(r"[kKmMGgTP]?i?(b|bps|Bps)(/s)?")
_UNUSUAL = re.compile(r".?i?bit|[KMGTP]i|[KE]|.*FLOPS$")
_NUMBER_AND_UNIT = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*")


@dataclass(frozen=True, eq=False)  # by identity: fields put it in unions, which must hash
class QuantityKind:
    """A kind of quantity: its base unit, the spellings it takes, and the range in which it makes sense."""

    name: str
    base: str
    units: dict[str, float]
    example: str
    min_value: float = 0.0
    max_value: float = math.inf

    def __call__(self, written: Any) -> float:
        """The value in the base unit. ValueError says what is wrong and what would be right."""
        value = self._in_base_unit(written)
        if not math.isfinite(value):
            raise ValueError(f"{_short(written)} is not a finite number; {self._wanted}")
        shown = _short(written)
        if value < 0:
            raise ValueError(f"{shown} is negative; {self.name} is zero or more, as in '{self.example}'")
        if value > self.max_value:
            highest = self._shown(self.max_value)
            raise ValueError(f"{shown}: must be at most {highest}, as in '{self.example}'")
        if value < self.min_value:
            unit = f" (a bare number is in {self.base})" if isinstance(written, int | float) else ""
            lowest = self._shown(self.min_value)
            raise ValueError(f"{shown}{unit}: must be at least {lowest}, as in '{self.example}'")
        return value

    @property
    def _wanted(self) -> str:
        return f"write {self.name} in {self.base} or with a unit, as in '{self.example}'"

    def _shown(self, value: float) -> str:
        fitting = [
            (scale, unit) for unit, scale in self.units.items() if scale <= value and not _UNUSUAL.match(unit)
        ]
        scale, unit = max(fitting, default=(1.0, self.base))
        return f"{value / scale:g} {unit}"

    def _in_base_unit(self, written: Any) -> float:
        if isinstance(written, bool) or not isinstance(written, int | float | str):
            raise ValueError(f"{_short(written)} is not a quantity; {self._wanted}")
        if not isinstance(written, str):
            return float(written) if abs(written) < 1e300 else math.inf
        parts = _NUMBER_AND_UNIT.fullmatch(written)
        if parts is None:
            raise ValueError(f"{_short(written)} is not a quantity; {self._wanted}")
        digits, unit = parts[1].replace("_", ""), parts[2]
        if unit is None or not math.isfinite(float(digits)):
            return float(digits)
        scale = self.units.get(unit.replace(" ", ""))
        if scale is None:
            scale = self._scale_by_pint(written, unit)
        return float(Decimal(digits) * Decimal(repr(scale)))  # decimal, so that 0.1 us is 1e-07 exactly

    def _scale_by_pint(self, written: str, unit: str) -> float:
        if _BITS_OR_BYTES.fullmatch(unit):
            raise ValueError(
                f"'{written}' leaves open whether bits or bytes are meant; "
                f"write bit or B, as in '400 Gbit/s' or '50 GB/s'"
            )
        if len(unit) > 40:
            raise ValueError(f"{_short(written)} has no unit of {self.name}; {self._wanted}")
        registry = _registry()
        try:
            parsed = registry.Quantity(1.0, unit)
        except Exception as error:  # pint raises many types, tokenizer errors among them
            near = get_close_matches(unit, self.units, n=1)
            meant = f"; did you mean '{near[0]}'?" if near else f"; {self._wanted}"
            raise ValueError(f"'{unit}' is not a unit that is known here{meant}") from error
        if not parsed.check(registry.Quantity(1.0, _PINT_BASE[self.base]).dimensionality):
            raise ValueError(f"'{written}' is not {self.name}: '{unit}' is of another kind; {self._wanted}")
        return float(parsed.to(_PINT_BASE[self.base]).magnitude)


_PINT_BASE = {
    "seconds": "second",
    "bytes": "byte",
    "bytes/s": "byte/second",
    "FLOP/s": "FLOP/second",
    "1/s": "1/second",
    "W": "watt",
}
_PINT_UNITS = """
kilo- = 1e3 = k- = K-
mega- = 1e6 = M-
giga- = 1e9 = G-
tera- = 1e12 = T-
peta- = 1e15 = P-
exa- = 1e18 = E-
kibi- = 2**10 = Ki-
mebi- = 2**20 = Mi-
gibi- = 2**30 = Gi-
tebi- = 2**40 = Ti-
milli- = 1e-3 = m-
micro- = 1e-6 = u-
nano- = 1e-9 = n-
second = [time] = s = sec
minute = 60 * second = min
hour = 60 * minute = h = hr
day = 24 * hour = d
hertz = 1 / second = Hz
byte = [data] = B = octet
bit = byte / 8
FLOP = [operation] = _ = flop
request = [] = req
watt = [power] = W
"""


@cache
def _registry() -> pint.UnitRegistry[Any]:
    # An own list of units: pint's takes bytes for pure numbers, so that 1 GB/s would pass for a rate.
    import pint

    registry: pint.UnitRegistry[Any] = pint.UnitRegistry(None)
    registry.load_definitions(_PINT_UNITS.splitlines())
    return registry


def _short(written: Any) -> str:
    text = repr(written)
    return text if len(text) <= 60 else text[:57] + "..."


def _count(written: Any) -> int:
    whole = isinstance(written, int) and not isinstance(written, bool)
    if not whole and not (isinstance(written, float) and written.is_integer()):
        raise ValueError(f"{_short(written)} is not a whole number; write one, as in 8")
    if written < 0:
        raise ValueError(f"{_short(written)} is negative; a count is zero or more, as in 8")
    if written > 1e12:
        raise ValueError(f"{_short(written)}: a count must be at most 1e12")
    return int(written)


def _not_boolean(written: Any) -> Any:
    if isinstance(written, bool):
        raise ValueError(f"{str(written).lower()} is not a number; write one, as in 8")
    return written


NotBoolean = BeforeValidator(_not_boolean)
"""Before a plain number: pydantic, as Python does, takes true for 1."""


def _fraction(written: Any) -> float:
    value = written
    if isinstance(written, str) and (percent := _NUMBER_AND_UNIT.fullmatch(written)) and percent[2] == "%":
        value = float(percent[1]) / 100
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{_short(written)} is not a fraction; write a number from 0 to 1, as in 0.9")
    if not 0 <= value <= 1:
        raise ValueError(f"{_short(written)}: a fraction must be 0 to 1, as in 0.9")
    return float(value)


SECONDS = QuantityKind("a time", "seconds", _SECONDS, "30 s", max_value=1e9)
LATENCY = QuantityKind("a latency", "seconds", _SECONDS, "3.4 us", max_value=10)
BYTES = QuantityKind("a size", "bytes", _BYTES | _BITS, "80 GB", max_value=1e18)
MEMORY = QuantityKind("a memory", "bytes", _BYTES | _BITS, "80 GB", min_value=1e6, max_value=1e18)
LINK_RATE = QuantityKind(
    "a bandwidth", "bytes/s", _per_second(_BYTES | _BITS), "450 GB/s", min_value=1e3, max_value=1e14
)
MEMORY_RATE = QuantityKind(
    "a memory bandwidth", "bytes/s", _per_second(_BYTES | _BITS), "3.35 TB/s", min_value=1e9, max_value=1e15
)
COMPUTE_RATE = QuantityKind("a compute rate", "FLOP/s", _FLOPS, "989 TFLOP/s", min_value=1e9, max_value=1e18)
POWER = QuantityKind("a power", "W", _WATTS, "700 W", max_value=1e9)
RATE = QuantityKind("a rate", "1/s", _RATES, "2.5/s", max_value=1e9)


def _schema(kind: QuantityKind) -> WithJsonSchema:
    description = f"{kind.name} in {kind.base}, or text with a unit: '{kind.example}'"
    return WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "description": description})


Seconds = Annotated[float, BeforeValidator(SECONDS), _schema(SECONDS)]
LatencySeconds = Annotated[float, BeforeValidator(LATENCY), _schema(LATENCY)]
Bytes = Annotated[float, BeforeValidator(BYTES), _schema(BYTES)]
MemoryBytes = Annotated[float, BeforeValidator(MEMORY), _schema(MEMORY)]
Watts = Annotated[float, BeforeValidator(POWER), _schema(POWER)]
BytesPerSecond = Annotated[float, BeforeValidator(LINK_RATE), _schema(LINK_RATE)]
MemoryBytesPerSecond = Annotated[float, BeforeValidator(MEMORY_RATE), _schema(MEMORY_RATE)]
FlopPerSecond = Annotated[float, BeforeValidator(COMPUTE_RATE), _schema(COMPUTE_RATE)]
PerSecond = Annotated[float, BeforeValidator(RATE), _schema(RATE)]
Fraction = Annotated[
    float,
    BeforeValidator(_fraction),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string"}]}),
]
Count = Annotated[int, BeforeValidator(_count), WithJsonSchema({"type": "integer", "minimum": 0})]
