"""Is every acknowledged change still there after crashes, torn files and full disks, and nothing else?"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from router.change import SetRoute
from router.entry import GENESIS, BrokenChain, Entry
from router.table import everything_to
from router.verb import Verb
from serving.journal.duplicate import Duplicate, copy_of
from serving.journal.journal import Journal, JournalError, OlderTerm, read

Image = dict[str, bytes]
"""What was on the disk at a moment: names of files, and what they held."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A private folder that costs no time to sync."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "journal.sqlite"


def entry(journal: Journal, term: int = 1, why: str = "canary of 8") -> Entry:
    """The next one."""
    last = journal.entries[-1] if journal.entries else None
    revision = len(journal.entries) + 1
    change = SetRoute(Verb.SPLIT, "digits", everything_to(str(revision)))
    return Entry(revision, term, 10**15 + revision, "ann", why, change, last.hash if last else GENESIS)


def begun(path: Path, count: int = 0, checkpoint_pages: int = 1000) -> Journal:
    """A journal with small pages, of term 1, with `count` entries."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size = 512")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    path.chmod(0o600)
    journal = Journal.open(path, checkpoint_pages=checkpoint_pages)
    assert journal.take_term("here:1", 1) == 1
    for _ in range(count):
        journal.append(entry(journal))
    return journal


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def image(folder: Path) -> Image:
    # A crash of the machine leaves no -shm that counts; of a process, one that is made anew.
    return {each.name: each.read_bytes() for each in folder.iterdir() if not each.name.endswith("-shm")}


def restore(folder: Path, files: Image) -> None:
    for each in folder.iterdir():
        if each.name not in files:
            each.unlink()
    for name, held in files.items():
        (folder / name).write_bytes(held)
        (folder / name).chmod(0o600)


def reopened(path: Path, *, verified: bool = False) -> list[Entry]:
    """What a new process would find."""
    journal = Journal.open(path)
    if verified:
        assert journal.verify()[0] == len(journal.entries)
    journal.close()
    return journal.entries


def found_or_refused(path: Path) -> list[Entry] | None:
    try:
        return reopened(path)
    except JournalError as error:
        assert str(path.parent) in str(error)
        return None


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Start a process that does `work` with a pipe to write to; return its id and the other end."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            os.close(read_end)
            work(write_end)
        os._exit(0)
    os.close(write_end)
    return pid, read_end


def test_what_was_appended_is_there_when_it_is_opened_again(path: Path) -> None:
    journal = begun(path, 5)
    assert journal.verify() == (5, journal.entries[-1].hash)
    journal.close()
    assert reopened(path) == journal.entries
    assert [each for each, _ in read(path)] == journal.entries
    assert [stored for _, stored in read(path)] == [each.hash for each in journal.entries]


def test_a_database_torn_at_any_byte_has_what_was_acknowledged_before(path: Path) -> None:
    journal = begun(path, 3)
    before = image(path.parent)
    journal.append(entry(journal))
    after = image(path.parent)
    journal.close()
    wal, copy, random = wal_of(path).name, copy_of(path).name, Random(1)
    start, end = len(before[wal]), len(after[wal])
    assert after[path.name] == before[path.name] and start < end
    assert end - start > 1500
    for length in (*range(start, end, 3), end):
        torn = after[wal][:length]
        if length % 2:
            torn += random.randbytes(end - length)
        restore(path.parent, {**before, wal: torn})
        whole = length == end
        assert reopened(path, verified=length % 50 == 0) == journal.entries[: 4 if whole else 3]
        if length % 5 == 0:
            # The copy is written first, so this is how it would be found.
            restore(path.parent, {**before, wal: torn, copy: after[copy]})
            assert reopened(path) == journal.entries


def test_a_copy_torn_at_any_byte_has_what_was_acknowledged_before(path: Path) -> None:
    journal = begun(path, 3)
    before = image(path.parent)
    journal.append(entry(journal))
    after = image(path.parent)
    journal.close()
    name, random = copy_of(path).name, Random(2)
    start, end = len(before[name]), len(after[name])
    for length in range(start, end + 1):
        for rest in (b"", b"\0" * (end - length), random.randbytes(end - length))[:: length % 2 + 1]:
            restore(path.parent, {**before, name: after[name][:length] + rest})
            assert reopened(path) == journal.entries[: 4 if length == end else 3]
            assert copy_of(path).stat().st_size == (end if length == end else start)


def test_what_either_file_lost_of_what_was_acknowledged_is_restored_from_the_other(path: Path) -> None:
    journal = begun(path, 6)
    whole = image(path.parent)
    journal.close()
    for name in (wal_of(path).name, copy_of(path).name):
        for length in range(0, len(whole[name]), 61):
            restore(path.parent, {**whole, name: whole[name][:length]})
            assert reopened(path) == journal.entries
            restore(path.parent, image(path.parent))  # And then both are whole.
            assert [each for each, _ in read(path)] == journal.entries


@pytest.mark.parametrize("lost", ["journal.sqlite", "journal.sqlite.copy"])
def test_a_file_that_is_gone_is_made_again_from_the_other(path: Path, lost: str) -> None:
    journal = begun(path, 6)
    journal.close()
    (path.parent / lost).unlink()
    assert reopened(path) == journal.entries
    again = Journal.open(path)
    assert again.take_term("here:2", 2) == 2
    again.append(entry(again, term=2))
    again.close()
    assert len(reopened(path)) == 7


def test_a_database_file_cut_anywhere_is_restored(path: Path) -> None:
    journal = begun(path, 12)
    journal.close()
    whole = image(path.parent)
    assert wal_of(path).name not in whole
    lengths = {*range(0, len(whole[path.name]), 512), *range(0, len(whole[path.name]), 97)}
    for length in sorted(lengths):
        restore(path.parent, {**whole, path.name: whole[path.name][:length]})
        assert reopened(path) == journal.entries


def test_reading_says_that_entries_were_lost_and_repairs_nothing(path: Path) -> None:
    journal = begun(path, 3)
    whole = image(path.parent)
    journal.close()
    cut = {**whole, wal_of(path).name: whole[wal_of(path).name][:-1]}
    restore(path.parent, cut)
    with pytest.raises(BrokenChain, match="ends with revision 2, its copy with revision 3"):
        read(path)
    assert image(path.parent) == cut


def test_any_change_to_a_stored_entry_is_refused(path: Path) -> None:
    journal = begun(path, 3)
    journal.close()
    whole = image(path.parent)
    stored = whole[path.name]
    for each in journal.entries:
        for text in (each.text, each.hash):
            start = stored.index(text.encode())
            for at in range(start, start + len(text), 5):
                flipped = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
                restore(path.parent, {**whole, path.name: flipped})
                with pytest.raises(JournalError, match="is not what was written|differs from its copy"):
                    reopened(path)


def test_a_byte_flipped_anywhere_loses_nothing_silently(path: Path) -> None:
    journal = begun(path, 4)
    whole = image(path.parent)
    journal.close()
    closed = image(path.parent)
    random = Random(3)
    for files in (whole, closed):
        for name, held in files.items():
            for _ in range(60):
                at = random.randrange(len(held))
                flipped = held[:at] + bytes([held[at] ^ (1 << random.randrange(8))]) + held[at + 1 :]
                restore(path.parent, {**files, name: flipped})
                assert found_or_refused(path) in (None, journal.entries)


def test_an_entry_that_neither_file_can_show_any_more_is_missed(path: Path) -> None:
    journal = begun(path, 6)
    whole = image(path.parent)
    journal.close()
    wal, copy = wal_of(path).name, copy_of(path).name
    lines = whole[copy].splitlines(keepends=True)
    lines[3] = lines[3].replace(b"canary", b"Canary")
    restore(path.parent, {**whole, wal: whole[wal][: len(whole[wal]) // 2], copy: b"".join(lines)})
    with pytest.raises(JournalError, match=r"revision 6 was written, but is not there; its copy.*line 4"):
        Journal.open(path)


def test_a_log_that_starts_anew_loses_nothing(path: Path) -> None:
    journal = begun(path, checkpoint_pages=4)
    sizes, images = [], []
    for _ in range(60):
        journal.append(entry(journal))
        images.append(image(path.parent))
        sizes.append(len(images[-1][wal_of(path).name]))
    journal.close()
    assert max(sizes) < 10_000, "SQLite did not start its log anew"
    for revision, files in enumerate(images, 1):
        restore(path.parent, files)
        assert reopened(path) == journal.entries[:revision]
        restore(path.parent, {**files, wal_of(path).name: files[wal_of(path).name][: -1 - revision * 10]})
        assert reopened(path) == journal.entries[:revision]


def test_a_writer_killed_at_any_moment_has_written_all_that_it_said(path: Path) -> None:
    random, known = Random(), 0
    for _ in range(10):

        def work(pipe: int) -> None:
            journal = Journal.open(path, checkpoint_pages=8)
            term = journal.take_term(f"here:{os.getpid()}", 1)
            while True:
                journal.append(entry(journal, term))
                os.write(pipe, b"%d\n" % len(journal.entries))

        pid, pipe = forked(work)
        said = os.read(pipe, 100)
        time.sleep(random.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while more := os.read(pipe, 1 << 16):
            said += more
        os.close(pipe)
        acknowledged = [int(line) for line in said.split(b"\n")[:-1]]
        assert acknowledged == list(range(acknowledged[0], acknowledged[-1] + 1))
        assert known < acknowledged[0]
        known = len(reopened(path, verified=True))
        assert known in (acknowledged[-1], acknowledged[-1] + 1)


TAKE_OVER = """
import sys
from pathlib import Path
from serving.journal.journal import Journal
from tests.serving.test_journal import entry
journal = Journal.open(Path(sys.argv[1]))
term = journal.take_term("there:2", 2)
if sys.argv[2] == "append":
    journal.append(entry(journal, term))
