"""Annotation projects: their settings, their items, and which items are gold (have a known answer)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Select, func, insert, literal_column, select, update
from sqlalchemy.orm import Session

from annotations.choices import GOLD_SHARE, LEASE_S, ORDERS, PER_ITEM, TARGETS
from annotations.db.schema import (
    ClipRecord,
    GoldRecord,
    ItemRecord,
    PredictionRecord,
    ProjectRecord,
    UtteranceRecord,
)
from annotations.item_summary import same_segment
from annotations.label import weights
from annotations.store import Store, annotator_id
from annotations.text import check_text, clean_name, composed
from mmer.errors import LabelError
from mmer.labels import EMOTIONS, emotion

_PART = 5000  # rows a statement
MAX_PER_ITEM = 20
MAX_LEASE_S = 7 * 86400


@dataclass(frozen=True)
class Project:
    """What annotators are asked, and how often."""

    id: int
    name: str
    guidelines: str  # Markdown
    label_set: tuple[str, ...]  # emotions to choose from, in the order of `EMOTIONS`
    targets: tuple[str, ...]  # of `TARGETS`: each is asked about each item
    per_item: int  # annotators who judge each item
    gold_share: float  # 0 to 1: of an annotator's items, as long as there are gold items new to them
    order: str  # one of `ORDERS`
    blind: bool  # the model's answer is shown only after the choice
    lease_s: int  # how long an item stays lent


def create(
    store: Store,
    name: str,
    *,
    guidelines: str = "",
    label_set: Iterable[str] = EMOTIONS,
    targets: Iterable[str] = TARGETS[:1],
    per_item: int = PER_ITEM,
    gold_share: float = GOLD_SHARE,
    order: str = ORDERS[0],
    blind: bool = True,
    lease_s: int = LEASE_S,
    actor: str,
) -> Project:
    """Return a new project.

    Raises:
        LabelError: `project_exists, bad_project, bad_text, unknown_label`.
    """
    values = _checked(
        {
            "name": name,
            "guidelines": guidelines,
            "label_set": label_set,
            "targets": targets,
            "per_item": per_item,
            "gold_share": gold_share,
            "order": order,
            "blind": blind,
            "lease_s": lease_s,
        }
    )
    with store.writing() as session:
        _refuse_taken(session, values["name"])
        record = ProjectRecord(**values)
        session.add(record)
        session.flush()
        store.audit(actor, "project.create", {"project": record.name}, session)
        return _project(record)


def projects(store: Store) -> list[Project]:
    """Return all projects by name."""
    with store.reading() as session:
        return [_project(record) for record in session.scalars(select(ProjectRecord).order_by(ProjectRecord.name))]


def project(store: Store, name: str) -> Project:
    """Return the project of that name.

    Raises:
        LabelError: `unknown_project`.
    """
    with store.reading() as session:
        return _project(project_record(session, name))


def project_record(session: Session, name: str) -> ProjectRecord:
    """Return the row of the project of that name.

    Raises:
        LabelError: `unknown_project`.
    """
    record = _named(session, name)
    if record is None:
        names = ", ".join(session.scalars(select(ProjectRecord.name).order_by(ProjectRecord.name).limit(10)))
        raise LabelError("unknown_project", f"there is no project {name!r}; there is {names or 'none yet'}")
    return record


def change(
    store: Store,
    name: str,
    *,
    new_name: str | None = None,
    guidelines: str | None = None,
    label_set: Iterable[str] | None = None,
    targets: Iterable[str] | None = None,
    per_item: int | None = None,
    gold_share: float | None = None,
    blind: bool | None = None,
    lease_s: int | None = None,
    actor: str,
) -> Project:
    """Return the project with some of its settings changed; None leaves one as it is, and the audit log keeps the old.

    A new `per_item` opens or closes slots of every item; labels that are there stay. The order is for `Queue.rank`.

    Raises:
        LabelError: `unknown_project, project_exists, bad_project, bad_text, unknown_label`.
    """
    old = project(store, name)
    named = {
        "name": new_name,
        "guidelines": guidelines,
        "label_set": None if label_set is None else tuple(label_set),
        "targets": None if targets is None else tuple(targets),
        "per_item": per_item,
        "gold_share": gold_share,
        "blind": blind,
        "lease_s": lease_s,
    }
    changes = {field: value for field, value in named.items() if value is not None}
    with store.writing() as session:
        record = _locked(session, old)
        values = _checked(asdict(_project(record)) | changes)  # of the row as it is now: `old` may have changed since
        if "name" in changes and _named(session, values["name"]) is not record:
            _refuse_taken(session, values["name"])
        before = {field: getattr(record, field) for field in changes if getattr(record, field) != values[field]}
        more = values["per_item"] - record.per_item
        for field in changes:
            setattr(record, field, values[field])
        if more:
            session.execute(
                update(ItemRecord)
                .where(ItemRecord.project_id == record.id)
                .values(open_slots=ItemRecord.open_slots + more)
                .execution_options(synchronize_session=False)
            )
        if before:
            record.revision += 1
            after = {field: values[field] for field in before}
            detail = {"project": old.name, "before": before, "after": after}
            store.audit(actor, "project.change", detail, session)
        session.flush()
        return _project(record)


def add_items(store: Store, project: Project, utterance_ids: Iterable[int], session: Session | None = None) -> int:
    """Put utterances in the project's queue and return how many are new there.

    Raises:
        LabelError: `unknown_utterance`; nothing is added then.
    """
    n_new = 0
    ids = list(dict.fromkeys(utterance_ids))
    with store.writing(session) as session:
        record = _locked(session, project)
        for i in range(0, len(ids), _PART):
            part = ids[i : i + _PART]
            known = set(session.scalars(select(UtteranceRecord.id).where(UtteranceRecord.id.in_(part))))
            if missing := [key for key in part if key not in known]:
                raise LabelError("unknown_utterance", f"there is no utterance {missing[0]}")
            own = select(ItemRecord.utterance_id).filter_by(project_id=project.id)
            there = set(session.scalars(own.where(ItemRecord.utterance_id.in_(part))))
            new = [
                {"project_id": project.id, "utterance_id": key, "open_slots": record.per_item}
                for key in part
                if key not in there
            ]
            if new:
                session.execute(insert(ItemRecord), new)
            n_new += len(new)
        if n_new:
            record.revision += 1
    return n_new


def set_gold(
    store: Store,
    project: Project,
    item_id: int,
    emotions: str | Mapping[str, float],
    *,
    target: str = "all",
    why: str = "",
    actor: str,
) -> int:
    """Return the id of an item's known answer; the newest for the item and target counts.

    Annotators meet gold items among the others, each once, and learn afterwards whether they were right.

    Args:
        emotions: right answers; an answer whose heaviest emotion is one of them is right. {} takes the gold back.
        why: what the annotator reads afterwards.

    Raises:
        LabelError: `unknown_item, bad_target, unknown_label, bad_weight, bad_text`.
    """
    if target not in project.targets:
        raise LabelError("bad_target", f"{project.name} asks about {', '.join(project.targets)}, not {target!r}")
    shares = weights(emotions) if emotions else {}
    with store.writing() as session:
        person = annotator_id(session, actor)
        item = session.get(ItemRecord, item_id, with_for_update={"key_share": True})
        if item is None or item.project_id != project.id:
            raise LabelError("unknown_item", f"{project.name} has no item {item_id}")
        why = check_text(why, "why")
        gold = GoldRecord(item_id=item_id, target=target, emotions=shares, why=why, annotator_id=person)
        session.add(gold)
        session.flush()
        item.gold = any(answer.emotions for answer in gold_answers(session, item_id).values())
        store.audit(actor, "gold.set", {"project": project.name, "item": item_id, "target": target}, session)
        return gold.id


def item_of(store: Store, project: Project, sha256: str, start_s: float | None = None) -> int:
    """Return the id of the item that a clip as a whole, or its utterance beginning at `start_s`, is in a project.

    Raises:
        LabelError: `unknown_item` when there is none, or several and no start says which.
    """
    with store.reading() as session:
        items = session.execute(
            select(ItemRecord.id, UtteranceRecord.start_s)
            .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
            .join(ClipRecord, ClipRecord.id == UtteranceRecord.clip_id)
            .where(ItemRecord.project_id == project.id, ClipRecord.sha256 == sha256)
            .order_by(UtteranceRecord.start_s)
        ).all()
    if start_s is None:
        fitting = [i for i, start in items if start is None] or [i for i, _ in items]
    else:
        fitting = [i for i, start in items if start is not None and abs(start - start_s) < 0.005]
    if len(fitting) == 1:
        return fitting[0]
    starts = ", ".join("the whole clip" if start is None else f"{start:g}" for _, start in items)
    if not items:
        raise LabelError("unknown_item", f"{project.name} has no item of the clip {sha256[:12]}; import it first")
    raise LabelError(
        "unknown_item", f"{project.name} has items of that clip that begin at {starts}; say which by its start"
    )


def counts(store: Store, project: Project) -> dict[str, int]:
    """Return how many items a project has, how many of them are gold, wait for annotators, and have all they need."""
    with store.reading() as session:
        own = select(func.count()).select_from(ItemRecord).where(ItemRecord.project_id == project.id)
        n_items, n_gold, n_open = (
            session.execute(query).scalar_one()
            for query in (own, own.where(ItemRecord.gold), own.where(ItemRecord.open_slots > 0, ~ItemRecord.gold))
        )
    return {"items": n_items, "gold": n_gold, "open": n_open, "full": n_items - n_gold - n_open}


@dataclass(frozen=True)
class Pending:
    """An item that a model has still to answer."""

    item_id: int
    clip_id: int
    name: str
    media: Path | None
    start_s: float | None  # both None: the whole clip
    end_s: float | None
    transcript: str | None


def pending(store: Store, project: Project, checkpoint: str | None) -> Iterator[Pending]:
    """Yield the items of a project that a checkpoint has not answered, all of them without one."""
    after = 0
    answered: Select = select(literal_column("1")).where(
        PredictionRecord.checkpoint == checkpoint, same_segment(PredictionRecord, UtteranceRecord)
    )
    query = (
        select(ItemRecord.id, UtteranceRecord.clip_id, ClipRecord.name, ClipRecord.media, ClipRecord.path)
        .add_columns(UtteranceRecord.start_s, UtteranceRecord.end_s, UtteranceRecord.transcript)
        .join(UtteranceRecord, UtteranceRecord.id == ItemRecord.utterance_id)
        .join(ClipRecord, ClipRecord.id == UtteranceRecord.clip_id)
        .where(ItemRecord.project_id == project.id, ~answered.exists())
        .order_by(ItemRecord.id)
        .limit(_PART)
    )
    while True:  # page by page: whoever answers writes meanwhile
        with store.reading() as session:
            rows = session.execute(query.where(ItemRecord.id > after)).all()
        if not rows:
            return
        for row in rows:
            media = store.file_of(row.media, row.path)
            yield Pending(row.id, row.clip_id, row.name, media, row.start_s, row.end_s, row.transcript)
        after = rows[-1].id


def gold_answers(session: Session, item_id: int) -> dict[str, GoldRecord]:
    """Return the answer that counts for each target."""
    query = select(GoldRecord).filter_by(item_id=item_id).order_by(GoldRecord.id)
    return {gold.target: gold for gold in session.scalars(query)}


def _locked(session: Session, project: Project) -> ProjectRecord:
    """Return a project's row as it is now; others who want to change it wait."""
    record = session.get(ProjectRecord, project.id, with_for_update=True, populate_existing=True)
    if record is None:
        raise LabelError("unknown_project", f"project {project.name!r} is gone")
    return record


