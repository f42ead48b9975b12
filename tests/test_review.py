"""What annotators differ about, the reviewer's final word, and the tab that shows it, called as any program would."""

import re
from dataclasses import replace
from datetime import datetime, timezone
from urllib.error import HTTPError
from urllib.request import urlopen

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from sqlalchemy import delete, func, select

from annotations.accounts import Accounts
from annotations.db.schema import AdjudicationRecord, AuditRecord, ItemRecord, ItemSummaryRecord
from annotations.item_summary import refresh_summaries
from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue
from annotations.queue.projects import add_items, create
from annotations.review import adjudication
from annotations.review.adjudication import Filters, adjudicate, disagreements, final_labels, history
from annotations.review.aggregate import aggregate
from annotations.review.agreement import agreement, alpha, alpha_interval
from mmer.config import Paths
from mmer.errors import LabelError
from mmer.labels import EMOTIONS
from mmer.media import content_hash
from mmer.ui.agreement_html import MIN_SHARED, meaning
from mmer.ui.review_tab import ReviewTab
from mmer.ui.service import Service
from tests import synth
from tests.clients import client_of


def predict(store, clip: int, emotion: str, face: str = "neutral") -> int:
    return store.add_prediction(
        clip,
        {
            "emotion": emotion,
            "probs": {e: float(e == emotion) for e in EMOTIONS},
            "checkpoint": "base",
            "per_modality": {"face": {"emotion": face, "probs": {}}, "voice": None, "text": None},
            "present": {"face": True, "voice": False, "text": False},
        },
    )


def fill(store, media=None) -> tuple[projects.Project, list[int]]:
    """Four clips in a project, judged by three annotators; returns the project and its items."""
    clips = []
    for i in range(4):
        file = media if i == 0 else None
        sha256 = content_hash(file) if file else f"{i:064x}"
        clips.append(
            store.register_clip(
                file, sha256, name=f"clip {i}", consent_text="yes" if file else None, speaker=f"speaker {i}"
            )
        )
        predict(store, clips[-1], "anger" if i == 3 else "fear")
    project = create(store, "faces", targets=("all", "face"), per_item=3, gold_share=0.0, order="random", actor="ada")
    add_items(store, project, [store.utterance(clip) for clip in clips])
    said = {
        "ann": ["fear", "anger", "sadness", "happiness"],
        "bea": ["fear", "disgust", "sadness", "happiness"],
        "cy": ["fear", "surprise", "neutral", None],
    }
    queue = Queue(store, project)
    items = {}
    for annotator, emotions in said.items():
        for task in queue.next(annotator, 4):
            items[task.clip_id] = task.item_id
            emotion = emotions[clips.index(task.clip_id)]
            comment = "out of the picture" if task.clip_id == clips[1] and annotator == "bea" else ""
            answers = (
                [Answer(emotion, comment=comment), Answer("neutral", target="face")]
                if emotion
                else Answer(outcome="broken")
            )
            queue.submit(task.assignment_id, annotator, answers, lead_time_s=4.0, blind=True)
    return project, [items[clip] for clip in clips]


@pytest.fixture
def filled(store):
    return store, fill(store)[1]


def order(store, target: str = "all", **filters) -> list[int]:
    return [found.item_id for found in disagreements(store, "faces", target, filters=Filters(**filters))]


def test_items_come_by_entropy_then_by_how_many_judged_them(filled):
    store, items = filled
    found = disagreements(store, "faces")
    # Three emotions of three: log2(3) bits; two of three: 0.918; then those all agree on, three labels before two.
    assert [d.item_id for d in found] == [items[1], items[2], items[0], items[3]]
    assert [round(d.entropy, 3) for d in found] == [1.585, 0.918, 0.0, 0.0]
    assert found[0].counts == {"anger": 1, "disgust": 1, "surprise": 1}
    assert (found[0].name, found[0].commented, found[0].broken) == ("clip 1", True, False)
    assert found[3].broken
    assert {d.entropy for d in disagreements(store, "faces", "face")} == {0.0}


def test_pages_follow_each_other_without_gap(filled):
    store, items = filled
    pages = [disagreements(store, "faces", offset=at, limit=2) for at in (0, 2, 4)]
    assert [[d.item_id for d in page] for page in pages] == [[items[1], items[2]], [items[0], items[3]], []]


