"""Traces that are one JSON document, and not a row a line: a list of requests, or an object that has one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sim.inputs.errors import InputError, Problem

CHUNK = 1 << 22  # characters read at a time
LARGEST = 1 << 30  # of one document that must be read whole

Item = dict[str, Any]


def is_document(header: str) -> bool:
    """Whether a JSON file is one document: a list, or an object that does not end on its first line, or one
    that wraps its requests.
    """
    if header.lstrip().startswith("["):
        return True
    try:
        found = json.loads(header)
    except (ValueError, RecursionError):
        return True
    return isinstance(found, dict) and _wrapped(found) is not found


def items_of(header: str, file: Any, path: str) -> Iterator[Any]:
    """The requests of a document, whose first line is `header`. InputError for what is no JSON."""
    if header.lstrip().startswith("["):
        yield from _of_list(header, file, path)
        return
    text = header + file.read(LARGEST)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(Problem(f"is not whole JSON: {str(error)[:100]}", path)) from None
    inner = _wrapped(found)
    yield from inner if isinstance(inner, list) else [inner]


def _wrapped(found: Any) -> Any:
    """The requests inside an object: `data` of AIPerf's inputs, `experiments` of genai-perf's records."""
    if not isinstance(found, dict):
        return found
    if isinstance(found.get("data"), list):
        return found["data"]
    if isinstance(found.get("experiments"), list):
        blocks = [block.get("requests") for block in found["experiments"] if isinstance(block, dict)]
        return [request for block in blocks if isinstance(block, list) for request in block]
    return found


def _of_list(header: str, file: Any, path: str) -> Iterator[Any]:
    """The members of a list, read piece by piece: such files are as large as a machine's memory."""
    decoder = json.JSONDecoder()
    buffer, at, size = header.lstrip()[1:], 0, CHUNK
    ended = False
    while True:
        while at < len(buffer) and buffer[at] in " \t\r\n,":
            at += 1
        if at < len(buffer) and buffer[at] == "]":
            return
        try:
            if at >= len(buffer):
                raise ValueError
            found, at = decoder.raw_decode(buffer, at)
        except (ValueError, RecursionError) as error:
            if ended:
                raise InputError(Problem(f"is not whole JSON: {str(error)[:100]}", path)) from None
            more = file.read(size)
            ended, size = not more, min(2 * size, LARGEST)  # a long member is tried again a few times only
            buffer, at = buffer[at:] + more, 0
            continue
        size = CHUNK
        yield found
