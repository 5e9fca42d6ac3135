"""Requests given as text, and what benchmarks write of theirs: ShareGPT and chats, the custom sets and the
detailed results of `vllm bench serve`, inputs and records of AIPerf and genai-perf.

Times of such files have no unit in their names: it is said by `time_unit`, or follows from the kind of file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sim.inputs.errors import InputError, Problem
from sim.reading.traces.how import How
from sim.reading.traces.rows import BadRow, Family, Fields, Row, RowReader, number, time, tokens
from sim.reading.traces.text import TOKEN_BLOCK, TextCounter, text_of_content, text_of_messages

PROMPTS = ("prompt", "text_input", "text", "input", "question", "instruction")
ANSWERS = ("completion", "response", "output", "answer", "output_text", "generated_text", "reference")
ANSWER_TOKENS = (
    "output_tokens",
    "output_length",
    "max_completion_tokens",
    "max_tokens",
    "expected_output_len",
)
THE_TRACE = "the trace"  # the file of a problem, where a row does not know its name
TIMES = ("timestamp", "arrived_at", "arrival_time")


def _counter(how: How) -> Callable[[], TextCounter]:
    """The counter, made when the first text needs it: rows with token counts need none."""
    made: list[TextCounter] = []

    def counter() -> TextCounter:
        if not made:
            made.append(TextCounter(how, THE_TRACE))
        return made[0]

    return counter


def _time_s(fields: Fields, how: How) -> float:
    """When a row of text came; 0 where the file has lengths only. InputError where its unit is not said."""
    if fields.get("arrival_s") is not None:
        return time(fields, "arrival_s")
    column = next((name for name in TIMES if fields.get(name) is not None), None)
    if column is None:
        return 0.0
    if not how.time_unit:
        raise InputError(
            Problem(
                f"{column} has no unit; write time_unit: ms (AIPerf has milliseconds), or s, us, ns",
                THE_TRACE,
            )
        )
    return time(fields, column, how.seconds(1.0))


def _answer_tokens(fields: Fields, counter: Callable[[], TextCounter]) -> int:
    """Tokens of the answer; 0 where a row has neither an answer nor its length."""
    for name in ANSWER_TOKENS:
        if fields.get(name) is not None:
            return tokens(fields, name)
    for name in ANSWERS:
        if isinstance(fields.get(name), str) and fields[name]:
            return counter().count(fields[name])
    return 0


def _prompt(how: How) -> RowReader:
    counter = _counter(how)

    def read(fields: Fields) -> Iterator[Row]:
        text = next((fields[name] for name in PROMPTS if fields.get(name)), None)
        if isinstance(text, list):
            text = text_of_messages(text) if text and isinstance(text[0], dict) else "\n".join(map(str, text))
        if not isinstance(text, str) or not text:
            raise BadRow("no text")
        at_s = _time_s(fields, how)
        yield Row(at_s, counter().count(text), _answer_tokens(fields, counter), hashes=counter().blocks(text))

    return read


def _sharegpt(how: How) -> RowReader:
    counter = _counter(how)

    def read(fields: Fields) -> Iterator[Row]:
        turns = fields.get("conversations")
        # The first question and its answer, as `vllm bench serve --dataset-name sharegpt` takes them.
        if (
            not isinstance(turns, list)
            or len(turns) < 2
            or not all(isinstance(turn, dict) for turn in turns[:2])
        ):
            raise BadRow("fewer than two turns")
        prompt, answer = (text_of_content(turn.get("value", turn.get("content", ""))) for turn in turns[:2])
        if not prompt or not answer:
            raise BadRow("a turn without text")
        hashes = counter().blocks(prompt)
        yield Row(_time_s(fields, how), counter().count(prompt), counter().count(answer), hashes=hashes)

    return read


def _messages(how: How) -> RowReader:
    counter = _counter(how)
    sessions: dict[str, tuple[int, int]] = {}

    def read(fields: Fields) -> Iterator[Row]:
        messages = fields.get("messages")
        if not isinstance(messages, list) or not messages:
            raise BadRow("no messages")
        answer = (
            messages[-1]
            if isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant"
            else None
        )
        sized = {**fields, **({"answer": text_of_content(answer.get("content", ""))} if answer else {})}
        prompt = text_of_messages(messages[:-1] if answer else messages)
        if not prompt:
            raise BadRow("no text")
        row = Row(
            0.0, counter().count(prompt), _answer_tokens(sized, counter), hashes=counter().blocks(prompt)
        )
        name = fields.get("session_id")
        if (
            name is not None
            and str(name) in sessions
            and not any(fields.get(one) is not None for one in TIMES)
        ):
            session, turn = sessions[str(name)]
            sessions[str(name)] = session, turn + 1
            # Delays are in milliseconds, as AIPerf has them.
            delay_s = time(fields, "delay", how.seconds(1e-3)) if fields.get("delay") else 0.0
            yield row._replace(time_s=math.nan, session=session, turn=turn + 1, delay_s=delay_s)
            return
        if name is not None:
            sessions[str(name)] = session, _ = len(sessions), 0
            row = row._replace(session=session)
        yield row._replace(time_s=_time_s(fields, how))

    return read


@dataclass
class _Parent:
    """The turn that starts a conversation of a tree, and the text that this one inherits."""

    session: int
    turn: int
    said: str = ""
    answered: int = 0


def _turns(how: How) -> RowReader:
    """AIPerf's multi-turn sets and trees of conversations: the prompt of a turn is everything said before it,
    and then its own text. What `forks` names begins with the text of its parent, what `spawns` names with
    none; both come after the answer of the turn that names them. Delays are milliseconds, as AIPerf has them.
    """
    counter = _counter(how)
    count = 0
    parents: dict[str, _Parent] = {}

    def read(fields: Fields) -> Iterator[Row]:
        nonlocal count
        turns = fields.get("turns")
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
            raise BadRow("turns is not a list of turns")
        parent = parents.pop(str(fields.get("session_id")), None)
        said, answered = (parent.said, parent.answered) if parent else ("", 0)
        rows = []
        for turn, one in enumerate(turns):
            text = _text_of_turn(one)
            if not text:
                raise BadRow("a turn without text")
            said = f"{said}\n{text}" if said else text
            prompt, answer = counter().count(said) + answered, _answer_tokens(one, counter)
            delay_s = time(one, "delay", how.seconds(1e-3)) if one.get("delay") else 0.0
            hashes = counter().blocks(said) if not answered else ()  # answers have no text that is known
            row = Row(math.nan, prompt, answer, count, turn, delay_s, hashes=hashes)
            if turn == 0 and parent is None:
                row = row._replace(time_s=_time_s({**fields, **one}, how), delay_s=0.0)
            elif turn == 0 and parent is not None:
                row = row._replace(after=(parent.session, parent.turn))
            rows.append(row)
            answered += answer
            for child in _names(one.get("forks")):
                parents[child] = _Parent(count, turn, said, answered)
            for child in _names(one.get("spawns")):
                parents[child] = _Parent(count, turn)
        count += 1
        yield from rows

    return read


def _text_of_turn(turn: Fields) -> str:
    if isinstance(turn.get("messages"), list):
        return text_of_messages(turn["messages"])
    return next((text_of_content(turn[name]) for name in PROMPTS if turn.get(name)), "")


def _names(children: Any) -> Iterator[str]:
    """Names of conversations: alone, or in objects as `child` or `children`."""
    for child in children if isinstance(children, list) else ():
        if isinstance(child, dict):
            yield from _names([*child.get("children", ()), *filter(None, [child.get("child")])])
        else:
            yield str(child)


def _aiperf_record(how: How) -> RowReader:
    origin_ns: list[int] = []

    def read(fields: Fields) -> Iterator[Row]:
        metadata, metrics = fields.get("metadata"), fields.get("metrics")
        if not isinstance(metadata, dict) or not isinstance(metrics, dict):
            raise BadRow("no metadata or no metrics (a request that failed)")
        sizes = {}
        for name in ("input_sequence_length", "output_sequence_length"):
            found = metrics.get(name)
            sizes[name] = found.get("value") if isinstance(found, dict) else found
        number(metadata, "request_start_ns")
        start_ns = int(metadata["request_start_ns"])  # a float would lose the last hundred nanoseconds
        origin_ns.append(start_ns)
        at_s = (start_ns - origin_ns[0]) * 1e-9
        yield Row(at_s, tokens(sizes, "input_sequence_length"), tokens(sizes, "output_sequence_length"))

    return read


def _vllm_result(how: How) -> RowReader:
    def read(fields: Fields) -> Iterator[Row]:
        prompts, answers = fields.get("input_lens"), fields.get("output_lens")
        if not isinstance(prompts, list) or not isinstance(answers, list) or len(prompts) != len(answers):
            raise BadRow("input_lens and output_lens are not lists of one length")
        starts = fields.get("start_times")
        times_s = starts if isinstance(starts, list) and len(starts) == len(prompts) else [0.0] * len(prompts)
        for at_s, prompt, answer in zip(times_s, prompts, answers, strict=True):
            sizes = {"start_times": at_s, "input_lens": prompt, "output_lens": answer}
            if not answer:
                continue  # a request that failed
            yield Row(time(sizes, "start_times"), tokens(sizes, "input_lens"), tokens(sizes, "output_lens"))

    return read


def _payloads(how: How) -> RowReader:
    """`inputs.json` of AIPerf and genai-perf: what was sent, session by session."""
    counter = _counter(how)

    def read(fields: Fields) -> Iterator[Row]:
        payloads = fields.get("payloads", fields.get("payload"))
        if not isinstance(payloads, list) or not payloads:
            raise BadRow("no payloads")
        for payload in payloads:
            if not isinstance(payload, dict):
                raise BadRow("a payload is no object")
            text = text_of_messages(payload.get("messages") or ()) or text_of_content(
                payload.get("prompt", "")
            )
            if not text:
                raise BadRow("a payload without text")
            answer = _answer_tokens(payload, counter)
            yield Row(0.0, counter().count(text), answer, hashes=counter().blocks(text))

    return read


def _genai_perf(how: How) -> RowReader:
    """`profile_export.json` of genai-perf: a request with its payload and a time for each response."""
    counter = _counter(how)

    def read(fields: Fields) -> Iterator[Row]:
        inputs, ends = fields.get("request_inputs"), fields.get("response_timestamps")
        if not isinstance(inputs, dict) or not isinstance(ends, list) or not ends:
            raise BadRow("no request_inputs or no responses (a request that failed)")
        try:
            payload = json.loads(inputs.get("payload") or "null")
        except (TypeError, ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict):
            raise BadRow("a payload is no object")
        text = text_of_messages(payload.get("messages") or ()) or text_of_content(payload.get("prompt", ""))
        if not text:
            raise BadRow("a payload without text")
        yield Row(time(fields, "timestamp", 1e-9), counter().count(text), len(ends))  # a response is a token

    return read


_VLLM = "github.com/vllm-project/vllm vllm/benchmarks, Apache-2.0"
_AIPERF = "github.com/ai-dynamo/aiperf, Apache-2.0"
_GENAI_PERF = "github.com/triton-inference-server/perf_analyzer, BSD-3"
_SHAREGPT = "huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered"


def _family(
    name: str,
    source: str,
    columns: set[str],
    reader: Callable[[How], RowReader],
    arrivals: str = "timestamp",
    **more: Any,
) -> Family:
    return Family(
        name, source, frozenset(columns), reader, "json", arrivals, hash_block_tokens=TOKEN_BLOCK, **more
    )


TEXT_FAMILIES = (
    _family("AIPerf records", _AIPERF, {"metadata", "metrics"}, _aiperf_record, "metadata"),
    _family("vllm bench serve result", _VLLM, {"input_lens", "output_lens"}, _vllm_result, "start_times"),
    _family("genai-perf records", _GENAI_PERF, {"request_inputs", "response_timestamps"}, _genai_perf),
    _family("AIPerf inputs", _AIPERF, {"payloads"}, _payloads, "none"),
    _family("genai-perf inputs", _GENAI_PERF, {"payload"}, _payloads, "none"),
    _family("ShareGPT conversations", _SHAREGPT, {"conversations"}, _sharegpt),
    _family("AIPerf multi-turn sets", _AIPERF, {"turns"}, _turns, scattered_sessions=True),
    _family("chats in text", "OpenAI's chat format", {"messages"}, _messages, scattered_sessions=True),
    *(_family("prompts in text", f"{_VLLM} (custom sets); {_AIPERF}", {name}, _prompt) for name in PROMPTS),
)
