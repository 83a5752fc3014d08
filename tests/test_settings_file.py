from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dfwatch.config import Settings, SinkSettings, WatchSettings, setting
from dfwatch.errors import ConfigError
from dfwatch.settings import file as settings_file
from dfwatch.settings.diff import diff, reloaded
from dfwatch.settings.reader import SectionReader, settings_fields
from dfwatch.settings.render import render

CHECKOUT = Path(__file__).resolve().parent.parent


class Writer(Protocol):
    def __call__(self, text: str | bytes, name: str = "config.yaml") -> Path: ...


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def writer(text: str | bytes, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return writer


def complaint(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        settings_file.load(path)
    return caught.value


# --- the shipped file


def test_shipped_config_is_the_rendering_of_the_defaults() -> None:
    assert (CHECKOUT / "config.yaml").read_text(encoding="utf-8") == render(), (
        "write it anew: python -m dfwatch.settings.render > config.yaml"
    )


def test_shipped_config_gives_the_defaults() -> None:
    loaded = settings_file.load(CHECKOUT / "config.yaml")
    assert loaded == replace(Settings(), root=str(CHECKOUT / "var"))


def test_rendering_means_the_same_to_an_ordinary_yaml_reader() -> None:
    plain = yaml.safe_load(render())
    assert plain == dataclasses.asdict(Settings())


def test_rendering_shows_every_setting_below_its_documentation() -> None:
    lines = render().splitlines()
    for section, item, _ in settings_fields(Settings()):
        first = lines.index(f"{section}:") if section else 0
        start = f"  {item.name}:" if section else f"{item.name}:"
        index = next(number for number in range(first, len(lines)) if lines[number].startswith(start))
        comment = " ".join(line.strip(" #") for line in lines[index - 2 : index])
        assert lines[index - 1].strip().startswith("# "), item.name
        assert item.metadata["doc"] in comment, item.name


def test_no_rendered_line_is_longer_than_a_terminal_of_110_columns() -> None:
    assert max(map(len, render().splitlines())) <= 110 + len("  # 512 MiB")


def test_rendering_of_changed_settings_reads_back(write: Writer, tmp_path: Path) -> None:
    wanted = replace(
        Settings(),
        root="/srv/a folder: #1",
        watch=replace(Settings().watch, extensions=[], ignore=["on", "3", "a\nb", "ü*"], quiet_s=0.25, events="off"),
        verdict=replace(Settings().verdict, fake_threshold=0.75, real_threshold=1e-7),
    )
    assert settings_file.load(write(render(wanted))) == wanted


# --- finding it


def test_explicit_file_wins_and_must_exist(write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("root: /a")
    other = write("root: /b", "other.yaml")
    assert settings_file.find(str(other)) == other
    with pytest.raises(ConfigError, match="no such file"):
        settings_file.find("missing.yaml")
    with pytest.raises(ConfigError, match="not a file"):
        settings_file.find(str(tmp_path))


def test_working_directory_comes_before_etc(write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    etc = write("root: /etc-one", "etc.yaml")
    search = ("config.yaml", str(etc))
    assert settings_file.find(search=search) == etc
    here = write("root: /here")
    assert settings_file.find(search=search) == here


def test_without_a_file_the_defaults_hold_with_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = settings_file.load_found(search=("config.yaml", str(tmp_path / "etc" / "config.yaml")))
    assert loaded.path is None
    assert loaded.notice == f"no configuration file (./config.yaml or {tmp_path}/etc/config.yaml); the defaults hold"
    assert loaded.settings == replace(Settings(), root=str(tmp_path / "var"))


def test_found_file_is_named_in_the_notice(write: Writer) -> None:
    path = write("root: /a")
    loaded = settings_file.load_found(str(path))
    assert loaded.settings.root == "/a"
    assert loaded.path == path
    assert str(path) in loaded.notice


# --- relative paths


def test_relative_paths_start_at_the_files_folder(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("root: ./var\nmodel:\n  path: models/df_model.pt\nfaces:\n  model: ../yunet.onnx\n")
    monkeypatch.chdir("/")
    loaded = settings_file.load(path)
    assert loaded.root == str(tmp_path / "var")
    assert loaded.model.path == str(tmp_path / "models" / "df_model.pt")
    assert loaded.faces.model == str(tmp_path.parent / "yunet.onnx")


def test_absolute_home_and_empty_paths(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    loaded = settings_file.load(write('root: ~/videos\nmodel: {path: /srv/model}\nfaces: {model: ""}\n'))
    assert (loaded.root, loaded.model.path, loaded.faces.model) == ("/home/somebody/videos", "/srv/model", "")


def test_the_name_of_a_shipped_bundle_is_no_path(write: Writer) -> None:
    assert settings_file.load(write("model: {path: 'shipped:some_name'}\n")).model.path == "shipped:some_name"


def test_a_symlinked_file_counts_where_it_really_lies(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real = write("root: var", "real/config.yaml")
    link = tmp_path / "config.yaml"
    link.symlink_to(real)
    assert settings_file.load(link).root == str(tmp_path / "real" / "var")


# --- what is accepted


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeffroot: /x\n", "watch:\n", "watch: {}\n"])
def test_files_that_leave_things_out(write: Writer, text: str) -> None:
    loaded = settings_file.load(write(text))
    assert loaded.watch == WatchSettings()


def test_values_of_every_type(write: Writer) -> None:
    loaded = settings_file.load(
        write(
            """
root: /data/videos
watch:
  recursive: false
  extensions: [mp4, "mov"]
  ignore: []
  events: on        # text in YAML 1.2, a boolean in YAML 1.1
  quiet_s: 3
  marker: '.done'
verdict:
  fake_threshold: 1e-1
  real_threshold: null
reader:
  max_bytes: 0x10
"""
        )
    )
    assert loaded.watch.recursive is False
    assert loaded.watch.extensions == ["mp4", "mov"]
    assert loaded.watch.ignore == []
    assert loaded.watch.events == "on"
    assert loaded.watch.quiet_s == 3.0
    assert isinstance(loaded.watch.quiet_s, float)
    assert loaded.watch.marker == ".done"
    assert loaded.verdict.fake_threshold == 0.1
    assert loaded.verdict.real_threshold is None
    assert loaded.reader.max_bytes == 16


# --- what is refused, where, and with which advice


@pytest.mark.parametrize(
    ("text", "where", "cause", "hint"),
    [
        ("rot: /x", "1:1", "unknown setting 'rot'", "did you mean 'root'?"),
        (
            "watch:\n  scan_intervals: 2",
            "2:3",
            "unknown setting 'scan_intervals' in section 'watch'",
            "'scan_interval_s'",
        ),
        ("watch:\n  quiet: 2", "2:3", "unknown setting 'quiet' in section 'watch'", "'quiet_s'"),
        ("watch:\n  Quiet-S: 2", "2:3", "unknown setting", "did you mean 'quiet_s'?"),
        ("quiet_s: 2", "1:1", "unknown setting 'quiet_s'", "belongs under 'watch'"),
        ("model:\n  zzz: 2", "2:3", "unknown setting 'zzz'", "known here: path, device"),
        ("<<: {root: /x}", "1:1", "unknown setting '<<'", ""),
        ("root: /x\nroot: /y", "2:1", "'root' is set twice, first in line 1", "keep one"),
        ("watch:\n  quiet_s: 1\n  quiet_s: 1", "3:3", "'watch.quiet_s' is set twice", ""),
        ("? [a]\n: 1", "1:3", "must be one word", ""),
        ("watch: 3", "1:8", "section 'watch' must hold settings", ""),
        ("- a", "1:1", "the file must hold settings", ""),
        ("just text", "1:1", "the file must hold settings", ""),
        ("reader:\n  frames: true", "2:11", "'reader.frames' must be a whole number, not true", ""),
        ('reader:\n  frames: "3"', "2:11", "must be a whole number, not the text '3'", "take the quotes away"),
        ("reader:\n  frames: 2.5", "2:11", "must be a whole number, not the number 2.5", ""),
        ("reader:\n  frames: 2.0", "2:11", "must be a whole number", ""),
        ("reader:\n  frames: 010", "2:11", "must be a whole number, not the text '010'", ""),
        ("reader:\n  frames: 12:30", "2:11", "must be a whole number, not the text '12:30'", ""),
        ("reader:\n  frames:", "2:10", "must be a whole number, not nothing", "leave the line out"),
        ("reader:\n  frames: 0", "2:11", "is 0, but must be from 1 to 1000", ""),
        ("reader:\n  frames: " + "9" * 5000, "2:11", "a number of 5000 digits", ""),
        ("reader:\n  memory_limit_bytes: 5", "2:23", "must be at least 536870912", ""),
        ("watch:\n  recursive: yes", "2:14", "must be true or false, not the text 'yes'", "write true"),
        ("watch:\n  recursive: off", "2:14", "must be true or false", "write false"),
        ("watch:\n  recursive: 1", "2:14", "must be true or false, not the number 1", "write true"),
        ("watch:\n  quiet_s: .inf", "2:12", "must be a finite number", ""),
        ("watch:\n  quiet_s: .nan", "2:12", "must be a finite number", ""),
        ("watch:\n  quiet_s: 1e999", "2:12", "must be a finite number", ""),
        ("watch:\n  quiet_s: -1", "2:12", "'watch.quiet_s' is -1, but must be at least 0", ""),
        ("watch:\n  quiet_s: 3 s", "2:12", "must be a number, not the text '3 s'", ""),
        ("watch:\n  marker: .5", "2:11", "must be text, not the number .5", 'put it in quotes: ".5"'),
        ("watch:\n  marker:", "2:10", "must be text, not nothing", 'or write ""'),
        ("root: ~", "1:7", "must be text, not nothing", ""),
        ("root: [a]", "1:7", "must be text, not a list", ""),
        ("root: {a: b}", "1:7", "must be text, not a section", ""),
        ("root: !!python/object/apply:os.system ['x']", "1:7", "must be text, not a list", ""),
        ("root: !!binary aGk=", "1:7", "must be text, not something tagged tag:yaml.org,2002:binary", ""),
        ('root: "a\\0b"', "1:7", "NUL", ""),
        ('root: "\\UFFFFFFFF"', "", "not valid YAML", "escapes"),
        ('root: "\\U00110000"', "", "not valid YAML", "escapes"),
        ("%YAML 1." + "1" * 5000 + "\n---\nroot: /x", "", "not valid YAML", ""),
        ('root: "\\uD83D"', "1:7", "half of a character", ""),
        ("watch:\n  events: onn", "2:11", "is 'onn', but must be one of auto, on, off", "did you mean 'on'?"),
        ("watch:\n  extensions: mp4", "2:15", "'watch.extensions' must be a list, not the text 'mp4'", "[one, two]"),
        ("watch:\n  extensions: [mp4, 3]", "2:21", "'watch.extensions[1]' must be text, not the number 3", '"3"'),
        ("watch:\n  extensions: [.mp4]", "2:15", "'.mp4'", "write mp4, not .mp4"),
        ("watch:\n  extensions: [ts.mp4]", "2:15", "after its last dot", ""),
        ("watch:\n  ignore: [tmp/x]", "2:11", "matches no name", "no slash"),
        ("watch:\n  ignore: ['']", "2:11", "matches no name", ""),
        ("watch:\n  marker: a/b", "2:11", "no file name can end in", ""),
        ("watch:\n  marker: .x\n  rename_from: .x", "2:11", "the same ending", ""),
        ("reader:\n  formats: []", "2:12", "no file could ever be read", ""),
        ("reader:\n  min_side_px: 9000", "2:16", "no frame has sides of 9000 px", ""),
        ("reader:\n  memory_limit_bytes: 9223372036854775808", "2:23", "more than any process can have", "128 TiB"),
        ("model:\n  device: GPU 1", "2:11", "not the name of a device", "cuda:1"),
        ("reader:\n  time_limit_s: 1.0e+12", "2:17", "must be from 1 to 604800", ""),
        ("reader:\n  cpu_limit_s: 1.0e+20", "2:16", "must be from 1 to 2419200", ""),
        ("reader:\n  max_pixels: 2147483648", "2:15", "must be from 1 to 2147483647", ""),
        ("reader:\n  processes: 100000", "2:14", "must be from 0 to 1024", ""),
        ("model:\n  threads: 2147483648", "2:12", "must be from 0 to 1024", ""),
        ("jobs:\n  stop_timeout_s: 1.0e+12", "2:19", "must be from 0 to 86400", ""),
        ("metrics:\n  textfile_interval_s: 1.0e+12", "2:24", "must be from 0.1 to 86400", ""),
        ("sinks: [{type: jsonl, path: /x, retry_delay_s: 1.0e+12}]", "1:48", "must be from 0.05 to 86400", ""),
        ("sinks: [{type: jsonl, path: /x, retry_longest_s: 1.0e+12}]", "1:50", "must be from 0.05 to 2419200", ""),
        ('root: ""', "1:7", "'root' is empty", ""),
        (
            "verdict:\n  real_threshold: 0.6\n  fake_threshold: 0.6",
            "2:19",
            "must be smaller than 'verdict.fake_threshold' (0.6)",
            "INCONCLUSIVE",
        ),
        ("root: /x\n\twatch: 1", "2:1", "not valid YAML", "spaces, not tabs"),
        ("root: [a", "1:9", "not valid YAML", ""),
        ("root: *nowhere", "1:7", "undefined alias", ""),
        ("root: /x\n---\nroot: /y", "2:1", "another document", ""),
        ("root: a\x01b", "1:8", "may not stand in YAML", ""),
        (b"root: /x\nwatch: \xff", "2", "not UTF-8", "save it as UTF-8"),
        ("[" * 20000, "", "nested too deeply", ""),
        ("#" * (1024 * 1024 + 1), "", "larger than", ""),
    ],
)
def test_complaints(write: Writer, text: str, where: str, cause: str, hint: str) -> None:
    path = write(text)
    error = complaint(path)
    assert error.subject == (f"{path}:{where}" if where else str(path))
    assert cause in error.cause
    assert hint in error.hint


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "directory" in complaint(tmp_path).cause.lower()
    assert "No such file" in complaint(tmp_path / "missing").cause


def test_check_lists_every_problem_in_the_order_of_the_lines(write: Writer) -> None:
    path = write("watch:\n  quiet_s: x\n  nonsense: 1\nreader:\n  frames: 0\nrot: 1\nwatch:\n  events: maybe\n")
    places = [error.subject.rsplit(":", 2)[1] for error in settings_file.check(path)]
    assert places == ["2", "3", "5", "6", "7"]
    assert settings_file.check(write("root: /x")) == []
    assert len(settings_file.check(path.parent / "missing")) == 1


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_settings_or_a_config_error(write: Writer, data: bytes) -> None:
    path = write(data)
    problems = settings_file.check(path)
    assert all(problem.subject.startswith(str(path)) for problem in problems)
    if not problems:
        assert isinstance(settings_file.load(path), Settings)


# --- lists of things of several kinds (sinks)


@dataclass(frozen=True, kw_only=True)
class Webhook:
    type: str
    url: str
    timeout_s: float = setting(10.0, doc="", minimum=0.1)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WithSinks:
    sinks: list[object] = setting(factory=list, doc="", kinds="sinks")  # noqa: RUF009 - as in config.py


def read_sinks(text: str) -> tuple[object, list[str]]:
    reader = SectionReader("f", {"sinks": {"webhook": Webhook}})
    node = yaml.compose(text, Loader=settings_file._Loader)
    assert node is not None
    result = reader.section(node, WithSinks, "")
    return result, [str(error) for _, error in reader.problems]


def test_items_are_read_as_their_type_says() -> None:
    result, problems = read_sinks("sinks:\n- {type: webhook, url: 'https://x', timeout_s: 3, headers: {a: b}}\n")
    assert problems == []
    assert result == WithSinks(sinks=[Webhook(type="webhook", url="https://x", timeout_s=3.0, headers={"a": "b"})])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sinks: [{type: webhok, url: x}]", "f:1:16: unknown type 'webhok' of 'sinks[0]' (did you mean 'webhook'?)"),
        ("sinks: [{url: x}]", "f:1:9: 'sinks[0]' must say its kind"),
        ("sinks: [3]", "f:1:9: 'sinks[0]' must say its kind"),
        ("sinks: [{type: webhook, url: x, tiemout_s: 3}]", "f:1:33: unknown setting 'tiemout_s' in section 'sinks[0]'"),
        ("sinks: [{type: webhook}]", "f:1:9: 'sinks[0].url' is missing; it has no default"),
        ("sinks: [{type: webhook, url: x, headers: {a: 1}}]", "'sinks[0].headers.a' must be text"),
        ("sinks: [{type: webhook, url: x, headers: {a: b, a: c}}]", "'sinks[0].headers.a' is set twice"),
        ("sinks: [{type: webhook, url: x, headers: 1}]", "'sinks[0].headers' must hold name: value pairs"),
        ("sinks: 3", "'sinks' must be a list"),
    ],
)
def test_items_are_checked_like_the_rest(text: str, problem: str) -> None:
    _, problems = read_sinks(text)
    assert len(problems) == 1
    assert problem in problems[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Careless(SinkSettings):
    """Settings whose own check fails, as those of a package may."""

    type: str = setting("careless", doc="")

    def problems(self) -> list[tuple[str, str, str]]:
        raise ValueError("hunter2 is not a URL")


def test_sink_that_cannot_check_itself_is_named(write: Writer) -> None:
    path = write("sinks:\n- {type: careless, name: bulletin}\n")
    (problem,) = settings_file.check(path, {"sinks": {"careless": Careless}})
    assert problem.subject == f"{path}:2:10"
    assert problem.cause == "the settings of the sink 'bulletin' cannot be checked: ValueError"
    assert "hunter2" not in str(problem)


# --- what a running service can take


def test_diff_says_what_needs_a_restart() -> None:
    old = Settings()
    new = replace(old, root="/other", watch=replace(old.watch, quiet_s=9.0, recursive=False))
    changes = diff(old, new)
    assert [(change.name, change.needs_restart) for change in changes] == [
        ("root", True),
        ("watch.recursive", True),
        ("watch.quiet_s", False),
    ]
    assert str(changes[0]) == "root: './var' → '/other' (after a restart)"
    assert str(changes[2]) == "watch.quiet_s: 3.0 → 9.0"
    assert diff(old, Settings()) == ()


def test_reload_keeps_what_needs_a_restart() -> None:
    old = Settings()
    new = replace(old, root="/other", watch=replace(old.watch, quiet_s=9.0, recursive=False))
    taken = reloaded(old, new)
    assert taken == replace(old, watch=replace(old.watch, quiet_s=9.0))
    assert [change.name for change in diff(taken, new)] == ["root", "watch.recursive"]


def test_every_setting_has_a_line_of_documentation() -> None:
    for _, item, _ in settings_fields(Settings()):
        assert item.metadata["doc"].endswith((".", "…")), item.name
        assert os.linesep not in item.metadata["doc"]