print(term)
"""


@pytest.mark.parametrize("then", ["append", "wait"])
def test_who_has_an_older_term_than_another_process_can_append_no_more(
    path: Path, root: Path, then: str
) -> None:
    journal = begun(path, 2)
    command = [sys.executable, "-c", TAKE_OVER, str(path), then]
    other = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert other.stdout == "2\n"
    before = image(path.parent)
    for _ in range(2):
        with pytest.raises(
            OlderTerm, match=r"another control took over \(there:2, term 2; this one has term 1"
        ):
            journal.append(entry(journal))
    assert image(path.parent)[copy_of(path).name] == before[copy_of(path).name]
    assert journal.take_term("here:1", 3) == 3, "and it knows what the other did, so that it can go on"
    assert len(journal.entries) == (3 if then == "append" else 2)
    journal.append(entry(journal, term=3))
    journal.close()
    assert reopened(path) == journal.entries


def test_terms_go_on_where_they_ended(path: Path) -> None:
    for term in range(1, 5):
        journal = Journal.open(path)
        assert journal.take_term("here:1", term) == term
        journal.close()


@contextmanager
def bytes_max(count: int) -> Iterator[None]:
    """Let no file grow beyond `count` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("pages", [4, 1000], ids=["the copy is longest", "the database's log is longest"])
