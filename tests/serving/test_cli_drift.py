"""The verbs of drift ask for what they say, print what people can read, and say what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from serving import access
from serving.drift.profile_json import from_json
from serving.drift.shown import report
from tests import models

HEAVY = {"numpy", "onnxruntime", "pydantic", "ray"}
AT = "2026-11-25T14:05:00.000000Z"


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))


class Answering(ThreadingHTTPServer):
    """Says what it is told to, and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hearing)
        self.asked: list[tuple[str, str, object]] = []
        self.says: tuple[int, dict] = (200, {})


class Hearing(BaseHTTPRequestHandler):
    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, json.loads(body) if body else None))
        status, document = self.server.says
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - the library's names.

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway(tmp_path):
    """Announce an admin application that answers as it is told, for the models in `tmp_path`."""
    server = Answering()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    folder = access.private(tmp_path / "private")
    access.token(folder)
    url = f"http://127.0.0.1:{server.server_port}"
    access.announce(folder, url, str(tmp_path / "models"))
    yield server
    access.withdraw(folder, url)
    server.shutdown()
    server.server_close()


def standing(profile: dict | None = None, freezing: dict | None = None, **more: object) -> dict:
    return {"model": "m", "version": "1", "profile": profile, "freezing": freezing, **more}


SAID = {
    "hash": "0123456789abcdef",
    "made_at": AT,
    "source": "rows.npz",
    "digest": "d",
    "digest_now": "d",
    "rows": 1797,
    "features": 77,
}


@pytest.fixture
def rows(tmp_path) -> Path:
    models.place(tmp_path / "models", "m", 1, models.mlp())
    values = np.random.default_rng(5).normal(size=(1200, 16))
    np.savez(tmp_path / "rows.npz", x=values.astype(np.float32), y=values)
    return tmp_path / "rows.npz"


def test_a_profile_of_a_file_is_given_to_the_gateway_that_runs(turnout, gateway, rows):
    gateway.says = (200, standing(SAID))
    code, lines, complaint = turnout("profile", "m@1", "--from", rows)
    assert (code, complaint) == (0, "")
    ((method, path, body),) = gateway.asked
    assert (method, path) == ("PUT", "/v2/models/m/versions/1/profile")
    made = from_json(body)
    assert (made.model, made.version, made.n, made.source) == ("m", "1", 1200, "rows.npz")
    assert lines == [
        f"m@1: profile {made.hash[:12]} of 1,200 rows from rows.npz",
        "  x  input   features  16 features  1,200 rows",
        "  y  output  scores    5 features   1,200 rows",
        "  not used of the file: y",
        "m@1: profile 0123456789ab of 1,797 rows from rows.npz",
    ]


def test_a_profile_is_written_into_a_file_and_given_to_a_gateway_later(turnout, gateway, rows, tmp_path):
    code, lines, _ = turnout("profile", "m@1", "--from", rows, "--to", tmp_path / "p.json")
    assert (code, gateway.asked) == (0, [])
    assert lines[-1] == (
        f"written to {tmp_path}/p.json; turnout profile m@1 --from {tmp_path}/p.json gives it to a gateway"
    )
    gateway.says = (200, standing(SAID))
    assert turnout("profile", "models:/m/1", "--from", tmp_path / "p.json")[0] == 0
    assert gateway.asked[0][2] == json.loads((tmp_path / "p.json").read_text())


def test_without_a_gateway_the_repository_is_named(turnout, rows, tmp_path):
    out = tmp_path / "p.json"
    code, _, complaint = turnout("profile", "m@1", "--from", rows, "--to", out)
    assert code == 2
    assert complaint == (
        "turnout: no gateway of yours runs here whose models could be meant; say --repository DIR or "
        "--config FILE to name the folder of the models\n"
    )
    assert turnout("profile", "m@1", "--from", rows, "--to", out, "--repository", tmp_path / "models")[0] == 0
    code, _, complaint = turnout("profile", "m@1", "--from", rows, "--repository", tmp_path / "models")
    assert code == 2
    assert "no gateway of yours runs here" in complaint


