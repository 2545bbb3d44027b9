"""Where are the private copies of the models' files, each known by what it contains?"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from serving.contents import Contents, Mark, mark, read, sync
from serving.model import Artifact
from serving.regular import Refusal
from serving.repository import ONNX_NAME

_TABLES = """
create table if not exists versions (
    repository text, model text, version integer, digest text not null, admitted integer not null,
    primary key (repository, model, version));
create table if not exists verdicts (digest text, rules text, primary key (digest, rules));
"""
READ_BEFORE_MAX = 10_000
"""Versions of which is remembered what they held when they were read last."""


class VersionChanged(Refusal):
    """Other files under the name of a version that was already admitted."""


class Store:
    """A content-addressed folder, private to its owner; several processes may share it.

    Parameters
    ----------
    root : Path
        Created if it is absent; refused if anybody else could write to it.
    bytes_max, files_max : int
        Of one version.
    repository : Path, optional
        Whose versions these are: the same name in another repository is another version.
    """

    def __init__(
        self, root: Path, bytes_max: int = 8 << 30, files_max: int = 1000, repository: Path | None = None
    ) -> None:
        self._root = root
        self._repository = ascii(str(repository.resolve())) if repository else ""
        self._objects = root / "objects"
        self._unfinished = root / "unfinished"
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._verified: set[str] = set()
        self._read_before: dict[tuple[str, int], tuple[Mark, Contents]] = {}
        for folder in (root, self._objects, self._unfinished):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(folder)
        os.close(os.open(root / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        with self._database() as database:
            database.executescript(_TABLES)

    def __repr__(self) -> str:
        return f"<Store: {len(list(self._objects.iterdir()))} objects>"

    def put(self, model: str, version: int, folder: Path) -> Artifact:
        """Copy the files of a version into the store, or find them there.

        A version that was never admitted may be corrected in place, since a file that was only half
        copied into the repository must not use up its number. Once admitted it never changes.

        Raises
        ------
        Refusal
            If `folder` holds anything but regular files, too many or too large ones, or no model.onnx.
        VersionChanged
            If `model` and `version` name an admitted version with other contents.
        """
        with self._lock(fcntl.LOCK_SH):
            contents = self._contents(model, version, folder)
            digest = contents.digest
            self._check_unchanged(model, version, digest)
            if not self._present(digest):
                self._copy(folder, digest)
            self._name(model, version, digest)
        return Artifact(model, version, digest, self._objects / digest / ONNX_NAME, contents.bytes_total)

    def admitted(self, model: str, version: int) -> Artifact | None:
        """Return the copy of a version that was admitted, whatever its folder holds by now."""
        with self._lock(fcntl.LOCK_SH):
            digest = self._admitted_digest(model, version)
            if digest is None or not self._present(digest):
                return None
            folder = self._objects / digest
            return Artifact(model, version, digest, folder / ONNX_NAME, self._read(folder).bytes_total)

    def verdict(self, digest: str, rules: str) -> bool:
        """Say whether these contents were admitted before, under the same rules."""
        with self._database() as database:
            query = "select 1 from verdicts where digest = ? and rules = ?"
            return database.execute(query, (digest, rules)).fetchone() is not None

    def record_verdict(self, digest: str, rules: str) -> None:
        """Remember that these contents were admitted; from now on their versions never change."""
        with self._database() as database:
            database.execute("insert or ignore into verdicts values (?, ?)", (digest, rules))
            database.execute("update versions set admitted = 1 where digest = ?", (digest,))

    def collect(self, keep: set[str]) -> set[str]:
        """Remove all objects but those to `keep`, and what crashed copies left; return what was removed."""
        with self._lock(fcntl.LOCK_EX):
            removed = {path.name for path in self._objects.iterdir()} - keep
            for digest in removed:
                # In one step out of sight, so that a crash never leaves half an object behind.
                (self._objects / digest).rename(tempfile.mkdtemp(dir=self._unfinished))
            self._verified -= removed
            for left in self._unfinished.iterdir():
                shutil.rmtree(left)
            with self._database() as database:
                database.executemany("delete from verdicts where digest = ?", [(each,) for each in removed])
        return removed

    def _read(self, folder: Path, into: Path | None = None) -> Contents:
        return read(folder, self._bytes_max, self._files_max, into)

    def _contents(self, model: str, version: int, folder: Path) -> Contents:
        """Read the files in `folder`, unless they are the very ones that were read the last time."""
        now = mark(folder, self._files_max, time.time_ns())
        before = self._read_before.pop((model, version), None)
        contents = before[1] if before and now and before[0] == now else self._read(folder)
        if now is not None:
            if len(self._read_before) >= READ_BEFORE_MAX:
                self._read_before.clear()
            self._read_before[model, version] = (now, contents)
        return contents

    def _present(self, digest: str) -> bool:
        """Say whether the object is there; the first time, also whether it is still what it was."""
        target = self._objects / digest
        if not target.exists():
            return False
        if digest not in self._verified:
            if not self._intact(target, digest):
                target.rename(tempfile.mkdtemp(dir=self._unfinished))
                return False
            self._verified.add(digest)
        return True

    def _intact(self, target: Path, digest: str) -> bool:
        try:
            return self._read(target).digest == digest
        except Refusal:
            return False

    def _copy(self, folder: Path, digest: str) -> None:
        """Copy, hash what was copied, and only then let it appear under its name, whole."""
        draft = Path(tempfile.mkdtemp(dir=self._unfinished))
        try:
            if self._read(folder, draft).digest != digest:
                raise Refusal("the files changed while they were copied; try again when they are complete")
            for where, _, _ in os.walk(draft):
                sync(Path(where))
            try:
                draft.rename(self._objects / digest)
            except OSError:
                # Another process was faster with the same contents; anything else is an error.
                if not self._present(digest):
                    raise
            sync(self._objects)
            self._verified.add(digest)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _check_unchanged(self, model: str, version: int, digest: str) -> None:
        known = self._admitted_digest(model, version)
        if known and known != digest:
            raise VersionChanged(
                f"version {version} was admitted with other files (SHA-256 {known[:12]}, now "
                f"{digest[:12]}); a version never changes under its name: give these a number of their own"
            )

    def _admitted_digest(self, model: str, version: int) -> str | None:
        query = "select digest from versions where repository = ? and model = ? and version = ? and admitted"
        with self._database() as database:
            known = database.execute(query, (self._repository, model, version)).fetchone()
        return known[0] if known else None

    def _name(self, model: str, version: int, digest: str) -> None:
        with self._database() as database:
            database.execute(
                "insert into versions values (:repository, :model, :version, :digest, "
                "exists (select 1 from verdicts where digest = :digest)) "
                "on conflict (repository, model, version) do update set digest = excluded.digest, "
                "admitted = excluded.admitted where not versions.admitted",
                {"repository": self._repository, "model": model, "version": version, "digest": digest},
            )
        self._check_unchanged(model, version, digest)  # Another process may have named it meanwhile.

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        """Keep `collect` away from what `put` is doing, in this process and in others."""
        with (self._root / "lock").open("rb") as lock:
            fcntl.flock(lock, kind)
            yield

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._root / "store.sqlite", timeout=30)) as database, database:
            yield database


def _check_private(folder: Path) -> None:
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode):
        raise Refusal("the store's folder is a link or no folder; name the folder itself")
    if state.st_uid != os.geteuid():
        raise Refusal("the store's folder belongs to another user; it must belong to the server's")
    if state.st_mode & 0o022:
        raise Refusal("the store's folder is writable for others, who could change models; chmod go-w it")
