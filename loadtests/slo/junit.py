"""What does a build server read? The promises as tests, in JUnit's XML."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from loadtests.slo.promise import Quantity
from loadtests.slo.results import Judged
from loadtests.slo.verdict import WORDS, where

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, however it is written; an error may quote a gateway that sends it."""


def junit(judged: Judged) -> bytes:
    """Return one suite: a case for each promise, and one for each step that did not come about."""
    cases = len(judged.checks) + len(judged.run.failures)
    counts = {"tests": str(cases), "failures": str(sum(not each.kept for each in judged.checks))}
    counts |= {"errors": str(len(judged.run.failures)), "skipped": "0"}
    suites = ET.Element("testsuites", {"name": "turnout load test", **counts})
    more = {"name": "load test", "time": f"{judged.run.seconds:.3f}", **counts}
    suite = ET.SubElement(suites, "testsuite", more)
    for check in judged.checks:
        name = f"{WORDS[check.quantity]} {'>=' if check.quantity.least else '<='} {check.bound:g}"
        case = _case(suite, where(check.at), _with_unit(name, check.quantity))
        if not check.kept:
            ET.SubElement(case, "failure", {"message": _clean(check.line), "type": str(check.quantity)})
    for line in judged.run.failures:
        ET.SubElement(_case(suite, "scenario", line), "error", {"message": _clean(line), "type": "step"})
    ET.SubElement(suite, "system-out").text = _clean(judged.line)
    ET.indent(suites)
    return bytes(ET.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _case(suite: ET.Element, classname: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", {"classname": _clean(classname), "name": _clean(name)})


def _with_unit(name: str, quantity: Quantity) -> str:
    return f"{name} ms" if quantity.percentile is not None else name


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
