"""Corpora that must be had from their authors, read from tiny folders made in their layouts."""

import hashlib
from pathlib import Path

import pytest

from mmer.errors import TrainingError
from tests import synth
from training import corpora
from training.data import manifest, paired, speech_corpora, unpaired
from training.data.votes import ferplus_votes


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


def seen(rows) -> list[tuple]:
    return [(r.emotions, r.speaker, r.group) for r in rows]


def test_nemo_is_read_with_a_woman_and_a_man_to_validate(tmp_path):
    people = {"EB0": "female", "IC0": "female", "KD0": "female", "WR0": "male", "KS0": "male", "TP0": "male"}
    lines = ["file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage"]
    for who, sex in people.items():
        for name in ("surprised", "happiness"):
            touch(tmp_path / "nemo" / "samples" / f"{who}_{name}_1.{'ogg' if who == 'WR0' else 'wav'}")
            lines.append(f'{who}_{name}_1.wav\t{name}\tMówi "tak".\tmówi tak\t        {who}\t{sex}\t23')
    lines.append("EB0_anger_9.wav\tanger\tNie ma.\tnie ma\tEB0\tfemale\t27")  # its recording is missing
    (tmp_path / "nemo" / "data.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = speech_corpora.nemo(tmp_path)
    assert len(rows) == 12
    assert {(r.emotions, r.text) for r in rows} == {(("surprise",), 'Mówi "tak".'), (("happiness",), 'Mówi "tak".')}
    assert {r.speaker: r.group for r in rows} == {f"nemo-{who}": sex for who, sex in people.items()}
    assert all(len(splits) == 1 for splits in splits_of(rows).values())
    val = {r.speaker.removeprefix("nemo-") for r in rows if r.split == "val"}
    assert val == {
        min((who for who in people if people[who] == sex), key=lambda who: hashlib.sha256(who.encode()).hexdigest())
        for sex in ("female", "male")
    }


def test_ased_says_emotion_sex_and_participant_in_the_name(tmp_path):
    touch(tmp_path / "Angry" / "a5-03-01-02-50.wav")
    touch(tmp_path / "Fearful" / "f2-01-02-01-07.wav")
    rows = speech_corpora.ased(tmp_path)
    assert seen(rows) == [(("anger",), "ased-50", "male"), (("fear",), "ased-07", "female")]


def test_urdu_has_its_emotion_in_the_folder_and_its_speaker_in_the_name(tmp_path):
    touch(tmp_path / "Angry" / "SM4_F48_A0100.wav")
    touch(tmp_path / "Neutral" / "SF9_F1_N01.wav")
    touch(tmp_path / "Elsewhere" / "SF9_F2_N02.wav")
    rows = speech_corpora.urdu(tmp_path)
    assert seen(rows) == [(("anger",), "urdu-M4", "male"), (("neutral",), "urdu-F9", "female")]


def test_turev_keeps_one_person_to_validate_and_one_to_test(tmp_path):
    for who in ("1157", "1234", "1358", "1984", "6783", "7895"):
        touch(tmp_path / "TurEV-DB" / "Sound Source" / "Calm" / f"{who}_sk_beste.wav")
        touch(tmp_path / "TurEV-DB" / "Sound Source" / "Angry" / f"{who}_kz_beste.wav")
        touch(tmp_path / "TurEV-DB" / "Other" / f"{who}_kz_beste.wav")
    rows = speech_corpora.turev(tmp_path)
    assert {r.emotions for r in rows} == {("neutral",), ("anger",)}
    splits = [next(iter(s)) for s in splits_of(rows).values() if len(s) == 1]
    assert sorted(splits) == ["test", "train", "train", "train", "train", "val"]
    assert len(rows) == 12


def test_tess_trains_on_one_woman_and_validates_on_the_other(tmp_path):
    touch(tmp_path / "OAF_Pleasant_surprise" / "OAF_back_ps.wav")
    touch(tmp_path / "OAF_neutral" / "OA_bite_neutral.wav")  # so it is called
    touch(tmp_path / "YAF_angry" / "YAF_youth_angry.wav")
    rows = speech_corpora.tess(tmp_path)
    assert [(r.emotions, r.speaker, r.split, r.text) for r in rows] == [
        (("surprise",), "tess-OAF", "train", "Say the word back."),
        (("neutral",), "tess-OAF", "train", "Say the word bite."),
        (("anger",), "tess-YAF", "val", "Say the word youth."),
    ]


def test_esd_is_two_corpora_split_by_speaker_and_not_as_it_comes(tmp_path):
    for part in ("train", "evaluation", "test"):
        touch(tmp_path / "0001" / "Angry" / part / f"0001_0003{len(part):02d}.wav")
    touch(tmp_path / "0011" / "Surprise" / "0011_001401.wav")
    touch(tmp_path / "0011" / "Surprise" / "0012_001401.wav")  # another person's, in the wrong folder
    rows = speech_corpora.esd(tmp_path)
    assert {r.corpus for r in rows if r.speaker == "esd-0001"} == {"esd-mandarin"}
    assert [(r.emotions, r.speaker, r.corpus, r.group) for r in rows][-1] == (
        ("surprise",),
        "esd-0011",
        "esd-english",
        "male",
    )
    assert len(rows) == 4
    assert all(len(splits) == 1 for splits in splits_of(rows).values())


def test_xed_keeps_what_is_ours_of_plutchiks_emotions(tmp_path):
    (tmp_path / "en-annotated.tsv").write_text("! \t1, 4, 7\nTrust me .\t8\nGet out !\t8, 1\nno label here\n")
    (tmp_path / "neu_en.txt").write_text("9\tTwo pair 10s and sixes.\n9\t two pair 10s and  sixes.\n")
    rows = unpaired.xed(tmp_path)
    assert [(r.text, r.emotions) for r in rows] == [
        ("!", ("anger", "fear", "surprise")),
        ("Get out !", ("anger",)),
        ("Two pair 10s and sixes.", ("neutral",)),
        ("two pair 10s and  sixes.", ("neutral",)),
    ]
    assert rows[2].split == rows[3].split  # the same line, written otherwise


def test_the_votes_of_ferplus_stand_beside_the_label(tmp_path):
    folder = tmp_path / "fer2013"
    for name in ("Training_1.jpg", "Training_2.jpg", "Training_3.jpg"):
        touch(folder / "train" / "fear" / name).write_bytes(name.encode())
    header = "path_in_zip,ferplus_image,usage,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    (tmp_path / "fer2013_zip_votes.csv").write_text(
        f"{header}\ntrain/fear/Training_1.jpg,fer0000001.png,Training,1,0,6,0,0,0,1,1,1,0\n"
        "train/fear/Training_2.jpg,fer0000002.png,Training,0,0,0,0,0,0,0,0,0,10\n"
    )
    first, second, third = corpora.read_all(tmp_path, tmp_path / "out")["fer2013"]
    assert first.emotions == ("fear",)
    assert first.target == [0, 0, 1, 0, 0, 0, 0]  # the label stays what is learned and scored
    assert first.votes == pytest.approx((0, 0, 1 / 8, 0, 1 / 8, 0, 6 / 8))
    assert second.votes == third.votes == ()  # nobody saw a face; nobody was asked
    manifest.write(tmp_path / "out.csv", [first, second])
    kept, without = manifest.read(tmp_path / "out.csv").rows
    assert kept.votes == pytest.approx(first.votes, abs=1e-3)
    assert without.votes == ()
    text = (tmp_path / "out.csv").read_text().replace("0|0|0.125", "0|0.125")
    (tmp_path / "out.csv").write_text(text)
    assert "are not 7 shares" in manifest.read(tmp_path / "out.csv").problems[0]


def test_the_authors_table_of_ferplus_goes_by_line(tmp_path):
    columns = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    lines = ["Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0", "Training,,0,0,0,0,0,0,0,0,0,10"]
    (tmp_path / "fer2013new.csv").write_text("\n".join([columns, *lines]) + "\n")
    assert ferplus_votes(tmp_path) == {"00000": (0.3, 0.2, 0.0, 0.0, 0.4, 0.1, 0.0)}
