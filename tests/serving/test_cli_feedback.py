"""The verbs of labels send what files and options say, print what people can read, and say what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serving import cli_feedback
from tests.controlling import Deciding, announced
from tests.feeding import Feeding

HEAVY = {"numpy", "onnxruntime", "pydantic", "ray"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def feeding(tmp_path) -> Iterator[Feeding]:
    folder = tmp_path / "room"
    folder.mkdir(mode=0o700)
    with Feeding(folder) as made, announced(tmp_path / "control", Deciding(m="7"), feedback=made.feedback):
        yield made


def answer(feeding: Feeding, count: int) -> None:
    replica = feeding.replica("r0")
    for at in range(0, count, 1000):
        ids = [f"id-{number}" for number in range(at, min(at + 1000, count))]
        feeding.call(replica.answer, 7, ids, [1] * len(ids))


def test_a_single_label_is_given_by_options(feeding, turnout):
    answer(feeding, 3)
    assert turnout("feedback", "m", "--id", "id-0", "--label", "one") == (0, ["m: 1 label: 1 joined"], "")
    assert turnout("feedback", "m", "--id", "id-1", "--label", "2")[0] == 0
    code, lines, _ = turnout("feedback", "m", "--id", "nobody", "--label", "2")
    assert (code, lines) == (
        1,
        ["m: 1 label: 1 of no answer that is remembered", "  of no answer that is remembered: nobody"],
    )
    code, lines, _ = turnout("feedback", "m", "--id", "id-2", "--score", "0.5", "--json")
    assert code == 1
    assert json.loads(lines[0])["misfit"] == 1


def test_ten_thousand_labels_of_a_table_are_joined_at_once(feeding, turnout, tmp_path):
    answer(feeding, 10_000)
    path = tmp_path / "labels.csv"
    path.write_text(
        "id,label,time\n" + "".join(f"id-{at},{at % 3},2026-11-24 14:05\n" for at in range(10_000))
    )
    code, lines, _ = turnout("feedback", "m", "--from", path)
    assert (code, lines) == (0, ["m: 10,000 labels: 10,000 joined"])
    code, lines, _ = turnout("feedback", "m", "--from", path)
    assert (code, lines) == (0, ["m: 10,000 labels: 10,000 had one already"])


def test_more_labels_than_a_request_may_have_are_sent_in_several(feeding, turnout, tmp_path, monkeypatch):
    monkeypatch.setattr(cli_feedback, "TOGETHER", 7)
    answer(feeding, 20)
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"id-{at}", "label": "one"}) for at in range(25)) + "\n\n")
    code, lines, _ = turnout("feedback", "m", "--from", path)
    assert (code, lines[0]) == (1, "m: 25 labels: 20 joined, 5 of no answer that is remembered")
    assert lines[1] == "  of no answer that is remembered: id-20, id-21, id-22, id-23, id-24"


def test_quality_shows_which_classes_are_confused_and_json_has_all(feeding, turnout):
    answer(feeding, 10)
    for at in range(9):
        turnout("feedback", "m", "--id", f"id-{at}", "--label", str(at % 3))
    code, lines, _ = turnout("quality", "m")
    assert code == 0
    text = "\n".join(lines)
    assert "m@7  9 labels of 10 answers (90%)" in text
    assert "accuracy" in text
    row = next(line for line in lines if line.split()[:2] == ["*", "one"])
    assert "100%" in row and "6 of 6" in row
    assert "m@8" not in text
    code, lines, _ = turnout("quality", "m@7", "--json")
    assert json.loads(lines[0])["versions"][0]["labelled"] == 9


def test_quality_of_a_version_that_degraded_is_no_success(tmp_path, turnout):
    folder = tmp_path / "room"
    folder.mkdir(mode=0o700)
    with (
        Feeding(folder, models={"m": {"error_rate": 0.05}}) as made,
        announced(tmp_path / "control", Deciding(m="7"), feedback=made.feedback),
    ):
        answer(made, 40)
        path = tmp_path / "labels.csv"
        path.write_text("id,label\n" + "".join(f"id-{at},two\n" for at in range(40)))
        assert turnout("feedback", "m", "--from", path)[0] == 0
        code, lines, _ = turnout("quality", "m")
        assert code == 1
        assert any("DEGRADED" in line for line in lines)
        assert any(" degraded " in line for line in lines)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("labels.csv", "", "a header with id and label or score is expected"),
        ("labels.csv", "id,truth\na,1\n", "got id, truth"),
        ("labels.csv", "id,label\na\n", "labels.csv:2: an id, and a label or a score, are expected"),
        ("labels.csv", "id,label\na,1,2\n", "labels.csv:2: an id, and a label or a score, are expected"),
        ("labels.csv", "id,score\na,much\n", "labels.csv:2: could not convert string to float"),
        ("labels.csv", "id,label\n", "has no labels"),
        ("labels.jsonl", "{}\n{", "labels.jsonl:2: no JSON"),
        ("labels.jsonl", "[1]\n", "labels.jsonl:1: expected an object"),
        ("labels.txt", "", "labels are read from .csv and .jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(feeding, turnout, tmp_path, name, content, complaint):
    answer(feeding, 1)
    (tmp_path / name).write_text(content)
    code, _, err = turnout("feedback", "m", "--from", tmp_path / name)
    assert code == 2
    assert complaint in err


def test_options_that_contradict_each_other_are_told_apart(feeding, turnout, tmp_path):
    assert "say --id and --label or --score, or --from FILE" in turnout("feedback", "m", "--id", "a")[2]
    assert (
        "--id is of a single label" in turnout("feedback", "m", "--id", "a", "--from", tmp_path / "x.csv")[2]
    )
    assert "names a version" in turnout("feedback", "m@7", "--id", "a", "--label", "1")[2]


def test_a_mistake_in_a_label_is_told_and_nothing_of_its_request_counts(feeding, turnout, tmp_path):
    answer(feeding, 2)
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "id-0", "label": 1}\n{"id": "id-1", "label": -3}\n')
    code, _, err = turnout("feedback", "m", "--from", path)
    assert code == 2
    assert "labels[1].label: expected a class by its number from 0 on" in err
    assert turnout("feedback", "m", "--id", "id-0", "--label", "1") == (0, ["m: 1 label: 1 joined"], "")


def test_giving_a_label_waits_for_no_heavy_import():
    code = (
        "import sys; from serving import cli_feedback; from serving.labels import shown; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
