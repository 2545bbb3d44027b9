"""Is what is kept of the latest inputs within its budget, the newest, in order, and what was really asked?"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import Replay
from serving.labels.answers import keys_of, row_key
from serving.replay.block import BLOCK_BYTES, STRINGS_MAX, Block, Room, blocks
from serving.replay.capture import BATCHES_MAX, COPIED_BYTES_MAX, Capture, Scoop, units_held_max
from serving.replay.captures import SWEEP_S, Captures
from serving.track import Batch
from serving.wire import DATATYPES
from tests.asked import batch, spec

BYTES_MAX = 64 << 10
KINDS = ["FP32", "FP64", "INT64", "BOOL", "UINT8", "BF16", "FP16", "BYTES"]
Unit = tuple[int, int, int, tuple[Any, ...]]
"""Version, key of the id, arrival, and the elements of all tensors."""


def array(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 2 if kind == "BOOL" else 200, shape)
    if kind == "BYTES":
        return values.astype(str).astype(object)
    return values.astype(DATATYPES[kind].dtype)


def units(kept: list[Block]) -> list[Unit]:
    """Return what blocks hold, one by one."""
    found = []
    for each in kept:
        for at in range(each.units):
            elements = tuple((name, a[at].tobytes() if a.dtype != object else tuple(a[at].reshape(-1))) for name, a in sorted(each.arrays.items()))  # fmt: skip
            found.append((int(each.versions[at]), int(each.ids[at]), int(each.arrived_ns[at]), elements))
    return found


def memory(kept: list[Block]) -> int:
    """Return what arrays take that are no references to other memory."""
    return sum(
        a.nbytes for each in kept for a in (*each.arrays.values(), each.versions, each.ids, each.arrived_ns)
    )


batches = st.fixed_dictionaries(
    {
        "version": st.sampled_from([7, 8]),
        "kind": st.sampled_from(KINDS),
        "width": st.sampled_from([1, 3, 64, 700]),
        "sizes": st.lists(st.integers(1, 40), max_size=4),
        "seed": st.integers(0, 1 << 20),
    }
)
steps = st.lists(st.one_of(batches, st.just("write"), st.just("period")), max_size=40)


@given(steps, st.integers(1, 300), st.integers(4096, BYTES_MAX))
def test_the_budget_is_kept_at_every_moment_and_what_is_kept_is_what_was_asked_in_order(
    taken, units_max, bytes_max
):
    capture = Capture(bytes_max, units_max)
    scoops = {version: Scoop(spec(version), capture, lambda: None) for version in (7, 8)}
    fed: dict[int, list[Batch]] = {7: [], 8: []}
    for step in taken:
        if step == "period":
            capture.pace.renew()
        elif step != "write":
            shape = (sum(step["sizes"]) or 2, step["width"])
            x = array(step["kind"], shape, step["seed"])
            made = batch({"x": x}, step["sizes"], [b"%d" % step["seed"]] * len(step["sizes"]))
            if capture.pace.left > 0:
                fed[step["version"]].append(made)
            scoops[step["version"]].tap(made)
        if step == "write":
            for each in scoops.values():
                each.write()
        kept = capture.newest(1 << 30)
        assert capture.nbytes == sum(each.nbytes for each in kept) <= bytes_max
        assert capture.units == sum(each.units for each in kept) <= units_max
        assert memory(kept) <= capture.nbytes
    for each in scoops.values():
        each.write()
    for version, all_of_it in fed.items():
        check_order(version, all_of_it, units(capture.newest(1 << 30)))


def check_order(version: int, fed: list[Batch], kept: list[Unit]) -> None:
    """See that what is kept of a version is what it was fed, each once, in that order."""
    every = [unit for each in fed for unit in units(list(blocks(version, [each], Room(1 << 30, 1 << 40))))]
    places = {unit: at for at, unit in enumerate(every)}
    found = [places[each] for each in kept if each[0] == version]
    assert found == sorted(set(found))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(12_000, BYTES_MAX))
def test_of_rows_that_fit_a_suffix_is_kept_which_fills_more_than_half_of_the_budget(sizes, bytes_max):
    capture = Capture(bytes_max, 10_000)
    scoop = Scoop(spec(), capture, lambda: None)
    fed = []
    for at, rows in enumerate(sizes):
        made = batch(
            {"x": array("FP32", (rows, 16), at)}, [1] * rows, [b"%d-%d" % (at, row) for row in range(rows)]
        )
        fed.append(made)
        scoop.tap(made)
        capture.pace.renew()
    scoop.write()
    whole = [unit for each in fed for unit in units(list(blocks(7, [each], Room(1 << 30, 1 << 40))))]
    kept = units(capture.newest(1 << 30))
    assert kept == whole[len(whole) - len(kept) :]
    assert capture.taken - capture.pushed_out == len(kept) == capture.units
    if capture.pushed_out:
        assert capture.nbytes > bytes_max / 2 - BLOCK_BYTES
    for some in (1, len(kept) // 2, len(kept)):
        assert units(capture.newest(some)) == (kept[-some:] if some else [])


def test_rows_of_a_request_have_the_keys_that_labels_are_found_by():
    (made,) = blocks(
        7, [batch({"x": np.ones((5, 2), np.float32)}, [1, 3, 1], [b"a", b"b", b""])], Room(99, 1 << 20)
    )
    a, b = keys_of([b"a", b"b"], 2).tolist()
    assert made.ids.tolist() == [a, *row_key(np.full(3, b), np.arange(3)).tolist(), 0]
    (whole,) = blocks(7, [batch({"x": np.ones((5, 2), np.float32)}, ids=[b"a"])], Room(99, 1 << 20))
    assert (whole.whole, whole.units, whole.ids.tolist()) == (True, 1, [a])


def test_of_a_batch_that_is_too_large_the_first_rows_are_kept_with_their_own_ids():
    x = np.arange(400, dtype=np.float32).reshape(100, 4)
    made = batch({"x": x}, [2] * 50, [b"%d" % at for at in range(50)])
    (kept,) = blocks(7, [made], Room(3, 1 << 20))
    keys = keys_of([b"0", b"1"], 2)
    assert kept.arrays["x"].tolist() == x[:3].tolist()
    assert kept.ids.tolist() == [
        *row_key(keys[:1].repeat(2), np.arange(2)),
        row_key(keys[1:], np.arange(1))[0],
    ]


def test_a_row_that_alone_is_too_large_is_not_kept_and_neither_are_too_many_strings():
    large = batch({"x": np.ones((1, 4000), np.float32)}, [1])
    assert list(blocks(7, [large], Room(99, 8000))) == []
    strings = np.full((1, STRINGS_MAX + 1), "a", object)
    assert list(blocks(7, [batch({"x": strings}, [1])], Room(99, 1 << 30))) == []


@pytest.mark.parametrize("elements", [4, 100_000])
def test_an_input_is_a_copy_so_that_a_body_is_not_kept_for_it(elements):
    read = bytearray(1 << 20)
    x = np.ndarray((1, elements), np.float32, memoryview(read)[32 : 32 + 4 * elements])
    (kept,) = blocks(7, [batch({"x": x}, [1])], Room(99, 1 << 30))
    read[32:36] = b"\x00\x00\x80\x3f"
    assert x[0, 0] == 1
    assert kept.arrays["x"][0, 0] == 0


def test_nobody_knows_how_large_strings_and_open_shapes_are_so_they_are_not_held():
    assert units_held_max(spec(x=("BYTES", (-1, 2)))) == 1
    assert units_held_max(spec(x=("FP32", (-1, -1)))) == 1
    assert units_held_max(spec(rows_max=0, x=("FP32", (-1, 4)))) == 1
    assert units_held_max(spec(x=("FP32", (-1, 4)))) > BATCHES_MAX


def test_a_busy_model_is_taken_in_part_and_its_versions_by_their_parts_of_the_traffic():
    capture = Capture(1 << 20, 10_000)
    seven, eight = (Scoop(spec(version), capture, lambda: None) for version in (7, 8))
    x = np.ones((1, 4), np.float32)
    for _ in range(3):
        for at in range(20 * BATCHES_MAX):
            (eight if at % 20 == 0 else seven).tap(batch({"x": x}, [1]))
        seven.write()
        eight.write()
        capture.passed += capture.pace.renew()
    versions = [unit[0] for unit in units(capture.newest(1 << 30))]
    assert (len(versions), versions.count(8)) == (3 * BATCHES_MAX, 3 * BATCHES_MAX // 20)
    assert capture.passed == 3 * 19 * BATCHES_MAX


def test_what_is_copied_in_a_period_is_bounded_and_too_much_is_taken_off_the_next():
    capture = Capture(1 << 30, 10_000)
    scoop = Scoop(spec(x=("FP32", (-1, 12_000))), capture, lambda: None)
    x = np.ones((1, 12_000), np.float32)
    for _ in range(60):
        scoop.tap(batch({"x": x}, [1]))
    assert COPIED_BYTES_MAX <= capture.nbytes <= 1.2 * COPIED_BYTES_MAX
    assert capture.pace.left <= 0
    capture.pace.renew()
    assert capture.pace.left == BATCHES_MAX and not capture.pace.fresh


def servables(**models: list[Any]) -> dict[str, dict[str, Any]]:
    return {
        model: {str(each.artifact.version): SimpleNamespace(spec=each) for each in specs}
        for model, specs in models.items()
    }


def test_all_versions_of_a_model_go_into_one_capture_which_lives_as_long_as_any_of_them():
    async def scene() -> None:
        captures = Captures(Replay())
        captures.follow(servables(m=[spec(7), spec(8)], other=[spec(1)]))
        taps = {version: captures.taps("m", version) for version in ("7", "8", "9")}
        assert [len(each) for each in taps.values()] == [1, 1, 0]
        for version in ("7", "8", "7"):
            taps[version][0](batch({"x": np.ones((1, 16), np.float32)}, [1]))
        assert [int(v) for each in captures.newest("m", 9) for v in each.versions] == [7, 7, 8]
        assert captures.newest("other", 9) == captures.newest("unknown", 9) == []
        captures.follow(servables(m=[spec(8)]))
        assert captures.standing("m").units == 3
        assert captures.taps("m", "8") == taps["8"]
        taps["7"][0](batch({"x": np.ones((1, 16), np.float32)}, [1]))  # What its lane still had to answer.
        assert captures.standing("m").units == 4
        captures.follow(servables(m=[spec(8, digest="other")]))
        assert captures.taps("m", "8") != taps["8"]
        captures.follow({})
        assert captures.standing("m").units == 0
        captures.close()

    asyncio.run(scene())


def test_what_is_held_is_kept_soon_by_itself_and_an_idle_model_costs_nothing():
    async def scene() -> None:
        captures = Captures(Replay())
        captures.follow(servables(m=[spec()]))
        assert captures._sweeping is None
        (tap,) = captures.taps("m", "7")
        tap(batch({"x": np.ones((1, 16), np.float32)}, [1]))
        assert captures._captures["m"].units == 0
        await asyncio.sleep(1.5 * SWEEP_S)
        assert captures._captures["m"].units == 1
        assert captures._captures["m"].pace.fresh
        await asyncio.sleep(1.5 * SWEEP_S)
        assert captures._sweeping is None
        captures.close()

    asyncio.run(scene())


def test_many_models_share_what_there_is_for_all_and_nothing_is_kept_where_it_is_off():
    async def scene() -> None:
        captures = Captures(Replay(bytes_max=1 << 20, total_bytes_max=1 << 20))
        captures.follow(servables(m=[spec()]))
        assert captures._captures["m"].bytes_max == 1 << 20
        (tap,) = captures.taps("m", "7")
        for _ in range(40):
            tap(batch({"x": np.ones((64, 16), np.float32)}, [64]))
        assert captures.standing("m").nbytes > 1 << 17
        captures.follow(servables(**{f"m{at}": [spec()] for at in range(7)}, m=[spec()]))
        assert captures.standing("m").nbytes <= 1 << 17
        off = Captures(Replay(enabled=False))
        off.follow(servables(m=[spec()]))
        assert off.taps("m", "7") == []
        assert off.specs("m")

    asyncio.run(scene())


@pytest.mark.parametrize("kind", KINDS)
def test_every_datatype_comes_back_as_it_was(kind):
    x = array(kind, (6, 3), 1)
    (kept,) = blocks(7, [batch({"x": x[:2]}, [1, 1]), batch({"x": x[2:]}, [4])], Room(99, 1 << 20))
    assert kept.arrays["x"].dtype == x.dtype
    assert np.array_equal(kept.arrays["x"], x)
