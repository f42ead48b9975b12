"""Corrections to a better model, through the open page and the command as a user would run it."""

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from gradio_client import handle_file
from sqlalchemy import select

from annotations.db.schema import OUTCOMES, TrainingRunRecord
from annotations.review.adjudication import adjudicate, final_labels
from annotations.review.aggregate import METHODS
from annotations.store import Store
from mmer import checkpoint, media
from mmer.config import Paths
from mmer.labels import EMOTIONS
from mmer.predict import Predictor
from mmer.ui.page import LAUNCH, build
from mmer.ui.service import Service
from tests import synth
from tests.clients import client_of
from tests.test_app import new_checkpoint
from training.corrections.collect import gather, read

ROOT = Path(__file__).resolve().parent.parent
PITCH_HZ = {"happiness": 260, "sadness": 95}


@pytest.fixture(scope="module")
def voices(tmp_path_factory) -> list[tuple[Path, str]]:
    """Forty voices, high ones for happiness and low ones for sadness."""
    folder = tmp_path_factory.mktemp("voices")
    made = []
    for i in range(20):
        for name, pitch_hz in PITCH_HZ.items():
            sound = synth.voice(1.5, pitch_hz=pitch_hz * (0.9 + 0.01 * i), seed=i)
            made.append((synth.write_clip(folder / f"{name}{i}.wav", seconds=1.5, voice=sound), name))
    return made


def home_with(folder: Path, labelled: list[tuple[Path, str]]) -> Paths:
    """Return a home that serves the checkpoint that ships and holds these labels, the media kept with consent."""
    paths = replace(Paths.from_env(), home=folder, database_url=f"sqlite:///{folder / 'mmer.db'}", device="cpu")
    store = Store(paths.database_url, paths.media, paths.features)
    for clip, emotion in labelled:
        found = store.register_clip(clip, media.content_hash(clip), name=clip.name, consent_text="test")
        store.add_label(found, "anna", emotion)
    return paths


