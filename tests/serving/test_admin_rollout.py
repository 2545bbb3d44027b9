"""What people and programs ask of rollouts over HTTP, to the real thing with a control that decides for real."""

from __future__ import annotations

import json

import pytest

from router.entry import change_document
from router.plan import Pause
from router.rollout import Phase, Reason, parse_rollout
from router.rollout_intent import (
    AbortRollout,
    PauseRollout,
    PromoteRollout,
    ResumeRollout,
    RetryRollout,
    StartRollout,
)
from serving.admin.rollout import MOVES_SHOWN_MAX, RolloutDocument, moves
from serving.admin.terms import ReceiptDocument
from serving.rollout.document import values_of
from tests.controlling import BEGAN_US, Administered, Deciding
from tests.rolling import BAD, DOCUMENT, GOOD, Piloting, plan, rollout_in, verdict_of

NOW_US = BEGAN_US + 5_000_000
PATH = "/v2/models/digits/rollout"
INTENTS = {
    "promote": PromoteRollout("digits", NOW_US),
    "pause": PauseRollout("digits", NOW_US),
    "resume": ResumeRollout("digits", NOW_US),
    "abort": AbortRollout("digits", NOW_US),
    "retry": RetryRollout("digits", NOW_US),
}


@pytest.fixture(scope="module")
def server():
    control = Deciding()
    pilot = Piloting(control)
    with Administered(control, rollouts=pilot, now_us=lambda: NOW_US) as served:
        served.pilot = pilot
        yield served


@pytest.fixture
def served(server):
    """Give the server a new control, with version 7 of digits live."""
    server.control.__init__(digits="7", wine="1")
    server.pilot.__init__(server.control)
    return server


def start(served, document=DOCUMENT, **more: object):
    return served.call("POST", PATH, {"document": document, **more})[:2]


@pytest.mark.parametrize("document", [DOCUMENT, values_of(DOCUMENT), json.dumps(values_of(DOCUMENT))])
def test_a_rollout_begins_with_its_document_as_text_or_as_fields(served, document):
    status, receipt = start(served, document, by="ann", why="better digits")
    assert status == 200, receipt
    ReceiptDocument.model_validate(receipt)
    assert (receipt["by"], receipt["why"], receipt["verb"], receipt["confirmed"]) == (
        "ann",
        "better digits",
        "rollout",
        True,
    )
    assert served.control.asked[0][0] == StartRollout(plan(), BEGAN_US)
    stands = parse_rollout(receipt["change"]["rollout"])
    assert stands == rollout_in(served.control.history)
    assert (stands.phase, stands.step, stands.stable, stands.plan) == (Phase.PROGRESSING, 0, "7", plan())


def test_without_a_reason_the_journal_says_which_rollout_it_is(served):
    assert start(served)[1]["why"] == "rollout digits-8"


def test_a_candidate_may_be_named_by_its_alias(served):
    text = DOCUMENT.replace("candidate: 8", 'candidate: "@challenger"')
    status, answer = start(served, text)
    assert status == 400
    assert answer["error"].startswith("spec.candidate: model 'digits' has no alias 'challenger'")
    served.change("digits", "alias", alias="challenger", version="8")
    assert start(served, text)[0] == 200
    assert rollout_in(served.control.history).plan == plan()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "body.document"),
        ({"document": 5}, "body.document"),
        ({"document": "a: ["}, "not valid YAML in line 1"),
        ({"document": ""}, "expected the fields of a rollout, got nothing"),
        (
            {"document": {}},
            "apiVersion: is missing; kind: is missing; metadata: is missing; spec: is missing",
        ),
        (
            {"document": DOCUMENT.replace("setWeight", "setWeigth")},
            "steps[0].setWeigth: unknown field; did you",
        ),
        ({"document": DOCUMENT.replace("digits\n", "wine\n")}, "spec.model: the document is of 'wine', and"),
        ({"document": DOCUMENT, "docment": 1}, "unknown field 'docment'; did you mean 'document'?"),
        ({"document": DOCUMENT, "atomic": True}, "unknown field 'atomic'"),
        ({"document": DOCUMENT, "by": " "}, "body.by"),
    ],
)
def test_what_is_no_rollout_is_refused_with_the_place(served, body, said):
    status, answer, _ = served.call("POST", PATH, body)
    assert (status, said in answer["error"]) == (400, True), answer
    assert not served.control.asked


def test_a_rollout_that_makes_no_sense_now_is_refused(served):
    assert start(served, DOCUMENT.replace("candidate: 8", "candidate: 7"))[0] == 409
    start(served)
    status, answer = start(served)
    assert status == 409
    assert "turnout rollout abort digits" in answer["error"]


@pytest.mark.parametrize("verb", INTENTS)
def test_each_verb_is_its_intent_at_this_moment(served, verb):
    start(served)
    served.control.asked.clear()
    status, answer, _ = served.call("POST", f"{PATH}/{verb}", {"by": "bob", "why": "so", "dry_run": True})
    assert served.control.asked == [(INTENTS[verb], {"if_revision": None, "dry_run": True, "atomic": False})]
    assert status == (409 if verb in ("resume", "retry") else 200), answer
    if status == 200:
        ReceiptDocument.model_validate(answer)
        assert (answer["by"], answer["why"], answer["dry_run"]) == ("bob", "so", True)


