"""The labels database: nothing acknowledged is lost, nothing forgotten is left, on SQLite and on PostgreSQL."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import String, cast, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from annotations import retention
from annotations.__main__ import main
from annotations.db import backup
from annotations.db.schema import OUTCOMES, VERSION, Base, LabelRecord, PredictionRecord, TrainingRunRecord
from annotations.store import Store
from mmer.config import ROOT
from mmer.errors import LabelError

RESULT = {
    "emotion": "fear",
    "probs": {"fear": 0.6, "anger": 0.4},
    "per_modality": {"face": None, "voice": {"probs": {"fear": 0.6, "anger": 0.4}, "emotion": "fear"}, "text": None},
    "present": {"face": False, "voice": True, "text": False},
    "checkpoint": "20260101T000000-abc",
}
# A writer of another process: registers a clip, then labels it with a new segment each time and says so.
WRITER = """
import sys
from pathlib import Path
from annotations.store import Store
store = Store(sys.argv[1], Path(sys.argv[2]))
clip = store.register_clip(None, "c" * 64, name="shared.mp4")
for i in range(int(sys.argv[4])):
    print(store.add_label(clip, sys.argv[3], "anger", start_s=i, end_s=i + 1), flush=True)
"""


on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def make_clip(folder: Path, content: bytes = b"not really a film", name: str = "talk.MP4") -> tuple[Path, str]:
    path = folder / name
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def start_writer(store: Store, annotator: str, n: int) -> subprocess.Popen:
    command = [
        sys.executable,
        "-c",
        WRITER,
        store.engine.url.render_as_string(hide_password=False),
        str(store.media_dir),
        annotator,
        str(n),
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def refused(code: str):
    return pytest.raises(LabelError, check=lambda error: error.code == code)


def files_with(folder: Path, needle: str) -> list[Path]:
    return [
        file
        for file in folder.rglob("*")
        if needle in str(file) or (file.is_file() and needle.encode() in file.read_bytes())
    ]


def test_label_comes_back_with_what_retraining_needs(store, tmp_path):
    path, sha256 = make_clip(tmp_path)
    clip = store.register_clip(path, sha256, name="talk.mp4", speaker="ann", in_place=True, source="import")
    prediction = store.add_prediction(clip, RESULT)
    label_id = store.add_label(
        clip,
        " bea ",
        {"happy": 3, "surprise": 1},
        start_s=1.0004,
        end_s=2.5,
        target="voice",
        confidence=0.8,
        comment="laughs",
        transcript="oh really",
        prediction_id=prediction,
    )
    (label,) = store.labels()
    assert (label.id, label.sha256, label.annotator, label.speaker) == (label_id, sha256, "bea", "ann")
    assert (label.media, label.in_place, label.start_s, label.end_s) == (path, True, 1.0, 2.5)
    assert label.emotions == {"happiness": 0.75, "surprise": 0.25}
    assert (label.target, label.confidence, label.comment, label.transcript) == ("voice", 0.8, "laughs", "oh really")
    assert abs(label.created_at - datetime.now(timezone.utc)) < timedelta(minutes=1)
    with Session(store.engine) as session:
        stored = session.get(PredictionRecord, label.prediction_id)
        assert (stored.checkpoint, stored.probs, stored.present) == (
            RESULT["checkpoint"],
            RESULT["probs"],
            RESULT["present"],
        )


def test_newest_label_of_each_annotator_segment_and_target_is_current(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    store.add_label(clip, "ann", "anger")
    kept = [
        store.add_label(clip, "ann", "fear"),
        store.add_label(clip, "bea", "anger"),
        store.add_label(clip, "ann", "anger", target="face"),
        store.add_label(clip, "ann", "anger", start_s=0, end_s=1),
    ]
    assert [label.id for label in store.labels()] == kept
    store.add_label(clip, "ann", outcome="cannot_tell")
    assert [label.id for label in store.labels()] == kept[1:]
    assert store.counts()["labels"] == 6
    assert store.counts()["current"] | {"anger": 3, "cannot_tell": 1} == store.counts()["current"]


def test_undo_is_a_new_row_and_the_label_before_counts_again(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    first = store.add_label(clip, "ann", "anger")
    second = store.add_label(clip, "ann", "fear")
    with refused("not_yours"):
        store.undo(second, "bea")
    undo = store.undo(second, "ann")
    assert [label.id for label in store.labels()] == [first]
    for label_id in (second, undo):
        with refused("already_undone"):
            store.undo(label_id, "ann")
    store.undo(first, "ann")
    assert list(store.labels(OUTCOMES)) == []
    assert store.counts()["labels"] == 4


def test_a_skip_takes_no_judgements_place(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    kept = store.add_label(clip, "ann", "anger")
    skip = store.add_label(clip, "ann", outcome="skip")
    assert [label.id for label in store.labels(OUTCOMES)] == [kept]
    store.undo(kept, "ann")
    assert [label.id for label in store.labels(OUTCOMES)] == [skip]
    again = store.add_label(clip, "ann", outcome="cannot_tell")
    assert [label.id for label in store.labels(OUTCOMES)] == [again]


@pytest.mark.parametrize("emotions", [{"anger": 10**400}, {"anger": 1e308, "fear": 1e308}, {"anger": float("nan")}])
def test_weights_beyond_all_measure_are_refused(store, emotions):
    clip = store.register_clip(None, "a" * 64, name="a")
    with refused("bad_weight"):
        store.add_label(clip, "ann", emotions)


def test_a_segment_that_rounds_to_nothing_is_refused(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    with refused("bad_segment"):
        store.add_label(clip, "ann", "anger", start_s=0.0001, end_s=0.0004)


def test_a_label_knows_what_is_said_in_its_stretch(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    store.utterance(clip, transcript="all of it")
    store.utterance(clip, 1.0, 2.0, transcript="a part")
    store.add_label(clip, "ann", "anger")
    store.add_label(clip, "ann", "fear", start_s=1.0, end_s=2.0)
    store.add_label(clip, "ann", "joy", start_s=2.0, end_s=3.0)
    assert [label.words for label in store.labels()] == ["all of it", "a part", None]


def test_a_stored_correction_of_another_segment_replaces_it_until_undone(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    whole = store.add_label(clip, "ann", "anger")
    with store.writing() as session:  # as an older database has it: nothing writes one now
        person = session.scalar(select(LabelRecord.annotator_id))
        about = {"clip_id": clip, "annotator_id": person, "start_s": 0, "end_s": 2, "target": "all"}
        corrected = LabelRecord(**about, outcome="label", emotions={"anger": 1.0}, comment="", supersedes=whole)
        session.add(corrected)
        session.flush()
        part = corrected.id
    face = store.add_label(clip, "ann", "fear", target="face")
    assert [label.id for label in store.labels()] == [part, face]
    store.undo(part, "ann")
    assert [label.id for label in store.labels()] == [whole, face]


def test_a_clock_set_back_does_not_hide_a_correction(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    ahead = datetime.now(timezone.utc) + timedelta(hours=5)
    store.add_label(clip, "ann", "anger", created_at=ahead)
    correction = store.add_label(clip, "ann", "fear")
    assert [label.id for label in store.labels()] == [correction]


def test_stored_labels_cannot_be_edited(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    store.add_label(clip, "ann", "anger")
    with pytest.raises(IntegrityError, match="appended, never edited"), store.engine.begin() as connection:
        connection.execute(text("UPDATE labels SET emotions = '{}'"))
    with pytest.raises(IntegrityError, match="appended, never edited"), store.writing() as session:
        session.scalar(select(LabelRecord)).comment = "changed my mind"
    assert next(store.labels()).emotions == {"anger": 1.0}


def test_rows_without_a_parent_are_refused(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    other = store.register_clip(None, "b" * 64, name="b")
    prediction = store.add_prediction(other, RESULT)
    with refused("unknown_clip"):
        store.add_label(99, "ann", "anger")
    for wrong in (99, prediction):
        with refused("unknown_prediction"):
            store.add_label(clip, "ann", "anger", prediction_id=wrong)
    with pytest.raises(IntegrityError, match="(?i)foreign key"), store.writing() as session:
        session.execute(
            text(
                "INSERT INTO consents (clip_id, text_version, text, scope, given_at) "
                "VALUES (99, 'v', 'yes', 'media', '2026-01-01')"
            )
        )
    assert store.counts()["labels"] == 0


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("unknown_label", {"emotions": "boredom"}),
        ("bad_weight", {"emotions": {"anger": 0}}),
        ("bad_weight", {"emotions": {"anger": float("nan")}}),
        ("bad_outcome", {"emotions": None}),
        ("bad_outcome", {"emotions": "anger", "outcome": "skip"}),
        ("bad_target", {"emotions": "anger", "target": "hands"}),
        ("bad_segment", {"emotions": "anger", "start_s": 2.0, "end_s": 1.0}),
        ("bad_segment", {"emotions": "anger", "start_s": 2.0}),
        ("bad_confidence", {"emotions": "anger", "confidence": 1.5}),
        ("bad_time", {"emotions": "anger", "created_at": datetime(2999, 1, 1, tzinfo=timezone.utc)}),
        ("bad_text", {"emotions": "anger", "comment": "\ud800"}),
    ],
)
def test_unacceptable_label_is_refused_by_name(store, code, arguments):
    clip = store.register_clip(None, "a" * 64, name="a")
    with refused(code):
        store.add_label(clip, "ann", **arguments)
    assert store.counts()["labels"] == 0


def test_no_media_without_consent(store, tmp_path):
    path, sha256 = make_clip(tmp_path)
    clip = store.register_clip(path, sha256, name="talk.mp4")
    store.add_label(clip, "ann", "anger")
    assert next(store.labels()).media is None
    assert not store.media_dir.exists()
    with store.engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            for column in table.columns:
                query = select(column).where(cast(column, String).contains(str(path)))
                assert connection.execute(query).all() == []
    assert store.register_clip(path, sha256, name="talk.mp4", consent_text="keep it for research") == clip
    stored = store.media_dir / f"{sha256}.mp4"
    assert next(store.labels()).media == stored
    assert stored.read_bytes() == path.read_bytes()
    store.register_clip(path, sha256, name="talk.mp4", consent_text="keep it for research")
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT clip_id, text FROM consents")).all() == [(clip, "keep it for research")]


def test_media_that_is_not_the_registered_clip_is_not_taken_in(store, tmp_path):
    path, _ = make_clip(tmp_path)
    with refused("clip_unreadable"):
        store.register_clip(path, "a" * 64, name="talk.mp4", consent_text="yes")
    assert list(store.media_dir.iterdir()) == []
    assert store.counts()["clips"] == 0


def test_a_clip_has_one_speaker(store):
    clip = store.register_clip(None, "a" * 64, name="a", speaker="ann")
    assert store.register_clip(None, "A" * 64, name="a") == clip
    with refused("speaker_conflict"):
        store.register_clip(None, "a" * 64, name="a", speaker="bob")


def test_four_threads_lose_no_label(store):
    ids, errors = [], []

    def work(name):
        try:
            clip = store.register_clip(None, "a" * 64, name="a")
            for i in range(50):
                ids.append(store.add_label(clip, name, "anger", start_s=i, end_s=i + 1))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ann", "bea", "cem", "dao")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(ids) == sorted(label.id for label in store.labels())
    assert len(set(ids)) == 200
    assert store.counts()["clips"] == 1


@on_sqlite
def test_two_processes_start_on_an_empty_database_and_lose_no_label(tmp_path, store):
    store.engine.dispose()
    for file in tmp_path.glob("mmer.db*"):
        file.unlink()
    writers = [start_writer(store, name, 50) for name in ("ann", "bea")]
    outputs = [writer.communicate(timeout=300) for writer in writers]
    assert [error for _, error in outputs] == ["", ""]
    ids = [int(line) for output, _ in outputs for line in output.split()]
    assert len(set(ids)) == 100
    assert {label.id for label in store.labels()} == set(ids)


def test_opening_a_new_database_in_two_processes_at_once_was_locked(tmp_path):
    """Both begin each of 60 new databases at once; unless they wait for the switch to WAL, one in five fails."""
    code = (
        "import sys, time; from annotations.store import Store\n"
        "for i in range(60):\n"
        "    while time.time() < float(sys.argv[2]) + i * 0.1: pass\n"
        "    Store(f'sqlite:///{sys.argv[1]}/{i}.db', sys.argv[1]).engine.dispose()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(time.time() + 3)]
    openers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [opener.communicate(timeout=120)[1] for opener in openers] == ["", ""]
    assert len(list(tmp_path.glob("*.db"))) == 60


def test_a_killed_writer_leaves_every_acknowledged_label(store):
    for n_acknowledged in (1, 20):
        writer = start_writer(store, f"ann{n_acknowledged}", 100_000)
        ids = {int(writer.stdout.readline()) for _ in range(n_acknowledged)}
        os.kill(writer.pid, signal.SIGKILL)
        ids |= {int(line) for line in writer.communicate()[0].split("\n")[:-1]}
        assert writer.returncode == -signal.SIGKILL
        stored = {label.id for label in store.labels() if label.annotator == f"ann{n_acknowledged}"}
        assert ids <= stored
        assert len(stored - ids) <= 1  # at most the one on its way
    if store.engine.dialect.name == "sqlite":
        with store.engine.connect() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"


def test_training_runs_consume_labels(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    used, _fresh = (store.add_label(clip, name, "anger") for name in ("ann", "bea"))
    run = store.start_run("parent-1")
    store.finish_run(run, "promoted", checkpoint="child-2", report={"uar": 0.5}, label_ids=[used])
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT run_id, label_id FROM training_run_labels")).all() == [(run, used)]
    with refused("unknown_run"):
        store.finish_run(99, "refused")


def test_labels_deleted_during_a_training_run_do_not_break_its_end_and_their_ids_stay_free(store):
    clips = [store.register_clip(None, letter * 64, name=letter) for letter in "ab"]
    kept, gone = (store.add_label(clip, "ann", "anger") for clip in clips)
    run = store.start_run(None)
    store.delete_clip("b" * 64)
    store.finish_run(run, "promoted", label_ids=[kept, gone])
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT label_id FROM training_run_labels")).all() == [(kept,)]
    assert store.add_label(clips[0], "bea", "fear") > gone


def test_a_report_names_no_clip_that_was_deleted_during_its_run(store):
    for letter in "ab":
        store.register_clip(None, letter * 64, name=letter)
    run = store.start_run(None)
    store.delete_clip("b" * 64)
    assert store.deleted(["a" * 64, "b" * 64]) == {"b" * 64}
    store.finish_run(
        run, "refused", report={"n": 1}, clips={"held_out_clips": ["a" * 64, "b" * 64], "skipped_clips": ["b" * 64]}
    )
    with store.reading() as session:
        report = session.get(TrainingRunRecord, run).report
    assert (report["held_out_clips"], report["skipped_clips"], report["n"]) == (["a" * 64], [], 1)


def test_what_was_cached_of_a_deleted_clip_goes_with_the_next_vacuum(store):
    store.register_clip(None, "a" * 64, name="a")
    store.features_dir.mkdir()
    for letter in "ab":
        (store.features_dir / f"{letter * 64}-0123456789abcdef.pt").write_bytes(b"crops")
    assert retention.vacuum(store.engine, store.media_dir, store.features_dir) == 1
    assert [f.name[0] for f in store.features_dir.iterdir()] == ["a"]


def test_a_speaker_is_the_same_with_spaces_around(store):
    store.register_clip(None, "a" * 64, name="a", speaker=" zoe")
    store.register_clip(None, "b" * 64, name="b", speaker="zoe ")
    assert store.delete_speaker(" zoe ").clips == 2


def test_deleted_speaker_leaves_no_trace(store, tmp_path):
    path, gone = make_clip(tmp_path)
    rest, kept = make_clip(tmp_path, b"another film", "other.wav")
    with store.writing() as session:
        for number in range(300):  # enough rows to move cells between pages
            filler = hashlib.sha256(str(number).encode()).hexdigest()
            store.register_clip(None, filler, name="filler " * 20, session=session)
    ours = store.register_clip(path, gone, name=f"{gone}.mp4", speaker="ann", consent_text="yes")
    other = store.register_clip(rest, kept, name="other.wav", speaker="bob", consent_text="yes")
    prediction = store.add_prediction(ours, RESULT)
    labels = [store.add_label(ours, "bea", "anger", prediction_id=prediction, comment=f"see {gone}")]
    labels.append(store.add_label(ours, "bea", "fear", start_s=0, end_s=1))
    store.undo(labels[1], "bea")
    store.add_label(other, "bea", "fear")
    store.finish_run(store.start_run(None), "refused", report={"clips": [gone, kept]}, label_ids=labels)
    (store._folders[1] / gone[:2] / gone).mkdir(parents=True)
    (store._folders[1] / gone[:2] / gone / "v1.npz").write_bytes(b"features")

    removal = store.delete_speaker("ann")

    assert (removal.clips, removal.labels, removal.predictions, removal.files) == (1, 3, 1, 2)
    assert path.exists()  # the owner's own file
    assert files_with(tmp_path, gone) == []
    with store.engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            for column in table.columns:
                assert connection.execute(select(column).where(cast(column, String).contains(gone))).all() == []
        assert connection.execute(select(TrainingRunRecord.report)).scalar() == {"clips": ["removed", kept]}
    (label,) = store.labels()
    assert (label.sha256, label.media) == (kept, store.media_dir / f"{kept}.wav")
    with refused("unknown_clip"):
        store.delete_speaker("ann")


def test_a_deleted_speaker_may_leave_anonymous_labels_that_still_count_for_agreement(store, tmp_path):
    path, gone = make_clip(tmp_path)
    clip = store.register_clip(path, gone, name="zoe at home.mp4", speaker="zoe", consent_text="yes")
    store.utterance(clip, 0, 1, transcript="I am Zoe", embedding=b"1234")
    prediction = store.add_prediction(clip, RESULT)
    label = store.add_label(
        clip, "bea", "fear", start_s=0, end_s=1, prediction_id=prediction, comment="zoe again", transcript="I am Zoe"
    )
    store.audit("bea", "clip.open", {"clip": gone})

    removal = store.delete_speaker("zoe", keep_labels=True, actor="ada")

    assert (removal.clips, removal.labels, removal.predictions, removal.files) == (1, 1, 1, 1)
    (kept,) = store.labels()
    assert (kept.id, kept.emotions, kept.annotator, kept.start_s) == (label, {"fear": 1.0}, "bea", 0.0)
    assert (kept.name, kept.speaker, kept.media, kept.comment, kept.transcript) == ("removed", None, None, "", None)
    assert kept.sha256 != gone
    with store.reading() as session:
        assert session.execute(text("SELECT transcript, embedding FROM utterances")).all() == [(None, None)]
        assert session.execute(text("SELECT count(*) FROM consents")).scalar() == 0
    for trace in (gone, "Zoe", "zoe"):
        assert files_with(tmp_path / "media", trace) == []
        with store.engine.connect() as connection:
            for table in Base.metadata.sorted_tables:
                for column in table.columns:
                    assert connection.execute(select(column).where(cast(column, String).contains(trace))).all() == []


def test_words_of_a_label_can_be_erased_but_not_changed(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    store.add_label(clip, "ann", "anger", comment="loud", transcript="no")
    with pytest.raises(IntegrityError, match="appended, never edited"), store.engine.begin() as connection:
        connection.execute(text("UPDATE labels SET comment = 'quiet'"))
    with store.writing() as session:
        session.execute(text("UPDATE labels SET comment = '', transcript = NULL"))
    assert (next(store.labels()).comment, next(store.labels()).transcript) == ("", None)


def test_the_next_training_run_lists_what_was_removed_and_the_one_after_does_not(store):
    for letter in "abc":
        clip = store.register_clip(None, letter * 64, name=letter, speaker=f"speaker {letter}")
        store.add_label(clip, "ann", "anger")
    store.delete_speaker("speaker a")
    store.delete_clip("b" * 64, keep_labels=True)
    run, later = store.start_run(None), store.start_run(None)
    listed = [(r["clips"], r["labels"], r["labels_kept"]) for r in store.removals(run)]
    assert listed == [(1, 1, False), (1, 1, True)]
    assert store.removals(later) == []
    store.finish_run(run, "refused", report={"n": 1})
    with store.reading() as session:
        report = session.get(TrainingRunRecord, run).report
    assert report == {"n": 1, "removed": store.removals(run)}
    assert "speaker" not in str(report)


def test_features_are_kept_without_the_recording(store, tmp_path):
    path, sha256 = make_clip(tmp_path)
    with refused("no_consent"):
        store.register_clip(path, sha256, name="talk.mp4", features=b"states")
    store.register_clip(path, sha256, name="talk.mp4", features=b"states", consent_text="keep what the model read")
    assert (tmp_path / "features" / f"{sha256}.states").read_bytes() == b"states"
    assert not store.media_dir.exists()
    with store.reading() as session:
        assert session.execute(text("SELECT scope, text FROM consents")).all() == [
            ("features", "keep what the model read")
        ]
    store.delete_clip(sha256)
    assert list((tmp_path / "features").iterdir()) == []


def test_media_and_features_go_when_their_time_is_over_and_labels_stay(store, tmp_path):
    path, old = make_clip(tmp_path)
    rest, new = make_clip(tmp_path, b"another film", "other.wav")
    past, ahead = (datetime.now(timezone.utc) + timedelta(days=days) for days in (-1, 1))
    clip = store.register_clip(path, old, name="talk.mp4", consent_text="for a day", keep_until=past)
    store.register_clip(rest, new, name="other.wav", consent_text="for a while", keep_until=ahead)
    store.add_label(clip, "ann", "anger")
    assert store.expire() == (1, 1)
    assert store.expire() == (0, 0)
    assert [file.name for file in store.media_dir.iterdir()] == [f"{new}.wav"]
    (label,) = store.labels()
    assert (label.sha256, label.media) == (old, None)


def test_what_is_kept_longer_than_allowed_goes_whatever_end_was_agreed(store, tmp_path):
    path, sha256 = make_clip(tmp_path)
    clip = store.register_clip(path, sha256, name="talk.mp4", consent_text="yes")
    store.utterance(clip, embedding=b"1234", transcript="oh really")
    agreed = datetime.now(timezone.utc)
    assert store.expire(given_before=agreed - timedelta(days=1)) == (0, 0)
    assert store.expire(given_before=agreed + timedelta(seconds=1)) == (1, 1)
    with store.reading() as session:
        assert session.execute(text("SELECT embedding, transcript FROM utterances")).all() == [(None, "oh really")]
    given_again = datetime.now(timezone.utc)
    store.register_clip(path, sha256, name="talk.mp4", consent_text="yes")
    assert store.expire(given_before=given_again) == (0, 0)


def test_a_clip_given_again_after_its_time_is_kept_for_the_new_time(store, tmp_path):
    path, sha256 = make_clip(tmp_path)
    past = datetime.now(timezone.utc) - timedelta(days=1)
    store.register_clip(path, sha256, name="talk.mp4", consent_text="for a day", keep_until=past)
    assert store.expire() == (1, 1)
    store.register_clip(path, sha256, name="talk.mp4", consent_text="for good")
    assert store.expire() == (0, 0)
    store.register_clip(path, sha256, name="talk.mp4", consent_text="for a day", keep_until=past)
    assert store.expire() == (1, 1)


def test_deletion_says_where_a_trace_is_left(store):
    clip = store.register_clip(None, "a" * 64, name="a")
    other = store.register_clip(None, "b" * 64, name="b")
    store.add_label(clip, "ann", "anger")
    store.add_label(other, "ann", "anger", comment=f"same person as {'a' * 64}")
    with pytest.raises(LabelError, match="table labels, column comment"):
        store.delete_clip("a" * 64)
    assert [label.sha256 for label in store.labels()] == ["b" * 64]


def test_vacuum_deletes_only_media_no_clip_needs(store, tmp_path):
    path, sha256 = make_clip(tmp_path)
    store.register_clip(path, sha256, name="talk.mp4", consent_text="yes")
    orphan, upload, foreign = (store.media_dir / name for name in ("d" * 64 + ".wav", f".{'e' * 64}.x.tmp", "me.txt"))
    for file in (orphan, upload, foreign):
        file.write_bytes(b"x")
    store.features_dir.mkdir()
    left, cache = store.features_dir / ("d" * 64 + ".states"), store.features_dir / ("d" * 64)
    left.write_bytes(b"x")
    cache.mkdir()
    assert retention.vacuum(store.engine, store.media_dir, store.features_dir) == 2
    assert list(store.features_dir.iterdir()) == [cache]
    assert sorted(store.media_dir.iterdir()) == sorted([store.media_dir / f"{sha256}.mp4", upload, foreign])


@on_sqlite
def test_restore_brings_a_backup_back_under_an_open_store(store, tmp_path):
    clip = store.register_clip(None, "a" * 64, name="a")
    store.add_label(clip, "ann", "anger")
    url, copy = str(store.engine.url), tmp_path / "backups" / "one.db"
    assert backup.backup(url, copy) == 1
    assert [file.name for file in copy.parent.iterdir()] == ["one.db"]
    store.add_label(clip, "bea", "fear")
    n_labels, kept = backup.restore(url, copy)
    assert n_labels == 1
    assert [label.annotator for label in store.labels()] == ["ann"]
    store.add_label(clip, "cem", "fear")
    assert [label.annotator for label in Store(url, tmp_path).labels()] == ["ann", "cem"]
    assert backup.check_backup(kept) == 2


@on_sqlite
def test_a_deletion_names_the_older_copies_that_still_have_the_clip(store, tmp_path):
    store.register_clip(None, "a" * 64, name="a")
    copy = tmp_path / "one.db"
    backup.backup(str(store.engine.url), copy)
    _, kept = backup.restore(str(store.engine.url), copy)
    store.register_clip(None, "b" * 64, name="b")
    assert store.delete_clip("b" * 64).copies == ()
    assert store.delete_clip("a" * 64).copies == (str(kept),)


@on_sqlite
def test_restore_refuses_what_is_no_backup_and_replaces_a_damaged_database(store, tmp_path):
    clip = store.register_clip(None, "a" * 64, name="a")
    store.add_label(clip, "ann", "anger")
    url, copy, damaged = str(store.engine.url), tmp_path / "one.db", tmp_path / "two.db"
    backup.backup(url, copy)
    whole = copy.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    for wrong in (damaged, tmp_path / "none.db", Path(__file__)):
        with refused("bad_backup"):
            backup.restore(url, wrong)
    assert len(list(store.labels())) == 1
    store.engine.dispose()
    (tmp_path / "mmer.db").write_bytes(b"no longer a database " * 500)
    with refused("database_unavailable"):
        Store(url, tmp_path)
    _, kept = backup.restore(url, copy)
    assert kept.read_bytes().startswith(b"no longer")
    assert len(list(Store(url, tmp_path).labels())) == 1


def test_database_of_another_version_or_program_is_refused(store, tmp_path):
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    with pytest.raises(LabelError, match=f"schema 0999, this program {VERSION}"):
        Store(str(store.engine.url), tmp_path)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE recipes (id)")
    other.close()
    with refused("foreign_database"):
        Store(f"sqlite:///{tmp_path / 'other.db'}", tmp_path)
    for url in ("sqlite://", "sqlite:///:memory:", "nonsense", "nosuchdb://x"):
        with refused("bad_database_url"):
            Store(url, tmp_path)


def test_a_setting_that_is_none_is_said_in_one_line(monkeypatch, capsys):
    # The command reads its settings from the environment, so that is what the test sets.
    monkeypatch.setenv("MMER_KEEP_DAYS", "x")
    assert main(["stats"]) == 1
    assert (
        capsys.readouterr().err
        == "bad_setting: MMER_KEEP_DAYS is 'x'; a whole number of days is needed, 0 for no end\n"
    )
