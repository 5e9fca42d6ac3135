"""What a driver or NCCL says of a server, as a topology file to edit: `nvidia-smi topo -m` and NCCL's XML.

Neither says all that a topology has. The matrix has kinds of paths between GPUs and NICs, and no models, no
rates; the XML (`NCCL_TOPO_FILE`, `NCCL_TOPO_DUMP_FILE`) has the PCIe tree with its lanes, and NVLinks only
where NCCL has written it. What is missing is taken from what machines with such GPUs have, and every such
value is tagged `assumed` with the reason, and listed at the top of the file. Knows nothing of graphs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sim.inputs.errors import InputError, Problem
from sim.reading.machines.kinds import machine_kind
from sim.reading.machines.machine import Machine
from sim.reading.machines.matrix import read_matrix
from sim.reading.machines.nccl_xml import read_xml
from sim.reading.machines.writing import topology_text

__all__ = ["MAX_BYTES", "Machine", "machine_kind", "read_machine", "topology_text"]

MAX_BYTES = 20_000_000


def read_machine(path: Path, text: str, known_gpus: Sequence[str], gpu: str = "") -> Machine:
    """The server that a file shows. InputError where it is cut off, or shows none."""
    kind = machine_kind(text)
    if not kind:
        what = "is neither what nvidia-smi topo -m prints nor NCCL's XML (NCCL_TOPO_DUMP_FILE)"
        raise InputError(Problem(what, str(path)))
    machine = Machine(kind, re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "server")
    (read_xml if kind.endswith("XML") else read_matrix)(machine, text, path, known_gpus, gpu)
    return machine
