"""What was admitted is what is served: copies that nobody else can change, known by their contents."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import contents
from serving.regular import Refusal
from serving.store import Store, VersionChanged
from tests.hostile import lay_out


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return lay_out(tmp_path / "models" / "m" / "1", b"onnx", **{"weights.bin": b"1234"})


def objects(store: Store) -> set[str]:
    return {path.name for path in store._objects.iterdir()}


def test_a_version_is_copied_with_all_its_files_and_nobody_else_may_write_there(store, folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "table").write_bytes(b"x")
    artifact = store.put("m", 1, folder)
    assert artifact.path.read_bytes() == b"onnx"
    assert (artifact.path.parent / "weights.bin").read_bytes() == b"1234"
    assert (artifact.path.parent / "sub" / "table").read_bytes() == b"x"
    assert artifact.bytes_total == 9
    modes = {stat.S_IMODE(path.stat().st_mode) for path in artifact.path.parent.rglob("*") if path.is_file()}
    assert modes == {0o400}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (artifact.path.parent, store._root)} == {0o700}


def test_the_digest_is_what_the_documentation_says(store, folder):
    lines = [
        f"{hashlib.sha256(b'onnx').hexdigest()} 4 model.onnx\n",
        f"{hashlib.sha256(b'1234').hexdigest()} 4 weights.bin\n",
    ]
    assert store.put("m", 1, folder).digest == hashlib.sha256("".join(lines).encode()).hexdigest()


files = st.dictionaries(st.sampled_from(["a", "b", "sub/c"]), st.binary(max_size=8), max_size=3)


@given(files, files)
def test_two_folders_have_the_same_digest_if_and_only_if_their_files_are_the_same(
    tmp_path_factory, one, other
):
    digests = []
    for each in (one, other):
        folder = lay_out(tmp_path_factory.mktemp("v") / "1", b"onnx")
        for name, content in each.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        digests.append(contents.read(folder, 1 << 20, 100).digest)
    assert (digests[0] == digests[1]) == (one == other)


def test_known_contents_are_not_copied_again(store, folder, monkeypatch):
    first = store.put("m", 1, folder)
    monkeypatch.setattr(Store, "_copy", lambda *_: pytest.fail("copied again"))
    assert store.put("m", 1, folder) == first
    assert store.put("other", 5, folder).digest == first.digest
    assert Store(store._root).put("m", 1, folder) == first


def test_an_admitted_version_never_changes_under_its_name(store, folder):
    artifact = store.put("m", 1, folder)
    store.record_verdict(artifact.digest, "rules")
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(
        VersionChanged, match="version 1 was admitted with other files .* number of their own"
    ):
        store.put("m", 1, folder)
    with pytest.raises(VersionChanged):
        Store(store._root).put("m", 1, folder)
    assert store.put("m", 2, folder).digest != artifact.digest
    assert artifact.path.read_bytes() == b"onnx"


def test_the_same_name_in_another_repository_is_another_version(store, folder, tmp_path):
    """Two gateways with one state once refused each other's models."""
    mine, theirs = (Store(store._root, repository=tmp_path / name) for name in ("mine", "theirs"))
    mine.record_verdict(mine.put("m", 1, folder).digest, "rules")
    other = lay_out(tmp_path / "theirs" / "m" / "1", b"other")
    artifact = theirs.put("m", 1, other)
    theirs.record_verdict(artifact.digest, "rules")
    with pytest.raises(VersionChanged):
        mine.put("m", 1, other)
    with pytest.raises(VersionChanged):
        theirs.put("m", 1, folder)
    assert theirs.admitted("m", 1) == artifact


def test_an_admitted_version_is_still_there_when_its_folder_holds_something_else(store, folder):
    artifact = store.put("m", 1, folder)
    assert store.admitted("m", 1) is None
    store.record_verdict(artifact.digest, "rules")
    (folder / "model.onnx").write_bytes(b"other")
    assert store.admitted("m", 1) == Store(store._root).admitted("m", 1) == artifact
    store.collect(set())
    assert store.admitted("m", 1) is None


def test_files_that_did_not_change_are_not_read_again(store, folder, monkeypatch):
    """Each look at a repository once hashed all of its models."""
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    first = store.put("m", 1, folder)
    with monkeypatch.context() as watched:
        watched.setattr("serving.store.read", lambda *_: pytest.fail("read again"))
        assert store.put("m", 1, folder) == first
    state = (folder / "weights.bin").stat()
    (folder / "weights.bin").write_bytes(b"4321")
    os.utime(folder / "weights.bin", ns=(state.st_atime_ns, state.st_mtime_ns))  # The inode's own time stays.
    assert store.put("m", 1, folder).digest != first.digest


def test_files_that_changed_just_now_are_read_again(store, folder, monkeypatch):
    """A second change within the same tick of the file system's clock would not show."""
    store.put("m", 1, folder)
    read = []
    monkeypatch.setattr("serving.store.read", lambda *given: read.append(given) or contents.read(*given))
    store.put("m", 1, folder)
    assert read


def test_a_changed_file_beside_the_model_is_a_changed_version(store, folder):
    store.record_verdict(store.put("m", 1, folder).digest, "rules")
    (folder / "weights.bin").write_bytes(b"4321")
    with pytest.raises(VersionChanged):
        store.put("m", 1, folder)