def test_an_append_for_which_there_is_no_room_changes_nothing_and_can_be_made_again(
    path: Path, pages: int
) -> None:
    journal = begun(path, 8, pages)
    longest = max(len(held) for held in image(path.parent).values())
    refused = 0
    for room in range(longest - 200, longest + 4000, 97):
        before = list(journal.entries)
        following = entry(journal, why=f"with room for {room} bytes")
        try:
            with bytes_max(room):
                journal.append(following)
        except JournalError as error:
            refused += 1
            assert "Nothing was written" in str(error)
            assert not error.final
            assert journal.entries == before
            assert [each for each, _ in read(path)] == before
            journal.append(following)
        assert journal.verify() == (len(before) + 1, following.hash)
    journal.close()
    assert refused > 5
    assert reopened(path) == journal.entries


def append_many(journal: Journal, count: int) -> None:
    for _ in range(count):
        journal.append(entry(journal, why="x" * 700))


def test_a_full_disk_is_told_as_one_and_after_it_the_journal_goes_on(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k,mode=700", "tmpfs", str(tmp_path)])
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        journal = begun(tmp_path / "journal.sqlite", 3)
        with pytest.raises(JournalError, match="no room on its disk. Nothing was written; make room") as told:
            append_many(journal, 1000)
        assert not told.value.final
        known = list(journal.entries)
        assert journal.verify() == (len(known), known[-1].hash)
        with pytest.raises(JournalError):
            journal.append(entry(journal, why="x" * 700))
        subprocess.run(["mount", "-o", "remount,size=1m", str(tmp_path)], check=True)
        journal.append(entry(journal))
        journal.close()
        assert reopened(tmp_path / "journal.sqlite") == [*known, journal.entries[-1]]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_entries_and_terms_can_be_neither_changed_nor_removed(path: Path) -> None:
    begun(path, 2).close()
    connection = sqlite3.connect(path)
    for statement in (
        "UPDATE entries SET text = 'x'",
        "UPDATE entries SET hash = 'x' WHERE revision = 2",
        "DELETE FROM entries WHERE revision = 2",
        "INSERT OR REPLACE INTO entries VALUES (1, 'x', 'y', 'z')",
        "UPDATE terms SET term = 7",
        "DELETE FROM terms",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="the journal is only added to"):
            connection.execute(statement)
    connection.close()
    assert len(reopened(path)) == 2


def test_nobody_else_can_read_it(path: Path) -> None:
    umask = os.umask(0)
    try:
        journal = Journal.open(path.parent / "new" / path.name)
        journal.take_term("here:1", 1)
    finally:
        os.umask(umask)
    new = path.parent / "new"
    assert new.stat().st_mode & 0o777 == 0o700
    assert {each.name: oct(each.stat().st_mode & 0o777) for each in new.iterdir()} == dict.fromkeys(
        ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "journal.sqlite.copy"), "0o600"
    )
    journal.close()


