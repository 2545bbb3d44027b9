"""A rollout's document says one plan, or what is wrong with it and at which place."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from decimal import Decimal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from router.plan import (
    AbortPolicy,
    Analysis,
    Pause,
    Plan,
    Promote,
    SetMirror,
    SetWeight,
    parse_plan,
    plan_document,
)
from router.table import NoRoute
from serving.rollout import units
from serving.rollout.defaults import metric_of
from serving.rollout.document import InvalidDocument, plan_of, values_of
from serving.rollout.metric import (
    CLASSIC,
    LATE,
    OF_A_CLASS,
    RATED,
    SHADOWED,
    InvalidMetric,
    Kind,
    Metric,
    Threshold,
    metrics_of,
    parse_metric,
)
from serving.rollout.outlook import outlook
from serving.rollout.terms import MetricTerm, RolloutTerm, fields_of, inner, places
from serving.rollout.text import BYTES_MAX, VALUES_MAX, InvalidText, read_toml, read_yaml
from serving.rollout.units import written_rate, written_s
from serving.rollout.written import document_of
from tests.slow import slow

SHORT = """\
apiVersion: turnout/v1
kind: Rollout
metadata: {name: digits-8}
spec:
  model: digits
  candidate: 8
  strategy:
    canary:
      steps: [setWeight: 5, analysis, promote]
"""
TOML = """\
apiVersion = "turnout/v1"
kind = "Rollout"
metadata.name = "digits-8"
[spec]
model = "digits"
candidate = 8
[spec.strategy.canary]
steps = [{setWeight = 5}, "analysis", "promote"]
"""

rates = st.integers(1, 9_999_999).map(lambda n: n / 10_000_000)
ratios = st.floats(1.0, 100.0)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
seconds = st.one_of(st.integers(1, 10**6).map(float), st.integers(1, 10**7).map(lambda ms: ms / 1000))
shares = st.integers(0, 10_000)
thresholds = st.builds(
    Threshold,
    low=rates.filter(lambda rate: rate < 0.5),
    high=st.none() | rates.filter(lambda rate: rate >= 0.5),
    interval_s=seconds.filter(lambda s: s >= 1),
    initial_delay_s=seconds,
    count=st.integers(1, 9),
    failure_limit=st.integers(0, 9),
    inconclusive_limit=st.integers(0, 9),
    consecutive_error_limit=st.integers(0, 9),
)


@st.composite
def metrics(draw: st.DrawFn) -> Metric:
    """Draw any metric that there can be."""
    kind = draw(st.sampled_from(Kind))
    tolerance = draw(ratios)
    quantiles = st.just(())
    if kind is Kind.LATENCY:
        quantiles = st.lists(st.sampled_from(LATE), min_size=1, unique=True).map(tuple)
    if kind is Kind.DURATION:
        quantiles = rates.map(lambda rate: (rate,))
    return Metric(
        draw(names),
        kind,
        draw(st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=9))
        if kind in OF_A_CLASS
        else "",
        tolerance,
        max(draw(ratios), tolerance) + 0.5,
        draw(rates if kind is Kind.DISAGREEMENT else st.none() | rates) if kind in RATED else None,
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.floats(0.01, 10)),
        draw(quantiles),
        draw(thresholds if kind in CLASSIC else st.none() | thresholds) if kind in RATED | CLASSIC else None,
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a plan as a document can say it: what its analyses wait for can be known by then."""
    judged = draw(st.lists(metrics(), max_size=5, unique_by=lambda each: each.name))
    speaking = [each for each in judged if not each.dry_run]
    steps: list = []
    fits: list[str] = []
    for kind in draw(st.lists(st.sampled_from("wmpa"), max_size=8)):
        match kind:
            case "w":
                bp = draw(shares)
                steps.append(SetWeight(bp))
                fits = [each.name for each in speaking if each.kind not in SHADOWED and 0 < bp < 10_000]
            case "m":
                bp = draw(shares)
                steps.append(SetMirror(bp))
                fits = [each.name for each in speaking if each.kind in SHADOWED and bp]
            case "p":
                steps.append(Pause(draw(st.none() | seconds)))
            case "a" if fits:
                waited = draw(st.lists(st.sampled_from(fits), min_size=1, unique=True))
                steps.append(Analysis(draw(seconds), tuple(waited)))
    return Plan(
        draw(st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=20)),
        draw(names),
        str(draw(st.integers(1, 10**17))),
        (*steps, Promote()),
        draw(st.sampled_from(AbortPolicy)),
        draw(rates),
        draw(rates),
        tuple(each.document() for each in judged),
        draw(st.booleans()),
        draw(st.just(0.0) | seconds),
        draw(st.just(0.0) | seconds),
    )