def test_each_filter_keeps_its_items(filled):
    store, items = filled
    assert order(store, emotion="sadness") == [items[2]]
    assert order(store, emotion="joy") == [items[3]]  # a corpus' name for happiness
    assert order(store, annotator="cy", outcome="broken") == [items[3]]
    assert order(store, outcome="cannot_tell") == []
    assert order(store, commented=True) == [items[1]]
    # The model said fear of 0 to 2 and anger of 3: right of 0 alone.
    assert order(store, model_differs=True) == [items[1], items[2], items[3]]
    assert order(store, "face", model_differs=True) == []
    adjudicate(store, 3, None, None, "all", "neutral", "rita")
    assert order(store, undecided=True) == [items[1], items[0], items[3]]
    assert order(store, "face", undecided=True) == [items[0], items[1], items[2], items[3]]


def test_bad_questions_are_answered_by_name(filled):
    store, _ = filled
    for call, message in (
        (lambda: disagreements(store, "voices"), "there is no project 'voices'; there is faces"),
        (lambda: disagreements(store, "faces", "nose"), "target 'nose' is none of all, face, voice, text"),
        (lambda: order(store, annotator="nobody"), "nobody by the name 'nobody' has labelled here"),
        (lambda: order(store, outcome="skip"), "outcome 'skip' is neither cannot_tell nor broken"),
        (lambda: order(store, emotion="boredom"), "label 'boredom' is not an emotion of this model"),
        (lambda: disagreements(store, "faces", limit=1000), "a page starts at 0 or later and has 1 to 200"),
        (lambda: history(store, 99), "there is no item 99; its clip may have been deleted"),
        (lambda: adjudicate(store, 99, None, None, "all", "fear", "rita"), "there is no clip 99"),
        (lambda: adjudicate(store, 1, None, None, "all", None, "rita"), "nobody has decided this yet"),
        (lambda: adjudicate(store, 1, None, None, "all", "fear", " "), "give the annotator's name"),
    ):
        with pytest.raises(LabelError, match=message):
            call()
    assert final_labels(store) == {}


def test_a_correction_and_an_undo_move_the_item(filled):
    store, items = filled
    label = store.add_label(2, "cy", "anger", item_id=items[1])
    assert [round(d.entropy, 3) for d in disagreements(store, "faces")][:2] == [0.918, 0.918]
    store.undo(label, "cy")
    assert disagreements(store, "faces")[0].counts == {"anger": 1, "disgust": 1, "surprise": 1}


def test_a_decision_is_appended_and_taken_back_by_another_row(filled):
    store, items = filled
    key = (f"{1:064x}", None, None, "all")
    adjudicate(store, 2, None, None, "all", "anger", "rita", "the voice decides")
    adjudicate(store, 2, None, None, "all", {"anger": 3, "disgust": 1}, "rolf")
    assert final_labels(store) == {key: {"anger": 0.75, "disgust": 0.25}}
    assert adjudication.item(store, items[1]).final == {"anger": 0.75, "disgust": 0.25}
    adjudicate(store, 2, None, None, "all", None, "rita")
    assert final_labels(store) == {}
    assert not disagreements(store, "faces")[0].decided
    with store.reading() as session:
        rows = session.execute(
            select(AdjudicationRecord.emotions, AdjudicationRecord.comment).order_by(AdjudicationRecord.id)
        )
        assert [tuple(row) for row in rows] == [
            ({"anger": 1.0}, "the voice decides"),
            ({"anger": 0.75, "disgust": 0.25}, ""),
            ({}, ""),
        ]
        audited = session.execute(
            select(AuditRecord.actor, AuditRecord.action)
            .where(AuditRecord.action.startswith("adjudication"))
            .order_by(AuditRecord.id)
        )
        assert [tuple(row) for row in audited] == [
            ("rita", "adjudication.decide"),
            ("rolf", "adjudication.decide"),
            ("rita", "adjudication.take_back"),
        ]


