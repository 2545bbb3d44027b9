"""Is a receiver told everything, in order, whenever anybody ends, and of what it does not want no more than it must?"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.change import SetAlias, SetRoute
from router.history import History
from router.table import everything_to
from router.verb import Verb
from serving.alerts.answer import Answer
from serving.alerts.courier import Courier, Patience
from serving.alerts.cursor import Cursor, Position
from serving.alerts.event import Event, Kind
from serving.alerts.outbox import FILE, LINES_FACTOR, Outbox
from serving.alerts.posted import of_quality
from tests.alerting import START_US, added, moved, split

PATIENCE = Patience(1.0, 60.0, 3)
TAKEN = Answer(204)


@contextmanager
def a_folder() -> Iterator[Path]:
    """A folder that costs no time to sync."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="alerts-", dir=shared if shared.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Ended(Exception):
    """The process was killed."""


class Killed(Cursor):
    """A position that cannot be written, because we are killed: just before it is, or just after."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.when = ""

    def write(self, position: Position) -> None:
        if self.when == "before":
            raise Ended
        super().write(position)
        if self.when == "after":
            raise Ended


def courier(
    folder: Path,
    history: History,
    outbox: Outbox,
    send: Callable[[Event], Answer],
    *,
    kinds: frozenset[Kind] = frozenset(Kind),
    cursor: Cursor | None = None,
    kept: list[tuple[str, str]] | None = None,
) -> Courier:
    def keep(event: Event, why: str) -> None:
        if kept is not None:
            kept.append((event.id, why))

    at = cursor or Cursor(folder / "cursor.json")
    made = Courier("pager", kinds, history, outbox, at, send, keep, PATIENCE, Random(1))
    made.begin(history.revision)
    return made


def an_outbox(folder: Path, events_max: int = 1000, bytes_max: int = 1 << 20) -> Outbox:
    return Outbox(folder, events_max, bytes_max)


def happen(history: History, what: str) -> None:
    match what:
        case "split":
            moved(history, 1)
        case "rollback":
            added(history, SetRoute(Verb.ROLLBACK, "digits", everything_to("7")))
        case "alias":
            added(history, SetAlias("digits", "champion", "7"))


class Life:
    """A journal, an outbox, and one control after the other; beside them what has to arrive."""

    def __init__(self, folder: Path, kinds: frozenset[Kind]) -> None:
        self.folder, self.kinds = folder, kinds
        self.history = History()
        moved(self.history, 3)  # From before there was a receiver.
        self.came: list[str] = []
        self.posted: list[str] = []
        self.when = ""
        self.begin()

    def begin(self) -> None:
        self.outbox = an_outbox(self.folder)
        self.cursor = Killed(self.folder / "cursor.json")
        self.courier = courier(
            self.folder, self.history, self.outbox, self.send, kinds=self.kinds, cursor=self.cursor
        )
        self.outbox.begin(self.courier.position.posted, self.courier.position.posted)

    def send(self, event: Event) -> Answer:
        if self.when == "unsent":
            raise Ended
        self.came.append(event.id)
        if self.when == "sent":
            raise Ended
        return Answer(503, "busy") if self.when == "busy" else TAKEN

    def post(self) -> None:
        event = of_quality(
            "digits", "8", START_US + len(self.came) + len(self.posted), {"n": len(self.posted)}
        )
        self.outbox.add([event.line(1 << 16)])
        self.posted.append(event.id)

    def step(self, when: str) -> None:
        self.when, self.cursor.when = when, when
        try:
            self.courier.step()
        except Ended:
            self.begin()
        finally:
            self.when = self.cursor.when = ""

    def expected(self) -> list[str]:
        from serving.alerts.entries import told

        found = []
        for entry in list(self.history)[3:]:
            events = told(entry, self.history.at(entry.revision - 1))
            found += [each.id for each in events if each.kind in self.kinds]
        return found


def once(came: Iterable[str]) -> list[str]:
    return [each for each, _ in groupby(came)]


actions = st.one_of(
    st.sampled_from(["split", "rollback", "alias", "post", "restart", "forget"]),
    st.sampled_from(["", "unsent", "sent", "busy", "before", "after"]).map(lambda when: f"step:{when}"),
)


@given(
    st.lists(actions, max_size=40),
    st.sets(
        st.sampled_from([Kind.TRAFFIC_CHANGED, Kind.ROLLBACK_COMPLETED, Kind.QUALITY_DEGRADED]), min_size=1
    ),
)
def test_whenever_we_are_killed_each_event_arrives_in_order_and_none_is_lost(todo, kinds):
    with a_folder() as folder:
        life = Life(folder, frozenset(kinds))
        for action in todo:
            match action.partition(":"):
                case "step", _, when:
                    life.step(when)
                case "post", _, _:
                    life.post()
                case "restart", _, _:
                    life.begin()
                case "forget", _, _:
                    life.outbox.forget(life.courier.position.posted)
                case what, _, _:
                    happen(life.history, what)
        life.begin()
        while life.courier.step() is not None:
            pass
        posted = set(life.posted)
        # What comes again comes before the next one of its kind: a journal's, or one that was posted.
        assert once(each for each in life.came if each not in posted) == life.expected()
        wanted = life.posted if Kind.QUALITY_DEGRADED in kinds else []
        assert once(each for each in life.came if each in posted) == wanted
        assert life.courier.position.revision == life.history.revision


def test_the_first_start_begins_at_the_end_of_the_journal(tmp_path: Path):
    history = History()
    moved(history, 5)
    came: list[Event] = []
    it = courier(tmp_path, history, an_outbox(tmp_path), lambda event: came.append(event) or TAKEN)
    assert it.step() is None
    moved(history, 1)
    assert it.step() == 0.0
    assert it.step() is None
    assert [each.data["revision"] for each in came] == [6]


def test_a_position_in_another_journal_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    history, other = History(), History()
    moved(history, 5)
    moved(other, 9, model="wine")
    courier(tmp_path, history, an_outbox(tmp_path), lambda _: TAKEN)
    for journal in (other, History()):
        it = courier(tmp_path, journal, an_outbox(tmp_path), lambda _: TAKEN)
        assert it.position.revision == journal.revision
        assert "event=alerts_of_another_journal" in caplog.text
        caplog.clear()


def test_a_position_that_cannot_be_read_is_told_and_is_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    history = History()
    moved(history, 2)
    for content in ("", "{", '{"revision": 1, "more": 2}', "[]"):
        (tmp_path / "cursor.json").write_text(content)
        (tmp_path / "cursor.json").chmod(0o600)
        assert courier(tmp_path, history, an_outbox(tmp_path), lambda _: TAKEN).position.revision == 2
        assert "event=alert_cursor_not_read" in caplog.text


def test_an_event_that_is_not_wanted_is_set_aside_after_a_while_and_the_next_goes_out(tmp_path: Path):
    history = History()
    came: list[int] = []

    def send(event: Event) -> Answer:
        came.append(event.data["revision"])
        return Answer(400, "400 no") if event.data["revision"] == 2 else TAKEN

    kept: list[tuple[str, str]] = []
    it = courier(tmp_path, history, an_outbox(tmp_path), send, kept=kept)
    moved(history, 3)
    pauses = []
    while (pause_s := it.step()) is not None:
        pauses.append(pause_s)
    assert came == [1, 2, 2, 2, 3]
    assert [why for _, why in kept] == ["400 no"]
    assert (it.position.delivered, it.position.set_aside) == (2, 1)
    assert [each > 0 for each in pauses] == [False, True, True, False, False]
    assert courier(tmp_path, history, an_outbox(tmp_path), send).position == it.position


def test_a_receiver_that_is_away_is_asked_for_ever(tmp_path: Path):
    history = History()
    it = courier(tmp_path, history, an_outbox(tmp_path), lambda _event: Answer(0, "connection refused"))
    moved(history, 1)
    pauses = [it.step() for _ in range(200)]
    assert it.position.revision == 0
    assert it.tries == 200
    assert it.trouble == "connection refused"
    assert all(pause_s is not None and 30 <= pause_s <= 60 for pause_s in pauses[10:])


@given(st.integers(1, 10_000), st.floats(0, 1e6), st.integers())
def test_pauses_grow_to_a_limit_and_are_never_all_the_same(tries, asked_s, seed):
    pause_s = PATIENCE.pause_s(tries, Answer(503, retry_after_s=asked_s), Random(seed))
    longest_s = min(60.0, 2.0 ** min(tries - 1, 100))
    assert longest_s / 2 <= pause_s <= 60.0
    assert pause_s <= max(longest_s, asked_s)
    assert pause_s >= min(asked_s, 60.0)


def test_what_is_posted_goes_out_between_the_entries_by_its_time(tmp_path: Path):
    history, outbox = History(), an_outbox(tmp_path)
    came: list[Kind] = []
    it = courier(tmp_path, history, outbox, lambda event: came.append(event.kind) or TAKEN)
    added(history, SetRoute(Verb.SPLIT, "digits", split(1)), at_us=START_US + 10)
    added(history, SetRoute(Verb.SPLIT, "digits", split(2)), at_us=START_US + 30)
    outbox.add([of_quality("digits", "8", START_US + 20, {}).line(1 << 16)])
    while it.step() is not None:
        pass
    assert came == [Kind.TRAFFIC_CHANGED, Kind.QUALITY_DEGRADED, Kind.TRAFFIC_CHANGED]


def a_line(number: int, size: int = 0) -> bytes:
    return of_quality("m", "1", START_US + number, {"n": number, "x": "y" * size}).line(1 << 20)


def waiting(outbox: Outbox) -> list[int]:
    found, number = [], 0
    while (posted := outbox.after(number)) is not None:
        found.append(posted.event().data["evidence"]["n"])
        number = posted.number
    return found


torn = st.binary(max_size=30).map(lambda written: b"\n" + written.replace(b"\n", b""))
deeds = st.one_of(
    st.tuples(st.just("add"), st.lists(st.integers(0, 900), min_size=1, max_size=6)),
    st.tuples(st.just("forget"), st.integers(0, 10)),
    st.tuples(st.just("restart"), torn),
)


@given(st.lists(deeds, max_size=25), st.integers(1, 8), st.integers(1200, 6000))
def test_the_outbox_holds_the_latest_and_counts_what_it_drops_whatever_was_torn(todo, events_max, bytes_max):
    with a_folder() as folder:
        outbox = an_outbox(folder, events_max, bytes_max)
        naive: list[tuple[int, int]] = []
        added_count = dropped = gone = 0
        for what, given_ in todo:
            if what == "add":
                lines = [a_line(added_count + place, size) for place, size in enumerate(given_)]
                outbox.add(lines)
                for line in lines:
                    naive.append((added_count, len(line)))
                    added_count += 1
                    while len(naive) > events_max or sum(size for _, size in naive) > bytes_max:
                        naive.pop(0)
                        dropped += 1
            elif what == "forget":
                outbox.forget(gone + given_)
                gone = max(gone, min(gone + given_, added_count))
                naive = [each for each in naive if each[0] >= gone]
            else:
                with suppress(FileNotFoundError), (folder / FILE).open("r+b") as file:
                    file.seek(0, 2)
                    file.write(given_)
                outbox = an_outbox(folder, events_max, bytes_max)
                outbox.begin(gone, gone)
            assert waiting(outbox) == [number for number, _ in naive]
            assert (outbox.last, outbox.dropped) == (added_count, dropped)
            if (folder / FILE).exists():
                assert (folder / FILE).stat().st_size < (LINES_FACTOR + 1) * bytes_max + 16_000


def test_what_was_dropped_is_said_by_each_event_that_follows(tmp_path: Path):
    outbox = an_outbox(tmp_path, events_max=2)
    for number in range(5):
        outbox.add([a_line(number)])
    last = outbox.after(4)
    assert last is not None
    assert last.event().data["dropped_so_far"] == 3


def test_what_cannot_be_written_down_is_told_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    outbox = an_outbox(tmp_path)
    (tmp_path / FILE).mkdir()
    outbox.add([a_line(1)])
    assert waiting(outbox) == [1]
    assert "event=alerts_not_written" in caplog.text