NUMBERS_SINCE_1_2 = re.compile(r"[-+]?(\d+[eE][-+]?\d+|0o[0-7]+)")
"""Words that PyYAML, which writes YAML 1.1, leaves without quotes."""


@given(plans())
@slow
def test_a_plan_that_is_written_is_read_as_the_same_plan(plan):
    document = document_of(plan)
    assert plan_of(document) == plan
    if not any(NUMBERS_SINCE_1_2.fullmatch(each) for each in re.findall(r'"([^"]*)"', json.dumps(document))):
        assert plan_of(values_of(yaml.safe_dump(document, allow_unicode=True))) == plan
    assert plan_of(values_of(json.dumps(document))) == plan
    assert parse_plan(json.loads(json.dumps(plan_document(plan)))) == plan


@given(metrics())
def test_a_metric_that_is_journalled_is_read_as_the_same_metric(metric):
    assert parse_metric(json.loads(json.dumps(metric.document()))) == metric


@given(st.floats(1e-6, 1e6))
def test_what_is_written_of_a_number_is_read_as_that_very_number(value):
    assert units.seconds(written_s(value)) == value
    assert units.rate(written_rate(value / 1e6)) == value / 1e6


@given(st.integers(0, 10_000))
def test_a_share_may_be_a_number_or_text_with_or_without_its_sign(bp):
    percent = Decimal(bp) / 100
    for written in (float(percent), str(percent), f"{percent}%"):
        assert units.share_bp(written) == bp


@pytest.mark.parametrize(
    ("written", "s"),
    [("10m", 600), ("30s", 30), ("1h30m", 5400), ("1d", 86400), ("250ms", 0.25), ("0.5s", 0.5), (60, 60)],
)
def test_durations_are_written_as_argo_has_them(written, s):
    assert units.seconds(written) == s


def test_ten_lines_are_enough():
    assert len(SHORT.splitlines()) < 10
    plan = plan_of(values_of(SHORT))
    assert plan.steps == (
        SetWeight(500),
        Analysis(3600.0, ("request-failure", "nan-output", "latency")),
        Promote(),
    )
    assert (plan.abort, plan.alpha, plan.beta, plan.baseline) == (AbortPolicy.ROLLBACK, 0.01, 0.05, True)
    assert (plan.watch_s, plan.cool_down_s) == (3600, 3600)
    found = {each.name: each for each in metrics_of(plan)}
    assert list(found) == ["request-failure", "nan-output", "latency", "wrong"]
    assert [each.critical for each in found.values()] == [True, True, True, False]
    assert found["latency"].counted == ("latency-p50", "latency-p90", "latency-p99")


def test_toml_and_fields_say_the_same_as_yaml():
    assert plan_of(values_of(TOML, toml=True)) == plan_of(values_of(SHORT)) == plan_of(read_yaml(SHORT))


def with_spec(more: str, steps: str = "[setWeight: 5, analysis, promote]") -> str:
    """Return a document with more in its spec, whose lines are indented here."""
    return SHORT.replace("[setWeight: 5, analysis, promote]", steps) + "".join(
        f"  {line}\n" for line in more.splitlines()
    )


def mistakes(text: str) -> list[str]:
    with pytest.raises(InvalidDocument) as error:
        plan_of(values_of(text))
    return list(error.value.mistakes)


