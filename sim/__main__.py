"""`python -m sim` is the command `sim`."""

from __future__ import annotations

import os

if __name__ == "__main__":
    try:
        from sim.cli import main
    except KeyboardInterrupt:  # `main` handles signals; until it is here, Python raises its own
        os._exit(130)
    main()