def test_too_few_rows_for_alarms_are_said(turnout, rows, tmp_path):
    np.savez(rows, x=np.ones((999, 16), np.float32))
    options = ("--to", tmp_path / "p.json", "--repository", tmp_path / "models")
    _, lines, _ = turnout("profile", "m@1", "--from", rows, *options)
    assert lines[-2] == (
        "  too few rows for alarms: changes are measured, but nothing is called drift; that takes 1,000 rows"
    )


def test_json_has_the_hash(turnout, rows, tmp_path):
    options = ("--to", tmp_path / "p.json", "--repository", tmp_path / "models", "--json")
    code, lines, _ = turnout("profile", "m@1", "--from", rows, *options)
    said = json.loads("".join(lines))
    assert code == 0
    assert said == {
        "file": f"{tmp_path}/p.json",
        "hash": from_json(json.loads((tmp_path / "p.json").read_text())).hash,
    }


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], ("GET", "/v2/models/m/versions/1/profile", None)),
        (["--freeze", "500"], ("POST", "/v2/models/m/versions/1/profile/freeze", {"rows": 500})),
        (["--drop"], ("DELETE", "/v2/models/m/versions/1/profile", None)),
    ],
)
def test_each_option_asks_for_what_it_says(turnout, gateway, options, asked):
    gateway.says = (200, standing(freezing={"rows": 120, "wanted": 500}))
    code, lines, complaint = turnout("profile", "m@1", *options)
    assert (code, complaint, gateway.asked) == (0, "", [asked])
    assert lines == ["m@1: no profile", "  a profile is being made from requests: 120 of 500 rows so far"]


def test_the_profile_that_counts_can_be_written(turnout, gateway, tmp_path):
    gateway.says = (200, standing(SAID, document={"format": "x"}))
    code, lines, _ = turnout("profile", "m@1", "--to", tmp_path / "p.json")
    assert code == 0
    assert lines[1].startswith(f"written to {tmp_path}/p.json")
    assert json.loads((tmp_path / "p.json").read_text()) == {"format": "x"}
    gateway.says = (200, standing(document=None))
    assert (
        turnout("profile", "m@1", "--to", tmp_path / "p.json")[2] == "turnout: m@1 has no profile to write\n"
    )


