"""Blocks of layers with a window, against a block table kept by hand and against logs of vLLM."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from sim.cost.block_groups import BlockGroups, block_groups, layers_by_group
from sim.inputs.engine import Engine
from sim.inputs.model import Model

groups_of = st.builds(
    BlockGroups, st.sampled_from([1, 4, 16]), st.integers(0, 2), st.integers(1, 3), st.integers(1, 60)
)
MISTRAL = {"sliding_window": 4096, "sliding_layers": 32, "layers": 32, "max_context": 32_768}


class Table:
    """The blocks of one text, one by one, as vLLM's managers hold them."""

    def __init__(self, groups: BlockGroups) -> None:
        self.groups = groups
        self.computed = 0
        self.blocks: list[set[int]] = [set() for _ in range(groups.groups)]
        self.seen: list[set[int]] = [set() for _ in range(groups.groups)]

    def compute(self, tokens: int) -> None:
        size = self.groups.block_size
        for group in range(self.groups.groups):
            if group >= self.groups.whole:  # no token from `computed` on sees what lies before its window
                first = self.computed - self.groups.window + 1
                self.blocks[group] -= {b for b in self.blocks[group] if (b + 1) * size <= first}
            wanted = set(range(-(-(self.computed + tokens) // size))) - self.seen[group]
            self.blocks[group] |= wanted
            self.seen[group] |= wanted
        self.computed += tokens

    @property
    def held(self) -> int:
        return sum(map(len, self.blocks))


@given(groups_of, st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_a_text_in_chunks_holds_what_the_table_holds(groups: BlockGroups, chunks: list[int]) -> None:
    table, done = Table(groups), 0
    for tokens in chunks:
        table.compute(tokens)
        assert table.held == groups.during(done, tokens) <= groups.most(done + tokens, max(chunks))
        done += tokens
        assert table.held <= groups.longest(done, max(chunks))


@given(groups_of, st.integers(1, 90), st.integers(1, 60))
def test_decodes_take_and_give_back_what_the_table_does(groups: BlockGroups, tokens: int, more: int) -> None:
    table = Table(groups)
    for _ in range(tokens):
        table.compute(1)
    before = table.held
    assert before == groups.decoding(tokens)
    taken, given = groups.turnover(tokens, more)
    peak = before
    for _ in range(more):
        table.compute(1)
        peak = max(peak, table.held)
    assert table.held == before + taken - given == groups.decoding(tokens + more)
    assert peak - before <= groups.growth(tokens, more)
    assert groups.growth(tokens, more - 1) <= groups.growth(tokens, more)


def test_groups_are_those_that_vllm_logs() -> None:
    """gemma-3-27b on H100, vLLM 0.19: 15,997 blocks, 36,560 tokens, 4.46 requests of 8,192 tokens."""
    assert layers_by_group(62, 52) == (1, 6, 10)
    gemma = BlockGroups(16, whole=1, windowed=6, window=1024)
    assert 15_997 // gemma.groups * 16 == 36_560
    assert round(15_997 / gemma.longest(8192, 8192), 2) == 4.46
    assert layers_by_group(36, 18) == (1, 1, 18)  # gpt-oss-120b
    assert layers_by_group(58, 32) == (1, 1, 32)  # 26 are padded by 6: "may waste at most 23.08 %"
    assert layers_by_group(32, 32) == (0, 1, 32)


@pytest.mark.parametrize(
    ("model", "engine", "expected"),
    [
        ("gpt-oss-120b", {}, (1, 1)),
        ("gpt-oss-120b", {"disable_hybrid_kv_cache_manager": True}, None),
        ("gpt-oss-120b", {"backend": "sglang"}, None),
        ("llama-3-8b", {}, None),
        ("mistral", {}, (0, 1)),
        ("mistral", {"disable_hybrid_kv_cache_manager": True}, (0, 1)),  # there is one kind of layer
        ("mistral", {"max_model_len": 4096}, None),
    ],
)
def test_which_engines_have_groups(
    model: str, engine: dict[str, object], expected: tuple[int, int] | None
) -> None:
    shapes: Model = sim.load_model("llama-3-8b" if model == "mistral" else model)
    if model == "mistral":
        shapes = shapes.model_copy(update=MISTRAL)
    found = block_groups(shapes, Engine.model_validate(engine), "bf16")
    assert (found and (found.whole, found.windowed)) == expected
