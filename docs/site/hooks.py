"""Pages of the site that lie elsewhere in the repository or are made: README and its kin, the gallery of
experiments, the reference of the package.

Links between pages are written for a reader of the repository; here those that leave docs/ are turned to the
site's own pages, and what the site does not have (code, scenarios) is shown as the path that it is.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from gallery import GALLERY, ROOT, experiments

ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "sim/README.md": "sim/README.md",
    "topologies/README.md": "topologies/README.md",
}
"""By path in the repository: the page of the site."""
LINK = re.compile(r"(!?\[(?:[^\]]*)\])\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for path, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=_linked(ROOT / path, page)))
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page = path.relative_to(ROOT / "docs").as_posix()
        files.remove(files.src_uris[page])
        files.append(File.generated(config, page, content=_linked(path, page)))
    files.append(File.generated(config, "gallery.md", content=_gallery(files, config)))
    files.append(File.generated(config, "api.md", content=_reference()))
    return files


def _linked(path: Path, page: str) -> str:
    """The text of a page, its links those of the site. Code is left as it is."""
    text, kept, end = path.read_text(encoding="utf-8"), "", 0
    for fence in FENCE.finditer(text):
        kept += LINK.sub(lambda link: _link(link, path, page), text[end : fence.start()]) + fence.group()
        end = fence.end()
    return kept + LINK.sub(lambda link: _link(link, path, page), text[end:])


def _link(link: re.Match[str], path: Path, page: str) -> str:
    label, target = link.groups()
    if ":" in target or target.startswith("#"):
        return link.group()
    file, hash_sign, anchor = target.partition("#")
    found = Path(os.path.normpath(path.parent / file)).relative_to(ROOT).as_posix()
    if found.startswith("docs/"):
        there = found.removeprefix("docs/")
    elif found in ELSEWHERE:
        there = ELSEWHERE[found]
    elif re.fullmatch(r"experiments/\w+(\.py)?", found):
        there, hash_sign, anchor = "gallery.md", "#", Path(found).stem
    else:
        return f"{label[1:-1]} (`{found}`)" if label[1:-1] != f"`{found}`" else label[1:-1]
    return f"{label}({os.path.relpath(there, os.path.dirname(page) or '.')}{hash_sign}{anchor})"


def _gallery(files: Files, config: Any) -> str:
    text = [
        "# Gallery of experiments\n",
        "One question, one script, one answer each. Published numbers stand beside simulated ones; a script",
        "prints them as a table, and `--out FOLDER` leaves pictures and a page. The pictures here are those",
        "of `--quick`.\n",
    ]
    for path in experiments():
        said = ast.get_docstring(ast.parse(_code(path))) or ""
        question, _, more = said.partition("\n\n")
        text += [f"## {' '.join(question.split())} {{#{path.stem}}}\n", more, ""]
        folder = GALLERY / path.stem
        if (folder / "answer.json").is_file():
            answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
            for picture in sorted(folder.glob("*.png")):
                place = f"gallery/{path.stem}/{picture.name}"
                files.append(File.generated(config, place, abs_src_path=str(picture)))
                text.append(f"![{path.stem}]({place})\n")
            text.append(f"**Takeaway.** {answer['takeaway']}\n")
        text += [f"```sh\n.venv/bin/python {path.relative_to(ROOT)} --out out/{path.stem}\n```\n"]
    return "\n".join(text)


def _code(path: Path) -> str:
    return (path if path.is_file() else path / "__main__.py").read_text(encoding="utf-8")


def _reference() -> str:
    """What `import sim` offers, then the modules that scripts and students use."""
    import sim

    text = [
        "# Package\n",
        "`import sim` offers the names below. Everything is documented where it is defined, with shapes,",
        "units, errors and source.\n",
        "## `sim`\n",
    ]
    text += [f"::: {sim._HOME[name]}.{name}\n" for name in sorted(sim.__all__) if name in sim._HOME]
    for module, title in (
        ("sim.testing", "Trying rules of one's own"),
        ("sim.theory.queueing", "Queueing theory"),
        ("sim.theory.domain_sizing", "Sizes of NVLink domains"),
        ("sim.theory.pipeline", "Pipelines"),
    ):
        text += [f"## {title}: `{module}`\n", *_members(module)]
    return "\n".join(text)


def _members(module: str) -> list[str]:
    from importlib import import_module

    found = import_module(module)
    names = getattr(found, "__all__", None) or [
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(module)
    ]
    return [f"::: {getattr(getattr(found, name), '__module__', module)}.{name}\n" for name in sorted(names)]
