from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dfwatch import resources
from dfwatch.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's folder as a wheel would have it; nothing of the checkout lies beside it."""
    package = tmp_path / "site-packages" / "dfwatch"
    (package / "data" / "model" / "some_bundle").mkdir(parents=True)
    (package / "data" / "systemd").mkdir()
    shutil.copy(CHECKOUT / "config.yaml", package / "data" / "config.yaml")
    monkeypatch.setattr(resources, "_PACKAGE", package)
    return package


def test_in_a_checkout_they_lie_beside_the_package() -> None:
    assert resources.config_yaml() == CHECKOUT / "config.yaml"
    assert resources.units() == CHECKOUT / "systemd"
    assert resources.bundles() == CHECKOUT / "model"
    assert (resources.units() / "dfwatch.service").is_file()


def test_in_a_wheel_they_lie_in_the_package(installed: Path) -> None:
    assert resources.config_yaml() == installed / "data" / "config.yaml"
    assert resources.units() == installed / "data" / "systemd"
    assert resources.bundles() == installed / "data" / "model"


def test_default_bundle_is_the_one_that_is_named(installed: Path) -> None:
    model = installed / "data" / "model"
    with pytest.raises(ConfigError, match=r"default\.txt"):
        resources.default_bundle()
    (model / "default.txt").write_text("some_bundle\n")
    with pytest.raises(ConfigError, match=r"no bundle\.yaml"):
        resources.default_bundle()
    (model / "some_bundle" / "bundle.yaml").touch()
    assert resources.default_bundle() == model / "some_bundle"


def test_an_incomplete_installation_says_so(installed: Path) -> None:
    shutil.rmtree(installed / "data" / "systemd")
    with pytest.raises(ConfigError, match="install dfwatch again"):
        resources.units()


def test_every_file_is_named_in_what_the_wheel_takes() -> None:
    wheel = (CHECKOUT / "pyproject.toml").read_text().partition("force-include]")[2].partition("\n[")[0]
    for name in ("config.yaml", "model", "systemd"):
        assert f'"{name}" = "dfwatch/data/{name}"' in wheel
