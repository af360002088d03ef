"""The HTTP API against its own description: schemathesis asks what nobody should, and what it describes."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from houses import House

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise

EXAMPLES = int(os.environ.get("KIKIMIMI_API_EXAMPLES", "10"))  # for each route
# Starlette's `Allow` names the methods of one of several routes of the same path.
EXCLUDED = "allow_header_conformance"

# A configuration that means nothing has the shape that is described all the same; a new start ends the connection.
SPECIAL = """
[[operations]]
include-tag = ["rules", "configuration", "setup"]
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 422]

[[operations]]
include-path = "/api/setup/restart"
enabled = false
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_it_does_what_it_describes(house: Callable[..., House], tmp_path: Path) -> None:
    recording = tmp_path / "kitchen.wav"
    soundfile.write(recording, noise(600.0, -60.0), SAMPLE_RATE, subtype="PCM_16")
    (tmp_path / "schemathesis.toml").write_text(SPECIAL)
    here = house().start("--source", f"kitchen={recording}")
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{here.url}api/openapi.json", "--seed", "1",
        "--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing", "--request-timeout", "20",
        "--no-color", "--generation-database", "none", "--exclude-checks", EXCLUDED,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path, env=dict(os.environ)
    )
    told = (await process.communicate())[0].decode()
    assert process.returncode == 0, told[-6000:]
    count = re.search(r"(\d+) generated", told)
    assert count is not None, told
    assert int(count[1]) > 100
    assert "Traceback" not in here.log.read_text()
