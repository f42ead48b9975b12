"""Clips become items: a folder, a manifest, a Hugging Face dataset folder, and rows that cannot be used are named."""

import json
import shutil

import pyarrow as pa
import pytest
from pyarrow import parquet
from sqlalchemy import select

from annotations.__main__ import main
from annotations.choices import HELD_OUT, TRAIN
from annotations.db.schema import ClipRecord, ConsentRecord, UtteranceRecord
from annotations.media_file import content_hash
from annotations.queue import projects
from annotations.queue.assignment import Queue
from annotations.queue.media_import import import_media
from annotations.store import Store
from mmer.errors import LabelError


@pytest.fixture
def project(store):
    return projects.create(store, "voices", gold_share=0.0, actor="boss")


def sound(path, tone):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"RIFF\0\0\0\0WAVE" + bytes([tone]) * 40)  # an import reads the first bytes only
    return path


def stretches(store):
    with store.reading() as session:
        query = select(ClipRecord.name, UtteranceRecord.start_s, UtteranceRecord.end_s, UtteranceRecord.transcript)
        query = query.join(UtteranceRecord, UtteranceRecord.clip_id == ClipRecord.id).order_by(UtteranceRecord.id)
        return [tuple(row) for row in session.execute(query)]


def test_a_folder_of_media_is_registered_where_it_lies(store, project, tmp_path, voice_only):
    folder = tmp_path / "recordings"
    sound(folder / "b" / "two.wav", 2)
    sound(folder / ".hidden" / "three.wav", 3)
    (folder / "notes.txt").write_text("not media")
    (folder / "empty.mp4").write_bytes(b"")
    shutil.copy(voice_only, folder / "a.wav")
    report = import_media(store, project, folder)
    assert (report.items, report.present) == (2, 0)
    assert report.bad == ["empty.mp4: empty_file: empty.mp4 holds nothing"]
    tasks = Queue(store, project).next("ann", 2)
    assert [t.media for t in tasks] == [folder / "a.wav", folder / "b" / "two.wav"]
    again = import_media(store, project, folder)
    assert (again.items, again.present) == (0, 2)
    assert not store.media_dir.exists() or not list(store.media_dir.iterdir())


def test_a_manifest_brings_words_bounds_and_speakers_and_bad_rows_are_named(store, project, tmp_path):
    sound(tmp_path / "clips" / "one.wav", 1)
    manifest = tmp_path / "rows.csv"
    manifest.write_text(
        "path,text,start,end,label,speaker,corpus\n"
        "clips/one.wav,hello,0.5,1.25,anger,s1,x\n"
        "clips/one.wav,,2,3,,s1,x\n"
        ",only words,,,,s2,x\n"
        "clips/none.wav,,,,,s1,x\n"
        "clips/one.wav,,3,2,,s1,x\n"
        "clips/one.wav,,a,2,,s1,x\n"
        "clips/one.wav,,4,5,,s9,x\n"
        ",,,,,s1,x\n"
        "clips/one.wav,too,few\n"
    )
    report = import_media(store, project, manifest)
    assert report.items == 3
    assert [line.split(": ")[:2] for line in report.bad] == [
        ["rows.csv line 5", "no_file"],
        ["rows.csv line 6", "bad_segment"],
        ["rows.csv line 7", "bad_segment"],
        ["rows.csv line 9", "empty_row"],
        ["rows.csv line 10", "bad_row"],
        ["rows.csv line 8", "speaker_conflict"],
    ]
    assert stretches(store) == [
        ("one.wav", 0.5, 1.25, "hello"),
        ("one.wav", 2.0, 3.0, None),
        ("only words", None, None, "only words"),
    ]
    with store.reading() as session:
        assert sorted(session.scalars(select(ClipRecord.speaker))) == ["s1", "s2"]


