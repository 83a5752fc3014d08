"""OpenVINO as the engine; it runs in one process of its own, and the tests look at what that found."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


def _missing() -> bool:
    try:
        importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


pytestmark = pytest.mark.skipif(_missing(), reason="the extra openvino is not installed")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Also shows that such a process ends by itself, with 0: a core that goes wrong shows at the end."""
    command = [sys.executable, "-m", "tests.openvino_process", str(tmp_path_factory.mktemp("openvino"))]
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "HOME": str(home)}
    ran = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert ran.returncode == 0, ran.stderr
    facts: dict[str, Any] = json.loads(ran.stdout)
    return {**facts, "left_at_home": os.listdir(home)}


def test_it_is_not_in_this_process() -> None:
    assert not any(name.startswith("openvino.") for name in sys.modules)


def test_it_reports_its_use_to_nobody(found: dict[str, Any]) -> None:
    # Whoever reports first makes up an identity, and keeps it there.
    assert "intel" not in found["left_at_home"]
    assert found["reporters"] == []


@pytest.mark.parametrize("network", ["lite", "small"])
def test_scores_and_heat_maps_are_those_of_torch(found: dict[str, Any], network: str) -> None:
    facts = found[network]
    assert facts["engine"].startswith("openvino ")
    assert facts["spread"] > 0.05
    assert facts["difference"] < 1e-3
    assert facts["said_difference"] < 1e-3
    assert facts["heat_difference"] == 0.0
    assert facts["none"] == [0]


@pytest.mark.parametrize("network", ["lite", "small"])
def test_a_crop_gets_the_same_score_bit_for_bit_whatever_it_comes_with(found: dict[str, Any], network: str) -> None:
    facts = found[network]
    assert (facts["same_when_shuffled"], facts["same_alone"], facts["invariant"]) == (True, True, True)


def test_auto_takes_the_fastest_and_remembers_it(found: dict[str, Any]) -> None:
    chosen = found["chosen"]
    assert {"torch float32", "openvino float32"} <= set(chosen["tried"])
    assert chosen["taken"] == chosen["fastest"]
    assert chosen["again"] == ["earlier", True]
    assert chosen["without"].startswith("torch ")
    assert "openvino is not installed" in chosen["without"]


def test_what_it_cannot_run_stays_with_torch_or_is_refused(found: dict[str, Any]) -> None:
    refused = found["refused"]
    assert "the layer Softsign is not known" in refused["odd"]
    assert "model.engine" in refused["odd"]
    assert refused["odd auto"].startswith("torch ")
    assert refused["odd why"] == "the layer Softsign is not known"
    assert "it runs on the CPU, not on cuda:0" in refused["cuda"]


def test_signal_handlers_of_the_main_thread_keep_their_stack(found: dict[str, Any]) -> None:
    assert found["signal_stack_kept"]


def test_no_engine_brings_what_makes_a_start_slow(found: dict[str, Any]) -> None:
    assert found["heavy"] == []
