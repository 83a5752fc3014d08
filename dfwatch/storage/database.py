"""One SQLite connection for several threads, whose commits wait for the disk together.

A commit that survives power loss costs a wait for the disk. Whoever writes while another one waits joins the next
group: its changes lie in one transaction, one commit makes them durable, and nobody is told before that. Within a group
each writer has a savepoint of its own, so that one that fails takes nothing of the others with it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSY_TIMEOUT_S: Final = 10.0
# The first of a group waits at most this long for those who already stand in line; their statements take microseconds.
_LONGEST_GATHERING_S: Final = 0.005
_NOT_ALLOWED: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
_State = tuple[int, int, int]


def _connect(target: str, *, uri: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        target, uri=uri, timeout=_BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
    )
    connection.row_factory = sqlite3.Row
    return connection


def _state_at_rest(path: str) -> _State | None:
    """What changes whenever the database does; None where somebody has it open, or left it so."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return None if os.path.exists(f"{path}-wal") else (found.st_ino, found.st_size, found.st_mtime_ns)


class _Group:
    """Writers whose changes are committed together."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: sqlite3.Error | None = None

    def fail(self, error: sqlite3.Error) -> None:
        self.error = error
        self.ended.set()


class Database:
    """The connection.

    Args:
        path: The database.
        read_only: Only read.

    Raises:
        sqlite3.Error: From every method.
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self._path = os.path.abspath(path)
        self._read_only = read_only
        # Of a database that nobody has open and that cannot be opened as usual: its state when it was opened.
        self._resting: _State | None = None
        self._db = self._open_to_read() if read_only else _connect(path, uri=False)
        self._lock = threading.RLock()
        self._writing = False
        self._group: _Group | None = None
        self._line = threading.Condition()
        self._in_line = 0

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are made together, or not at all when the block raises; durable when it ends.

        Raises:
            RuntimeError: It was called within its own block, which would wait for itself.
        """
        with self._line:
            self._in_line += 1
        try:
            with self._lock:
                if self._writing:
                    raise RuntimeError("a write within a write")
                group = self._join()
                leads = group is None
                if group is None:
                    group = self._begin()
                self._writing = True
                try:
                    yield self._db
                except BaseException as error:
                    self._undo(group, error, whole=leads)
                    raise
                finally:
                    self._writing = False
                if not leads:
                    self._db.execute("RELEASE writer")
        finally:
            with self._line:
                self._in_line -= 1
                self._line.notify_all()
        if leads:
            self._commit(group)
        group.ended.wait()
        if group.error is not None:
            raise group.error

    def read(self, query: str, *parameters: object) -> list[sqlite3.Row]:
        """The rows that a query finds."""
        with self._lock:
            if not self._read_only:
                return self._rows(query, parameters)
            with suppress(sqlite3.DatabaseError):
                rows = self._rows(query, parameters)
                if self._resting is None or self._resting == _state_at_rest(self._path):
                    return rows
            # A service has begun or ended meanwhile; what was read may be half of the old and half of the new.
            self._db.close()
            self._db = self._open_to_read()
            return self._rows(query, parameters)

    def script(self, text: str) -> None:
        """Run statements that bring their own transaction, or need none."""
        with self._lock:
            self._db.executescript(text)

    def close(self) -> None:
        """Close the connection; further calls fail."""
        with self._lock:
            self._db.close()

    def _open_to_read(self) -> sqlite3.Connection:
        """Open it to read, also where the caller may not write the folder.

        A reader shares two files with the writer. SQLite removes them when the last user is gone, and who may not make
        them anew is refused, unless told that the database never changes.
        """
        target = f"file:{quote(self._path)}?mode=ro"
        may_write = os.access(os.path.dirname(self._path), os.W_OK, effective_ids=True)
        self._resting = None if may_write else _state_at_rest(self._path)
        return _connect(target if self._resting is None else f"{target}&immutable=1", uri=True)

    def _rows(self, query: str, parameters: tuple[object, ...]) -> list[sqlite3.Row]:
        try:
            with closing(self._db.execute(query, parameters)) as cursor:
                return cursor.fetchall()
        except sqlite3.OperationalError as error:
            if not self._read_only or getattr(error, "sqlite_errorcode", 0) & 0xFF not in _NOT_ALLOWED:
                raise
            names = f"{os.path.basename(self._path)}-wal and -shm"
            cause = f"{error}: uid {os.geteuid()} can neither read {names} beside it nor make them; ask as its owner"
            raise sqlite3.OperationalError(cause) from error

    def _begin(self) -> _Group:
        if self._db.in_transaction:
            # Left behind by a thread that was torn out of its commit; whoever waited for it was told.
            self._db.execute("ROLLBACK")
        self._db.execute("BEGIN IMMEDIATE")
        self._group = _Group()
        return self._group

    def _join(self) -> _Group | None:
        """The group that others have begun, if any."""
        if self._group is None or self._group.ended.is_set():
            return None
        self._db.execute("SAVEPOINT writer")
        return self._group

    def _undo(self, group: _Group, error: BaseException, *, whole: bool) -> None:
        """Take back what one writer did; called with the lock."""
        try:
            if self._db.in_transaction and not whole:
                self._db.execute("ROLLBACK TO writer")
                self._db.execute("RELEASE writer")
                return
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as worse:
            error = worse
        # After a failure of the disk SQLite rolls back all of it; then the others of the group must hear of it.
        self._group = None
        group.fail(error if isinstance(error, sqlite3.Error) else sqlite3.OperationalError(str(error)))

    def _commit(self, group: _Group) -> None:
        try:
            with self._line:
                self._line.wait_for(lambda: self._in_line == 0, _LONGEST_GATHERING_S)
            with self._lock:
                if group.ended.is_set():
                    return
                self._group = None
                try:
                    self._db.execute("COMMIT")
                except sqlite3.Error as error:
                    group.error = error
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
        except BaseException as error:
            group.error = group.error or sqlite3.OperationalError(f"not committed: {error!r}")
            raise
        finally:
            # Whatever happened: nobody of the group waits for ever.
            group.ended.set()
