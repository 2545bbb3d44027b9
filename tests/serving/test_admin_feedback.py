"""What people and programs say about answers over HTTP, to the real thing with replicas that remember."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from serving.admin.feedback import FEEDBACK_BYTES_MAX, GivenDocument, QualityDocument
from serving.labels import feedback as module
from serving.labels.label import LABELS_MAX
from tests.controlling import Administered, Deciding
from tests.feeding import Feeding

FEEDBACK, QUALITY = "/v2/models/m/feedback", "/v2/models/m/quality"


@pytest.fixture
def feeding(tmp_path) -> Iterator[Feeding]:
    with Feeding(tmp_path) as made:
        yield made


@pytest.fixture
def served(feeding) -> Iterator[Administered]:
    with Administered(Deciding(m="7"), feedback=feeding.feedback) as made:
        yield made


@pytest.fixture
def answered(feeding) -> None:
    replica = feeding.replica("r0")
    feeding.call(replica.answer, 7, [f"id-{at}" for at in range(10)], [1] * 10)


def ask(served: Administered, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
    return served.call(method, path, body, **more)[:2]


def test_one_label_or_many_are_joined_and_the_answer_says_what_came_of_each(served, answered):
    status, said = ask(served, "POST", FEEDBACK, {"id": "id-0", "label": "one"})
    assert (status, said["joined"]) == (200, 1)
    labels = [{"id": f"id-{at}", "label": 2} for at in range(12)]
    status, said = ask(served, "POST", FEEDBACK, {"labels": labels})
    assert status == 200
    assert GivenDocument(**said).model_dump() == {
        "model": "m",
        "labels": 12,
        "joined": 9,
        "repeated": 1,
        "misfit": 0,
        "unmatched": 2,
        "missing": [],
        "ids": {"misfit": [], "unmatched": ["id-10", "id-11"]},
    }


def test_the_quality_of_a_model_is_shown_by_version(served, answered):
    ask(served, "POST", FEEDBACK, {"labels": [{"id": f"id-{at}", "label": at % 3} for at in range(9)]})
    status, said = ask(served, "GET", QUALITY)
    assert status == 200
    document = QualityDocument(**said)
    (version,) = [each for each in document.versions if each["answered"]]
    assert (version["version"], version["role"], version["labelled"]) == ("7", "live", 9)
    assert version["accuracy"]["rate"] == pytest.approx(1 / 3)
    assert {each["name"]: each["false_negative"]["count"] for each in version["classes"]} == {
        "zero": 3,
        "one": 0,
        "two": 3,
    }
    assert ask(served, "GET", f"{QUALITY}?version=8")[1]["versions"][0]["answered"] == 0
    assert ask(served, "GET", f"{QUALITY}?version=eight")[0] == 400


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{", "the body is no JSON"),
        (b'{"id": "a"}', "expected `label`, a class, or `score`"),
        (b'{"labels": [{"id": "a", "label": 1}, 7]}', "labels[1]: expected an object, got 7"),
        (b'{"id": "\\ud800", "label": 1}', "the body is no JSON"),
    ],
)
def test_what_cannot_be_understood_counts_for_nothing_and_says_why(served, answered, body, complaint):
    status, said = ask(served, "POST", FEEDBACK, raw=body)
    assert status == 400
    assert complaint in said["error"]


def test_more_than_one_request_may_have_is_refused(served, answered):
    status, said = ask(served, "POST", FEEDBACK, {"labels": [{"id": "a", "label": 1}] * (LABELS_MAX + 1)})
    assert (status, said["error"]) == (
        400,
        f"labels: expected 1 to {LABELS_MAX} of them, got {LABELS_MAX + 1}; send more in turn",
    )
    too_large = {"Content-Length": str(FEEDBACK_BYTES_MAX + 1)}
    status, said = ask(served, "POST", FEEDBACK, raw=b" ", headers=too_large)
    assert (status, said["error"]) == (413, f"the body has more than {FEEDBACK_BYTES_MAX} bytes")
    large = {"id": "a" * 4000, "label": 1}
    assert ask(served, "POST", FEEDBACK, {"labels": [large] * 1000})[0] == 200
    assert (
        ask(served, "POST", "/v2/models/m/traffic/split", raw=b" ", headers={"Content-Length": str(1 << 17)})[
            0
        ]
        == 413
    )


def test_nobody_without_the_token_says_anything(served, answered):
    assert served.call("POST", FEEDBACK, {"id": "id-0", "label": 1}, {"Authorization": ""})[0] == 401
    assert served.call("GET", QUALITY, headers={"Authorization": "Bearer wrong"})[0] == 401


def test_labels_that_nobody_could_join_are_refused_and_may_be_given_again(served):
    status, said = ask(served, "POST", FEEDBACK, {"id": "id-0", "label": 1})
    assert status == 409
    assert "no replica is there" in said["error"]


def test_an_unknown_model_and_a_gateway_without_labels_are_not_found(served):
    assert ask(served, "POST", "/v2/models/nobody/feedback", {"id": "a", "label": 1})[0] == 404
    with Administered(Deciding(m="7")) as without:
        assert ask(without, "GET", QUALITY) == (404, {"error": "this gateway does not look after labels"})


def test_too_many_at_once_are_told_to_come_again(feeding, served, answered, monkeypatch):
    monkeypatch.setattr(module, "PENDING_MAX", 0)
    status, said = ask(served, "POST", FEEDBACK, {"id": "id-0", "label": 1})
    assert (status, said["error"]) == (409, "0 requests with labels are under way already; try again later")


def test_the_description_names_both_bodies(served):
    status, document = ask(served, "GET", "/openapi.json")
    assert status == 200
    schema = document["paths"]["/v2/models/{model}/feedback"]["post"]["requestBody"]["content"][
        "application/json"
    ]["schema"]
    assert {each["$ref"].rsplit("/", 1)[1] for each in schema["anyOf"]} <= document["components"][
        "schemas"
    ].keys()
    json.dumps(document)
