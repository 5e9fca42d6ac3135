"""What a topology is written with: parts, wires between them, networks between servers, transports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from sim.inputs.provenance import Provenance
from sim.inputs.quantities import Bytes, BytesPerSecond, LatencySeconds, NotBoolean, Seconds

PartKind = Literal["gpu", "nvswitch", "pcie_switch", "host", "nic", "switch", "store"]
Pattern = Literal["all", "one_to_one", "blocks", "modulo"]
NicTransport = Literal["infiniband", "roce", "efa", "ethernet"]
CARRIERS = {"infiniband": "infiniband", "roce": "roce", "efa": "efa", "tcp": "ethernet"}
"""Which NICs carry each kind of transport."""

MAX_OF_A_PART = 4096
_SELECTION = re.compile(r"([a-z][a-z_]*)(?:\[(\d*)(:?)(\d*)(?::(\d+))?\])?")


def _whole(written: object) -> object:
    if isinstance(written, bool | str):
        raise ValueError(f"{written!r} is not a whole number; write one, as in 8")
    return written


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=1)]


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    provenance: dict[str, Provenance] = {}


class Part(_Described):
    """`count` equal things in one server. A capacity of its own only where the thing itself can block.

    `forwards_peers: false` is a host whose root complex passes no PCIe traffic from one GPU to another, so
    that copies between GPUs on different switches are staged in its memory. A `latency_s` that is left out
    is, to collectives, that of the machines on which they were measured. `trays`: of a rack, in how many they
    stand, as many in each, in order: the picture is drawn by it, and trays fail by it (`sim.inputs.outages`).
    """

    kind: PartKind
    count: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=MAX_OF_A_PART)] = 1
    model: str | None = None
    reduces: bool = False
    forwards_peers: bool = True
    trays: Whole | None = None
    latency_s: LatencySeconds | None = None
    bytes_per_s: BytesPerSecond | None = None
    transport: NicTransport | None = None

    @model_validator(mode="after")
    def _fields_that_belong_to_a_kind(self) -> Part:
        if self.kind == "gpu" and self.model is None:
            raise ValueError("a gpu needs a model; name one, as in 'model: h100-sxm'")
        if self.kind != "gpu" and self.model is not None:
            raise ValueError(f"model is for gpus; a {self.kind} has none")
        if self.kind != "nic" and self.transport is not None:
            raise ValueError(f"transport is for nics; a {self.kind} has none")
        if self.reduces and self.kind not in ("nvswitch", "switch"):
            raise ValueError(f"reduces is for switches that add numbers on the way; a {self.kind} does not")
        if self.trays is not None and self.count % self.trays:
            raise ValueError(f"{self.trays} trays do not divide the {self.count} there are")
        if not self.forwards_peers and self.kind != "host":
            raise ValueError(f"forwards_peers is for hosts (root complexes); a {self.kind} has none")
        return self


class Wire(_Described):
    """Links between the members of two parts, in both directions.

    `from` and `to` name a part or some of it (`host`, `host[0]`, `gpu[0:4]`, `host[0::2]`). Patterns: `all`
    (each to each; within one part, each to every other), `one_to_one`, `blocks` (consecutive `of` to one),
    `modulo` (i to i modulo their number: rails). `links` is how many run in parallel, one number or one per
    member of `to`.
    """

    source: str = Field(alias="from")
    to: str
    pattern: Pattern
    of: Whole | None = None
    link: str
    links: Whole | tuple[Whole, ...] = 1

    @field_validator("source", "to")
    @classmethod
    def _well_formed(cls, selection: str) -> str:
        if _SELECTION.fullmatch(selection) is None:
            raise ValueError(
                f"{selection!r} is not a selection; write a part or some of it: host, host[0], gpu[0:4]"
            )
        return selection

    @model_validator(mode="after")
    def _blocks_have_a_size(self) -> Wire:
        if (self.pattern == "blocks") != (self.of is not None):
            raise ValueError(
                "'of' goes with pattern blocks: how many consecutive ones share one, as in 'of: 4'"
            )
        return self


def is_selection(text: str) -> bool:
    """True for a part or some of it: `host`, `host[0]`, `gpu[0:4]`."""
    return _SELECTION.fullmatch(text) is not None


def part_of(selection: str) -> str:
    """The part that a selection is from: `host` for `host[0]`."""
    return selection.partition("[")[0]


def members(selection: str, count: int) -> range:
    """The indices that a selection picks out of `count`. ValueError where it picks none or runs over the end.

    >>> members("gpu", 4), members("gpu[1]", 4), members("gpu[0::2]", 4)
    (range(0, 4), range(1, 2), range(0, 4, 2))
    """
    found = _SELECTION.fullmatch(selection)
    if found is None:
        raise ValueError(
            f"{selection!r} is not a selection; write a part or some of it: host, host[0], gpu[0:4]"
        )
    _, start, colon, stop, step = found.groups()
    if not (start or colon):
        return range(count)
    first = int(start or 0)
    last = (int(stop) if stop else count) if colon else first + 1
    if first >= last or last > count:
        raise ValueError(
            f"{selection} is outside the {count} that there are; indices run from 0 to {count - 1}"
        )
    return range(first, last, int(step or 1))


class ScaleOut(_Described):
    """A network that joins servers: rail-optimised, of one switch where all NICs fit, else of two tiers.

    `of` selects the NICs of a server. NIC i is on rail i modulo `rails` (default: all rails of their own). A
    leaf takes `down_ports` NICs of one rail (default half of `switch_ports`) and has the rest of its ports
    up. The spines are the fewest that take all uplinks and give every leaf equally many links to each of
    them. `name` prefixes the switches' names.

    `oversubscription` is what the NICs of the fullest leaf can send over what its uplinks carry: the ports
    are divided so, and no leaf has more uplinks than its NICs there need. `routing` is `adaptive` (all ways
    up are used evenly) or `static` (a hash gives each pair of NICs one way up).
    """

    of: str
    link: str
    rails: Whole | None = None
    switch_ports: Whole = 64
    down_ports: Whole | None = None
    oversubscription: Annotated[float, NotBoolean, Ge(1)] | None = None
    routing: Literal["adaptive", "static"] = "adaptive"
    latency_s: LatencySeconds
    reduces: bool = False
    name: str = Field(default="", pattern=r"^[a-z_]*$")

    @model_validator(mode="after")
    def _ports_both_ways(self) -> ScaleOut:
        if self.down_ports is not None and self.down_ports >= self.switch_ports:
            raise ValueError(
                f"down_ports {self.down_ports} leaves none of {self.switch_ports} switch_ports to go up; "
                f"{self.switch_ports // 2} keeps full bisection"
            )
        if self.oversubscription is not None and self.down_ports is not None:
            raise ValueError(
                f"oversubscription {self.oversubscription:g} and down_ports {self.down_ports} both divide "
                "the ports of a leaf; keep one"
            )
        if self.oversubscription is not None and self.oversubscription > self.switch_ports - 1:
            raise ValueError(
                f"oversubscription {self.oversubscription:g} leaves none of {self.switch_ports} switch_ports "
                f"to go up; {self.switch_ports - 1} is the most"
            )
        return self

    @property
    def ports_down(self) -> int:
        """How many NICs a leaf takes."""
        if self.oversubscription is None:
            return self.down_ports or self.switch_ports // 2
        return int(int(self.switch_ports / (1.0 + self.oversubscription)) * self.oversubscription)


class Transport(_Described):
    """How traffic between servers is carried: which NICs, and what software adds or takes away. `roce` is
    RDMA over Ethernet, `efa` that of AWS.

    `hop_s` is the time a small message of a collective takes from one server's NIC proxy to another's; None
    leaves the collective library's own constants. `bytes_per_s` is what one server can move per direction;
    None leaves the NICs'.
    """

    kind: Literal["infiniband", "roce", "efa", "tcp"]
    hop_s: LatencySeconds | None = None
    bytes_per_s: BytesPerSecond | None = None


class OwnCollectives(_Described):
    """A collective library's times on this machine: those of a kind of `topologies/collectives/inside.yaml`
    (`like`; by default the kind of its GPU), with other values in the same blocks, `nccl` and `engines`.
    """

    like: str | None = None
    nccl: dict[str, Any] = {}
    engines: dict[str, Any] = {}

    @field_validator("nccl")
    @classmethod
    def _of_nccl(cls, block: dict[str, Any]) -> dict[str, Any]:
        return _in_base_units(block, _NCCL, "nccl")

    @field_validator("engines")
    @classmethod
    def _of_engines(cls, block: dict[str, Any]) -> dict[str, Any]:
        return _in_base_units(block, _ENGINES, "engines")


_SECONDS, _RATE, _BYTES = TypeAdapter(Seconds), TypeAdapter(BytesPerSecond), TypeAdapter(Bytes)
_NUMBERS: dict[str, Any] = {"*": None}  # any names, a number each
_NCCL: dict[str, Any] = {
    "ring": {"LL": _NUMBERS, "LL128": _NUMBERS, "Simple": _NUMBERS},
    "local_bytes_per_s": None, "through_host_efficiency": None, "switch": _NUMBERS, "direct": _NUMBERS,
}  # fmt: skip
_ENGINES: dict[str, Any] = {"*": {"kernels": {"*": _NUMBERS}, "eager_launch_s": None}}


def _in_base_units(block: Any, shape: Mapping[str, Any], at: str) -> dict[str, Any]:
    """A block of numbers in seconds, bytes and bytes/s, by the end of each name; ValueError for others."""
    if not isinstance(block, Mapping):
        raise ValueError(f"{at} = {block!r} is not a mapping; {', '.join(shape)} may stand in it")
    found = {}
    for name, value in block.items():
        if name not in shape and "*" not in shape:
            raise ValueError(f"{at}.{name} is not a known key; {', '.join(shape)} are")
        below = shape.get(name, shape.get("*"))
        place = f"{at}.{name}"
        found[name] = (
            _number(str(name), value, place) if below is None else _in_base_units(value, below, place)
        )
    return found


def _number(name: str, value: Any, at: str) -> float:
    kind = _RATE if name.endswith("bytes_per_s") else _SECONDS if name.endswith("_s") else _BYTES
    if isinstance(value, str) and name.endswith(("_s", "_bytes")):
        try:
            return float(kind.validate_python(value))
        except ValidationError as error:
            raise ValueError(f"{at}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    least = 0.0 if kind is _SECONDS else 1e-12  # what is divided by
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e30:
        raise ValueError(f"{at} = {value!r} is not a number {'of at least' if least == 0.0 else 'above'} 0")
    return float(value)


def part_of_place(place: str) -> str:
    """The part that a place is one of.

    >>> part_of_place("node0.gpu3")
    'gpu'
    """
    return place.rpartition(".")[2].rstrip("0123456789")
