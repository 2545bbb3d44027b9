from __future__ import annotations

import json
import os
import pwd
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from router.entry import BrokenChain, Entry
from router.intent import Alias, Mirror, Pin, Promote, Rollback, Split, Stick, Unpin
from router.table import Sticky
from serving import access, cli
from serving.access import control_folder, place, token
from serving.admin.audit import verify
from serving.config import load
from serving.journal.journal import Journal
from serving.orders import Order
from serving.traffic import read_brakes
from tests.controlling import Administered, Deciding, announced

HEAVY = {"fastapi", "numpy", "onnxruntime", "pydantic", "ray", "sqlalchemy", "starlette", "uvicorn"}
LOGIN = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def models(tmp_path) -> Path:
    for name in ("digits", "wine"):
        (tmp_path / "models" / name).mkdir(parents=True)
    return tmp_path / "models"


@pytest.fixture
def control() -> Deciding:
    return Deciding(digits="7", wine="1")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = access.private(tmp_path_factory.mktemp("gateway") / "control")
    with Administered(Deciding(), token(folder)) as running:
        yield running, folder


@pytest.fixture
def folder(server) -> Path:
    """Return the private folder of the gateway that is served."""
    return server[1]


@pytest.fixture
def served(server, models):
    """Announce a gateway with a new control, with version 7 of digits live."""
    running, folder = server
    running.control.__init__(digits="7", wine="1")
    access.announce(folder, running.url, str(models))
    yield running
    access.withdraw(folder, running.url)


@pytest.fixture
def turnout(capsys):
    """Run a command; return its exit code, its lines and what it complained of."""

    def run(*arguments: str) -> tuple[int, list[str], str]:
        code = cli.main(arguments)
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


def configuration(tmp_path: Path, models: Path) -> Path:
    path = tmp_path / "turnout.toml"
    path.write_text(f'[repository]\npath = "{models}"\nstate = "{tmp_path}/state"\n')
    return path


@pytest.mark.parametrize(
    ("command", "intent"),
    [
        ("split digits 8=5% 7=95% --why x", Split("digits", (("8", 500), ("7", 9500)))),
        ("split models:/digits @champion=100% --why x", Split("digits", (("@champion", 10000),))),
        ("shadow digits 9=20% --why x", Mirror("digits", (("9", 2000),))),
        ("shadow digits none --why x", Mirror("digits", ())),
        (
            "stick digits --key header:x-user-id --key id --salt exp-1 --why x",
            Stick("digits", Sticky(("header:x-user-id", "id"), "exp-1")),
        ),
        ("stick digits --off --why x", Stick("digits", None)),
        ("promote digits 7 --why x", Promote("digits", "7")),
        ("promote models:/digits@champion --why x", Promote("digits", "@champion")),
        ("rollback digits", Rollback("digits")),
        ("undo digits", Rollback("digits")),
        ("rollback digits --to 7", Rollback("digits", "7")),
        ("rollback digits --to @champion", Rollback("digits", "@champion")),
        ("rollback digits --to last-good", Rollback("digits", "last-good")),
        ("rollback models:/digits/7", Rollback("digits", "7")),
        ("rollback digits --to-revision 1", Rollback("digits", "", 1)),
        ("pin digits 7 --why x", Pin("digits", "7")),
        ("pin digits@7 --why x", Pin("digits", "7")),
        ("unpin digits", Unpin("digits")),
        ("alias digits champion=7", Alias("digits", "champion", "7")),
        ("alias digits champion=", Alias("digits", "champion", None)),
    ],
)
def test_each_verb_asks_for_what_it_says(turnout, served, command, intent):
    served.change("digits", "alias", alias="champion", version="7")
    served.change("digits", "split", weights={"8": "5%", "7": "95%"}, why="so that there is a last good one")
    served.control.asked.clear()
    code, lines, complaint = turnout(*command.split(), "--dry-run", "--atomic", "--if-revision", "4")
    assert (code, complaint) == (0, "")
    assert served.control.asked == [(intent, {"dry_run": True, "atomic": True, "if_revision": 4})]
    assert "dry run, nothing was done" in lines[0]


