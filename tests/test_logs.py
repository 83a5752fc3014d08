from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dfwatch import logs
from dfwatch.errors import ConfigError, SinkError, UndecodableError
from dfwatch.reasons import Reason
from dfwatch.redaction import REDACTED, is_secret_name, redact_text
from tests.clips import make_clip

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = os.fsdecode(b'\x1b[2J\x1b]0;owned\x07 "a\\b"\n{"level":"info"} \xff\xc2\x9b31m \xe2\x80\xae.mp4')


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    hooks = sys.excepthook, threading.excepthook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising
    logging.captureWarnings(capture=False)
    sys.excepthook, threading.excepthook = hooks
    for name in (*logs._CHATTY_LIBRARIES, *logs._SILENT_LIBRARIES):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture
def json_stream() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("debug", "auto", stream)
    return stream


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    logs.configure("debug", "auto", stream)
    return stream


def only_event(stream: io.StringIO) -> dict[str, Any]:
    text = stream.getvalue()
    assert text.endswith("\n")
    (line,) = text[:-1].split("\n")
    line.encode("utf-8")
    event = json.loads(line)
    assert isinstance(event, dict)
    return event


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# --- JSON lines


def test_an_event_is_one_json_line_with_utc_time_first(json_stream: io.StringIO) -> None:
    structlog.get_logger("dfwatch.test").info("video finished", file="Grüße.mp4", p_fake=0.5, track=None, ok=True)
    event = only_event(json_stream)
    assert list(event)[:3] == ["time", "level", "event"]
    assert event["event"] == "video finished"
    assert event["level"] == "info"
    assert (event["file"], event["p_fake"], event["track"], event["ok"]) == ("Grüße.mp4", 0.5, None, True)
    moment = datetime.fromisoformat(event["time"])
    assert moment.utcoffset() == UTC.utcoffset(None)
    assert abs(moment.timestamp() - time.time()) < 60
    assert "Grüße" in json_stream.getvalue()


def test_bound_and_context_fields_are_kept(json_stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(job_id="j1"):
        structlog.get_logger("x").bind(stage="reader").warning("slow", after_s=3)
    event = only_event(json_stream)
    assert (event["job_id"], event["stage"], event["after_s"], event["level"]) == ("j1", "reader", 3, "warning")


def test_libraries_and_warnings_come_out_the_same_way(json_stream: io.StringIO) -> None:
    logging.getLogger("some.library").warning("lost %d of %s", 3, HOSTILE)
    event = only_event(json_stream)
    assert event["logger"] == "some.library"
    assert event["event"].startswith("lost 3 of \x1b")
    json_stream.truncate(0)
    json_stream.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("info", "json", json_stream)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    assert "old thing" in only_event(json_stream)["event"]


def test_level_applies_and_may_be_changed_later(json_stream: io.StringIO) -> None:
    log = structlog.get_logger("x")
    logs.configure("warning", "json", json_stream)
    log.info("hidden")
    logging.getLogger("lib").info("hidden")
    assert json_stream.getvalue() == ""
    logs.configure("debug", "json", json_stream)
    log.debug("shown")
    assert only_event(json_stream)["event"] == "shown"


def test_chatty_libraries_speak_from_warning_upwards(json_stream: io.StringIO) -> None:
    logging.getLogger("watchdog.observers.inotify_buffer").debug("in-event")
    logging.getLogger("PIL.PngImagePlugin").info("STREAM")
    assert json_stream.getvalue() == ""
    logging.getLogger("watchdog").warning("trouble")
    assert only_event(json_stream)["event"] == "trouble"


# A library of apprise's needs a module that Python 3.13 has no more, and brings its own where it is gone.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_library_that_logs_urls_with_tokens_is_silent(json_stream: io.StringIO, tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    from dfwatch.sinks.notify import NotifySettings, NotifySink

    (tmp_path / "urls").write_text("slacc://hunter2/hunter2/hunter2\njson://127.0.0.1:1/hunter2\n")
    with pytest.raises(SinkError):
        NotifySink(NotifySettings(urls=f"file:{tmp_path}/urls", timeout_s=2.0)).probe()
    logging.getLogger("apprise").critical("hunter2")
    assert "hunter2" not in json_stream.getvalue()


def test_hostile_text_stays_within_its_line_and_its_value(json_stream: io.StringIO) -> None:
    structlog.get_logger("x").info(HOSTILE, file=HOSTILE, names=[HOSTILE], **{HOSTILE: 1})
    raw = json_stream.getvalue()
    assert raw[:-1].isprintable()
    event = only_event(json_stream)
    # Apart from bytes that are not UTF-8, which JSON cannot hold, a program reads back the exact name.
    assert event["file"] == HOSTILE.replace("\udcff", r"\xff")
    assert event["names"] == [event["file"]]


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=()), max_size=10),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.binary()
            | st.text(st.characters(exclude_categories=())),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
            max_leaves=8,
        ),
    )
)
def test_any_field_gives_one_valid_line(fields: dict[str, Any]) -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    structlog.get_logger("x").info("event", **{f"f{key}": value for key, value in fields.items()})
    event = only_event(stream)
    assert event["event"] == "event"
    assert stream.getvalue()[:-1].isprintable()
    json.loads(stream.getvalue(), parse_constant=pytest.fail)


