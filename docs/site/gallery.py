"""Run every experiment once with `--quick`, for the pictures and takeaways of the gallery: `make docs` does.

What ran since the code last changed is not run again. An experiment that fails is told and left out.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "out" / "gallery"


def experiments() -> list[Path]:
    """Scripts and packages of experiments that answer a question."""
    found = [*(ROOT / "experiments").glob("*.py"), *(ROOT / "experiments").glob("*/__main__.py")]
    return sorted(path if path.name != "__main__.py" else path.parent for path in found)


def is_new(path: Path) -> bool:
    """Whether the pictures of an experiment are younger than the code."""
    answer = GALLERY / path.stem / "answer.json"
    if not answer.is_file():
        return False
    code = [*(ROOT / "sim").rglob("*.py"), *(path.rglob("*.py") if path.is_dir() else [path])]
    return answer.stat().st_mtime > max(file.stat().st_mtime for file in code)


def main() -> int:
    """Run what is not new; 1 where one failed."""
    failed = 0
    todo = [path for path in experiments() if not is_new(path)]
    for number, path in enumerate(todo, 1):
        print(f"pictures {number} of {len(todo)}: {path.stem}", file=sys.stderr)
        command = [sys.executable, str(path), "--quick", "--out", str(GALLERY / path.stem)]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if ran.returncode:
            failed = 1
            print(f"{path.stem} ended with {ran.returncode}: {ran.stderr.strip()[-500:]}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
