"""The keys that change no record, each with why; and where to look first for the others."""

from __future__ import annotations

BETWEEN_SERVERS = "between servers a collective reads net_hop_s and the transport's hop_s, and no path"
WARM = "only for kernels timed again and again on the same data, as benchmarks do; a run has none"
LATENT = "latent attention has one shared vector a token: its kernel has no such part"
PLAIN = "read for latent attention only, which has parameters of its own; plain decode is bound by memory"
FITS = "does not bind: one KV head of all decodes is far below the level-2 cache"
AN_END = "a path counts the latencies of what lies between its ends"

SILENT: dict[str, str] = {
    "model.layer_shapes[].at[]": "which of a stage's layers has a shape changes no sum over them",
    "topology.gpus.*.kernels.attention_decode.*.flop_fraction": PLAIN,
    "topology.gpus.*.kernels.attention_decode.*.l2_share": WARM,
    "topology.gpus.*.kernels.attention_decode.*.l2_time": WARM,
    "topology.gpus.*.kernels.attention_mixed.*.l2_share": FITS,
    "topology.gpus.*.kernels.gemm.*.host_s": WARM,
    "topology.gpus.*.kernels.gemm.*.l2_share": WARM,
    "topology.gpus.*.kernels.mla_decode.*.l2_share": WARM,
    "topology.gpus.*.kernels.mla_decode.*.l2_time": WARM,
    "topology.gpus.*.kernels.mla_decode.*.s_per_sm_kv_token": LATENT,
    "topology.gpus.*.kernels.mla_decode.*.s_per_unshared_kv_token": LATENT,
    "topology.gpus.*.kernels.mla_decode.*.sm_kv_tokens": LATENT,
    "topology.gpus.*.kernels.mla_decode.*.split_s": LATENT,
    "topology.gpus.*.pcie_generation": "shown by `sim list gpus`; what PCIe allows is in the links",
    "topology.links.upi-sapphire-rapids.latency_s, less": BETWEEN_SERVERS,
    "topology.links.upi-sapphire-rapids.latency_s, more": BETWEEN_SERVERS,
    "topology.parts.gpu.latency_s, more": AN_END,
    "topology.parts.nvme.latency_s, more": AN_END,
}

UNREACHED = {
    "workload.arrivals{sessions}.turns{trace}.block_tokens": "numbers of turns cannot be drawn from a trace",
    "workload.arrivals{sessions}.turns{trace}.characters_per_token": "as above",
    "workload.arrivals{sessions}.turns{trace}.high": "numbers of turns cannot be drawn from a trace",
    "workload.arrivals{sessions}.turns{trace}.low": "numbers of turns cannot be drawn from a trace",
}

