"""Which kinds of sinks there are: ours, and those that installed packages add through the group ``dfwatch.sinks``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dfwatch.errors import ConfigError
from dfwatch.sinks import Sink

if TYPE_CHECKING:
    from dfwatch.config import SinkSettings

GROUP = "dfwatch.sinks"
# Ours need no metadata of an installed package, so that they are there in a checkout too.
_OURS = {
    "command": "dfwatch.sinks.command:CommandSink",
    "csv": "dfwatch.sinks.csv_file:CsvSink",
    "jsonl": "dfwatch.sinks.jsonl:JsonlSink",
    "mqtt": "dfwatch.sinks.mqtt:MqttSink",
    "notify": "dfwatch.sinks.notify:NotifySink",
    "postgresql": "dfwatch.sinks.postgresql:PostgresqlSink",
    "redis": "dfwatch.sinks.redis_stream:RedisSink",
    "s3": "dfwatch.sinks.s3:S3Sink",
    "sqlite": "dfwatch.sinks.sqlite:SqliteSink",
    "webhook": "dfwatch.sinks.webhook:WebhookSink",
}


class Kinds(Mapping[str, type["SinkSettings"]]):
    """Settings classes by the kind's name; looked up when first asked for, because a configuration may name none."""

    def __init__(self) -> None:
        self._found: dict[str, type[SinkSettings]] | None = None

    def _all(self) -> dict[str, type[SinkSettings]]:
        if self._found is None:
            self._found = {name: sink.settings_type for name, sink in classes().items()}
        return self._found

    def __getitem__(self, name: str) -> type[SinkSettings]:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def classes() -> dict[str, type[Sink]]:
    """Every kind of sink by its name. A package whose sink cannot be loaded is logged and left out."""
    # Only a configuration that names sinks pays for these imports.
    from importlib.metadata import entry_points  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    from dfwatch.config import SinkSettings  # noqa: PLC0415

    log = structlog.get_logger(__name__)
    found: dict[str, type[Sink]] = {}
    for name, target in _OURS.items():
        module, _, attribute = target.partition(":")
        found[name] = getattr(importlib.import_module(module), attribute)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in found:
            log.warning(
                "a sink of this name is there already; a package's is left out", sink=point.name, of=point.value
            )
            continue
        try:
            loaded = point.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's module may raise anything
            log.warning("a package's sink cannot be loaded", sink=point.name, of=point.value, error=repr(error))
            continue
        if not isinstance(loaded, type) or not issubclass(loaded, Sink):
            log.warning("a package's sink is no dfwatch.sinks.Sink", sink=point.name, of=point.value)
            continue
        settings_type = getattr(loaded, "settings_type", None)
        if not isinstance(settings_type, type) or not issubclass(settings_type, SinkSettings):
            log.warning("a package's sink has no settings_type", sink=point.name, of=point.value)
            continue
        found[point.name] = loaded
    return found


def build(settings: SinkSettings) -> Sink:
    """The sink that the settings describe; nothing is connected yet.

    Raises:
        ConfigError: No such kind is installed.
        MissingExtraError: Its dependency is not installed.
    """
    kind: Any = classes().get(settings.type)
    if kind is None:
        raise ConfigError("making the sink", settings.name, f"no sink of type {settings.type!r} is installed")
    sink: Sink = kind(settings)
    return sink
