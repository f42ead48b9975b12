"""Clips answered by the machines of a Ray cluster; an extra: `pip install 'mmer[ray]'`."""

import json
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from mmer.commands.answers import Options, answer_all, failed, predictor_of
from mmer.commands.tasks import Task
from mmer.errors import MmerError

_MOST_BLOCKS = 20_000  # of a run: what the driver keeps of each adds up
_RETRIES = 1  # of a block whose process died: the first may have died of something else, as too little memory


class Answerer:
    """An actor: it holds the model and answers one batch after the other."""

    def __init__(self, options: Options):
        self._options = options
        self._predictor = predictor_of(options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        tasks = [Task(**json.loads(each)) for each in batch["task"]]
        rows = answer_all(self._predictor, tasks, self._options)
        return {"row": [json.dumps(row) for row in rows]}


def run(
    tasks: Iterable[Task], options: Options, *, address: str | None, n_workers: int, batch: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield rows as the cluster gives them; every machine reads the clips' paths itself.

    Raises:
        MmerError: `no_ray`.
    """
    try:
        import ray.data
    except ImportError:
        raise MmerError("no_ray", "--engine ray needs Ray; `pip install 'mmer[ray]'`, or leave --engine out") from None
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        ray.data.DataContext.get_current().max_errored_blocks = -1  # what a process took with it is tried alone
        gpus = 1 if options.paths.device != "cpu" and ray.cluster_resources().get("GPU") else 0
        left = {task.id: task for task in tasks}  # the driver holds names, never media
        for at_once in dict.fromkeys((max(batch, len(left) // _MOST_BLOCKS), 1)):
            for rows in _answers(list(left.values()), options, n_workers, at_once, gpus) if left else ():
                yield [row for row in rows if left.pop(row["id"], None)]  # a block that is read again counts once
        for task in left.values():
            yield [failed(task, "crashed", f"the process that read {task.path or task.id} died")]
    finally:
        ray.shutdown()


def _answers(
    tasks: list[Task], options: Options, n_workers: int, at_once: int, gpus: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of blocks of `at_once` tasks; those of a block whose process dies again are missing."""
    import ray.data

    # The blocks are made here: a task that splits them would wait for ever where the actors have all processors.
    blocks = ray.data.from_items(
        [{"task": json.dumps(asdict(task))} for task in tasks], override_num_blocks=math.ceil(len(tasks) / at_once)
    )
    rows = blocks.map_batches(
        Answerer,
        fn_constructor_args=(options,),
        batch_size=at_once,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=n_workers),
        max_task_retries=_RETRIES,  # Ray's own default has no end
    )
    for found in rows.iter_batches(batch_size=None, prefetch_batches=1):
        yield [json.loads(row) for row in found["row"]]
