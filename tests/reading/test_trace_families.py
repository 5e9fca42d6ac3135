"""What benchmarks, providers and agents write of their requests, and tables of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.inputs.errors import InputError
from sim.reading.traces import How, RecordedTrace, Wanted, read_trace, selected

FOUR = How(characters_per_token=4.0)
IN_MS = How(time_unit="ms", characters_per_token=4.0)


def read(tmp_path: Path, text: str, how: How | None = None, wanted: Wanted | None = None) -> RecordedTrace:
    path = tmp_path / "trace"
    path.write_text(text)
    return read_trace(path, wanted, how or How())


def lines(*rows: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, rows))


def test_bailian_has_seconds_and_blocks_of_16(tmp_path: Path) -> None:
    about: dict[str, Any] = {"parent_chat_id": -1, "output_length": 30, "type": "text", "turn": 1}
    about |= {"input_length": 521, "hash_ids": list(range(33))}
    rows = [{"chat_id": k, "timestamp": 61.3 + 5 * k, **about} for k in range(2)]
    found = read(tmp_path, lines(*rows))
    assert found.arrival_s is not None
    assert found.arrival_s.tolist() == pytest.approx([0.0, 5.0])
    assert (found.hash_block_tokens, found.dropped) == (16, ())
    assert "times in s, blocks of 16 tokens" in found.describe()


def test_blocks_and_units_may_be_said_where_a_trace_has_others(tmp_path: Path) -> None:
    rows = [{"timestamp": k, "input_length": 64, "output_length": 1, "hash_ids": [1, 2]} for k in (0, 3)]
    with pytest.raises(InputError, match="more hash_ids than blocks of 512 tokens; block_tokens says"):
        read(tmp_path, lines(*rows))
    found = read(tmp_path, lines(*rows), How(block_tokens=32, time_unit="s"))
    assert found.hash_block_tokens == 32
    assert found.rate_per_s == pytest.approx(1 / 3)
    assert "times in s, blocks of 32 tokens" in found.describe()


def test_turns_of_mooncake_sessions_wait_wherever_they_stand(tmp_path: Path) -> None:
    first, second = (
        {"session_id": name, "timestamp": at, "input_length": 600, "output_length": 50, "hash_ids": [1, 2]}
        for name, at in (("a", 5000), ("b", 0))
    )
    turn = {"session_id": "a", "delay": 500, "input_length": 1200, "output_length": 50, "hash_ids": [1, 2, 3]}
    orphan = {**turn, "session_id": "c"}
    timed = {**first, "timestamp": 9000}
    found = read(tmp_path, lines(first, second, turn, orphan, timed))
    assert found.session is not None
    assert found.delay_s is not None
    assert found.turn is not None
    assert found.prompt_tokens.tolist() == [600, 600, 1200, 600]
    assert found.session.tolist() == [1, 0, 0, 3]
    assert (found.turn.tolist(), found.delay_s.tolist()) == ([0, 0, 1, 0], [0, 0, 0.5, 0])
    assert dict(found.dropped) == {"a delay, and no turn of its session before it": 1}
    assert read(tmp_path, lines(first, second, turn), wanted=Wanted(limit=1)).is_whole


def test_a_mooncake_trace_without_times_gives_lengths(tmp_path: Path) -> None:
    turn = {"session_id": "a", "input_length": 600, "output_length": 50, "hash_ids": [1, 2]}
    found = read(tmp_path, lines(turn, {**turn, "delay": 500, "input_length": 700}))
    assert (found.arrival_s, found.prompt_tokens.tolist()) == (None, [600, 700])


LONG, SHORT = "x" * 40, "y" * 8
USER, ASSISTANT = {"role": "user", "content": LONG}, {"role": "assistant", "content": SHORT}
IN_PARTS = {"role": "user", "content": [{"type": "text", "text": LONG}]}
CHATS: dict[str, dict[str, Any]] = {
    "ShareGPT conversations": {"conversations": [{"from": "human", "value": LONG}, {"value": SHORT}]},
    "chats in text": {"messages": [USER, ASSISTANT]},
    "prompts in text": {"prompt": LONG, "output_tokens": 2},
    "AIPerf multi-turn sets": {"session_id": "a", "turns": [{"text": LONG, "max_tokens": 2}]},
    "AIPerf inputs": {"payloads": [{"messages": [IN_PARTS], "max_tokens": 2}]},
    "genai-perf inputs": {"payload": [{"prompt": LONG, "max_tokens": 2}]},
}


@pytest.mark.parametrize("form", ["lines", "list", "pretty list", "data"])
@pytest.mark.parametrize("family", CHATS)
def test_text_is_counted_by_an_estimate_and_in_every_form_of_json(
    tmp_path: Path, family: str, form: str
) -> None:
    row = CHATS[family]
    text = {
        "lines": lines(row, row),
        "list": json.dumps([row, row]),
        "pretty list": json.dumps([row, row], indent=1),
        "data": json.dumps({"data": [row, row]}),
    }[form]
    found = read(tmp_path, text, FOUR)
    assert found.family == family
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([10, 10], [2, 2])
    assert found.arrival_s is None
    with pytest.raises(InputError, match=r"trace: has text; say how many tokens that is: tokenizer"):
        read(tmp_path, text)


def test_text_is_counted_by_a_tokenizer_and_shares_blocks(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "b": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    how = How(tokenizer=str(tmp_path), time_unit="ms")
    rows = (
        {"timestamp": 1000 * k, "text": "a " * 20 + last, "output_length": 5} for k, last in enumerate("ab")
    )
    found = read(tmp_path, lines(*rows), how)
    assert found.prompt_tokens.tolist() == [21, 21]
    assert found.arrival_s is not None
    assert found.arrival_s.tolist() == [0.0, 1.0]
    assert found.block_hashes == ((0,), (0,))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: is no tokenizer\.json"):
        read(tmp_path, lines({"prompt": "a"}), how)


def test_times_of_text_need_a_unit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="timestamp has no unit; write time_unit: ms"):
        read(tmp_path, lines({"text": "abcd", "timestamp": 5, "output_length": 5}), FOUR)


def test_a_tree_of_conversations_is_read_with_what_each_inherits(tmp_path: Path) -> None:
    def turn(**more: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 7, **more}

    rows = (
        {"session_id": "root", "turns": [turn(timestamp=0, forks=["f"], spawns=[{"children": ["s"]}])]},
        {"session_id": "f", "turns": [turn(delay=500), turn()]},
        {"session_id": "s", "turns": [turn()]},
    )
    found = read(tmp_path, lines(*rows), IN_MS)
    # Ten tokens of text a turn, a line break rounded away; the fork has its parent's text and answer first.
    assert found.prompt_tokens.tolist() == [10, 20 + 7, 30 + 14, 10]
    assert found.after == (None, (0, 0), None, (0, 0))
    assert found.delay_s is not None
    assert found.delay_s.tolist() == [0, 0.5, 0, 0]


def test_records_of_benchmarks_are_traces(tmp_path: Path) -> None:
    metrics = {
        "input_sequence_length": {"value": 550, "unit": "tokens"},
        "output_sequence_length": {"value": 9},
    }
    starts = [{"request_start_ns": 1764000000000000000 + k * 250_000_000} for k in (1, 0)]
    aiperf = [{"metadata": start, "metrics": metrics} for start in starts]
    found = read(tmp_path, lines(*aiperf, {"metadata": {}, "metrics": None}))
    assert found.arrival_s is not None
    assert (found.family, found.arrival_s.tolist()) == ("AIPerf records", [0.0, 0.25])
    assert found.prompt_tokens.tolist() == [550, 550]
    vllm = {"date": "x", "input_lens": [5, 6, 7], "output_lens": [2, 0, 3], "ttfts": []}
    assert read(tmp_path, json.dumps(vllm, indent=1)).prompt_tokens.tolist() == [5, 7]
    timed = read(tmp_path, json.dumps({**vllm, "start_times": [10.0, 10.1, 10.5]}))
    assert timed.arrival_s is not None
    assert timed.arrival_s.tolist() == [0.0, 0.5]
    payload = json.dumps({"messages": [{"role": "user", "content": "x" * 40}]})
    request = {"timestamp": 10**18, "request_inputs": {"payload": payload}, "response_timestamps": [1, 2, 3]}
    genai = read(tmp_path, json.dumps({"experiments": [{"requests": [request]}]}), FOUR)
    assert (genai.prompt_tokens.tolist(), genai.output_tokens.tolist()) == ([10], [3])


AGENT = {
    "id": "one", "block_size": 64, "hash_id_scope": "local", "requests": [
        {"t": 10.0, "type": "s", "in": 128, "out": 5, "hash_ids": [0, 1], "api_time": 1.0},
        {"t": 12.0, "type": "subagent", "requests": [
            {"t": 12.0, "type": "n", "in": 64, "out": 5, "hash_ids": [0], "api_time": 1.0},
            {"t": 14.0, "type": "n", "in": 128, "out": 5, "hash_ids": [0, 2], "api_time": 1.0}]},
        {"t": 17.0, "type": "s", "in": 192, "out": 5, "hash_ids": [0, 1, 3], "api_time": 1.0},
    ]}  # fmt: skip


def test_agents_are_trees_whose_calls_wait_for_the_answer_before(tmp_path: Path) -> None:
    found = read(tmp_path, lines(AGENT, AGENT))
    assert found.delay_s is not None
    assert found.session is not None
    assert found.block_hashes is not None
    # A subagent 1 s after its parent's answer, its second call 1 s after, the parent 2 s after the subagent.
    assert found.delay_s.tolist() == [0.0, 1.0, 1.0, 2.0] * 2
    assert found.session.tolist() == [0, 1, 1, 0, 2, 3, 3, 2]
    assert found.after is not None
    assert found.after[:4] == (None, (0, 0), (1, 0), (1, 1))
    assert found.hash_block_tokens == 64
    assert found.block_hashes[0][0] == found.block_hashes[1][0] != found.block_hashes[4][0]
    assert len(selected(found, duration_s=1.0)) == 8
    assert len(selected(found, start_s=1.0)) == 0


OWN = "ts,p,o,who,wait\n1000,10,1,a,\n3000,20,2,b,\n,30,3,a,500\n"
MAP = (
    ("arrived_at", "ts"),
    ("prompt_tokens", "p"),
    ("output_tokens", "o"),
    ("session", "who"),
    ("delay", "wait"),
)


def test_columns_of_a_table_of_ones_own_are_mapped(tmp_path: Path) -> None:
    found = read(tmp_path, OWN, How(columns=MAP, time_unit="ms"))
    assert found.prompt_tokens.tolist() == [10, 30, 20]
    assert found.arrival_s is not None
    assert found.delay_s is not None
    np.testing.assert_array_equal(found.arrival_s, [0.0, np.nan, 2.0])
    assert found.delay_s.tolist() == [0.0, 0.5, 0.0]
    dates = OWN.replace("1000", "2026-01-01T00:00:00Z").replace("3000", "2026-01-01 00:00:02+00:00")
    plain = read(tmp_path, dates, How(columns=MAP[:3], time_unit="utc"))
    assert plain.arrival_s is not None
    assert plain.arrival_s.tolist() == [0.0, 2.0]
    lengths = read(tmp_path, lines({"p": 4, "o": 5}), How(columns=MAP[1:3]))
    assert (lengths.arrival_s, lengths.prompt_tokens.tolist()) == (None, [4])


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (MAP, "time_unit is missing; say the unit of 'ts'"),
        (
            (("prompt_tokens", "P"), MAP[2]),
            r"no column 'P' \(there are: ts, p, o, who, wait\); did you mean 'p'",
        ),
        (MAP[1:2], r"columns.output_tokens is missing"),
        ((*MAP[:3], MAP[4]), "columns.delay needs columns.session"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(tmp_path: Path, columns: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path, OWN, How(columns=columns))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (How(time_unit="ms"), "time_unit: the times of native CSV say their unit themselves"),
        (How(block_tokens=16), "block_tokens: native CSV has no hash_ids"),
        (FOUR, "characters_per_token: native CSV has numbers of tokens"),
    ],
)
def test_what_a_file_says_itself_is_not_said_again(tmp_path: Path, how: How, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path, "arrival_s,prompt_tokens,output_tokens\n0,1,1\n", how)


def test_a_list_is_read_piece_by_piece_and_a_cut_one_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    from sim.reading.traces import documents

    monkeypatch.setattr(documents, "CHUNK", 7)
    rows = [{"prompt": "x" * n, "output_tokens": 1} for n in (40, 4, 400)]
    assert read(tmp_path, json.dumps(rows, indent=1), FOUR).prompt_tokens.tolist() == [10, 1, 100]
    with pytest.raises(InputError, match="is not whole JSON"):
        read(tmp_path, json.dumps(rows)[:-4], FOUR)
