"""`sim lesson`: the labs of `experiments/lessons/`, listed, opened, or written as pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import Format, print_json, print_table

if TYPE_CHECKING:
    from sim.views.lesson import Lesson

lesson = typer.Typer(help="Labs on queues in LLM serving: predict, run, compare with the theorem.")


@lesson.callback(invoke_without_command=True)
def listed(
    context: typer.Context,
    format: Annotated[Format, typer.Option(help="A table, or JSON alone on standard output.")] = "table",
) -> None:
    """List the labs: `sim lesson open 1` opens the first, `sim lesson export --out DIR` writes pages."""
    if context.invoked_subcommand is not None:
        return
    found = [(number, *_title(path), str(path)) for number, path in _files().items()]
    columns = ["lab", "title", "question", "file"]
    if format == "json":
        print_json([dict(zip(columns, row, strict=True)) for row in found])
    else:
        print_table(columns[:3], [[str(row[0]), *row[1:3]] for row in found])


@lesson.command("open")
def opened(
    number: Annotated[int, typer.Argument(help="The number of a lab.")],
    edit: Annotated[bool, typer.Option("--edit", help="With its code, to change it.")] = False,
    headless: Annotated[bool, typer.Option("--headless", help="Start no browser; say the address.")] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port; by default a free one.")
    ] = None,
) -> None:
    """Open a lab in the browser, with its slider; Ctrl-C ends it."""
    import subprocess
    import sys

    path = _file(number)
    _needs_marimo()
    command = [sys.executable, "-m", "marimo", "edit" if edit else "run", str(path)]
    command += ["--headless"] if headless else []
    command += ["--port", str(port)] if port is not None else []
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@lesson.command("export")
def export(
    numbers: Annotated[list[int] | None, typer.Argument(help="Numbers of labs; by default all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pages, made where it is not.")] = Path("lessons"),
    share: Annotated[
        float, typer.Option(min=0.01, max=100.0, help="Of the requests of each run: 0.1 for a quick look.")
    ] = 1.0,
) -> None:
    """Write each lab as one page that works without a network and without Python, and an index."""
    from dataclasses import replace

    from sim.cli.output import note
    from sim.results.whole_files import whole_file
    from sim.views.lesson_page import index_page, lesson_page

    paths = {number: _file(number) for number in numbers or _files()}
    _needs_marimo()
    out.mkdir(parents=True, exist_ok=True)
    labs: list[Lesson] = []
    for number, path in paths.items():
        lab = load_lesson(path)
        labs.append(replace(lab, page_share=lab.page_share * share))
        target = out / f"{path.stem}.html"
        with whole_file(target) as partial:
            partial.write_text(lesson_page(labs[-1]), encoding="utf-8")
        note(f"wrote {target}")
        paths[number] = target
    with whole_file(out / "index.html") as partial:
        names = {number: path.name for number, path in paths.items()}
        partial.write_text(index_page(labs, names), encoding="utf-8")
    note(f"wrote {out / 'index.html'}")


def load_lesson(path: Path) -> Lesson:
    """The `LESSON` of a lab's file."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Lesson = module.LESSON
    return found


def _files() -> dict[int, Path]:
    from sim.reading.data_files import experiments

    paths = sorted((experiments() / "lessons").glob("lab_*.py"))
    return {int(path.stem.split("_")[1]): path for path in paths}


def _file(number: int) -> Path:
    from sim.inputs.errors import InputError

    files = _files()
    if number not in files:
        nearest = min(files, key=lambda known: abs(known - number))
        raise InputError(
            f"sim lesson: there is no lab {number}; they are {min(files)} to {max(files)}, the nearest is "
            f"{nearest}: {_title(files[nearest])[0]}"
        )
    return files[number]


def _title(path: Path) -> tuple[str, str]:
    """Title and question of a lab, by the first line of its docstring: `Title: question?`."""
    import ast

    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    title, _, question = text.splitlines()[0].partition(": ")
    return title, question[:1].upper() + question[1:]


def _needs_marimo() -> None:
    from importlib.util import find_spec

    from sim.inputs.errors import InputError

    if find_spec("marimo") is None:
        raise InputError("labs are marimo notebooks, which is not here: pip install 'fabricsim[notebooks]'")
