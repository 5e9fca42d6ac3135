"""What a service does about what fails: when a failure is noticed, and what happens from then on."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict

from sim.inputs.quantities import BytesPerSecond, Count, Seconds

LOCAL_ACK_TIMEOUT_S = 4.096e-6 * 2**20
"""How long a queue pair of RDMA waits for an acknowledgement: 4.096 us * 2^t with NCCL's default t = 20
(datasheet: InfiniBand architecture specification, local ACK timeout; `NCCL_IB_TIMEOUT` in NCCL 2.31,
src/transport/net_ib/connect.cc)."""
RETRIES = 7
"""How often it sends again (datasheet: `NCCL_IB_RETRY_CNT` in the same file)."""
TCP_TIMEOUT_S = 924.6
"""How long a TCP connection of Linux sends again, with `tcp_retries2 = 15` (datasheet: the kernel's
Documentation/networking/ip-sysctl.rst)."""
EXECUTOR_TIMEOUT_S = 300.0
"""How long an engine waits for its workers to end a step (datasheet: vLLM's default of
`VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS`, vllm/envs.py)."""

PROCESS_START_S = 25.0
"""From the start of a process to where it loads weights, imports and communicators included (measured:
vllm-project/vllm#20264, 59 s to the first answer of which 34 s are the engine's)."""
GRAPH_CAPTURE_S = 17.0
"""Capturing graphs (measured: the same log)."""
WEIGHTS_BYTES_PER_S = 9.5e9
"""At which a server reads weights (measured: HabanaAI/vllm-fork#809, the 163 shards of DeepSeek-R1, 689 GB,
in 72 s on one server)."""
SHRINK_PAUSE_S, REJOIN_PAUSE_S = 11.0, 8.0
"""For how long an expert-parallel group stands still when a rank leaves, and when it comes back (measured:
EEP, arXiv 2605.10670)."""


class Recovery(BaseModel):
    """What happens when something has failed: an engine, or the link under a transfer.

    An engine that fails is taken for healthy for `detection_s`: what it had stays lost and unnoticed, and the
    router goes on sending requests there, which wait. Then they go where `on_failure` says. What the engine
    does is `on_loss`:

    * `repair`: it works again as soon as what failed is repaired (`until_s`);
    * `restart`: it is started when what failed is repaired, or has been noticed where only the process died:
      `process_start_s`, the weights at `weights_bytes_per_s` for each of its servers, or over the links from
      the place `weights_from`, and `graph_capture_s`;
    * `spare`: one of `spares` GPUs of the same domain takes the place of each that failed, with its paths,
      and the engine is restarted at once; what is repaired is a spare then;
    * `shrink`: an expert-parallel engine goes on without the data-parallel ranks of the GPU that failed,
      after `shrink_pause_s`, where the copies of experts that are left make up a whole set; the ranks come
      back after the repair with a pause of `rejoin_pause_s`. Any other engine is restarted.

    `cordon_trays`: so many servers of one NVLink domain that are down at a time stop all engines there until
    fewer are.

    A transfer whose link is down stands still. One between servers is sent again by its NIC for
    `transport_timeout_s`, unset: the local ACK timeout times the retries (30 s over InfiniBand, RoCE and
    EFA; EFA's are assumed to be alike), and 925 s over TCP. Then it goes another way where there is one and
    `reroute` is on: over another NIC, rail, leaf or spine. Where there is none, or `reroute` is off, the
    engine fails. A step that stands still within a server, on NVLink or PCIe, is given up by the engine
    after `executor_timeout_s`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reroute: bool = True
    transport_timeout_s: Seconds | None = None
    executor_timeout_s: Seconds = EXECUTOR_TIMEOUT_S
    detection_s: Seconds = 0.0
    on_loss: Literal["repair", "restart", "spare", "shrink"] = "repair"
    process_start_s: Seconds = PROCESS_START_S
    weights_bytes_per_s: BytesPerSecond = WEIGHTS_BYTES_PER_S
    weights_from: str = ""
    graph_capture_s: Seconds = GRAPH_CAPTURE_S
    spares: Annotated[Count, Ge(0)] = 0
    shrink_pause_s: Seconds = SHRINK_PAUSE_S
    rejoin_pause_s: Seconds = REJOIN_PAUSE_S
    cordon_trays: Annotated[Count, Ge(1)] | None = None

    def stalls_s(self, transport: str) -> float:
        """How long a transfer between servers stands still before it goes another way, or fails."""
        if self.transport_timeout_s is not None:
            return self.transport_timeout_s
        return TCP_TIMEOUT_S if transport == "tcp" else LOCAL_ACK_TIMEOUT_S * RETRIES
