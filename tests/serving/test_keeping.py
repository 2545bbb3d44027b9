"""What stays loaded: never less than what traffic needs, and no more than memory allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.keeping import Keeping

versions = st.frozensets(st.integers(1, 9).map(str))


@given(versions, versions, st.lists(st.integers(1, 9).map(str), unique=True), st.integers(0, 60))
def test_what_is_needed_or_wanted_is_never_dropped_and_the_rest_keeps_within_its_budget(
    policy: frozenset[str], must: frozenset[str], good: list[str], bytes_max: int
) -> None:
    loaded = {("m", str(version)): 10 for version in range(1, 10)}
    keeping = Keeping({"m": policy}, {"m": must}, {"m": good})
    left = {version for _, version in set(loaded) - set(keeping.dispensable(loaded, bytes_max))}
    assert policy | must <= left
    kept = left - policy - must
    assert kept <= set(good)
    assert 10 * len(kept) <= bytes_max
    # Those that served last go last.
    order = [version for version in good if version not in policy | must]
    assert kept == set(order[: len(kept)])


def test_a_model_that_nobody_asked_for_is_dropped() -> None:
    assert Keeping().dispensable({("m", "1"): 0}, 1 << 30) == [("m", "1")]


def test_a_version_that_is_needed_for_a_moment_is_spared_like_one_of_the_route() -> None:
    keeping = Keeping(must={"m": frozenset("7")}, good={"m": ["6"]}).with_must("m", frozenset("9"))
    assert keeping.spared("m") == {"6", "7", "9"}
    assert keeping.spared("other") == frozenset()