@pytest.mark.parametrize(
    ("command", "order", "says"),
    [
        ("load digits", Order(), "digits: loaded, in 1.2 ms"),
        (
            "load models:/digits --override own.json",
            Order(config="{}"),
            "digits: loaded, with a configuration",
        ),
        ("unload digits --by ann", Order(loaded=False), "digits: unloaded, in 1.2 ms"),
    ],
)
def test_models_are_loaded_and_unloaded(turnout, served, tmp_path, monkeypatch, command, order, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.json").write_text("{}")
    code, lines, complaint = turnout(*command.split())
    assert (code, complaint) == (0, "")
    assert served.control.ordered == [("digits", order, "ann" if "ann" in command else LOGIN)]
    assert lines[0].startswith(says)
    assert lines[1:] == ["  done  r1, r2"]


def test_a_replica_that_did_not_say_that_it_has_loaded_is_code_one(turnout, served):
    served.control.missing = ("r2",)
    code, lines, _ = turnout("load", "digits")
    assert (code, lines[1:]) == (1, ["  done     r1", "  missing  r2"])


def test_a_change_is_told_with_the_command_that_undoes_it(turnout, served):
    code, lines, _ = turnout("split", "digits", "8=5%", "7=95%", "--why", "canary of 8")
    assert code == 0
    assert lines == [
        "digits: split confirmed as revision 3, in 1.2 ms",
        "  now           8=5% 7=95%",
        "  acknowledged  r1, r2",
        "  undo          turnout rollback digits --to-revision 2",
    ]
    entry = list(served.control.history)[-1]
    assert (entry.by, entry.why) == (LOGIN, "canary of 8")
    assert turnout(*lines[-1].split()[2:])[0] == 0
    assert str(served.control.history.table.routes["digits"]) == "7=100%"


def test_the_command_that_undoes_reaches_the_same_gateway(turnout, served):
    _, lines, _ = turnout("alias", "digits", "champion=7", "--admin", served.url)
    assert lines[-1] == f"  undo          turnout alias digits champion= --admin {served.url}"
    assert turnout(*lines[-1].split()[2:])[0] == 0
    assert not served.control.history.table.aliases


def test_what_is_not_confirmed_says_so_and_is_code_one(turnout, served):
    served.control.missing = ("r2",)
    code, lines, complaint = turnout("split", "digits", "8=100%", "--why", "x")
    assert (code, complaint) == (1, "")
    assert lines[0] == (
        "digits: split NOT CONFIRMED: revision 3 is in the journal, but 1 replica may still answer as before"
    )
    assert "  missing       r2" in lines
    assert turnout("split", "digits", "7=100%", "--why", "x", "--dry-run")[0] == 0


def test_what_was_so_already_says_so(turnout, served):
    code, lines, _ = turnout("split", "digits", "7=100%", "--why", "x")
    assert (code, lines[0]) == (
        0,
        "digits: split confirmed as revision 2, which had it so already, in 1.2 ms",
    )
    assert not any("undo" in line for line in lines)


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("promote digits 9 --why x", 1, "takes no traffic and shadows none"),
        ("split digits 7=100% --why x --if-revision 1", 1, "revision 2 is in force, not 1"),
        ("rollback digits --to-revision 9", 1, "there is no revision 9"),
        ("split digit 7=100% --why x", 2, "no route for 'digit'; known models: digits, wine"),
        ("split digits 7=90% --why x", 2, "the weights add up to 90%, not 100%"),
        ("status digit", 2, "no route for 'digit'"),
        ("shadow digits", 2, "compares no shadows"),
        ("history digits --at noon", 2, "query.at: 'noon' is no moment"),
        ("load nobody", 2, "nobody: the repository has no model of this name"),
        ("load broken", 1, "broken: version 1: it is broken"),
    ],
)
def test_a_no_is_code_one_and_a_mistake_code_two(turnout, served, command, code, says):
    got, lines, complaint = turnout(*command.split())
    assert (got, lines) == (code, [])
    assert complaint.startswith("turnout: ") and says in complaint
    got, lines, complaint = turnout(*command.split(), "--json")
    assert got == code
    assert says in json.loads("\n".join(lines))["error"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("split digits 8 --why x", "'8' is no VERSION=WEIGHT; 8=5% is"),
        ("split digits 8=5 --why x", "'5' is no weight"),
        ("split digits v8=5% --why x", "'v8' is no version"),
        ("split digits 8=5% 8=95% --why x", "version 8 has two weights, 5% and 95%"),
        ("split digits@8 8=100% --why x", "digits@8 names a version; here a model is meant, such as digits"),
        ("split ../x 8=100% --why x", "names no model"),
        ("shadow digits 9=5%", "--why says why"),
        ("stick digits --why x", "say by which --key"),
        ("stick digits --off --key id --why x", "say by which --key"),
        ("promote digits --why x", "name one version"),
        ("promote digits@7 8 --why x", "name one version"),
        ("promote digits champion --why x", "'champion' is no version"),
        ("rollback digits@7 --to 8", "names a version already"),
        ("rollback digits --to 8 --to-revision 1", "not both"),
        ("alias digits champion", "is no ALIAS=VERSION"),
        ("alias digits v7=7", "the alias 'v7' is reserved"),
        ("alias digits champion=@x", "'@x' is no version"),
        ("brake digits --to x", "'x' is no version"),
        ("brake digits --to 7 --release", "no version for it"),
        ("brake digit", "did you mean 'digits'?"),
        ("brake ../digits", "names no model"),
        ("status --admin http://127.0.0.1:1", "put it into TURNOUT_TOKEN"),
        ("status --config absent.toml", "absent.toml: No such file"),
        ("load digits --override /no/such.json", "/no/such.json: No such file or directory"),
        ("unload digits@7", "here a model is meant"),
    ],
)
def test_a_mistake_is_told_before_anybody_is_asked(turnout, served, command, says):
    code, lines, complaint = turnout(*command.split())
    assert (code, lines) == (2, [])
    assert says in complaint
    assert not served.control.asked