def retrain(paths: Paths, *arguments: str) -> subprocess.CompletedProcess:
    env = {
        **os.environ,
        "MMER_HOME": str(paths.home),
        "MMER_ASSETS": str(paths.assets),
        "MMER_DATABASE_URL": paths.database_url,
    }
    return subprocess.run(
        [sys.executable, "training/retrain.py", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_correct_retrain_and_the_open_page_serves_the_new_model(tmp_path, voices):
    paths = home_with(tmp_path / "home", voices[1:])
    page = build(Service(paths))
    _, url, _ = page.launch(**LAUNCH, prevent_thread_lock=True, quiet=True)
    try:
        client = client_of(url)
        clip, emotion = voices[0]
        before = client.predict(audio=handle_file(str(clip)), api_name="/analyse")
        assert before["checkpoint"] == "base"
        client.predict(emotion=emotion, annotator="bert", keep="recording", api_name="/save_label")
        kept = {p.stem for p in paths.media.iterdir()}
        assert before["sha256"] in kept

        done = retrain(paths)
        assert done.returncode == 0, done.stdout + done.stderr
        after = client.predict(audio=handle_file(str(clip)), api_name="/analyse")
    finally:
        page.close()
    assert after["checkpoint"] == checkpoint.promoted(paths.checkpoints) != "base"
    assert after["emotion"] == emotion
    loaded = checkpoint.load(after["checkpoint"], paths.checkpoints)
    assert loaded.meta["parent"] == "base"
    assert loaded.meta["aggregation"] == "soft"
    base = checkpoint.load("base", paths.checkpoints)
    # A voice without Whisper's weights too: it abstained always after a retraining, for want of a threshold.
    assert set(loaded.meta["abstain"]["subsets"]) == set(base.meta["abstain"]["subsets"])
    report = json.loads(next((paths.home / "runs").glob("*/report.json")).read_text())
    assert str(report).count("uar") >= 2
    assert checkpoint.roll_back(paths.checkpoints) == "base"


@pytest.mark.slow
def test_labels_are_learnt_from_where_only_the_branches_states_were_kept(tmp_path, voices):
    paths = replace(Paths.from_env(), home=tmp_path, database_url=f"sqlite:///{tmp_path / 'mmer.db'}", device="cpu")
    store, predictor = Store(paths.database_url, paths.media, paths.features), Predictor(paths)
    for clip, emotion in voices:
        result = predictor.analyse(clip, speech=False)
        kept = predictor.states_of(result)
        found = store.register_clip(None, result.sha256, name="a voice", consent_text="numbers only", features=kept)
        store.add_label(found, "anna", emotion)
    done = retrain(paths)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stderr
    assert not paths.media.exists()


@pytest.mark.slow
def test_labels_that_have_nothing_to_do_with_the_clips_are_refused(tmp_path, voices):
    names = [name for _, name in voices]
    random.Random(1).shuffle(names)
    paths = home_with(tmp_path / "home", [(clip, name) for (clip, _), name in zip(voices, names, strict=True)])
    done = retrain(paths, "--aggregation", "majority")
    assert done.returncode == 3, done.stdout + done.stderr
    assert checkpoint.promoted(paths.checkpoints) == "base"
    report = json.loads(next((paths.home / "runs").glob("*/report.json")).read_text())
    assert report["aggregation"] == "majority"
    with Store(paths.database_url, paths.media).reading() as session:
        assert session.scalars(select(TrainingRunRecord.aggregation)).all() == ["majority"]


def test_what_reviewers_decide_is_what_is_learnt(tmp_path, voices):
    paths = home_with(tmp_path / "home", voices[:3])
    store = Store(paths.database_url, paths.media)
    labels = list(store.labels())
    for annotator in ("bert", "carl"):
        store.add_label(1, annotator, "fear")
    store.add_label(2, "anna", outcome="cannot_tell")
    store.add_label(3, "anna", outcome="broken")
    adjudicate(store, 2, None, None, "all", "disgust", "rita")

    def learnt(method: str) -> dict[str, dict]:
        items, skipped = gather(list(store.labels(OUTCOMES)), method, final=final_labels(store))
        assert skipped == []
        return {i.sha256: {e: p for e, p in zip(EMOTIONS, i.targets["all"], strict=True) if p} for i in items}

    first, second, third = (label.sha256 for label in labels)
    assert learnt("soft")[first] == {voices[0][1]: pytest.approx(1 / 3), "fear": pytest.approx(2 / 3)}
    assert learnt("majority")[first] == {"fear": 1.0}
    for method in METHODS:
        assert learnt(method)[second] == {"disgust": 1.0}  # where the annotator could not tell
        assert third not in learnt(method)
    items, _ = gather(list(store.labels(OUTCOMES)), final=final_labels(store))
    assert all(i.label_ids for i in items)  # the record of what a run learned from has it too
    adjudicate(store, 2, None, None, "all", None, "rita")
    assert set(learnt("soft")) == {first}


def test_a_cache_that_could_not_be_written_made_a_readable_clip_unreadable(tmp_path, voices, caplog):
    paths = home_with(tmp_path / "home", voices[:1])
    new_checkpoint(paths, 1)
    items, _ = gather(list(Store(paths.database_url, paths.media).labels()))
    cache = tmp_path / "cache"
    cache.write_text("a file stands where the folder should be")
    for n_warned in (1, 2):
        kept, found, skipped = read(Predictor(paths), items, speech=False, cache=cache)
        assert (kept, skipped) == (items, [])
        assert found is not None
        assert caplog.text.count(f"what was read of {items[0].name} could not be kept in {cache}") == n_warned


def test_too_few_labels_are_said_so(tmp_path, voices):
    paths = home_with(tmp_path / "home", voices[:3])
    done = retrain(paths)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert checkpoint.listing(paths.checkpoints) == []


def test_bad_usage_has_its_own_status(tmp_path):
    paths = home_with(tmp_path / "home", [])
    done = retrain(paths, "--min-labels", "many")
    assert done.returncode == 2
    assert "invalid int value" in done.stderr


def test_an_option_that_has_no_effect_any_more_said_nothing(tmp_path):
    done = retrain(home_with(tmp_path / "home", []), "--steps", "200")
    assert done.returncode == 4
    assert "--steps changes nothing any more" in done.stderr


def test_a_sentence_that_came_as_a_row_teaches_its_words(tmp_path):
    """Annotators of a queue leave the words as they are, so only the stretch itself knows them."""
    store = Store(f"sqlite:///{tmp_path / 'mmer.db'}", tmp_path / "media", tmp_path / "features")
    words = "I  hate this"
    clip = store.register_clip(None, hashlib.sha256(words.encode()).hexdigest(), name="a sentence")
    store.utterance(clip, transcript=words)
    store.add_label(clip, "anna", "anger")
    (item,), skipped = gather(list(store.labels(OUTCOMES)))
    assert (item.words, set(item.targets), skipped) == (words, {"all"}, [])
    store.add_label(clip, "bert", "fear", transcript="I hate this!")
    (item,), skipped = gather(list(store.labels(OUTCOMES)))
    assert (item.words, set(item.targets), skipped) == ("I hate this!", {"all"}, [])  # it is still that sentence


def test_labels_of_one_sentence_by_one_person_ended_in_a_traceback(tmp_path, voices):
    paths = home_with(tmp_path / "home", [])
    store = Store(paths.database_url, paths.media, paths.features)
    for clip, emotion in voices[:24]:
        words, speaker = "kids are talking by the door", "anna"
        found = store.register_clip(
            clip, media.content_hash(clip), name=clip.name, consent_text="test", speaker=speaker, words=words
        )
        store.utterance(found, transcript=words)
        store.add_label(found, "bert", emotion)
    done = retrain(paths)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
