"""Recorded sessions of agents: trees of calls, with the subagents that a call has started inside it.

The recording has for each call when it was sent (`t`, seconds), how long it took (`api_time`), its lengths
and its block ids. Replayed, a call waits for the answer that ended last before it was sent, of its own
stream or, where subagents ran, of theirs; what passed between that answer and the call (a tool, a person) is
its delay. The first call of a subagent waits for the call that started it. A call that was sent while every
answer before it was still open comes at its recorded time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from sim.reading.traces.how import How
from sim.reading.traces.rows import BadRow, Fields, Row, block_ids, number, time, tokens

DEEPEST = 20  # levels of subagents below each other


class _Call(NamedTuple):
    at_s: float
    end_s: float
    session: int
    turn: int


class WekaReader:
    """Reads one session a row. `block_tokens` is what the file says of its blocks."""

    def __init__(self, how: How) -> None:
        self._how = how
        self._sessions = 0
        self._local: dict[tuple[int, int], int] = {}
        self.block_tokens = how.block_tokens

    def __call__(self, fields: Fields) -> Iterator[Row]:
        size = int(number(fields, "block_size")) if fields.get("block_size") else self.block_tokens
        self.block_tokens = self.block_tokens or size
        if size != self.block_tokens:
            raise BadRow(f"blocks of {size} tokens, and others of {self.block_tokens} before")
        root = self._sessions
        is_local = str(fields.get("hash_id_scope", "")) == "local"
        rows: list[Row] = []
        self._stream(fields.get("requests"), None, rows, 0)
        if not rows:
            raise BadRow("no requests")
        for row in rows:
            hashes = row.hashes
            if is_local:
                hashes = tuple(self._local.setdefault((root, block), len(self._local)) for block in hashes)
            yield row._replace(hashes=hashes)

    def _stream(self, calls: Any, parent: _Call | None, rows: list[Row], depth: int) -> list[_Call]:
        """The calls of one agent, with those of the agents below it in between."""
        if not isinstance(calls, list) or depth > DEEPEST:
            raise BadRow("requests is not a list of calls, or is nested too deeply")
        session, turn, found = self._sessions, 0, []
        self._sessions += 1
        before = [parent] if parent else []
        for call in calls:
            if not isinstance(call, dict):
                raise BadRow("requests is not a list of calls")
            if call.get("type") == "subagent" or "requests" in call:
                inner = self._stream(call.get("requests"), self._started_by(before, call), rows, depth + 1)
                before = [*before, *inner]
                found += inner
                continue
            at_s = time(call, "t")
            end_s = at_s + (time(call, "api_time") if call.get("api_time") else 0.0)
            prompt_tokens = tokens(call, "in")
            hashes = block_ids(call, prompt_tokens, self.block_tokens) if self.block_tokens else ()
            ended = [one for one in before if one.end_s <= at_s]
            last = max(ended, key=lambda one: one.end_s, default=None)
            lengths = prompt_tokens, tokens(call, "out")
            if last is None:
                rows.append(Row(at_s, *lengths, session, turn, hashes=hashes))
            else:
                after = (last.session, last.turn)
                delay_s = at_s - last.end_s
                rows.append(Row(math.nan, *lengths, session, turn, delay_s, hashes=hashes, after=after))
            this = _Call(at_s, end_s, session, turn)
            before = [this]
            found.append(this)
            turn += 1
        return found

    @staticmethod
    def _started_by(before: list[_Call], call: Fields) -> _Call | None:
        at_s = time(call, "t") if call.get("t") is not None else math.inf
        return max((one for one in before if one.end_s <= at_s), key=lambda one: one.end_s, default=None)
