"""Does an event arrive, signed, within a time, and nowhere else? On real sockets."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.alerts.address import Allowed, parse_url
from serving.alerts.answer import Answer
from serving.alerts.event import Kind
from serving.alerts.sending import Sender
from serving.alerts.signature import HEADER, WINDOW_S, sign, verify
from serving.config import parse
from tests.alerting import receiving
from tests.e2e.test_tls import _certificate


def sender(url: str, timeout_s: float = 2.0, **more: object) -> Sender:
    address = parse_url(url)
    return Sender(address, Allowed(frozenset({address.place})), timeout_s, **more)


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Be a server that does as it likes; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    link, _ = door.accept()
                    with link, suppress(OSError):
                        answer(link)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}/hook"
        door.shutdown(socket.SHUT_RDWR)


def test_what_is_sent_arrives_as_it_was_given():
    with receiving() as there:
        answer = sender(f"http://127.0.0.1:{there.port}/hook?x=1").send(
            b'{"type":"x"}', {"Content-Type": "a/b"}
        )
        ((headers, body),) = there.bodies
    assert answer == Answer(204)
    assert answer.taken
    assert body == b'{"type":"x"}'
    assert headers["content-type"] == "a/b"
    assert headers["host"] == f"127.0.0.1:{there.port}"


@pytest.mark.parametrize(
    ("status", "taken", "refused"),
    [(200, True, False), (204, True, False), (301, False, False), (307, False, False), (400, False, True),
     (404, False, True), (408, False, False), (410, False, True), (429, False, False), (500, False, False),
     (503, False, False)],
)  # fmt: skip
def test_a_status_says_whether_an_event_was_taken_is_not_wanted_or_comes_too_early(status, taken, refused):
    with receiving(lambda _event: status) as there:
        answer = sender(f"http://127.0.0.1:{there.port}/").send(b"{}", {})
    assert (answer.status, answer.taken, answer.refused) == (status, taken, refused)


def test_a_redirect_is_not_followed():
    with receiving(lambda _event: 307) as there:
        answer = sender(f"http://127.0.0.1:{there.port}/").send(b"{}", {})
        assert len(there.bodies) == 1
    assert answer.words == "307: it is elsewhere, and redirects are not followed"


def test_a_name_is_resolved_once_and_the_address_that_was_looked_at_is_connected_to():
    looked_up: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"] if len(looked_up) == 1 else ["169.254.169.254"]

    with receiving() as there:
        address = parse_url(f"http://hooks.example.com:{there.port}/")
        place = frozenset({address.place})
        it = Sender(address, Allowed(place, place, place), 2.0, resolve)
        assert it.send(b"{}", {}).taken
        assert looked_up == ["hooks.example.com"]
        assert "nothing is ever sent there" in it.send(b"{}", {}).words
        assert len(there.bodies) == 1


def test_a_name_that_leads_to_a_cloud_s_metadata_is_refused_in_words_and_nothing_is_connected():
    it = sender("https://hooks.example.com/x", resolve=lambda _host, _port: ["169.254.169.254"])
    answer = it.send(b"{}", {})
    assert not (answer.taken or answer.refused)
    assert answer.words == (
        "hooks.example.com is 169.254.169.254, which is link-local, where clouds keep credentials; "
        "nothing is ever sent there"
    )


def whole(link: socket.socket) -> bytes:
    """Read a request to its end: what closes with something unread resets the connection."""
    came = b""
    while not came.endswith(b"{}") and (part := link.recv(65536)):
        came += part
    return came


def trickle(link: socket.socket) -> None:
    whole(link)
    link.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        link.sendall(b"x: y\r\n")
        time.sleep(0.1)


def chatter(link: socket.socket) -> None:
    whole(link)
    while True:
        link.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda link: whole(link) and time.sleep(3), "no answer within 0.5 s"),
        (trickle, "no answer within 0.5 s"),
        (chatter, "an answer of more than 65536 bytes"),
        (lambda link: whole(link) and link.sendall(b"SSH-2.0-x\r\n\r\n"), "SSH-2.0-x"),
        (lambda _link: None, "reset|without response|[Bb]roken pipe"),
    ],
)  # fmt: skip
def test_whatever_answers_it_is_over_in_time(answer, words):
    with answering(answer) as url:
        began_s = time.monotonic()
        said = sender(url, timeout_s=0.5).send(b"{}", {})
        assert time.monotonic() - began_s < 20
    assert said.status == 0
    assert re.search(words, said.words)


def test_a_receiver_that_takes_nothing_in_does_not_hold_us_up():
    with answering(lambda _link: time.sleep(3)) as url:
        began_s = time.monotonic()
        assert sender(url, timeout_s=0.5).send(bytes(32 << 20), {}).words == "no answer within 0.5 s"
        assert time.monotonic() - began_s < 20


def test_an_answer_counts_that_comes_before_all_was_read():
    def hasty(link: socket.socket) -> None:
        link.recv(100)
        link.sendall(b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n")
        link.shutdown(socket.SHUT_WR)
        time.sleep(0.3)

    with answering(hasty) as url:
        assert sender(url).send(bytes(1 << 20), {}).status == 413


def test_what_a_receiver_says_to_what_it_does_not_want_is_kept_short():
    with answering(
        lambda link: (
            whole(link) and link.sendall(b"HTTP/1.1 400 No\r\nContent-Length: 9999\r\n\r\n" + b"n" * 9999)
        )
    ) as url:
        said = sender(url).send(b"{}", {})
    assert said.refused
    assert said.words == "400 No: " + "n" * 200


def test_how_long_to_wait_is_taken_from_the_answer():
    head = b"HTTP/1.1 503 Busy\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n"
    for said, s in ((b"17", 17.0), (b"Fri, 31 Dec 1999 23:59:59 GMT", 0.0), (b"9" * 99, 0.0)):
        with answering(lambda link, said=said: whole(link) and link.sendall(head % said)) as url:
            assert sender(url).send(b"{}", {}).retry_after_s == s


def test_nobody_there_is_said_so():
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    assert "refused" in sender(f"http://127.0.0.1:{port}/").send(b"{}", {}).words
    it = sender(
        "https://hooks.example.com/", resolve=lambda *_: (_ for _ in ()).throw(socket.gaierror(-2, "no name"))
    )
    assert "no name" in it.send(b"{}", {}).words


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with receiving() as there:
        assert sender(f"http://127.0.0.1:{there.port}/").send(b"{}", {}).taken


def test_over_https_a_receiver_is_believed_only_by_its_certificate(tmp_path: Path):
    certificate, key = _certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    def answer(link: socket.socket) -> None:
        with context.wrap_socket(link, server_side=True) as safe:
            whole(safe)
            safe.sendall(b"HTTP/1.1 204 OK\r\n\r\n")

    with answering(answer) as url:
        safe_url = url.replace("http:", "https:")
        said = sender(safe_url).send(b"{}", {})
        assert said.status == 0
        assert said.words.startswith("its certificate is not to be trusted: ")
        trusting = ssl.create_default_context(cafile=str(certificate))
        assert sender(safe_url, context=trusting).send(b"{}", {}).taken
        named = parse_url(safe_url.replace("127.0.0.1", "localhost"))
        it = Sender(named, Allowed(frozenset({named.place})), 2.0, lambda *_: ["127.0.0.1"], trusting)
        assert "not to be trusted" in it.send(b"{}", {}).words


@given(st.text(min_size=1), st.binary(max_size=200), st.integers(0, 10**10), st.floats(-1e4, 1e4))
def test_a_signature_is_good_within_its_time_for_its_body_and_secret_alone(secret, body, now_s, later_s):
    header = sign(secret, body, now_s)
    assert verify(secret, header, body, now_s + later_s) is (abs(later_s) <= WINDOW_S)
    assert not verify(secret + "x", header, body, now_s)
    assert not verify(secret, header, body + b"x", now_s)
    assert not verify(secret, header.replace("t=", "t=1"), body, now_s)


@given(st.text(max_size=40), st.binary(max_size=20))
def test_a_signature_that_is_none_is_not_good(header, body):
    assert not verify("secret", header, body, 0.0)


def test_the_lines_for_receivers_in_the_page_do_what_they_say(root: Path):
    page = (root / "docs" / "reference" / "alerts.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert sum(bool(line.strip()) for line in lines.splitlines()) <= 10
    scope: dict[str, object] = {}
    exec(lines, scope)
    came = scope["came_from_turnout"]
    now_s = int(time.time())
    header = sign("secret", b"{}", now_s)
    assert HEADER in page
    assert came(b"secret", header, b"{}")
    assert not came(b"secret", header, b"[]")
    assert not came(b"other", header, b"{}")
    assert not came(b"secret", sign("secret", b"{}", now_s - WINDOW_S - 2), b"{}")
    assert not came(b"secret", "t=1", b"{}")


def test_the_configuration_in_the_page_is_a_good_one(root: Path):
    page = (root / "docs" / "reference" / "alerts.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (receiver,) = parse(tomllib.loads(example)).alerts.receivers
    assert receiver.name == "pager"


def test_every_kind_of_event_and_no_other_is_in_the_page(root: Path):
    page = (root / "docs" / "reference" / "alerts.md").read_text()
    table = page.partition("| kind | when |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z]+\.[a-z]+)`", table)) == {str(kind) for kind in Kind}
