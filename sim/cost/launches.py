"""What it costs an engine to launch kernels: how many launches a layer has, and the processor's time for one.

The processor runs ahead of the GPU: while one kernel computes, the next ones are launched. So a layer takes
the longer of its kernels' sum and its launches' sum, and as all layers of a kind are equal, so does a step.
One replay of a CUDA graph launches a whole decode step; a mixed batch replays a piece a layer; without graphs
every launch is paid for. Where it stops: preparing the inputs and drawing the tokens come on top of the
launches on the same thread, and are in `engine.host`; ranks launch beside each other and cost no more than
one; a busy or slow processor takes longer than this says (the points below lie 0.85 to 1.4
times what is taken here).
"""

from __future__ import annotations

import numpy as np

from sim.cost.kernels.timing import FORMATS, KernelTiming
from sim.inputs.engine import Engine
from sim.inputs.gpu_kinds import kind_of
from sim.inputs.hardware import Gpu

PIECEWISE_LAUNCH_S = 32e-6  # assumed: middle of 25-40 us a piece

# Seconds of one launch from a Python module: its call, the dispatcher of PyTorch, the launch itself.
# fitted: GPT-2 on an H200 without graphs takes 4.81 ms a token under vLLM and 4.87 under SGLang, with them
# 1.31 and 1.04 (deepspeedai/DeepSpeed#8352): 29 and 32 us for each of the 120 launches of its 12 layers;
# llama2-70b at TP8 on an H100 with software of 2023 (splitwise-sim): 29 us. Llama-3-8B under SGLang of 2024
# takes 9.28 ms a token without graphs and Triton's attention (sgl-project/sglang#1401): 25 us; SGLang's is
# the middle of its two.
# assumed: TensorRT-LLM launches from C++: the middle of the usual 5 to 10 us.
MODULE_LAUNCH_S = {"vllm": 32e-6, "sglang": 28e-6, "trtllm": 7e-6}
# fitted: hosts of A100 take 1.5 times those of H100 for the same launches (splitwise-sim: 44 and 29 us). The
# generation of PCIe stands for that of the processor.
OLDER_HOST, OLDER_HOST_PCIE = 1.5, 4
# assumed: code that torch.compile made launches without modules, the middle of the usual 5 to 10 us.
COMPILED_LAUNCH_S = 7e-6
# Programmatic dependent launch: a kernel starts, and sets itself up, beside the last blocks of the one
# before. TensorRT-LLM launches so on compute capability 9.0 and up (`TRTLLM_ENABLE_PDL`).
# fitted: it took DeepSeek-R1 in NVFP4 on eight B200 from 168 to 173 tokens/s of a user (TensorRT-LLM, tech
# blog 1): at 2.82 tokens a step 0.49 ms of 64 layers, which have 17 launches here.
DEPENDENT_LAUNCH_S = 0.45e-6
DEPENDENT_LAUNCHES = {"trtllm": ("hopper", "blackwell", "blackwell rtx")}
HOSTS = (0.85, 1.42)
"""What the launches of measured hosts take over these, lowest and highest: those above, and a 7B on an A800
(vllm-project/vllm-omni#7960: 22 ms a token without graphs).
"""


def launches_one_by_one(engine: Engine) -> bool:
    """Whether decode steps replay no CUDA graph and their modules launch every kernel."""
    compiled = engine.backend == "vllm" and not engine.enforce_eager
    return not compiled and (engine.enforce_eager or engine.max_cudagraph_capture_size == 0)


def launch_s(engine: Engine, gpu: Gpu) -> float:
    """Seconds of one launch in a step that replays no graph.

    vLLM compiles its model unless `enforce_eager` says otherwise, and steps beyond the largest captured graph
    run the compiled code. `engine.host.launch_s` overrides it.
    """
    if engine.host.launch_s is not None:
        return engine.host.launch_s
    if engine.backend == "vllm" and not engine.enforce_eager:
        return COMPILED_LAUNCH_S
    older = OLDER_HOST if gpu.pcie_generation <= OLDER_HOST_PCIE else 1.0
    return MODULE_LAUNCH_S[engine.backend] * older


def launches_beside(engine: Engine, gpu: Gpu) -> bool:
    """Whether kernels start beside the end of the one before."""
    return kind_of(gpu.name)[1] in DEPENDENT_LAUNCHES.get(engine.backend, ())


def beside_the_one_before(timing: KernelTiming, launches: int) -> KernelTiming:
    """A timing less what its launches take beside the end of another; none takes less than its work."""
    floor_s, launch_s = timing.floor_s, launches * DEPENDENT_LAUNCH_S
    hidden_s = np.minimum(launch_s, floor_s) if isinstance(floor_s, np.ndarray) else min(launch_s, floor_s)
    return timing._replace(total_s=timing.total_s - hidden_s, floor_s=timing.floor_s - hidden_s)


def attention_launches(has_prefill: bool) -> int:
    """Writing the cache and attention; decodes have their context split, and the parts put together."""
    return 2 if has_prefill else 3


def gemm_launches(dtype: str, quantised: bool) -> int:
    """A product; and a kernel that puts its input in 8 or 4 bits, unless the kernel before has done so."""
    return 1 if quantised or not _activations_in_few_bits(dtype) else 2


def expert_launches(dtype: str) -> int:
    """Routed experts as vLLM's and SGLang's `fused_moe` launch them: the best experts of each token, two to
    sort tokens by expert, two grouped products with an activation between them, the sum over experts; and the
    inputs of the two products in fewer bits.
    """
    return 9 if _activations_in_few_bits(dtype) else 7


def _activations_in_few_bits(dtype: str) -> bool:
    return FORMATS[dtype].activation_bytes < 2
