from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import access, brake, private
from serving.access import NoAccess, announce, control_folder, find, place, running, token, withdraw
from serving.config import Config, parse
from serving.private import NotPrivate
from serving.traffic import read_brakes

URL = "http://127.0.0.1:8003"


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def folder(tmp_path) -> Path:
    return private.private(tmp_path / "control")


def configured(tmp_path: Path, name: str = "models") -> Config:
    return parse({"repository": {"path": str(tmp_path / name), "state": str(tmp_path / "state")}})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def ended() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return process.pid


def test_each_repository_has_a_private_folder_of_its_own(tmp_path):
    one, other = (control_folder(configured(tmp_path, name)) for name in ("models", "others"))
    assert one != other
    assert one.parent == tmp_path / "state" / "traffic"
    assert mode(one) == mode(other) == 0o700


def test_a_repository_has_one_folder_under_all_of_its_names(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "link").symlink_to("models")
    monkeypatch.chdir(tmp_path)
    relative = parse({"repository": {"path": "models", "state": "state"}})
    places = {place(configured(tmp_path, name)) for name in ("models", "link", "./x/../models")} | {
        place(relative)
    }
    assert len(places) == 1


def test_a_folder_that_others_may_enter_is_refused(tmp_path):
    place(configured(tmp_path)).mkdir(parents=True, mode=0o755)
    with pytest.raises(NotPrivate, match="others may enter .*; chmod 700 it"):
        control_folder(configured(tmp_path))


def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path):
    where = place(configured(tmp_path))
    where.parent.mkdir(parents=True)
    where.symlink_to(private.private(tmp_path / "elsewhere"))
    with pytest.raises(NotPrivate, match="is no folder"):
        control_folder(configured(tmp_path))


def test_a_token_is_made_once_and_read_by_its_owner_alone(folder):
    first = token(folder)
    assert len(first) >= 43
    assert first == token(folder)
    assert mode(folder / "token") == 0o600
    assert [path.name for path in folder.iterdir()] == ["token"]


def test_no_two_tokens_are_the_same(tmp_path):
    assert len({token(private.private(tmp_path / str(number))) for number in range(20)}) == 20


def test_many_that_start_at_once_have_one_token(folder):
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: token(folder), range(64)))) == 1


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
def test_a_token_that_others_could_have_read_or_written_is_refused(folder, bits):
    token(folder)
    (folder / "token").chmod(bits)
    with pytest.raises(NotPrivate, match="others may read .*token, so it is not trusted; chmod 600"):
        token(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a file away")
def test_a_token_of_another_user_is_refused(folder):
    token(folder)
    os.chown(folder / "token", 12345, 12345)
    with pytest.raises(NotPrivate, match="belongs to another user"):
        token(folder)


def test_a_token_that_is_a_link_a_folder_or_a_pipe_is_refused(folder, tmp_path):
    (tmp_path / "planted").write_text("x" * 43)
    (tmp_path / "planted").chmod(0o600)
    path = folder / "token"
    path.symlink_to(tmp_path / "planted")
    with pytest.raises(NotPrivate):
        token(folder)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotPrivate):
        token(folder)
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(NotPrivate):
        token(folder)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(NotPrivate, match="is no file"):
        token(folder)


@given(st.text(max_size=80))
def test_what_a_token_file_holds_is_a_token_or_refused(tmp_path_factory, text):
    folder = private.private(tmp_path_factory.mktemp("token") / "control")
    private.create(folder / "token", text.encode(errors="replace").decode())
    try:
        found = token(folder)
    except NoAccess as error:
        assert "holds no token" in str(error)
    else:
        assert len(found) >= 32 and found.isprintable() and found.isascii() and found == found.strip()


def test_a_gateway_that_announced_itself_is_found_with_its_token(folder):
    announce(folder, URL, "the models")
    (said,) = running()
    assert (said.url, said.folder, said.repository, said.pid) == (URL, folder, "the models", os.getpid())
    found = None
    with pytest.raises(NoAccess, match="token is gone"):
        find()
    made = token(folder)
    found = find()
    assert (found.url, found.token, found.folder) == (URL, made, folder)
    assert made not in repr(found)
    assert mode(access.running_folder()) == 0o700
    assert mode(access.running_folder() / "8003.json") == mode(folder / "admin") == 0o600