@pytest.mark.parametrize(
    "command",
    [
        "split digits 7=100%",
        "promote digits 7",
        "pin digits 7",
        "stick digits --off",
        "status --timeout 0",
        "status --timeout x",
        "rollback digits --if-revision -1",
        "split digits --why x",
        "audit",
        "audit burn",
    ],
)
def test_wrong_usage_is_code_two(command):
    with pytest.raises(SystemExit) as caught:
        cli.main(command.split())
    assert caught.value.code == 2


def test_status_says_how_traffic_stands(turnout, served):
    turnout("split", "digits", "8=5%", "7=95%", "--why", "canary of 8", "--by", "anna")
    turnout("shadow", "digits", "9=20%", "--why", "compare 9", "--by", "anna")
    turnout("stick", "digits", "--key", "id", "--salt", "s", "--why", "x", "--by", "ben")
    turnout("alias", "digits", "champion=7")
    code, lines, _ = turnout("status", "digits")
    assert code == 0
    assert lines == [
        "digits  8=5% 7=95% shadow:9=20%",
        "  revision 5, 2026-11-25 14:10:00Z, stick by ben: x",
        "  version  weight  share  ready in",
        "  9        -       -      2 of 2",
        "  8        5%      -      2 of 2",
        "  7        95%     -      2 of 2",
        "  shadows    9=20%",
        "  sticky     id; salt 's'",
        "  aliases    champion=7",
        "  dealt      no draws yet",
        "  last good  version 7 (turnout rollback digits)",
    ]
    _, everything, _ = turnout("status")
    assert everything[0] == "revision 6, term 1, 2 replicas"
    assert "wine  1=100%" in everything
    _, lines, _ = turnout("status", "--json")
    assert set(json.loads(lines[0])["models"]) == {"digits", "wine"}


def test_history_says_who_decided_what_and_what_was_in_force(turnout, served):
    turnout("split", "digits", "8=5%", "7=95%", "--why", "canary of 8", "--by", "anna")
    code, lines, _ = turnout("history", "digits", "--at", "2026-11-25 14:07")
    assert code == 0
    assert [line.split("  ")[0] for line in lines[:3]] == ["revision", "1", "3"]
    assert all(word in lines[2] for word in ("anna", "split", "7=100%", "8=5% 7=95%", "canary of 8"))
    assert lines[3] == "at 2026-11-25 14:07:00Z: 7=100% (revision 2)"
    _, lines, _ = turnout("history", "digits", "--at", "2026-11-25T15:08:00+01:00", "--json")
    assert json.loads(lines[0])["at"]["revision"] == 3


