"""Logging, set up once: JSON lines for the journal, readable colours at a terminal.

    logs.configure(settings.log.level, settings.log.format)
    log = structlog.get_logger(__name__)
    log.info("video finished", file=name, verdict="FAKE")

Events of libraries that use ``logging`` and Python's warnings come out in the same form. No field can break a line or
reach a terminal as an escape sequence, no line grows beyond what journald takes in one piece, and what looks like a
secret is blotted out. A ``DfwatchError``, given as ``error=`` or as the exception in flight, is logged with its fields.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from dfwatch.errors import DfwatchError, MediaError
from dfwatch.printable import printable
from dfwatch.redaction import REDACTED, is_secret_name, redact_text

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from types import TracebackType

    from structlog.typing import EventDict, Processor

MAX_LINE_BYTES = 32 * 1024
"""journald cuts lines at 48 KiB (LineMax=) unless told otherwise; half a JSON line helps nobody."""

_MAX_TEXT = 4096
_MAX_ITEMS = 100
_MAX_DEPTH = 8
_CHATTY_LIBRARIES = ("asyncio", "huggingface_hub", "matplotlib", "PIL", "timm", "urllib3", "watchdog")
# Its lines hold URLs with the tokens in them.
_SILENT_LIBRARIES = ("apprise",)
_SYSLOG_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def configure(level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Send the events of structlog, ``logging`` and ``warnings`` to ``stream`` (standard error), and nowhere else.

    May be called again, to change the level or the form.

    Args:
        level: debug, info, warning or error. Libraries known to chatter speak from warning upwards; one that is known
            to tell secrets does not speak.
        form: console, json, or auto: console when ``stream`` is a terminal.
        stream: Where lines go.
    """
    stream = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    console = form == "console" or (form == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(console=console, coloured=console and _takes_colours(stream), stream=stream))
    root = logging.getLogger()
    # Other threads may be logging: at no time is there none.
    before = root.handlers[:]
    root.addHandler(handler)
    for old in before:
        root.removeHandler(old)
    root.setLevel(threshold)
    for name in _CHATTY_LIBRARIES:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    for name in _SILENT_LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(capture=True)
    # A log that cannot be written (closed pipe, full disk) must not put a traceback onto the same broken stream.
    logging.raiseExceptions = False
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def log_uncaught() -> None:
    """Log exceptions that nobody catches, of the main thread and of others, instead of printing them."""
    log = structlog.get_logger("dfwatch")

    def of_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("uncaught exception", exc_info=error)

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is not SystemExit:
            thread = arguments.thread.name if arguments.thread else ""
            log.critical("uncaught exception in a thread", thread=thread, exc_info=arguments.exc_value)

    sys.excepthook = of_main
    threading.excepthook = of_thread


def quiet_decoders() -> None:
    """Silence what FFmpeg and OpenCV print of their own accord, in this process and those it starts.

    What they complain about is counted in the sidecar; their own lines hold bytes of untrusted files. Effective for
    libraries that are already imported, and through the environment for those imported later.
    """
    os.environ.update(OPENCV_LOG_LEVEL="SILENT", OPENCV_FFMPEG_LOGLEVEL="-8", AV_LOG_FORCE_NOCOLOR="1")
    av_logging = sys.modules.get("av.logging")
    if av_logging is not None:
        av_logging.set_level(None)
        av_logging.set_libav_level(av_logging.PANIC)
    cv2_logging = sys.modules.get("cv2.utils.logging")
    if cv2_logging is not None:
        cv2_logging.setLogLevel(cv2_logging.LOG_LEVEL_SILENT)


def error_fields(error: BaseException) -> dict[str, Any]:
    """An exception as log fields: its type, and what it says of itself."""
    fields: dict[str, Any] = {"type": type(error).__name__}
    if not isinstance(error, DfwatchError):
        return {**fields, "message": str(error)}
    fields.update(
        action=error.action, subject=error.subject, cause=error.cause, hint=error.hint, retryable=error.retryable
    )
    if isinstance(error, MediaError):
        fields["reason"] = error.reason
    return fields


