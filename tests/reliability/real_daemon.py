"""The real service with the real reader process, or one that does what the file says, and a scripted model.

Run as a module it is a daemon; no torch is needed to read hostile files. A file that begins with ``FAULT`` is handled
by ``tests.reader.faulty_child`` (it segfaults, hangs, eats memory …), any other by the real reader: ``mixed_child``.
"""

from __future__ import annotations

import sys

from dfwatch import logs
from dfwatch.reader import Reader
from dfwatch.service import Service
from dfwatch.settings import file as settings_file
from tests.service.scripted import ScriptedScorer


def main() -> int:
    path = sys.argv[1]
    settings = settings_file.load(path)
    logs.configure(settings.log.level, settings.log.format)
    return Service(
        settings,
        make_scorer=lambda _settings: ScriptedScorer(),
        make_reader=lambda now: Reader(now.reader, now.faces, child_module="tests.reliability.mixed_child"),
        reload_settings=lambda: settings_file.load(path),
    ).run()


if __name__ == "__main__":
    sys.exit(main())
