"""Which file of a machine a text is."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[\d*m")
_MATRIX = re.compile(r"^\s*GPU0\b.*\n\s*GPU0\s+X\b", re.MULTILINE)


def machine_kind(text: str) -> str:
    """`nvidia-smi topo -m` or `NCCL topology XML` for a text that begins as these do, else nothing.

    >>> machine_kind("        GPU0    GPU1\\nGPU0     X      NV4\\nGPU1    NV4      X")
    'nvidia-smi topo -m'
    """
    head = _COLOURS.sub("", text[:20_000])
    if _MATRIX.search(head):
        return "nvidia-smi topo -m"
    return "NCCL topology XML" if re.search(r"<system\b[^>]*\bversion=", head) else ""
