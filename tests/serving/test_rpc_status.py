"""Which status says which error, and is the documentation of it true?"""

from __future__ import annotations

import re

import grpc
import pytest

from serving.config import Config
from serving.errors import HTTP_STATUS, Failed, Invalid, Overloaded, TurnoutError, Unavailable
from serving.rpc import describe, status
from serving.rpc.messages import FILES
from serving.rpc.status import GRPC_STATUS

CODES = {code.name: code.value[0] for code in grpc.StatusCode}


def test_every_error_of_http_has_a_status_and_its_name():
    assert GRPC_STATUS.keys() == HTTP_STATUS.keys()
    assert all(CODES[name] == code for code, name in GRPC_STATUS.values())


def test_a_kind_of_an_error_has_the_status_of_what_it_is_a_kind_of():
    class Odd(Invalid):
        pass

    assert status.code(Odd("x")) == CODES["INVALID_ARGUMENT"]
    assert status.code(TurnoutError("x")) == CODES["INTERNAL"]


def test_who_is_turned_away_hears_when_to_come_back():
    assert status.trailing(Overloaded("full", retry_after_s=3)) == (("grpc-retry-pushback-ms", "3000"),)
    assert status.trailing(Unavailable("not yet")) == (("grpc-retry-pushback-ms", "1000"),)
    assert status.trailing(Invalid("no")) == ()


def test_what_nobody_foresaw_is_told_without_a_word_of_the_inside(caplog):
    told = status.known(KeyError("/secret/path"))
    assert isinstance(told, Failed)
    assert "secret" not in str(told)
    assert "/secret/path" in caplog.text
    assert status.known(told) is told


def test_a_text_that_is_no_unicode_can_still_be_told():
    assert status.text(Invalid("\udcff")) == "?"


# --- docs/reference/grpc.md


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "docs" / "reference" / "grpc.md").read_text()


def _table(page: str, heading: str) -> list[list[str]]:
    part = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_page_lists_every_status_and_what_it_is_over_http(page):
    listed = {(row[0], row[2]) for row in _table(page, "Statuses")}
    assert listed == {
        (
            f"`{name}`",
            ", ".join(
                sorted(str(HTTP_STATUS[each][0]) for each in GRPC_STATUS if GRPC_STATUS[each][1] == name)
            ),
        )
        for _, name in GRPC_STATUS.values()
    }


def test_the_page_lists_every_rpc(page):
    listed = {name for row in _table(page, "Rpcs") for name in re.findall(r"`(\w+)`", row[0])}
    known = {method.name for file in FILES.values() for service in file.service for method in service.method}
    assert listed == known
    assert describe.HANDLERS.keys() <= listed


def test_the_page_names_every_limit_of_the_configuration_that_is_one_here(page):
    named = set(re.findall(r"`limits\.(\w+)`", page))
    assert named <= Config().limits.model_dump().keys()
    assert {"body_bytes_max", "answer_bytes_max", "bodies_bytes_max", "tensors_max", "elements_max"} <= named