def test_what_others_wrote_cannot_move_the_cursor(turnout, served):
    turnout("split", "digits", "8=100%", "--why", "a\x1b[2Jb\nrevision 99", "--by", "e\rvil")
    for command in (["status"], ["status", "digits"], ["history", "digits"], ["audit", "show"]):
        _, lines, _ = turnout(*command)
        text = "\n".join(lines)
        assert "\x1b" not in text and "\r" not in text
        assert not any(line.startswith("revision 99") for line in lines)


def test_a_wrong_token_is_code_two(turnout, served, monkeypatch):
    monkeypatch.setenv("TURNOUT_TOKEN", "x" * 43)
    code, _, complaint = turnout("rollback", "digits", "--admin", served.url)
    assert code == 2
    assert "Authorization: Bearer TOKEN" in complaint
    assert not served.control.asked


def test_no_gateway_is_code_two_and_says_how_to_start_one(turnout):
    for command in (["rollback", "digits"], ["status"], ["audit", "verify"], ["brake", "digits"]):
        code, _, complaint = turnout(*command)
        assert code == 2
        assert complaint.startswith("turnout: no gateway of yours runs here; `turnout serve` starts one")


def test_of_several_gateways_one_is_named(turnout, served, tmp_path, models):
    with announced(tmp_path / "other", Deciding(iris="3"), "elsewhere") as other:
        code, _, complaint = turnout("status")
        assert code == 2
        assert complaint.splitlines()[0].endswith("say which is meant with --admin URL or --config FILE")
        assert f"{served.url}  {models}" in complaint and f"{other.url}  elsewhere" in complaint
        assert "iris  3=100%" in turnout("status", "--admin", other.url)[1]
        assert "wine  1=100%" in turnout("status", "--admin", served.at)[1]
        assert turnout("brake", "digits")[0] == 2


def test_a_configuration_names_its_gateway(turnout, served, tmp_path, models):
    path = configuration(tmp_path, models)
    code, _, complaint = turnout("status", "--config", str(path))
    assert (code, "no gateway runs for" in complaint) == (2, True)
    with announced(control_folder(load(path)), Deciding(iris="3"), str(models)):
        assert "iris  3=100%" in turnout("status", "--config", str(path))[1]
        _, lines, _ = turnout("alias", "iris", "champion=3", "--config", str(path))
        assert lines[-1].endswith(f"turnout alias iris champion= --config {path}")


def test_a_gateway_that_does_not_answer_is_told(turnout, served):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    access.announce(access.running()[0].folder, url)
    code, _, complaint = turnout("status", "--admin", url)
    assert (code, complaint) == (2, f"turnout: {url} does not answer: Connection refused\n")


def listening(tmp_path: Path, answer: bytes) -> str:
    """Answer one request with these bytes, and announce that as a gateway."""
    server = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{server.getsockname()[1]}"

    def run() -> None:
        client, _ = server.accept()
        with client, server:
            client.recv(65536)
            client.sendall(answer)
            if not answer:
                client.recv(1)

    threading.Thread(target=run, daemon=True).start()
    folder = access.private(tmp_path / "strange")
    token(folder)
    access.announce(folder, url)
    return url


def test_a_change_without_an_answer_is_told_as_unclear_and_code_one(turnout, tmp_path):
    listening(tmp_path, b"")
    code, lines, complaint = turnout("rollback", "digits", "--timeout", "0.2")
    assert (code, lines) == (1, [])
    assert "look whether the change was made, with `turnout history`" in complaint


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_another_server_is_no_gateway_and_no_redirection_is_followed(turnout, tmp_path, answer):
    listening(tmp_path, answer)
    code, lines, complaint = turnout("status")
    assert (code, lines) == (2, [])
    assert complaint.startswith("turnout: http://127.0.0.1:")


