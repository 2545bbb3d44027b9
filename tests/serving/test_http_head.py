"""Request heads: what they say, and what is refused because two readers could differ on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import Limits
from serving.errors import (
    HTTP_STATUS,
    HeadTooLarge,
    Invalid,
    TooLarge,
    TurnoutError,
    Unknown,
    UnknownEncoding,
    WrongMethod,
)
from serving.http_head import Head, parse
from serving.target import NOWHERE, Resource, Target

LIMITS = Limits()
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"
INFER = b"POST /v2/models/m/infer HTTP/1.1\r\n"


def head(*fields: bytes, line: bytes = INFER, host: bytes = b"Host: x\r\n") -> Head:
    """Parse a head of these header lines."""
    return parse(line + host + b"".join(each + b"\r\n" for each in fields) + b"\r\n", LIMITS)


def test_a_head_of_tritonclient_says_all_there_is_to_know() -> None:
    """Each part of it where it belongs."""
    data = (
        b"POST /v2/models/digits/versions/8/infer?a=b HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
        b"User-Agent: geventhttpclient\r\nContent-Length: 218\r\nInference-Header-Content-Length: 154\r\n"
        b"Accept-Encoding: deflate;q=0.5, gzip\r\nX-Request-Id: 9f3c\r\nX-Request-Timeout-Seconds: 0.25\r\n"
        b"X-Turnout-Alias: champion\r\n\r\n"
    )
    assert parse(data, LIMITS) == Head(
        method="POST",
        target=Target(Resource.MODEL_INFER, "digits", "8"),
        keep_alive=True,
        content_length=218,
        chunked=False,
        json_bytes=154,
        expect_continue=False,
        coding="",
        accept="gzip",
        timeout_ns=250_000_000,
        request_id=b"9f3c",
        named="@champion",
        headers=(
            (b"host", b"127.0.0.1:8000"),
            (b"user-agent", b"geventhttpclient"),
            (b"content-length", b"218"),
            (b"inference-header-content-length", b"154"),
            (b"accept-encoding", b"deflate;q=0.5, gzip"),
            (b"x-request-id", b"9f3c"),
            (b"x-request-timeout-seconds", b"0.25"),
            (b"x-turnout-alias", b"champion"),
        ),
    )


NAMES = st.from_regex(rb"x-[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True).filter(
    lambda name: not name.lower().startswith((b"x-request-", b"x-turnout-"))
)
VALUES = st.from_regex(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]{0,30}[!-~\x80-\xff])?)?", fullmatch=True)


@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=8),
    st.integers(0, LIMITS.body_bytes_max) | st.none(),
    st.sampled_from([b"Close, x", b"x,\tkeep-alive"]),
    st.sampled_from([b"", b" ", b"  "]),
)
def test_a_head_written_down_reads_as_it_was_meant(
    fields: list[tuple[bytes, bytes]], length: int | None, connection: bytes, blank: bytes
) -> None:
    """Every header comes out as it went in, and a length of None is a chunked body."""
    fields = [
        (b"Host", b"[::1]:8000"),
        *fields,
        (b"Transfer-Encoding", b"chunked") if length is None else (b"Content-Length", b"%d" % length),
        (b"Connection", connection),
    ]
    lines = b"".join(name + b":" + blank + value + blank + b"\r\n" for name, value in fields)
    got = parse(INFER + lines + b"\r\n", LIMITS)
    assert got.headers == tuple((name.lower(), value) for name, value in fields)
    assert (got.content_length, got.chunked) == (length or 0, length is None)
    assert got.keep_alive is (b"Close" not in connection)
    assert got.problem is None


TOKENS = st.sampled_from(
    [b"\r\n", b"\r", b"\n", b" ", b":", b"\t", b"\x00", b"\xff", b"POST", b"GET", b"/v2", b"*", b"HTTP/1.1", b"HTTP/1.0",
     b"Host: x\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: h2c\r\n", b"a: b\r\n",
     b"Connection: upgrade\r\n", b"GET /v2 HTTP/1.1\r\nHost: x\r\n"]
)  # fmt: skip


@given(st.binary(max_size=60) | st.lists(TOKENS, max_size=12).map(b"".join))
def test_any_bytes_are_a_head_or_an_error_of_ours(data: bytes) -> None:
    """No other error leaves, and one head is never two."""
    for whole in (data, data + b"\r\n\r\n", INFER + b"Host: x\r\n" + data + b"\r\n\r\n"):
        try:
            got = parse(whole, LIMITS)
        except TurnoutError as error:
            assert str(error)
        else:
            assert whole.index(b"\r\n\r\n") == len(whole) - 4
            assert whole.replace(b"\r\n", b"").count(b"\r") == whole.replace(b"\r\n", b"").count(b"\n") == 0
            assert not (got.chunked and got.content_length)


def naive(data: bytes) -> tuple[str, list[tuple[bytes, bytes]]]:
    """Read the grammar the slow and obvious way, as the specification that llhttp is held to."""
    first, *lines = data.removeprefix(b"\r\n").removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields = [tuple(line.split(b":", 1)) for line in lines]
    return first.split(b" ")[0].decode(), [(name.lower(), value.strip(b" \t")) for name, value in fields]


@given(st.data())
def test_a_changed_byte_is_refused_or_read_as_any_reader_would(data: st.DataObject) -> None:
    """No spelling that is accepted means something else to a plain reader of lines."""
    whole = bytearray(INFER + b"Host: x\r\nContent-Length: 5\r\nX-A: b\r\n\r\n")
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    try:
        got = parse(bytes(whole), LIMITS)
    except TurnoutError:
        return
    method, fields = naive(bytes(whole))
    assert (got.method, list(got.headers)) == (method, fields)
    lengths = [value for name, value in fields if name == b"content-length"]
    assert lengths in ([], [b"%d" % got.content_length])


SMUGGLING = {
    "CL.TE": [b"Content-Length: 6", b"Transfer-Encoding: chunked"],
    "TE.CL": [b"Transfer-Encoding: chunked", b"Content-Length: 6"],
    "CL.TE, the length 0": [b"Content-Length: 0", b"Transfer-Encoding: chunked"],
    "TE.TE": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "TE.TE, the second unknown": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: cow"],
    "TE.TE, the first unknown": [b"Transfer-Encoding: cow", b"Transfer-Encoding: chunked"],
    "TE: unknown": [b"Transfer-Encoding: xchunked"],
    "TE: identity": [b"Transfer-Encoding: identity"],
    "TE: chunked, identity": [b"Transfer-Encoding: chunked, identity"],
    "TE: identity, chunked": [b"Transfer-Encoding: identity, chunked"],
    "TE: gzip, chunked": [b"Transfer-Encoding: gzip, chunked"],
    "TE: chunked, chunked": [b"Transfer-Encoding: chunked, chunked"],
    "TE: chunked,": [b"Transfer-Encoding: chunked,"],
    "TE: chunked;a": [b"Transfer-Encoding: chunked;a=b"],
    "TE: quoted": [b'Transfer-Encoding: "chunked"'],
    "TE: capital": [b"Transfer-Encoding: Chunked"],
    "TE: empty": [b"Transfer-Encoding:"],
    "TE: vertical tab": [b"Transfer-Encoding: \x0bchunked"],
    "TE: form feed": [b"Transfer-Encoding: chunked\x0c"],
    "TE: NUL": [b"Transfer-Encoding: chunked\x00"],
    "TE: no-break space": [b"Transfer-Encoding: \xa0chunked"],
    "TE: blank before the colon": [b"Transfer-Encoding : chunked"],
    "TE: tab before the colon": [b"Transfer-Encoding\t: chunked"],
    "TE: blank before the name": [b" Transfer-Encoding: chunked"],
    "TE: folded": [b"Transfer-Encoding:\r\n chunked"],
    "TE: folded into the header before": [b"X: y\r\n Transfer-Encoding: chunked"],
    "TE: after a bare LF": [b"X: y\nTransfer-Encoding: chunked"],
    "TE: after a bare CR": [b"X: y\rTransfer-Encoding: chunked"],
    "TE: ends with a bare LF": [b"Transfer-Encoding: chunked\nX: y"],
    "CL twice": [b"Content-Length: 5", b"Content-Length: 6"],
    "CL twice, equal": [b"Content-Length: 5", b"content-length: 5"],
    "CL: list": [b"Content-Length: 5, 6"],
    "CL: list, equal": [b"Content-Length: 5,5"],
    "CL: plus": [b"Content-Length: +5"],
    "CL: minus": [b"Content-Length: -5"],
    "CL: hexadecimal": [b"Content-Length: 0x5"],
    "CL: exponent": [b"Content-Length: 5e0"],
    "CL: fraction": [b"Content-Length: 5.0"],
    "CL: underscore": [b"Content-Length: 1_0"],
    "CL: leading zero": [b"Content-Length: 05"],
    "CL: blank inside": [b"Content-Length: 5 5"],
    "CL: empty": [b"Content-Length:"],
    "CL: superscript": [b"Content-Length: \xb2"],
    "CL: blank before the colon": [b"Content-Length : 5"],
    "CL: folded": [b"Content-Length:\r\n 5"],
    "CL: past 64 bits": [b"Content-Length: 18446744073709551621"],
    "CL: endless": [b"Content-Length: " + b"9" * 1000],
    "Host twice": [b"Host: y"],
    "name: quote": [b'X"Y: z'],
    "name: not ASCII": [b"X\xe9: y"],
    "name: empty": [b": y"],
    "no colon": [b"Content-Length"],
    "value: NUL": [b"X: a\x00b"],
    "value: DEL": [b"X: a\x7fb"],
    "a second head": [b"", b"GET /v2 HTTP/1.1", b"Host: x"],
    "a second head after a body": [b"Content-Length: 5", b"", b"hello"],
    "unknown expectation": [b"Expect: 200-ok"],
    "expectation twice": [b"Expect: 100-continue", b"Expect: 100-continue"],
}


@pytest.mark.parametrize("fields", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_a_request_whose_end_two_readers_could_see_differently_is_raised(fields: list[bytes]) -> None:
    """Raised, so that its connection is closed: nothing after it is read as a request."""
    with pytest.raises(Invalid):
        head(*fields)


@pytest.mark.parametrize("value", [b"chunked", b" chunked", b"  chunked", b"\tchunked "])
def test_blanks_around_a_value_are_no_part_of_it(value: bytes) -> None:
    """All readers agree that they are not (RFC 9112, 5), so such a body is chunked, never empty."""
    assert head(b"Transfer-Encoding:" + value).chunked


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\r\n",
        b"POST\r\n",
        b"POST /v2\r\n",
        b"/v2 HTTP/1.1\r\n",
        b"GET  /v2 HTTP/1.1\r\n",
        b"GET /v2  HTTP/1.1\r\n",
        b" GET /v2 HTTP/1.1\r\n",
        b"GET /v2 HTTP/1.1 \r\n",
        b"GET /v2 x HTTP/1.1\r\n",
        b"GET\t/v2 HTTP/1.1\r\n",
        b"GET /v2 HTTP/1.1\n",
        b"\nGET /v2 HTTP/1.1\r\n",
        b"\r\n\r\nGET /v2 HTTP/1.1\r\n",
        b"GET /v2 HTTP/0.9\r\n",
        b"GET /v2 HTTP/1.2\r\n",
        b"GET /v2 HTTP/2.0\r\n",
        b"GET /v2 HTTP/1\r\n",
        b"GET /v2 http/1.1\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/1.1\r\n",
        b"DESCRIBE /v2 RTSP/1.0\r\n",
        b"SOURCE /v2 ICE/1.0\r\n",
        b"BREW /v2 HTTP/1.1\r\n",
        b"get /v2 HTTP/1.1\r\n",
        b"CONNECT v2:80 HTTP/1.1\r\n",
        b"GET v2 HTTP/1.1\r\n",
        b"GET /v2\xe9 HTTP/1.1\r\n",
        b"GET /v2\x00 HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
    ],
)
def test_a_request_line_is_taken_to_the_letter(line: bytes) -> None:
    """One method that exists, one blank, one URL, one blank, one version."""
    with pytest.raises(Invalid):
        head(line=line)


def test_one_empty_line_before_a_request_is_forgiven() -> None:
    """A known slip of clients that send CRLF after a body."""
    assert head(line=b"\r\n" + INFER).target.resource is Resource.MODEL_INFER


def test_a_truncated_head_is_invalid() -> None:
    """No beginning of a head passes for one."""
    whole = INFER + b"Host: x\r\nX: y\r\n\r\n"
    for end in range(len(whole)):
        with pytest.raises(Invalid):
            parse(whole[:end], LIMITS)


@pytest.mark.parametrize(
    "host", [b"", b"Host: a b\r\n", b"Host: a, b\r\n", b"Host: a/b\r\n", b"Host: u@a\r\n"]
)
def test_http_1_1_names_one_host(host: bytes) -> None:
    """None, or one that is no host, is refused."""
    with pytest.raises(Invalid, match="host"):
        head(host=host)


def test_http_1_0_closes_unless_asked_to_keep_open_and_has_no_chunks() -> None:
    """What HTTP/1.0 did not have is not understood in it."""
    line = INFER.replace(b"1.1", b"1.0")
    assert not head(line=line, host=b"").keep_alive
    assert head(b"Connection: Keep-Alive", line=line).keep_alive
    assert not head(b"Connection: keep-alive", b"Connection: close", line=line).keep_alive
    assert not head(b"Expect: 100-continue", line=line).expect_continue
    with pytest.raises(Invalid, match=r"HTTP/1\.0"):
        head(b"Transfer-Encoding: chunked", line=line)
    with pytest.raises(Invalid, match="host"):
        head(b"Host: y", line=line)


def test_http_1_1_stays_open_unless_asked_to_close() -> None:
    """Options are a list, in any case, in one header or several."""
    assert head().keep_alive
    assert head(b"Connection: upgrade, closed").keep_alive
    assert not head(b"Connection: x,\t CLOSE").keep_alive
    assert not head(b"Connection: keep-alive", b"Connection: close").keep_alive


def test_an_upgrade_is_answered_like_any_request() -> None:
    """Its body is read, and nothing is upgraded."""
    got = head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Content-Length: 4")
    assert (got.problem, got.content_length, got.keep_alive) == (None, 4, True)


def test_expect_100_continue_is_seen_in_any_case() -> None:
    """It is a value without case."""
    assert head(b"Expect: 100-Continue", b"Content-Length: 4").expect_continue
    assert not head().expect_continue


@pytest.mark.parametrize("url", [b"http://a:80/v2", b"HTTPS://a/v2", b"http://[::1]/v2?x", b"/v2?http://"])
def test_a_url_in_absolute_form_counts_by_its_path(url: bytes) -> None:
    """Proxies send it."""
    assert head(line=b"GET " + url + b" HTTP/1.1\r\n").target == Target(Resource.SERVER_METADATA)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"GET /v3 HTTP/1.1\r\n", Unknown),
        (b"GET http://a HTTP/1.1\r\n", Unknown),
        (b"GET http://a/ HTTP/1.1\r\n", Unknown),
        (b"GET ftp://a/v2 HTTP/1.1\r\n", Unknown),
        (b"OPTIONS * HTTP/1.1\r\n", Unknown),
        (b"GET http://a//v2 HTTP/1.1\r\n", Invalid),
        (b"GET /v2/models/%61 HTTP/1.1\r\n", Invalid),
        (b"GET /v2/../v2 HTTP/1.1\r\n", Invalid),
        (b"GET /v2#x HTTP/1.1\r\n", Invalid),
        (b"DELETE /v2/models/m HTTP/1.1\r\n", WrongMethod),
        (b"GET /v2/models/m/infer HTTP/1.1\r\n", WrongMethod),
    ],
)
def test_a_wrong_target_leaves_the_connection_usable(line: bytes, kind: type[TurnoutError]) -> None:
    """The problem is carried beside all that is needed to skip the body."""
    got = head(b"Content-Length: 5", line=line)
    assert type(got.problem) is kind
    assert (got.target, got.content_length, got.keep_alive) == (NOWHERE, 5, True)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ([b"Inference-Header-Content-Length: 3", b"Inference-Header-Content-Length: 3"], Invalid),
        ([b"Inference-Header-Content-Length: 3,3"], Invalid),
        ([b"Inference-Header-Content-Length: +3"], Invalid),
        ([b"Inference-Header-Content-Length: -1"], Invalid),
        ([b"Inference-Header-Content-Length:"], Invalid),
        ([b"Inference-Header-Content-Length: " + b"9" * 30], Invalid),
        ([b"Inference-Header-Content-Length: 6"], Invalid),
        ([b"Inference-Header-Content-Length: 6", b"Content-Encoding: identity"], Invalid),
        ([b"Content-Encoding: br"], UnknownEncoding),
        ([b"Content-Encoding: gzip, deflate"], UnknownEncoding),
        ([b"Content-Encoding: gzip", b"Content-Encoding: gzip"], UnknownEncoding),
        ([b"X-Request-Timeout-Seconds: -1"], Invalid),
        ([b"X-Request-Timeout-Seconds: nan"], Invalid),
        ([b"X-Request-Timeout-Seconds: 1e3"], Invalid),
        ([b"X-Request-Timeout-Seconds: 1."], Invalid),
        ([b"X-Request-Timeout-Seconds:"], Invalid),
        ([b"X-Request-Timeout-Seconds: " + b"9" * 10], Invalid),
        ([b"X-Request-Timeout-Seconds: 1", b"X-Request-Timeout-Seconds: 2"], Invalid),
        ([b"X-Request-Id: " + b"a" * 257], Invalid),
        ([b'X-Request-Id: a"b'], Invalid),
        ([b"X-Request-Id: a\\b"], Invalid),
        ([b"X-Request-Id: a b"], Invalid),
        ([b"X-Request-Id: \xe9"], Invalid),
        ([b"X-Request-Id: a", b"X-Request-Id: b"], Invalid),
    ],
)
def test_a_wrong_term_leaves_the_connection_usable(fields: list[bytes], kind: type[TurnoutError]) -> None:
    """Whatever concerns this request alone is its problem, not the connection's."""
    got = head(*fields, b"Content-Length: 5")
    assert type(got.problem) is kind
    assert got.problem.__traceback__ is None
    assert (got.target.resource, got.content_length, got.keep_alive) == (Resource.MODEL_INFER, 5, True)


