"""Labels through files and the command line."""

import csv
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from annotations.__main__ import main
from annotations.db.schema import OUTCOMES, VERSION, AnnotatorRecord
from annotations.formats.import_export import export_labels, import_labels
from annotations.formats.label_row import COLUMNS
from annotations.label import Label
from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue
from annotations.store import Store
from mmer.config import ROOT
from mmer.errors import LabelError


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'home' / 'mmer.db'}", tmp_path / "home" / "media")


FILM = b"\0\0\0\x14ftypisom a film"  # begins as media does: an import takes nothing else


@pytest.fixture
def clip(tmp_path) -> tuple[Path, str]:
    path = tmp_path / "interview, one.mp4"
    path.write_bytes(FILM)
    return path, hashlib.sha256(FILM).hexdigest()


def in_a_process(tmp_path: Path, *arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "MMER_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    environment.pop("MMER_DATABASE_URL", None)
    command = [sys.executable, "-m", "annotations", *map(str, arguments)]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)


def without_ids(store: Store) -> list[Label]:
    return [
        dataclasses.replace(label, id=0, name="", transcript=None, prediction_id=None)
        for label in store.labels(OUTCOMES)
    ]


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_labels_come_back_from_a_file_unchanged(store, clip, tmp_path, format):
    path, sha256 = clip
    here = store.register_clip(path, sha256, name=path.name, speaker="Zoë", in_place=True)
    away = store.register_clip(None, "b" * 64, name="uploaded")
    store.add_label(here, "ann", "anger", confidence=0.1, comment='a "b",\r\nc;\n= é 日本 ')
    store.add_label(here, "bea", {"anger": 1, "fear": 1, "sadness": 1}, start_s=0.25, end_s=3, target="voice")
    store.add_label(away, "ann", outcome="cannot_tell")
    store.add_label(away, "bea", "surprise", start_s=1, end_s=2, transcript="oh")
    store.undo(store.add_label(away, "cem", "fear"), "cem")
    file = tmp_path / f"labels.{format}"
    report = export_labels(store, file, format)
    assert (report.labels, report.left_out) == (4, {"transcript": 1} if format == "csv" else {})
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream)) if format == "csv" else [json.loads(line) for line in stream]
    assert tuple(rows[0])[:8] == COLUMNS
    assert [row["clip"] for row in rows] == [str(path), f"{path}#t=0.25,3.0", "b" * 64, f"{'b' * 64}#t=1.0,2.0"]
    assert [row["label"] for row in rows][2:] == ["cannot_tell", "surprise"]

    other = Store(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "media")
    assert import_labels(other, file, format).imported == 4
    assert without_ids(other) == without_ids(store)
    assert [label.transcript for label in other.labels()] == [None, None, "oh" if format == "jsonl" else None]
    for target in (other, store):
        again = import_labels(target, file, format)
        assert (again.imported, again.present, again.bad) == (0, 4, [])


def test_bad_rows_are_named_and_good_rows_go_in(store, clip, tmp_path):
    file = tmp_path / "labels.csv"
    name = f'"{clip[0].name}"'
    rows = [
        ("clip,label,annotator,target,confidence,comment,created_at,speaker,extra", None),
        (f"{name},happy,ann,,,,,,x", None),
        (f"{name},boredom,ann,,,,,,", "unknown_label"),
        ("nowhere.mp4,anger,ann,,,,,,", "clip_not_found"),
        (f"{name},anger,,,,,,,", "no_annotator"),
        (f"{name},anger,ann,hands,,,,,", "bad_target"),
        (f"{name},anger,ann,,high,,,,", "bad_confidence"),
        (f"{name},anger,ann,,,,yesterday,,", "bad_time"),
        (f"{name},anger,ann", "bad_row"),
        (f"{name},anger=x,ann,,,,,,", "bad_weight"),
        (f"{name},,ann,,,,,,", "no_label"),
        (f"{name},anger,bea,,,\udcff,,,", "bad_text"),
        (f"{name}#t=3,1,anger,bea,,,,,,", "bad_row"),
        (f'"{clip[0].name}#t=3,1",anger,bea,,,,,,', "bad_segment"),
        (f"{name},anger,cem,FACES,,,,,", "bad_target"),
        (f"{name},fear,cem,face,0.5,ok,2026-01-02T03:04:05Z,s1,", None),
        (f"{name},fear,dao,,,,,s2,", "speaker_conflict"),
    ]
    file.write_bytes("\n".join(row for row, _ in rows).encode("utf-8", "surrogateescape"))
    report = import_labels(store, file, "csv")
    assert [line.split(": ")[1] for line in sorted(report.bad, key=lambda line: int(line.split()[2][:-1]))] == [
        code for _, code in rows if code
    ]
    assert report.bad[0].startswith("labels.csv line 3: unknown_label: label 'boredom' is not an emotion")
    assert report.imported == 2
    assert [(label.annotator, label.created_at.year) for label in store.labels()][1] == ("cem", 2026)
    assert store.counts()["annotators"] == 2