def test_the_history_tells_what_was_replaced_and_taken_back(filled):
    store, items = filled
    wrong = store.add_label(2, "cy", "anger", item_id=items[1], comment="a slip")
    store.undo(wrong, "cy")
    adjudicate(store, 2, None, None, "all", "anger", "rita")
    adjudicate(store, 2, None, None, "all", "disgust", "rolf")
    events = history(store, items[1])
    assert [e.at for e in events] == sorted(e.at for e in events)
    assert events[0].kind == "prediction"
    assert (events[0].who, events[0].what) == ("base", "fear")
    told = [(e.kind, e.who, e.what, e.counts) for e in events if e.target == "all"]
    assert told == [
        ("label", "ann", "anger", True),
        ("label", "bea", "disgust", True),
        ("label", "cy", "surprise", True),
        ("label", "cy", "anger", False),
        ("undo", "cy", "", False),
        ("decision", "rita", "anger", False),
        ("decision", "rolf", "disgust", True),
    ]
    assert [(e.who, e.what) for e in events if e.kind == "lease"] == [("ann", "done"), ("bea", "done"), ("cy", "done")]


def test_an_item_shows_the_labels_that_count_side_by_side(filled):
    store, items = filled
    store.add_label(2, "cy", "anger", item_id=items[1])
    projects.set_gold(
        store, projects.project(store, "faces"), items[1], "anger", why="the speaker says so", actor="ada"
    )
    found = adjudication.item(store, items[1])
    assert [(g.annotator, g.emotions, g.lead_time_s, g.blind, g.model) for g in found.labels] == [
        ("ann", {"anger": 1.0}, 4.0, True, "fear"),
        ("bea", {"disgust": 1.0}, 4.0, True, "fear"),
        ("cy", {"anger": 1.0}, None, None, None),
    ]
    assert found.gold == {"anger": 1.0}
    assert found.media is None
    assert [g.model for g in adjudication.item(store, items[1], "face").labels] == ["neutral"] * 3


def test_standings_made_anew_are_those_kept(filled):
    store, _ = filled
    adjudicate(store, 3, None, None, "all", "neutral", "rita")

    def kept() -> list[tuple]:
        with store.reading() as session:
            columns = ItemSummaryRecord.__table__
            return [
                tuple(row) for row in session.execute(select(columns).order_by(columns.c.target, columns.c.item_id))
            ]

    before = kept()
    assert len(before) == 8
    with store.writing() as session:
        session.execute(delete(ItemSummaryRecord))
        refresh_summaries(session)
    assert kept() == before
    store.delete_clip(f"{2:064x}")
    assert len(kept()) == 6
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(ItemRecord)) == 3
        assert session.scalar(select(func.count()).select_from(AdjudicationRecord)) == 0


def test_times_are_aware(filled):
    store, items = filled
    assert all(e.at.tzinfo is not None and e.at <= datetime.now(timezone.utc) for e in history(store, items[0]))


# The tab


