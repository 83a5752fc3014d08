"""Files that ship with dfwatch: beside the package in a checkout, under ``dfwatch/data/`` in an installed wheel.

``pyproject.toml`` puts ``config.yaml``, ``model/`` and ``systemd/`` into the wheel under those names.
"""

from __future__ import annotations

from pathlib import Path

from dfwatch.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


def config_yaml() -> Path:
    """The ``config.yaml`` with every setting at its default.

    Raises:
        ConfigError: As every function here: the file is missing, so the installation is incomplete.
    """
    return _find("config.yaml")


def units() -> Path:
    """The folder of systemd units, drop-ins, ``sysusers.d`` and ``tmpfiles.d``."""
    return _find("systemd")


def bundles() -> Path:
    """The folder of the model bundles that ship."""
    return _find("model")


def default_bundle() -> Path:
    """The bundle that is used when ``model.path`` is empty: the one that ``model/default.txt`` names."""
    pointer = _find("model") / "default.txt"
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise _incomplete(pointer, error.strerror or str(error)) from error
    bundle = pointer.parent / name
    if not (bundle / "bundle.yaml").is_file():
        raise _incomplete(bundle, "there is no bundle.yaml in it")
    return bundle


def shipped_bundles() -> dict[str, Path]:
    """The bundles that ship, by name; the default one comes first."""
    default = default_bundle()
    others = sorted(path.parent for path in bundles().glob("*/bundle.yaml"))
    return {path.name: path for path in (default, *others)}


def _find(name: str) -> Path:
    # In a checkout the package's folder lies beside them; an installed package has no pyproject.toml beside it.
    checkout = _PACKAGE.parent
    path = (checkout if (checkout / "pyproject.toml").is_file() else _PACKAGE / "data") / name
    if not path.exists():
        raise _incomplete(path, "it is not there")
    return path


def _incomplete(path: Path, cause: str) -> ConfigError:
    return ConfigError("finding a file that ships with dfwatch", path, cause, hint="install dfwatch again")
