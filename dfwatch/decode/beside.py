"""In the reader child: work on frames in a thread of its own, while the decoder goes on."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Frames that may wait: enough that neither side waits for a moment's sake, few enough for the memory of 8K frames.
AHEAD: Final = 2

Item = TypeVar("Item")


class Beside(Generic[Item]):
    """Does the same with one item after another, in order, beside whoever hands them over.

    What the work raises is raised by the next ``put`` or at the end of the ``with`` block; nothing is done after it.

    Args:
        work: What is done with each item.
    """

    def __init__(self, work: Callable[[Item], None]) -> None:
        self._work = work
        self._items: queue.Queue[tuple[Item] | None] = queue.Queue(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="beside", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except RuntimeError as error:
            # Python's word for a stack that the memory limit does not allow.
            raise MemoryError(str(error)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # Whoever hands them over has failed: what waits is of no use any more.
            self._error = self._error or error
        self._items.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def put(self, item: Item) -> None:
        """Hand over the next item; waits while too many wait."""
        if self._error is not None:
            raise self._error
        self._items.put((item,))

    def _run(self) -> None:
        while (entry := self._items.get()) is not None:
            if self._error is not None:
                continue
            try:
                self._work(entry[0])
            except BaseException as error:  # noqa: BLE001 - raised again in the other thread
                self._error = error
            # Not kept while the next one is waited for: a frame may be large.
            del entry