def test_of_two_problems_the_target_comes_first() -> None:
    """Who asks for what is not there need not ask for it properly."""
    assert type(head(b"Content-Encoding: br", line=b"GET /v3 HTTP/1.1\r\n").problem) is Unknown


def test_the_json_length_counts_the_decompressed_body() -> None:
    """It may pass the length of a compressed body, or of one whose length is not known yet."""
    assert head(b"Content-Length: 5", b"Inference-Header-Content-Length: 5").json_bytes == 5
    assert head(b"Content-Length: 5", b"Inference-Header-Content-Length: 0").json_bytes == 0
    for other in (b"Content-Encoding: gzip", b"Transfer-Encoding: chunked"):
        got = head(b"Inference-Header-Content-Length: 900", other)
        assert (got.json_bytes, got.problem) == (900, None)
    assert head(b"Content-Length: 5").json_bytes is None


@pytest.mark.parametrize(
    ("value", "coding"),
    [(b"gzip", "gzip"), (b"X-GZIP", "gzip"), (b"Deflate", "deflate"), (b"identity", ""), (b"", "")],
)
def test_known_codings_are_read_in_any_case(value: bytes, coding: str) -> None:
    """Names of codings have no case (RFC 9110, 8.4.1)."""
    assert head(b"Content-Encoding: " + value).coding == coding


