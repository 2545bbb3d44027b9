"""The verbs of rollouts ask for what they say, print what people can read, and say what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from router.rollout import Phase, Reason
from router.rollout_intent import FreezeTerms, Observe, PromoteRollout, StartRollout
from router.verb import Verb
from serving import access
from serving.access import JOURNAL, place
from serving.admin.chronicle import journal
from serving.cli_traffic import configured
from serving.journal.journal import Journal
from serving.rollout import audit, shown
from serving.rollout.document import values_of
from serving.rollout.outlook import outlook
from tests.controlling import BEGAN_US, Deciding, announced
from tests.rolling import BAD, DOCUMENT, GOOD, Piloting, plan, rollout_in, verdict_of

NOW_US = BEGAN_US + 5_000_000
TERMS = {"late_ns": [1_200_000, 2_000_000, 3_100_000], "confidence": 0.5, "requests": 300}
HEAVY = {"numpy", "numba", "onnxruntime", "pydantic", "ray", "yaml"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def served(tmp_path):
    """Announce a gateway that has version 7 of digits live."""
    control = Deciding(digits="7")
    pilot = Piloting(control)
    with announced(tmp_path / "private", control, rollouts=pilot, now_us=lambda: NOW_US) as served:
        served.pilot = pilot
        yield served


@pytest.fixture
def file(tmp_path):
    """Return the file of a rollout."""
    path = tmp_path / "digits.yaml"
    path.write_text(DOCUMENT)
    return path


def test_a_rollout_is_begun_from_its_file(turnout, served, file):
    code, lines, complaint = turnout("rollout", "start", file, "--by", "ann", "--why", "better")
    assert (code, complaint) == (0, "")
    assert lines == [
        "digits: rollout confirmed as revision 2, in 1.2 ms",
        "  rollout       digits-8 of digits@8: Progressing, step 1 of 4: setWeight 5%",
        "  acknowledged  r1, r2",
    ]
    entry = list(served.control.history)[-1]
    assert (entry.by, entry.why, entry.change.rollout.plan) == ("ann", "better", plan())


def test_a_file_in_toml_says_the_same(turnout, served, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        'apiVersion = "turnout/v1"\nkind = "Rollout"\nmetadata.name = "x"\n[spec]\nmodel = "digits"\n'
        'candidate = 8\nstrategy.canary.steps = [{setWeight = 5}, "promote"]\n'
    )
    assert turnout("rollout", "start", path)[0] == 0
    assert rollout_in(served.control.history).plan.name == "x"


def test_an_alias_in_a_file_is_left_to_the_gateway(turnout, served, file):
    file.write_text(DOCUMENT.replace("candidate: 8", 'candidate: "@challenger"'))
    code, _, complaint = turnout("rollout", "start", file)
    assert code == 2
    assert "spec.candidate: model 'digits' has no alias 'challenger'" in complaint
    turnout("alias", "digits", "challenger=8")
    assert turnout("rollout", "start", file)[0] == 0
    assert rollout_in(served.control.history).plan.candidate == "8"


@pytest.mark.parametrize(
    ("verb", "phase"),
    [("pause", Phase.PAUSED), ("abort", Phase.DEGRADED), ("promote", Phase.PROGRESSING)],
)
def test_each_verb_leads_the_rollout(turnout, served, file, verb, phase):
    turnout("rollout", "start", file)
    code, lines, _ = turnout("rollout", verb, "models:/digits", "--why", "so")
    assert code == 0
    assert str(phase) in lines[1]
    assert rollout_in(served.control.history).phase is phase
    assert list(served.control.history)[-1].why == "so"


def test_a_promotion_in_full_is_asked_for(turnout, served, file):
    turnout("rollout", "start", file)
    code, lines, _ = turnout("rollout", "promote", "digits", "--full")
    assert code == 0
    assert lines[1:3] == [
        "  rollout       digits-8 of digits@8: Healthy, done",
        "  now           8=100%",
    ]
    assert served.control.asked[-1][0] == PromoteRollout("digits", NOW_US, full=True)
    assert rollout_in(served.control.history).phase is Phase.HEALTHY


def test_a_dry_run_does_nothing_and_is_no_failure(turnout, served, file):
    code, lines, _ = turnout("rollout", "start", file, "--dry-run")
    assert code == 0
    assert "this was a dry run, nothing was done" in lines[0]
    assert served.control.history.revision == 1


def test_what_makes_no_sense_or_is_not_confirmed_is_one(turnout, served, file):
    code, _, complaint = turnout("rollout", "status", "digits")
    assert (code, "begin one: turnout rollout start FILE" in complaint) == (1, True)
    turnout("rollout", "start", file)
    assert turnout("rollout", "resume", "digits")[0] == 1
    assert turnout("rollout", "pause", "digits", "--if-revision", 1)[0] == 1
    served.control.missing = ("r2",)
    code, lines, _ = turnout("rollout", "pause", "digits")
    assert (code, "NOT CONFIRMED" in lines[0]) == (1, True)


def test_json_is_the_answer(turnout, served, file):
    _, lines, _ = turnout("rollout", "start", file, "--json")
    assert json.loads(lines[0])["change"]["rollout"]["plan"]["name"] == "digits-8"
    _, lines, _ = turnout("rollout", "status", "digits", "--json")
    assert json.loads(lines[0])["rollout"]["phase"] == "Progressing"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("start gone.yaml", "gone.yaml: No such file or directory"),
        ("start .", ".: Is a directory"),
        ("start bad.yaml", "bad.yaml: not valid YAML in line 1"),
        ("start wrong.yaml", "wrong.yaml: spec.strategy.canary.steps[0].setWeigth: unknown field; did you mean"),
        ("check wrong.yaml", "wrong.yaml: spec.strategy.canary.steps[0].setWeigth: unknown field; did you mean"),
        ("check latin.yaml", "latin.yaml: it is not UTF-8"),
        ("pause digits@7", "digits@7 names a version; here a model is meant, such as digits"),
        ("pause digits --full", "--full is of promote, not of pause"),
        ("status digits --base 1%", "--base is of check, not of status"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_in_a_line(turnout, served, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "wrong.yaml").write_text(DOCUMENT.replace("setWeight", "setWeigth"))
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    code, _, complaint = turnout("rollout", *arguments.split())
    assert code == 2
    assert complaint.startswith(f"turnout: {said}"), complaint
    assert complaint.count("\n") == 1


def test_every_mistake_of_a_file_has_a_line(turnout, file):
    file.write_text(DOCUMENT.replace("v1", "v9").replace("candidate: 8", "candidate: v8"))
    code, _, complaint = turnout("rollout", "check", file)
    assert (code, complaint.count("\n")) == (2, 2)
    assert [line.split(": ")[2] for line in complaint.splitlines()] == ["apiVersion", "spec.candidate"]


def test_a_check_says_what_would_be_done_and_asks_nobody(turnout, file):
    code, lines, complaint = turnout("rollout", "check", file, "--base", "1%")
    assert (code, complaint, lines[0]) == (0, "", "digits-8: version 8 of digits")
    said = outlook(plan(), 0.01)
    row = said["steps"][1]["needs"][0]
    assert f"{row['clears']:,} requests" in next(line for line in lines if "request-failure  " in line)
    assert [line.strip() for line in lines if line.startswith("    ") and not line.startswith("     ")] == [
        each["step"] for each in said["steps"]
    ]
    code, lines, _ = turnout("rollout", "check", file, "--base", "1%", "--json")
    answered = json.loads(lines[0])
    assert answered["steps"] == json.loads(json.dumps(said["steps"]))
    assert answered["document"]["spec"]["metrics"][0]["ruleOut"] == 2.0


@pytest.mark.parametrize("rate", ["0.1", "0%", "100%", "much"])
def test_a_rate_has_its_sign(turnout, file, rate):
    with pytest.raises(SystemExit):
        turnout("rollout", "check", file, "--base", rate)


def begun(served: object) -> tuple[Deciding, Piloting]:
    """Begin the rollout, take the first step and freeze what is compared with."""
    control, pilot = served.control, served.pilot
    control._append(StartRollout(plan(), BEGAN_US), "ann", "better digits")
    pilot.move()
    control._append(FreezeTerms("digits", TERMS), "turnout", "the stable version was measured")
    return control, pilot


def test_the_status_says_steps_and_evidence_at_a_glance(turnout, served):
    control, pilot = begun(served)
    pilot.verdicts["digits"] = verdict_of(rollout_in(control.history), GOOD, NOW_US)
    code, lines, _ = turnout("rollout", "status", "digits")
    assert code == 0
    assert lines[:3] == [
        "digits  digits-8: version 8 beside 7  Progressing",
        "  route  8=5% 7=95% baseline:7=5%",
        "  since  2026-11-25 14:05:00Z",
    ]
    assert lines[4:8] == [
        "  x setWeight 5%",
        "  > analysis within 10m by request-failure, latency, request-success-rate",
        "    pause until promoted or resumed",
        "    promote",
    ]
    text = "\n".join(lines)
    assert "  Running: not certain yet that it is good enough" in text
    assert "  p50, p90, p99 of version 7, frozen: 1.2, 2, 3.1 ms" in text
    rows = {line.split("  ")[1]: line for line in lines if line.startswith("  ") and "  " in line[2:]}
    assert "20 of 20,000 (0.035% to 0.22%)" in rows["request-failure"]
    assert rows["request-failure"].endswith("speaks for it")
    assert rows["labels"].endswith("guard") and "90 of 900 labels" in rows["labels"]
    assert rows["false-negative-seven"].endswith("dry run")
    assert rows["request-success-rate"].endswith("awaited")
    assert lines[-1].endswith("turnout  the stable version was measured")


def test_the_status_of_a_bad_candidate_says_why_and_what_to_do(turnout, served):
    control, pilot = begun(served)
    pilot.move(verdict_of(rollout_in(control.history), BAD, NOW_US))
    _, lines, _ = turnout("rollout", "status", "digits")
    assert lines[0] == "digits  digits-8: version 8 beside 7  Degraded, AnalysisFailed"
    assert lines[1] == "  route  7=100%"
    assert "  next   turnout rollout retry digits begins anew" in lines
    assert "  ! analysis within 10m by request-failure, latency, request-success-rate" in lines
    assert any(
        line.startswith("  Failed: failures: 400 of 20,000 at version 8, 380 of 380,000 at 7")
        for line in lines
    )


def test_the_status_of_a_refused_step_says_so(turnout, served):
    begun(served)
    served.pilot.refused = {"times": 3, "why": "digits@8 is not loaded"}
    assert "  REFUSED  3 times: digits@8 is not loaded" in turnout("rollout", "status", "digits")[1]


def test_verdicts_of_the_gateway_that_runs_are_judged_again(turnout, served):
    assert turnout("audit", "recompute")[1] == ["ok: there is no verdict in the journal"]
    control, pilot = begun(served)
    pilot.move(verdict_of(rollout_in(control.history), BAD, NOW_US))
    code, lines, _ = turnout("audit", "recompute")
    assert code == 0
    assert lines[1].split()[3:] == ["digits@8", "Failed", "Failed", "matches"]
    assert lines[-1] == "ok: 1 verdict, each as its counts say"
    code, lines, _ = turnout("audit", "recompute", "--json")
    (told,) = json.loads(lines[0])["verdicts"]
    assert (code, told["word"], told["matches"]) == (0, "Failed", True)
    assert told["log10_e"]["request-failure"] > 100


def test_a_journal_that_is_kept_in_a_file_is_judged_again_without_a_gateway(turnout, tmp_path):
    (tmp_path / "models").mkdir()
    settings = tmp_path / "turnout.toml"
    settings.write_text(f'repository.path = "{tmp_path}/models"\nrepository.state = "{tmp_path}/state"\n')
    folder = access.private(place(configured(settings)))
    control = Deciding(digits="7")
    pilot = Piloting(control)
    control._append(StartRollout(plan(), BEGAN_US), "ann", "better digits")
    pilot.move()
    pilot.move(verdict_of(rollout_in(control.history), BAD, NOW_US))
    kept = Journal.open(folder / JOURNAL)
    kept.take_term("here", BEGAN_US)
    for entry in control.history:
        kept.append(entry)
    kept.close()
    code, lines, _ = turnout("audit", "recompute", "--config", settings)
    assert (code, lines[-1]) == (0, "ok: 1 verdict, each as its counts say")
    shutil.rmtree(folder)
    assert turnout("audit", "recompute", "--config", settings)[0] != 0


def told(control: Deciding) -> list:
    """Return the entries of a journal as they are shown."""
    return json.loads(json.dumps(journal([(entry, entry.hash) for entry in control.history])))["entries"]


def test_counts_that_were_changed_do_not_give_the_verdict_beside_them(served):
    control, pilot = begun(served)
    pilot.move(verdict_of(rollout_in(control.history), BAD, NOW_US))
    for spoil in (
        lambda verdict: verdict["metrics"][0]["events"]["failure"]["rows"][0].__setitem__(2, 399),
        lambda verdict: verdict.__setitem__("alpha", 0.02),
        lambda verdict: verdict.__setitem__("word", "Successful"),
        lambda verdict: verdict["found"].__setitem__("e_log10", 0.0),
        lambda verdict: verdict.__setitem__("format", 99),
        lambda verdict: verdict.clear(),
    ):
        entries = told(control)
        assert audit.recomputed(entries)["ok"]
        spoil(entries[-1]["change"]["rollout"]["verdict"])
        said = audit.recomputed(entries)
        assert not said["ok"]
        assert "DIFFERS" in audit.words(said)[1]
        assert audit.words(said)[-1] == "1 of 1 verdict DIFFER from what their counts say"


def test_traffic_that_was_taken_without_evidence_is_found(served):
    control, pilot = begun(served)
    pilot.move(verdict_of(rollout_in(control.history), BAD, NOW_US))
    entries = told(control)
    innocent = verdict_of(rollout_in(control.history), GOOD, NOW_US)
    entries[-1]["change"]["rollout"]["verdict"] = json.loads(json.dumps(dict(innocent.document)))
    (again,) = audit.recomputed(entries)["verdicts"]
    assert not again["matches"]
    assert again["differences"] == [
        "traffic was taken from it (AnalysisFailed), and nothing here calls for it"
    ]


def test_a_verdict_that_only_goes_along_is_judged_once(served):
    control, _ = begun(served)
    stands = rollout_in(control.history)
    verdict = verdict_of(stands, GOOD, NOW_US)
    late = BEGAN_US + 700_000_000
    control._append(Observe("digits", verdict, late), "turnout", "too long")
    assert rollout_in(control.history).reason is Reason.INCONCLUSIVE
    control._append(PromoteRollout("digits", late), "ann", "go on")
    assert list(control.history)[-1].change.verb is Verb.ROLLOUT
    assert len(audit.recomputed(told(control))["verdicts"]) == 1


def test_numbers_are_short_however_large_they_are():
    written = [shown.number(log10) for log10 in (-9, -2, -1, 0, 2.3, 3.99, 4, 286.45, 1e6)]
    assert written == ["< 0.01", "< 0.01", "0.1", "1", "200", "9,772", "1.0e4", "2.8e286", "1.0e1000000"]
    assert [shown.percent(share) for share in (0, 0.00035, 0.0286, 0.5, 0.999, 1)] == [
        "0%",
        "0.035%",
        "2.9%",
        "50%",
        "99.9%",
        "100%",
    ]


def test_nothing_heavy_is_imported_to_lead_a_rollout():
    code = (
        "import sys; from serving import cli; import serving.cli_rollout\n"
        "try: cli.main(['rollout', 'abort', 'digits', '--admin', 'http://127.0.0.1:9'])\n"
        "except SystemExit: pass\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_fields_of_a_document_reach_the_gateway_as_they_were_written(turnout, served, file):
    turnout("rollout", "start", file)
    assert served.control.asked[0][0].plan == plan(json.dumps(values_of(DOCUMENT)))
