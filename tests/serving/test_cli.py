from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http

from serving import cli
from serving.config import Config, ConfigError

HTTP, GRPC, METRICS, ADMIN = (f"127.0.0.1:{port}" for port in range(8123, 8127))
HEAVY = {"numpy", "onnxruntime", "pydantic", "ray", "sklearn"}


def turnout(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.cli", *arguments]
    return subprocess.run(
        command, cwd=root, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def serve_with(monkeypatch: pytest.MonkeyPatch, name: str, run) -> list[Config]:
    """Put `run` in the place of the engine called `name`; return the configurations that it gets."""
    seen: list[Config] = []
    module = types.ModuleType(f"serving.{name}")
    module.run = lambda config, announce=lambda *_: None: (
        seen.append(config),
        announce(HTTP, GRPC, METRICS, ADMIN),
        run(),
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def fail(error: BaseException):
    def run() -> None:
        raise error

    return run


def test_a_reader_that_goes_away_is_no_traceback():
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "serving.cli", "plan", "--base", "1%", "--ratio", "2", "--weight", "10%"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_good_configuration_is_ok(tmp_path, capsys):
    path = tmp_path / "good.toml"
    path.write_text("[queue]\nrequests_max = 10\n")
    assert cli.main(["check", str(path)]) == 0
    assert capsys.readouterr() == (f"{path}: ok\n", "")


def test_each_mistake_of_a_configuration_is_one_line_and_the_code_is_one(tmp_path, capsys):
    path = tmp_path / "bad.toml"
    path.write_text("[queue]\nrequest_max = 10\n[engine]\nthreads = 0\n")
    assert cli.main(["check", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0] == f"{path}: queue.request_max: unknown setting; did you mean 'requests_max'?"
    assert lines[1].startswith(f"{path}: engine.threads = 0: ")


@pytest.mark.parametrize(("flags", "name"), [(["--local"], "local"), ([], "deploy")])
def test_serve_hands_the_configuration_to_the_engine_that_was_asked_for(monkeypatch, tmp_path, flags, name):
    seen = serve_with(monkeypatch, name, lambda: None)
    assert cli.main(["serve", *flags, "--repository", str(tmp_path)]) == 0
    (config,) = seen
    assert config.repository.path == tmp_path
    assert config.model_copy(update={"repository": Config().repository}) == Config()


def test_the_command_line_has_the_last_word(monkeypatch, tmp_path):
    path = tmp_path / "turnout.toml"
    path.write_text('[server]\nhttp = "127.0.0.1:1"\nmetrics = "127.0.0.1:2"\n[repository]\npoll_s = 3\n')
    seen = serve_with(monkeypatch, "local", lambda: None)
    overrides = ["--config", str(path), "--repository", str(tmp_path), "--http", "127.0.0.1:0"]
    assert cli.main(["serve", "--local", *overrides]) == 0
    (config,) = seen
    assert (config.server.http, config.server.metrics) == ("127.0.0.1:0", "127.0.0.1:2")
    assert (config.repository.path, config.repository.poll_s) == (tmp_path, 3)


def test_the_command_line_opens_no_door_that_the_configuration_keeps_shut(monkeypatch, tmp_path, capsys):
    seen = serve_with(monkeypatch, "local", lambda: None)
    assert cli.main(["serve", "--local", "--repository", str(tmp_path), "--http", "0.0.0.0:0"]) == 2
    assert 'say expose = ["0.0.0.0"]' in capsys.readouterr().err
    assert not seen


@pytest.mark.parametrize(("flags", "name"), [(["--local"], "local"), ([], "deploy")])
def test_serve_says_what_to_try_next(monkeypatch, tmp_path, capsys, flags, name):
    serve_with(monkeypatch, name, lambda: None)
    cli.main(["serve", *flags, "--repository", str(tmp_path), "--http", HTTP, "--metrics", METRICS])
    out = capsys.readouterr().out
    assert f"curl -i http://{HTTP}/v2/health/ready" in out
    assert f"http://{METRICS}/metrics" in out


def test_relative_paths_are_meant_from_where_the_command_is_given(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "turnout.toml").write_text(
        '[repository]\nstate = "s"\n[server]\ntls_certificate = "c"\ntls_key = "k"\n'
    )
    seen = serve_with(monkeypatch, "local", lambda: None)
    assert cli.main(["serve", "--local", "--config", "turnout.toml"]) == 0
    (config,) = seen
    assert (config.repository.path, config.repository.state) == (tmp_path / "models", tmp_path / "s")
    assert (config.server.tls_certificate, config.server.tls_key) == (tmp_path / "c", tmp_path / "k")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.EADDRINUSE, "taken"),
            "cannot listen on 127.0.0.1:8000, 127.0.0.1:8001, 127.0.0.1:8002 and 127.0.0.1:8003: Address already",
        ),
        (ConfigError("engine.device = 'gpu': this machine has none"), "engine.device = 'gpu'"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_code_two(monkeypatch, tmp_path, capsys, error, says):
    serve_with(monkeypatch, "local", fail(error))
    assert cli.main(["serve", "--local", "--repository", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"turnout: {says}")


def test_what_the_user_cannot_mend_keeps_its_traceback(monkeypatch, tmp_path):
    serve_with(monkeypatch, "local", fail(OSError(errno.EIO, "disk")))
    with pytest.raises(OSError, match="disk"):
        cli.main(["serve", "--local", "--repository", str(tmp_path)])


def test_ctrl_c_is_a_clean_end(monkeypatch, tmp_path):
    serve_with(monkeypatch, "local", fail(KeyboardInterrupt()))
    assert cli.main(["serve", "--local", "--repository", str(tmp_path)]) == 0


@pytest.mark.e2e
def test_the_demo_is_served_and_sigterm_ends_it_with_code_zero(root, demo_folder, tmp_path):
    path = tmp_path / "turnout.toml"
    path.write_text(f'[repository]\npath = "{demo_folder}/models"\nstate = "state"\n')
    command = [sys.executable, "-m", "serving.cli", "serve", "--local", "--config", str(path)]
    command += ["--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = "".join(iter(process.stdout.readline, "END\n"))
        (http,) = re.findall(r"curl -i http://(\S+)/v2/health/ready", told)
        infer_the_sample(
            http, json.loads((demo_folder / "requests" / "digits.json").read_text())["inputs"][0]
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


def infer_the_sample(http: str, sample: dict) -> None:
    image = tritonclient.http.InferInput("image", sample["shape"], "FP32")
    image.set_data_from_numpy(np.array([sample["data"]], np.float32))
    with tritonclient.http.InferenceServerClient(http) as client:
        answer = client.infer("digits", [image])
        assert answer.as_numpy("label").tolist() == [7]
        assert answer.get_response()["model_version"] == "8"
        index = client.get_model_repository_index()
        assert [each["version"] for each in index if each["state"] == "READY"] == ["7", "8", "1"]


def test_a_missing_repository_is_named_with_the_way_to_get_one(root, tmp_path):
    done = turnout(root, "serve", "--local", "--repository", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stderr == (
        f"turnout: repository.path: no folder '{tmp_path}/nowhere'; `turnout demo` makes one to try\n"
    )


def test_sigterm_before_the_engine_runs_is_a_clean_end(root):
    wait = "import sys, time; sys.argv[1:] = ['check', 'x']; from serving import cli\n"
    wait += "cli.check = lambda _: (print('up', flush=True), time.sleep(30))\nsys.exit(cli.main())"
    with subprocess.Popen(
        [sys.executable, "-c", wait], cwd=root, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's thresholds")
def test_the_process_starts_itself_again_once_to_keep_freed_memory(root):
    code = "import os; from serving import cli; cli.keep_freed_memory()\n"
    code += "print(os.getpid(), *(os.environ[name] for name in sorted(cli.MALLOC_THRESHOLDS)))"
    bare = {k: v for k, v in os.environ.items() if k not in cli.MALLOC_THRESHOLDS}
    environment = {**bare, "MALLOC_TRIM_THRESHOLD_": "7"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=20)
    assert out.split() == [str(process.pid), cli.MALLOC_THRESHOLDS["MALLOC_MMAP_THRESHOLD_"], "7"]


def test_a_command_inside_of_another_process_never_replaces_it(monkeypatch, tmp_path):
    serve_with(monkeypatch, "local", lambda: None)
    monkeypatch.setattr(os, "execve", fail(AssertionError("replaced the caller")))
    assert cli.main(["serve", "--local", "--repository", str(tmp_path)]) == 0


def test_the_command_line_is_read_before_anything_heavy_is_imported(root):
    code = "import sys, serving.cli as cli; cli.parser(); print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_the_version_is_the_checkouts(root):
    done = turnout(root, "--version")
    assert (done.returncode, done.stdout) == (0, f"turnout {cli.version()}\n")
    assert f'version = "{cli.version()}"' in (root / "pyproject.toml").read_text()


@pytest.mark.parametrize("arguments", [[], ["srve"], ["serve", "--prot", "1"], ["check"]])
def test_a_command_that_there_is_not_is_code_two_and_shows_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: turnout")


def test_the_demo_says_how_good_each_version_is(tmp_path, capsys):
    assert cli.main(["demo", "--into", str(tmp_path / "demo")]) == 0
    *versions, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in versions] == ["digits@7", "digits@8", "digits@9", "wine@1"]
    assert all("% of held-out rows right" in line for line in versions)
    assert last == f"laid out in {tmp_path}/demo/models"


def test_a_demo_that_cannot_be_laid_out_is_one_line_and_code_two(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["demo", "--into", str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_model_is_admitted_version_by_version(demo_folder, capsys):
    assert cli.main(["admit", str(demo_folder / "models" / "digits")]) == 0
    assert capsys.readouterr().out.splitlines() == [f"digits@{version}: admitted" for version in (7, 8, 9)]


def test_a_refused_version_is_named_with_the_reason_and_the_others_are_tried_all_the_same(
    demo_folder, tmp_path, capsys
):
    good = (demo_folder / "models" / "wine" / "1" / "model.onnx").read_bytes()
    for version, content in {"1": good, "2": b"\x08\x08junk", "3": None}.items():
        folder = tmp_path / "wine" / version
        folder.mkdir(parents=True)
        if content is None:
            os.mkfifo(folder / "model.onnx")
        else:
            (folder / "model.onnx").write_bytes(content)
    assert cli.main(["admit", str(tmp_path / "wine")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "wine@1: admitted"
    assert lines[1].startswith("wine@2: refused: ")
    assert lines[2] == "wine@3: refused: 3/model.onnx is a pipe, socket or device, not a file"


def test_a_file_is_admitted_under_any_name(demo_folder, tmp_path, capsys):
    model = demo_folder / "models" / "wine" / "1" / "model.onnx"
    (tmp_path / "candidate.onnx").write_bytes(model.read_bytes())
    assert cli.main(["admit", str(model)]) == 0
    assert cli.main(["admit", str(tmp_path / "candidate.onnx")]) == 0
    assert capsys.readouterr().out.splitlines() == ["wine@1: admitted", "candidate@1: admitted"]


@pytest.mark.parametrize("name", ["nowhere.onnx", "empty"])
def test_a_model_that_is_not_there_is_one_line_and_code_two(tmp_path, name, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["admit", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"turnout: {name}: ")


def test_a_mistake_in_config_pbtxt_is_named(demo_folder, tmp_path, capsys):
    model = (demo_folder / "models" / "wine" / "1" / "model.onnx").read_bytes()
    (tmp_path / "wine" / "1").mkdir(parents=True)
    (tmp_path / "wine" / "1" / "model.onnx").write_bytes(model)
    (tmp_path / "wine" / "config.pbtxt").write_text("max_batch_sise: 8\n")
    assert cli.main(["admit", str(tmp_path / "wine")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("turnout: wine: ")
    assert "max_batch_size" in line
