"""Pictures drawn by V8 in a process of their own: where V8 aborts, only the picture is lost.

V8 reserves gigabytes of addresses when it starts, and ends its process where it does not get them
(`ulimit -v`, a small container). No Python error comes of that.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

from sim.inputs.errors import InfeasibleError

PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
DRAW = f"""
import json, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # it comes to the parent, which decides
if sys.platform.startswith("linux"):
    import ctypes
    ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(getattr(signal, "SIGKILL", 9))}, 0, 0, 0)
import vl_convert
function, arguments, options = json.load(sys.stdin)
drawn = getattr(vl_convert, function)(*arguments, **options)
sys.stdout.buffer.write(drawn if isinstance(drawn, bytes) else drawn.encode())
"""


class NotDrawnError(InfeasibleError):
    """The process that draws has ended without a picture."""


def drawn(function: str, *arguments: Any, **options: Any) -> bytes:
    """What a function of vl_convert gives, text as UTF-8. NotDrawnError where its process ends before it.

    >>> drawn("vega_to_svg", "{}")[:4]
    b'<svg'
    """
    described = json.dumps([function, arguments, options]).encode()
    command = [sys.executable, "-P", "-c", DRAW]
    ended = subprocess.run(command, input=described, capture_output=True, check=False)
    if not ended.returncode:
        return ended.stdout
    said = ended.stderr.decode(errors="replace")
    if ended.returncode < 0 or "MemoryError" in said or "cannot allocate" in said:
        how = f"with {signal.Signals(-ended.returncode).name}" if ended.returncode < 0 else "without memory"
        raise NotDrawnError(
            f"charts cannot be drawn: V8, which draws them, ended {how}",
            "it reserves gigabytes of addresses: raise `ulimit -v`, or the memory of the container",
        )
    raise RuntimeError(f"vl_convert.{function}: {(said.splitlines() or ['no message'])[-1]}")
