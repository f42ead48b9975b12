"""Agreement checked against published and hand-made tables; aggregation against annotators whose mistakes are known."""

import unicodedata
from datetime import datetime, timezone

import numpy as np
import pytest

from annotations.db.schema import CurrentLabelRecord, GoldRecord, ItemRecord, ProjectRecord
from annotations.item_summary import entropy
from annotations.label import Label
from annotations.queue import projects
from annotations.review.aggregate import METHODS, aggregate
from annotations.review.agreement import Ratings, agreement, alpha, cohen_kappas, gold_accuracy, kappa, one_against_rest
from mmer.errors import LabelError
from mmer.labels import EMOTIONS, N_EMOTIONS

# Krippendorff, Computing Krippendorff's Alpha-Reliability, section C: 4 observers, 12 units, 5 values.
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]


def ratings(rows: list[list[int]]) -> Ratings:
    """Return ratings from a matrix of raters by units; -1 is missing."""
    matrix = np.array(rows)
    rater, unit = np.nonzero(matrix >= 0)
    nothing = np.full(len(unit), np.nan)
    return Ratings(unit, rater, matrix[rater, unit], nothing, np.full(len(unit), -1), np.empty(0, int))


def test_alpha_of_the_textbook_example():
    found = ratings([[v - 1 for v in row] for row in FOUR_OBSERVERS])
    assert alpha(found.counts()) == pytest.approx(0.743, abs=5e-4)


def test_alpha_where_it_is_undefined():
    assert alpha(np.zeros((0, N_EMOTIONS), int)) is None
    assert alpha(np.eye(N_EMOTIONS, dtype=int)) is None  # nothing was rated twice
    assert alpha(np.array([[2, 0], [3, 0]])) is None  # all said the same, of everything
    assert alpha(np.array([[2, 0], [0, 2]])) == 1.0


def test_kappa_of_a_table_made_by_hand():
    # Both say yes to 20 and no to 15 of 50; by chance they would agree on 0.5 * 0.6 + 0.5 * 0.4 = 0.5, so kappa is
    # (0.7 - 0.5) / 0.5.
    assert kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert kappa(np.array([[7, 0], [0, 0]])) is None


def test_kappas_of_every_two_raters_over_what_they_share():
    found = cohen_kappas(ratings([[0, 1, 0, 1, -1], [0, 1, 1, 0, 3], [-1, -1, -1, 1, 3]]))
    assert found == {(0, 1): (0.0, 4), (0, 2): (None, 1), (1, 2): (pytest.approx(1 / 3), 2)}


def test_entropy_in_bits():
    assert [entropy(c) for c in ([3], [2, 2], [1, 1, 1, 1], [], [0, 4])] == [0, 1, 2, 0, 0]
    assert entropy([1, 3]) == pytest.approx(0.811, abs=5e-4)


@pytest.fixture
def labelled(store):
    """Three annotators on four clips; the second clip twice, for a stretch and for the face alone."""
    clips = [store.register_clip(None, f"{i:064x}", name=f"clip {i}") for i in range(4)]
    said = {"happiness": "base", "probs": {}, "present": {"face": True, "voice": False, "text": False}}
    predictions = [
        store.add_prediction(
            clip,
            {
                "emotion": "happiness",
                "probs": {e: 1 / 7 for e in EMOTIONS},
                "checkpoint": "base",
                "present": said["present"],
                "per_modality": {"face": {"emotion": "fear", "probs": {}}, "voice": None},
            },
        )
        for clip in clips
    ]
    table = {
        "ann": ["happiness", "anger", "sadness", "fear"],
        "bea": ["happiness", "anger", "fear", "fear"],
        "cy": ["happiness", "disgust", None, "fear"],
    }
    for annotator, emotions in table.items():
        for clip, prediction, emotion in zip(clips, predictions, emotions, strict=True):
            outcome = "label" if emotion else "cannot_tell"
            store.add_label(
                clip, annotator, emotion, outcome=outcome, prediction_id=prediction, lead_time_s=len(annotator)
            )
    store.add_label(clips[1], "ann", "neutral", start_s=1, end_s=2)
    store.add_label(clips[1], "ann", "fear", target="face", prediction_id=predictions[1])
    store.add_label(clips[1], "bea", "anger", target="face", prediction_id=predictions[1])
    return store


