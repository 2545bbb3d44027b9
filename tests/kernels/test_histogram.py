"""Does the histogram count durations where its edges say, and are its quantiles as good as it says?"""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import histogram, jit
from tests.kernels import naive

HOUR_NS = 3600 * 10**9
near_edges = st.builds(
    lambda edge, off: max(0, int(edge) + off),
    st.sampled_from(histogram.EDGES_NS[:-1].tolist()),
    st.integers(-2, 2),
)
magnitudes = st.integers(0, 62).flatmap(lambda power: st.integers(0, 1 << power))
durations = st.lists(near_edges | magnitudes | st.integers(-5, 5), max_size=40).map(
    lambda x: np.array(x, np.int64)
)
sensible = st.lists(st.integers(1, 78 * HOUR_NS), min_size=1, max_size=40).map(
    lambda x: np.array(x, np.int64)
)


def counted(values, count=histogram.count_ns):
    counts = np.zeros(histogram.BINS, np.int64)
    count(values, counts)
    return counts


@given(durations)
def test_counts_are_those_of_the_naive_reading(values):
    assert (counted(values) == counted(values, naive.count_ns)).all()


@given(durations)
def test_the_loop_that_is_compiled_counts_as_the_naive_reading(values):
    assert (counted(values, histogram._count_each) == counted(values, naive.count_ns)).all()


@given(durations, durations)
def test_counting_two_halves_and_adding_is_counting_all(one, other):
    assert (counted(one) + counted(other) == counted(np.concatenate([one, other]))).all()


def test_counting_adds_to_what_was_counted():
    counts = counted(np.array([5], np.int64))
    histogram.count_ns(np.array([5, 7], np.int64), counts)
    assert counts.sum() == 3


def test_edges_ascend_and_no_bin_is_wider_than_a_sixteenth_of_its_lower_edge():
    low, high = histogram.EDGES_NS[:-2], histogram.EDGES_NS[1:-1]
    assert len(histogram.EDGES_NS) == histogram.BINS + 1
    assert (low < high).all()
    assert ((high - low) / low <= 1 / 16).all()


def test_edges_in_seconds_begin_at_a_nanosecond_and_end_nowhere():
    edges = histogram.edges_seconds()
    assert edges[0] == 1e-9
    assert edges[-1] == np.inf
    assert edges[-2] > 70 * 3600


@given(durations)
def test_what_is_within_a_mark_is_counted_exactly(values):
    ranks = np.cumsum([0, *counted(values)])
    within = [(values <= mark).sum() for mark in histogram.MARKS_NS]
    assert ranks[histogram.MARK_BINS].tolist() == within


def test_the_marks_are_from_50_microseconds_to_beyond_a_minute_in_short_steps():
    marks = np.array(histogram.MARKS_NS)
    assert marks[0] == 50_000
    assert 60 * 10**9 in marks
    assert (marks[1:] / marks[:-1] <= 2.5).all()


@given(sensible, st.floats(0, 1))
def test_a_quantile_is_within_a_32nd_of_the_duration_of_that_rank(values, q):
    rank = max(1, int(np.ceil(q * values.size)))
    true_s = np.sort(values)[rank - 1] / 1e9
    assert abs(histogram.quantile_s(counted(values), q) - true_s) <= true_s / 32 * (1 + 1e-12)


@given(sensible, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_quantile_is_never_shorter(values, p, q):
    low, high = sorted((p, q))
    counts = counted(values)
    assert histogram.quantile_s(counts, low) <= histogram.quantile_s(counts, high)


def test_nothing_has_no_quantile():
    assert np.isnan(histogram.quantile_s(np.zeros(histogram.BINS, np.int64), 0.5))


def test_a_quantile_beyond_the_bins_is_answered_with_the_last_edge():
    assert histogram.quantile_s(counted(np.array([1 << 60], np.int64)), 1.0) == histogram.edges_seconds()[-2]


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan")])
def test_a_quantile_that_is_none_is_refused(q):
    with pytest.raises(ValueError, match="between 0 and 1"):
        histogram.quantile_s(np.ones(histogram.BINS, np.int64), q)


KERNEL = """
import numpy as np
from kernels import histogram, jit
compiled = histogram.compiled()
rng = np.random.default_rng(7)
values = np.exp(rng.normal(13, 6, 5000)).astype(np.int64)
values[:3] = (-1, 0, 2**62)
got, want = np.zeros((2, histogram.BINS), np.int64)
compiled(values, got)
histogram.count_ns(values, want)
assert (got == want).all()
try:
    compiled(values.astype(np.int32), got)
except TypeError as error:
    assert "No matching definition" in str(error)
else:
    raise AssertionError("another type was taken")
print(sum(compiled.stats.cache_hits.values()), sum(compiled.stats.cache_misses.values()))
"""


def compile_in(home, processes=1):
    """Return the cache's hits and misses in each of some processes that start together."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-c", KERNEL]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in started]
    assert all(code == 0 for _, _, code in ended), ended
    return sorted(out.split() for out, _, _ in ended)


def test_processes_that_start_together_compile_once_and_a_later_one_not_at_all(tmp_path):
    assert compile_in(tmp_path, processes=2) == [["0", "1"], ["1", "0"]]
    assert compile_in(tmp_path) == [["1", "0"]]
    (folder,) = (tmp_path / "turnout" / "kernels").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_place_for_a_cache_kernels_are_compiled_anyway(tmp_path):
    (tmp_path / "turnout").write_text("in the way")
    assert compile_in(tmp_path) == [["0", "1"]]


@pytest.fixture
def generation(tmp_path, monkeypatch):
    """Return the function that finds this source's cache, looking in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return jit._generation.__wrapped__


def test_a_cache_that_others_can_write_is_not_used(tmp_path, generation):
    folder = tmp_path / "turnout" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert generation() is None
    folder.chmod(0o700)
    assert generation().parent == folder


def test_only_a_few_generations_of_machine_code_are_kept(tmp_path, generation):
    root = tmp_path / "turnout" / "kernels"
    root.mkdir(parents=True)
    for name in range(20):
        (root / str(name)).mkdir()
        os.utime(root / str(name), (name, name))
    mine = generation().name
    assert {each.name for each in root.iterdir()} == {
        mine,
        *(str(20 - age) for age in range(1, jit.GENERATIONS_MAX)),
    }
