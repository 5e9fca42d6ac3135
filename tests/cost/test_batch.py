from __future__ import annotations

from sim.cost.batch import Batch, Causes


def test_the_tokens_of_a_step_are_those_of_its_chunks_and_of_its_decodes() -> None:
    batch = Batch(chunks=((100, 0), (28, 512)), decodes=3, decode_kv_tokens=900, sampled=4, decode_tokens=2)
    assert batch.prefill_tokens == 128
    assert batch.tokens == 128 + 3 * 2


def test_decodes_grow_by_a_token_each_a_step() -> None:
    batch = Batch(decodes=3, decode_kv_tokens=900, sampled=3)
    assert batch.grown(10) == batch._replace(decode_kv_tokens=930)
    speculated = batch._replace(decode_growth=1.5)
    assert speculated.grown(10).decode_kv_tokens == 945


def test_ranks_together_are_the_sums_and_each_of_them() -> None:
    ranks = [
        Batch(decodes=3, decode_kv_tokens=900, sampled=3),
        Batch(chunks=((64, 0),), sampled=1),
        Batch(),
    ]
    step = Batch.of_ranks(ranks)
    assert (step.tokens, step.decodes, step.sampled, step.decode_kv_tokens) == (67, 3, 4, 900)
    assert step.ranks == tuple(ranks)
    assert step.grown(2).ranks[0].decode_kv_tokens == 906


def test_causes_add_up() -> None:
    assert Causes(1.0, 2.0, 3.0, 4.0, 5.0, 6.0).total_s == 21.0


def test_a_step_with_the_least_chunk_has_one_token_of_one_prompt_beside_its_decodes() -> None:
    decodes = Batch(chunks=((64, 0),), decodes=3, decode_kv_tokens=900, sampled=3, decode_tokens=2)
    least = decodes.with_least_chunk
    assert least == decodes._replace(chunks=((1, 0),), sampled=3 * 2 + 1)
    ranks = [Batch(decodes=3, sampled=3), Batch(chunks=((64, 0), (8, 0)), sampled=1), Batch(chunks=((4, 0),))]
    assert [rank.chunks for rank in Batch.of_ranks(ranks).with_least_chunk.ranks] == [(), ((1, 0),), ()]
