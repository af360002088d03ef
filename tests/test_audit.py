"""What `make audit` says of what pip-audit found."""

from __future__ import annotations

from typing import Any

import pytest
from audit import verdict

SOUND: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
HURT: dict[str, Any] = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"], "aliases": []}]}
UNKNOWN: dict[str, Any] = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1)"}


@pytest.mark.parametrize(
    ("found", "said", "code"),
    [
        ("Failed to resolve 'pypi.org'", "audit: not done, nobody can be asked here: Failed to resolve", 0),
        ({"dependencies": [UNKNOWN, UNKNOWN]}, "audit: not done, .* knows none of 2 packages", 0),
        ({"dependencies": [SOUND, UNKNOWN]}, "audit: 0 known vulnerabilities in 1 packages, 1 are not known there", 0),
        ({"dependencies": [SOUND, HURT]}, "b 2: PYSEC-1; remedy: 3\naudit: 1 known vulnerabilities in 2 packages", 1),
    ],
)
def test_what_is_said(found: Any, said: str, code: int) -> None:
    lines, exit_code = verdict(found)
    assert exit_code == code
    with pytest.raises(AssertionError, match=said):
        raise AssertionError("\n".join(lines))
