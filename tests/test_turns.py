"""Calls that compute in turn: what is short does not wait for what is long."""

import threading
import time

import pytest

from mmer.ui.turns import Turn, Turns
from tests.until import until


class Worker:
    """A call that takes steps until it is told to end."""

    def __init__(self, turns: Turns, n_steps: int = 100_000, step_s: float = 0.002):
        self.turn, self.n_done = Turn(turns), 0
        self._left, self._step_s = n_steps, step_s
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        with self.turn:
            while self._left > 0 and not self.turn.should_stop():
                time.sleep(self._step_s)
                self._left -= 1
                self.n_done += 1

    def end(self) -> None:
        self.turn.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def at_work():
    workers: list[Worker] = []
    yield workers
    for worker in workers:
        worker.end()


def test_two_long_calls_held_up_a_third(at_work):
    turns = Turns(2, slice_s=0.05)
    at_work += [Worker(turns), Worker(turns)]
    until(lambda: all(w.n_done for w in at_work))
    short = Worker(turns, n_steps=5)
    short.thread.join(5)
    assert short.n_done == 5
    assert all(w.thread.is_alive() for w in at_work)


def test_no_more_compute_than_may(at_work):
    turns = Turns(2, slice_s=0.02)
    at_work += [Worker(turns) for _ in range(5)]
    most = 0
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        most = max(most, sum(not w.turn.waits for w in at_work))
        time.sleep(0.001)
    assert most == 2
    done = [w.n_done for w in at_work]
    assert min(done) > 0.3 * max(done)  # everybody comes on


def test_a_first_turn_comes_before_the_next_ones(at_work):
    turns = Turns(1, slice_s=0.3)
    at_work += [Worker(turns) for _ in range(6)]
    until(lambda: all(w.n_done for w in at_work))
    since = time.monotonic()
    short = Worker(turns, n_steps=1)
    short.thread.join(10)
    assert time.monotonic() - since < 3 * 0.3


def test_alone_nobody_gives_way(at_work):
    at_work.append(Worker(Turns(1, slice_s=0.01)))
    until(lambda: at_work[0].n_done > 50)
    assert at_work[0].turn.waited_s < 0.1


def test_what_was_stopped_while_it_waited_ends_at_once(at_work):
    turns = Turns(1, slice_s=60)
    at_work.append(Worker(turns))
    until(lambda: at_work[0].n_done)
    waits = Worker(turns)
    until(lambda: waits.turn.waited_s > 0.1)
    waits.end()
    assert waits.n_done == 0
    at_work[0].end()
    after = Worker(turns, n_steps=1)  # nothing was lost: there is a turn again
    after.thread.join(5)
    assert after.n_done == 1


def test_an_error_ends_the_turn():
    turns = Turns(1)
    with pytest.raises(ValueError, match="mine"), Turn(turns):
        raise ValueError("mine")
    with Turn(turns) as turn:
        assert not turn.waits
