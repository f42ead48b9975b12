"""Clips answered by the machines of a Ray cluster; an extra: `pip install 'mmer[ray]'`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from mmer.commands.answers import Options, answer_all, predictor_of
from mmer.commands.tasks import Task
from mmer.errors import MmerError

_AHEAD = 1_000  # tasks of a block: the driver holds names, never media


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
        import ray
    except ImportError:
        raise MmerError("no_ray", "--engine ray needs Ray; `pip install 'mmer[ray]'`, or leave --engine out") from None
    from mmer.predict import Predictor

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        gpus = 1 if Predictor.device_of(options.paths.device) == "cuda" else 0
        rows = (
            ray.data.from_items([{"task": json.dumps(asdict(task))} for task in tasks])
            .repartition(target_num_rows_per_block=max(batch, 1))
            .map_batches(
                Answerer,
                fn_constructor_args=(options,),
                batch_size=batch,
                num_gpus=gpus,
                compute=ray.data.ActorPoolStrategy(size=n_workers),
            )
        )
        for found in rows.iter_batches(batch_size=None, prefetch_batches=1):
            yield [json.loads(row) for row in found["row"]]
    finally:
        ray.shutdown()
