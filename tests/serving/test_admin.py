from __future__ import annotations

import re
import socket
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.change import SetAlias
from router.entry import WORDS_MAX
from router.intent import Alias, Mirror, Pin, Promote, Rollback, Split, Stick, Unpin
from router.table import Sticky
from serving.admin.guard import BODY_BYTES_MAX, Guard
from serving.admin.terms import AllTraffic, AuditDocument, HistoryDocument, ModelTraffic, ReceiptDocument
from serving.control.receipt import Receipt
from serving.orders import Order
from tests.controlling import TOKEN, Administered, Deciding

SPLIT = {"weights": {"8": "5%", "7": "95%"}, "why": "canary of 8"}
PATHS = [
    ("GET", "/v2/traffic"),
    ("GET", "/v2/models/digits/traffic"),
    ("GET", "/v2/models/digits/traffic/history"),
    ("GET", "/v2/models/digits/shadow"),
    ("GET", "/v2/models/digits/drift"),
    ("GET", "/v2/models/digits/rollout"),
    ("POST", "/v2/models/digits/rollout"),
    *(
        ("POST", f"/v2/models/digits/rollout/{verb}")
        for verb in ("promote", "pause", "resume", "abort", "retry")
    ),
    ("POST", "/v2/models/digits/feedback"),
    ("GET", "/v2/models/digits/quality"),
    ("POST", "/v2/models/digits/replay"),
    ("GET", "/v2/models/digits/versions/7/profile"),
    ("PUT", "/v2/models/digits/versions/7/profile"),
    ("DELETE", "/v2/models/digits/versions/7/profile"),
    ("POST", "/v2/models/digits/versions/7/profile/freeze"),
    ("GET", "/v2/audit"),
    ("GET", "/v2/audit/verify"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/nowhere"),
    ("HEAD", "/v2/traffic"),
    ("OPTIONS", "/v2/traffic"),
    ("POST", "/v2/models/digits/traffic/rollback"),
    ("POST", "/v2/models/digits/traffic/split"),
    ("POST", "/v2/repository/models/digits/load"),
    ("POST", "/v2/repository/models/digits/unload"),
    ("DELETE", "/v2/models/digits/traffic"),
]


@pytest.fixture(scope="module")
def server():
    with Administered(Deciding()) as served:
        yield served


@pytest.fixture
def served(server):
    """Give the server a new control, with version 7 of digits live."""
    server.control.__init__(digits="7", wine="1")
    return server


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_without_the_token_nobody_learns_or_changes_anything(served, method, path):
    for said in (
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
    ):
        status, answer, headers = served.call(method, path, headers={"Authorization": said})
        assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="turnout"')
        assert method == "HEAD" or "Authorization: Bearer TOKEN" in answer["error"]
    assert not served.control.asked
    assert not served.control.ordered


@given(st.binary(max_size=60))
def test_no_other_bytes_are_the_token(said):
    guard = Guard(lambda *_: None, TOKEN)
    assert not guard._is_token(b"Bearer " + said)
    assert guard._is_token(b"bearer " + TOKEN.encode())


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8003"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "192.0.2.1"},
        {"Host": "user@127.0.0.1"},
        {"Host": "127.0.0.1/x"},
        {"Host": "0.0.0.0"},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "file://"},
    ],
)
def test_a_page_of_another_server_gets_nothing_even_with_the_token(served, method, path, headers):
    assert served.call(method, path, headers=headers)[0] == 403
    assert not served.control.asked


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9", "127.1.2.3", "localhost", "LocalHost:8", "[::1]", "[::1]:8"]
)
def test_loopback_has_many_names(served, host):
    assert served.call("GET", "/v2/traffic", headers={"Host": host})[0] == 200
    assert served.call("GET", "/v2/traffic", headers={"Host": host, "Origin": f"http://{host}"})[0] == 200


def test_an_address_that_was_configured_counts_and_the_unspecified_one_stands_for_any_but_no_name():
    one, any_ = Guard(lambda *_: None, TOKEN, ["192.0.2.1"]), Guard(lambda *_: None, TOKEN, ["0.0.0.0"])
    assert one._is_ours(b"192.0.2.1:8003")
    assert not one._is_ours(b"192.0.2.2:8003")
    assert any_._is_ours(b"192.0.2.2:8003")
    assert not any_._is_ours(b"evil.example:8003")


