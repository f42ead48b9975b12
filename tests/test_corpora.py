"""Corpora that must be had from their authors, read from tiny folders made in their layouts."""

from pathlib import Path

import pytest

from mmer.errors import TrainingError
from tests import synth
from training import corpora
from training.data import manifest, paired, unpaired


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def splits_of(rows) -> dict[str, set[str]]:
    """Return speaker -> splits."""
    found: dict[str, set[str]] = {}
    for r in rows:
        found.setdefault(r.speaker, set()).add(r.split)
    return found


def test_ravdess_video_keeps_the_splits_of_its_sound(tmp_path):
    for actor in (1, 2, 6):
        touch(
            tmp_path / f"Video_Speech_Actor_{actor:02d}" / f"Actor_{actor:02d}" / f"01-01-02-01-02-01-{actor:02d}.mp4"
        )
    touch(tmp_path / "Actor_01" / "02-01-05-01-01-01-01.mp4")  # the same take without sound
    touch(tmp_path / "Actor_01" / "01-02-05-01-01-01-01.mp4")  # a song
    rows = unpaired.ravdess_video(tmp_path)
    assert [(r.emotions, r.speaker, r.split, r.group) for r in rows] == [
        (("neutral",), "ravdess-01", "train", "male"),
        (("neutral",), "ravdess-02", "val", "female"),
        (("neutral",), "ravdess-06", "test", "female"),
    ]
    assert {r.text for r in rows} == {"Dogs are sitting by the door."}


@pytest.fixture
def cremad(tmp_path) -> Path:
    for actor in (1001, 1002):
        for code in ("ANG_XX", "HAP_LO"):
            touch(tmp_path / "VideoFlash" / f"{actor}_DFA_{code}.flv")
            touch(tmp_path / "AudioWAV" / f"{actor}_DFA_{code}.wav")
    touch(tmp_path / "AudioWAV" / "1076_MTI_SAD_XX.wav")  # sound only
    (tmp_path / "VideoDemographics.csv").write_text(
        "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian,Not Hispanic\n"
    )
    (tmp_path / "processedResults").mkdir()
    (tmp_path / "processedResults" / "summaryTable.csv").write_text(
        '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'
        '"1","1001_DFA_ANG_XX","A","60","A","60","A","70"\n"2","1001_DFA_HAP_LO","N","50","H","50","H:N","50:50"\n'
        '"3","1002_DFA_ANG_XX","N","60","D","60","D","70"\n'
    )
    return tmp_path


def test_cremad_says_whether_its_label_was_acted_or_heard(cremad):
    acted = {r.path.stem: r for r in paired.cremad(cremad)}
    assert len(acted) == 5
    assert {r.corpus for r in acted.values()} == {"cremad-acted"}
    assert acted["1002_DFA_ANG_XX"].emotions == ("anger",)
    assert acted["1002_DFA_ANG_XX"].path.suffix == ".flv"
    assert acted["1076_MTI_SAD_XX"].path.suffix == ".wav"
    assert (acted["1001_DFA_ANG_XX"].group, acted["1002_DFA_ANG_XX"].group) == ("male", "female")
    assert acted["1001_DFA_ANG_XX"].text == "Don't forget a jacket."
    heard = {r.path.stem: r for r in paired.cremad(cremad, "heard")}
    assert {r.corpus for r in heard.values()} == {"cremad-heard"}
    assert set(heard) == {"1001_DFA_ANG_XX", "1001_DFA_HAP_LO", "1002_DFA_ANG_XX"}  # those that were rated
    assert heard["1002_DFA_ANG_XX"].emotions == ("disgust",)
    assert heard["1001_DFA_HAP_LO"].emotions == ("happiness", "neutral")
    assert all(len(s) == 1 for s in splits_of(acted.values()).values())


def test_cremad_without_its_votes_has_no_heard_labels(cremad):
    (cremad / "processedResults" / "summaryTable.csv").unlink()
    with pytest.raises(TrainingError, match="has no processedResults/summaryTable.csv"):
        paired.cremad(cremad, "heard")


def test_meld_raw_pairs_each_sentence_with_its_clip(tmp_path):
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
    for name, folder in (
        ("train", "train/train_splits"),
        ("dev", "dev/dev_splits_complete"),
        ("test", "test/output_repeated_splits_test"),
    ):
        lines = [f'{i},"It\x92s {name} {i}.",Joey,{e},x,7,{i},1,1,x,x' for i, e in enumerate(("joy", "anger"))]
        (tmp_path / f"{name}_sent_emo.csv").write_text(header + "\n".join(lines))
        touch(tmp_path / folder / "dia7_utt0.mp4")
    rows = unpaired.meld_video(tmp_path)
    assert [(r.split, r.emotions, r.text) for r in rows] == [
        ("val", ("happiness",), "It’s dev 0."),
        ("test", ("happiness",), "It’s test 0."),
        ("train", ("happiness",), "It’s train 0."),
    ]
    assert {r.speaker for r in rows} == {"meld-Joey"}
    assert [r.path.parent.name for r in rows] == ["dev_splits_complete", "output_repeated_splits_test", "train_splits"]
    assert len(unpaired.meld(tmp_path)) == 6  # the sentences alone are another corpus


