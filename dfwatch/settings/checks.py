"""Settings that are each fine alone and wrong together, or wrong in a way that no type can say."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from dfwatch.operation.addresses import is_loopback, split_address
from dfwatch.sinks.appending import AppendingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dfwatch.config import Settings, SinkSettings

_SINK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DEVICE = re.compile(r"[a-z]+(:[0-9]+)?")
# What a process has at most on 64-bit machines, unless it asks for more.
_ADDRESS_SPACE_BYTES = 2**47


def cross_checks(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """What is wrong, as (dotted name of the setting, cause, hint)."""
    yield from _watch(settings)
    yield from _sinks(settings)
    yield from _metrics(settings)
    verdict = settings.verdict
    real, fake = verdict.real_threshold, verdict.fake_threshold
    if real is not None and fake is not None and real >= fake:
        yield (
            "verdict.real_threshold",
            f"'verdict.real_threshold' ({real:g}) must be smaller than 'verdict.fake_threshold' ({fake:g})",
            "between the two lies INCONCLUSIVE",
        )
    if settings.reader.min_side_px**2 > settings.reader.max_pixels:
        yield (
            "reader.min_side_px",
            f"no frame has sides of {settings.reader.min_side_px} px and only {settings.reader.max_pixels} px in all",
            "",
        )
    if settings.reader.memory_limit_bytes > _ADDRESS_SPACE_BYTES:
        cause = f"'reader.memory_limit_bytes' is {settings.reader.memory_limit_bytes}, more than any process can have"
        yield "reader.memory_limit_bytes", cause, f"at most {_ADDRESS_SPACE_BYTES} (128 TiB)"
    if not _DEVICE.fullmatch(settings.model.device):
        yield "model.device", f"{settings.model.device!r} is not the name of a device", "auto, cpu, cuda, cuda:1, mps …"
    if not settings.root:
        yield "root", "'root' is empty", "name the folder that is to hold inbox/, results/ and the rest"


def _metrics(settings: Settings) -> Iterator[tuple[str, str, str]]:
    metrics = settings.metrics
    if metrics.listen:
        try:
            host, _ = split_address(metrics.listen)
        except ValueError as error:
            yield "metrics.listen", f"'metrics.listen' is not an IP address and a port: {error}", "e.g. 127.0.0.1:9464"
        else:
            if not is_loopback(host) and not metrics.anywhere:
                cause = f"'metrics.listen' is {metrics.listen!r}, which other machines may reach"
                yield "metrics.listen", cause, "use 127.0.0.1, or set metrics.anywhere to true"
    if metrics.textfile and not metrics.textfile.endswith(".prom"):
        cause = f"'metrics.textfile' is {metrics.textfile!r}, which node_exporter will not read"
        yield "metrics.textfile", cause, "its name must end in .prom"


def _watch(settings: Settings) -> Iterator[tuple[str, str, str]]:
    for index, ending in enumerate(settings.watch.extensions):
        if not ending or ending.strip(" *") != ending or "." in ending or "/" in ending:
            cause = f"'watch.extensions[{index}]' is {ending!r}, which no file name can end in after its last dot"
            yield "watch.extensions", cause, "write mp4, not .mp4 or *.mp4"
    for index, pattern in enumerate(settings.watch.ignore):
        if not pattern or "/" in pattern:
            cause = f"'watch.ignore[{index}]' is {pattern!r}, which matches no name"
            yield "watch.ignore", cause, "a pattern is held against each part of the path alone, so it has no slash"
    for name in ("marker", "rename_from"):
        ending = getattr(settings.watch, name)
        if "/" in ending or (ending and not ending.strip()):
            yield f"watch.{name}", f"'watch.{name}' is {ending!r}, which no file name can end in", ""
    if settings.watch.marker and settings.watch.marker == settings.watch.rename_from:
        yield "watch.marker", "'watch.marker' and 'watch.rename_from' are the same ending", "choose two, or one of them"
    if not settings.reader.formats:
        yield "reader.formats", "'reader.formats' is empty, so no file could ever be read", ""


def _sinks(settings: Settings) -> Iterator[tuple[str, str, str]]:
    seen: set[str] = set()
    for index, sink in enumerate(settings.sinks):
        place = f"sinks[{index}]"
        if not _SINK_NAME.fullmatch(sink.name):
            yield f"{place}.name", f"'{place}.name' is {sink.name!r}", "letters, digits, '_', '.' and '-', 64 at most"
        if sink.name in seen:
            hint = "give each sink a name of its own"
            yield f"{place}.type", f"two sinks are called {sink.name!r}", hint
        seen.add(sink.name)
        yield from _own_problems(sink, place)
    yield from _shared_files(settings.sinks)


def _shared_files(sinks: Sequence[SinkSettings]) -> Iterator[tuple[str, str, str]]:
    """Sinks that would write into a file that another one appends to: they would rotate it under each other."""
    seen: dict[str, SinkSettings] = {}
    for index, sink in enumerate(sinks):
        path = getattr(sink, "path", None)
        if not sink.enabled or not isinstance(path, str) or not path or "\0" in path:
            continue
        other = seen.setdefault(os.path.realpath(os.path.expanduser(path)), sink)
        if other is not sink and (isinstance(sink, AppendingSettings) or isinstance(other, AppendingSettings)):
            cause = f"'sinks[{index}].path' is {path!r}, the file of the sink {other.name!r} too"
            yield f"sinks[{index}].path", cause, "give each sink a file of its own"


def _own_problems(sink: SinkSettings, place: str) -> list[tuple[str, str, str]]:
    """What the sink itself says is wrong. A check that fails must not take the service down with it."""
    try:
        return [(f"{place}.{name}", f"'{place}.{name}' {cause}", hint) for name, cause, hint in sink.problems()]
    except Exception as error:  # noqa: BLE001 - a package's sink may raise anything
        # What the error says of itself may repeat a setting.
        cause = f"the settings of the sink {sink.name!r} cannot be checked: {type(error).__name__}"
        return [(f"{place}.type", cause, "one of its values may be mistyped")]
