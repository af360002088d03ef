from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from assistant.events import Sensitivity
from assistant.switches import Switches


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "switches.json"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_new_home_listens_everywhere(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    switches = Switches(path)

    assert switches.own(None)
    assert switches.listening("kitchen")
    assert switches.sensitivity("kitchen") is Sensitivity.BALANCED
    assert not path.exists()
    assert warnings(caplog) == []


def test_switches_survive_a_restart(path: Path) -> None:
    first = Switches(path)
    assert first.set_listening("kitchen", on=False)
    assert first.set_sensitivity("台所", Sensitivity.MOST)

    again = Switches(path)
    assert (again.listening("kitchen"), again.listening("台所"), again.own(None)) == (False, True, True)
    assert again.sensitivity("台所") is Sensitivity.MOST
    assert again.sensitivity("kitchen") is Sensitivity.BALANCED


def test_a_room_listens_when_its_own_switch_and_that_of_the_house_are_on(path: Path) -> None:
    switches = Switches(path)
    switches.set_listening("kitchen", on=False)
    switches.set_listening(None, on=False)
    assert (switches.listening("hall"), switches.own("hall"), switches.own("kitchen")) == (False, True, False)

    switches.set_listening(None, on=True)
    assert (switches.listening("hall"), switches.listening("kitchen")) == (True, False)


def test_what_changes_nothing_is_told_and_not_written(path: Path) -> None:
    switches = Switches(path)
    assert not switches.set_listening("kitchen", on=True)
    assert not switches.set_listening(None, on=True)
    assert not path.exists()
    assert switches.set_sensitivity("kitchen", Sensitivity.FEWER)
    assert not switches.set_sensitivity("kitchen", Sensitivity.FEWER)


def test_the_configured_sensitivity_counts_until_a_room_has_its_own(path: Path) -> None:
    switches = Switches(path, Sensitivity.FEWER)
    assert switches.sensitivity("kitchen") is Sensitivity.FEWER
    assert not switches.set_sensitivity("kitchen", Sensitivity.FEWER)  # chosen now, though nothing moved

    assert Switches(path, Sensitivity.MOST).sensitivity("kitchen") is Sensitivity.FEWER
    assert Switches(path, Sensitivity.MOST).sensitivity("hall") is Sensitivity.MOST


def test_rooms_that_are_not_configured_now_are_kept(path: Path) -> None:
    Switches(path).set_listening("attic", on=False)
    Switches(path).set_listening("kitchen", on=False)

    assert not Switches(path).listening("attic")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"listening": "no"}',
        b'{"rooms": []}',
        b'{"rooms": {"kitchen": {"listening": 3}}}',
        b'{"rooms": {"kitchen": {"sensitivity": "high"}}}',
    ],
)
def test_a_broken_file_is_one_warning_and_the_next_change_repairs_it(
    content: bytes, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    switches = Switches(path)

    assert switches.listening("kitchen")
    assert switches.sensitivity("kitchen") is Sensitivity.BALANCED
    (line,) = warnings(caplog)
    assert str(path) in line
    assert "delete the file" in line

    switches.set_listening("kitchen", on=False)
    assert not Switches(path).listening("kitchen")
    assert len(warnings(caplog)) == 1


def test_keys_of_a_later_version_are_no_harm(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps({"schema": 2, "rooms": {"kitchen": {"listening": False, "hold": 3}}}))

    assert not Switches(path).listening("kitchen")
    assert warnings(caplog) == []


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    switches = Switches(tmp_path / "file" / "switches.json")
    caplog.clear()

    switches.set_listening("kitchen", on=False)
    switches.set_listening("hall", on=False)
    assert not switches.listening("kitchen")
    (line,) = warnings(caplog)
    assert str(switches.path) in line
    assert "check its owner" in line


def test_a_folder_in_place_of_the_file_is_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir(parents=True)

    assert Switches(path).listening("kitchen")
    assert "check its owner" in warnings(caplog)[0]


def test_no_temporary_file_is_left(path: Path) -> None:
    Switches(path).set_listening(None, on=False)

    assert os.listdir(path.parent) == ["switches.json"]  # noqa: PTH208