def test_two_hosts_or_none_are_refused(served):
    token = f"Authorization: Bearer {TOKEN}\r\n"
    for head in (
        "GET /v2/traffic HTTP/1.0\r\n",
        "GET /v2/traffic HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: x\r\n",
    ):
        host, port = served.at.split(":")
        with socket.create_connection((host, int(port)), 10) as client:
            client.sendall(f"{head}{token}\r\n".encode())
            assert re.match(rb"HTTP/1.1 40[03] ", client.recv(1000))


@pytest.mark.parametrize(
    ("verb", "body", "intent"),
    [
        ("split", {"weights": {"8": "5%", "7": "95%"}}, Split("digits", (("8", 500), ("7", 9500)))),
        ("shadow", {"shadows": {"9": "0.25%"}}, Mirror("digits", (("9", 25),))),
        ("shadow", {"shadows": {}}, Mirror("digits", ())),
        (
            "stick",
            {"keys": ["header:x-user-id", "id"], "salt": "exp-1"},
            Stick("digits", Sticky(("header:x-user-id", "id"), "exp-1")),
        ),
        ("stick", {"keys": []}, Stick("digits", None)),
        ("promote", {"version": "7"}, Promote("digits", "7")),
        ("rollback", {"to": "8"}, Rollback("digits", "8")),
        ("rollback", {"to_revision": 1}, Rollback("digits", "", 1)),
        ("pin", {"version": "7"}, Pin("digits", "7")),
        ("unpin", {}, Unpin("digits")),
        ("alias", {"alias": "champion", "version": "7"}, Alias("digits", "champion", "7")),
        ("alias", {"alias": "champion", "version": None}, Alias("digits", "champion", None)),
    ],
)
def test_each_verb_is_the_intent_that_it_says_and_answers_with_a_receipt(served, verb, body, intent):
    status, receipt = served.change(
        "digits", verb, **body, why="so", by="anna", dry_run=True, atomic=True, if_revision=2
    )
    assert status == 200, receipt
    assert served.control.asked == [(intent, {"if_revision": 2, "dry_run": True, "atomic": True})]
    ReceiptDocument.model_validate(receipt)
    assert (receipt["by"], receipt["why"], receipt["confirmed"]) == ("anna", "so", False)
    assert served.control.history.revision == 2


def test_a_change_is_made_told_and_taken_back(served):
    status, receipt = served.change("digits", "split", **SPLIT)
    assert (status, receipt["revision"], receipt["route"], receipt["confirmed"]) == (
        200,
        3,
        "8=5% 7=95%",
        True,
    )
    assert (receipt["by"], receipt["undo"]) == ("admin", "turnout rollback digits --to-revision 2")
    assert served.call("GET", "/v2/models/digits/traffic")[1]["route"] == "8=5% 7=95%"
    status, _, _ = served.call("POST", "/v2/models/digits/traffic/rollback")
    assert status == 200
    _, told, _ = served.call("GET", "/v2/models/digits/traffic/history")
    assert [(each["verb"], each["from"], each["to"]) for each in told["entries"]] == [
        ("adopt", "", "7=100%"),
        ("split", "7=100%", "8=5% 7=95%"),
        ("rollback", "8=5% 7=95%", "7=100%"),
    ]
    assert told["entries"][-1]["why"] == "no reason given"


def test_history_says_what_was_in_force_at_a_moment(served):
    served.change("digits", "split", **SPLIT)
    for at, revision, route in (
        ("2026-11-25T14:05Z", 0, ""),
        ("2026-11-25 14:06:30", 1, "7=100%"),
        ("2026-11-25T15:08:00%2B01:00", 3, "8=5% 7=95%"),
    ):
        _, told, _ = served.call("GET", f"/v2/models/digits/traffic/history?at={at.replace(' ', '%20')}")
        assert (told["at"]["revision"], told["at"]["route"]) == (revision, route)
    assert served.call("GET", "/v2/models/digits/traffic/history")[1]["at"] is None
    for wrong in ("noon", "", "9" * 70, "0001-01-01T00:00+23:00"):
        status, answer, _ = served.call("GET", f"/v2/models/digits/traffic/history?at={wrong}")
        assert status == 400
        assert answer["error"].startswith("query.at: ")


def test_stickiness_and_aliases_are_told_in_history(served):
    served.change("digits", "stick", keys=["header:x-user-id"], salt="exp-1", why="so")
    served.change("digits", "alias", alias="champion", version="7")
    _, told, _ = served.call("GET", "/v2/models/digits/traffic/history")
    assert told["entries"][1]["to"] == "7=100% sticky:header:x-user-id salt:exp-1"
    assert (told["entries"][2]["from"], told["entries"][2]["to"]) == ("", "champion=7")