def test_a_profile_of_other_files_is_pointed_out(turnout, gateway):
    gateway.says = (200, standing({**SAID, "digest_now": "e"}))
    assert "MADE WITH OTHER FILES" in turnout("profile", "m@1")[1][0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("m", "m: a profile is of one version, named by its number: m@8"),
        ("m@champion", "a profile is of one version, named by its number"),
        ("m@1 --ignore y", "--ignore goes with --from, which reads rows"),
        ("m@1 --repository x", "--repository goes with --from, which reads rows"),
        ("m@1 --drop --to p.json", "--to writes a profile that there is: alone, or with --from"),
        ("m@1 --from rows.txt", "rows are read from .npz, .csv, .parquet, by the ending of the file's name"),
        ("m@1 --from gone.npz", "gone.npz: No such file or directory"),
        ("m@1 --from gone.json", "gone.json: No such file or directory"),
        ("m@1 --from bad.json", "bad.json: no JSON: "),
        ("m@1 --from other.json", "other.json: expected 'turnout profile 1' - at $.format"),
        ("k@1 --from rows.npz", "no model 'k' in "),
        ("m@1 --from rows.npz --to gone/p.json", "gone/p.json: No such file or directory"),
    ],
)
def test_a_mistake_is_said_in_a_line(turnout, gateway, rows, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{")
    Path("other.json").write_text("{}")
    code, _, complaint = turnout("profile", *arguments.split())
    assert code == 2
    assert complaint.startswith("turnout: ")
    assert complaint.count("\n") == 1
    assert said in complaint
    assert gateway.asked == []


def test_a_profile_of_another_version_is_not_given(turnout, gateway, rows, tmp_path):
    turnout("profile", "m@1", "--from", rows, "--to", tmp_path / "p.json")
    code, _, complaint = turnout("profile", "m@2", "--from", tmp_path / "p.json")
    assert code == 2
    assert complaint.endswith("p.json is the profile of m@1, not of m@2\n")


def test_two_ways_at_once_are_refused(turnout, capsys):
    with pytest.raises(SystemExit):
        turnout("profile", "m@1", "--drop", "--freeze", "5")
    assert "not allowed with" in capsys.readouterr().err


def window(**values: object) -> dict:
    numbers = {"psi": 0.31, "psi_corrected": 0.3, "js": 0.04, "ks": 0.21, "tv": 0.2, "hellinger": 0.2}
    more = {
        "w1": 1.25,
        "chi2": 210.4,
        "dof": 15,
        "p": 0.0,
        "mean": 3.1,
        "std": 1.5,
        "nan": 0,
        "inf": 0,
        "out": 3,
    }
    return {"n": 3600, **numbers, **more, **values}


NOTHING = {**dict.fromkeys(window()), "n": 0, "nan": 0, "inf": 0, "out": 0}


def feature(name: str, panel: str = "values", kind: str = "values", **values: object) -> dict:
    return {
        "panel": panel,
        "feature": name,
        "kind": kind,
        "drifted": False,
        "evidence": 0.2,
        "psi_changed": 0.3,
        "n_changed": 900,
        "reference": {"n": 1797, "mean": 4.2, "std": 1.4, "low": 0.0, "high": 16.0},
        "seen": None,
        "windows": {"start": window(n=10240), "sliding": window(), "decayed": window()},
        "categories": [],
        **values,
    }


def stream(tensor: str, of: str, features: list[dict], **values: object) -> dict:
    return {
        "tensor": tensor,
        "of": of,
        "role": "live",
        "view": "features",
        "rows": 10240,
        "dropped": 0,
        "verdict": "no drift",
        "since": AT,
        "evidence": 0.0,
        "evidence_needed": 7.4,
        "features_drifted": 0,
        "features": features,
        **values,
    }


def said(**values: object) -> dict:
    shares = [
        {"label": "seven", "share": 0.04, "reference": 0.1},
        {"label": "one", "share": 0.2, "reference": 0.1},
    ]
    pixels = [feature("27", drifted=True, evidence=14.25), *(feature(str(at)) for at in range(9))]
    streams = [
        stream("image", "input", pixels, verdict="drift", evidence=12.5, features_drifted=1, dropped=64),
        stream(
            "label", "output", [feature("class", "class", "categories", categories=shares)], role="shadow"
        ),
    ]
    version = {
        "version": "8",
        "verdict": "drift",
        "since": AT,
        "profile": SAID,
        "freezing": None,
        "streams": streams,
    }
    event = {
        "at": AT, "event": "detected", "version": "8", "tensor": "image", "role": "live",
        "features": ["27"], "evidence": 12.5, "psi": 0.3, "n": 900,
    }  # fmt: skip
    bare = {
        "version": "7",
        "verdict": "no profile",
        "since": None,
        "profile": None,
        "freezing": None,
        "streams": [],
    }
    return {
        "model": "digits",
        "at": AT,
        "enabled": True,
        "drifted": True,
        "settings": {},
        "versions": [version, bare],
        "events": [event],
        **values,
    }


def test_drift_is_seen_at_a_glance():
    numbers = "3,600  0.31  0.21  0.04  1.25  210/15    mean 3.1 (4.2) std 1.5 (1.4)  0    0    3"
    assert report(said()) == [
        "digits  drift",
        "",
        "digits@8  drift since 2026-11-25 14:05:00Z; profile 0123456789ab of 1,797 rows from rows.npz",
        "  image (input): drift since 2026-11-25 14:05:00Z in 1 of 10 features; evidence 12.5, an alarm needs 7.4; 10,240 rows, 64 NOT COUNTED",
        "       feature  evidence  change (rows)  n      PSI   KS    JS    W1    chi2/dof  now (reference)               NaN  Inf  out",
        f"    *  27       14.2      0.3 (900)      {numbers}",
        *[f"       {at}        0.2       0.3 (900)      {numbers}" for at in range(7)],
        "    and 2 more; --json has all",
        "  label (output, shadow): no drift since 2026-11-25 14:05:00Z; evidence 0.0, an alarm needs 7.4; 10,240 rows",
        "      feature  evidence  change (rows)  n      PSI   KS    JS    W1    chi2/dof  now (reference)                          NaN  Inf  out",
        "      class    0.2       0.3 (900)      3,600  0.31  0.21  0.04  1.25  210/15    seven: 4.0% (10.0%), one: 20.0% (10.0%)  0    0    3",
        "",
        "digits@7  no profile",
        "  turnout profile digits@7 --from FILE makes one, or --freeze N from requests",
        "",
        "events, newest first",
        "  2026-11-25 14:05:00Z  image of version 8  detected  evidence 12.5, PSI 0.3: 27",
    ]


def test_what_did_not_vary_is_not_said_to_have():
    constant = {"n": 1797, "mean": 0.0, "std": 1.0, "low": 0.0, "high": 0.0}
    streams = [stream("x", "input", [feature("a", reference=constant)])]
    lines = report(said(versions=[{**said()["versions"][0], "streams": streams}]))
    assert any("mean 3.1 (0) std 1.5 (0)" in line for line in lines)


def test_a_tensor_without_profile_and_rows_is_not_worth_a_line():
    streams = [stream("x", "input", [], rows=0, verdict="no profile", evidence=None)]
    lines = report(said(versions=[{**said()["versions"][1], "streams": streams}], events=[]))
    assert len(lines) == 4


def test_an_empty_window_gives_way_to_all_rows_and_an_empty_stream_to_nothing():
    windows = {"start": window(n=12), "sliding": NOTHING, "decayed": NOTHING}
    lines = report(
        said(
            versions=[
                {**said()["versions"][0], "streams": [stream("x", "input", [feature("a", windows=windows)])]}
            ]
        )
    )
    assert any(" 12 " in line for line in lines)
    empty = {"start": NOTHING, "sliding": NOTHING, "decayed": NOTHING}
    streams = [stream("x", "input", [feature("a", windows=empty)], rows=0, verdict="no rows", since=None)]
    lines = report(said(versions=[{**said()["versions"][0], "streams": streams}]))
    assert "  x (input): no rows; evidence 0.0, an alarm needs 7.4; 0 rows" in lines
    assert not any("feature" in line for line in lines)


def test_no_name_reaches_the_terminal_but_as_printable_text():
    evil = said()
    evil["versions"][0]["streams"][0]["features"][0]["feature"] = "\x1b[2J"
    evil["versions"][0]["streams"][0]["tensor"] = "\x1b[2J\n"
    evil["versions"][0]["profile"]["source"] = "a\nb"
    assert all(line.isprintable() for line in report(evil))


@pytest.mark.parametrize(("drifted", "code"), [(True, 1), (False, 0)])
def test_the_exit_code_says_whether_anything_drifted(turnout, gateway, drifted, code):
    gateway.says = (200, said(drifted=drifted))
    assert turnout("drift", "digits")[0] == code
    assert turnout("drift", "digits", "--json")[0] == code
    assert gateway.asked == [("GET", "/v2/models/digits/drift", None)] * 2


def test_json_is_what_the_gateway_said(turnout, gateway):
    gateway.says = (200, said())
    assert json.loads("".join(turnout("drift", "digits", "--json")[1])) == said()


@pytest.mark.parametrize(
    "words", ["digits --version 8", "digits@8", "models:/digits/8", "digits@8 --version 8"]
)
def test_one_version_alone_can_be_asked_for(turnout, gateway, words):
    gateway.says = (200, said())
    turnout("drift", *words.split())
    assert gateway.asked == [("GET", "/v2/models/digits/drift?version=8", None)]


def test_two_versions_or_an_alias_are_mistakes(turnout, gateway):
    assert turnout("drift", "digits@8", "--version", "7")[0] == 2
    assert turnout("drift", "digits@champion")[0] == 2
    assert gateway.asked == []


def test_an_unknown_model_is_a_mistake(turnout, gateway):
    gateway.says = (404, {"error": "no model 'k'"})
    assert turnout("drift", "k") == (2, [], "turnout: no model 'k'\n")


def test_looking_at_drift_imports_nothing_heavy(root):
    code = (
        "import sys; from serving import cli; cli.main(['drift', 'digits']); "
        f"print(sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
