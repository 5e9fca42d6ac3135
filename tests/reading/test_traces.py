from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.inputs.errors import InputError
from sim.reading.traces import RecordedTrace, Wanted, read_trace, reading, selected
from sim.reading.traces.families import FAMILIES
from sim.reading.traces.reading import family_of

SHIPPED = Path(__file__).parents[2] / "workloads" / "traces"


def trace_of(tmp_path: Path, text: str, name: str = "trace.csv") -> RecordedTrace:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_trace(path)


FORMATS = {
    "native CSV": "arrival_s,prompt_tokens,output_tokens,request_class\n10,100,20,chat\n12.5,300,40,code\n",
    "Azure LLM inference trace (2023, 2024)": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 23:59:59.0000000,100,20\n2023-11-17 00:00:01.5000000,300,40\n"
    ),
    "BurstGPT": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,100,20,120,Conversation log\n7.5,GPT-4,300,40,340,API log\n"
    ),
    "Splitwise simulator trace": (
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
        "0,2,0,1.0,1,100,20\n1,2,0,3.5,1,300,40\n"
    ),
    "Vidur trace": "arrived_at,num_prefill_tokens,num_decode_tokens\n1,100,20\n3.5,300,40\n",
    "Mooncake trace": (
        '{"timestamp": 27482, "input_length": 100, "output_length": 20, "hash_ids": [1]}\n'
        '{"timestamp": 29982, "input_length": 300, "output_length": 40, "hash_ids": [2]}\n'
    ),
    "LLMServingSim requests": (
        '{"input_toks": 100, "output_toks": 20, "arrival_time_ns": 1000000000}\n'
        '{"input_toks": 300, "output_toks": 40, "arrival_time_ns": 3500000000}\n'
    ),
}


@pytest.mark.parametrize("family", FORMATS)
def test_each_family_is_told_by_its_header(family: str, tmp_path: Path):
    read = trace_of(tmp_path, FORMATS[family])
    assert read.family == family
    assert read.arrival_s is not None
    assert read.arrival_s.tolist() == [0.0, 2.5]
    assert read.prompt_tokens.tolist() == [100, 300]
    assert read.output_tokens.tolist() == [20, 40]
    assert read.rate_per_s == pytest.approx(0.4)
    assert "2 of 2 rows" in read.describe()


def test_the_2024_form_of_azure_times_reads_the_same(tmp_path: Path):
    read = trace_of(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:00.017335+00:00,2399,6\n",
    )
    assert read.arrival_s is not None
    assert read.arrival_s[1] == pytest.approx(0.007405, abs=1e-9)


def test_hundreds_of_nanoseconds_survive_the_date(tmp_path: Path):
    read = trace_of(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.0000001,1,1\n2023-11-16 18:15:46.0000003,1,1\n",
    )
    assert read.arrival_s is not None
    assert read.arrival_s[1] == pytest.approx(2e-7, rel=1e-3)


def test_classes_and_models_are_read_where_they_are(tmp_path: Path):
    assert trace_of(tmp_path, FORMATS["native CSV"]).request_class == ("chat", "code")
    assert trace_of(tmp_path, FORMATS["BurstGPT"]).request_class == ("ChatGPT", "GPT-4")


@pytest.mark.parametrize(
    ("file", "rows", "mean_in", "mean_out", "rate_per_s"),
    [
        ("azure-llm-2023-conversation.csv", 3000, 1150, 259, 4.77),
        ("azure-llm-2023-code.csv", 600, 2139, 26.5, 2.289),
        ("mooncake-conversation.jsonl", 300, 14230, 377, 2.931),
        ("mooncake-synthetic.jsonl", 300, None, None, None),
        ("arxiv-summarization-lengths.csv", 600, None, None, None),
    ],
)
def test_the_shipped_samples_read_whole(file, rows, mean_in, mean_out, rate_per_s):
    read = read_trace(SHIPPED / file)
    assert len(read) == read.rows == rows
    assert not read.dropped
    if mean_in is not None:
        assert read.prompt_tokens.mean() == pytest.approx(mean_in, rel=1e-3)
        assert read.output_tokens.mean() == pytest.approx(mean_out, rel=2e-3)
        assert read.rate_per_s == pytest.approx(rate_per_s, rel=1e-3)


