"""The rack hour beside a compiled simulator that has no layers, no links and no contention: DynoSim.

Both are whole processes, in turn, with the same arrivals and lengths; the peer is given our step times as its
profile. `benchmarks/peers.md` says how it is installed.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks._tables import Figure, show
from benchmarks.serving import rack

PYTHON = os.environ.get("PEER_PYTHON", sys.executable)
"""The Python that the peer is installed for."""
GOALS = {10_000: 0.8, 100_000: 1.0}  # of the peer's CPU time
ROUNDS = 2
CONTEXT, MOST_TOKENS = 8192.0, 1 << 20  # bounds of the profile: a context, and all contexts of a batch
TRACE_BLOCK = 512  # tokens that one hash of a trace stands for


def cpu_s(command: list[str], folder: Path) -> float:
    """CPU seconds of a whole process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=_paths())
    if done.returncode:
        raise RuntimeError(f"{command[:3]}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _paths() -> dict[str, str]:
    here = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}


def replay(requests: int, folder: Path) -> list[str]:
    """The command that replays the rack hour with the peer; its inputs are written to a folder."""
    from sim.cost.batch import Batch
    from sim.cost.network import Network
    from sim.cost.stage_cost import StageCost
    from sim.deployment import deployment_of
    from sim.scenario.scenario import Scenario
    from sim.workload.generator import request_generator

    scenario = Scenario.model_validate(rack(requests))
    network = Network(scenario.wired.graph)
    plans = deployment_of(scenario, network).replicas
    trace, profile, blocks = folder / "trace.jsonl", folder / "profile.npz", 0
    with trace.open("w") as lines:
        for one in request_generator(scenario.workload, 0):
            hashes = range(blocks, blocks := blocks + -(-one.prompt_tokens // TRACE_BLOCK))
            row = {
                "timestamp": one.arrival_s * 1e3,
                "input_length": one.prompt_tokens,
                "output_length": one.output_tokens,
                "hash_ids": list(hashes),
            }
            lines.write(json.dumps(row) + "\n")
    cost = StageCost(plans[0].shards[0], network)
    prompts = np.unique(np.geomspace(1, CONTEXT, 100).astype(int))
    tokens, contexts = np.linspace(0.0, MOST_TOKENS, 200), np.geomspace(1.0, CONTEXT, 60)

    def decode_ms(kv_tokens: float, context: float) -> float:
        sequences = min(256, max(1, round(kv_tokens / context)))
        return 1e3 * cost.step(Batch((), sequences, max(1.0, kv_tokens), sequences))[0]

    np.savez(
        profile,
        prefill_isl=prompts.astype(float),
        prefill_ttft_ms=[1e3 * cost.step(Batch(((int(one), 0),), 0, 0, 1))[0] for one in prompts],
        decode_active_kv_tokens=tokens,
        decode_context_length=contexts,
        decode_itl=[[decode_ms(kv_tokens, context) for context in contexts] for kv_tokens in tokens],
    )
    limits = plans[0].limits
    engine = {
        "num_gpu_blocks": limits.kv_blocks,
        "block_size": 16,
        "max_num_seqs": limits.max_num_seqs,
        "max_num_batched_tokens": limits.max_num_batched_tokens,
        "planner_profile_data": str(profile),
    }
    return [
        PYTHON, "-m", "dynamo.replay", str(trace), "--num-workers", str(len(plans)), "--extra-engine-args",
        json.dumps(engine), "--trace-format", "mooncake", "--report-json", str(folder / "report.json"),
    ]  # fmt: skip


def main() -> None:
    there = subprocess.run([PYTHON, "-c", "import dynamo.replay"], capture_output=True, check=False)
    if there.returncode:
        print("DynoSim is not installed: benchmarks/peers.md says how\n")
    figures = []
    for requests, goal in GOALS.items():
        with tempfile.TemporaryDirectory() as name:
            folder, what = Path(name), f"rack hour, {requests:,} requests, whole process"
            commands = {"sim": [sys.executable, "-m", "benchmarks.peers", str(requests)]}
            if not there.returncode:
                commands["DynoSim"] = replay(requests, folder)
            took = {name: float("inf") for name in commands}
            for name in [*commands] * ROUNDS:
                took[name] = min(took[name], cpu_s(commands[name], folder))
        figures += [Figure(f"{what}: CPU time of {name}", one, "s") for name, one in took.items()]
        if "DynoSim" in took:
            ratio = took["sim"] / took["DynoSim"]
            figures.append(Figure("... the first of the second", ratio, "x", goal, at_most=True))
    show(figures)


def _run(requests: int) -> None:
    from sim.scenario.scenario import Scenario
    from sim.simulate import simulate

    simulate(Scenario.model_validate(rack(requests))).summary()


if __name__ == "__main__":
    _run(int(sys.argv[1])) if len(sys.argv) > 1 else main()