def test_objects_that_cannot_be_shown_do_not_stop_the_caller(json_stream: io.StringIO) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    nested: list[Any] = []
    nested.append(nested)
    structlog.get_logger("x").info("event", broken=Broken(), path=Path("/a\n"), endless=nested, number=float("nan"))
    event = only_event(json_stream)
    assert event["broken"] == "<Broken that cannot be shown: RuntimeError>"
    assert event["path"] == "/a\n"
    assert event["number"] == "nan"


def test_long_lines_are_shortened_to_what_journald_takes(json_stream: io.StringIO) -> None:
    structlog.get_logger("x").info("event", text="x" * 100_000, many=["ü" * 3000] * 50, small=1)
    assert len(json_stream.getvalue().encode()) <= logs.MAX_LINE_BYTES + 1
    event = only_event(json_stream)
    assert event["shortened"] is True
    assert event["small"] == 1
    assert event["text"].endswith("… (100000 characters)")
    assert "many" not in event


def test_a_stream_that_breaks_is_no_reason_to_fail(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    stream.close()
    structlog.get_logger("x").info("event")
    assert capfd.readouterr() == ("", "")


# --- errors


def test_dfwatch_errors_are_logged_with_their_fields(json_stream: io.StringIO) -> None:
    error = UndecodableError("decoding", "clip\n.mp4", "no frame came", reason=Reason.NO_FRAMES, hint="send it again")
    structlog.get_logger("x").error("video failed", error=error)
    assert only_event(json_stream)["error"] == {
        "type": "UndecodableError",
        "action": "decoding",
        "subject": "clip\n.mp4",
        "cause": "no frame came",
        "hint": "send it again",
        "retryable": False,
        "reason": "no_frames",
    }


def test_exception_in_flight_is_structured(json_stream: io.StringIO) -> None:
    secret_local = "hunter2-local"  # noqa: F841 - must not be logged
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise ConfigError("reading", "f", "full") from error
    except ConfigError:
        structlog.get_logger("x").exception("failed")
    event = only_event(json_stream)
    outer, inner = event["exception"]
    assert outer["exc_type"] == "ConfigError"
    assert outer["frames"][-1]["name"] == "test_exception_in_flight_is_structured"
    assert inner["exc_type"] == "OSError"
    assert event["error"]["cause"] == "full"
    assert "hunter2" not in json_stream.getvalue()


def test_other_exceptions_as_fields(json_stream: io.StringIO) -> None:
    structlog.get_logger("x").error("failed", error=ValueError("bad\x1b[0m"))
    assert only_event(json_stream)["error"] == {"type": "ValueError", "message": "bad\x1b[0m"}


def test_exceptions_of_libraries_are_structured(json_stream: io.StringIO) -> None:
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("lib").exception("oh")
    assert only_event(json_stream)["exception"][0]["exc_type"] == "ValueError"


def test_exc_info_without_an_exception(json_stream: io.StringIO) -> None:
    structlog.get_logger("x").info("event", exc_info=True)
    assert "exception" not in only_event(json_stream)


# --- the terminal


def test_terminal_gets_colours_and_no_json(terminal: Terminal) -> None:
    structlog.get_logger("x").info("video finished", file="a b.mp4", n=3)
    assert "\x1b[" in terminal.getvalue()
    assert re.search(r"\[info *\] video finished .*file='?a b.mp4'? n=3", without_colours(terminal.getvalue()))


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_terminal_without_colours(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    stream = Terminal()
    logs.configure("info", "auto", stream)
    structlog.get_logger("x").info("event", a=1)
    assert "\x1b" not in stream.getvalue()
    assert "event" in stream.getvalue()


def test_form_may_be_forced() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    logs.configure("info", "json", terminal)
    structlog.get_logger("x").info("event")
    assert only_event(terminal)["event"] == "event"
    logs.configure("info", "console", pipe)
    structlog.get_logger("x").info("event")
    assert not pipe.getvalue().startswith("{")
    assert "\x1b" not in pipe.getvalue()


def test_no_escape_of_a_hostile_name_reaches_the_terminal(terminal: Terminal) -> None:
    error = ConfigError("reading", HOSTILE, HOSTILE)
    log = structlog.get_logger("x")
    log.info(HOSTILE, file=HOSTILE, names=[HOSTILE], deep={"a": {HOSTILE: HOSTILE}}, error=error, **{HOSTILE: HOSTILE})
    logging.getLogger("lib").warning(HOSTILE)
    try:
        raise error
    except ConfigError:
        log.exception("failed")
    shown = without_colours(terminal.getvalue())
    assert "\x1b" not in shown
    for line in shown.split("\n"):
        assert line.isprintable()
    assert shown.count("\n") > 3


def test_traceback_is_set_in_so_that_no_message_passes_for_a_log_line(terminal: Terminal) -> None:
    try:
        raise ValueError("x\n2026-01-01T00:00:00Z [info] all is well")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    first, *rest = without_colours(terminal.getvalue()).rstrip("\n").split("\n")
    assert "failed" in first
    assert all(line.startswith("    ") for line in rest)
    assert any("all is well" in line for line in rest)


# --- secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://dfwatch:s3cr3t@db/x", f"postgresql://{REDACTED}@db/x"),
        ("amqp://u:p@ss@host/", f"amqp://{REDACTED}@host/"),
        ("https://example.org/a@b", "https://example.org/a@b"),
        ("host=db password=hunter2 user=x", f"host=db password={REDACTED} user=x"),
        ("PGPASSWORD='a b' x", "PGPASSWORD='a b' x"),
        ("GET /v1?access_token=abc&x=1", f"GET /v1?access_token={REDACTED}&x=1"),
        ("Authorization: Bearer abc.def-ghi", f"Authorization: Bearer {REDACTED}"),
        ("Authorization: abcdef", f"Authorization: {REDACTED}"),
        ('{"secret": "abc"}', f'{{"secret": {REDACTED}}}'),
        ("ValueError(\"Invalid header value b'Token abc\\\\nd'\")", f'ValueError("Invalid header value {REDACTED}")'),
        ('Invalid header value b"it\'s abc"', f"Invalid header value {REDACTED}"),
        ("key whsec_MfKQ9r8GKYqrTwjU= end", f"key {REDACTED} end"),
        ("a video about the secret of tokens.mp4", "a video about the secret of tokens.mp4"),
    ],
)
def test_secrets_in_text(text: str, shown: str) -> None:
    assert redact_text(text) == shown


