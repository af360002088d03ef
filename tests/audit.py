"""`make audit`: known vulnerabilities of what is installed, as far as somebody can be asked; at most half a minute.

Fails when there is one. Says in one line when nobody could be asked, so that a check without network goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SECONDS = 30


def report() -> dict[str, Any] | str:
    """What pip-audit found; a text: why it could not."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--format=json",
        "--progress-spinner=off",
        "--timeout=5",
        "--skip-editable",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} s"
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        lines = done.stderr.strip().splitlines() or ["pip-audit said nothing"]
        return lines[-1][:150]


def verdict(found: dict[str, Any] | str) -> tuple[list[str], int]:
    """The lines to print and the exit code."""
    if isinstance(found, str):
        return [f"audit: not done, nobody can be asked here: {found}"], 0
    asked = [package for package in found["dependencies"] if "skip_reason" not in package]
    unknown = len(found["dependencies"]) - len(asked)
    if not asked:
        return [f"audit: not done, what is asked here (PyPI's JSON API) knows none of {unknown} packages"], 0
    bad = [(package, one) for package in asked for one in package["vulns"]]
    lines = [
        f"{package['name']} {package['version']}: {one['id']}; remedy: "
        + (f"{' or '.join(one['fix_versions'])}" if one["fix_versions"] else "none is published yet")
        for package, one in bad
    ]
    rest = f", {unknown} are not known there" if unknown else ""
    return [*lines, f"audit: {len(bad)} known vulnerabilities in {len(asked)} packages{rest}"], 1 if bad else 0


if __name__ == "__main__":
    said, code = verdict(report())
    print("\n".join(said), file=sys.stderr if code else sys.stdout)
    raise SystemExit(code)
