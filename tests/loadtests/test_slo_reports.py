"""What a load test leaves behind: a document, JUnit's XML and a page, each saying the same."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from loadtests.slo.chart import Line, Scale, _paths, linear_ticks, log_ticks
from loadtests.slo.junit import junit
from loadtests.slo.page import page
from loadtests.slo.plots import plots, shares
from loadtests.slo.promise import parse
from loadtests.slo.reading import Cell, Reading, Readings
from loadtests.slo.reports import write
from loadtests.slo.results import Change, Judged, Mistake, Phase, Run, Second, judge

SLO = parse('[[promise]]\nstale = 0\np99_ms = 100\n[[promise]]\nphase = "split"\nthroughput_min = 1000\n')
MARK = '<script>"&\x00'
"""What a gateway may put into an error."""


def reading(count: int, ms: float, **more: int) -> Reading:
    made = Reading(count + more.get("errors", 0), **more)
    for _ in range(count):
        made.histogram.record(round(ms * 1e6))
    return made


CELLS = {
    Cell("digits", "8", "steady"): reading(100, 3.0),
    Cell("digits", "7", "split"): reading(20, 4.0, stale=2),
    Cell("digits", "", "split"): reading(0, 0.0, errors=3),
}
RUN = Run(
    "a machine",
    "steady, up to 12 users",
    (Phase("steady", 0.0, 3.0), Phase("split", 3.0, 6.0)),
    (
        Change(0.01, 0.0, "steady", "as found", 2, confirmed=True, shares={"8": 1.0}),
        Change(3.04, 3.0, "split", "split to 8=80% 7=20%", 3, confirmed=True, shares={"8": 0.8, "7": 0.2}),
    ),
    (
        Second(0, "8", 40, 0, 3.0, 4.0),
        Second(2, "8", 60, 0, 3.0, 9.0),
        Second(3, "7", 20, 0, 4.0, 4.0),
        Second(4, "", 3, 3, None, None),
    ),
    Readings(CELLS, {"steady": 3.0, "split": 3.0}),
    (Mistake("split", f"status 500 {MARK}", 3),),
)
NO = judge(SLO, RUN)
FAILED = judge(SLO, replace(RUN, failures=(f"scenario, split: {MARK}",)))
YES = judge(parse("[[promise]]\np99_ms = 100\n"), RUN)


def test_one_line_says_the_verdict():
    assert YES.ok and YES.line == (
        "load test: YES: 1 of 1 promises kept; 123 requests in 6 s, 3 errors, 2 stale"
    )
    assert not NO.ok and NO.line.startswith("load test: NO: 1 of 3 promises kept; 123 requests")
    assert "1 steps failed" in FAILED.line


def test_a_step_that_did_not_come_about_is_a_no_although_every_promise_was_kept():
    assert not judge(parse("[[promise]]\np99_ms = 100\n"), replace(RUN, failures=("scenario: x",))).ok


def test_of_promises_of_which_none_was_tested_there_is_no_yes():
    judged = judge(parse('[[promise]]\nphase = "spilt"\np99_ms = 100\n'), RUN)
    assert not judged.ok
    assert judged.line.endswith("not tested: spilt")


def test_the_document_holds_what_was_read_and_what_was_made_of_it():
    document = json.loads(json.dumps(NO.document(), allow_nan=False))
    assert list(document) == [
        *(
            "machine",
            "what",
            "phases",
            "changes",
            "series",
            "totals",
            "errors",
            "promises",
            "untested",
            "broken",
            "ok",
        )
    ]
    assert document["phases"][1] == {"name": "split", "began_s": 3.0, "ended_s": 6.0}
    assert document["changes"][1]["revision"] == 3
    assert document["series"][3] == {
        "second": 4, "version": "", "count": 3, "errors": 3, "p50_ms": None, "p99_ms": None,
    }  # fmt: skip
    total = document["totals"][1]
    assert (total["model"], total["version"], total["phase"], total["count"]) == ("digits", "7", "split", 20)
    assert document["broken"] == NO.broken and len(NO.broken) == 2
    assert document["ok"] is False


def test_junit_has_a_case_for_each_promise_and_a_failure_for_each_that_was_broken():
    suite = ET.fromstring(junit(NO)).find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "3", "failures": "2", "errors": "0",
    }  # fmt: skip
    assert [each.get("message") for each in suite.iter("failure")] == NO.broken


@pytest.mark.parametrize("judged", [YES, NO, FAILED], ids=["yes", "no", "failed"])
def test_junit_is_xml_whatever_a_gateway_said(judged: Judged):
    suite = ET.fromstring(junit(judged)).find("testsuite")
    assert suite is not None
    assert len(suite.findall("testcase")) == int(suite.get("tests", ""))
    assert len(list(suite.iter("error"))) == len(judged.run.failures)


class Elements(HTMLParser):
    """Counts elements, and sees that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.seen, self.addresses = list[str](), dict[str, int](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("judged", [YES, NO, FAILED], ids=["yes", "no", "failed"])
def test_the_page_is_whole_and_needs_nothing_from_elsewhere(judged: Judged):
    text = page(judged)
    elements = Elements(text)
    assert elements.open == [] and elements.addresses == []
    assert elements.seen["svg"] == 3 and "script" not in elements.seen
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert f">{judged.line}<" in text


def test_the_page_marks_the_moment_of_each_change_in_the_two_plots_over_time():
    latency, _, divided = (each.svg() for each in plots(RUN))
    for each in (latency, divided):
        assert re.findall(r"<title>(.*?)</title>", each) == ["0.0 s: as found", "3.0 s: split to 8=80% 7=20%"]


def test_the_plot_of_shares_shows_what_was_configured_beside_what_was_answered():
    lines = shares(RUN).lines
    assert [(each.name, each.dashed) for each in lines] == [
        ("7", False), ("configured", True), ("8", False), ("configured", True),
    ]  # fmt: skip
    assert lines[0].points[:3] == [(0.5, 0.0), (2.5, 0.0), (3.5, 1.0)]
    assert lines[3].points == [(0.01, 1.0), (3.04, 0.8), (6.0, 0.8)]


def test_a_run_in_which_nothing_happened_has_a_page_all_the_same():
    judged = judge(SLO, Run("m", "w", (), (), (), Readings({}, {})))
    assert not judged.ok
    assert Elements(page(judged)).open == []


def test_a_line_is_broken_where_nothing_was_measured():
    nan = float("nan")
    line = Line("x", [(0, 1), (1, 1), (2, nan), (3, 1), (4, 1)], "#000")
    unit = Scale(0, 10, 0, 10)
    assert list(_paths(line, unit, unit)) == ["M0.0 1.0h0.1L1.0 1.0", "M3.0 1.0h0.1L4.0 1.0"]


def test_a_scale_holds_within_the_axis_what_lies_outside():
    scale = Scale(0.1, 100.0, 300.0, 0.0, log=True)
    assert [scale(each) for each in (0.001, 0.1, 100.0, 1e9)] == [300, 300, 0, 0]
    assert scale(1.0) == pytest.approx(200)


@pytest.mark.parametrize(
    ("high", "names"), [(1.0, "0 0.2 0.4 0.6 0.8 1"), (26, "0 5 10 15 20 25"), (3600, "0 500 1000")]
)
def test_ticks_are_round(high, names):
    assert " ".join(name for _, name in linear_ticks(high)).startswith(names)


def test_ticks_of_ratios_are_1_2_and_5():
    assert [name for _, name in log_ticks(0.1, 12)] == ["0.1", "0.2", "0.5", "1", "2", "5", "10"]


def test_the_three_reports_are_written(tmp_path):
    files = write(NO, tmp_path / "new")
    assert [each.name for each in files] == ["results.json", "junit.xml", "report.html"]
    assert json.loads(files[0].read_bytes())["broken"] == NO.broken