@pytest.mark.parametrize(
    ("verb", "body", "says"),
    [
        ("split", {}, "body.why: Field required; body.weights: Field required"),
        (
            "split",
            {"weights": {"8": "5"}, "why": "x"},
            "body.weights.8: '5' is no weight; 5%, 0.25% and 100% are",
        ),
        ("split", {"weights": {"8": 5}, "why": "x"}, "body.weights.8: Input should be a valid string"),
        ("split", {"weights": {"v8": "5%"}, "why": "x"}, "'v8' is no version"),
        ("split", {"weights": {"8": "5%", "7": "90%"}, "why": "x"}, "the weights add up to 95%, not 100%"),
        ("split", {"weights": {}, "why": "x"}, "the weights add up to 0%"),
        ("split", {**SPLIT, "why": " "}, "body.why: ' ' says nothing"),
        ("split", {**SPLIT, "why": "x" * (WORDS_MAX + 1)}, "body.why: String should have at most 1000"),
        ("split", {**SPLIT, "wieghts": 1}, "unknown field 'wieghts'; did you mean 'weights'?"),
        ("split", {**SPLIT, "x": 1}, "unknown field 'x'; known here: by, if_revision"),
        ("split", {**SPLIT, "dry_run": "no"}, "body.dry_run: Input should be a valid boolean"),
        ("split", {**SPLIT, "if_revision": -1}, "body.if_revision: "),
        ("split", {**SPLIT, "if_revision": True}, "body.if_revision: "),
        ("split", {**SPLIT, "by": ""}, "body.by: "),
        ("shadow", {"shadows": {"9": "0%"}, "why": "x"}, "version 9 would shadow 0 bp"),
        ("stick", {"keys": ["cookie:x"], "why": "x"}, "'cookie:x' is no key of a caller"),
        ("promote", {"version": 8, "why": "x"}, "body.version: Input should be a valid string"),
        ("pin", {"version": "@v8", "why": "x"}, "the alias 'v8' is reserved"),
        ("rollback", {"to": "latest"}, "body.to: 'latest' is no version"),
        ("alias", {"alias": "latest", "version": "7"}, "the alias 'latest' is reserved"),
        ("alias", {"alias": "champion"}, "body.version: Field required"),
        ("alias", {"alias": "champion", "version": "@other"}, "'@other' is no version"),
    ],
)
def test_a_mistake_is_answered_with_where_and_what_would_work(served, verb, body, says):
    status, answer = served.change("digits", verb, **body)
    assert status == 400
    assert list(answer) == ["error"]
    assert says in answer["error"]
    assert served.control.history.revision == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"\xff",
        b"[]",
        b"1",
        b'"x"',
        b"null",
        b"[" * 60_000,
        b'{"why": "\\ud800", "weights": {}}',
        b"1" * 5000,
    ],
)
def test_a_body_that_is_none_is_answered_with_400(served, raw):
    status, answer, _ = served.call("POST", "/v2/models/digits/traffic/split", raw=raw)
    assert status == 400
    assert list(answer) == ["error"]
    assert not served.control.asked


def test_a_form_is_no_change(served):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        path, headers = "/v2/models/digits/traffic/rollback", {"Content-Type": kind}
        assert served.call("POST", path, raw=b'{"to": "8"}', headers=headers)[0] == 400
    assert not served.control.asked


def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_so(served):
    large = b'{"why": "' + b"x" * BODY_BYTES_MAX + b'"}'
    assert served.call("POST", "/v2/models/digits/traffic/split", raw=large)[0] == 413
    chunked = f"{len(large):x}\r\n".encode() + large + b"\r\n0\r\n\r\n"
    head = f"POST /v2/models/digits/traffic/rollback HTTP/1.1\r\nHost: {served.at}\r\nAuthorization: Bearer {TOKEN}\r\n"
    host, port = served.at.split(":")
    with socket.create_connection((host, int(port)), 10) as client:
        client.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunked)
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert not served.control.asked


def test_half_a_request_changes_nothing(served):
    host, port = served.at.split(":")
    head = f"POST /v2/models/digits/traffic/rollback HTTP/1.1\r\nHost: {served.at}\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection((host, int(port)), 10) as client:
        client.sendall(head.encode() + b'Content-Length: 11\r\n\r\n{"to":')
        client.shutdown(socket.SHUT_WR)
        client.recv(1000)
    assert served.call("GET", "/v2/traffic")[0] == 200
    assert not served.control.asked


