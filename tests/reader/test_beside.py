"""Work on frames beside the decoder."""

from __future__ import annotations

import threading

import pytest

from dfwatch.decode.beside import AHEAD, Beside


def test_everything_is_done_in_order_by_the_end() -> None:
    done: list[int] = []
    with Beside(done.append) as beside:
        for number in range(100):
            beside.put(number)
    assert done == list(range(100))


def test_no_more_than_a_few_items_wait() -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def work(_number: int) -> None:
        begun.release()
        assert go_on.wait(20)

    handed: list[int] = []

    def hand_over(beside: Beside[int]) -> None:
        for number in range(10):
            beside.put(number)
            handed.append(number)

    with Beside(work) as beside:
        giver = threading.Thread(target=hand_over, args=(beside,))
        giver.start()
        assert begun.acquire(timeout=20)
        giver.join(0.2)
        assert len(handed) <= AHEAD + 1
        go_on.set()
        giver.join(20)
    assert handed == list(range(10))


@pytest.mark.parametrize("bad", [0, 5, 9])
def test_an_error_of_the_work_reaches_the_one_who_hands_over_and_ends_the_work(bad: int) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == bad:
            raise MemoryError(f"at {number}")
        done.append(number)

    def hand_over() -> None:
        with Beside(work) as beside:
            for number in range(10):
                beside.put(number)

    with pytest.raises(MemoryError, match=f"at {bad}"):
        hand_over()
    assert done == list(range(bad))


def test_an_error_of_the_one_who_hands_over_is_not_lost_and_no_thread_stays() -> None:
    def hand_over() -> None:
        with Beside(lambda _item: None) as beside:
            beside.put(1)
            raise ValueError("no frame")

    with pytest.raises(ValueError, match="no frame"):
        hand_over()
    assert not [thread for thread in threading.enumerate() if thread.name == "beside"]


def test_a_thread_that_the_memory_limit_does_not_allow_is_a_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(MemoryError, match="new thread"), Beside(print):
        pass
