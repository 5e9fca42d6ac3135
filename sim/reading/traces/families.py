"""The kinds of trace files that are known: their columns, and how one row of each is read.

Each family is a set of columns that its header (CSV) or its first object (JSON lines) must have, and a
function from one row to `Row`s. A row that cannot be used raises `BadRow` with the reason under which it is
counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import date

from sim.reading.traces.agents import WekaReader
from sim.reading.traces.how import How
from sim.reading.traces.rows import BadRow, Family, Fields, Row, RowReader, block_ids, time, tokens
from sim.reading.traces.text import TOKEN_BLOCK, Blocks
from sim.reading.traces.texts import TEXT_FAMILIES

__all__ = ["FAMILIES", "BadRow", "Family", "Row"]

MOONCAKE_BLOCK_TOKENS = 512  # github.com/kvcache-ai/Mooncake, FAST'25 release: one hash id per 512 tokens
BAILIAN_BLOCK_TOKENS = 16  # github.com/alibaba-edu/qwen-bailian-usagetraces-anon: 16 tokens per block


_UTC = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d(?:\.\d+)?)(?:Z|\+00:00)?")


def _azure(how: How) -> RowReader:
    origin: list[int] = []  # the first row's day: seconds since 1970 in a double would lose the 100 ns digits

    def read(fields: Fields) -> Iterator[Row]:
        written = str(fields.get("TIMESTAMP") or "").strip()
        if not written:
            raise BadRow("no TIMESTAMP")
        parts = _UTC.fullmatch(written)
        if parts is None:
            raise BadRow("TIMESTAMP is not a time in UTC")
        year, month, day, hour, minute = (int(part) for part in parts.groups()[:5])
        try:
            ordinal = date(year, month, day).toordinal()
        except ValueError:
            raise BadRow("TIMESTAMP is not a time in UTC") from None
        if not origin:
            origin.append(ordinal)
        time_s = (ordinal - origin[0]) * 86400 + hour * 3600 + minute * 60 + float(parts[6])
        yield Row(time_s, tokens(fields, "ContextTokens"), tokens(fields, "GeneratedTokens"))

    return read


def _burstgpt(how: How) -> RowReader:
    def read(fields: Fields) -> Iterator[Row]:
        yield Row(
            time(fields, "Timestamp", how.seconds(1.0)),
            tokens(fields, "Request tokens"),
            tokens(fields, "Response tokens"),
            request_class=str(fields.get("Model") or ""),
        )

    return read


def _splitwise(how: How) -> RowReader:
    def read(fields: Fields) -> Iterator[Row]:
        at_s = time(fields, "arrival_timestamp", how.seconds(1.0))
        yield Row(at_s, tokens(fields, "prompt_size"), tokens(fields, "token_size"))

    return read


def _vidur(how: How) -> RowReader:
    def read(fields: Fields) -> Iterator[Row]:
        at_s = time(fields, "arrived_at", how.seconds(1.0)) if "arrived_at" in fields else 0.0
        yield Row(at_s, tokens(fields, "num_prefill_tokens"), tokens(fields, "num_decode_tokens"))

    return read


def _native(how: How) -> RowReader:
    def read(fields: Fields) -> Iterator[Row]:
        yield Row(
            time(fields, "arrival_s"),
            tokens(fields, "prompt_tokens"),
            tokens(fields, "output_tokens"),
            request_class=str(fields.get("request_class") or ""),
            model=str(fields.get("model") or ""),
        )

    return read


def _mooncake(how: How) -> RowReader:
    block_tokens = how.block_tokens or MOONCAKE_BLOCK_TOKENS
    per_unit_s = how.seconds(1e-3)
    sessions: dict[str, int] = {}
    turns: dict[int, int] = {}

    def read(fields: Fields) -> Iterator[Row]:
        prompt_tokens = tokens(fields, "input_length")
        hashes = block_ids(fields, prompt_tokens, block_tokens)
        lengths = prompt_tokens, tokens(fields, "output_length")
        if fields.get("session_id") is None:
            yield Row(time(fields, "timestamp", per_unit_s), *lengths, hashes=hashes)
            return
        # A turn comes at its own time or, in the form of AIPerf and Dynamo, so long after the answer before.
        waits = fields.get("delay") is not None and fields.get("timestamp") is None
        session = sessions.setdefault(str(fields["session_id"]), len(sessions))
        if not waits:
            at_s = time(fields, "timestamp", per_unit_s)
            if session in turns:  # timed by the recording, and hence no turn that waits
                session = sessions[str(fields["session_id"])] = max(sessions.values()) + 1
            turns[session] = 0
            yield Row(at_s, *lengths, session=session, hashes=hashes)
            return
        if session not in turns:
            raise BadRow("a delay, and no turn of its session before it")
        delay_s = time(fields, "delay", per_unit_s)
        turns[session] += 1
        yield Row(math.nan, *lengths, session, turns[session], delay_s, hashes=hashes)

    return read


def _untimed_mooncake(how: How) -> RowReader:
    """The same without times, as generators of sessions write it for a benchmark that sets its own pace."""
    read_timed = _mooncake(how)

    def read(fields: Fields) -> Iterator[Row]:
        waits = fields.get("delay") is not None
        yield from read_timed(fields if waits else {"timestamp": 0, **fields})

    return read


def _bailian(how: How) -> RowReader:
    block_tokens = how.block_tokens or BAILIAN_BLOCK_TOKENS
    per_unit_s = how.seconds(1.0)

    def read(fields: Fields) -> Iterator[Row]:
        prompt_tokens = tokens(fields, "input_length")
        hashes = block_ids(fields, prompt_tokens, block_tokens)
        at_s = time(fields, "timestamp", per_unit_s)
        kind = str(fields.get("type") or "")
        yield Row(at_s, prompt_tokens, tokens(fields, "output_length"), request_class=kind, hashes=hashes)

    return read


def _llmservingsim(how: How) -> RowReader:
    sessions: list[int] = []
    ids = Blocks()

    def blocks(call: Fields) -> tuple[int, ...]:
        """Ids of the text's full blocks: equal ids, equal text up to there."""
        prompt = call.get("input_tok_ids")
        answer = call.get("output_tok_ids")
        if not isinstance(prompt, list):
            return ()
        return ids.of(prompt + (answer if isinstance(answer, list) else []))

    def read(fields: Fields) -> Iterator[Row]:
        calls = fields.get("sub_requests")
        at_s = time(fields, "arrival_time_ns", 1e-9)
        if calls is None:
            lengths_of_one = tokens(fields, "input_toks"), tokens(fields, "output_toks")
            yield Row(at_s, *lengths_of_one, hashes=blocks(fields))
            return
        if not isinstance(calls, list) or not calls or not all(isinstance(call, dict) for call in calls):
            raise BadRow("sub_requests is not a list of calls")
        lengths = [(tokens(call, "input_toks"), tokens(call, "output_toks")) for call in calls]
        delays_s = [_tool_s(call) for call in calls]
        session = len(sessions)
        sessions.append(session)
        for turn, (call, (prompt_tokens, output_tokens)) in enumerate(zip(calls, lengths, strict=True)):
            yield Row(
                math.nan if turn else at_s,
                prompt_tokens,
                output_tokens,
                session=session,
                turn=turn,
                delay_s=delays_s[turn - 1] if turn else 0.0,  # a tool runs after the call that asked for it
                hashes=blocks(call),
            )

    return read