@pytest.mark.parametrize(
    ("value", "accept"),
    [
        (b"gzip, deflate", "gzip"),
        (b"deflate", "deflate"),
        (b"deflate, gzip;q=0.9", "deflate"),
        (b"gzip;q=0, deflate;q=0.1", "deflate"),
        (b"x-gzip", "gzip"),
        (b"GZIP ; Q=0.5", "gzip"),
        (b"br, zstd", ""),
        (b"br;q=1, gzip;q=0.2", "gzip"),
        (b"*", "gzip"),
        (b"*;q=0.5, gzip;q=0", "deflate"),
        (b"*;q=0", ""),
        (b"identity, gzip;q=0.5", ""),
        (b"identity;q=0.5, gzip", "gzip"),
        (b"identity", ""),
        (b"gzip;q=0", ""),
        (b"gzip;q=2", ""),
        (b"gzip;q=x", ""),
        (b"", ""),
        (b",,;,", ""),
    ],
)
def test_the_answer_is_compressed_as_the_client_prefers(value: bytes, accept: str) -> None:
    """By q-values, gzip where it is a tie, and not at all where nothing is known or wanted."""
    assert head(b"Accept-Encoding: " + value).accept == accept


def test_accept_encoding_may_come_in_parts() -> None:
    """Lists may be split over headers."""
    assert head(b"Accept-Encoding: br", b"Accept-Encoding: deflate").accept == "deflate"