STEP = "spec.strategy.canary.steps"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("[{setWeigth: 5}]", f"{STEP}[0].setWeigth: unknown field; did you mean 'setWeight'?"),
        ("[setWeight: 105]", f"{STEP}[0].setWeight: expected a share of the traffic such as 5, 5% or"),
        ("[setWeight: 0.001]", f"{STEP}[0].setWeight: expected a share of the traffic"),
        ("[setWeight: ]", f"{STEP}[0]: says nothing"),
        ("[setMirrorRoute: {percentage: 5, percent: 5}]", f"{STEP}[0].setMirrorRoute.percent: unknown field"),
        ("[setMirrorRoute: {}]", f"{STEP}[0].setMirrorRoute.percentage: is missing"),
        ("[pause: {duration: 10x}]", f"{STEP}[0].pause.duration: expected a duration such as 10m, 30s or"),
        ("[pause: {duration: 0}]", f"{STEP}[0].pause.duration: pause takes more than 0"),
        ("[pause: {duration: 400d}]", f"{STEP}[0].pause.duration: pause takes more than 0 and at most"),
        ("[pause: 10m]", f"{STEP}[0].pause: expected fields, got '10m'"),
        ("[setWeight: 5, analysis: {within: -5}]", f"{STEP}[1].analysis.within: analysis takes more than 0"),
        ("[promote, promote]", f"{STEP}[0]: `promote` is the last step, if it is said at all"),
        ("[{setWeight: 5, pause: {}}]", f"{STEP}[0]: a step is one of setWeight, setMirror, setMirrorRoute"),
        ("[]", f"{STEP}: "),
        ("5", f"{STEP}: "),
        ("[analysis]", f"{STEP}[0].analysis: there is nothing to wait for while the candidate gets nothing"),
        ("[setWeight: 100, analysis]", f"{STEP}[1].analysis: there is nothing to wait for while nothing"),
        (
            "[setMirror: 100%, analysis]",
            f"{STEP}[1].analysis: there is nothing to wait for while the candidate only shadows; disagreement, ",
        ),
        (
            "[setMirror: 100%, analysis: {metrics: [latency]}]",
            f"{STEP}[1].analysis.metrics[0]: latency says nothing while the candidate only shadows",
        ),
        (
            "[setWeight: 5, analysis: {metrics: [wrnog]}]",
            f"{STEP}[1].analysis.metrics[0]: no metric 'wrnog'; did you mean 'wrong'?",
        ),
        ("[setWeight: 5, analysis: {templates: []}]", f"{STEP}[1].analysis.templates: unknown field; `metr"),
    ],
)
def test_every_mistake_in_a_step_names_its_place(steps, said):
    (told,) = mistakes(with_spec("", steps))
    assert told.startswith(said), told


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("{metric: wrnog}", ".metric: no metric 'wrnog'; did you mean 'wrong'?"),
        ("{name: mine}", ".metric: say which one it is; known: request-failure"),
        ("{metric: wrong, name: 'a b'}", ".name: a name has 1 to 64 letters"),
        ("{metric: wrong, class: cat}", ".class: wrong is of no class"),
        ("{metric: false-positive}", ".class: false-positive is of one class"),
        ("{metric: wrong, tolerance: 0.5}", ".tolerance: how many times as bad is tolerated is 1 to 1000, got 0.5"),
        ("{metric: wrong, ruleOut: 1}", ".ruleOut: expected more than 1"),
        ("{metric: wrong, ruleOut: 2, tolerance: 3}", ".ruleOut: 2 times as bad cannot be ruled out"),
        ("{metric: wrong, weight: 0}", ".weight: a weight is above 0"),
        ("{metric: wrong, acceptable: 0.01}", ".acceptable: expected a rate with a percent sign"),
        ("{metric: wrong, acceptable: 100%}", ".acceptable: an acceptable rate lies between 0% and 100%"),
        ("{metric: latency, acceptable: 1%}", ".acceptable: latency has no rate that could be acceptable"),
        ("{metric: disagreement}", ".acceptable: say which rate of disagreement is acceptable"),
        ("{metric: latency, quantiles: [0.95]}", ".quantiles: latency is compared at some of 0.5, 0.9, 0.99"),
        ("{metric: wrong, quantile: 0.5}", ".quantiles: wrong has no quantiles"),
        ("{metric: latency, thresholdRange: {max: 5}}", ".thresholdRange: latency has no single value"),
        ("{name: request-duration}", ".thresholdRange: request-duration is held against thresholds"),
        ("{name: request-duration, thresholdRange: {}}", ".thresholdRange: a range of thresholds needs"),
        ("{name: request-duration, thresholdRange: {max: fast}}", ".thresholdRange.max: expected a duration"),
        ("{name: request-duration, thresholdRange: {min: 9, max: 5}}", ".thresholdRange: `min` is above `max`"),
        ("{name: request-success-rate, thresholdRange: {min: 99}, interval: 0}", ".interval: an interval takes"),
        ("{name: request-success-rate, thresholdRange: {min: 99}, count: 0}", ".count: expected 1 to"),
        ("{metric: wrong, failureLimit: 3}", ".failureLimit: goes with thresholdRange"),
        ("{metric: wrong, dryrun: true}", ".dryrun: unknown field; did you mean 'dryRun'?"),
        ("{metric: wrong, direction: increase}", ".direction: unknown field; all that is counted is bad"),
        ("{metric: wrong, critical: maybe}", ".critical: "),
        ("wrong", ": expected fields, got 'wrong'"),
    ],
)  # fmt: skip
def test_every_mistake_in_a_metric_names_its_place(metric, said):
    (told,) = mistakes(with_spec(f"metrics: [{metric}]", "[setWeight: 5, promote]"))
    assert told.startswith(f"spec.metrics[0]{said}"), told


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("abortPolicy: hold", "spec.abortPolicy: expected 'rollback' or 'freeze', got 'hold'"),
        ("alpha: 0", "spec.alpha: "),
        ("alpha: 1", "spec.alpha: "),
        ("beta: often", "spec.beta: expected a rate with a percent sign such as 0.1%, got 'often'"),
        ("watch: soon", "spec.watch: expected a duration"),
        ("coolDown: -1s", "spec.coolDown: expected a duration"),
        ("coolDown: 400d", "spec: cool_down_s takes more than 0 and at most"),
        ("setWeight: 5", f"spec.setWeight: unknown field; it goes to {STEP}[].setWeight"),
        ("stickiness: {keys: [id]}", "spec.stickiness: unknown field; a rollout keeps that of the route"),
        ("stable: 7", "spec.stable: unknown field; a rollout begins where one version has all"),
        ("metrics: [{metric: wrong}, {name: wrong}]", "spec.metrics[1].name: 'wrong' is the name of two"),
        ("baseline: perhaps", "spec.baseline: "),
    ],
)
def test_every_other_mistake_names_its_place(more, said):
    steps = "[setWeight: 5, promote]"
    (told,) = mistakes(with_spec(more, steps))
    assert told.startswith(said), told