@pytest.mark.parametrize("name", ["", "journal.sqlite", "journal.sqlite.copy"])
def test_what_others_may_read_is_not_trusted(path: Path, name: str) -> None:
    begun(path).close()
    (path.parent / name).chmod(0o755)
    with pytest.raises(JournalError, match="chmod [67]00 it if it is yours"):
        Journal.open(path)


def test_an_entry_that_does_not_follow_is_none(path: Path) -> None:
    journal = begun(path, 2)
    for wrong in (journal.entries[-1], Entry(3, 1, 1, "ann", "why", journal.entries[0].change, GENESIS)):
        with pytest.raises(ValueError, match="does not follow revision 2"):
            journal.append(wrong)
    with pytest.raises(ValueError, match="term 2 was not taken; the last one is 1"):
        journal.append(entry(journal, term=2))
    journal.append(entry(journal))
    journal.close()
    with pytest.raises(JournalError, match="is closed"):
        journal.append(entry(journal))


def test_who_reads_while_entries_are_written_sees_a_beginning_of_them(path: Path) -> None:
    begun(path).close()

    def work(pipe: int) -> None:
        journal = Journal.open(path, checkpoint_pages=8)
        term = journal.take_term("there:2", 2)
        for _ in range(200):
            journal.append(entry(journal, term))
            time.sleep(0.0005)
        os.write(pipe, b"done")

    pid, pipe = forked(work)
    seen = [read(path)]
    while not select.select([pipe], [], [], 0)[0]:
        seen.append(read(path))
    os.waitpid(pid, 0)
    assert os.read(pipe, 10) == b"done"
    os.close(pipe)
    entries = [each for each, _ in read(path)]
    assert len(entries) == 200
    assert all([each for each, _ in some] == entries[: len(some)] for some in seen)
    assert [len(some) for some in seen] == sorted(len(some) for some in seen)
    assert len({len(some) for some in seen}) > 2


