"""The real reader child, except that a file whose first line is ``FAULT <what>`` makes it do that: ``faulty_child``."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, Any

from dfwatch.decode import child as reader_child
from tests.reader.faulty_child import FaultyReader

if TYPE_CHECKING:
    from dfwatch.config import FaceSettings, ReaderSettings

PREFIX = b"FAULT "


class Mixed:
    def __init__(self, settings: ReaderSettings, faces: FaceSettings) -> None:
        self._real: Any = reader_child._real_reader(settings, faces, thumbnail_side_px=0)
        self._faulty = FaultyReader(settings, faces)

    def read(self, fd: int, crop: Any) -> Any:
        line = os.pread(fd, 200, 0).split(b"\n")[0]
        if line.startswith(PREFIX):
            getattr(self._faulty, f"do_{line.removeprefix(PREFIX).decode().strip()}")()
        return self._real.read(fd, crop)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(reader_child.main(sys.argv[1:], Mixed))