def test_bad_jsonl_rows_are_named(store, clip, tmp_path):
    file = tmp_path / "labels.jsonl"
    good = {"clip": clip[0].name, "label": {"anger": 2, "fear": 2}, "annotator": "ann", "confidence": 1}
    rows = [json.dumps(good), "{", "[1]", json.dumps(good | {"annotator": ["ann"]}), "", "[" * 200_000]
    file.write_text("\n".join(rows))
    report = import_labels(store, file, "jsonl")
    assert [line.split(": ")[:2] for line in report.bad] == [
        ["labels.jsonl line 2", "bad_row"],
        ["labels.jsonl line 3", "bad_row"],
        ["labels.jsonl line 4", "bad_value"],
        ["labels.jsonl line 6", "bad_row"],
    ]
    assert next(store.labels()).emotions == {"anger": 0.5, "fear": 0.5}


def test_jsonl_has_all_of_a_label_and_csv_is_read_with_more_columns(store, clip, tmp_path):
    said = {"intensity": 0.5, "valence": -0.25, "arousal": 1.0, "lead_time_s": 3.5, "blind": False, "transcript": ""}
    store.add_label(store.register_clip(clip[0], clip[1], name="talk", in_place=True), "ann", "anger", **said)
    store.add_label(store.register_clip(None, "b" * 64, name="other"), "ann", "anger")
    export_labels(store, tmp_path / "labels.jsonl", "jsonl")
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert rows[0] == dict(zip(COLUMNS, map(rows[0].get, COLUMNS), strict=True)) | said
    assert tuple(rows[1]) == COLUMNS
    other = Store(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "media")
    assert import_labels(other, tmp_path / "labels.jsonl", "jsonl").imported == 2
    assert {name: getattr(next(other.labels()), name) for name in said} == said

    (tmp_path / "labels.csv").write_text(
        "clip,label,annotator,mood,intensity,valence,arousal,lead_time_s,blind,transcript,start_s,end_s\n"
        f"{'c' * 64},fear,ann,low,0.5,-1,,2,true,oh,,\n"
        f"{'c' * 64},fear,ann,,,,,,,,1,2.5\n"
        f"{'c' * 64},fear,bea,,much,,,,,,,\n"
        f"{'c' * 64},fear,bea,,,,,,perhaps,,,\n"
        f"{'c' * 64},fear,bea,,2,,,,,,,\n"
    )
    report = import_labels(other, tmp_path / "labels.csv", "csv")
    assert [line.split(": ")[:2] for line in sorted(report.bad)] == [
        ["labels.csv line 4", "bad_intensity"],
        ["labels.csv line 5", "bad_blind"],
        ["labels.csv line 6", "bad_intensity"],
    ]
    whole, part = other.labels(sha256="c" * 64)
    assert (whole.intensity, whole.valence, whole.arousal, whole.lead_time_s) == (0.5, -1.0, None, 2.0)
    assert (whole.blind, whole.transcript, whole.start_s) == (True, "oh", None)
    assert (part.intensity, part.blind, part.transcript, part.start_s, part.end_s) == (None, None, None, 1.0, 2.5)


def test_a_table_without_the_columns_is_refused(store, tmp_path):
    (tmp_path / "labels.csv").write_text("path,emotion\nx,anger\n")
    with pytest.raises(LabelError, match="no column clip, label, annotator"):
        import_labels(store, tmp_path / "labels.csv", "csv")


def test_command_line_as_a_user_runs_it(clip, tmp_path):
    path, sha256 = clip
    labels = tmp_path / "labels.csv"
    labels.write_text(f'clip,label,annotator,speaker\n"{path.name}",joy,ann,zoe\n"{path.name}",bored,bea,zoe\n')
    missing = in_a_process(tmp_path, "stats")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == (
        f"no_database: no database at {tmp_path / 'home' / 'mmer.db'}; `python -m annotations upgrade` creates one\n"
    )
    done = in_a_process(tmp_path, "import", labels, "--copy", "--consent", "for research")
    assert done.returncode == 1
    assert done.stdout == "1 labels imported, 0 already there, 1 bad rows\n"
    assert done.stderr.startswith("labels.csv line 3: unknown_label: ")
    assert (tmp_path / "home" / "media" / f"{sha256}.mp4").read_bytes() == FILM
    database, out = str(tmp_path / "home" / "mmer.db"), tmp_path / "out" / "labels.jsonl"
    assert main(["export", "--database", database, "--format", "jsonl", "--out", str(out)]) == 0
    row = json.loads(out.read_text())
    assert (row["clip"], row["label"], row["annotator"]) == (sha256, "happiness", "ann")