@pytest.mark.parametrize("name", ["password", "webhook_secret", "api_key", "X-Api-Key", "s3.access_key", "tokens"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["key", "idempotency_key", "token_count", "secretary", "file", "passed"])
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_reaches_the_log_by_any_way(form: str) -> None:
    stream = io.StringIO()
    logs.configure("debug", form, stream)
    log = structlog.get_logger("x")
    log.info("start password=hunter2", password="hunter2", sink={"url": "https://u:hunter2@h/", "secret": "hunter2"})
    log.info("x", headers=[{"Authorization": "Bearer hunter2"}], error=ConfigError("a", "token=hunter2", "b"))
    logging.getLogger("lib").warning("dsn %s", "mqtt://u:hunter2@h")
    try:
        raise ValueError("secret: hunter2")
    except ValueError:
        log.exception("failed")
    assert stream.getvalue().count(REDACTED) >= 7
    # The source line of the raise statement above stands in a console traceback, redacted as well.
    assert "hunter2" not in stream.getvalue()


# --- processes


def run_python(code: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, **kwargs
    )


def test_uncaught_exceptions_are_logged() -> None:
    code = """
import threading
from dfwatch import logs
logs.configure("info", "json")
logs.log_uncaught()
def fail(): raise ValueError("in thread")
thread = threading.Thread(target=fail, name="reader-feed"); thread.start(); thread.join()
def leave(): raise SystemExit
thread = threading.Thread(target=leave); thread.start(); thread.join()
raise ValueError("in main")
"""
    result = run_python(code)
    assert result.returncode == 1
    of_thread, of_main = (json.loads(line) for line in result.stderr.splitlines())
    assert of_thread["thread"] == "reader-feed"
    assert of_thread["exception"][0]["exc_value"] == "in thread"
    assert of_main["level"] == "critical"
    assert of_main["exception"][0]["exc_value"] == "in main"


def test_journal_lines_carry_their_priority(tmp_path: Path) -> None:
    code = """
import os, sys
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
import structlog
from dfwatch import logs
logs.configure("info")
structlog.get_logger("x").error("bad")
os.environ["JOURNAL_STREAM"] = "1:1"
logs.configure("info")
structlog.get_logger("x").error("bad")
"""
    first, second = run_python(code).stderr.splitlines()
    assert first.startswith('<3>{"time"')
    assert second.startswith('{"time"')


def test_decoders_say_nothing_of_their_own_accord(tmp_path: Path) -> None:
    data = bytearray(make_clip(tmp_path / "clip.mp4", faces=()).read_bytes())
    for position in range(data.find(b"mdat") + 200, len(data) - 3000, 37):
        data[position] ^= 0xFF
    (tmp_path / "damaged.mp4").write_bytes(data)
    code = """
import sys
from dfwatch import logs
if sys.argv[1] == "before":
    logs.quiet_decoders()
import av, cv2
if sys.argv[1] == "after":
    logs.quiet_decoders()
try:
    with av.open("damaged.mp4") as container:
        for frame in container.decode(video=0):
            pass
except av.FFmpegError:
    pass
capture = cv2.VideoCapture("damaged.mp4")
while capture.read()[0]:
    pass
cv2.imread("missing.jpg")
"""
    # Without what a command that another test ran in this process has silenced.
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("OPENCV_", "AV_LOG_"))}
    spoken = {
        when: subprocess.run(
            [sys.executable, "-c", code, when],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=tmp_path,
            env=plain,
        )
        for when in ("never", "before", "after")
    }
    assert "error while decoding" in spoken["never"].stderr
    assert "imread" in spoken["never"].stderr
    for when in ("before", "after"):
        assert (spoken[when].stdout, spoken[when].stderr) == ("", "")
