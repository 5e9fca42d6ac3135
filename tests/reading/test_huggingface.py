from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.inputs.errors import InputError
from sim.reading.huggingface import FAMILIES, model_of, read_model

MODELS = Path(__file__).parents[2] / "workloads" / "models"

# Published totals: parameters of the checkpoints on Hugging Face (no multi-token prediction); KV bytes.
PUBLISHED = {
    "llama-3-8b": (8_030_261_248, 8.03, 131_072),
    "llama-3-70b": (70_553_706_496, 70.55, 327_680),
    "llama-3.1-8b": (8_030_261_248, 8.03, 131_072),
    "llama-3.1-70b": (70_553_706_496, 70.55, 327_680),
    "llama-3.1-405b": (405_853_388_800, 405.9, 516_096),
    "qwen2.5-72b": (72_706_203_648, 72.71, 327_680),
    "mixtral-8x7b": (46_702_792_704, 12.9, 131_072),
    "mixtral-8x22b": (140_630_071_296, 39.16, 229_376),
    "kimi-k2.5": (1_026_408_232_448, 32.86, 70_272),
    "deepseek-v3": (671_026_419_200, 37.55, 70_272),
    "qwen3-32b": (32_762_123_264, 32.76, 262_144),
    "qwen3-30b-a3b": (30_532_122_624, 3.35, 98_304),
    "qwen3-235b-a22b": (235_093_634_560, 22.19, 192_512),
    "gpt-oss-120b": (116_829_156_672, 5.71, 73_728),
    "minimax-m2.5": (228_689_764_864, 11.03, 253_952),
}


def changed(name: str, **keys: object) -> dict[str, object]:
    return json.loads((MODELS / f"{name}.json").read_text()) | keys


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_model_has_its_published_size(name: str) -> None:
    model = read_model(MODELS / f"{name}.json")
    parameters, active_billions, kv_bytes = PUBLISHED[name]
    assert model.name == name
    assert model.parameters == parameters
    assert model.active_parameters / 1e9 == pytest.approx(active_billions, rel=0.005)
    assert model.kv_bytes_per_token("bf16") == kv_bytes
    assert model.weight_bytes("bf16") == 2 * parameters


def test_every_shipped_model_is_listed_here() -> None:
    assert {path.stem for path in MODELS.glob("*.json")} == set(PUBLISHED)


def test_deepseek_caches_576_values_per_token_and_layer() -> None:
    model = read_model(MODELS / "deepseek-v3.json")
    assert model.kv_values_per_token_per_layer == 576
    assert model.kv_bytes_per_token_per_gpu(8, "fp8") == 61 * 576
    assert (model.dense_layers, model.moe_layers, model.native_weights) == (3, 58, "fp8")


def test_sixteen_ranks_replicate_the_eight_kv_heads_of_llama_70b() -> None:
    model = read_model(MODELS / "llama-3-70b.json")
    assert model.kv_bytes_per_token_per_gpu(8) == model.kv_bytes_per_token_per_gpu(16) == 327_680 / 8


def test_gpt_oss_alternates_sliding_and_full_attention() -> None:
    model = read_model(MODELS / "gpt-oss-120b.json")
    assert (model.sliding_window, model.sliding_layers, model.layers, model.head_dim) == (128, 18, 36, 64)
    assert model.native_weights == "fp4"


def test_the_name_of_a_config_json_is_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(changed("llama-3-8b")))
    assert read_model(folder / "config.json").name == "my-llama"
    assert read_model(folder / "config.json", name="mine").name == "mine"


def test_an_unknown_architecture_is_refused_by_name_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(changed("llama-3-8b", architectures=["MambaForCausalLM"], model_type="mamba"), indent=1)
    )
    with pytest.raises(InputError) as refused:
        read_model(path)
    (problem,) = refused.value.problems
    assert "'MambaForCausalLM' is an architecture that is not known here" in problem.what
    assert all(family in problem.what for family in FAMILIES)
    assert problem.line == 2


