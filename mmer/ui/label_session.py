"""What one browser session is labelling, and how it got on."""

import statistics
from collections.abc import Set
from dataclasses import dataclass, field, replace

from annotations.queue.assignment import Receipt, Task
from mmer.errors import LabelError
from mmer.ui.media_links import Viewer


@dataclass(frozen=True)
class Work:
    """What was done since the session was started."""

    outcomes: dict[str, int] = field(default_factory=dict)  # how many items of each
    seconds: tuple[float, ...] = ()  # that each item took, from its first sight to the answer
    gold_right: int = 0
    gold_seen: int = 0

    @property
    def n_items(self) -> int:
        return sum(self.outcomes.values())

    @property
    def median_s(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None

    def after(self, outcome: str, lead_s: float, receipt: Receipt) -> "Work":
        """Return this with one more answer in it."""
        gold = receipt.gold
        return Work(
            {**self.outcomes, outcome: self.outcomes.get(outcome, 0) + 1},
            (*self.seconds, lead_s),
            self.gold_right + bool(gold and gold.right),
            self.gold_seen + bool(gold),
        )


@dataclass
class LabelSession:
    """What one browser session is labelling."""

    project: str = ""
    annotator: str = ""
    tasks: list[Task] = field(default_factory=list)  # the one on the screen, then the one that is loaded ahead
    since: float = 0.0  # monotonic: when the first of them was sent
    # Assignments whose answers were given here: who may be anybody takes back no other.
    answered: Set[int] = frozenset()
    let_in: bool = False  # by the page's owner: they may see consented recordings
    viewer: Viewer = field(default_factory=Viewer)  # for whom the links to recordings are
    work: Work = Work()
    revising: int | None = None  # the assignment on the screen, where its answer is to be changed

    @property
    def task(self) -> Task:
        if not self.tasks:
            raise LabelError("no_item", "there is no item on the screen; choose a project and press Start")
        return self.tasks[0]

    def taken_back(self, task: Task) -> "LabelSession":
        """Return the session with an item on the screen whose answer was taken back."""
        return replace(self, tasks=[task, *self.tasks[:1]], answered=self.answered - {task.assignment_id})
