"""What a service does about what fails: when a failure is noticed, and what happens from then on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from sim.inputs.quantities import Seconds

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


class Recovery(BaseModel):
    """What happens when a link or a NIC has died under a transfer.

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

    def stalls_s(self, transport: str) -> float:
        """How long a transfer between servers stands still before it goes another way, or fails."""
        if self.transport_timeout_s is not None:
            return self.transport_timeout_s
        return TCP_TIMEOUT_S if transport == "tcp" else LOCAL_ACK_TIMEOUT_S * RETRIES