PASSWORD = "long enough"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A store with a kept clip, and an account of each role."""
    home = tmp_path_factory.mktemp("home")
    paths = replace(Paths.from_env(), home=home, database_url=f"sqlite:///{home / 'mmer.db'}", device="cpu", space="")
    for name, role in (("vera", "viewer"), ("ann", "annotator"), ("rita", "reviewer"), ("ada", "admin")):
        Accounts(paths.accounts).add(name, PASSWORD, role)
    service = Service(paths)
    fill(service.store, synth.write_clip(home / "talk.wav", seconds=1))
    service.store.add_label(1, "bea", "fear", item_id=1, comment="<img src=x onerror=alert(1)>")
    return service


@pytest.fixture(scope="module")
def url(service):
    with gr.Blocks(analytics_enabled=False) as page:
        ReviewTab(service)
    _, url, _ = page.queue().launch(
        prevent_thread_lock=True, quiet=True, auth=lambda name, password: bool(service.accounts.check(name, password))
    )
    yield url
    page.close()


def log_in(url: str, name: str) -> Client:
    return client_of(url, auth=(name, PASSWORD))


def show(client: Client, **given) -> tuple[dict, list[dict], str]:
    """Return the figures, the list of items as JSON, and the agreement as a reader sees it."""
    given = {"project": "faces", "target": "all", **given}
    _, raw_items, _, agreed, raw, _ = client.predict(**given, api_name="/review")
    return raw, raw_items, " ".join(re.sub("<[^>]*>", " ", agreed).split())


def test_a_reviewer_sees_decides_and_takes_back(url, service):
    client = log_in(url, "rita")
    names, *_ = client.predict(api_name="/review_projects")
    assert names["choices"] == [["faces", "faces"]]
    raw, items, text = show(client)
    assert raw["alpha"] == pytest.approx(agreement(service.store, "faces").alpha)
    assert f"Krippendorff's alpha {raw['alpha']:.2f}" in text
    assert "ann 4 0 none seen 4.0 s" in text
    assert [i["item_id"] for i in items] == [d.item_id for d in disagreements(service.store, "faces")]
    detail, past, shown, *_ = client.predict(items[0]["item_id"], "all", api_name="/review_open")
    assert [g["annotator"] for g in shown["labels"]] == ["ann", "bea", "cy"]
    assert "The recording was not kept" in detail
    assert "Label by <strong>cy</strong> (all together): surprise" in past

    _, past, shown, *_ = client.predict(["anger"], "as its words say", "somebody else", api_name="/review_decide")
    assert shown["final"] == {"anger": 1.0}
    assert "Decided by <strong>rita</strong>" in past  # who is logged in, whatever the page says
    assert final_labels(service.store) == {(f"{1:064x}", None, None, "all"): {"anger": 1.0}}
    assert [i["item_id"] for i in show(client, flags=["undecided"])[1]] == [i["item_id"] for i in items[1:]]
    client.predict(items[0]["item_id"], "all", api_name="/review_open")
    _, past, shown, *_ = client.predict(api_name="/review_take_back")
    assert shown["final"] == {}
    assert "no longer counts" in past
    assert final_labels(service.store) == {}


def test_a_kept_clip_is_shown_by_a_link_and_nowhere_else(url, service):
    client = log_in(url, "rita")
    detail, *_ = client.predict(1, "all", api_name="/review_open")
    assert re.search('<audio [^>]*src="media/review-[^"#]+', detail)
    media = adjudication.item(service.store, 1).media
    assert str(media) not in detail
    assert "&lt;img src=x onerror=alert(1)&gt;" in detail
    assert "<img src=x" not in detail
    with pytest.raises(HTTPError, match=r"401|403"):
        urlopen(f"{url}gradio_api/file={media}")


def test_whoever_may_not_review_is_refused_at_every_endpoint(url, service):
    asked = {
        "/review_projects": {},
        "/review": {"project": "faces"},
        "/review_previous": {"project": "faces"},
        "/review_next": {"project": "faces"},
        "/review_open": {"item_id": 1},
        "/review_filter": {"project": "faces"},
        "/review_decide": {"emotion": ["fear"], "name": "rita"},
        "/review_cannot_tell": {"name": "rita"},
        "/review_broken": {"name": "rita"},
        "/review_take_back": {"name": "rita"},
    }
    reviewer = log_in(url, "rita")
    endpoints = {name for name in reviewer.view_api(return_format="dict")["named_endpoints"] if "review" in name}
    assert endpoints == set(asked)
    for who in ("vera", "ann"):
        client = log_in(url, who)
        for api_name, given in asked.items():
            with pytest.raises(AppError, match="to review takes the role reviewer"):
                client.predict(**given, api_name=api_name)
    assert final_labels(service.store) == {}
    assert show(log_in(url, "ada"))[1]


def test_a_changed_role_counts_at_once(url, service):
    client = log_in(url, "rita")
    client.predict(1, "all", api_name="/review_open")
    service.accounts.change_role("rita", "annotator")
    try:
        with pytest.raises(AppError, match="to review takes the role reviewer, and rita has the role annotator"):
            client.predict("fear", api_name="/review_decide")
    finally:
        service.accounts.change_role("rita", "reviewer")
    assert final_labels(service.store) == {}


def test_errors_name_what_is_missing(url):
    client = log_in(url, "rita")
    for api_name, given, message in (
        ("/review", {}, "choose a project"),
        ("/review", {"project": "faces", "annotator": "nobody"}, "nobody by the name 'nobody' has labelled here"),
        ("/review_open", {}, "choose an item from the list"),
        ("/review_decide", {"emotion": ["fear"]}, "open an item first"),
    ):
        with pytest.raises(AppError, match=message):
            client.predict(**given, api_name=api_name)
    client.predict(1, "all", api_name="/review_open")
    with pytest.raises(AppError, match="choose the final label"):
        client.predict(api_name="/review_decide")


@pytest.mark.parametrize("item", ["²", "9" * 20, "9" * 5000])
def test_an_address_with_a_number_that_is_none_was_our_fault(url, item):
    _, status, *_ = log_in(url, "rita").predict("faces", item, True, api_name="/review_projects")
    assert "Our fault" not in status


@pytest.mark.parametrize(
    ("alpha", "word"),
    [
        (1.0, "reliable"),
        (0.8, "reliable"),
        (0.7, "tentative"),
        (0.5, "low"),
        (0.0, "about chance"),
        (-0.5, "worse than chance"),
        (None, "not known"),
    ],
)
def test_an_alpha_is_said_in_words(alpha, word):
    assert meaning(alpha, MIN_SHARED)[0] == word


def test_eight_items_were_said_to_be_about_chance():
    assert meaning(0.0, 8, (-0.4, 0.4))[0] == "too few items to say"
    assert meaning(0.0, MIN_SHARED, (-0.1, 0.15))[0] == "about chance"
    assert meaning(0.0, MIN_SHARED, (-0.3, 0.3))[0] == "worse than chance to low"


def test_the_interval_is_that_of_segments_drawn_anew():
    rng = np.random.default_rng(3)
    rated = rng.integers(0, 3, (60, 3))
    rated[:30] = rated[:30, :1]  # half of them all agree on
    counts = np.stack([np.bincount(row, minlength=len(EMOTIONS)) for row in rated])
    low, high = alpha_interval(counts, n_resamples=4000)
    drawn = [alpha(counts[rng.integers(0, 60, 60)]) for _ in range(1500)]  # by the library, one by one
    assert [low, high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.03)
    assert low < alpha(counts) < high
    assert alpha_interval(counts[:1]) is None
    perfect = np.eye(len(EMOTIONS), dtype=int)[[0, 1, 2, 3] * 10] * 2
    assert alpha_interval(perfect) == pytest.approx((1.0, 1.0))


def test_that_nobody_can_tell_is_a_final_word_and_nothing_is_learned(filled):
    store, items = filled
    clip = adjudication.item(store, items[1]).clip_id
    adjudicate(store, clip, None, None, "all", None, "rita", outcome="cannot_tell")
    shown = adjudication.item(store, items[1])
    assert (shown.final, shown.final_outcome) == ({}, "cannot_tell")
    assert final_labels(store) == {(shown.sha256, None, None, "all"): {}}
    assert items[1] not in order(store, undecided=True)
    assert [e.what for e in history(store, items[1]) if e.kind == "decision"] == ["cannot tell"]
    labels = list(store.labels())
    keys = aggregate(labels, final=final_labels(store)).keys()
    assert aggregate(labels).keys() - keys == {(shown.sha256, None, None, "all")}
    adjudicate(store, clip, None, None, "all", None, "rita")  # taken back
    assert final_labels(store) == {}
    assert items[1] in order(store, undecided=True)
    with pytest.raises(LabelError, match="only `label` names emotions"):
        adjudicate(store, clip, None, None, "all", "fear", "rita", outcome="broken")
    with pytest.raises(LabelError, match="nobody has decided this yet"):
        adjudicate(store, clip, None, None, "all", None, "rita")


def test_a_mixture_is_decided_and_the_next_undecided_item_opens(url, service):
    client = log_in(url, "rita")
    _, items, _ = show(client)
    ids = [item["item_id"] for item in items]
    client.predict(ids[0], "all", api_name="/review_open")
    client.predict(["sadness", "fear"], api_name="/review_decide")
    found = adjudication.item(service.store, ids[0])
    assert found.final == pytest.approx({"fear": 1 / 3, "sadness": 2 / 3})
    *_, told = client.predict("faces", "all", "", "", "", [], "", api_name="/review_decide_next")
    assert "Decided: sadness 67 %, fear 33 %. Here is the next." in told
    client.predict(api_name="/review_broken")  # of the item that is open now
    assert adjudication.item(service.store, ids[1]).final_outcome == "broken"
    for item_id in ids[:2]:
        client.predict(item_id, "all", api_name="/review_open")
        client.predict(api_name="/review_take_back")
    assert final_labels(service.store) == {}
