"""A profile is made of rows, whatever their order, and survives being written; one that lies is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernels.distance import bins
from serving.drift.packing import BYTES_MAX, pack, unpack
from serving.drift.profile import NO_CODE, Alphabet, Edges, InvalidProfile, Profile, Reference
from serving.drift.profile_json import from_json, to_json
from serving.drift.references import BINS, alphabet_of, edges_of


@st.composite
def matrices(draw):
    """Columns as one meets them: smooth, of few values, constant, with NaN and Inf, huge and tiny."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    width = 32 if dtype == np.float32 else 64
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 4)))
    any_float = st.floats(width=width)
    few = st.sampled_from([dtype(each) for each in (0.0, -0.0, 1.0, 2.5, -3.0)])
    return draw(hnp.arrays(dtype, shape, elements=draw(st.sampled_from([any_float, few]))))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"x{index}" for index in range(count))


def made(matrix) -> Edges:
    return edges_of(matrix, names(matrix.shape[1]))


def profile(**panels: Edges | Alphabet) -> Profile:
    reference = Reference("input", "features", "float32", 2, panels)
    return Profile("digits", "8", "abc", {"image": reference}, "2026-11-24T14:05:00Z", "training.npz")


@given(matrices())
def test_counts_are_what_comparing_each_value_with_each_edge_gives(matrix):
    edges = made(matrix)
    for feature, column in enumerate(matrix.T):
        assert edges.counts[0, feature] == np.isnan(column).sum()
        assert edges.counts[1, feature] == np.isinf(column).sum()
        for row, edge in enumerate(edges.edges[:, feature].astype(matrix.dtype)):
            assert edges.counts[2 + row, feature] == (column >= edge).sum()


@given(matrices())
def test_every_finite_value_lies_between_the_first_and_the_last_edge(matrix):
    edges = made(matrix)
    for feature, column in enumerate(matrix.T):
        finite = column[np.isfinite(column)]
        mine = edges.edges[:, feature]
        if len(finite):
            assert mine[0] == finite.min()
            assert finite.max() < mine[mine < np.inf].max(initial=-np.inf) or np.isinf(mine).any()
            assert (edges.low[feature], edges.high[feature]) == (finite.min(), finite.max())