def _project(record: ProjectRecord) -> Project:
    values = {field: getattr(record, field) for field in Project.__dataclass_fields__}
    return Project(**values | {"label_set": tuple(record.label_set), "targets": tuple(record.targets)})


def _named(session: Session, name: str) -> ProjectRecord | None:
    """Return the project of this name, also one that an earlier version stored in another form of it."""
    records = {composed(record.name): record for record in session.scalars(select(ProjectRecord))}
    return records.get(composed(name))


def _refuse_taken(session: Session, name: str) -> None:
    if _named(session, name) is not None:
        raise LabelError("project_exists", f"there is a project {name!r} already; choose another name")


def _checked(values: dict) -> dict:
    """Return the columns of a ProjectRecord, or say which of them cannot be."""
    name, guidelines = clean_name(values["name"], "project"), check_text(values["guidelines"], "guidelines")
    label_set, targets = {emotion(label) for label in values["label_set"]}, set(values["targets"])
    per_item, gold_share, lease_s = values["per_item"], values["gold_share"], values["lease_s"]
    for right, complaint in (
        (name, "a project needs a name"),
        (len(label_set) > 1, f"label set {', '.join(label_set) or 'of none'}: two or more emotions are needed"),
        (targets and targets <= set(TARGETS), f"targets {values['targets']}: some of {', '.join(TARGETS)} are needed"),
        (_whole(per_item) and 1 <= per_item <= MAX_PER_ITEM, f"{per_item} annotators per item: 1 to {MAX_PER_ITEM}"),
        (_number(gold_share) and 0 <= gold_share <= 1, f"share of gold items {gold_share}: 0 to 1 is needed"),
        (values["order"] in ORDERS, f"order {values['order']!r}: one of {', '.join(ORDERS)} is needed"),
        (_number(lease_s) and 1 <= lease_s <= MAX_LEASE_S, f"a lease of {lease_s} s: 1 to {MAX_LEASE_S} s"),
    ):
        if not right:
            raise LabelError("bad_project", complaint)
    return {
        "name": name,
        "guidelines": guidelines,
        "label_set": [label for label in EMOTIONS if label in label_set],
        "targets": [target for target in TARGETS if target in targets],
        "per_item": per_item,
        "gold_share": float(gold_share),
        "order": values["order"],
        "blind": bool(values["blind"]),
        "lease_s": int(lease_s),
    }


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