def test_mooncake_blocks_are_of_512_tokens_and_cover_the_prompt():
    read = read_trace(SHIPPED / "mooncake-conversation.jsonl")
    assert read.hash_block_tokens == 512
    assert read.block_hashes is not None
    assert all(
        len(h) == -(-int(n) // 512) for h, n in zip(read.block_hashes, read.prompt_tokens, strict=True)
    )


def test_lengths_without_arrivals_have_no_rate():
    read = read_trace(SHIPPED / "arxiv-summarization-lengths.csv")
    assert read.arrival_s is None
    assert read.rate_per_s is None
    assert "lengths only" in read.describe()


def test_bad_rows_are_dropped_and_counted_by_reason(tmp_path: Path):
    read = trace_of(
        tmp_path,
        "arrival_s,prompt_tokens,output_tokens\n"
        "0,10,1\n1,0,1\n2,10,0\n3,10,0\n-4,10,1\nx,10,1\n,10,1\n5,10\n6,-1,1\n7,1.5,1\n8,1e99,1\n9,nan,1\n"
        '10,10,1,1,1\n11,"10",1\n\n12,10.0,1e1\n',
    )
    assert dict(read.dropped) == {
        "zero prompt_tokens": 1,
        "zero output_tokens": 2,
        "negative arrival_s": 1,
        "arrival_s is not a number": 1,
        "no arrival_s": 1,
        "no output_tokens": 1,
        "negative prompt_tokens": 1,
        "prompt_tokens is not a whole number": 1,
        "prompt_tokens above 1e+08": 1,
        "prompt_tokens is not a number": 1,
        "more values than columns": 1,
    }
    assert read.rows == 15
    assert read.prompt_tokens.tolist() == [10, 10, 10]
    assert "dropped 2 (zero output_tokens)" in read.describe()


def test_failed_requests_of_burstgpt_are_told_apart(tmp_path: Path):
    read = trace_of(
        tmp_path,
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,1,3.5,ChatGPT,472,18,490,Conversation log\n45,1,2,ChatGPT,1087,0,1087,Conversation log\n",
    )
    assert dict(read.dropped) == {"zero Response tokens": 1}


def test_rows_out_of_order_are_sorted_and_said(tmp_path: Path):
    read = trace_of(tmp_path, "arrival_s,prompt_tokens,output_tokens\n5,1,1\n3,2,1\n4,3,1\n")
    assert read.arrival_s is not None
    assert read.arrival_s.tolist() == [0, 1, 2]
    assert read.prompt_tokens.tolist() == [2, 3, 1]
    assert "2 out of order" in read.describe()


def test_broken_lines_of_json_are_dropped(tmp_path: Path):
    lines = (
        FORMATS["Mooncake trace"]
        + '{"timestamp": 3\nnull\n[1]\n{}\n'
        + json.dumps({"timestamp": 9, "input_length": 5, "output_length": 1, "hash_ids": [1, 2]})
    )
    read = trace_of(tmp_path, lines, "trace.jsonl")
    assert len(read) == 2
    assert read.rows == 7
    assert dict(read.dropped)["not JSON"] == 1
    assert dict(read.dropped)["more hash_ids than blocks of 512 tokens; block_tokens says another size"] == 1


def test_equal_token_ids_become_equal_blocks(tmp_path: Path):
    first, second = list(range(40)), [*range(32), 99, 98, 97, 96, 95, 94, 93, 92]
    rows = [
        {
            "input_toks": 40,
            "output_toks": 8,
            "arrival_time_ns": k,
            "input_tok_ids": ids,
            "output_tok_ids": [7] * 8,
        }
        for k, ids in enumerate((first, second, first))
    ]
    read = trace_of(tmp_path, "\n".join(map(json.dumps, rows)), "requests.jsonl")
    assert read.hash_block_tokens == 16
    assert read.block_hashes == ((0, 1, 2), (0, 1, 3), (0, 1, 2))


def test_sessions_keep_their_turns_and_delays(tmp_path: Path):
    calls = [
        {"input_toks": 10, "output_toks": 2, "tool_duration_ns": 500_000_000},
        {"input_toks": 20, "output_toks": 3, "tool_duration_ns": 0},
    ]
    rows = [
        {"session_id": "b", "arrival_time_ns": 2_000_000_000, "sub_requests": calls},
        {"session_id": "a", "arrival_time_ns": 1_000_000_000, "sub_requests": calls},
    ]
    read = trace_of(tmp_path, "\n".join(map(json.dumps, rows)), "sessions.jsonl")
    assert read.family == "LLMServingSim sessions"
    assert read.session is not None
    assert read.turn is not None
    assert read.delay_s is not None
    assert read.session.tolist() == [1, 1, 0, 0]
    assert read.turn.tolist() == [0, 1, 0, 1]
    assert read.delay_s.tolist() == [0.0, 0.5, 0.0, 0.5]
    assert read.starts_s.tolist() == [0.0, 1.0]
    assert selected(read, duration_s=1.0).prompt_tokens.tolist() == [10, 20]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("\n\n \n", "empty"),
        ("a,b,c\n1,2,3\n", "no known trace has the header 'a, b, c'"),
        ("TIMESTAMP,ContextTokens\n", "lacks GeneratedTokens"),
        ("timestamp,input_length,output_length\n", "Mooncake trace, has them in a JSON object on each line"),
        ('[{"conversations": [{"value": "a"}, {"value": "b"}]}]', "say how many tokens that is: tokenizer"),
        ('{"conversations": []}', "1 fewer than two turns"),
        ('{"time_to_first_token": {"unit": "ms"}, "request_latency": {}}', "summary of a benchmark"),
        ("arrival_s,prompt_tokens,output_tokens\n", "header only"),
        ("arrival_s,prompt_tokens,output_tokens\n1,0,1\n", "1 zero prompt_tokens"),
        ("{broken\n", "is not whole JSON"),
    ],
)
def test_what_is_no_trace_is_refused_with_what_would_be(text: str, said: str, tmp_path: Path):
    with pytest.raises(InputError) as caught:
        trace_of(tmp_path, text)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_trace(path)