def test_opening_it_elsewhere_disturbs_nobody_who_writes(path: Path) -> None:
    journal = begun(path, 2)
    for _ in range(3):
        assert Journal.open(path).entries == journal.entries
        journal.append(entry(journal))
    journal.close()


def rubbish(path: Path) -> None:
    path.write_bytes(b"neither a database nor lines of entries\n" * 50)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("spoil", [rubbish, half])
def test_a_database_that_sqlite_cannot_read_is_kept_and_restored_from_the_copy(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    journal = begun(path, 12)
    journal.close()
    for _ in range(2):
        spoil(path)
        damaged = path.read_bytes()
        assert reopened(path) == journal.entries
        assert path.with_name("journal.sqlite.damaged").read_bytes() == damaged


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 9"), "by a newer Turnout"),
        (lambda path: (rubbish(path), rubbish(copy_of(path))), "its copy journal.sqlite.copy is not whole"),
        (lambda path: (half(path), half(copy_of(path))), "its copy journal.sqlite.copy is not whole"),
    ],
    ids=["newer", "rubbish", "half"],
)
def test_a_journal_that_cannot_be_used_is_refused_and_left_as_it_is(path, spoil, said) -> None:
    begun(path, 12).close()
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=said) as told:
        Journal.open(path)
    assert str(path) in str(told.value)
    assert path.read_bytes() == before


def test_a_journal_that_was_replaced_is_noticed_by_who_writes_it(path: Path) -> None:
    journal = begun(path, 2)
    copy_of(path).rename(path.with_name("elsewhere"))
    with pytest.raises(JournalError, match="restart the gateway") as told:
        journal.append(entry(journal))
    assert told.value.final
    with pytest.raises(JournalError, match="restart the gateway"):
        journal.append(entry(journal))
    journal.close()
    assert len(reopened(path)) == 2


def test_a_database_that_was_moved_takes_no_more(path: Path) -> None:
    journal = begun(path, 2)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(JournalError, match="was moved, or written by another program; restart the gateway"):
        journal.append(entry(journal))
    journal.close()
    assert len(reopened(path)) == 2


def test_two_files_that_tell_different_stories_are_both_left_alone(path: Path) -> None:
    begun(path, 2).close()
    copy = copy_of(path).read_bytes()
    for file in (path, copy_of(path)):
        file.unlink()
    journal = begun(path)
    journal.append(entry(journal, why="another reason"))
    journal.close()
    copy_of(path).write_bytes(copy)
    before = image(path.parent)
    with pytest.raises(JournalError, match="revision 1 differs from its copy.*move that one away"):
        Journal.open(path)
    with pytest.raises(BrokenChain, match="revision 1 differs from its copy"):
        read(path)
    assert before.items() <= image(path.parent).items()


def test_every_commit_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = begun(path)
    with journal._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(os.fstat(file).st_size))
    journal.append(entry(journal))
    assert synced == [copy_of(path).stat().st_size]
    journal.close()


def test_after_a_sync_that_failed_nothing_is_written_until_somebody_has_looked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    journal = begun(path, 2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(JournalError, match="restart the gateway to find out") as told:
            journal.append(entry(journal))
    assert told.value.final
    with pytest.raises(JournalError, match="restart the gateway to find out"):
        journal.append(entry(journal))
    journal.close()
    assert reopened(path) == journal.entries
    assert len(journal.entries) == 2


def test_who_finds_it_in_use_for_long_is_told_and_can_try_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.journal.duplicate.WAIT_S_MAX", 0.05)
    journal = begun(path, 1)
    other = Duplicate(copy_of(path))
    with other.held(), pytest.raises(JournalError, match="another process has used it") as told:
        journal.append(entry(journal))
    assert not told.value.final
    journal.append(entry(journal))
    other.close()
    journal.close()
    assert len(reopened(path)) == 2
