"""What people and programs say about drift over HTTP, to the real thing with streams told to it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.admin.drift import ReportDocument, StandingDocument
from serving.admin.guard import BODY_BYTES_MAX
from serving.config import Drift as Settings
from serving.control import inspection as inspection_module
from serving.control.inspection import Inspection
from serving.drift.profile_json import to_json
from serving.drift.store import PROFILE_BYTES_MAX
from tests.controlling import TOKEN, Administered, Deciding
from tests.counted import Counted, normal, profile

ROSTER: Any = SimpleNamespace(replicas={}, send=lambda _message: None)
PROFILE = "/v2/models/m/versions/7/profile"


@pytest.fixture
def inspection(tmp_path, monkeypatch) -> Iterator[Inspection]:
    """Run one on an event loop of its own, and judge at once."""
    monkeypatch.setattr(inspection_module, "EVALUATE_S", 0.01)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = Inspection(Settings(), tmp_path)
    loop.call_soon_threadsafe(made.start, SimpleNamespace(roster=ROSTER))
    yield made
    asyncio.run_coroutine_threadsafe(made.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def served(inspection) -> Iterator[Administered]:
    with Administered(Deciding(m="7"), drift=inspection) as served:
        yield served


def tell(inspection: Inspection, counted: Counted, rows: np.ndarray) -> None:
    """Tell a stream's rows as a replica does."""
    counted.count(rows)
    told = [[*key, document] for key, document in counted.told("r1").values()]
    replica: Any = SimpleNamespace(name="r1")
    inspection._loop.call_soon_threadsafe(inspection.hear, replica, {"say": "drift", "told": told})


def report(served: Administered, rows: int) -> Any:
    """Return the report once so many rows are judged."""
    while True:
        status, said, _ = served.call("GET", "/v2/models/m/drift")
        assert status == 200, said
        if sum(stream["rows"] for version in said["versions"] for stream in version["streams"]) >= rows:
            return said


def test_a_profile_is_put_shown_and_dropped(served):
    document = json.loads(json.dumps(to_json(profile())))
    status, said, _ = served.call("PUT", PROFILE, document)
    assert status == 200, said
    StandingDocument.model_validate(said, extra="forbid")
    assert (said["profile"]["hash"], said["freezing"]) == (document["hash"], None)
    status, said, _ = served.call("GET", PROFILE)
    assert (status, said["document"]) == (200, document)
    status, said, _ = served.call("DELETE", PROFILE)
    assert (status, said["profile"]) == (200, None)
    assert served.call("GET", PROFILE)[1]["document"] is None


def test_what_is_drifting_is_reported(served, inspection):
    served.call("PUT", PROFILE, to_json(profile()))
    counted = Counted(1, profile())
    for number in range(3):
        tell(inspection, counted, normal(2_000, number, 2.0))
        said = report(served, 2_000 * (number + 1))
    ReportDocument.model_validate(said, extra="forbid")
    [version] = said["versions"]
    [stream] = version["streams"]
    assert (said["drifted"], version["verdict"], stream["verdict"]) == (True, "drift", "drift")
    assert stream["evidence"] > stream["evidence_needed"]
    assert [each["feature"] for each in stream["features"] if each["drifted"]]
    for feature in stream["features"]:
        window = feature["windows"]["start"]
        assert window["n"] == 6_000
        assert window["mean"] == pytest.approx(2.0, abs=0.1)
        assert window["w1"] == pytest.approx(2.0, abs=0.5)  # The outer bin reaches to the extremes.
        assert window["psi"] > 1 > window["p"]
    assert [event["event"] for event in said["events"]] == ["detected"]
    for named, shown in (("7", ["7"]), ("8", [])):
        _, said, _ = served.call("GET", f"/v2/models/m/drift?version={named}")
        assert [each["version"] for each in said["versions"]] == shown