def _formatter(*, console: bool, coloured: bool, stream: TextIO) -> logging.Formatter:
    chain: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if console:
        chain += [
            _errors_as_text,
            _clean(console=True),
            structlog.dev.ConsoleRenderer(
                colors=coloured,
                timestamp_key="time",
                exception_formatter=structlog.dev.plain_traceback,
                # The caller puts first what a person looks for first.
                sort_keys=False,
            ),
        ]
    else:
        chain += [_errors_as_fields, _clean(console=False), _JsonLine(prefix=_is_the_journal(stream, os.environ))]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        ],
        processors=chain,
    )


def _takes_colours(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _is_the_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether systemd connected ``stream`` to the journal, as $JOURNAL_STREAM tells (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _exception_of(event: EventDict) -> BaseException | None:
    given = event.pop("exc_info", None)
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return given[1]  # type: ignore[no-any-return]
    return sys.exc_info()[1] if given else None


def _errors_as_fields(_: object, __: str, event: EventDict) -> EventDict:
    error = _exception_of(event)
    if error is not None:
        if isinstance(error, DfwatchError):
            event.setdefault("error", error)
        transform = ExceptionDictTransformer(show_locals=False, max_frames=20)
        event["exception"] = transform((type(error), error, error.__traceback__))
    return {key: error_fields(value) if isinstance(value, BaseException) else value for key, value in event.items()}


def _errors_as_text(_: object, __: str, event: EventDict) -> EventDict:
    error = _exception_of(event)
    if error is not None:
        event["exception"] = "".join(traceback.format_exception(error, limit=-20))
    return event


def _clean(*, console: bool) -> Processor:
    """Redact every field, and bring it into a form that the renderer can show whatever it holds."""

    def clean(_: object, __: str, event: EventDict) -> MutableMapping[str, Any]:
        trace = event.pop("exception", None) if console else None
        cleaned = {printable(str(key)): _value(key, value, 0) for key, value in event.items()}
        if console:
            cleaned = {key: _for_eyes(value) for key, value in cleaned.items()}
        if trace is not None:
            # Each line is escaped and set in, so that a line break within a message cannot pass for a log line.
            lines = redact_text(trace).rstrip("\n").split("\n")
            cleaned["exception"] = "\n".join(f"    {printable(line)}" for line in lines)
        return cleaned

    return clean


def _value(key: object, value: object, depth: int) -> Any:  # noqa: ANN401 - whatever JSON knows
    if isinstance(key, str) and is_secret_name(key) and value not in (None, "", False, True):
        return REDACTED
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < _MAX_DEPTH:
        if isinstance(value, dict):
            return {
                printable(str(name)): _value(name, item, depth + 1) for name, item in list(value.items())[:_MAX_ITEMS]
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [_value(None, item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, bytes | os.PathLike):
        value = os.fsdecode(value)
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - a log call must not raise for an object that cannot describe itself
        text = f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    # A lone surrogate is not valid in JSON, whatever json.dumps writes.
    text = "".join(printable(c) if "\ud800" <= c <= "\udfff" else c for c in text) if not text.isascii() else text
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]}… ({len(text)} characters)"
    return redact_text(text)


def _for_eyes(value: object) -> object:
    if isinstance(value, dict):
        value = " ".join(f"{key}={item}" for key, item in value.items())
    return printable(str(value)) if isinstance(value, str | list) else value


class _JsonLine:
    """One event as one line of JSON, at most ``MAX_LINE_BYTES`` long, time and event first."""

    def __init__(self, *, prefix: bool) -> None:
        self._prefix = prefix

    def __call__(self, _: object, __: str, event: EventDict) -> str:
        first = {key: event.pop(key) for key in ("time", "level", "event") if key in event}
        line = _dump({**first, **event})
        for key in ("exception", *sorted(event, key=lambda key: -len(_dump(event[key])))):
            if len(line.encode()) <= MAX_LINE_BYTES:
                break
            event.pop(key, None)
            line = _dump({**first, "shortened": True, **event})
        # journald strips the prefix and files the line under its priority (sd-daemon(3)).
        return f"<{_SYSLOG_PRIORITIES.get(str(first.get('level')), 6)}>{line}" if self._prefix else line


def _dump(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # Printable letters of any script stay readable; anything else has its JSON escape.
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)
