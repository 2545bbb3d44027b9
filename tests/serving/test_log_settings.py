"""Is logged what was asked for over the wire, by every replica, and in no file that the wire named?"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Invalid
from serving.log_settings import FILE, LOOK_S, Logs, LogSettings, document, follow

log = logging.getLogger("turnout.a.test")
BOOLS = st.none() | st.booleans()
ASKED = st.fixed_dictionaries(
    {},
    optional={
        "log_file": st.just("") | st.none(),
        "log_info": BOOLS,
        "log_warning": BOOLS,
        "log_error": BOOLS,
        "log_verbose_level": st.none() | st.integers(0, (1 << 32) - 1),
        "log_format": st.sampled_from(["default", "ISO8601", None]),
    },
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logs(folder: Path, stream: io.StringIO) -> Iterator[Logs]:
    logs = Logs(folder, stream)
    yield logs
    logs.close()


def speak() -> None:
    """Log an event of every severity."""
    for level, word in ((10, "detail"), (20, "news"), (30, "doubt"), (40, "fault")):
        log.log(level, word)


@given(ASKED, ASKED)
def test_a_setting_stays_until_it_is_changed_and_null_takes_it_back(first: dict, second: dict) -> None:
    unset = document(LogSettings())
    said = document(LogSettings().changed(first).changed(second))
    for name, value in said.items():
        asked = second.get(name, first.get(name)) if name in second or name in first else None
        assert value == (unset[name] if asked is None else asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"log_file": "/tmp/x"}, "no file is named over the wire"),
        ({"log_file": 1}, "no file is named over the wire"),
        ({"log_info": "yes"}, "expected true or false"),
        ({"log_verbose_level": -1}, "expected a whole number, 0 or more"),
        ({"log_verbose_level": 1 << 32}, "expected at most 4294967295"),
        ({"log_format": "XML"}, "expected 'default' or 'ISO8601'"),
        ({"log_infos": True}, "no such setting; known: log_file, log_info"),
    ],
)
def test_what_cannot_be_set_is_refused_and_changes_nothing(logs: Logs, asked: dict, message: str) -> None:
    with pytest.raises(Invalid, match=re.escape(message)):
        logs.change({"log_error": False, **asked})
    assert logs.look() == LogSettings()


@given(ASKED)
def test_exactly_what_is_wanted_is_logged(asked: dict) -> None:
    stream = io.StringIO()
    logs = Logs(stream=stream)
    try:
        settings = logs.change(asked)
        speak()
    finally:
        logs.close()
    wanted = (settings.log_verbose_level > 0, settings.log_info, settings.log_warning, settings.log_error)
    words = [word for word, told in zip(("detail", "news", "doubt", "fault"), wanted, strict=True) if told]
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == words


def test_the_time_is_written_as_the_format_says(logs: Logs, stream: io.StringIO) -> None:
    logs.change({"log_format": "ISO8601"})
    log.warning("one")
    logs.change({"log_format": "default"})
    log.warning("two")
    iso, default = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING turnout\.a\.test one", iso)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING turnout\.a\.test two", default)


def test_the_other_replicas_of_the_node_follow(logs: Logs, folder: Path) -> None:
    other = Logs(folder, io.StringIO())
    try:
        assert other.look() == LogSettings()
        for level in range(5):
            logs.change({"log_verbose_level": level})
            assert other.look() == logs.settings == LogSettings(log_verbose_level=level)
        other.change({"log_info": True})
        assert logs.look() == LogSettings(log_info=True, log_verbose_level=4)
        assert Logs(folder).look() == logs.settings
    finally:
        other.close()


def test_who_has_nothing_else_to_look_at_follows_until_it_is_told_not_to(logs: Logs, folder: Path) -> None:
    other = Logs(folder, io.StringIO())

    async def changed() -> None:
        following = asyncio.create_task(follow(other))
        await asyncio.sleep(0)
        logs.change({"log_info": True})
        async with asyncio.timeout(20 * LOOK_S):
            while other.settings != logs.settings:
                await asyncio.sleep(LOOK_S / 10)
        following.cancel()

    try:
        asyncio.run(changed())
    finally:
        other.close()


@pytest.mark.parametrize("content", ["nonsense", "[1]", '{"log_file": "/tmp/x"}', '{"log_info": 7}'])
def test_a_file_that_no_replica_wrote_counts_nothing(folder: Path, content: str) -> None:
    (folder / FILE).write_text(content)
    (folder / FILE).chmod(0o600)
    logs = Logs(folder, io.StringIO())
    try:
        assert logs.look() == LogSettings()
    finally:
        logs.close()


def test_the_file_is_the_user_s_alone(logs: Logs, folder: Path) -> None:
    logs.change({"log_info": True})
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert json.loads((folder / FILE).read_text())["log_info"] is True


def test_logging_is_left_as_it_was_found(folder: Path, stream: io.StringIO) -> None:
    root = logging.getLogger("turnout")
    before = root.level, root.propagate, [*root.handlers]
    logs = Logs(folder, stream)
    assert (root.level, root.propagate, root.handlers) == before
    logs.change({"log_info": True})
    logs.close()
    assert (root.level, root.propagate, root.handlers) == before
