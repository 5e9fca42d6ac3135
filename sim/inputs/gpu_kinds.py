"""Vendor and architecture of a GPU by its name: how near a measured GPU is to one that was not.

Names as the vendors' product pages have them. A GPU of another name has neither.
"""

from __future__ import annotations

# NVIDIA: the product pages and white papers of each line; AMD: CDNA white papers; Intel: Gaudi's;
# Huawei: Ascend's.
_KINDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("nvidia", "volta"): ("v100", "titan-v"),
    ("nvidia", "turing"): ("t4", "rtx-2080", "rtx-8000"),
    ("nvidia", "ampere"): ("a100", "a800", "a30"),
    ("nvidia", "ampere rtx"): ("a10", "a40", "a6000", "rtx-a6000", "rtx-3080", "rtx-3090"),
    ("nvidia", "ada"): ("l4", "l40", "l40s", "l20", "rtx-4080", "rtx-4090", "rtx-6000-ada"),
    ("nvidia", "hopper"): ("h100", "h200", "h800", "h20", "gh200"),
    ("nvidia", "blackwell"): ("b100", "b200", "b300", "gb200", "gb300"),
    ("nvidia", "blackwell rtx"): ("rtx-pro-6000", "rtx-5080", "rtx-5090", "gb10"),
    ("nvidia", "rubin"): ("rubin", "rubin-ultra", "r200", "vr200"),
    ("amd", "cdna 1"): ("mi100",),
    ("amd", "cdna 2"): ("mi210", "mi250", "mi250x"),
    ("amd", "cdna 3"): ("mi300a", "mi300x", "mi308x", "mi325x"),
    ("amd", "cdna 4"): ("mi350x", "mi355x"),
    ("huawei", "ascend"): ("ascend-910b", "ascend-910c"),
    ("intel", "gaudi"): ("gaudi2", "gaudi3", "gaudi-2", "gaudi-3"),
}
_BY_NAME = {name: kind for kind, names in _KINDS.items() for name in names}
_MAKERS = ("nvidia-", "amd-", "intel-", "instinct-", "geforce-")


def kind_of(gpu: str) -> tuple[str, str]:
    """Vendor and architecture; empty where the name is not known.

    >>> kind_of("h20"), kind_of("AMD Instinct MI300X"), kind_of("h2000")
    (('nvidia', 'hopper'), ('amd', 'cdna 3'), ('', ''))
    """
    name = gpu.lower().replace("_", "-").replace(" ", "-")
    for maker in _MAKERS:
        name = name.removeprefix(maker)
    for end in range(len(name), 0, -1):
        if name[:end] in _BY_NAME and not name[end : end + 1].isalnum():
            return _BY_NAME[name[:end]]
    return "", ""


def distance(gpu: str, other: str) -> str:
    """How near two GPUs are: "architecture", "vendor" or "none". A name that is not known is near to none.

    >>> distance("h20", "h100-sxm"), distance("gb10", "h100-sxm"), distance("mi300x", "h100-sxm")
    ('architecture', 'vendor', 'none')
    """
    one, two = kind_of(gpu), kind_of(other)
    if not one[0] or one[0] != two[0]:
        return "none"
    return "architecture" if one == two else "vendor"