def test_no_proxy_learns_the_token(turnout, served, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert turnout("status")[0] == 0


def test_the_brake_is_pulled_and_released_where_the_replicas_look(turnout, served, folder):
    folder /= "brake"
    code, lines, _ = turnout("brake", "digits")
    assert (code, read_brakes(folder)) == (0, {"digits": ""})
    assert lines[0].startswith("digits: the brake is on: the stable version answers on this node")
    _, lines, _ = turnout("brake", "digits", "--to", "7", "--json")
    assert read_brakes(folder) == {"digits": "7"}
    assert json.loads(lines[0]) == {"model": "digits", "on": True, "version": "7", "file": f"{folder}/digits"}
    assert turnout("brake", "digits", "--release")[1] == [
        "digits: the brake is released; the routing table counts"
    ]
    assert turnout("brake", "digits", "--release")[1] == ["digits: the brake was not on"]
    assert read_brakes(folder) == {}


def test_the_brake_works_without_any_gateway(turnout, tmp_path, models):
    path = configuration(tmp_path, models)
    code, lines, _ = turnout("brake", "digits", "--to", "7", "--config", str(path))
    assert code == 0
    assert read_brakes(place(load(path)) / "brake") == {"digits": "7"}
    assert lines[0].endswith(f"turnout brake digits --release --config {path}")
    assert turnout(*lines[0].partition("turnout ")[2].split())[0] == 0
    assert read_brakes(place(load(path)) / "brake") == {}


def test_a_brake_that_cannot_be_written_says_so(turnout, tmp_path, models):
    path = configuration(tmp_path, models)
    folder = control_folder(load(path))
    (folder / "brake").write_text("")
    code, _, complaint = turnout("brake", "digits", "--config", str(path))
    assert code == 2
    assert complaint.startswith("turnout: digits: ")


def journalled(path: Path, entries: list[Entry]) -> Path:
    folder = control_folder(load(path))
    journal = Journal.open(folder / "journal.sqlite")
    journal.take_term("test", 0)
    for entry in entries:
        journal.append(entry)
    journal.close()
    return folder


def test_the_audit_reads_the_file_where_no_gateway_runs(turnout, control, tmp_path, models):
    path = configuration(tmp_path, models)
    code, _, complaint = turnout("audit", "verify", "--config", str(path))
    assert (code, "there is no journal" in complaint) == (2, True)
    journalled(path, list(control.history))
    code, lines, _ = turnout("audit", "verify", "--config", str(path))
    assert code == 0
    assert lines == [
        f"ok: 2 entries, each as it was written; the last hash is {control.history.last_hash}",
    ]
    _, lines, _ = turnout("audit", "show", "--config", str(path), "--json")
    told = json.loads(lines[0])
    assert (told["revision"], told["hash"]) == (2, control.history.last_hash)


def test_the_audit_finds_what_was_changed_afterwards(turnout, control, tmp_path, models):
    path = configuration(tmp_path, models)
    folder = journalled(path, list(control.history))
    with sqlite3.connect(folder / "journal.sqlite") as database:
        database.execute("drop trigger entries_update")
        database.execute("update entries set text = replace(text, 'found', 'faked') where revision = 2")
    code, lines, complaint = turnout("audit", "verify", "--config", str(path))
    assert (code, lines) == (1, [])
    assert "revision 2 is not what was written" in complaint


def test_the_audit_finds_a_journal_that_ends_early_or_was_written_anew(control, tmp_path, models):
    journal = journalled(configuration(tmp_path, models), list(control.history)[:1]) / "journal.sqlite"
    with pytest.raises(BrokenChain, match="journal.sqlite ends with revision 1, and revision 2 is in force"):
        verify(journal, list(control.history))
    with pytest.raises(BrokenChain, match="written anew: revision 1 is not what is in force"):
        verify(journal, list(Deciding(wine="1").history))
    assert verify(journal, list(control.history)[:1]) == verify(journal)


def test_the_audit_of_a_gateway_that_runs_reads_its_file(turnout, control, tmp_path, models):
    path = configuration(tmp_path, models)
    folder = journalled(path, list(control.history))
    with announced(folder, control, str(models), stored=folder / "journal.sqlite"):
        assert turnout("audit", "verify")[0] == 0
        assert "adopt" in turnout("audit", "show")[1][1]
        (folder / "journal.sqlite").write_bytes(b"x" * 4096)
        (folder / "journal.sqlite-wal").unlink(missing_ok=True)
        code, _, complaint = turnout("audit", "verify")
        assert code == 2
        assert "cannot be read" in complaint


def test_a_rollback_imports_nothing_heavy(root, served):
    code = "import sys; from serving import cli; code = cli.main(['rollback', 'digits', '--to', '7'])\n"
    code += "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stderr.split())


def test_the_command_itself_makes_a_change(root, served):
    command = [sys.executable, "-m", "serving.cli", "pin", "digits", "7", "--why", "x", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["confirmed"] is True
    command = [*command, "--admin", "http://u@h"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "turnout: 'http://u@h' is no URL of an admin application; http://127.0.0.1:8003 is\n"
    )
