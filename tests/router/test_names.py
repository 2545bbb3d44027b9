"""Which names can models, versions and aliases have?"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.names import (
    InvalidName,
    check_alias,
    check_named,
    check_version,
    reference,
    shown,
    weight_bp,
)
from router.table import WHOLE_BP, percent

models = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
numbers = st.integers(1, 10**18 - 1).map(str)
names = st.from_regex(re.compile(r"[\w\-]{1,20}", re.ASCII), fullmatch=True).filter(
    lambda text: text.lower() != "latest" and not re.fullmatch(r"[vV]?[0-9]+", text)
)


@given(st.text(max_size=25))
def test_a_version_is_a_positive_integer_written_in_the_one_way(text: str) -> None:
    is_one = text.isascii() and text.isdecimal() and text == str(int(text)) and 0 < int(text) < 10**18
    if is_one:
        assert check_version(text) == text
    else:
        with pytest.raises(InvalidName, match="is no version; a version is a positive integer"):
            check_version(text)


@given(numbers)
def test_every_positive_integer_is_a_version(number: str) -> None:
    assert check_version(number) == check_named(number) == number


@pytest.mark.parametrize("text", ["", "0", "07", "7 ", "7\n", "+7", "-7", "7.0", "\u0667", "1" * 19])
def test_what_only_looks_like_a_version_is_none(text: str) -> None:
    with pytest.raises(InvalidName):
        check_version(text)


@given(names)
def test_an_alias_is_letters_digits_underscores_and_hyphens(name: str) -> None:
    assert check_alias(name) == name
    assert check_named(f"@{name}") == f"@{name}"


@pytest.mark.parametrize("text", ["latest", "LATEST", "7", "v7", "V07"])
def test_an_alias_that_could_mean_something_else_is_reserved(text: str) -> None:
    with pytest.raises(InvalidName, match=f"the alias '{text}' is reserved"):
        check_alias(text)


@pytest.mark.parametrize("text", ["", "a b", "a@b", "a/b", "é", "champion\n", "x" * 256])
def test_what_cannot_be_an_alias_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="is no alias; it has 1 to 255"):
        check_alias(text)


@given(models, numbers, names)
def test_mlflows_references_mean_the_same_as_the_short_ones(model: str, number: str, name: str) -> None:
    assert reference(model) == reference(f"models:/{model}") == (model, "")
    assert reference(f"{model}@{number}") == reference(f"models:/{model}/{number}") == (model, number)
    assert reference(f"{model}@{name}") == reference(f"models:/{model}@{name}") == (model, f"@{name}")


@given(st.text(max_size=30) | st.text("models:/@v7.aZ-_", max_size=20))
def test_a_text_is_a_reference_or_refused_and_nothing_else(text: str) -> None:
    try:
        model, named = reference(text)
    except InvalidName:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", model)
    assert named == "" or check_named(named) == named


@pytest.mark.parametrize(
    "text",
    ["", "@7", "digits@", "digits/7", "models:/digits/", "models:/digits/champion", "models:/", "a@07"],
)
def test_a_reference_that_lacks_a_part_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        reference(text)


@given(st.integers(0, WHOLE_BP))
def test_a_weight_is_read_as_it_is_written(bp: int) -> None:
    assert weight_bp(percent(bp)) == bp


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "0.05",
        "500bp",
        "5 %",
        "-5%",
        "100.01%",
        "101%",
        "5.123%",
        ".5%",
        "5.%",
        "\u0665%",
        "5%\n",
        "1e1%",
    ],
)
def test_a_weight_without_one_meaning_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="is no weight; 5%, 0.25% and 100% are"):
        weight_bp(text)


@given(st.text(max_size=500))
def test_a_message_never_quotes_much_of_what_somebody_sent(text: str) -> None:
    assert len(shown(text)) <= 83 * 10 + 2
    assert len(shown("x" * 10_000)) < 90