@given(st.integers(0, 999_999_999), st.integers(0, 999_999_999))
def test_a_timeout_is_exact_to_the_nanosecond(seconds: int, rest_ns: int) -> None:
    """No float comes between."""
    got = head(b"X-Request-Timeout-Seconds: %d.%09d" % (seconds, rest_ns))
    assert got.timeout_ns == seconds * 1_000_000_000 + rest_ns
    assert head(b"X-Request-Timeout-Seconds: %d" % seconds).timeout_ns == seconds * 1_000_000_000


def test_a_head_is_bounded_in_bytes_and_in_headers() -> None:
    """Just the limit is read, one more is not."""
    limits = Limits(head_bytes_max=400, headers_max=8)
    start = INFER + b"Host: x\r\nX: "
    assert parse(start + b"y" * (400 - len(start) - 4) + b"\r\n\r\n", limits).problem is None
    with pytest.raises(HeadTooLarge, match="head_bytes_max"):
        parse(start + b"y" * (401 - len(start) - 4) + b"\r\n\r\n", limits)
    assert parse(INFER + b"Host: x\r\n" + b"X: y\r\n" * 7 + b"\r\n", limits).problem is None
    with pytest.raises(HeadTooLarge, match="headers_max"):
        parse(INFER + b"Host: x\r\n" + b"X: y\r\n" * 8 + b"\r\n", limits)