def test_rows_that_wait_to_be_judged_are_not_those_of_the_same_profile_put_again(
    served, inspection, monkeypatch
):
    monkeypatch.setattr(inspection_module, "EVALUATE_S", 3600.0)
    time.sleep(0.1)  # From here on the test says when it is judged.
    assert served.call("PUT", PROFILE, to_json(profile()))[0] == 200
    tell(inspection, Counted(1, profile()), normal(2_000))
    assert served.call("DELETE", PROFILE)[0] == 200
    assert served.call("PUT", PROFILE, to_json(profile()))[0] == 200
    tell(inspection, Counted(2, profile()), normal(30))

    async def judge() -> None:
        await inspection._do(inspection._judge, inspection._look())

    asyncio.run_coroutine_threadsafe(judge(), inspection._loop).result(30)
    [version] = served.call("GET", "/v2/models/m/drift")[1]["versions"]
    assert [stream["rows"] for stream in version["streams"]] == [30]


@pytest.mark.parametrize(
    ("spoil", "status", "says"),
    [
        (lambda d: d.update(hash="0"), 400, "at $.hash"),
        (lambda d: d.update(format="x"), 400, "at $.format"),
        (lambda d: d.pop("tensors"), 400, "$.tensors"),
        (lambda d: d["tensors"]["x"]["panels"]["values"].update(edges="AAAA"), 400, "edges"),
    ],
)
def test_a_profile_that_is_none_is_refused_with_where(served, spoil, status, says):
    document = to_json(profile())
    spoil(document)
    answered, said, _ = served.call("PUT", PROFILE, document)
    assert (answered, says in said["error"]) == (status, True), said
    assert served.call("GET", PROFILE)[1]["profile"] is None


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"null", b"[]", b"1" * 5000, b"[" * 60_000])
def test_a_body_that_is_no_profile_is_answered_with_400(served, raw):
    assert served.call("PUT", PROFILE, raw=raw)[0] == 400


def test_a_profile_of_another_version_or_of_other_files_is_refused(served, inspection):
    status, said, _ = served.call("PUT", PROFILE, to_json(profile(version="8")))
    assert (status, said["error"]) == (409, "the profile is of m@8, not of m@7")
    inspection._drift.digests = {("m", "7"): "d" * 64}
    status, said, _ = served.call("PUT", PROFILE, to_json(profile(digest="e" * 64)))
    assert status == 409
    assert "digest eeeeeeeeeeee, and m@7 that is served has dddddddddddd" in said["error"]
    assert served.call("PUT", PROFILE, to_json(profile(digest="d" * 64)))[0] == 200


def test_a_profile_may_be_larger_than_other_bodies_but_not_without_end(served):
    wide = json.dumps(to_json(profile(normal(2_000, 1, width=700)))).encode()
    assert len(wide) > BODY_BYTES_MAX
    assert served.call("PUT", PROFILE, raw=wide)[0] == 200
    host, port = served.at.split(":")
    head = f"PUT {PROFILE} HTTP/1.1\r\nHost: {served.at}\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection((host, int(port)), 10) as client:
        client.sendall(f"{head}Content-Length: {PROFILE_BYTES_MAX + 1}\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_freezing_what_is_not_counted_is_refused(served):
    status, said, _ = served.call("POST", f"{PROFILE}/freeze", {"rows": 1000})
    assert status == 409
    assert "m@7 is not loaded, so there are no rows to come" in said["error"]
    for wrong in ({"rows": 0}, {"rows": "many"}, {}, {"rows": 1, "x": 1}):
        assert served.call("POST", f"{PROFILE}/freeze", wrong)[0] == 400


def test_freezing_more_than_there_is_room_for_says_how_much_there_is(served, inspection):
    tell(inspection, Counted(1, profile()), normal(1))
    served.call("PUT", PROFILE, to_json(profile()))
    tell(inspection, Counted(2, profile(normal(5_000, 1, width=1_000))), normal(1, width=1_000))
    status, said, _ = served.call("POST", f"{PROFILE}/freeze", {"rows": 10_000_000})
    assert status == 409, said


def test_models_and_versions_that_there_are_not_are_refused(served):
    assert served.call("GET", "/v2/models/other/drift")[0] == 404
    for method in ("GET", "PUT", "DELETE"):
        assert served.call(method, "/v2/models/other/versions/7/profile")[0] == 404
        assert served.call(method, "/v2/models/m/versions/v7/profile")[0] == 400
    assert served.call("GET", "/v2/models/m/drift?version=x")[0] == 400


def test_a_gateway_without_it_says_so():
    with Administered(Deciding(m="7")) as served:
        status, said, _ = served.call("GET", "/v2/models/m/drift")
        assert (status, said) == (404, {"error": "this gateway does not look after drift"})