def test_a_body_is_not_needed_to_lead_a_rollout(served):
    start(served)
    for verb, phase in (("pause", Phase.PAUSED), ("resume", Phase.PROGRESSING), ("abort", Phase.DEGRADED)):
        status, answer, _ = served.call("POST", f"{PATH}/{verb}")
        assert (status, answer["by"], answer["why"]) == (200, "admin", "no reason given")
        assert rollout_in(served.control.history).phase is phase
    assert served.call("POST", f"{PATH}/retry")[0] == 200
    assert rollout_in(served.control.history).first == served.control.history.revision


def test_a_promotion_in_full_leaves_out_what_is_left(served):
    start(served)
    status, answer, _ = served.call("POST", f"{PATH}/promote", {"full": True})
    assert status == 200, answer
    assert str(served.control.history.table.routes["digits"]) == "8=100%"
    assert rollout_in(served.control.history).phase is Phase.HEALTHY


def test_aborting_where_nothing_is_under_way_changes_nothing(served):
    start(served)
    served.call("POST", f"{PATH}/abort")
    revision = served.control.history.revision
    status, answer, _ = served.call("POST", f"{PATH}/abort")
    assert (status, answer["unchanged"], answer["revision"]) == (200, True, revision)


def test_another_revision_than_the_decision_was_based_on_is_412(served):
    start(served)
    assert served.call("POST", f"{PATH}/abort", {"if_revision": 1})[0] == 412
    assert start(served, if_revision=1)[0] == 412
    assert rollout_in(served.control.history).phase is Phase.PROGRESSING


def test_the_status_has_the_plan_the_verdict_and_the_moves(served):
    assert served.call("GET", PATH)[0] == 409
    start(served)
    pilot, control = served.pilot, served.control
    pilot.move()
    pilot.verdicts["digits"] = verdict_of(rollout_in(control.history), GOOD, NOW_US)
    status, said, _ = served.call("GET", PATH)
    assert status == 200
    RolloutDocument.model_validate(said)
    assert said["words"].startswith("digits-8 of digits@8: Progressing, step 2 of 4: analysis")
    assert said["route"] == "8=5% 7=95% baseline:7=5%"
    assert parse_rollout(said["rollout"]) == rollout_in(control.history)
    assert said["now"]["word"] == "Running"
    assert {each["name"] for each in said["now"]["found"]["metrics"]} == {
        each["name"] for each in plan().metrics
    }
    assert [each["revision"] for each in said["history"]] == [3, 4]
    assert said["history"][-1]["from"] == "7=100%; rollout digits-8 Progressing, step 1 of 4"
    assert said["history"][-1]["to"] == "8=5% 7=95% baseline:7=5%; rollout digits-8 Progressing, step 2 of 4"


def test_a_candidate_that_is_found_bad_is_in_history_with_every_number(served):
    start(served)
    pilot, control = served.pilot, served.control
    pilot.move()
    verdict = verdict_of(rollout_in(control.history), BAD, NOW_US)
    assert verdict.word == "Failed", verdict.message
    pilot.move(verdict)
    stands = rollout_in(control.history)
    assert (stands.phase, stands.reason) == (Phase.DEGRADED, Reason.FAILED)
    _, said, _ = served.call("GET", "/v2/models/digits/traffic/history")
    assert said["entries"][-1]["verb"] == "rollback"
    assert said["entries"][-1]["to"] == "7=100%; rollout digits-8 Degraded (AnalysisFailed)"
    _, audit, _ = served.call("GET", "/v2/audit")
    assert audit["entries"][-1]["change"]["rollout"]["verdict"] == json.loads(json.dumps(verdict.document))


def test_whoever_changes_the_route_ends_the_rollout_and_history_says_so(served):
    start(served)
    served.pilot.move()
    served.change("digits", "promote", version="8", why="now")
    _, said, _ = served.call("GET", "/v2/models/digits/traffic/history")
    assert said["entries"][-1]["to"] == "8=100%; rollout digits-8 Degraded (Superseded)"
    assert served.call("GET", PATH)[1]["history"][-1]["verb"] == "promote"


def test_of_many_moves_the_latest_are_shown():
    control = Deciding(digits="7")
    pilot = Piloting(control)
    control._append(StartRollout(plan(), BEGAN_US), "ann", "begin")
    pilot.move()
    while control.history.revision < MOVES_SHOWN_MAX + 20:
        control._append(PauseRollout("digits", NOW_US), "ann", "wait")
        control._append(ResumeRollout("digits", NOW_US), "ann", "go on")
    assert isinstance(rollout_in(control.history).plan.steps[2], Pause)
    shown = moves(control.history, "digits")
    assert len(shown) == MOVES_SHOWN_MAX
    assert shown[-1]["revision"] == control.history.revision


def test_an_unknown_model_is_404_and_so_are_rollouts_where_there_are_none(served):
    for method, path in (("GET", ""), ("POST", "/abort")):
        assert served.call(method, f"/v2/models/nobody/rollout{path}")[0] == 404
    assert served.call("POST", "/v2/models/nobody/rollout", {"document": DOCUMENT})[0] == 404
    with Administered(Deciding(digits="7")) as bare:
        for method, path, body in (
            ("GET", "", None),
            ("POST", "/abort", None),
            ("POST", "", {"document": {}}),
        ):
            status, answer, _ = bare.call(method, f"{PATH}{path}", body)
            assert (status, answer) == (404, {"error": "this gateway has no rollouts"})


def test_a_receipt_holds_the_change_as_the_journal_has_it(served):
    _, receipt = start(served)
    entry = list(served.control.history)[-1]
    assert receipt["change"] == json.loads(json.dumps(change_document(entry.change)))