def test_all_mistakes_are_told_at_once_but_never_very_many():
    told = mistakes(SHORT.replace("v1", "v9").replace("digits\n", "digits@7\n").replace("8\n", "v8\n"))
    assert [each.partition(":")[0] for each in told] == ["apiVersion", "spec.model", "spec.candidate"]
    told = mistakes(with_spec("", "[" + "pause: {duration: x}, " * 50 + "]"))
    assert len(told) == 21
    assert told[-1] == "and 30 more mistakes"


@pytest.mark.parametrize(
    "term", [RolloutTerm, *{inner(each) for each in fields_of(RolloutTerm).values()} - {None}]
)
def test_any_unknown_field_of_any_place_is_a_mistake(term):
    assert term.model_config["extra"] == "forbid"


def test_an_alias_means_what_a_gateway_says():
    text = SHORT.replace("candidate: 8", 'candidate: "@challenger"')
    assert (
        plan_of(
            values_of(text), lambda model, named: {("digits", "@challenger"): "9"}[model, named]
        ).candidate
        == "9"
    )
    assert mistakes(text) == [
        "spec.candidate: what '@challenger' means is known to a gateway alone; name the version by its number"
    ]

    def unknown(model: str, _named: str) -> str:
        raise NoRoute(f"model {model!r} has no alias")

    with pytest.raises(InvalidDocument, match=r"spec\.candidate: model 'digits' has no alias"):
        plan_of(values_of(text), unknown)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=12), inside, max_size=3),
    max_leaves=8,
)
BELOW = sorted({path for path, _ in places()})


