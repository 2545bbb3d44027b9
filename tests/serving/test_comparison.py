"""Do comparisons add up, whoever counted them, and are they shown as what they are?"""

from __future__ import annotations

import json
from threading import Event, Thread

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels.histogram import BINS
from kernels.tally import COUNTS, LARGEST_FLOAT, SUMS, side
from serving.keeper import Death
from serving.ledger import Durations
from serving.shadow import board
from serving.shadow.board import ARMS_MAX, Board
from serving.shadow.comparison import OTHERS, Drop, Output, Pair, ShadowReading, side_of
from serving.wire import DATATYPES, TensorSpec

few = st.integers(0, 1000)
classes = st.integers(OTHERS, 3)
outputs = st.builds(
    Output,
    st.tuples(*[few] * COUNTS),
    # Whole numbers, whose sums do not depend on the order.
    st.tuples(*[few.map(float)] * SUMS),
    st.dictionaries(st.tuples(classes, classes), st.integers(1, 1000), max_size=4),
)
durations = st.builds(
    lambda bin_, count: Durations(count * 1000, (0,) * bin_ + (count,) + (0,) * (BINS - 1 - bin_)),
    st.integers(0, BINS - 1),
    few,
)
drops = st.dictionaries(st.sampled_from([str(each) for each in Drop]), few)
pairs = st.builds(
    Pair, few, drops, st.dictionaries(st.sampled_from("yz"), outputs), durations, durations, few, few
)
readings = st.builds(
    ShadowReading,
    st.dictionaries(st.sampled_from(["7", "8"]), pairs),
    st.dictionaries(st.sampled_from([str(each) for each in Death]), few),
    st.integers(0, 3),
)


@given(readings, readings, readings)
def test_readings_add_up_in_any_order(one, two, three):
    assert (one + two) + three == one + (two + three)
    assert one + two == two + one
    assert one + ShadowReading() == one


@given(readings)
def test_a_reading_survives_json_and_can_be_shown_in_it(reading):
    assert ShadowReading.from_json(json.loads(json.dumps(reading.to_json(), allow_nan=False))) == reading
    json.dumps(reading.document("8"), allow_nan=False)


@given(readings)
def test_when_a_replica_is_gone_its_counts_stay_and_it_runs_no_more(reading):
    gone = reading.counters()
    assert (gone.pairs, gone.restarts, gone.running) == (reading.pairs, reading.restarts, 0)


def test_sums_of_differences_end_at_the_largest_number():
    huge = Output(sums=(LARGEST_FLOAT,) * SUMS)
    assert (huge + huge).sums == (LARGEST_FLOAT,) * SUMS


def test_what_was_not_counted_is_no_number():
    shown = Output().document()
    assert (shown["agreement"], shown["difference"]["max"], shown["rank_correlation"]) == (None, None, None)


def test_flips_are_shown_from_where_to_where_most_first_and_without_those_that_agree():
    output = Output(flips={(0, 0): 90, (0, 1): 2, (1, 0): 5, (OTHERS, OTHERS): 1, (2, OTHERS): 1})
    assert [(flip["from"], flip["to"], flip["rows"]) for flip in output.document()["flips"]] == [
        (1, 0, 5),
        (0, 1, 2),
        ("other", "other", 1),
        (2, "other", 1),
    ]


def test_an_output_has_as_many_classes_as_its_rows_have_scores():
    def sides(datatype: str, *shape: int) -> int:
        return side_of(TensorSpec("y", DATATYPES[datatype], shape), rows=True)

    assert sides("FP32", -1, 10) == side(10)
    assert sides("FP32", -1, 1000) == sides("FP32", -1, -1) == sides("INT64", -1) == side(64)
    assert sides("BOOL", -1) == side(2)
    assert sides("BYTES", -1) == 0


def test_a_sheet_is_read_whole_while_the_next_ones_are_shown():
    shared = Board([side(2)])
    over = Event()

    def count():
        sheet = shared.read(0)
        while not over.is_set():
            sheet.all += 1
            shared.show(0, sheet)

    thread = Thread(target=count)
    thread.start()
    try:
        for _ in range(300):
            assert len(set(shared.read(0).all.tolist())) == 1
    finally:
        over.set()
        thread.join()
        shared.close()
    assert shared.read(ARMS_MAX - 1).words.tolist() == [0] * board.WORDS


def test_numbers_that_a_dying_process_left_can_be_told_on():
    shared = Board([side(2)])
    sheet = shared.read(0)
    sheet.sums[0][:] = [np.nan, np.inf, -np.inf]
    pair = Pair.of(sheet, ("y",), {})
    assert np.isfinite(pair.outputs["y"].sums).all()
    shared.close()