def test_a_near_miss_of_an_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean LlamaForCausalLM"):
        model_of(changed("llama-3-8b", architectures=["LLamaForCausalLM"], model_type="none"), "x")


def test_all_missing_and_wrong_keys_are_reported_at_once() -> None:
    keys = changed("llama-3-8b", num_hidden_layers="32")
    del keys["vocab_size"]
    with pytest.raises(InputError) as refused:
        model_of(keys, "x", "config.json", json.dumps(keys))
    assert {problem.key for problem in refused.value.problems} == {"vocab_size", "num_hidden_layers"}


def test_zero_layers_are_refused() -> None:
    with pytest.raises(InputError, match=r"layers: .*greater than 0"):
        model_of(changed("llama-3-8b", num_hidden_layers=0), "x")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("{}", "architectures: is missing"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_model(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_model(tmp_path / "none.json")


def test_dense_layers_between_sparse_ones_are_read() -> None:
    model = model_of(changed("qwen3-30b-a3b", mlp_only_layers=[0, 5]), "x")
    assert model.dense_layer_indices == (0, 5)
    assert not model.is_moe_layer(5)
    assert model.is_moe_layer(6)


@pytest.mark.parametrize(
    ("keys", "limit"),
    [
        ({}, (8, 4)),
        ({"topk_method": "group_limited_greedy", "topk_group": 3}, (8, 3)),  # DeepSeek-V2
        ({"topk_method": "greedy"}, None),  # DeepSeek-V2-Lite: groups are written and not used
        ({"n_group": 1, "topk_group": 1}, None),  # Kimi-K2
        ({"n_group": None, "topk_group": None}, None),
        ({"topk_group": 8}, None),
    ],
)
def test_the_groups_of_experts_that_a_token_is_held_to_are_read(keys: object, limit: object) -> None:
    assert model_of(changed("deepseek-v3", **keys), "x").group_limit == limit  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"n_group": 7}, "7 groups do not divide 256 experts"),
        ({"topk_group": 9}, "cannot choose 9 groups: there are 8"),
        ({"topk_group": 0}, "greater than or equal to 1"),
        ({"n_group": 128, "topk_group": 2}, "2 groups of 2 experts do not hold the 8"),
        ({"n_group": "eight"}, "'eight' is not a count"),
    ],
)
def test_groups_that_cannot_be_are_refused(keys: object, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        model_of(changed("deepseek-v3", **keys), "x")  # type: ignore[arg-type]
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_hidden_layers", 10**9, "a whole number from 0 to 4096 is"),
        ("num_hidden_layers", 10**100, "a number of more than 60 digits"),
        ("quantization_config", 7, "quantization_config = 7: must be an object"),
        ("model_type", {}, "is missing, and so is model_type"),
    ],
)
def test_a_key_of_another_kind_is_refused(key: str, value: object, said: str) -> None:
    keys = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
        "num_attention_heads": 4, "intermediate_size": 128,
    }  # fmt: skip
    with pytest.raises(InputError, match=said):
        model_of({**keys, key: value}, "x")


def test_the_language_model_of_a_wrapper_is_read_with_the_wrapper_s_formats() -> None:
    inner = changed("qwen3-30b-a3b", architectures=None, model_type="qwen3_vl_moe_text")
    wrapper = {
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "model_type": "qwen3_vl_moe",
        "text_config": inner,
        "vision_config": {"hidden_size": 1152},
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }
    model = model_of(wrapper, "wrapped")
    assert model.parameters == read_model(MODELS / "qwen3-30b-a3b.json").parameters
    assert model.checkpoint is not None
    assert model.checkpoint.precision["weights"] == "fp8_block"


def test_a_copy_of_a_model_forgets_what_was_worked_out_from_other_shapes() -> None:
    model = read_model(MODELS / "llama-3-8b.json")
    assert model.parameters > model.model_copy(update={"layers": 2}).parameters