def test_agreement_of_a_store(labelled):
    found = agreement(labelled)
    counts = np.zeros((5, N_EMOTIONS), int)
    for unit, emotions in enumerate(
        (["happiness"] * 3, ["anger", "anger", "disgust"], ["sadness", "fear"], ["fear"] * 3)
    ):
        for emotion in emotions:
            counts[unit, EMOTIONS.index(emotion)] += 1
    assert found.alpha == pytest.approx(alpha(counts))
    assert (found.n_items, found.n_shared, found.n_labels, found.n_cannot_tell) == (5, 4, 12, 1)
    assert found.per_emotion["happiness"] == 1.0
    assert found.per_emotion["surprise"] is None
    assert found.per_target == {"all": found.alpha, "face": alpha(np.array([[1, 1]])), "voice": None, "text": None}
    assert {pair: n for pair, (_, n) in found.kappas.items()} == {("ann", "bea"): 4, ("ann", "cy"): 3, ("bea", "cy"): 3}
    assert found.kappas["ann", "bea"][0] == pytest.approx((3 / 4 - 4 / 16) / (1 - 4 / 16))
    assert [(a.name, a.n, a.cannot_tell, a.median_lead_s) for a in found.annotators] == [
        ("ann", 5, 0, 3.0),
        ("bea", 4, 0, 3.0),
        ("cy", 3, 1, 2.0),
    ]
    happiness = EMOTIONS.index("happiness")
    assert (
        found.confusion.sum() == found.confusion[:, happiness].sum() == 11
    )  # the stretch was labelled without a model
    assert found.confusion[happiness, happiness] == 3
    face = agreement(labelled, target="face")
    assert face.confusion.sum() == face.confusion[:, EMOTIONS.index("fear")].sum() == 2


def test_a_correction_counts_and_what_it_replaced_does_not(labelled):
    clip = next(labelled.labels()).sha256
    with labelled.reading() as session:
        first = session.query(CurrentLabelRecord).order_by(CurrentLabelRecord.label_id).first()
    labelled.add_label(first.clip_id, "ann", "surprise")
    again = agreement(labelled)
    assert again.n_labels == 12
    assert again.per_emotion["happiness"] < 1
    assert clip == f"{0:064x}"


def test_gold_counts_by_its_newest_answer(labelled):
    with labelled.writing() as session:
        project = ProjectRecord(name="faces", label_set=list(EMOTIONS), targets=["all"])
        session.add(project)
        session.flush()
        items = []
        for i in range(1, 5):
            item = ItemRecord(project_id=project.id, utterance_id=labelled.utterance(i, session=session), gold=True)
            session.add(item)
            session.flush()
            items.append(item.id)
        for item, emotions in (
            (items[0], {"fear": 1.0}),
            (items[0], {"happiness": 1.0}),
            (items[2], {"sadness": 0.5, "anger": 0.5}),
        ):
            session.add(GoldRecord(item_id=item, emotions=emotions))
            session.flush()
    for i, emotion in ((1, "happiness"), (3, "anger")):
        labelled.add_label(i, "ann", emotion, item_id=items[i - 1])
    labelled.add_label(3, "bea", "fear", item_id=items[2])
    everything, project = agreement(labelled), agreement(labelled, "faces")
    for found in (everything, project):
        assert {a.name: (a.gold_right, a.gold_n) for a in found.annotators if a.gold_n} == {
            "ann": (2, 2),
            "bea": (0, 1),
        }
    assert (everything.n_items, everything.n_labels) == (5, 12)  # a stretch in a queue and out of it is one stretch
    assert (project.n_items, project.n_labels, project.n_shared) == (2, 3, 1)
    labelled.add_label(1, "bea", outcome="cannot_tell", item_id=items[0])  # who cannot tell what is known is not right
    with labelled.writing() as session:
        session.add(GoldRecord(item_id=items[2], emotions={}))  # taken back
    with labelled.reading() as session:
        assert gold_accuracy(session) == {"ann": (1, 1), "bea": (0, 1)}


def test_unknown_projects_and_targets_are_named(labelled):
    with pytest.raises(LabelError, match="there is no project 'x'; there is none yet"):
        agreement(labelled, "x")
    with pytest.raises(LabelError, match="target 'nose' is none of all, face, voice, text"):
        agreement(labelled, target="nose")


def test_a_project_was_not_found_under_the_other_unicode_form_of_its_name(store):
    projects.create(store, "Zo\u00eb", actor="boss")
    assert agreement(store, unicodedata.normalize("NFD", "Zo\u00eb")).n_items == 0


def test_nothing_labelled_is_no_error(store):
    found = agreement(store)
    assert (found.alpha, found.kappas, found.annotators, found.n_items) == (None, {}, (), 0)
    assert found.confusion.shape == (N_EMOTIONS, N_EMOTIONS)


# Aggregation


def label(clip: int, annotator: str, emotions: dict[str, float], outcome: str = "label") -> Label:
    return Label(
        id=0,
        sha256=f"{clip:064x}",
        name="",
        media=None,
        in_place=False,
        start_s=None,
        end_s=None,
        outcome=outcome,
        emotions=emotions,
        target="all",
        annotator=annotator,
        speaker=None,
        confidence=None,
        comment="",
        transcript=None,
        prediction_id=None,
        created_at=datetime.now(timezone.utc),
    )


def key(clip: int) -> tuple:
    return f"{clip:064x}", None, None, "all"


