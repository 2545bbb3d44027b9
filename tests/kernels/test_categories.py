"""Are codes counted where the alphabet has them, and does learning it forget none that there is room for?"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels import categories
from tests.kernels import naive_drift as naive

LEAST, GREATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
codes = st.sampled_from([LEAST, LEAST + 1, -1, 0, 1, 2, 3, 1 << 40, GREATEST - 1, GREATEST])


@st.composite
def streams(draw):
    features = draw(st.integers(1, 3))
    listed = draw(st.lists(codes | st.integers(LEAST, GREATEST), max_size=30))
    return np.array(listed[: len(listed) // features * features], np.int64).reshape(-1, features)


class State:
    """What is counted into: an alphabet with room for some codes, of which each feature knows a few."""

    def __init__(self, features, room, known=()) -> None:
        self.alphabet = np.full((room, features), GREATEST)
        self.sizes = np.zeros(features, np.int64)
        self.counts = np.zeros((room + 1, features), np.uint32)
        for f in range(features):
            mine = sorted(set(known))[: max(0, room - f)]
            self.alphabet[: len(mine), f], self.sizes[f] = mine, len(mine)

    def count(self, x, by=categories.count):
        by(np.ascontiguousarray(x), self.alphabet, self.sizes, self.counts)
        return self

    def learn(self, x, by=categories.learn):
        return self.count(x, by)

    def by_code(self):
        return [
            dict(zip(self.alphabet[:size, f].tolist(), self.counts[:size, f].tolist(), strict=True))
            for f, size in enumerate(self.sizes)
        ]

    def __eq__(self, other) -> bool:
        return all(
            (getattr(self, name) == getattr(other, name)).all() for name in ("alphabet", "sizes", "counts")
        )

    __hash__ = None

    def __repr__(self) -> str:
        return f"{self.by_code()} {self.counts[-1]}"


known = st.lists(codes | st.integers(-3, 12), max_size=8)
room = st.integers(0, 8)


@given(streams(), room, known)
def test_codes_are_counted_as_the_naive_reading_does(x, room, known):
    assert State(x.shape[1], room, known).count(x) == State(x.shape[1], room, known).count(x, naive.count)


@given(streams(), room, known)
def test_codes_are_learnt_as_the_naive_reading_does(x, room, known):
    assert State(x.shape[1], room, known).learn(x) == State(x.shape[1], room, known).learn(x, naive.learn)


@given(streams(), room, st.integers(0, 30))
def test_however_a_stream_is_cut_the_same_is_learnt(x, room, at):
    assert State(x.shape[1], room).learn(x[:at]).learn(x[at:]) == State(x.shape[1], room).learn(x)


@given(streams(), room, known, st.integers(0, 30))
def test_counting_two_parts_and_adding_is_counting_all(x, room, known, at):
    one, other = (State(x.shape[1], room, known).count(part) for part in (x[:at], x[at:]))
    assert (one.counts + other.counts == State(x.shape[1], room, known).count(x).counts).all()


@given(streams(), st.randoms(use_true_random=False))
def test_where_there_is_room_the_order_of_rows_does_not_matter(x, random):
    order = random.sample(range(len(x)), len(x))
    assert State(x.shape[1], 30).learn(x[order]) == State(x.shape[1], 30).learn(x)


@given(streams(), room)
def test_what_was_learnt_is_counted_and_every_code_once(x, room):
    state = State(x.shape[1], room).learn(x)
    assert (state.counts.sum(axis=0) == len(x)).all()
    again = State(x.shape[1], room)
    again.alphabet, again.sizes = state.alphabet, state.sizes
    assert again.count(x) == state or room < len(np.unique(x))


def test_when_the_alphabet_is_full_what_is_new_is_other():
    state = State(1, 2).learn(np.array([[5], [3], [5], [4], [3], [4]]))
    assert (state.by_code(), state.counts[-1, 0]) == ([{3: 2, 5: 2}], 2)
