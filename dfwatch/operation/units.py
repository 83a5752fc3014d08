"""Put the systemd units in place: fill in command, user and folder, and never lose what somebody changed by hand."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from dfwatch import resources
from dfwatch.config import Settings
from dfwatch.errors import ConfigError, StorageError
from dfwatch.settings import file as settings_file
from dfwatch.settings.render import render

COMMAND = "/opt/dfwatch/bin/dfwatch"
USER = "dfwatch"
ROOT = "/var/lib/dfwatch"

_ACTION = "installing the systemd units"
_STAMP = "# Written by dfwatch install-units; sha256 of the lines below: "
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._+,:@/-]+")
_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_SERVICE = "etc/systemd/system/dfwatch.service"
# Where the service says what `install-units` was told. The root is its working directory.
_TOLD = {
    "command": rf"^ExecStart=({_PLAIN_PATH.pattern}) run(?= |$)",
    "user": rf"^User=({_USER_NAME.pattern})$",
    "root": rf"^WorkingDirectory=({_PLAIN_PATH.pattern})$",
}
_HIDDEN_BY = {
    "/home/": "ProtectHome=",
    "/root/": "ProtectHome=",
    "/run/user/": "ProtectHome=",
    "/tmp/": "PrivateTmp=",  # noqa: S108 - a prefix to look for
    "/var/tmp/": "PrivateTmp=",  # noqa: S108 - a prefix to look for
}


class Action(StrEnum):
    """What is done with one file."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    KEEP = "keep"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Step:
    """One file of the installation.

    Attributes:
        path: Where it goes.
        action: ``create``: it was not there. ``update``: an earlier one, as it was written, gets the new text.
            ``keep``: somebody changed it, so it stays. ``replace``: somebody changed it, it is replaced on request
            and its text is kept under ``backup``. ``unchanged``: nothing to do.
        diff: From what is there to what would be written, as a unified diff; empty when nothing differs.
        backup: Where the changed text of a replaced file is kept.
    """

    path: Path
    action: Action
    diff: str = ""
    backup: Path | None = None


@dataclass(frozen=True, slots=True)
class Installation:
    """What was done, or with ``dry_run`` would be done.

    Attributes:
        steps: One for each file.
        kept: What was taken from the unit that was there and is not the default: "root /srv/videos", "--gpu" …
        warnings: What will keep the service from starting or working.
        next_commands: What to run afterwards, in this order.
    """

    steps: tuple[Step, ...]
    kept: tuple[str, ...]
    warnings: tuple[str, ...]
    next_commands: tuple[str, ...]


def install_units(
    destination_root: str | os.PathLike[str] = "/",
    *,
    dry_run: bool = False,
    command: str | None = None,
    user: str | None = None,
    root: str | None = None,
    gpu: bool = False,
    network: bool = False,
    replace_changed: bool = False,
) -> Installation:
    """Write service, sysusers.d, tmpfiles.d, the drop-ins asked for, and ``/etc/dfwatch/config.yaml`` if there is none.

    Args:
        destination_root: What ``/`` means; another folder for packaging.
        dry_run: Only say what would be done.
        command: Absolute path of the dfwatch command; when None, that of the installed unit if it is still there, else
            the one that is running.
        user: Name of the service's user and group; when None, that of the installed unit, else ``USER``.
        root: The folder of inbox/, results/ and the rest; when None, that of the installed unit, else ``ROOT``.
        gpu: Whether to install the drop-in that lets the service use GPUs; one that is installed is brought up to date.
        network: The same for the drop-in that lets sinks use the network.
        replace_changed: Replace files that somebody changed too, keeping each under another name.

    Raises:
        ConfigError: ``command``, ``user`` or ``root`` cannot stand in a unit.
        StorageError: A file cannot be written.
    """
    top = Path(destination_root)
    installed = _installed(top)
    given: dict[str, object] = {
        "command": command,
        "user": user,
        "root": root,
        "--gpu": gpu or None,
        "--network": network or None,
    }
    kept = {name: value for name, value in installed.items() if given[name] is None}
    command = command or kept.get("command") or _own_command()
    user = kept.get("user", USER) if user is None else user
    root = kept.get("root", ROOT) if root is None else root
    gpu, network = gpu or "--gpu" in kept, network or "--network" in kept
    for what, value, pattern in (
        ("command", command, _PLAIN_PATH),
        ("root", root, _PLAIN_PATH),
        ("user", user, _USER_NAME),
    ):
        if not pattern.fullmatch(value) or os.path.normpath(value) != value:
            hint = "an absolute path of letters, digits and . _ + , : @ -" if what != "user" else "a plain user name"
            raise ConfigError(_ACTION, f"{what} {value!r}", "it cannot stand in a unit", hint=hint)
    steps = [
        _put(top / target, _filled_in(source, command, user, root), replace_changed=replace_changed, dry_run=dry_run)
        for source, target in _files(gpu=gpu, network=network)
    ]
    settings = top / "etc/dfwatch/config.yaml"
    warnings = _warnings(command, root)
    if settings.exists():
        warnings += _other_root(settings, root)
        steps.append(Step(settings, Action.KEEP))
    else:
        text = render(replace(Settings(), root=root))
        if not dry_run:
            _write(settings, text)
        steps.append(Step(settings, Action.CREATE, _diff(settings, "", text)))
    commands = (
        "systemd-sysusers",
        "systemd-tmpfiles --create",
        "systemctl daemon-reload",
        "systemctl enable --now dfwatch",
    )
    defaults = {"command": _own_command_or_none(), "user": USER, "root": ROOT}
    told = tuple(f"{name} {value}".rstrip() for name, value in kept.items() if value != defaults.get(name))
    return Installation(tuple(steps), told, tuple(warnings), commands)


