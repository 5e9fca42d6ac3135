"""A table that grows by rows and is kept as typed columns: 8 bytes a number, no object per row."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars

Kind = Literal["number", "count", "text"]


class TextColumn:
    """Text that repeats: four bytes a row and each distinct text once."""

    def __init__(self) -> None:
        self.codes = array("i")
        self.texts: list[str] = []
        self._code_of: dict[str, int] = {}

    def append(self, text: str) -> None:
        """One more row."""
        code = self._code_of.get(text)
        if code is None:
            code = self._code_of[text] = len(self.texts)
            self.texts.append(text)
        self.codes.append(code)

    def extend(self, texts: str | Sequence[str], rows: int) -> None:
        """So many more rows: each its own text, or all the same one."""
        if isinstance(texts, str):
            self.append(texts)
            self.codes.extend(array("i", self.codes[-1:]) * (rows - 1))
        else:
            for text in texts:
                self.append(text)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        return self.texts[self.codes[row]]


class Table:
    """Rows appended one by one, read back as numpy columns or as one polars frame.

    `columns` maps each name to `number` (float64; NaN stands for "not known" and reads back as null in the
    frame), `count` (int64) or `text`.

    >>> table = Table({"link": "text", "busy_s": "number"})
    >>> table.append("nvlink", 0.5)
    >>> len(table), table["busy_s"].tolist()
    (1, [0.5])
    """

    def __init__(self, columns: Mapping[str, Kind]) -> None:
        self.kinds: dict[str, Kind] = dict(columns)
        makers: dict[Kind, Any] = {
            "number": lambda: array("d"),
            "count": lambda: array("q"),
            "text": TextColumn,
        }
        self.columns: dict[str, Any] = {name: makers[kind]() for name, kind in columns.items()}
        self._in_order = tuple(self.columns.values())
        self._appends = tuple([column.append for column in self._in_order])

    def append(self, *row: Any) -> None:
        """One row, in the order of the columns. TypeError if a value is of another kind than its column."""
        for append, value in zip(self._appends, row, strict=True):
            append(value)

    def extend(self, columns: Mapping[str, Any]) -> None:
        """Rows by their columns, at least one: an array for each, in the kind that it has, and a text or a
        list of them for a column of texts.
        """
        rows = max(len(values) for values in columns.values() if isinstance(values, np.ndarray))
        for name, column in self.columns.items():
            if isinstance(column, TextColumn):
                column.extend(columns[name], rows)
            else:
                column.frombytes(np.ascontiguousarray(columns[name], dtype=column.typecode).tobytes())

    def __len__(self) -> int:
        return len(self._in_order[0])

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A copy of one column, in the order of the rows."""
        column = self.columns[name]
        if isinstance(column, TextColumn):
            texts = np.array(column.texts or [""], dtype=object)
            return texts[np.array(column.codes, dtype=np.int64)]
        return np.array(column)

    def order(self) -> NDArray[np.int64]:
        """The order in which rows are shown, where it is to differ from that of appending."""
        return np.arange(len(self))

    def sorted_copy(self) -> Self:
        """A copy with its rows in `order()`, to be read and not appended to."""
        found, order = copy(self), self.order()
        found.columns = {}
        for name, kind in self.kinds.items():
            column = self.columns[name]
            if kind == "text":
                found.columns[name] = texts = TextColumn()
                texts.texts = column.texts
                texts.codes = array("i", np.array(column.codes, dtype=np.intc)[order].tobytes())
            else:
                found.columns[name] = array(column.typecode, np.array(column)[order].tobytes())
        found._in_order, found._appends = tuple(found.columns.values()), ()
        return found

    def frame(self) -> polars.DataFrame:
        """The rows as a polars DataFrame, in `order()`."""
        import polars

        order = self.order()
        series = []
        for name, kind in self.kinds.items():
            column = self.columns[name]
            if kind == "text":
                codes = polars.Series(np.array(column.codes, dtype=np.uint32)[order], dtype=polars.UInt32)
                texts = polars.Series(name, column.texts, dtype=polars.String)
                series.append(texts.gather(codes).alias(name))
            else:
                series.append(polars.Series(name, np.array(column)[order], nan_to_null=True))
        return polars.DataFrame(series)