def test_a_model_that_there_is_not_is_404_with_those_that_there_are(served):
    for method, path in (
        ("GET", "traffic"),
        ("GET", "traffic/history"),
        ("GET", "shadow"),
        ("POST", "traffic/rollback"),
    ):
        status, answer, _ = served.call(method, f"/v2/models/digit/{path}")
        assert (status, answer) == (404, {"error": "no route for 'digit'; known models: digits, wine"})


def test_what_makes_no_sense_is_409_what_is_stale_412_and_what_is_lost_503(served):
    assert served.change("digits", "promote", version="9", why="x")[0] == 409
    assert served.change("digits", "split", **SPLIT, if_revision=1) == (
        412,
        {"error": "revision 2 is in force, not 1"},
    )
    served.control.lost = "the disk is full"
    assert served.change("digits", "split", **SPLIT) == (503, {"error": "the disk is full"})
    assert served.control.history.revision == 2


def test_an_error_of_our_own_tells_nothing_of_the_inside(served):
    served.control.broken = True
    status, answer = served.change("digits", "split", **SPLIT)
    assert (status, answer) == (500, {"error": "an error of the server's own; its log says more"})


def test_an_unconfirmed_change_is_a_receipt_that_says_so(served):
    served.control.missing = ("r2",)
    status, receipt = served.change("digits", "split", **SPLIT)
    assert (status, receipt["confirmed"], receipt["acknowledged"], receipt["missing"]) == (
        200,
        False,
        ["r1"],
        ["r2"],
    )


def test_what_is_read_is_what_the_schema_says(served):
    served.change("digits", "split", **SPLIT)
    AllTraffic.model_validate(served.call("GET", "/v2/traffic")[1], extra="forbid")
    ModelTraffic.model_validate(served.call("GET", "/v2/models/digits/traffic")[1], extra="forbid")
    HistoryDocument.model_validate(served.call("GET", "/v2/models/digits/traffic/history")[1], extra="forbid")
    AuditDocument.model_validate(served.call("GET", "/v2/audit")[1], extra="forbid")


def test_the_schema_of_a_receipt_has_its_fields_and_no_other():
    receipt = Receipt(1, SetAlias("digits", "champion", "7"), "anna", "so", 0)
    assert set(receipt.document()) == set(ReceiptDocument.model_fields)


def test_the_audit_ends_with_the_hash_that_verifying_it_finds(served):
    served.change("digits", "split", **SPLIT)
    _, told, _ = served.call("GET", "/v2/audit")
    assert [each["revision"] for each in told["entries"]] == [1, 2, 3]
    assert told["entries"][2]["previous_hash"] == told["entries"][1]["hash"]
    _, verified, _ = served.call("GET", "/v2/audit/verify")
    assert verified == {"ok": True, "revision": 3, "hash": told["hash"]}


def test_shadows_compare_as_the_gateway_says():
    async def compare(model):
        return {"model": model, "pairs": 3}

    with Administered(Deciding(digits="7"), shadows=compare) as served:
        assert served.call("GET", "/v2/models/digits/shadow")[1] == {"model": "digits", "pairs": 3}
    with Administered(Deciding(digits="7")) as served:
        assert served.call("GET", "/v2/models/digits/shadow")[0] == 404


def test_head_is_get_without_its_body_and_options_names_the_methods(served):
    status, body, headers = served.call("HEAD", "/v2/traffic")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 10
    status, body, headers = served.call("OPTIONS", "/v2/traffic")
    assert (status, body, headers["allow"]) == (204, b"", "GET, HEAD, OPTIONS")
    assert served.call("OPTIONS", "/v2/models/digits/traffic/pin")[2]["allow"] == "POST, OPTIONS"


def test_paths_and_methods_that_there_are_not_have_errors_of_the_one_shape(served):
    status, answer, headers = served.call("DELETE", "/v2/traffic")
    assert (status, answer, headers["allow"]) == (
        405,
        {"error": "/v2/traffic takes GET, HEAD, OPTIONS"},
        "GET, HEAD, OPTIONS",
    )
    for path in ("/", "/v2/traffic/", "/v2", "/redoc", "/docs/oauth2-redirect"):
        status, answer, _ = served.call("GET", path)
        assert (status, list(answer)) == (404, ["error"]), path