def _tool_s(call: Fields) -> float:
    return time(call, "tool_duration_ns", 1e-9) if call.get("tool_duration_ns") else 0.0


FAMILIES: tuple[Family, ...] = (
    Family(
        "native CSV",
        "fabricsim; the requests.csv of a run is one",
        frozenset({"arrival_s", "prompt_tokens", "output_tokens"}),
        _native,
        arrivals="arrival_s",
    ),
    Family(
        "Azure LLM inference trace (2023, 2024)",
        "github.com/Azure/AzurePublicDataset, CC-BY 4.0; Patel et al., Splitwise, ISCA 2024",
        frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}),
        _azure,
        arrivals="TIMESTAMP",
    ),
    Family(
        "BurstGPT",
        "github.com/HPMLL/BurstGPT, CC-BY 4.0; Wang et al., BurstGPT, KDD 2025",
        frozenset({"Timestamp", "Request tokens", "Response tokens"}),
        _burstgpt,
        arrivals="Timestamp",
        time_unit="s",
    ),
    Family(
        "Splitwise simulator trace",
        "github.com/Mutinifni/splitwise-sim, MIT",
        frozenset({"arrival_timestamp", "prompt_size", "token_size"}),
        _splitwise,
        arrivals="arrival_timestamp",
        time_unit="s",
    ),
    Family(
        "Vidur trace",
        "github.com/microsoft/vidur, MIT",
        frozenset({"num_prefill_tokens", "num_decode_tokens"}),
        _vidur,
        arrivals="arrived_at",
        time_unit="s",
    ),
    Family(
        "Mooncake trace",
        "github.com/kvcache-ai/Mooncake, Apache-2.0; Qin et al., Mooncake, FAST 2025",
        frozenset({"timestamp", "input_length", "output_length"}),
        _mooncake,
        lines="json",
        arrivals="timestamp",
        hash_block_tokens=MOONCAKE_BLOCK_TOKENS,
        time_unit="ms",
        scattered_sessions=True,
    ),
    Family(
        "Mooncake trace without times",
        "github.com/ai-dynamo/aiperf, Apache-2.0",
        frozenset({"input_length", "output_length"}),
        _untimed_mooncake,
        lines="json",
        hash_block_tokens=MOONCAKE_BLOCK_TOKENS,
        scattered_sessions=True,
    ),
    Family(
        "Bailian trace",
        "github.com/alibaba-edu/qwen-bailian-usagetraces-anon, Apache-2.0; Wang et al., USENIX ATC 2025",
        frozenset({"chat_id", "parent_chat_id", "timestamp", "input_length", "output_length"}),
        _bailian,
        lines="json",
        arrivals="timestamp",
        hash_block_tokens=BAILIAN_BLOCK_TOKENS,
        time_unit="s",
    ),
    Family(
        "LLMServingSim sessions",
        "github.com/casys-kaist/LLMServingSim, MIT",
        frozenset({"sub_requests"}),
        _llmservingsim,
        lines="json",
        arrivals="arrival_time_ns",
        hash_block_tokens=TOKEN_BLOCK,
    ),
    Family(
        "LLMServingSim requests",
        "github.com/casys-kaist/LLMServingSim, MIT",
        frozenset({"input_toks", "output_toks"}),
        _llmservingsim,
        lines="json",
        arrivals="arrival_time_ns",
        hash_block_tokens=TOKEN_BLOCK,
    ),
    Family(
        "agent sessions (Weka)",
        "github.com/ai-dynamo/aiperf docs/tutorials/weka-trace.md; SemiAnalysis AgentX",
        frozenset({"id", "requests"}),
        WekaReader,
        lines="json",
        arrivals="requests",
    ),
    *TEXT_FAMILIES,
)