def test_a_part_is_chosen_by_recorded_time_and_then_sped_up(tmp_path: Path):
    text = "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t},{t + 1},1\n" for t in range(10))
    read = trace_of(tmp_path, text)
    part = selected(read, start_s=2.0, duration_s=4.0, speedup=2.0)
    assert part.prompt_tokens.tolist() == [3, 4, 5, 6]
    assert part.arrival_s is not None
    assert part.arrival_s.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert part.rate_per_s == 2.0
    assert len(selected(read, limit=3)) == 3
    assert len(selected(read, start_s=100.0)) == 0


@pytest.mark.slow
@given(text=st.text(max_size=300), family=st.sampled_from(sorted(FORMATS)), end=st.integers(0, 400))
def test_no_text_makes_reading_fail_in_another_way(tmp_path_factory, text: str, family: str, end: int):
    path = tmp_path_factory.mktemp("traces") / "trace"
    path.write_text(FORMATS[family][:end] + text + "\n" + FORMATS[family], encoding="utf-8", errors="replace")
    try:
        read = read_trace(path)
    except InputError:
        return
    assert len(read) + sum(count for _, count in read.dropped) >= read.rows
    assert np.all(read.prompt_tokens > 0)


def test_bytes_that_are_no_text_do_not_crash(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_bytes(FORMATS["native CSV"].encode() + b"\xff\x00,\xfe\n13,5,5,x\n")
    read = read_trace(path)
    assert len(read) == 3
    assert len(read.dropped) == 1


@pytest.mark.parametrize(
    "wanted", [Wanted(limit=3), Wanted(2.0, 4.0), Wanted(5.0, limit=2), Wanted(90.0, limit=9)]
)
@pytest.mark.parametrize("name", ["trace.csv", "trace.jsonl"])
def test_of_a_file_in_order_no_more_is_read_than_a_part_needs(tmp_path, monkeypatch, wanted: Wanted, name):
    monkeypatch.setattr(reading, "LOOK_AHEAD", 4)
    text = "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t},{t + 1},1\n" for t in range(50))
    if name == "trace.jsonl":
        row = '{{"sub_requests": [{call}, {call}], "arrival_time_ns": {at}}}\n'
        call = '{"input_toks": 5, "output_toks": 2}'
        text = "".join(row.format(call=call, at=t * 10**9) for t in range(50))
    whole = trace_of(tmp_path, text, name)
    part = read_trace(tmp_path / name, wanted)
    assert part.rows < 20 or wanted.start_s == 90.0
    assert part.is_whole == (part.rows == whole.rows)
    how = {"start_s": wanted.start_s, "duration_s": wanted.duration_s, "limit": wanted.limit}
    for column in ("prompt_tokens", "arrival_s", "session", "turn"):
        one, other = (getattr(selected(trace, **how), column) for trace in (part, whole))
        np.testing.assert_array_equal(one, other)


def test_a_file_out_of_order_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LOOK_AHEAD", 4)
    times = [3, 4, 5, 6, 5, *range(7, 40), 0]
    text = "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t},{t + 1},1\n" for t in times)
    trace_of(tmp_path, text)
    part = read_trace(tmp_path / "trace.csv", Wanted(limit=2))
    assert part.is_whole
    assert selected(part, limit=2).prompt_tokens.tolist() == [1, 4]


def test_what_is_said_of_a_trace_that_was_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LOOK_AHEAD", 4)
    text = "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t},{t + 1},1\n" for t in range(50))
    trace_of(tmp_path, text)
    assert "7 of the first 7 rows" in read_trace(tmp_path / "trace.csv", Wanted(limit=2)).describe()


def test_the_family_with_most_columns_is_taken():
    for family in FAMILIES:
        first = dict.fromkeys(family.columns, "")
        header = first if family.lines == "json" else ",".join(family.columns)
        assert family_of(header)[0] is family
