"""What public tables of measurements call GPUs, systems and models, and the names of them in the catalog.

One table each for kernels, collectives and whole services, so that a name means the same in all of them.
"""

from __future__ import annotations

GPUS = {
    "a100_sxm": "a100-80gb-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200-sxm",
    "b300_sxm": "b300-sxm",
    "rtx_pro_6000_server": "rtx-pro-6000",
    "rtxpro6000": "rtx-pro-6000",
    "rtx4090": "rtx-4090",
}
"""NVIDIA aiconfigurator, vidur, LLMServingSim. A GPU under another name has its own, with hyphens."""

SYSTEMS = {
    # NVIDIA aiconfigurator
    "a100_sxm": "dgx-a100",
    "h100_sxm": "nd-h100-v5",
    "h200_sxm": "hgx-h200",
    "b200_sxm": "hgx-b200",
    "gb200": "gb200-nvl72",
    # DeepSeek: NVLink and the scale-out network of an H800 server are taken for those of an H100 server
    "h800_sxm": "nd-h100-v5",
    # vidur
    "a100_dgx": "dgx-a100",
    "h100_dgx": "nd-h100-v5",
    # xxrjun/nccl-tests-cluster
    "h100 cluster A": "nd-h100-v5",
    "h100 cluster B": "nd-h100-v5",
    # splitwise-sim
    "a100-80gb": "dgx-a100",
    "h100-80gb": "nd-h100-v5",
    # TensorRT-LLM's documentation
    "A100-SXM": "dgx-a100",
    "H100": "nd-h100-v5",
    "H200": "hgx-h200",
    "B200": "hgx-b200",
    "GB200": "gb200-nvl72",
    "L40S": "l40s-12",  # on l40s-8, where peers hardly reach each other, TP 8 is a seventh of it
    "RTX-PRO-6000-Server": "rtx-pro-6000-x8",
}
"""Published name of a server, or of the GPU in it -> shipped topology."""

MODELS = {
    "Llama-3.1-8B": "llama-3.1-8b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "meta-llama/Llama-3.3-70B-Instruct": "llama-3.1-70b",
    "meta-llama/Llama-3.1-405B-Instruct-FP8": "llama-3.1-405b",
    "deepseek-ai/DeepSeek-V3.1": "deepseek-v3",
    "deepseek-ai/DeepSeek-R1-0528": "deepseek-v3",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b",
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": "qwen3-30b-a3b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "Llama-3.3-70B": "llama-3.1-70b",  # the same architecture
    "Llama-3.1-405B": "llama-3.1-405b",
    "Mixtral-8x7B": "mixtral-8x7b",
    "Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "Mixtral-8x22B": "mixtral-8x22b",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "DeepSeek-R1-0528": "deepseek-v3",  # the same architecture
    "moonshotai/Kimi-K2.5": "kimi-k2.5",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "nvidia/Qwen3-32B-NVFP4": "qwen3-32b",
    "Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Qwen3-235B-A22B": "qwen3-235b-a22b",
    "Qwen/Qwen3-235B-A22B-FP8": "qwen3-235b-a22b",
    "gpt-oss-120b": "gpt-oss-120b",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "MiniMaxAI/MiniMax-M2.5": "minimax-m2.5",
}
"""Published name of a checkpoint -> shipped model."""