def test_every_command(clip, tmp_path, capsys):
    path = clip[0]
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps({"clip": path.name, "label": "fear", "annotator": "ann", "speaker": "zoe"}))

    def run(command, *arguments, status=0) -> str:
        assert main([command, *map(str, arguments), "--database", str(tmp_path / "home" / "x.db")]) == status
        return capsys.readouterr()[status]

    assert run("upgrade").strip().endswith(f"has schema {VERSION}")
    assert run("import", labels) == "1 labels imported, 0 already there, 0 bad rows\n"
    counts = json.loads(run("stats"))
    assert (counts["labels"], counts["media"], counts["current"]["fear"]) == (1, 0, 1)
    assert run("backup", tmp_path / "backup.db").startswith("1 label rows in ")
    assert f"left where it lies, as it was only registered: {path}" in run("delete", "--clip", path)
    assert json.loads(run("stats"))["clips"] == 0
    assert run("delete", "--speaker", "zoe", status=1) == "unknown_clip: no clip of speaker 'zoe' on record\n"
    assert run("restore", tmp_path / "backup.db").startswith("1 label rows restored; the old database is kept as ")
    assert run("export", "--format", "csv", "--out", tmp_path / "out.csv").startswith("1 labels written")
    assert run("vacuum").startswith("0 files deleted")
    assert run("delete", "--speaker", "zoe").startswith("deleted 1 clips, 1 label rows, 0 predictions, 0 files")
    assert run("import", tmp_path / "labels.txt", status=1).startswith("unknown_format: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "labels.csv", "--copy"], "--copy and --consent TEXT go together"),
        (["export", "--format", "parquet", "--out", "x"], "invalid choice: 'parquet'"),
        (["delete"], "one of the arguments --clip --speaker is required"),
    ],
)
def test_bad_usage_is_refused_with_status_2(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_another_database_does_not_touch_the_configured_media(clip, tmp_path, store, monkeypatch):
    path, sha256 = clip
    store.register_clip(path, sha256, name="talk", consent_text="yes")
    # The command reads its places from the environment, so that is what the test sets.
    monkeypatch.setenv("MMER_HOME", str(tmp_path / "home"))
    for command in ("upgrade", "vacuum"):
        assert main([command, "--database", str(tmp_path / "else" / "x.db")]) == 0
    assert [file.name for file in store.media_dir.iterdir()] == [f"{sha256}.mp4"]


def test_a_correction_from_a_table_keeps_what_it_does_not_speak_of(store, tmp_path):
    clip_id = store.register_clip(None, "a" * 64, name="a")
    chosen = projects.create(store, "voices", gold_share=0.0, actor="boss")
    projects.add_items(store, chosen, [store.utterance(clip_id)])
    queue = Queue(store, chosen)
    answer = Answer("anger", comment="a tpyo", intensity=1.0, transcript="go away")
    queue.submit(queue.next("ann")[0].assignment_id, "ann", answer, lead_time_s=2.5, blind=True)
    (before,) = store.labels()
    table = tmp_path / "labels.csv"
    export_labels(store, table, "csv")
    for old, new in (("a tpyo", "a typo"), ("anger", "fear")):
        table.write_text(table.read_text().replace(old, new))
        assert import_labels(store, table, "csv").imported == 1
        (after,) = store.labels()
        assert (after.transcript, after.item_id) == ("go away", before.item_id)
        if new == "a typo":
            assert (after.comment, after.intensity, after.lead_time_s, after.blind) == ("a typo", 1.0, 2.5, True)
    assert (after.emotions, after.intensity, after.blind) == ({"fear": 1.0}, None, None)


def test_labels_of_a_name_stored_in_another_unicode_form_came_in_twice(store, tmp_path):
    with store.writing() as session:  # as an earlier version stored it
        session.add(AnnotatorRecord(name=unicodedata.normalize("NFD", "Zo\u00eb")))
    store.add_label(store.register_clip(None, "a" * 64, name="a"), "Zo\u00eb", "anger")
    export_labels(store, tmp_path / "labels.csv", "csv")
    report = import_labels(store, tmp_path / "labels.csv", "csv")
    assert (report.imported, report.present, store.counts()["labels"]) == (0, 1, 1)


def test_an_import_registered_an_upload_that_lay_elsewhere(clip, tmp_path):
    path, _ = clip
    uploads = tmp_path / "elsewhere"
    uploads.mkdir()
    path = path.rename(uploads / "talk.mp4")
    store = Store(f"sqlite:///{tmp_path / 'home' / 'mmer.db'}", tmp_path / "home" / "media", uploads_dir=uploads)
    (tmp_path / "labels.csv").write_text(f"clip,label,annotator\n{path},anger,ann\n")
    (bad,) = import_labels(store, tmp_path / "labels.csv", "csv", allow_outside=True).bad
    assert ": own_file: " in bad
