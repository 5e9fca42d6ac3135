"""What can be broken in a module: every small change of its syntax tree, in one order everywhere.

Left alone is what no test can or should tell: annotations, decorators, docstrings, the words of messages, and
`assert`, which states what is impossible.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),  # the boundary, then the opposite
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
UNSEEN_CALLS = {"isinstance", "cast", "TypeVar"}
UNSEEN_FIELDS = {"annotation", "returns", "decorator_list", "type_comment", "type_params"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST = 100


@dataclass(frozen=True)
class Place:
    """A node, the field of its parent that holds it, and the nodes above it from the module down."""

    above: tuple[ast.AST, ...]
    field: str
    index: int | None
    node: ast.AST

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.above[-1], self.field, node)
        else:
            getattr(self.above[-1], self.field)[self.index] = node

    @property
    def in_function(self) -> bool:
        return any(isinstance(one, FUNCTIONS) for one in self.above)


@dataclass(frozen=True)
class Mutant:
    """One change of one module: where it is, what stood there and what stands there now."""

    module: str
    line: int
    column: int
    scope: str
    operator: str
    was: str
    becomes: str
    lines: tuple[int, int]
    place: int
    variant: int

    @property
    def told(self) -> tuple[str, str, str, str]:
        """What names it however lines move."""
        return self.module, self.scope, self.was, self.becomes


def places(tree: ast.Module) -> Iterator[Place]:
    """Every node that may be changed, depth first."""
    yield from _below(tree, ())


def _below(node: ast.AST, above: tuple[ast.AST, ...]) -> Iterator[Place]:
    here = (*above, node)
    for field, value in ast.iter_fields(node):
        if field in UNSEEN_FIELDS:
            continue
        for index, one in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(one, ast.AST) and not _is_left_alone(one):
                yield Place(here, field, index, one)
                if not isinstance(one, ast.Raise):
                    yield from _below(one, here)


def _is_left_alone(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        or (isinstance(node, ast.keyword) and node.arg == "strict")
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSEEN_CALLS)
    )


def variants(place: Place) -> Iterator[tuple[str, ast.AST]]:
    """The name of each operator that acts on this node, and what it puts there."""
    node = place.node
    match node:
        case ast.Compare():
            for at, op in enumerate(node.ops):
                for other in COMPARISONS[type(op)]:
                    ops = [*node.ops[:at], other(), *node.ops[at + 1 :]]
                    yield "comparison", ast.Compare(node.left, ops, node.comparators)
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            if place.in_function or not isinstance(node.op, ast.BitOr | ast.BitAnd):
                yield "arithmetic", ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
        case ast.AugAssign():
            if type(node.op) in ARITHMETIC:
                yield "arithmetic", ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)
            yield "drop", ast.Pass()
        case ast.BoolOp():
            other_op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "and/or", ast.BoolOp(other_op, node.values)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "not" if isinstance(node.op, ast.Not) else "sign", node.operand
        case ast.Constant(value=bool()):
            yield "constant", ast.Constant(not node.value)
        case ast.Constant(value=int()):
            yield "constant", ast.Constant(node.value + 1)
            yield "constant", ast.Constant(node.value - 1)
        case ast.Constant(value=float()):
            yield "constant", ast.Constant(2 * node.value if node.value else 1.0)
        case ast.Call(func=ast.Name(id=str(name))) if name in CALLS:
            yield "min/max", ast.Call(ast.Name(CALLS[name], ast.Load()), node.args, node.keywords)
        case ast.Return(value=ast.expr() as value) if not _is_falsehood(value):
            yield "return", ast.Return(ast.Constant(None))
        case ast.Slice():
            if node.lower is not None:
                yield "slice", ast.Slice(None, node.upper, node.step)
            if node.upper is not None:
                yield "slice", ast.Slice(node.lower, None, node.step)
        case ast.Raise() | ast.Continue() | ast.Break() | ast.Expr(value=ast.Call()):
            yield "drop", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) if place.in_function:
            yield "drop", ast.Pass()
    if place.field in ("test", "ifs") and not isinstance(node, ast.Compare | ast.UnaryOp):
        yield "not", ast.UnaryOp(ast.Not(), node)


def _is_falsehood(node: ast.expr) -> bool:
    """None, and False, which callers do not tell from None."""
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


def numbers(source: str) -> list[tuple[int, int]]:
    """Every mutant of a module as the numbers of its place and of its variant."""
    return [
        (at, number)
        for at, place in enumerate(places(ast.parse(source)))
        for number, _ in enumerate(variants(place))
    ]


def described(module: str, source: str, place: int, variant: int) -> Mutant:
    """The mutant of these numbers, in words."""
    tree = ast.parse(source)
    found = _at(tree, place)
    operator, node = list(variants(found))[variant]
    context = len(found.above)
    for at in range(len(found.above) - 1, -1, -1):
        if not isinstance(found.above[at], ast.expr | ast.Assign | ast.AugAssign | ast.Return | ast.keyword):
            break
        if len(ast.unparse(found.above[at])) > LONGEST:
            break
        context = at
    around: Any = (*found.above, found.node)[context]
    was = _text(around)
    first, last = _statement_lines(found)
    found.put(ast.copy_location(node, found.node))
    becomes = _text(around if context < len(found.above) else node)
    names = [one.name for one in found.above if isinstance(one, (*FUNCTIONS, ast.ClassDef))]
    at_line: Any = next(
        (one for one in (found.node, *reversed(found.above)) if hasattr(one, "lineno")), found.node
    )
    return Mutant(
        module, at_line.lineno, at_line.col_offset, ".".join(names), operator, was, becomes, (first, last),
        place, variant,
    )  # fmt: skip


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 2 * LONGEST else text[: 2 * LONGEST] + " ..."


def _statement_lines(place: Place) -> tuple[int, int]:
    """The lines of the statement around a place; of a statement with a body, those before the body."""
    statement = next(one for one in (place.node, *reversed(place.above)) if isinstance(one, ast.stmt))
    body = getattr(statement, "body", None)
    last = (body[0].lineno - 1) if body else (statement.end_lineno or statement.lineno)
    return statement.lineno, max(last, statement.lineno)


def mutated(source: str, place: int, variant: int) -> ast.Module:
    """The tree of a module with one change, whose lines are those of the source."""
    tree = ast.parse(source)
    found = _at(tree, place)
    found.put(ast.copy_location(copy.deepcopy(list(variants(found))[variant][1]), found.node))
    return ast.fix_missing_locations(tree)


def _at(tree: ast.Module, place: int) -> Place:
    return next(one for at, one in enumerate(places(tree)) if at == place)