def test_a_gateway_without_a_home_is_found_by_its_configuration(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    config = configured(tmp_path)
    made = token(control_folder(config))
    announce(control_folder(config), URL)
    assert find(None, config) == access.Access(URL, made, place(config))
    withdraw(control_folder(config), URL)
    with pytest.raises(NoAccess):
        find(None, config)


def test_one_that_withdrew_is_found_no_more_and_one_of_another_process_stays(folder):
    announce(folder, URL)
    announce(folder, "http://127.0.0.1:9000")
    path = access.running_folder() / "9000.json"
    said = json.loads(path.read_text())
    for each in (path, folder / "admin"):
        each.write_text(json.dumps({**said, "pid": os.getppid(), "born": access._born(os.getppid())}))
    for url in (URL, "http://127.0.0.1:9000"):
        withdraw(folder, url)
    assert [each.url for each in running()] == ["http://127.0.0.1:9000"]
    assert (folder / "admin").exists()


def test_what_ended_without_a_word_is_forgotten(folder):
    announce(folder, URL)
    path = access.running_folder() / "8003.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "pid": ended()}))
    assert running() == []
    assert not path.exists()


def test_a_later_process_with_the_id_of_an_earlier_one_is_another(folder):
    announce(folder, URL)
    path = access.running_folder() / "8003.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "born": "1"}))
    assert running() == []


def test_no_gateway_and_several_are_answered_with_what_to_say(folder, tmp_path):
    with pytest.raises(NoAccess, match="no gateway of yours runs here; `turnout serve` starts one"):
        find()
    other = private.private(tmp_path / "other")
    announce(folder, URL, "models one")
    announce(other, "http://127.0.0.1:9000", "models two")
    with pytest.raises(NoAccess) as caught:
        find()
    first, *lines = str(caught.value).splitlines()
    assert first == "several gateways run; say which is meant with --admin URL or --config FILE"
    assert [line.split("  ")[1:3] for line in lines] == [
        [URL, "models one"],
        ["http://127.0.0.1:9000", "models two"],
    ]


@pytest.mark.parametrize(
    "said", [URL, f"{URL}/", "127.0.0.1:8003", "localhost:8003", "http://localhost:8003/"]
)
def test_a_url_that_is_said_finds_the_token_that_was_announced_for_it(folder, tmp_path, said):
    token(folder)
    announce(folder, URL)
    announce(private.private(tmp_path / "other"), "http://127.0.0.1:9000")
    assert (find(said).url, find(said).token) == (URL, token(folder))


def test_a_url_of_elsewhere_takes_the_token_of_the_environment_and_no_other(folder, monkeypatch):
    announce(folder, URL)
    token(folder)
    with pytest.raises(NoAccess, match="put it into TURNOUT_TOKEN"):
        find("http://192.0.2.1:8003")
    monkeypatch.setenv("TURNOUT_TOKEN", "x" * 43)
    assert find("https://192.0.2.1:8003/admin").token == "x" * 43
    assert find("https://192.0.2.1:8003/admin").url == "https://192.0.2.1:8003/admin"
    assert find().token == token(folder)


NO_URLS = ["ftp://127.0.0.1:1", "http://", "http://u:p@127.0.0.1", "http://127.0.0.1:x", "http://a/?q", ":0"]
NO_URLS += [
    "http://a/#f",
    "http://127.0.0.1:99999",
    "http://a b",
    "http://ä",
    "http://a\r\nHost: x",
    "http://a:0",
]


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_of_an_admin_application_is_refused(url):
    with pytest.raises(NoAccess, match="is no URL of an admin application"):
        find(url)


def test_the_more_explicit_word_counts(folder, tmp_path, monkeypatch):
    config = configured(tmp_path)
    ours, envs = control_folder(config), private.private(tmp_path / "env")
    for number, each in enumerate((folder, ours, envs)):
        announce(each, f"http://127.0.0.1:{9000 + number}")
        token(each)
    monkeypatch.setenv("TURNOUT_ADMIN", "http://127.0.0.1:9002")
    assert find("http://127.0.0.1:9000", config).folder == folder
    assert find(None, config).folder == ours
    assert find().folder == envs


def test_a_configuration_of_which_no_gateway_runs_is_named(tmp_path):
    config = configured(tmp_path)
    with pytest.raises(NoAccess, match="no gateway runs for .*models; `turnout serve`"):
        find(None, config)
    assert not place(config).exists()
    where = control_folder(config)
    announce(where, URL)
    path = where / "admin"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": ended()}))
    with pytest.raises(NoAccess, match="the last one, process .* has ended"):
        find(None, config)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"url": 1}', '{"url": "http://u@h", "folder": "x"}', "\0"]
)
def test_an_announcement_that_is_none_keeps_nobody_from_the_others(folder, tmp_path, content):
    config = configured(tmp_path)
    announce(control_folder(config), "http://127.0.0.1:9000")
    announce(folder, URL)
    for path in (access.running_folder() / "9000.json", control_folder(config) / "admin"):
        path.write_text(content)
    assert [each.url for each in running()] == [URL]
    with pytest.raises(NoAccess, match="admin is not what a gateway wrote; remove it"):
        find(None, config)


def test_announcements_that_others_could_have_written_are_refused(folder):
    announce(folder, URL)
    (access.running_folder() / "8003.json").chmod(0o622)
    with pytest.raises(NotPrivate, match="not trusted"):
        find()
    access.running_folder().chmod(0o777)
    with pytest.raises(NotPrivate, match="not trusted"):
        find()


def test_a_brake_is_what_the_replicas_read(folder):
    assert brake.pull(folder, "digits") == folder / "brake" / "digits"
    brake.pull(folder, "wine", "7")
    assert read_brakes(folder / "brake") == {"digits": "", "wine": "7"}
    assert brake.release(folder, "digits")
    assert not brake.release(folder, "digits")
    assert read_brakes(folder / "brake") == {"wine": "7"}
    assert [path.name for path in folder.iterdir()] == ["brake"]


def test_a_brake_that_was_never_pulled_can_be_released(folder):
    assert not brake.release(folder, "digits")
    assert list(folder.iterdir()) == []


def test_every_pull_and_release_shows_in_the_time_of_the_folder(folder):
    brake.pull(folder, "digits")
    seen = set()
    for number in range(1, 41):
        if number % 2:
            brake.release(folder, "digits")
        else:
            brake.pull(folder, "digits", str(number))
        seen.add((folder / "brake").stat().st_mtime_ns)
    assert len(seen) == 40
