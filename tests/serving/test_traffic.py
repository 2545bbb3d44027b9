"""One process's view of the table: brakes pulled by files, requests held back and let go, counts by epoch."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from router.pick import Reason
from router.table import Route, RoutingTable, Share, everything_to
from serving.errors import Overloaded
from serving.traffic import Traffic, read_brakes
from serving.ways import NOBODY
from serving.wire import Call, InferRequest

SPLIT = Route((Share("8", 5000), Share("7", 5000)))


def traffic(tmp_path: Path, route: Route = SPLIT, held_max: int = 4) -> Traffic:
    made = Traffic(held_max, tmp_path / "brake", Random(1))
    loaded: Any = {"m": {"7": "servable 7", "8": "servable 8"}}
    made.carry(loaded)
    made.follow(RoutingTable(5, {"m": route}), 1, {"m": 5})
    return made


def request() -> InferRequest:
    return InferRequest(Call(()), (), None)  # type: ignore[arg-type]


def pull(tmp_path: Path, model: str, text: str = "") -> None:
    folder = tmp_path / "brake"
    folder.mkdir(exist_ok=True)
    (folder / f".{model}").write_text(text)
    (folder / f".{model}").rename(folder / model)


def test_a_brake_is_a_file_and_letting_go_is_its_absence(tmp_path: Path) -> None:
    here = traffic(tmp_path)
    pull(tmp_path, "m", "8")
    here.look_at_brakes()
    way = here.ways["m"]
    assert way.static is not None
    assert (way.static.version, way.static.reason) == ("8", Reason.BRAKE)
    (tmp_path / "brake" / "m").unlink()
    here.look_at_brakes()
    assert here.ways["m"].static is None


def test_a_brake_outlasts_a_change_of_the_table(tmp_path: Path) -> None:
    here = traffic(tmp_path)
    pull(tmp_path, "m")
    here.look_at_brakes()
    here.follow(RoutingTable(6, {"m": everything_to("8")}), 1, {"m": 6})
    way = here.ways["m"]
    assert way.static is not None
    assert way.static.stamp == b"8;6;brake"


@pytest.mark.parametrize(
    ("content", "meant"), [(b"", ""), (b"7\n", "7"), (b"seven", ""), (b"\xff\x00" * 90, "")]
)
def test_whoever_writes_a_brake_means_to_stop_whatever_they_wrote(
    tmp_path: Path, content: bytes, meant: str
) -> None:
    (tmp_path / "m").write_bytes(content)
    (tmp_path / ".unfinished").write_bytes(b"8")
    (tmp_path / "folder").mkdir()
    assert read_brakes(tmp_path) == {"m": meant}


def test_no_folder_is_no_brake(tmp_path: Path) -> None:
    assert read_brakes(tmp_path / "none") == {}


def test_what_is_held_back_goes_by_the_new_table_in_its_order(tmp_path: Path) -> None:
    here = traffic(tmp_path, everything_to("7"))
    here.hold("m")
    assert here.ways["m"].static is None
    went: list[tuple[int, str]] = []

    def again(number: int) -> None:
        static = here.ways["m"].static
        assert static is not None
        went.append((number, static.version))

    for number in range(3):
        here.wait(here.ways["m"], lambda number=number: again(number))  # type: ignore[misc]
    here.follow(RoutingTable(6, {"m": everything_to("8")}), 1, {"m": 6})
    assert went == [(0, "8"), (1, "8"), (2, "8")]
    assert here.held == []


def test_a_shelf_that_changes_meanwhile_does_not_let_go(tmp_path: Path) -> None:
    here = traffic(tmp_path, everything_to("7"))
    here.hold("m")
    went: list[int] = []
    here.wait(here.ways["m"], lambda: went.append(1))
    more: Any = {"m": {"7": "servable 7", "8": "servable 8", "9": "servable 9"}}
    here.carry(more)
    here.wait(here.ways["m"], lambda: went.append(2))
    assert went == []
    here.release("m")
    assert went == [1, 2]


def test_how_many_are_held_back_is_bounded(tmp_path: Path) -> None:
    here = traffic(tmp_path, held_max=2)
    here.hold("m")
    for _ in range(2):
        here.wait(here.ways["m"], lambda: None)
    with pytest.raises(Overloaded, match="2 requests wait for a change"):
        here.wait(here.ways["m"], lambda: None)


def test_counts_are_of_the_route_and_go_on_while_it_stays(tmp_path: Path) -> None:
    here = traffic(tmp_path)
    for _ in range(100):
        here.ways["m"].choose(request(), NOBODY)
    counts = here.tallies()["m"]
    assert sum(drawn for drawn, _ in counts.values()) == 100
    here.follow(RoutingTable(6, {"m": SPLIT, "other": everything_to("1")}), 1, {"m": 5, "other": 6})
    assert here.tallies()["m"] == counts
    here.follow(RoutingTable(7, {"m": everything_to("7")}), 1, {"m": 7})
    assert here.tallies()["m"] == {"7": (0, 0), "8": (0, 0)}


def test_looking_at_brakes_costs_nothing_when_none_was_touched(tmp_path: Path) -> None:
    here = traffic(tmp_path)
    (tmp_path / "brake").mkdir()
    here.look_at_brakes()
    ways = here.ways
    here.look_at_brakes()
    assert here.ways is ways


def test_a_brake_that_is_written_over_by_hand_is_read_again(tmp_path: Path) -> None:
    here = traffic(tmp_path)
    pull(tmp_path, "m", "8")
    here.look_at_brakes()
    (tmp_path / "brake" / "m").write_text("7")
    here.look_at_brakes()
    static = here.ways["m"].static
    assert static is not None
    assert static.version == "7"


def test_a_shadow_that_cannot_be_started_does_not_keep_the_table_from_being_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the replica would not acknowledge, and would be ended for it."""

    def fail(_table: RoutingTable, _servables: Any) -> None:
        raise OSError("no memory for a shadow's ring")

    here = Traffic(4, None, Random(1), fail)
    loaded: Any = {"m": {"7": "servable 7"}}
    here.carry(loaded)
    here.hold("m")
    went: list[int] = []
    here.wait(here.ways["m"], lambda: went.append(1))
    here.follow(RoutingTable(6, {"m": everything_to("7")}), 1, {"m": 6})
    assert (went, here.table.revision) == ([1], 6)
    assert "taps_not_followed" in caplog.text