def test_a_version_that_was_never_admitted_may_be_corrected(store, folder):
    """A file that was seen half copied must not use up its number."""
    store.put("m", 1, folder)
    (folder / "model.onnx").write_bytes(b"onnx, complete")
    artifact = store.put("m", 1, folder)
    store.record_verdict(artifact.digest, "rules")
    (folder / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(VersionChanged):
        store.put("m", 1, folder)


def test_contents_admitted_under_one_name_are_fixed_under_the_next(store, folder):
    store.record_verdict(store.put("m", 1, folder).digest, "rules")
    store.put("m", 2, folder)
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(VersionChanged):
        store.put("m", 2, folder)


def test_a_verdict_holds_for_the_rules_it_was_given_under(store, folder):
    digest = store.put("m", 1, folder).digest
    assert not store.verdict(digest, "a")
    store.record_verdict(digest, "a")
    store.record_verdict(digest, "a")
    again = Store(store._root)
    assert again.verdict(digest, "a")
    assert not again.verdict(digest, "b")


def test_collecting_keeps_what_is_to_be_kept_and_forgets_no_name(store, folder, tmp_path):
    kept, gone = store.put("m", 1, folder), store.put("m", 2, lay_out(tmp_path / "two", b"two"))
    store.record_verdict(gone.digest, "rules")
    assert store.collect({kept.digest}) == {gone.digest}
    assert objects(store) == {kept.digest}
    assert not store.verdict(gone.digest, "rules")
    with pytest.raises(VersionChanged):
        store.put("m", 2, folder)


def test_what_a_crash_left_unfinished_is_never_served_and_is_collected(store, folder):
    draft = store._unfinished / "draft"
    draft.mkdir()
    (draft / "model.onnx").write_bytes(b"on")
    artifact = store.put("m", 1, folder)
    store.collect({artifact.digest})
    assert list(store._unfinished.iterdir()) == []
    assert artifact.path.read_bytes() == b"onnx"


def test_a_copy_that_fails_leaves_nothing_behind(store, folder, monkeypatch):
    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("serving.store.sync", fail)
    with pytest.raises(OSError, match="No space left"):
        store.put("m", 1, folder)
    assert list(store._unfinished.iterdir()) == []
    assert objects(store) == set()


def test_a_damaged_object_is_copied_anew(store, folder):
    artifact = store.put("m", 1, folder)
    artifact.path.chmod(0o600)
    artifact.path.write_bytes(b"rot!")
    again = Store(store._root).put("m", 1, folder)
    assert again.path == artifact.path
    assert again.path.read_bytes() == b"onnx"


def test_files_that_change_while_they_are_copied_are_refused(store, folder, monkeypatch):
    """What is checked must be what is served, so the copy itself is hashed."""
    before = Store._present

    def change(self, digest):
        (folder / "model.onnx").write_bytes(b"evil")
        return before(self, digest)

    monkeypatch.setattr(Store, "_present", change)
    with pytest.raises(Refusal, match="changed while they were copied"):
        store.put("m", 1, folder)
    assert objects(store) == set()


def test_several_threads_and_stores_put_the_same_contents_once(store, folder):
    got, stores = [], [store, Store(store._root)]
    threads = [threading.Thread(target=lambda s=s: got.append(s.put("m", 1, folder))) for s in stores * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert len(set(got)) == 1
    assert list(store._unfinished.iterdir()) == []


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", "sub/deep.bin"])
def test_links_and_pipes_anywhere_in_a_version_are_refused(store, folder, tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    path = folder / name
    for make, fault in (
        (lambda: path.symlink_to(secret), "is a symbolic link"),
        (lambda: path.hardlink_to(secret), "has 2 hard links"),
        (lambda: os.mkfifo(path), "is a pipe"),
    ):
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        make()
        with pytest.raises(Refusal, match=f"{name} {fault}") as caught:
            store.put("m", 1, folder)
        assert str(tmp_path) not in str(caught.value)
    assert objects(store) == set()


def test_a_linked_folder_in_a_version_is_refused(store, folder, tmp_path):
    (folder / "sub").symlink_to(tmp_path)
    with pytest.raises(Refusal, match="sub is a symbolic link"):
        store.put("m", 1, folder)


def test_a_version_is_bounded_in_bytes_files_and_depth(tmp_path, folder):
    with pytest.raises(Refusal, match="limit of admission.file_bytes_max"):
        Store(tmp_path / "a", bytes_max=7).put("m", 1, folder)
    with pytest.raises(Refusal, match="more than 1 files"):
        Store(tmp_path / "b", files_max=1).put("m", 1, folder)
    (folder / "/".join("d" * 10)).mkdir(parents=True)
    with pytest.raises(Refusal, match="deep"):
        Store(tmp_path / "c").put("m", 1, folder)


def test_names_that_read_differently_elsewhere_are_refused(store, folder):
    (folder / "a\nb").write_bytes(b"")
    with pytest.raises(Refusal, match="plain names only"):
        store.put("m", 1, folder)


def test_hidden_files_are_neither_copied_nor_part_of_the_version(store, folder):
    before = store.put("m", 1, folder)
    (folder / ".DS_Store").write_bytes(b"whatever")
    assert store.put("m", 1, folder) == before
    assert not (before.path.parent / ".DS_Store").exists()


def test_a_version_without_a_model_is_refused(store, tmp_path):
    (tmp_path / "v").mkdir()
    with pytest.raises(Refusal, match=r"no model\.onnx"):
        store.put("m", 1, tmp_path / "v")


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_store_that_others_could_write_to_is_refused(tmp_path, mode):
    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(mode)
    with pytest.raises(Refusal, match="writable for others"):
        Store(tmp_path / "s")


def test_a_store_behind_a_link_or_of_somebody_else_is_refused(tmp_path, monkeypatch):
    (tmp_path / "s").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "s")
    with pytest.raises(Refusal, match="is a link"):
        Store(tmp_path / "link")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Refusal, match="belongs to another user"):
        Store(tmp_path / "s")