def test_the_description_is_whole(served):
    _, schema, _ = served.call("GET", "/openapi.json")
    assert schema["info"]["version"] == "0.1.0"
    operations = [(path, operation) for path, each in schema["paths"].items() for operation in each.values()]
    assert len(operations) == 31
    assert len({operation["operationId"] for _, operation in operations}) == 31
    for path, operation in operations:
        assert operation["description"] and operation["summary"], path
        assert operation["security"] == [{"HTTPBearer": []}]
        assert "401" in operation["responses"] and "422" not in operation["responses"]
        if "change" in operation["tags"]:
            answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
            assert answer == {"$ref": "#/components/schemas/ReceiptDocument"}
            assert {"400", "404", "409", "412", "503"} <= set(operation["responses"])


def test_the_page_of_the_description_loads_nothing_and_names_every_path(served):
    status, page, headers = served.call("GET", "/docs")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = page.decode()
    assert not re.search(r"<script|src=|href=|https?://", text)
    for path in served.app.openapi()["paths"]:
        assert path in text


def table(text: str, heading: str) -> list[list[str]]:
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_the_page_lists_every_path_with_its_fields_and_no_other(root, served):
    schema = served.app.openapi()
    text = (root / "docs" / "reference" / "traffic.md").read_text()
    pages = [path.read_text() for path in sorted((root / "docs" / "reference").glob("*.md"))]
    common = {"by", "if_revision", "dry_run", "atomic"}
    rows = [row for page in pages for row in table(page, "Paths") if re.match("`[A-Z]+ /", row[0])]
    told = {row[0].strip("`"): {*re.findall(r"`(\w+)`", row[1])} for row in rows}
    there = {"GET /docs": set(), "GET /openapi.json": set()}
    for path, method in product(schema["paths"], ("get", "post", "put", "delete")):
        if operation := schema["paths"][path].get(method):
            asked = operation.get("parameters", ())
            there[f"{method.upper()} {path}"] = {each["name"] for each in asked if each["in"] == "query"}
            said = str(operation.get("requestBody", {}).get("content", {}))
            if name := re.search(r"#/components/schemas/(\w+)", said):
                there[f"{method.upper()} {path}"] = (
                    set(schema["components"]["schemas"][name[1]]["properties"]) - common
                )
    assert told == there
    assert {row[0].strip("`") for row in table(text, "What every change may say")} == common


def test_the_page_lists_the_fields_of_a_receipt(root):
    text = (root / "docs" / "reference" / "traffic.md").read_text()
    assert {row[0].strip("`") for row in table(text, "The receipt")} == set(ReceiptDocument.model_fields)


def test_the_page_lists_the_statuses(root, served):
    text = (root / "docs" / "reference" / "traffic.md").read_text()
    described = {
        status
        for each in served.app.openapi()["paths"].values()
        for o in each.values()
        for status in o["responses"]
    }
    assert {row[0] for row in table(text, "Statuses")} == described | {"204", "405", "415", "500"}


@pytest.mark.parametrize(
    ("verb", "body", "order"),
    [
        ("load", None, Order()),
        ("load", {}, Order()),
        ("load", {"parameters": {"config": "{}"}, "by": "ann"}, Order(config="{}")),
        ("unload", None, Order(loaded=False)),
        ("unload", {"parameters": {"unload_dependents": True}}, Order(loaded=False)),
    ],
)
def test_models_are_loaded_and_unloaded_with_tritons_bodies(served, verb, body, order):
    status, answer, _ = served.call("POST", f"/v2/repository/models/digits/{verb}", body)
    assert status == 200, answer
    assert served.control.ordered == [("digits", order, (body or {}).get("by", "admin"))]
    assert answer == {
        "model": "digits",
        "loaded": order.loaded,
        "configured": bool(order.config),
        "done": ["r1", "r2"],
        "missing": [],
        "ms": 1.25,
    }


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("nobody/load", None, 404, "the repository has no model of this name"),
        ("broken/load", None, 409, "it is broken"),
        (
            "digits/load",
            {"parameters": {"file:1/model.onnx": "AA"}},
            400,
            "models are not taken from a request",
        ),
        ("digits/load", {"config": "{}"}, 400, "unknown field 'config'"),
        ("digits/unload", {"parameters": {"config": "{}"}}, 400, "unknown parameter 'config'"),
    ],
)
def test_what_cannot_be_loaded_is_answered_with_why(served, path, body, status, words):
    got, answer, _ = served.call("POST", f"/v2/repository/models/{path}", body)
    assert (got, words in answer["error"]) == (status, True), answer
