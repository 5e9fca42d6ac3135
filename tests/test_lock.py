"""The lock file: every dependency with digests, no place to take it from; what an audit says of it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from tests.audit import told

ROOT = Path(__file__).parents[1]


def test_the_lock_has_every_dependency_with_digests_and_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links", text)
    pinned = re.split(r"\n(?=\w)", text.strip())
    assert all(re.match(r"[\w.-]+==\S+", one) and "--hash=sha256:" in one for one in pinned)
    names = {one.partition("==")[0] for one in pinned}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *optional["dev"], *optional["calibrate"], *optional["sweep"]]
    own = [one for one in wanted if one.startswith("fabricsim[")]
    for extras in own:
        wanted += [one for extra in extras.split("[")[1].split("]")[0].split(",") for one in optional[extra]]
    found = {re.match(r"[\w.-]+", one)[0].lower() for one in wanted if one not in own}  # type: ignore[index]
    assert found <= names


def test_an_audit_that_reached_nothing_is_no_success_and_says_so() -> None:
    whole = {"dependencies": [{"name": "a", "version": "1", "vulns": []}]}
    assert told(json.dumps(whole), "") == (0, "audit: 1 releases, no known vulnerability")
    status, text = told("", "ConnectionError: no route")
    assert (status, text) == (
        1,
        (
            "audit: the index of vulnerabilities cannot be reached; nothing was audited "
            "(ConnectionError: no route)"
        ),
    )
    skipped = {"dependencies": [{"name": "a", "skip_reason": "not found"}]}
    assert told(json.dumps(skipped), "") == (
        1,
        "audit: 1 of 1 releases are not in the index that is reached here; nothing was audited",
    )
    vulnerable = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    assert told(json.dumps({"dependencies": [vulnerable]}), "") == (1, "a 1: CVE-1, mended in 2")
