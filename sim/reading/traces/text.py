"""Tokens of text: counted with a tokenizer from a local file, or estimated by its characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sim.inputs.errors import InputError, Problem
from sim.reading.files_read import file_read
from sim.reading.text_files import refuse_what_is_no_file
from sim.reading.traces.how import How

TOKEN_BLOCK = 16  # vLLM's block size: the grain at which token ids are compared


class TextCounter:
    """Counts the tokens of texts as `how` says. InputError, which names `path`, where it does not say how."""

    def __init__(self, how: How, path: str) -> None:
        if not how.tokenizer and not how.characters_per_token:
            raise InputError(
                Problem(
                    "has text; say how many tokens that is: tokenizer: tokenizer.json (a local file), or an "
                    "estimate, as in characters_per_token: 4 (English prose; code has about 3)",
                    path,
                )
            )
        self._per_token = how.characters_per_token
        self._tokenizer = _tokenizer(how.tokenizer) if how.tokenizer else None
        self._blocks = Blocks()

    def count(self, text: str) -> int:
        """Tokens of a text; 1 at least."""
        if self._tokenizer is None:
            return max(1, round(len(text) / self._per_token))
        return max(1, len(self._tokenizer.encode(text).ids))

    def blocks(self, text: str) -> tuple[int, ...]:
        """Ids of the full blocks of a text, equal where all text up to there is; none of an estimate."""
        if self._tokenizer is None:
            return ()
        return self._blocks.of(self._tokenizer.encode(text).ids)


class Blocks:
    """Ids of blocks of token ids: equal ids, equal text up to there."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, tuple[Any, ...]], int] = {}

    def of(self, ids: Sequence[Any]) -> tuple[int, ...]:
        found: list[int] = []
        before = -1
        for start in range(0, len(ids) - TOKEN_BLOCK + 1, TOKEN_BLOCK):
            key = (before, tuple(map(str, ids[start : start + TOKEN_BLOCK])))
            before = self._ids.setdefault(key, len(self._ids))
            found.append(before)
        return tuple(found)


def _tokenizer(name: str) -> Any:
    path = Path(name).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    refuse_what_is_no_file(file, "the tokenizer.json of a model")
    file_read(file)
    return _loaded(file, file.stat().st_mtime_ns)


@cache
def _loaded(file: Path, changed_ns: int) -> Any:
    try:
        from tokenizers import Tokenizer  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        what = "needs the library tokenizers: pip install fabricsim[text]; or write characters_per_token"
        raise InputError(Problem(what, str(file))) from None
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower one
        what = f"is no tokenizer.json of the library tokenizers: {str(error)[:100]}"
        raise InputError(Problem(what, str(file))) from None


def text_of_content(content: Any) -> str:
    """The text of a message: a string, or parts of which those of text count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(text_of_content(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def text_of_messages(messages: Iterable[Any]) -> str:
    """The text of a conversation, one message after the other."""
    return "\n".join(
        text_of_content(message.get("content", message.get("value", "")))
        for message in messages
        if isinstance(message, dict)
    )
