from __future__ import annotations

import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.config import Config, ConfigError, Section, Server, address, load, parse

SETTINGS = [
    (section, name)
    for section, field in Config.model_fields.items()
    for name in typing.cast("type[Section]", field.annotation).model_fields
]


def mistakes(document: dict) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(document, "turnout.toml")
    return str(caught.value).splitlines()


def test_an_empty_configuration_is_the_default_one(tmp_path):
    path = tmp_path / "turnout.toml"
    path.write_text("")
    assert load(path) == Config() == parse({})


def test_what_is_written_is_what_is_read(tmp_path):
    path = tmp_path / "turnout.toml"
    path.write_text('[repository]\npath = "m"\npoll_s = 5\n[engine]\ndevice = "cpu"\n')
    config = load(path)
    assert config.repository.path == Path("m")
    assert config.repository.poll_s == 5.0
    assert config.engine.device == "cpu"


def test_each_mistake_has_a_line_of_its_own():
    lines = mistakes(
        {"queue": {"requests_max": 0}, "engine": {"threads": "two"}, "metrics": {"enable": True}}
    )
    assert len(lines) == 3
    assert all(line.startswith("turnout.toml: ") for line in lines)
    assert lines[0].startswith("turnout.toml: queue.requests_max = 0: ")
    assert lines[1].startswith("turnout.toml: engine.threads = 'two': ")
    assert lines[2] == "turnout.toml: metrics.enable: unknown setting; did you mean 'enabled'?"


@pytest.mark.parametrize(("section", "name"), SETTINGS)
def test_a_misspelt_setting_is_answered_with_the_nearest_name(section, name):
    (line,) = mistakes({section: {name + "x": 1}})
    assert line == f"turnout.toml: {section}.{name}x: unknown setting; did you mean {name!r}?"


def test_a_misspelt_section_is_answered_with_the_nearest_name():
    assert mistakes({"severs": {}}) == ["turnout.toml: severs: unknown setting; did you mean 'server'?"]


def test_a_setting_like_no_other_is_answered_with_all_of_them():
    assert mistakes({"metrics": {"q": 1}}) == [
        "turnout.toml: metrics.q: unknown setting; known here: enabled"
    ]


@given(st.sampled_from(SETTINGS), st.recursive(st.none() | st.text() | st.floats(), st.lists, max_leaves=3))
def test_any_value_is_taken_or_named_in_the_mistake(setting, value):
    section, name = setting
    try:
        parse({section: {name: value}}, "turnout.toml")
    except ConfigError as error:
        assert f"turnout.toml: {section}" in str(error)
        assert name in str(error)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "[::1]"])
def test_loopback_may_be_bound(host):
    assert Server(http=f"{host}:0").http == f"{host}:0"


@pytest.mark.parametrize("name", ["http", "metrics", "admin"])
@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "[::]"])
def test_beyond_loopback_is_bound_only_where_the_configuration_says_so_by_name(name, host):
    (line,) = mistakes({"server": {name: f"{host}:80"}})
    bare = host.strip("[]")
    assert f'reachable from other machines; if that is meant, say expose = ["{bare}"]' in line
    assert getattr(parse({"server": {name: f"{host}:80", "expose": [bare]}}).server, name) == f"{host}:80"


def test_exposing_one_address_exposes_no_other():
    (line,) = mistakes({"server": {"http": "0.0.0.0:80", "expose": ["192.0.2.1"]}})
    assert 'say expose = ["0.0.0.0"]' in line


@pytest.mark.parametrize(
    "text",
    ["", "8000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "localhost:80", "127.0.0.1:٣"],
)
def test_an_address_that_cannot_be_bound_is_refused(text):
    with pytest.raises(ValueError, match="expected ADDRESS:PORT|is no IP address"):
        address(text)
    assert len(mistakes({"server": {"http": text}})) == 1


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_is_split_into_the_host_and_port_it_was_made_of(ip, port):
    host = f"[{ip}]" if ip.version == 6 else str(ip)
    assert address(f"{host}:{port}") == (str(ip), port)


def test_a_certificate_needs_its_key():
    (line,) = mistakes({"server": {"tls_certificate": "c.pem"}})
    assert "tls_certificate and tls_key go together" in line


def test_a_home_folder_is_found():
    config = parse({"repository": {"path": "~/models"}})
    assert config.repository.path == Path.home() / "models"


@pytest.mark.parametrize("device", ["auto", "cpu", "gpu"])
def test_devices_are_named(device):
    assert parse({"engine": {"device": device}}).engine.device == device


def test_an_unknown_device_is_answered_with_the_known_ones():
    (line,) = mistakes({"engine": {"device": "tpu"}})
    assert all(name in line for name in ("'tpu'", "'auto'", "'cpu'", "'gpu'"))


def test_a_file_that_is_absent_or_no_toml_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent.toml: No such file"):
        load(tmp_path / "absent.toml")
    for name, content in {"bad.toml": b"[server\n", "latin.toml": b'x = "\xe9"\n'}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name}: not valid TOML"):
            load(tmp_path / name)


def test_a_configuration_does_not_change_while_it_is_used():
    with pytest.raises(ValidationError, match="frozen"):
        Config().queue.requests_max = 1


def test_the_state_is_kept_in_the_user_s_home_where_nothing_else_is_said() -> None:
    """The default was taken as it stands, for a folder called ``~`` below the working one."""
    assert Config().repository.state == Path.home() / ".local" / "state" / "turnout"
