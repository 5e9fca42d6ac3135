"""The site is built without a network, strictly (every link is found), and holds every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
yaml_text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_every_page_is_in_the_contents() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if f": {page}\n" not in yaml_text} == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="the site needs mkdocs-material: pip install 'fabricsim[docs]'")
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--site-dir", str(folder)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.slow
def test_the_pages_fetch_nothing_and_the_search_has_the_keys(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", page.read_text())
        assert [url for url in fetched if "stylesheet" in url or url.endswith((".js", ".css"))] == []
    assert "max_num_batched_tokens" in (site / "search" / "search_index.json").read_text()
    assert "least_connections" in (site / "keys.html").read_text()
    assert "simulate" in (site / "api.html").read_text()
    assert "why_is_tp16_slower_than_tp8" in (site / "gallery.html").read_text()
