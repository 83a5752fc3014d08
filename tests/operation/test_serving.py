"""Metrics and health checks of a real daemon, over HTTP and as a file, as Prometheus reads them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dfwatch.errors import ConfigError
from dfwatch.operation.http import Listener
from dfwatch.operation.vitals import Inbox, Phase, Vitals
from dfwatch.settings import file as settings_file
from tests import programs
from tests.service.daemon import Daemon, wait_for

Make = Callable[..., Daemon]
LISTEN = {"metrics": {"listen": "127.0.0.1:0"}}


def address_of(daemon: Daemon) -> str:
    lines = [line for line in daemon.lines() if line["event"] == "serving metrics and health"]
    return str(lines[-1]["address"])


def get(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its label values, in the order of the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def promtool_accepts(text: str) -> None:
    done = subprocess.run(
        [programs.require("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_reason_that_is_no_unicode_is_told_all_the_same() -> None:
    vitals = Vitals(phase=Phase.RUNNING, inbox=Inbox(paused="cannot open /caf\udce9/inbox"))
    listener = Listener("127.0.0.1:0", lambda: vitals, lambda: b"", "text/plain")
    listener.start()
    try:
        host, port = listener.address or ("", 0)
        status, text = get(f"{host}:{port}", "/readyz")
    finally:
        listener.close()
    assert status == 503
    assert json.loads(text)["reasons"] == ["intake is paused: cannot open /caf\udce9/inbox"]


def test_metrics_of_a_daemon_at_work(daemons: Make) -> None:
    daemon = daemons(LISTEN).start()
    for name, word in (("a", "fake"), ("b", "real"), ("c", "corrupt"), ("d", "crash")):
        daemon.drop(f"{name}.mp4", word)
    daemon.settle(4)
    address = address_of(daemon)
    # The publisher counts a file after it has put it away.
    wait_for(lambda: samples(get(address, "/metrics")[1])["dfwatch_file_seconds_count",] == 4, "all four are counted")
    status, text = get(address, "/metrics")
    found = samples(text)
    assert status == 200
    assert found["dfwatch_files_total", "done", "FAKE"] == 1
    assert found["dfwatch_files_total", "done", "REAL"] == 1
    assert found["dfwatch_files_total", "done", "NO_FACE"] == 0
    assert found["dfwatch_files_total", "failed", "none"] == 1
    assert found["dfwatch_files_total", "quarantined", "none"] == 1
    assert found["dfwatch_files_without_verdict_total", "reader_crashed"] == 1
    assert found["dfwatch_reader_restarts_total", "reader_crashed"] == 3
    assert found["dfwatch_stage_seconds_count", "inference"] == 2
    assert found["dfwatch_stage_seconds_count", "total"] == 4
    assert found["dfwatch_inbox_files", "ready"] == 0
    assert found["dfwatch_jobs", "running"] == 0
    assert found["dfwatch_phase", "running"] == 1
    assert found["dfwatch_scans_total",] > 0
    assert 0 <= found["dfwatch_scan_age_seconds",] < 10
    assert found["dfwatch_model_info", "resnext50_32x4d", "test-model", "1", "0" * 64] == 1
    assert found["dfwatch_device_info", "cpu", "script", "a script", "float32"] == 1
    assert not [name for name, *_ in found if name.endswith("_created")]
    assert not [name for name, *_ in found if not name.startswith("dfwatch_")], "node_exporter has the same names"
    promtool_accepts(text)


def test_health_checks_tell_a_pause_from_a_hang(daemons: Make) -> None:
    daemon = daemons(LISTEN | {"watch": {"min_free_bytes": 1 << 60}}).start()
    address = address_of(daemon)
    assert get(address, "/healthz") == (200, '{"ok": true, "reasons": []}\n')
    wait_for(lambda: get(address, "/readyz")[0] == 503, "a full disk makes it unready")
    told = json.loads(get(address, "/readyz")[1])
    assert "intake is paused" in told["reasons"][0]
    assert samples(get(address, "/metrics")[1])["dfwatch_intake_paused",] == 1
    assert get(address, "/else")[0] == 404
    assert get(address, "/healthz?verbose")[0] == 200


def test_an_inbox_that_is_gone_makes_it_unready(daemons: Make) -> None:
    daemon = daemons(LISTEN).start()
    address = address_of(daemon)
    (daemon.root / "inbox").rename(daemon.root / "elsewhere")
    wait_for(lambda: get(address, "/readyz")[0] == 503, "an inbox that is gone makes it unready")


def test_ages_are_asked_for_at_each_scrape() -> None:
    from dfwatch.operation.metrics import Metrics
    from dfwatch.operation.vitals import SinkLag, Vitals

    ages = iter((1.0, 200.0))
    metrics = Metrics(lambda: Vitals(scan_age_s=next(ages), sinks=(SinkLag("webhook", 3, 1, 50.0),)))
    first, second = (samples(metrics.exposition().decode()) for _ in range(2))
    assert (first["dfwatch_scan_age_seconds",], second["dfwatch_scan_age_seconds",]) == (1.0, 200.0)
    assert second["dfwatch_sink_lag_seconds", "webhook"] == 50.0
    assert second["dfwatch_sink_pending", "webhook"] == 3
    assert second["dfwatch_sink_dead", "webhook"] == 1


def test_files_that_cannot_be_claimed_are_all_counted() -> None:
    from dfwatch.operation.metrics import Metrics
    from dfwatch.operation.vitals import Inbox, Vitals

    metrics = Metrics(lambda: Vitals(inbox=Inbox(blocked=("a.mp4: no", "24 more"), blocked_count=25)))
    assert samples(metrics.exposition().decode())["dfwatch_inbox_files", "blocked"] == 25


def test_it_answers_while_it_stops(daemons: Make) -> None:
    daemon = daemons(LISTEN).start()
    address = address_of(daemon)
    daemon.drop("clip.mp4", "slow 2")
    wait_for(daemon.reading, "it is being read")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopping" in get(address, "/readyz")[1], "it says that it stops")
    assert get(address, "/healthz")[0] == 200
    assert daemon.wait_until_dead() == 0


def test_a_port_that_is_taken_stops_nothing_and_is_tried_again(daemons: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = daemons({"metrics": {"listen": f"127.0.0.1:{port}"}}).start()
        assert "the metrics cannot be served; tried again" in daemon.events()
        daemon.drop("clip.mp4", "fake")
        assert daemon.sidecar("clip.mp4")["verdict"] == "FAKE"
    wait_for(lambda: "serving metrics and health" in daemon.events(), "it was tried again")
    assert get(f"127.0.0.1:{port}", "/readyz")[0] == 200
    assert daemon.stop() == 0


def test_textfile(daemons: Make, tmp_path: Path) -> None:
    path = tmp_path / "dfwatch.prom"
    daemon = daemons({"metrics": {"textfile": str(path), "textfile_interval_s": 0.1}}).start()
    daemon.drop("clip.mp4", "noface")
    key = ("dfwatch_files_total", "done", "NO_FACE")
    wait_for(lambda: path.exists() and samples(path.read_text()).get(key) == 1, "the file tells of the video")
    promtool_accepts(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o644
    assert daemon.stop() == 0
    assert samples(path.read_text())["dfwatch_phase", "stopped"] == 1
    assert [name.name for name in tmp_path.iterdir() if name.is_file()] == ["dfwatch.prom"]


def test_a_textfile_that_cannot_be_written_stops_nothing(daemons: Make, tmp_path: Path) -> None:
    changes = {"textfile": str(tmp_path / "no" / "such.prom"), "textfile_interval_s": 0.1}
    daemon = daemons({"metrics": changes}).start()
    daemon.drop("clip.mp4", "fake")
    assert daemon.sidecar("clip.mp4")["verdict"] == "FAKE"
    assert daemon.events().count("the metrics file cannot be written; tried again") == 1


def test_without_the_extra_the_message_names_the_command(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from dfwatch.cli import main\n"
        "sys.exit(main(['run', '--config', sys.argv[1]]))"
    )
    config = tmp_path / "config.yaml"
    config.write_text("root: ./var\nmetrics:\n  listen: 127.0.0.1:0\n")
    done = subprocess.run(
        [sys.executable, "-c", script, str(config)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "pip install 'dfwatch[metrics]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ("listen: 0.0.0.0:9464", "other machines"),
        ("listen: localhost:9464", "IP address"),
        ("textfile: metrics.txt", ".prom"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, section: str, part: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"metrics:\n  {section}\n")
    with pytest.raises(ConfigError, match=part):
        settings_file.load(str(path))


def test_other_machines_may_ask_where_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("metrics:\n  listen: 0.0.0.0:9464\n  anywhere: true\n")
    settings: Any = settings_file.load(str(path))
    assert settings.metrics.anywhere