def _installed(top: Path) -> dict[str, str]:
    """What an earlier installation was told: command, user, root, and ``--gpu`` and ``--network`` without a value."""
    found = {f"--{name}": "" for name in ("gpu", "network") if (top / _drop_in(name)).exists()}
    try:
        text = (top / _SERVICE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        # Whether the file is there and cannot be used is said when it is written.
        return found
    for name, pattern in _TOLD.items():
        match = re.search(pattern, text, re.MULTILINE)
        if match is not None and (name != "command" or os.access(match[1], os.X_OK)):
            found[name] = match[1]
    return found


def _files(*, gpu: bool, network: bool) -> list[tuple[Path, str]]:
    units = resources.units()
    files = [
        (units / "dfwatch.service", _SERVICE),
        (units / "sysusers.d/dfwatch.conf", "etc/sysusers.d/dfwatch.conf"),
        (units / "tmpfiles.d/dfwatch.conf", "etc/tmpfiles.d/dfwatch.conf"),
    ]
    for wanted, name in ((gpu, "gpu"), (network, "network")):
        if wanted:
            files.append((units / f"dfwatch-{name}.conf", _drop_in(name)))
    return files


def _drop_in(name: str) -> str:
    return f"{_SERVICE}.d/{name}.conf"


def _own_command_or_none() -> str | None:
    with contextlib.suppress(ConfigError):
        return _own_command()
    return None


def _own_command() -> str:
    own = os.path.abspath(sys.argv[0])
    if os.path.basename(own) == "dfwatch" and os.access(own, os.X_OK):
        return own
    beside = os.path.join(os.path.dirname(sys.executable), "dfwatch")
    found = beside if os.access(beside, os.X_OK) else shutil.which("dfwatch")
    if found is None:
        raise ConfigError(_ACTION, "", "the dfwatch command was not found", hint="name it: --command /path/to/dfwatch")
    return os.path.abspath(found)


def _filled_in(source: Path, command: str, user: str, root: str) -> str:
    text = source.read_text(encoding="utf-8")
    if root != ROOT:
        # systemd makes state directories below /var/lib only; any other folder has to be opened for writing.
        text = text.replace("StateDirectory=dfwatch\nStateDirectoryMode=0750\n", f"ReadWritePaths={ROOT}\n")
        text = text.replace(ROOT, root)
    if user != USER:
        text = re.sub(rf"^(User|Group)={USER}$", rf"\1={user}", text, flags=re.MULTILINE)
        text = re.sub(rf"^u {USER} ", f"u {user} ", text, flags=re.MULTILINE)
        text = re.sub(rf"(?<= ){USER} {USER}(?= -$)", f"{user} {user}", text, flags=re.MULTILINE)
    # After the root, which may be a part of the command's path.
    text = text.replace(COMMAND, command)
    return f"{_STAMP}{_digest(text)}\n{text}"


def _put(path: Path, text: str, *, replace_changed: bool, dry_run: bool) -> Step:
    try:
        present = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        present = None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(_ACTION, path, error, retryable=False) from error
    if present == text:
        return Step(path, Action.UNCHANGED)
    difference = _diff(path, present or "", text)
    backup = None
    if present is None:
        action = Action.CREATE
    elif _is_as_written(present):
        action = Action.UPDATE
    elif replace_changed:
        action, backup = Action.REPLACE, path.with_name(f"{path.name}.{_digest(present)[:8]}.old")
    else:
        return Step(path, Action.KEEP, difference)
    if not dry_run:
        if backup is not None:
            _write(backup, present or "")
        _write(path, text)
    return Step(path, action, difference, backup)


def _is_as_written(text: str) -> bool:
    first, _, rest = text.partition("\n")
    return first == _STAMP + _digest(rest)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _diff(path: Path, old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), "present", str(path))
    return "".join(lines)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        hint = "run it as root" if isinstance(error, PermissionError) else ""
        raise StorageError(_ACTION, path, error.strerror or error, hint=hint, retryable=False) from error


def _warnings(command: str, root: str) -> list[str]:
    warnings = []
    if not os.access(command, os.X_OK):
        warnings.append(f"{command} is not there or not executable")
    programs = {"the command": command, "Python": os.path.realpath(sys.executable)}
    warnings += [
        f"{what} ({path}) lies below the root, from where NoExecPaths= lets nothing be run: "
        "use another place, such as /opt/dfwatch"
        for what, path in programs.items()
        if path.startswith(f"{root}/")
    ]
    places = {**programs, "root": root}
    for what, path in places.items():
        for prefix, setting in _HIDDEN_BY.items():
            if f"{path}/".startswith(prefix):
                warnings.append(
                    f"{what} ({path}) lies under {prefix.rstrip('/')}, which {setting} hides from the service: "
                    "use another place, such as /opt/dfwatch for the environment and /srv for files"
                )
    return warnings


def _other_root(settings: Path, root: str) -> list[str]:
    """A warning where the configuration that is there names another root than the units do."""
    try:
        configured = settings_file.load(settings).root
    except ConfigError:
        # The service says what is wrong with it.
        return []
    if configured == root:
        return []
    cause = f"{settings} says root: {configured}, where the units let nothing be written; they are for {root}"
    return [f"{cause}: change one of them (--root)"]
