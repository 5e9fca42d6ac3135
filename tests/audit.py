"""Known vulnerabilities of the locked releases: `make audit`, in the environment that has pip-audit.

Exit status 0: all were looked up and none is known; 1: some are known, or releases could not be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys


def told(audited: str, said: str) -> tuple[int, str]:
    """The exit status and what to print, of what pip-audit wrote as JSON and of what it said.

    >>> told("", "no route to host")[0]
    1
    """
    try:
        found = json.loads(audited)["dependencies"]
    except (ValueError, KeyError):
        last = (said.strip().splitlines() or ["no answer"])[-1]
        return 1, f"audit: the index of vulnerabilities cannot be reached; nothing was audited ({last[:200]})"
    known = [
        f"{one['name']} {one['version']}: {each['id']}, mended in "
        f"{', '.join(each['fix_versions']) or 'no release'}"
        for one in found
        for each in one.get("vulns", ())
    ]
    skipped = [one["name"] for one in found if "skip_reason" in one]
    lines = list(known)
    if skipped:
        lines.append(
            f"audit: {len(skipped)} of {len(found)} releases are not in the index that is reached here"
            f"{'; nothing was audited' if len(skipped) == len(found) else ': ' + ', '.join(skipped)}"
        )
    elif not known:
        lines.append(f"audit: {len(found)} releases, no known vulnerability")
    return int(bool(known or skipped)), "\n".join(lines)


def main() -> None:
    command = ["pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off", "-f", "json"]
    run = subprocess.run(
        [sys.executable, "-m", *command, "-r", sys.argv[1]], capture_output=True, text=True, check=False
    )
    status, text = told(run.stdout, run.stderr)
    print(text)
    sys.exit(status)


if __name__ == "__main__":
    main()
