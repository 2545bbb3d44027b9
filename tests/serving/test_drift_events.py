from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.drift import events as module
from serving.drift.events import FILE, Events
from tests.serving.test_drift_control import a_folder


def event(number: int, model: str = "m") -> dict[str, object]:
    return {"model": model, "event": "detected", "number": number}


torn_bytes = st.binary(max_size=40).map(lambda written: written.replace(b"\n", b""))


@settings(max_examples=30)
@given(st.integers(0, 40), st.integers(150, 1000), torn_bytes)
def test_the_latest_events_are_known_again_after_a_restart_whatever_was_torn(count, bytes_max, torn):
    with a_folder() as folder:
        events = Events(folder, bytes_max)
        for number in range(count):
            events.add(event(number))
            if number == count // 2:
                with (folder / FILE).open("ab") as file:
                    file.write(torn)
        sizes = [path.stat().st_size for path in folder.iterdir()]
        assert all(size < bytes_max + 200 for size in sizes)
        assert len(sizes) <= 2
        known = [each["number"] for each in Events(folder, bytes_max).of("m")]
        assert known == list(range(count - 1, count - 1 - len(known), -1))
        assert len(known) >= min(count, bytes_max // 80)


def test_events_are_of_their_model_the_newest_first_and_not_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_MAX", 20)
    events = Events(tmp_path)
    for number in range(30):
        events.add(event(number, "ab"[number % 2]))
    assert [each["number"] for each in events.of("a")] == list(range(28, 9, -2))
    assert list(events.of("c")) == []


def test_an_event_that_cannot_be_written_is_told_all_the_same(tmp_path):
    events = Events(tmp_path)
    (tmp_path / FILE).mkdir()
    events.add(event(1))
    assert len(list(events.of("m"))) == 1