@given(st.sampled_from(BELOW), plain)
def test_whatever_stands_at_a_place_is_read_or_a_mistake_there(path, value):
    document = document_of(plan_of(values_of(SHORT)))
    at: object = document
    *parents, name = re.sub(r"\[\]", ".0", path).split(".")
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
    at[name] = value
    try:
        plan = plan_of(document)
    except InvalidDocument as error:
        assert all(": " in each for each in error.mistakes)
        top = path.split(".")[0]
        assert all(each.startswith((top, "spec")) for each in error.mistakes), error.mistakes
    else:
        assert plan_of(document_of(plan)) == plan


@given(plain)
def test_anything_at_all_is_a_plan_or_a_mistake(value):
    with pytest.raises(InvalidDocument):
        plan_of(value)


@given(st.text(max_size=200))
def test_any_text_is_plain_values_or_a_mistake(text):
    for read in (read_yaml, read_toml):
        try:
            json.dumps(read(text), default=str)
        except InvalidText as error:
            assert str(error)


def test_scalars_are_those_of_yaml_1_2():
    said = read_yaml("[1, -2, 1e-3, 2.5, true, null, ~, on, 1:30, 010, 0x10, 2026-11-24, .inf, '7', 1_0]")
    assert said == [
        1, -2, 0.001, 2.5, True, None, None, "on", "1:30", "010", "0x10", "2026-11-24", ".inf", "7", "1_0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "'a' is said twice in line 3"),
        ("a: &x [*x]", "nests more than 32 deep in line 1"),
        ("[" * 60_000, "nests more than 32 deep in line 1"),
        ("- " * 30_000, "nests more than 32 deep"),
        ("a: !!python/object:os.system x", "'python/object:os.system' is no plain value in line 1"),
        ("a: !!int x", "'x' is no int in line 1"),
        ("a: *b", "not valid YAML in line 1: found undefined alias 'b'"),
        ("a: {", "not valid YAML in line 1"),
        ("a: 1\n---\nb: 2", "not valid YAML in line 2: but found another document"),
        ("? [a]\n: b", "a name is a single word in line 1"),
        ("a: '\x00'", "not valid YAML"),
        ("- a\n" * (VALUES_MAX + 1), f"more than {VALUES_MAX:,} values"),
        ("x" * (BYTES_MAX + 1), f"65,537 bytes; a rollout has at most {BYTES_MAX:,}"),
        ("é" * BYTES_MAX, "131,072 bytes"),
    ],
)
def test_yaml_that_is_none_or_too_much_is_refused(text, said):
    with pytest.raises(InvalidText, match=re.escape(said)):
        read_yaml(text)


def test_references_that_multiply_count_as_often_as_they_are_made():
    rows = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(InvalidText, match="more than 10,000 values"):
        read_yaml("\n".join(rows))
    assert read_yaml("a: &x {b: 1}\nc: [*x, *x]") == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}]}


def test_toml_that_is_none_is_refused():
    for text in ("a = ", "a" * (BYTES_MAX + 1)):
        with pytest.raises(InvalidText):
            read_toml(text)


@pytest.mark.parametrize("name", [each.name for each in fields(Metric)])
def test_the_document_of_a_metric_has_its_fields(name):
    metric = Metric("n", Kind.DISAGREEMENT, acceptable=0.1, threshold=Threshold(high=0.5))
    assert name in metric.document()


def test_a_metric_without_a_class_or_with_a_wrong_one_is_not_made():
    for wrong in ({"of": "cat"}, {"weight": float("nan")}, {"tolerance": float("inf")}):
        with pytest.raises(InvalidMetric):
            Metric("n", Kind.WRONG, **wrong)


