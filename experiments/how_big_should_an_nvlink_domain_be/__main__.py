"""The study as a command: `python experiments/how_big_should_an_nvlink_domain_be`, or with `-m` and dots."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

if __name__ == "__main__":
    if not __package__:  # run as a folder, which is then on the path in place of the one that it lies in
        sys.path[0] = str(FOLDER.parent)
    import_module(f"{__package__ or FOLDER.name}.study").main()
