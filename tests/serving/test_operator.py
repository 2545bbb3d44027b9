"""Is the operator known by the token, and by nothing else?"""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import operator
from serving.access import TOKEN, control_folder, token
from serving.config import Config, parse
from serving.errors import Refused, TurnoutError, Unauthenticated, Unavailable
from serving.rpc.peer import Peer


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse({"repository": {"path": str(tmp_path / "models"), "state": str(tmp_path / "state")}})


def check(config: Config, *credentials: bytes) -> None:
    """Check a request with these Authorization headers."""
    operator.check(Peer([(b"authorization", each) for each in credentials]), config)


def test_the_token_is_enough_however_its_scheme_is_spelt(config: Config) -> None:
    mine = token(control_folder(config)).encode()
    for scheme in (b"Bearer ", b"bearer ", b"BEARER  "):
        check(config, scheme + mine)


@pytest.mark.parametrize(
    ("credentials", "error"),
    [
        ((), Unauthenticated),
        ((b"",), Unauthenticated),
        ((b"Bearer",), Unauthenticated),
        ((b"Bearer ",), Unauthenticated),
        ((b"Basic TOKEN",), Unauthenticated),
        ((b"TOKEN",), Unauthenticated),
        ((b"Bearer TOKEN", b"Bearer TOKEN"), Unauthenticated),
        ((b"Bearer TOKENx",), Refused),
        ((b"Bearer TOKEN, Bearer TOKEN",), Refused),
        ((b"Bearer \xff\xfe",), Refused),
    ],
)
def test_everybody_else_is_refused_and_told_how(
    config: Config, credentials: tuple[bytes, ...], error: type[TurnoutError]
) -> None:
    mine = token(control_folder(config))
    with pytest.raises(error, match="Authorization: Bearer TOKEN") as raised:
        check(config, *[each.replace(b"TOKEN", mine.encode()) for each in credentials])
    assert mine not in str(raised.value)


def test_a_token_that_others_could_read_lets_nobody_in_and_its_place_is_not_told(config: Config) -> None:
    folder = control_folder(config)
    mine = token(folder).encode()
    (folder / TOKEN).chmod(0o644)
    with pytest.raises(Unavailable) as raised:
        check(config, b"Bearer " + mine)
    assert str(folder) not in str(raised.value)