_HEARD: dict[str, tuple[str, ...]] = {
    "capped GPUs": ("topology.gpus.*.power.clock_exponent",),
    "experts of one GPU": ("model.moe_latent", "model.zero_experts"),
    "layers of three shapes": (
        "model.layer_shapes[].heads",
        "model.layer_shapes[].kv_heads",
        "model.layer_shapes[].head_dim",
        "model.layer_shapes[].v_head_dim",
        "model.layer_shapes[].sliding_window",
        "model.layer_shapes[].linear.gate_rank",
    ),
    "tiers": (
        "engine.block_size",
        "engine.watermark",
        "kv_reload{cost}.margin",
    ),
    "experts": (
        "engine.expert_routing.exponent",
        "engine.expert_routing.redundant_experts",
        "model.experts",
        "model.experts_per_token",
        "model.moe_intermediate",
        "model.shared_experts",
        "model.shared_intermediate",
        "topology.gpus.*.kernels.mla_decode.*.floor_s",
        "topology.gpus.*.kernels.mla_decode.*.flop_fraction",
        "topology.gpus.*.kernels.mla_decode.*.hbm_fraction",
        "topology.gpus.*.kernels.mla_decode.*.s_per_kv_token",
        "topology.gpus.*.kernels.mla_decode.*.s_per_sequence_head",
        "topology.gpus.*.kernels.mla_prefill.*.floor_s",
        "topology.gpus.*.kernels.mla_prefill.*.flop_fraction",
        "topology.gpus.*.kernels.mla_prefill.*.hbm_fraction",
        "topology.gpus.*.kernels.mla_prefill.*.l2_share",
        "topology.gpus.*.kernels.mla_prefill.*.overlap",
        "topology.gpus.*.kernels.mla_prefill.*.s_per_kv_token",
        "topology.gpus.*.kernels.mla_prefill.*.tile_tokens",
        "topology.gpus.*.kernels.moe.*.floor_s",
        "topology.gpus.*.kernels.moe.*.flop_fraction",
        "topology.gpus.*.kernels.moe.*.hbm_fraction",
        "topology.gpus.*.kernels.moe.*.k_half",
        "topology.gpus.*.kernels.moe.*.overlap",
        "topology.gpus.*.kernels.moe.*.s_per_expert",
        "topology.gpus.*.kernels.moe.*.s_per_pair",
        "topology.gpus.*.kernels.moe.*.s_per_token",
        "topology.gpus.*.kernels.moe.*.tile_tokens",
    ),
    "one GPU": (
        "engine.free_gpu_memory_fraction",
        "engine.gpu_memory_utilization",
        "topology.gpus.*.kernels.gemm.*.quantise_passes",
        "topology.gpus.*.kernels.gemm.*.quantise_s_per_token",
        "topology.gpus.*.visible_hbm_bytes",
    ),
    "pipeline": (
        "engine.host.sequence_s",
        "engine.host.stage_s",
        "engine.host.step_s",
    ),
    "tiers written on eviction, over PCIe 4": ("engine.kv_tiers.host.latency_s",),
    "drives": (
        "engine.kv_tiers.nvme.latency_s",
        "topology.links.pcie4-x4.bytes_per_s",
        "topology.links.pcie4-x4.efficiency",
        "topology.links.pcie4-x4.latency_s",
        "topology.links.pcie5-x16.latency_s",
        "topology.parts.host.latency_s",
        "topology.parts.nvme.bytes_per_s",
        "topology.parts.pcie.latency_s",
        "topology.wires[].links",
    ),
    "drives that hold up": ("engine.kv_tiers.nvme.staging_bytes",),
    "a remote store": (
        "engine.kv_tiers.remote.latency_s",
        "engine.kv_tiers.remote.read_bytes_per_s",
        "engine.kv_tiers.remote.staging_bytes",
        "engine.kv_tiers.remote.write_bytes_per_s",
        "topology.links.infiniband-ndr.latency_s",
        "topology.parts.nic.latency_s",
        "topology.scale_out[].latency_s",
    ),
    "experts of two servers": (
        "model.expert_groups",
        "model.groups_per_token",
    ),
    "texts too long for the model": ("model.max_context",),
    "experts under tensor parallel": (
        "model.sliding_layers",
        "model.sliding_window",
    ),
    "sessions behind PCIe switches": (
        "router_staleness_s",
        "topology.links.upi-ice-lake.bytes_per_s",
        "topology.links.upi-ice-lake.efficiency",
        "topology.links.upi-ice-lake.latency_s",
    ),
    "router prefix_aware": ("router{prefix_aware}.load_weight",),
    "every query head with keys of its own": (
        "topology.gpus.*.hbm_bytes",
        "topology.gpus.*.kernels.attention_decode.*.s_per_unshared_kv_token",
    ),
    "two tiers of switches": (
        "topology.gpus.*.kernels.attention_mixed.*.floor_s",
        "topology.gpus.*.kernels.attention_mixed.*.flop_fraction",
        "topology.gpus.*.kernels.attention_mixed.*.hbm_fraction",
        "topology.gpus.*.kernels.attention_mixed.*.overlap",
        "topology.gpus.*.kernels.attention_mixed.*.rereading",
        "topology.gpus.*.kernels.attention_mixed.*.s_per_idle_block",
        "topology.gpus.*.kernels.attention_mixed.*.s_per_kv_token",
        "topology.gpus.*.kernels.attention_mixed.*.tile_tokens",
        "topology.scale_out[].down_ports",
        "topology.scale_out[].rails",
        "topology.scale_out[].switch_ports",
    ),
    "uplinks that NICs share": ("topology.scale_out[].oversubscription",),
    "two servers, TCP": (
        "topology.links.azure-ethernet.bytes_per_s",
        "topology.links.azure-ethernet.efficiency",
        "topology.links.upi-sapphire-rapids.bytes_per_s",
        "topology.links.upi-sapphire-rapids.efficiency",
    ),
    "PCIe servers": (
        "topology.links.infiniband-hdr.bytes_per_s",
        "topology.links.infiniband-hdr.efficiency",
    ),
    "two servers": (
        "topology.links.infiniband-ndr.bytes_per_s",
        "topology.links.infiniband-ndr.efficiency",
        "topology.links.pcie5-x16.bytes_per_s",
        "topology.links.pcie5-x16.efficiency",
        "topology.transports.infiniband.bytes_per_s",
        "topology.transports.infiniband.hop_s",
    ),
    "closed loop": (
        "topology.links.nvlink3.bytes_per_s",
        "topology.links.nvlink3.efficiency",
        "topology.links.nvlink3.latency_s",
        "topology.parts.nvswitch.count",
    ),
    "staged in host memory": (
        "topology.links.xgmi-rome.bytes_per_s",
        "topology.links.xgmi-rome.efficiency",
        "topology.links.xgmi-rome.latency_s",
    ),
    "arrivals gamma 3": ("workload.arrivals{gamma}.burstiness",),
    "tool_delay_s fixed 0": ("workload.arrivals{sessions}.max_context_tokens",),
    "starts gamma 3": ("workload.arrivals{sessions}.starts{gamma}.burstiness",),
    "by priority": ("workload.classes.*.priority",),
}
HEARD_IN = {name: scenario for scenario, names in _HEARD.items() for name in names}
