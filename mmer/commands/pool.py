"""Clips answered by several processes of this machine; one that dies costs the clip it had, not the run."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from mmer.commands.answers import Options, answer_all, failed, predictor_of
from mmer.commands.tasks import Task
from mmer.config import cores

_TRIES = 2  # of a clip whose process died: the first may have died of something else, as too little memory


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    tasks: list[Task] = field(default_factory=list)


def _serve(pipe: Connection, options: Options, n_threads: int) -> None:
    """Answer what comes through the pipe until its other end is gone."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the parent ends the others
    torch.set_num_threads(n_threads)
    predictor = predictor_of(options)
    while True:
        try:
            tasks = pipe.recv()
        except EOFError:
            return
        pipe.send(answer_all(predictor, tasks, options))


class Pool:
    """Workers that each hold the model; they share the cores out."""

    def __init__(self, options: Options, n_workers: int):
        self._options, self._n_threads = options, max(1, cores() // n_workers)
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._workers = [self._start() for _ in range(n_workers)]

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(there, self._options, self._n_threads), daemon=True, name="mmer"
        )
        process.start()
        there.close()
        return _Worker(process, here)

    def run(self, tasks: Iterable[Task], batch: int) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of finished batches, in the order in which they end; tasks are taken as they are needed."""
        coming = iter(tasks)
        again: deque[tuple[Task, int]] = deque()  # with how often it was tried; each goes alone
        tries: dict[str, int] = {}
        while True:
            for worker in self._workers:
                if not worker.tasks:
                    self._give(worker, coming, again, tries, batch)
            busy = {worker.pipe: worker for worker in self._workers if worker.tasks}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    rows = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    yield from self._mourn(worker, again, tries)
                    continue
                worker.tasks = []
                yield rows

    def _give(self, worker: _Worker, coming: Iterator[Task], again: deque, tries: dict[str, int], batch: int) -> None:
        if again:
            task, n_tries = again.popleft()
            worker.tasks, tries[task.id] = [task], n_tries
        else:
            worker.tasks = [task for _, task in zip(range(batch), coming, strict=False)]
        if worker.tasks:
            try:
                worker.pipe.send(worker.tasks)
            except (BrokenPipeError, ConnectionError):
                return  # it died between two batches: reading from its pipe tells

    def _mourn(self, worker: _Worker, again: deque, tries: dict[str, int]) -> Iterator[list[dict[str, Any]]]:
        """Put another worker in a dead one's place; what it had is tried again, one clip at a time."""
        worker.process.join()
        how = worker.process.exitcode
        lost = worker.tasks
        for task in lost:
            n_tries = tries.get(task.id, 0) + (1 if len(lost) == 1 else 0)
            if n_tries >= _TRIES:
                died = f"by signal {-how}" if how and how < 0 else f"with status {how}"
                yield [failed(task, "crashed", f"the process that read {task.path or task.id} died {died}")]
            else:
                again.append((task, n_tries))
        worker.pipe.close()
        fresh = self._start()
        worker.process, worker.pipe, worker.tasks = fresh.process, fresh.pipe, []

    def close(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # it ends after the clip it has
        for worker in self._workers:
            worker.process.join(timeout=0 if worker.tasks else 10)
            if worker.process.is_alive():
                worker.process.terminate()