def test_savee_takes_the_picture_where_there_is_one(tmp_path):
    touch(tmp_path / "AudioVisualClip" / "DC" / "sa03.avi")
    touch(tmp_path / "AudioData" / "DC" / "sa03.wav")
    touch(tmp_path / "AudioData" / "JK" / "d01.wav")
    touch(tmp_path / "ALL" / "KL_su15.wav")  # the layout of its copies
    touch(tmp_path / "AudioData" / "XX" / "a01.wav")
    rows = paired.savee(tmp_path)
    assert [(r.path.suffix, r.emotions, r.speaker, r.split, r.group) for r in rows] == [
        (".avi", ("sadness",), "savee-DC", "train", "male"),
        (".wav", ("disgust",), "savee-JK", "val", "male"),
        (".wav", ("surprise",), "savee-KL", "test", "male"),
    ]


def test_iemocap_joins_labels_words_and_sound(tmp_path):
    session = tmp_path / "IEMOCAP_full_release" / "Session5"
    for name in ("Ses05F_impro01_F000", "Ses05F_impro01_M001", "Ses05F_impro01_F002"):
        touch(session / "sentences" / "wav" / "Ses05F_impro01" / f"{name}.wav")
    (session / "dialog" / "EmoEvaluation").mkdir(parents=True)
    (session / "dialog" / "EmoEvaluation" / "Ses05F_impro01.txt").write_text(
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        "[6.2901 - 8.2357]\tSes05F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n"
        "[10.0100 - 11.3925]\tSes05F_impro01_M001\texc\t[2.5000, 2.5000, 2.5000]\n"
        "[14.8872 - 18.0175]\tSes05F_impro01_F002\tfru\t[2.5000, 2.5000, 2.5000]\n"
        "[19.2900 - 20.7875]\tSes05F_impro01_F003\tang\t[2.5000, 2.5000, 2.5000]\n"
    )
    (session / "dialog" / "transcriptions").mkdir()
    (session / "dialog" / "transcriptions" / "Ses05F_impro01.txt").write_text(
        "Ses05F_impro01_F000 [006.2901-008.2357]: Excuse me.\nSes05F_impro01_M001 [010.0100-011.3925]: Yeah.\n"
    )
    rows = paired.iemocap(tmp_path)
    assert [(r.emotions, r.text, r.speaker, r.split, r.group) for r in rows] == [
        (("neutral",), "Excuse me.", "iemocap-5F", "test", "female"),
        (("happiness",), "Yeah.", "iemocap-5M", "test", "male"),
    ]  # frustration is none of the seven, and F003 has no sound


def test_enterface_is_read_at_either_depth(tmp_path):
    touch(tmp_path / "subject 1" / "anger" / "sentence 1" / "s1_an_1.avi")
    touch(tmp_path / "subject 6" / "surprise" / "s6_su_3.avi")
    touch(tmp_path / "subject 6" / "surprise" / "notes_on_it.avi")
    rows = paired.enterface(tmp_path)
    assert [(r.emotions, r.speaker) for r in rows] == [(("anger",), "enterface-01"), (("surprise",), "enterface-06")]


def test_speakers_are_spread_over_the_splits():
    splits = [paired.drawn_split(f"cremad-{i}") for i in range(1001, 1092)]
    assert 0.6 < splits.count("train") / 91 < 0.8
    assert splits.count("val") > 5 < splits.count("test")


def test_a_paired_corpus_becomes_a_manifest_whose_clips_can_be_read(tmp_path):
    """A real clip under a CREMA-D name goes through the command and comes back with its words and group."""
    clip = tmp_path / "cremad" / "VideoFlash" / "1002_IEO_FEA_MD.mp4"
    clip.parent.mkdir(parents=True)
    synth.write_clip(clip, seconds=1)
    (tmp_path / "cremad" / "VideoDemographics.csv").write_text("ActorID,Age,Sex,Race,Ethnicity\n1002,21,Female,x,y\n")
    found = corpora.read_all(tmp_path, tmp_path / "out")
    assert set(found) == {"cremad"}
    manifest.write(tmp_path / "out" / "cremad.csv", found["cremad"])
    row = manifest.read(tmp_path / "out" / "cremad.csv").rows[0]
    assert (row.emotions, row.text, row.group, row.path) == (("fear",), "It's eleven o'clock.", "female", clip)