def test_a_body_too_large_is_refused_by_its_announcement() -> None:
    """Before any of it arrives."""
    limits = Limits(body_bytes_max=1000)
    start = INFER + b"Host: x\r\nContent-Length: "
    assert parse(start + b"1000\r\n\r\n", limits).content_length == 1000
    for length in (b"1001", b"9" * 18):
        with pytest.raises(TooLarge, match="body_bytes_max"):
            parse(start + length + b"\r\n\r\n", limits)


def test_the_reference_lists_every_status_and_every_limit() -> None:
    """Documentation that is not held true is wrong sooner or later."""
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in REFERENCE.read_text().splitlines()
        if line.startswith("|")
    ]
    statuses = [(int(row[0]), row[1]) for row in rows if row[0].isdigit()]
    assert statuses == sorted(HTTP_STATUS.values())
    settings = [row[:2] for row in rows if row[0].endswith("_max`")]
    assert settings == [(f"`{name}`", str(default)) for name, default in LIMITS.model_dump().items()]


@pytest.mark.parametrize(
    ("field", "named"),
    [
        (b"X-Turnout-Version: 7", "7"),
        (b"x-turnout-alias: champion", "@champion"),
        (b"Accept: */*", ""),
    ],
)
def test_a_head_says_which_version_is_asked_for(field: bytes, named: str) -> None:
    assert head(field).named == named


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ((b"X-Turnout-Version: 07",), "x-turnout-version header is malformed"),
        ((b"X-Turnout-Version: champion",), "x-turnout-version header is malformed"),
        ((b"X-Turnout-Alias: v7",), "the alias 'v7' is reserved"),
        ((b"X-Turnout-Alias: a b",), "is no alias"),
        ((b"X-Turnout-Version: 7", b"X-Turnout-Alias: champion"), "send one of them"),
        ((b"X-Turnout-Version: 7", b"X-Turnout-Version: 8"), "more than one x-turnout-version"),
    ],
)
def test_an_unclear_wish_for_a_version_is_refused(fields: tuple[bytes, ...], why: str) -> None:
    problem = head(*fields).problem
    assert isinstance(problem, Invalid)
    assert why in str(problem)