def test_each_method_on_labels_made_by_hand():
    labels = [
        label(1, "ann", {"fear": 0.8, "anger": 0.2}),
        label(1, "bea", {"anger": 1.0}),
        label(1, "cy", {"anger": 1.0}),
        label(2, "ann", {"fear": 1.0}),
        label(2, "bea", {"sadness": 1.0}),
        label(3, "bea", {}, "cannot_tell"),
        label(4, "ann", {"fear": 0.5, "disgust": 0.5}),
    ]
    approx = pytest.approx
    soft = aggregate(labels)
    assert soft[key(1)] == {"anger": approx(2.2 / 3), "fear": approx(0.8 / 3)}
    assert key(3) not in soft
    majority = aggregate(labels, "majority")
    assert majority[key(1)] == {"anger": 1.0}
    assert majority[key(2)] == {"fear": 0.5, "sadness": 0.5}  # a tie stays a tie
    assert majority[key(4)] == {"fear": 0.5, "disgust": 0.5}
    # 9 of 10 right weighs 10/12, none of 3 weighs 1/5, who saw no gold item 1/2.
    gold = aggregate(labels, "gold", gold={"ann": (9, 10), "bea": (0, 3)})
    weights = np.array([10 / 12, 1 / 5, 1 / 2])
    assert gold[key(1)]["fear"] == approx(0.8 * weights[0] / weights.sum())
    assert gold[key(2)]["fear"] == approx(weights[0] / weights[:2].sum())
    for method in METHODS:
        found = aggregate(
            labels, method, gold={"ann": (9, 10)}, final={key(1): {"surprise": 1.0}, key(9): {"fear": 1.0}}
        )
        assert found[key(1)] == {"surprise": 1.0}
        assert found[key(9)] == {"fear": 1.0}
        assert all(sum(shares.values()) == approx(1) for shares in found.values())
        assert all(list(shares) == [e for e in EMOTIONS if e in shares] for shares in found.values())


def test_an_unknown_method_is_named():
    with pytest.raises(LabelError, match="aggregation 'median' is none of majority, gold, dawid_skene, soft"):
        aggregate([], "median")


def test_one_annotator_alone_is_believed_by_every_method():
    labels = [label(i, "ann", {EMOTIONS[i % 7]: 1.0}) for i in range(14)]
    for method in METHODS:
        found = aggregate(labels, method)
        for i in range(14):
            assert found[key(i)] == {EMOTIONS[i % 7]: pytest.approx(1, abs=1e-6)}


def simulated(seed: int = 0, n: int = 210) -> tuple[np.ndarray, list[Label]]:
    """Two good annotators (right in 7 of 10), and one who calls most emotions by the next one's name."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % N_EMOTIONS
    good = np.full((N_EMOTIONS, N_EMOTIONS), 0.3 / 6) + np.eye(N_EMOTIONS) * (0.7 - 0.3 / 6)
    bad = 0.3 * np.full((N_EMOTIONS, N_EMOTIONS), 1 / 7) + 0.7 * np.roll(np.eye(N_EMOTIONS), 1, axis=1)
    labels = []
    for annotator, confusion in {"ann": good, "bea": good, "cy": bad}.items():
        labels += [
            label(i, annotator, {EMOTIONS[rng.choice(N_EMOTIONS, p=confusion[t])]: 1.0}) for i, t in enumerate(truth)
        ]
    return truth, labels


def test_a_bad_annotator_misleads_majority_more_than_gold_weighting_and_dawid_skene():
    truth, labels = simulated()
    gold = {"ann": (14, 20), "bea": (14, 20), "cy": (1, 20)}
    mass = {}
    for method in METHODS:
        found = aggregate(labels, method, gold=gold)
        mass[method] = np.mean([found[key(i)].get(EMOTIONS[t], 0.0) for i, t in enumerate(truth)])
    assert mass["majority"] < mass["gold"] < mass["dawid_skene"]
    assert mass["soft"] < mass["gold"]
    assert mass["gold"] > mass["majority"] + 0.03
    assert mass["dawid_skene"] > mass["gold"] + 0.1


def test_a_final_label_teaches_dawid_skene_about_its_annotators():
    """Two annotators who always differ: without a known answer nobody is believed more, with some the right one is."""
    truth, labels = simulated(seed=3, n=70)
    pair = [row for row in labels if row.annotator in ("ann", "cy")]
    final = {key(i): {EMOTIONS[t]: 1.0} for i, t in enumerate(truth) if i < 28}
    rest = [i for i in range(len(truth)) if i >= 28]

    def right(found: dict) -> float:
        return float(np.mean([found[key(i)].get(EMOTIONS[truth[i]], 0.0) for i in rest]))

    assert right(aggregate(pair, "dawid_skene", final=final)) > right(aggregate(pair, "dawid_skene")) + 0.1


def test_one_emotion_against_the_rest_is_the_librarys_alpha_of_two_columns():
    rng = np.random.default_rng(3)
    counts = rng.multinomial(rng.integers(0, 5), [0.3, 0.1, 0.2, 0.2, 0.1, 0.1, 0.0], size=400)
    counts = np.concatenate([counts, rng.multinomial(2, [0.5, 0.5, 0, 0, 0, 0, 0], size=50)])
    found = one_against_rest(counts)
    for k in range(6):
        rest = np.stack([counts[:, k], counts.sum(1) - counts[:, k]], 1)
        assert found[k] == pytest.approx(alpha(rest))
    assert found[6] is None  # nobody ever chose it