BEGINNINGS = {
    **dict.fromkeys(("mp4", "mov", "m4v", "m4a", "m4b", "3gp", "avif"), b"\0\0\0\x18ftypisom"),
    **dict.fromkeys(("mkv", "webm", "mka", "weba"), b"\x1a\x45\xdf\xa3"),
    **dict.fromkeys(("ogg", "oga", "opus", "spx", "ogv"), b"OggS"),
    **dict.fromkeys(("wmv", "wma", "asf"), b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    **dict.fromkeys(("aif", "aiff", "aifc"), b"FORM\0\0\0\0AIFF"),
    **dict.fromkeys(("ts", "m2t"), b"G" + bytes(187) + b"G"),
    **dict.fromkeys(("mts", "m2ts"), bytes(4) + b"G" + bytes(191) + b"G"),
    **dict.fromkeys(("jpg", "jpeg", "jfif"), b"\xff\xd8\xff\xe0"),
    **dict.fromkeys(("tif", "tiff"), b"II*\0"),
    **{
        "avi": b"RIFF\0\0\0\0AVI ",
        "wav": b"RIFF\0\0\0\0WAVE",
        "webp": b"RIFF\0\0\0\0WEBP",
        "w64": b"riff.\x91\xcf\x11",
    },
    **{"mp3": b"\xff\xfb\x90", "aac": b"\xff\xf1", "flac": b"fLaC", "caf": b"caff\0", "amr": b"#!AMR\n", "au": b".snd"},
    **{
        "flv": b"FLV\x01",
        "mpg": b"\0\0\x01\xba",
        "png": b"\x89PNG\r\n\x1a\n",
        "gif": b"GIF89a",
        "bmp": b"BM1234\0\0\0\0",
    },
}


def test_a_folder_takes_every_kind_that_is_analysed_and_names_the_rest(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for n, (ending, begins) in enumerate(BEGINNINGS.items()):
        (folder / f"{n}.{ending.upper() if n % 2 else ending}").write_bytes(begins + bytes([n]))
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "notes.txt").write_text("notes")
    (folder / "words.mp4").write_text("The free and the brave, not a film")
    (folder / "utf16.mp3").write_bytes("words".encode("utf-16"))
    where = ["--database", str(tmp_path / "x.db")]
    assert main(["project", "create", "voices", *where]) == 0
    assert main(["import", str(folder), "--project", "voices", *where]) == 1
    said = capsys.readouterr()
    assert f"{len(BEGINNINGS)} items added to voices, 0 already there, 2 bad rows" in said.out
    assert "2 files left out, no media to be read or in no table: notes.txt, photo.heic\n" in said.err
    assert [line.split(": ")[:2] for line in said.err.splitlines()[:2]] == [
        ["utf16.mp3", "not_media"],
        ["words.mp4", "not_media"],
    ]


@pytest.mark.parametrize("path", ["deep/a.wav", None])
def test_sound_inside_a_parquet_file_is_taken_in_with_its_words_or_refused(store, project, tmp_path, path):
    content = [sound(tmp_path / f"{n}.wav", n).read_bytes() for n in (1, 2)]
    rows = [{"audio": {"bytes": held, "path": path}, "text": f"words {n}"} for n, held in enumerate(content)]
    rows.append({"audio": {"bytes": None, "path": "1.wav"}, "text": "of a file"})
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    with pytest.raises(LabelError, match="holds its media itself; --copy --consent TEXT takes it in with the words"):
        import_media(store, project, tmp_path / "x.parquet")
    assert stretches(store) == []
    report = import_media(store, project, tmp_path / "x.parquet", consent_text="You may keep this.")
    assert (report.items, report.bad) == (2, [])  # the third is the first
    name = "a.wav" if path else "clip"
    assert stretches(store) == [(name, None, None, "of a file"), (name, None, None, "words 1")]
    assert {file.read_bytes() for file in store.media_dir.iterdir()} == set(content)
    assert {file.suffix for file in store.media_dir.iterdir()} == {".wav"}


def test_media_that_its_metadata_table_misses_is_named(store, project, tmp_path):
    for name in ("a", "b"):
        sound(tmp_path / "in" / f"{name}.wav", ord(name))
    (tmp_path / "in" / "metadata.csv").write_text("File_Name;Transcription;start;end\na.wav;hello;0,5;1,25\n")
    report = import_media(store, project, tmp_path / "in")
    assert (report.items, report.bad, report.left_out) == (1, [], ["b.wav"])
    assert stretches(store) == [("a.wav", 0.5, 1.25, "hello")]


def test_a_manifest_takes_no_clip_of_elsewhere(store, project, tmp_path):
    outside = sound(tmp_path / "elsewhere" / "b.wav", 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.wav").symlink_to(outside)
    (tmp_path / "in" / "rows.csv").write_text(f"path,text\n{outside},x\n../elsewhere/b.wav,\nlink.wav,\n/etc/passwd,\n")
    report = import_media(store, project, tmp_path / "in" / "rows.csv")
    assert [line.split(": ")[1] for line in report.bad] == ["outside_folder"] * 4
    assert import_media(store, project, tmp_path / "in").bad[0].startswith("link.wav: outside_folder")
    report = import_media(store, project, tmp_path / "in" / "rows.csv", media_root=tmp_path)
    assert (report.items, [line.split(": ")[1] for line in report.bad]) == (1, ["outside_folder"])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_dataset_folder_with_metadata(store, project, tmp_path, kind):
    for split in ("train", "test"):
        sound(tmp_path / split / "a.wav", len(split))
        rows = [{"file_name": "a.wav", "transcription": f"from {split}", "speaker": split}]
        file = tmp_path / split / f"metadata.{kind}"
        if kind == "csv":
            file.write_text(f"file_name,transcription,speaker\na.wav,from {split},{split}\n")
        elif kind == "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            parquet.write_table(pa.Table.from_pylist(rows), file)
    report = import_media(store, project, tmp_path)
    assert (report.items, report.bad) == (2, [])
    assert sorted(stretches(store)) == [("a.wav", None, None, "from test"), ("a.wav", None, None, "from train")]


def test_media_is_taken_in_only_with_consent(store, project, tmp_path):
    clip = sound(tmp_path / "in" / "one.wav", 1)
    import_media(store, project, tmp_path / "in", consent_text="You may keep this.")
    (kept,) = store.media_dir.iterdir()
    assert kept.read_bytes() == clip.read_bytes()
    assert Queue(store, project).next("ann")[0].media == kept
    with store.reading() as session:
        assert session.scalar(select(ConsentRecord.text)) == "You may keep this."
        assert session.scalar(select(ClipRecord.path)) is None


def test_a_source_that_cannot_be_used_says_what_would_work(store, project, tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "t.parquet").write_text("no parquet")
    (tmp_path / "t.xlsx").write_text("x")
    for name, code, words in (
        ("gone", "no_file", "does not exist; a folder of media"),
        ("nothing", "no_media", "holds no video, sound or picture"),
        ("t.csv", "missing_column", "has the columns a, b; path"),
        ("t.parquet", "bad_file", "is no parquet"),
        ("t.xlsx", "bad_file", "is no table"),
    ):
        with pytest.raises(LabelError, match=words) as caught:
            import_media(store, project, tmp_path / name)
        assert caught.value.code == code


def test_a_project_is_made_filled_ranked_and_listed_from_the_command_line(tmp_path, capsys):
    sound(tmp_path / "in" / "one.wav", 1)
    where = ["--database", str(tmp_path / "x.db")]
    assert main(["project", "create", "voices", "--per-item", "3", "--labels", "anger", "fear", *where]) == 0
    assert main(["import", str(tmp_path / "in"), "--project", "voices", *where]) == 0
    assert main(["project", "rank", "voices", "--order", "random", *where]) == 0
    capsys.readouterr()
    assert main(["project", "list", *where]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["per_item"], listed["label_set"], listed["order"]) == (3, ["anger", "fear"], "random")
    assert (listed["items"], listed["open"]) == (1, 1)
    assert main(["import", str(tmp_path / "in"), "--project", "faces", *where]) == 1
    assert "there is no project 'faces'; there is voices" in capsys.readouterr().err


def test_the_right_answer_to_an_item_is_told_from_the_command_line(tmp_path, capsys):
    folder = tmp_path / "in"
    sound(folder / "a.wav", 1)
    sound(tmp_path / "c.wav", 2)
    (tmp_path / "cut.csv").write_text("path,start,end\nc.wav,0,1\nc.wav,1,2\n")
    where = ["--database", str(tmp_path / "x.db"), "--media", str(tmp_path / "media")]
    assert main(["project", "create", "voices", *where]) == 0
    assert main(["import", str(folder), "--project", "voices", *where]) == 0
    capsys.readouterr()
    gold = ["project", "gold", "voices", *where]
    assert main([*gold, "--clip", str(folder / "a.wav"), "--right", "anger", "disgust", "--why", "a raised voice"]) == 0
    assert "anger or disgust" in capsys.readouterr().out
    main(["project", "list", *where])
    assert json.loads(capsys.readouterr().out)["gold"] == 1
    assert main([*gold, "--clip", str(folder / "a.wav"), "--right"]) == 0
    assert "no gold any more" in capsys.readouterr().out
    main(["project", "list", *where])
    assert json.loads(capsys.readouterr().out)["gold"] == 0
    assert main(["import", str(tmp_path / "cut.csv"), "--project", "voices", *where]) == 0
    cut = [*gold, "--clip", str(tmp_path / "c.wav"), "--right", "fear"]
    capsys.readouterr()
    for arguments, said in (
        (cut, "begin at 0, 1; say which"),
        ([*gold, "--clip", "0" * 64, "--right", "fear"], "has no item of the clip 000000000000"),
        ([*gold, "--right", "fear"], "needs --clip"),
    ):
        assert main(arguments) == 1
        assert said in capsys.readouterr().err
    assert main([*cut, "--start", "1"]) == 0


def test_the_models_answers_come_in_and_decide_the_order(tmp_path, capsys):
    clips = [sound(tmp_path / "in" / f"{i}.wav", i) for i in range(2)]
    where = ["--database", str(tmp_path / "x.db")]
    assert main(["project", "create", "voices", "--gold-share", "0", *where]) == 0
    assert main(["import", str(tmp_path / "in"), "--project", "voices", *where]) == 0
    results = tmp_path / "results.jsonl"
    with results.open("w") as stream:
        for clip, p in zip((*clips, sound(tmp_path / "other.wav", 9)), (0.9, 0.5, 0.5), strict=True):
            told = {"clip": clip.name, "sha256": content_hash(clip), "emotion": "anger", "checkpoint": "c1"}
            told |= {"probs": {"anger": p, "fear": 1 - p}, "present": {"voice": True}, "per_modality": {}}
            stream.write(json.dumps(told) + "\n")
        stream.write(json.dumps({"clip": "bad.mp4", "error": {"code": "not_media", "message": "no"}}) + "\n")
    for _ in range(2):  # the second time adds nothing
        capsys.readouterr()
        assert main(["project", "rank", "voices", "--predictions", str(results), *where]) == 1
        said = capsys.readouterr().err.splitlines()
        assert [line.split(": ")[:2] for line in said] == [
            ["results.jsonl line 3", "unknown_clip"],
            ["results.jsonl line 4", "no_prediction"],
        ]
    store = Store(f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "media")
    assert store.counts()["predictions"] == 2
    assert [t.name for t in Queue(store, projects.project(store, "voices")).next("ann", 2)] == ["1.wav", "0.wav"]


def test_a_speakers_takes_of_one_sentence_were_on_both_sides(store, project, tmp_path):
    rows = [(f"{sentence}-{take}.wav", f"sentence {sentence}") for sentence in range(10) for take in range(3)]
    for number, (name, _) in enumerate(rows):
        sound(tmp_path / name, number)
    table = tmp_path / "rows.csv"
    table.write_text("path,text,speaker\n" + "".join(f"{name},{text},zoe\n" for name, text in rows))
    assert import_media(store, project, table).items == 30
    with store.reading() as session:
        sides = dict(session.execute(select(ClipRecord.name, ClipRecord.side)).all())
    by_sentence = [{sides[f"{sentence}-{take}.wav"] for take in range(3)} for sentence in range(10)]
    assert all(len(found) == 1 for found in by_sentence)
    assert {TRAIN, HELD_OUT} == set().union(*by_sentence)


def test_a_damaged_table_lost_the_rows_before_it_and_their_report(store, project, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "metadata.csv").write_text("text\nso it is\nand so on\n")
    (tmp_path / "b" / "metadata.parquet").write_bytes(b"PAR1 cut off")
    report = import_media(store, project, tmp_path)
    assert report.items == 2
    (bad,) = report.bad
    assert bad.startswith("after a/metadata.csv line 3: bad_file: ")
    with pytest.raises(LabelError, match="is no parquet"):
        import_media(store, project, tmp_path / "b")
