from __future__ import annotations

import sys
import threading

import pytest

from dfwatch.operation.addresses import is_loopback, split_address
from dfwatch.operation.vitals import Inbox, Phase, StageTimes, Vitals, why_not_alive, why_not_ready


def test_a_running_service_is_alive_and_ready() -> None:
    assert why_not_alive(Vitals(phase=Phase.RUNNING)) == []
    assert why_not_ready(Vitals(phase=Phase.RUNNING)) == []


@pytest.mark.parametrize(
    ("vitals", "part"),
    [
        (Vitals(phase=Phase.STARTING), "starting"),
        (Vitals(phase=Phase.STOPPING), "stopping"),
        (Vitals(phase=Phase.RUNNING, inbox=Inbox(paused="the disk is full")), "the disk is full"),
        (Vitals(phase=Phase.RUNNING, problems=(".: cannot open /inbox: gone",)), "gone"),
        (Vitals(phase=Phase.RUNNING, late=("scorer silent for 400 s",)), "scorer"),
    ],
)
def test_what_makes_it_not_ready(vitals: Vitals, part: str) -> None:
    [reason] = why_not_ready(vitals)
    assert part in reason


def test_a_pause_or_one_folder_is_no_reason_to_start_anew() -> None:
    vitals = Vitals(phase=Phase.RUNNING, inbox=Inbox(paused="full"), problems=("desk/monday: Permission denied",))
    assert why_not_alive(vitals) == []
    assert why_not_ready(vitals) == ["intake is paused: full"]
    assert why_not_alive(Vitals(late=("reader-0 silent",))) == ["no progress: reader-0 silent"]


def test_stage_times() -> None:
    times = StageTimes()
    for value in (1.0, 2.0, 30.0):
        times.add({"decode": value})
    assert times.summary() == {"decode": {"median_ms": 2.0, "slowest_ms": 30.0}}
    for _ in range(200):
        times.add({"decode": 5.0})
    assert times.summary() == {"decode": {"median_ms": 5.0, "slowest_ms": 5.0}}


def test_stage_times_are_summed_up_while_publishers_add_to_them() -> None:
    def publish(times: StageTimes, publisher: int) -> None:
        for number in range(50):
            times.add({f"stage {publisher} {number}": 1.0})

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-7)
    try:
        for _ in range(100):
            times = StageTimes()
            publishers = [threading.Thread(target=publish, args=(times, number)) for number in range(4)]
            for publisher in publishers:
                publisher.start()
            while any(publisher.is_alive() for publisher in publishers):
                assert all(stage["median_ms"] == 1.0 for stage in times.summary().values())
    finally:
        sys.setswitchinterval(interval_s)
    assert len(times.summary()) == 200


def test_addresses() -> None:
    assert split_address("127.0.0.1:9464") == ("127.0.0.1", 9464)
    assert split_address("[::1]:0") == ("::1", 0)
    assert is_loopback("127.3.2.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    for wrong in ("127.0.0.1", "localhost:9464", "127.0.0.1:99999", ":9464", "127.0.0.1:-1", "127.0.0.1:٣"):
        with pytest.raises(ValueError):  # noqa: PT011
            split_address(wrong)