@given(matrices(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(matrix, random):
    order = list(range(len(matrix)))
    random.shuffle(order)
    assert profile(values=made(matrix)).hash == profile(values=made(matrix[order])).hash


@given(matrices())
def test_moments_are_numpys_of_the_finite_values(matrix):
    edges = made(matrix)
    for feature, column in enumerate(matrix.T):
        finite = column[np.isfinite(column)].astype(np.float64)
        if len(finite) and abs(finite).max() < 1e100:
            spread = abs(finite).max()
            assert edges.mean[feature] == pytest.approx(finite.mean(), rel=1e-9, abs=1e-12 * spread)
            if edges.std[feature] != 1.0:
                assert edges.std[feature] == pytest.approx(finite.std(), rel=1e-6)


@given(matrices())
def test_every_row_is_in_one_bin_and_none_in_those_that_pad(matrix):
    edges = made(matrix)
    counts = bins(edges.counts, edges.n)
    assert counts.sum(axis=1).tolist() == [edges.n] * len(counts)
    padding = np.isinf(edges.edges[:-1]).T
    assert not counts[:, 1:-2][padding].any()


def test_smooth_values_are_divided_evenly():
    values = np.random.default_rng(5).normal(size=(15_000, 1)).astype(np.float32)
    counts = made(values).counts[2:, 0]
    between = counts[:-1] - counts[1:]
    assert len(between) == BINS
    assert between.sum() == 15_000
    assert np.ptp(between) <= 2


def test_few_values_have_a_bin_each():
    values = np.repeat(np.arange(12.0), range(1, 13))[:, None].astype(np.float32)
    edges = made(values)
    assert edges.edges[:12, 0].tolist() == list(range(12))
    counts = edges.counts[2:, 0]
    assert (counts[:12] - counts[1:13]).tolist() == list(range(1, 13))


def test_a_value_that_most_rows_have_takes_one_bin_and_leaves_the_others():
    smooth = np.random.default_rng(5).uniform(1, 2, 4000)
    edges = made(np.concatenate([np.zeros(6000), smooth, np.full(2000, 1.5)])[:, None])
    counts = edges.counts[2:, 0]
    between = counts[:-1] - counts[1:]
    assert between[0] == 6000
    assert 2000 <= between.tolist()[np.searchsorted(edges.edges[:, 0], 1.5, "right") - 1] <= 2001
    assert (between > 100).sum() >= 13


def test_a_constant_has_a_bin_that_no_flushing_of_tiny_numbers_moves():
    edges = made(np.zeros((5, 1), np.float32))
    assert edges.edges[:2, 0].tolist() == [0.0, np.finfo(np.float32).tiny]
    assert edges.std.tolist() == [1.0]


def test_without_a_finite_value_there_is_a_reference_all_the_same():
    edges = made(np.array([[np.nan], [np.inf], [-np.inf]]))
    assert edges.counts[:, 0].tolist() == [1, 2, *[1] * (BINS + 1)]
    assert (edges.mean[0], edges.std[0], edges.low[0], edges.high[0]) == (0, 1, 0, 0)


def test_numbers_whose_squares_overflow_have_moments():
    edges = made(np.array([[-1.7e308], [1.7e308]]))
    assert edges.mean.tolist() == [0.0]
    assert edges.std.tolist() == [1.7e308]


codes = hnp.arrays(np.int64, st.tuples(st.integers(1, 50), st.integers(1, 3)), elements=st.integers(-3, 8))


@given(codes, st.integers(1, 6))
def test_the_most_frequent_categories_are_kept_and_the_rest_counted(matrix, most):
    alphabet = alphabet_of(matrix, names(matrix.shape[1]), {}, most)
    for feature, column in enumerate(matrix.T):
        size = alphabet.sizes[feature]
        known, counts = alphabet.codes[:size, feature], alphabet.counts[:, feature]
        assert size == min(most, len(np.unique(column)))
        assert [int((column == code).sum()) for code in known] == counts[:size].tolist()
        others = column[~np.isin(column, known)]
        assert counts[-1] == len(others)
        assert all((others == code).sum() <= counts[:size].min() for code in others)


def test_a_code_is_shown_by_its_label():
    alphabet = alphabet_of(np.array([[3], [9]]), ("colour",), {9: "red"}, 4)
    assert alphabet.labels == (("3", "red"),)


def test_the_number_that_pads_alphabets_counts_as_other():
    alphabet = alphabet_of(np.array([[NO_CODE], [1]]), ("id",), {}, 4)
    assert alphabet.counts[:, 0].tolist() == [1, 1]


@given(matrices(), codes)
def test_what_is_written_is_read_back(matrix, categories):
    written = profile(
        values=made(matrix), codes=alphabet_of(categories, names(categories.shape[1]), {1: "one"}, 4)
    )
    read = from_json(json.loads(json.dumps(to_json(written))))
    assert read.hash == written.hash
    assert to_json(read) == to_json(written)


def test_the_same_rows_make_the_same_profile_whenever_and_wherever():
    one = profile(values=made(np.eye(2)))
    assert replace(one, made_at="later", source="elsewhere").hash == one.hash
    assert replace(one, digest="another").hash != one.hash


def test_another_value_makes_another_hash():
    one, other = np.eye(3), np.eye(3)
    other[0, 0] = 2
    assert profile(values=made(one)).hash != profile(values=made(other)).hash


def document() -> dict:
    return to_json(profile(values=made(np.eye(2)), codes=alphabet_of(np.array([[1]]), ("c",), {}, 2)))


def spoilt(path: str, value: object) -> dict:
    whole = copy.deepcopy(document())
    *way, last = path.split(".")
    inner = whole
    for step in way:
        inner = inner[step]
    inner[last] = value
    return whole


VALUES, CODES = "tensors.image.panels.values", "tensors.image.panels.codes"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("format", "other 1", r"expected 'turnout profile 1' - at \$.format"),
        ("hash", "0", r"the hash says '0', the content [0-9a-f]{64} - at \$.hash"),
        ("model", 7, "expected a string, got int - at model"),
        ("tensors", {}, "0 tensors; 1 to 256 are kept"),
        ("tensors", [], r"expected an object, got list - at \$.tensors"),
        ("tensors.image.of", "sideways", r"of is 'sideways'; .* - at \$.tensors.image"),
        ("tensors.image.elements", 0, r"rows of 0 elements - at \$.tensors.image"),
        (f"{VALUES}.kind", "poem", "expected 'values' or 'categories', got 'poem'"),
        (f"{VALUES}.n", True, "expected a whole number, got bool - at"),
        (f"{VALUES}.n", 1, "counts has values above n, which is 1"),
        (f"{VALUES}.rows", 17, "bytes, .* got others"),
        (f"{VALUES}.rows", 1 << 40, "rows of edges or codes"),
        (f"{VALUES}.features", ["a", "a"], "features: a name occurs twice"),
        (f"{VALUES}.dtype", "float16", "dtype 'float16' is neither"),
        (f"{VALUES}.edges", "§", r"expected base64 of zlib.* - at \$.tensors.image.panels.values.edges"),
        (f"{VALUES}.edges", pack(np.zeros((16, 2))), "edges do not ascend"),
        (f"{VALUES}.edges", pack(np.full((16, 2), np.inf)), "edges: the first is not finite"),
        (f"{VALUES}.edges", pack(np.full((16, 2), np.nan)), "edges: the first is not finite"),
        (f"{VALUES}.counts", pack(np.full((18, 2), -1)), "counts has values below 0"),
        (f"{VALUES}.counts", pack(np.tri(18, 2, -17, int)), "more values above an edge"),
        (f"{VALUES}.std", pack(np.zeros(2)), "std has values that are not above 0"),
        (f"{VALUES}.mean", pack(np.full(2, np.nan)), "mean has values that are not finite"),
        (f"{VALUES}.low", pack(np.full(2, 9.0)), "low is above high"),
        (f"{CODES}.counts", pack(np.array([[1], [1]])), "counts do not add up to n, which is 1"),
        (f"{CODES}.sizes", pack(np.array([2])), "sizes beyond 0 to 1"),
        (f"{CODES}.labels", [["one", "two"]], "labels are not as many as codes"),
        (f"{CODES}.labels", [[1]], "expected a list of at most 4096 strings"),
    ],
)
def test_a_document_that_contradicts_itself_is_refused_with_the_place(path, value, said):
    with pytest.raises(InvalidProfile, match=said):
        from_json(spoilt(path, value))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_whatever_is_sent_is_a_profile_or_refused(value):
    for said in (value, spoilt("tensors.image", value), spoilt(VALUES, value)):
        with pytest.raises(InvalidProfile):
            from_json(said)


def test_edges_that_the_dtype_cannot_hold_are_refused():
    edges = made(np.array([[0.1], [0.2]]))
    with pytest.raises(InvalidProfile, match="not exact in float32"):
        replace(edges, dtype="float32")


def test_an_alphabet_out_of_order_is_refused():
    alphabet = alphabet_of(np.array([[1], [2]]), ("c",), {}, 2)
    with pytest.raises(InvalidProfile, match="codes do not ascend"):
        replace(alphabet, codes=alphabet.codes[::-1])
    assert isinstance(alphabet, Alphabet)


def test_an_array_that_unpacks_to_more_than_it_says_is_refused():
    bomb = pack(np.zeros(1 << 20))
    with pytest.raises(ValueError, match="got others"):
        unpack(bomb, "f8", (4,))
    with pytest.raises(ValueError, match="at most"):
        unpack(bomb, "f8", (BYTES_MAX,))