def test_the_outlook_says_what_each_analysis_needs():
    plan = plan_of(values_of(with_spec("", "[setWeight: 5, analysis, setWeight: 50, analysis]")))
    said = outlook(plan, 0.01)
    assert [each["step"] for each in said["steps"]] == [
        "setWeight 5%",
        "analysis within 1h by request-failure, nan-output, latency",
        "setWeight 50%",
        "analysis within 1h by request-failure, nan-output, latency",
        "promote",
    ]
    few, many = ({row["metric"]: row for row in said["steps"][at]["needs"]} for at in (3, 1))
    assert list(few) == [
        "request-failure",
        "nan-output",
        "latency p50",
        "latency p90",
        "latency p99",
        "wrong",
    ]
    for metric, row in few.items():
        assert (row["clears"] is None) == (metric == "wrong") != row["awaited"]
        assert row["clears"] is None or row["clears"] < many[metric]["clears"]
        assert row["finds"] < many[metric]["finds"]
    assert few["wrong"]["of"] == "labels"


def test_every_rollout_that_is_shipped_is_a_good_one(root):
    files = sorted((root / "configs" / "rollouts").iterdir())
    assert files
    for path in files:
        plan_of(values_of(path.read_text(), toml=path.suffix == ".toml"))


def documented(root) -> dict[str, str]:
    """Return what the page says of each field: its default."""
    page = (root / "docs" / "reference" / "rollouts.md").read_text()
    return dict(
        re.findall(r"^\| `((?:apiVersion|kind|metadata|spec)[\w.\[\]]*)` \| (.*?) \|", page, re.MULTILINE)
    )


def test_the_page_lists_every_field_and_no_other(root):
    every = [path for path, _ in places()]
    leaves = {
        path for path in every if not any(other.startswith((f"{path}.", f"{path}[]")) for other in every)
    }
    listed = set(documented(root))
    assert leaves <= listed
    assert listed <= set(every)


def test_the_page_says_the_defaults_that_count(root):
    said = documented(root)
    plan = plan_of(
        values_of(
            with_spec(
                "metrics: [{metric: wrong, thresholdRange: {max: 5%}, critical: true}]",
                "[setWeight: 5, analysis]",
            )
        )
    )
    document = document_of(plan)["spec"]
    (metric,) = document["metrics"]
    analysis = document["strategy"]["canary"]["steps"][1]["analysis"]
    for where, value in (
        *((f"spec.{name}", document[name]) for name in ("abortPolicy", "alpha", "beta", "watch", "coolDown")),
        ("spec.strategy.canary.steps[].analysis.within", analysis["within"]),
        *(
            (f"spec.metrics[].{name}", metric[name])
            for name in (
                *("dryRun", "interval", "initialDelay", "count", "failureLimit", "inconclusiveLimit"),
                "consecutiveErrorLimit",
            )
        ),
    ):
        shown = value if isinstance(value, str) else json.dumps(value)
        assert said[where] == f"`{shown}`", where


def test_the_page_lists_every_metric_with_what_counts_where_nothing_is_said(root):
    page = (root / "docs" / "reference" / "rollouts.md").read_text()
    rows = dict(
        re.findall(r"^\| `([a-z-]+)` \| .*? \| (.*?) ?\|$", page.partition("## Metrics")[2], re.MULTILINE)
    )
    del rows["metric"]
    assert set(rows) == set(Kind)
    for kind, said in rows.items():
        more = {"class": "cat"} if kind in OF_A_CLASS else {}
        more |= {"acceptable": "5%"} if kind == "disagreement" else {}
        more |= {"thresholdRange": {"max": 5}} if kind in CLASSIC else {}
        metric = metric_of(MetricTerm.model_validate({"metric": kind, **more}))
        assert metric.critical == ("critical" in said), kind
        assert (metric.acceptable == 0.01) == ("below 1 %" in said), kind
        assert (metric.tolerance == 1) == ("tolerated" not in said), kind
        assert metric.tolerance == 1 or f"{metric.tolerance:g} times" in said
        assert metric.rule_out == 2 * metric.tolerance
