"""Laws of the journal's entries: they can be read again, and no change to one goes unnoticed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.change import Change, Remove, SetAlias, SetRoute
from router.entry import (
    GENESIS,
    WORDS_MAX,
    BrokenChain,
    Entry,
    change_document,
    check_chain,
    parse,
    parse_change,
)
from router.table import Route
from router.table_document import parse_route, route_document
from tests.router.routes import changes, routes, words
from tests.slow import slow

entries = st.builds(
    Entry,
    st.integers(1, 2**40),
    st.integers(0, 2**40),
    st.integers(-(2**50), 2**53),
    words,
    words,
    changes,
    st.text("0123456789abcdef", min_size=64, max_size=64),
)


@st.composite
def chains(draw: st.DrawFn) -> list[Entry]:
    chain: list[Entry] = []
    term = 0
    for revision, change in enumerate(draw(st.lists(changes, min_size=1, max_size=5)), 1):
        term += draw(st.integers(0, 2))
        before = chain[-1].hash if chain else GENESIS
        chain.append(
            Entry(revision, term, draw(st.integers(0, 2**53)), draw(words), draw(words), change, before)
        )
    return chain


def stored(chain: list[Entry]) -> list[tuple[str, str, str]]:
    """As it lies on a disk: text, the hash before, hash."""
    return [(entry.text, entry.previous_hash, entry.hash) for entry in chain]


def check(rows: list[tuple[str, str, str]]) -> tuple[int, str]:
    return check_chain((parse(text, before), digest) for text, before, digest in rows)


@given(entries)
@slow
def test_an_entry_can_be_read_again(entry: Entry) -> None:
    again = parse(entry.text, entry.previous_hash)
    assert again == entry and again.text == entry.text and again.hash == entry.hash
    assert entry.text.isascii() and "\n" not in entry.text


@given(changes)
def test_a_change_can_be_read_again(change: Change) -> None:
    assert parse_change(json.loads(json.dumps(change_document(change)))) == change


@given(routes)
def test_a_route_can_be_read_again(route: Route) -> None:
    assert parse_route(json.loads(json.dumps(route_document(route)))) == route


@given(entries, entries)
def test_entries_have_the_same_text_only_if_they_are_equal(one: Entry, other: Entry) -> None:
    other = replace(other, previous_hash=one.previous_hash)
    assert (one == other) == (one.text == other.text) == (one.hash == other.hash)


@given(chains())
@slow
def test_a_chain_that_was_not_touched_is_whole(chain: list[Entry]) -> None:
    assert check(stored(chain)) == (len(chain), chain[-1].hash)
    assert check([]) == (0, GENESIS)


@given(chains(), st.data())
@slow
def test_any_changed_character_of_any_entry_breaks_the_chain(chain: list[Entry], data: st.DataObject) -> None:
    rows = stored(chain)
    at = data.draw(st.integers(0, len(rows) - 1), "entry")
    part = data.draw(st.integers(0, 2), "text, hash before or hash")
    text = rows[at][part]
    place = data.draw(st.integers(0, len(text) - 1), "place")
    other = data.draw(st.characters(codec="ascii").filter(lambda each: each != text[place]), "character")
    row = [*rows[at]]
    row[part] = data.draw(
        st.sampled_from(
            [text[:place] + other + text[place + 1 :], text[:place] + text[place + 1 :], text + other]
        )
    )
    rows[at] = (row[0], row[1], row[2])
    with pytest.raises(ValueError):
        check(rows)


@given(chains(), st.data())
@slow
def test_what_is_left_out_put_in_or_moved_breaks_the_chain(chain: list[Entry], data: st.DataObject) -> None:
    rows = stored(chain)
    at = data.draw(st.integers(0, len(rows) - 1))
    for wrong in (
        [*rows[:at], *rows[at + 1 :]] if at < len(rows) - 1 else rows[1:],
        [*rows[: at + 1], *rows[at:]],
        rows[::-1],
    ):
        if wrong and wrong != rows:
            with pytest.raises(BrokenChain, match="is missing|does not fit|has term"):
                check(wrong)


@given(chains(), st.data())
@slow
def test_who_rewrites_the_past_has_to_change_every_hash_after_it(
    chain: list[Entry], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(chain) - 1))
    forged = replace(chain[at], why=chain[at].why[:900] + " (or so)")
    rows = [*stored(chain[:at]), (forged.text, forged.previous_hash, forged.hash), *stored(chain[at + 1 :])]
    if at < len(chain) - 1:
        with pytest.raises(BrokenChain, match=f"revision {at + 2} is not what was written"):
            check(rows)
    else:
        assert check(rows)[1] != chain[-1].hash, "so whoever knows the last hash notices"


def test_an_older_term_never_follows_a_newer_one() -> None:
    first = Entry(1, 5, 0, "ann", "because", Remove("digits"), GENESIS)
    second = Entry(2, 4, 0, "ann", "because", Remove("digits"), first.hash)
    with pytest.raises(BrokenChain, match="revision 2 has term 4, after term 5"):
        check(stored([first, second]))


@pytest.mark.parametrize("name", ["by", "why"])
@pytest.mark.parametrize("text", ["", "  ", "\n", "x" * (WORDS_MAX + 1)])
def test_an_entry_says_who_and_why(name: str, text: str) -> None:
    entry = Entry(1, 1, 0, "ann", "because", Remove("digits"), GENESIS)
    with pytest.raises(ValueError, match=f"`{name}` has to have 1 to 1000 characters"):
        replace(entry, **{name: text})


@given(entries)
def test_another_spelling_of_the_same_is_not_what_was_written(entry: Entry) -> None:
    for text in (f" {entry.text}", entry.text.replace(":", ": ", 1), json.dumps(entry.document())):
        with pytest.raises(ValueError, match="another spelling"):
            parse(text, entry.previous_hash)


@pytest.mark.parametrize("kind", ["routes", None, "nothing at all"])
def test_a_change_of_a_kind_that_is_not_known_is_refused(kind: str | None) -> None:
    with pytest.raises(ValueError, match="a change of no known kind"):
        parse_change({"set": kind})


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@slow
def test_whatever_is_no_entry_is_refused_as_such(value: object) -> None:
    text = json.dumps(value)
    with pytest.raises(ValueError):
        parse(text, GENESIS)
    with pytest.raises(ValueError):
        parse(f'{{"change":{text},"by":{text},"why":{text},"revision":1,"term":1,"at_us":1}}', GENESIS)


def test_what_a_change_says_of_itself_is_in_its_document() -> None:
    assert change_document(SetAlias("digits", "champion", None)) == {
        "set": "alias", "model": "digits", "alias": "champion", "version": None
    }  # fmt: skip
    assert change_document(Remove("digits")) == {"set": "nothing", "model": "digits"}
    assert isinstance(parse_change({"set": "nothing", "model": "digits"}), Remove)
    assert SetRoute.__slots__ == ("verb", "model", "route"), "a new field needs a place in change_document"
