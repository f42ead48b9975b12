"""Every format: out of a store, into an empty one, and the same labels stand there."""

import csv
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pympi import Eaf

from annotations.__main__ import main
from annotations.db.schema import OUTCOMES
from annotations.formats.import_export import FORMATS, export_labels, format_of, import_labels
from annotations.label import Label
from annotations.store import Store
from mmer.config import ROOT
from mmer.errors import LabelError

DATA = Path(__file__).parent / "data"
OUT = {"csv": "labels.csv", "jsonl": "labels.jsonl", "labelstudio": "labels.json"}
FILM = b"\0\0\0\x14ftypisom a film"  # begins as media does: an import takes nothing else
VOICE = b"RIFF\0\0\0\0WAVE a voice"
TALK = hashlib.sha256(FILM).hexdigest()
KEPT = hashlib.sha256(VOICE).hexdigest()
# What each format has no place for, and how many labels of the `store` below have it.
LEFT_OUT = {
    "csv": {"intensity": 1, "valence": 1, "arousal": 1, "lead_time_s": 1, "blind": 2, "transcript": 2},
    "jsonl": {},
    "labelstudio": {},
    "hf": {},
    "elan": {"created_at": 9, "lead_time_s": 1, "blind": 2},
    "webvtt": {
        "created_at": 9,
        "confidence": 2,
        "comment": 2,
        "intensity": 1,
        "valence": 1,
        "arousal": 1,
        "lead_time_s": 1,
        "blind": 2,
        "transcript": 2,
    },
}


on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def store(database, tmp_path) -> Iterator[Store]:
    """A clip where it lies, one that is kept with consent, one of which only the hash is known."""
    home = tmp_path / "home"
    store = Store(database, home / "media", home / "features")
    path = tmp_path / "interview, <one> & 50%.mp4"
    path.write_bytes(FILM)
    (tmp_path / "kept.wav").write_bytes(VOICE)
    here = store.register_clip(path, TALK, name=path.name, speaker="Zoë", in_place=True, duration_s=4.5)
    kept = store.register_clip(tmp_path / "kept.wav", KEPT, name="kept.wav", consent_text="for research\nonly")
    away = store.register_clip(None, "b" * 64, name="uploaded")
    store.add_label(here, "ann", "anger", confidence=0.1, comment='a <b>, & "c" --> d;\n= é 日本', blind=True)
    store.add_label(here, "ann", "fear", start_s=0.25, end_s=3)
    store.add_label(here, "ann", "neutral", start_s=1, end_s=4)  # overlaps the one before
    store.add_label(here, "bea & <co>", {"anger": 1, "fear": 1, "sadness": 1}, start_s=0.25, end_s=3, target="voice")
    store.add_label(
        kept,
        "bea & <co>",
        {"anger": 0.7, "fear": 0.3},
        target="face",
        intensity=0.4,
        valence=-0.5,
        arousal=0.25,
        lead_time_s=12.125,
        blind=False,
        confidence=1.0,
        transcript="",
        comment="x",
    )
    store.add_label(kept, "ann", outcome="skip")
    store.add_label(away, "ann", outcome="cannot_tell", target="text")
    store.add_label(away, "bea & <co>", "surprise", start_s=3601, end_s=3602.002, transcript="oh,\nwell")
    store.add_label(away, "ann", outcome="broken", start_s=1, end_s=2)
    store.undo(store.add_label(away, "cem", "fear"), "cem")
    yield store
    store.engine.dispose()


def contents(out: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (out.rglob("*") if out.is_dir() else [out]) if path.is_file()}


def another(tmp_path: Path, name: str = "other") -> Store:
    return Store(f"sqlite:///{tmp_path / name / 'mmer.db'}", tmp_path / name / "media")


def current(store: Store, without: set[str] = frozenset()) -> list[Label]:
    """The labels in an order of their own, without what is particular to a store."""
    gone = {"id": 0, "name": "", "prediction_id": None, "item_id": None, "media": None, "in_place": False}
    gone |= dict.fromkeys(without)
    return sorted((dataclasses.replace(label, **gone) for label in store.labels(OUTCOMES)), key=repr)


@pytest.mark.parametrize("format", FORMATS)
def test_labels_come_back_unchanged(store, tmp_path, format):
    out = tmp_path / OUT.get(format, "labels")
    report = export_labels(store, out, format)
    assert (report.labels, dict(report.left_out)) == (9, LEFT_OUT[format])
    assert format_of(out) == format
    other = another(tmp_path)
    report = import_labels(other, out, format, media_root=tmp_path)
    assert (report.imported, report.present, report.bad, report.left_out) == (9, 0, [], {})
    without = set(LEFT_OUT[format])
    assert current(other, without) == current(store, without)
    media = {label.sha256: label.media for label in other.labels() if label.media}
    if format == "hf":  # a copy of what was consented to, and nothing else
        assert media == {KEPT: out / "media" / f"{KEPT}.wav"}
    else:
        assert media == {TALK: tmp_path / "interview, <one> & 50%.mp4"}
    for target in (other, store):
        again = import_labels(target, out, format)  # what is on record lies where it may
        assert (again.imported, again.present, again.bad) == (0, 9, [])
    assert len(current(store)) == 9


@on_sqlite
@pytest.mark.parametrize("format", FORMATS)
def test_an_export_that_dies_leaves_the_old_one(store, tmp_path, format):
    out = tmp_path / OUT.get(format, "labels")
    export_labels(store, out, format)
    before = contents(out)

    class Stopped(Exception):
        pass

    def two(labels):
        for n, label in enumerate(labels):
            if n == 2:
                raise Stopped
            yield label

    with pytest.raises(Stopped):
        export_labels(store, out, format, progress=two)
    assert before == contents(out)
    store.add_label(store.register_clip(None, "c" * 64, name="new"), "ann", "fear")
    assert export_labels(store, out, format).labels == 10
    assert import_labels(another(tmp_path), out, format, media_root=tmp_path).imported == 10
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@on_sqlite
@pytest.mark.parametrize("format", ["jsonl", "hf"])
def test_a_killed_export_leaves_the_old_one(store, tmp_path, format):
    out = tmp_path / OUT.get(format, "labels")
    export_labels(store, out, format)
    before = contents(out)
    code = (
        "import os, signal, sys; from pathlib import Path; from annotations.store import Store\n"
        "from annotations.formats.import_export import export_labels\n"
        "def dying(labels):\n"
        "    yield from (label for n, label in enumerate(labels) if n < 8 or os.kill(os.getpid(), signal.SIGKILL))\n"
        "store = Store(sys.argv[1], Path(sys.argv[2]))\n"
        "export_labels(store, Path(sys.argv[3]), sys.argv[4], progress=dying)"
    )
    arguments = [str(store.engine.url), str(store.media_dir), str(out), format]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, timeout=120)
    assert done.returncode == -9
    assert before == contents(out)
    assert export_labels(store, out, format).labels == 9


@on_sqlite
def test_an_export_killed_between_two_renames_is_put_back_by_the_next(store, tmp_path):
    out = tmp_path / "labels"
    export_labels(store, out, "webvtt")
    before = contents(out)
    out.rename(tmp_path / ".labels.old")  # where the kill left it

    def stopped(labels):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_labels(store, out, "webvtt", progress=stopped)
    assert before == contents(out)


@on_sqlite
@pytest.mark.parametrize("format", ["hf", "elan", "webvtt"])
def test_a_folder_of_something_else_is_not_replaced(store, tmp_path, format):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(LabelError, match=r"photos holds cat.jpg, which no export wrote; name a new folder"):
        export_labels(store, tmp_path / "photos", format)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


@on_sqlite
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.json", b"{}", "not a JSON list of tasks"),
        ("x.json", b'[{"id": 1, "annotations": [', "is not JSON after task 0"),
        ("x.json", b'[{"video": "a.mp4", "emotion": "Anger", "annotation_id": 3}]', "is JSON_MIN"),
        ("x.eaf", b"<html/>", "is not an EAF"),
        ("x.eaf", b"\xff\xfe", "is not an EAF"),
        ("x.vtt", b"1\n00:01.000 --> 00:02.000\nanger", "its first line is not WEBVTT"),
        ("x.vtt", b"WEBVTT\n\n\xff", "is not UTF-8"),
        ("metadata.parquet", b"PAR1", "has no metadata.parquet that can be read"),
        ("nothing.json", None, "No such file"),
        ("nothing.eaf", None, "No such file"),
        ("nothing.vtt", None, "No such file"),
    ],
)
def test_a_file_that_is_not_the_format_is_one_clear_error(store, tmp_path, name, content, said):
    file = tmp_path / "in" / name
    file.parent.mkdir()
    if content is not None:
        file.write_bytes(content)
    before = store.counts()
    with pytest.raises(LabelError, match=said) as raised:
        import_labels(store, file, "hf" if name.endswith("parquet") else format_of(file))
    assert raised.value.code == "unreadable_file"
    assert store.counts() == before


def test_a_real_label_studio_export(tmp_path):
    """`label_studio_export.json` is what Label Studio 1.23 wrote for two annotators and the config beside it."""
    other = another(tmp_path)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("label_studio_export.json", "label_studio_export.xml"):
        (folder / name).write_bytes((DATA / name).read_bytes())
    (folder / "talk.mp4").write_bytes(FILM)
    (folder / "voice.wav").write_bytes(VOICE)
    report = import_labels(other, folder / "label_studio_export.json", "labelstudio")
    assert (report.imported, report.bad, dict(report.left_out)) == (7, [], {"scene": 1})
    found = [
        (
            label.name,
            label.annotator.removeprefix("label-studio user "),
            label.target,
            label.start_s,
            label.end_s,
            label.outcome,
            label.emotions,
            label.confidence,
            label.intensity,
            label.transcript,
        )
        for label in other.labels(OUTCOMES)
    ]
    assert found == [
        ("talk.mp4", "1", "all", None, None, "label", {"happiness": 1.0}, 0.8, None, "oh, hello"),  # 4 stars of 5
        ("talk.mp4", "1", "all", 0.25, 1.75, "label", {"surprise": 1.0}, None, 0.5, None),
        ("talk.mp4", "2", "all", None, None, "label", {"anger": 0.5, "fear": 0.5}, None, None, None),
        ("talk.mp4", "2", "all", 1.0, 2.0, "label", {"fear": 1.0}, None, None, None),  # frames 26 to 50 at 25 a second
        ("talk.mp4", "2", "voice", None, None, "label", {"sadness": 1.0}, None, None, None),
        ("voice.wav", "1", "all", None, None, "cannot_tell", {}, None, None, None),
        ("voice.wav", "2", "all", None, None, "skip", {}, None, None, None),
    ]
    assert {label.lead_time_s for label in other.labels()} == {7.25}
    assert next(other.labels()).created_at.isoformat() == "2026-11-25T15:20:09.194330+00:00"
    assert import_labels(other, folder / "label_studio_export.json", "labelstudio").present == 7
    (folder / "label_studio_export.xml").unlink()
    report = import_labels(other, folder / "label_studio_export.json", "labelstudio")
    assert [line.split(": ")[:2] for line in report.bad] == [
        ["label_studio_export.json task 1 annotation 2", "bad_segment"]
    ]


def test_bad_rows_are_named_and_the_others_go_in(tmp_path):
    """One file per format with one good label and all that can be wrong with another."""
    folder = tmp_path / "in"
    folder.mkdir()
    clip = "b" * 64

    def choices(name, *values, **more):
        return {"from_name": name, "to_name": "v", "type": "choices", "value": {"choices": list(values)}, **more}

    annotations = [
        {"id": 1, "completed_by": {"email": "ann"}, "result": [choices("emotion", "joy")]},
        {"id": 2, "completed_by": {"email": "ann"}, "result": [choices("emotion", "boredom")]},
        {"id": 3, "result": [choices("emotion", "fear")]},
        {"id": 4, "completed_by": 7, "result": [{"from_name": "emotion"}]},
        {"id": 5, "completed_by": 7, "result": [], "was_cancelled": False},
        {"id": 6, "completed_by": 7, "result": [choices("emotion", "sad")], "lead_time": "long"},
        [],
    ]
    tasks = [
        {"id": 1, "data": {"clip": clip}, "annotations": annotations},
        {"id": 2, "data": {"video": "s3://bucket/x.mp4"}, "annotations": annotations[:1]},
        7,
    ]
    (folder / "x.json").write_text(json.dumps(tasks)[:-1] + ', {"id": 3,')
    report = import_labels(another(tmp_path, "ls"), folder / "x.json", "labelstudio")
    assert (report.imported, dict(report.left_out)) == (2, {"empty annotation": 1})
    assert report.notes == {"impossible lead times dropped, the labels kept": 1}
    assert [line.split(": ")[:2] for line in report.bad] == [
        ["x.json task 1 annotation 2", "unknown_label"],
        ["x.json task 1 annotation 3", "no_annotator"],
        ["x.json task 1 annotation 4", "bad_row"],
        ["x.json task 1", "bad_row"],
        ["x.json task 2 annotation 1", "clip_not_found"],
        ["x.json task 3", "bad_row"],
        ["x.json task 4", "unreadable_file"],
    ]

    (folder / "a.vtt").write_text(
        f"WEBVTT\n\nNOTE clip: {clip}\n\n00:01.000 --> 00:02.000\n<v ann>joy</v>\n\n"
        "00:01.000 --> 00:02.000\nhello\n\n1\n00:03,000 --> 00:04,000\n<v ann>fear</v>\n\n"
        "00:05.000 --> 00:04.000\n<v ann>fear\n\n00:05.000 --> 00:06.000\n<v ann>bored"
    )
    (folder / "b.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\n<v ann>joy</v>")
    (folder / "c.vtt").write_bytes(b"\xff")
    report = import_labels(another(tmp_path, "vtt"), folder, "webvtt")
    assert report.imported == 1
    assert [line.split(": ")[:2] for line in report.bad] == [
        ["in a.vtt cue 2", "no_annotator"],
        ["in a.vtt cue 3", "bad_segment"],
        ["in a.vtt cue 4", "bad_segment"],
        ["in a.vtt cue 5", "unknown_label"],
        ["in b.vtt cue 1", "clip_not_found"],
        ["in c.vtt", "unreadable_file"],
    ]

    document = Eaf()
    document.add_property("clip", clip)
    for name in ("ann", "words"):
        document.add_tier(name)
    for start, value in enumerate(("joy", "boredom")):
        document.add_annotation("ann", 1000 * start, 1000 * start + 500, value)
        document.add_annotation("words", 1000 * start, 1000 * start + 500, "well")
    document.to_file(folder / "a.eaf")
    (folder / "b.eaf").write_text("<html>")
    report = import_labels(another(tmp_path, "elan"), folder, "elan")
    assert (report.imported, dict(report.left_out)) == (1, {"words": 2})
    assert [line.split(": ")[1] for line in sorted(report.bad)] == ["unknown_label", "unreadable_file"]


@on_sqlite
def test_label_studio_has_what_its_tables_need(store, tmp_path):
    """A prediction goes along with model and score; uneven weights and who labelled are in controls and meta."""
    clip_id = store.register_clip(None, "b" * 64, name="uploaded")
    probs = {"anger": 0.25, "fear": 0.75}
    result = {"emotion": "fear", "probs": probs, "present": {"face": True}, "checkpoint": "base-1"}
    store.add_prediction(clip_id, result)
    store.add_prediction(clip_id, result | {"start_s": 1, "end_s": 2, "checkpoint": "base-2"})
    export_labels(store, tmp_path / "labels.json", "labelstudio")
    tasks = {
        task["data"]["sha256"]: task for task in json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    }
    assert [(p["model_version"], p["score"], p["result"][0]["value"]) for p in tasks["b" * 64]["predictions"]] == [
        ("base-1", 0.75, {"choices": ["fear"]}),
        ("base-2", 0.75, {"start": 1.0, "end": 2.0, "channel": 0, "labels": ["fear"]}),
    ]
    controls = set(re.findall(r' name="([^"]+)"', (tmp_path / "labels.xml").read_text()))
    results = [r for task in tasks.values() for a in task["annotations"] + task["predictions"] for r in a["result"]]
    assert {r["from_name"] for r in results} | {r["to_name"] for r in results} <= controls
    assert [a["was_cancelled"] for a in tasks[KEPT]["annotations"]] == [False, True]
    other = another(tmp_path)
    # Somebody changes a choice in Label Studio: the weights were those of the old one.
    tasks[KEPT]["annotations"][0]["result"][0]["value"]["choices"] = ["anger", "disgust"]
    (tmp_path / "labels.json").write_text(json.dumps(list(tasks.values())))
    assert import_labels(other, tmp_path / "labels.json", "labelstudio").bad == []
    assert next(other.labels(sha256=KEPT)).emotions == {"anger": 0.5, "disgust": 0.5}


@on_sqlite
def test_label_studios_converter_takes_an_export(store, tmp_path):
    """label-studio-sdk wants an older numpy and brings a second OpenCV, so it has an environment of its own."""
    python = os.environ.get("MMER_TEST_LABEL_STUDIO")
    if not python:  # .ci/run makes it; elsewhere half a gigabyte is not asked of everybody
        pytest.skip("MMER_TEST_LABEL_STUDIO names no Python that has label-studio-sdk")
    out = tmp_path / "labels.json"
    export_labels(store, out, "labelstudio")
    code = (
        "import sys; from label_studio_sdk.converter import Converter; folder = sys.argv[1]\n"
        "converter = Converter(open(folder + '/labels.xml').read(), folder)\n"
        "for format in ('JSON_MIN', 'CSV'):\n"
        "    converter.convert(folder + '/labels.json', folder + '/' + format, format, is_dir=False)"
    )
    done = subprocess.run([python, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "JSON_MIN" / "result.json").read_text(encoding="utf-8"))
    found = {
        (row["sha256"], row.get("annotator_name") or row["segment_annotator_name"], json.dumps(row[name]))
        for row in rows
        for name in row
        if name.startswith("emotion_") or re.fullmatch("segment_(all|face|voice|text)", name)
    }
    span = {"start": 0.25, "end": 3.0, "channel": 0}
    assert len(rows) == 8  # a skipped annotation is no row
    assert found >= {
        (TALK, "ann", '"anger"'),
        (TALK, "ann", json.dumps([span | {"labels": ["fear"]}])),
        (TALK, "bea & <co>", json.dumps([span | {"labels": ["anger", "fear", "sadness"]}])),
        (KEPT, "bea & <co>", '{"choices": ["anger", "fear"]}'),
        ("b" * 64, "ann", '"cannot_tell"'),
    }
    with (tmp_path / "CSV" / "result.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert sorted(row["emotion_all"] for row in table if row["emotion_all"]) == ["anger"]
    assert {row["annotator_name"] or row["segment_annotator_name"] for row in table} == {"ann", "bea & <co>"}


@on_sqlite
def test_webvtt_is_what_a_player_reads(store, tmp_path):
    export_labels(store, tmp_path / "vtt", "webvtt")
    files = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "vtt").iterdir()}
    assert set(files) == {f"interview_one_50_-{TALK[:12]}.vtt", f"kept-{KEPT[:12]}.vtt", f"uploaded-{'b' * 12}.vtt"}
    talk = files[f"interview_one_50_-{TALK[:12]}.vtt"]
    assert talk.startswith(f"WEBVTT\n\nNOTE clip: {tmp_path}/interview, &lt;one&gt; &amp; 50%.mp4\n\n")
    assert talk.endswith(
        "00:00.000 --> 00:04.500\n<v.all.clip ann>anger</v>\n\n"
        "00:00.250 --> 00:03.000\n<v.all ann>fear</v>\n\n"
        "00:00.250 --> 00:03.000\n<v.voice bea &amp; &lt;co&gt;>"
        "anger=0.3333333333333333;fear=0.3333333333333333;sadness=0.3333333333333333</v>\n\n"
        "00:01.000 --> 00:04.000\n<v.all ann>neutral</v>\n"
    )
    assert (
        "\n01:00:01.000 --> 01:00:02.002\n<v.all bea &amp; &lt;co&gt;>surprise</v>\n"
        in files[f"uploaded-{'b' * 12}.vtt"]
    )


@on_sqlite
def test_elan_gets_tiers_without_overlaps(store, tmp_path):
    export_labels(store, tmp_path / "elan", "elan")
    document = Eaf(str(tmp_path / "elan" / f"interview_one_50_-{TALK[:12]}.eaf"))
    third = "=0.3333333333333333"
    assert {
        name: document.get_annotation_data_for_tier(name)
        for name in document.get_tier_names()
        if not document.tiers[name][2].get("PARENT_REF")
    } == {
        "ann clip all": [(0, 4500, "anger")],
        "ann segment all": [(250, 3000, "fear")],
        "ann segment all 2": [(1000, 4000, "neutral")],
        "bea & <co> segment voice": [(250, 3000, f"anger{third};fear{third};sadness{third}")],
    }
    assert document.get_ref_annotation_data_for_tier("ann clip all comment") == [
        (0, 4500, 'a <b>, & "c" --> d;\n= é 日本', "anger")
    ]
    media = document.get_linked_files()[0]
    assert media["MEDIA_URL"] == (tmp_path / "interview, <one> & 50%.mp4").as_uri()
    assert (document.tiers["ann clip all"][2]["ANNOTATOR"], document.tiers["ann clip all"][2]["PARTICIPANT"]) == (
        "ann",
        "Zoë",
    )


def test_a_media_file_of_the_same_name_is_the_clip_of_an_annotation_file(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "talk [1].mp4").write_bytes(FILM)
    (folder / "talk [1].vtt").write_text(
        "\ufeffWEBVTT - talk\n\nSTYLE\n::cue {}\n\nlast\n00:01.000 --> 01:00:00.000 align:end\n"
        "<v.voice Ann B>joy</v> <v.face Cem><i>fear</i>\n"
    )
    document = Eaf()
    document.add_tier("Ann voice")
    document.add_annotation("Ann voice", 0, 250, "Happy")
    document.to_file(folder / "talk [1].eaf")
    store = another(tmp_path)
    assert import_labels(store, folder / "talk [1].vtt", "webvtt").imported == 2
    assert import_labels(store, folder, "elan").imported == 1
    assert [
        (label.sha256, label.annotator, label.target, label.start_s, label.end_s, *label.emotions)
        for label in store.labels()
    ] == [
        (TALK, "Ann B", "voice", 1, 3600, "happiness"),
        (TALK, "Cem", "face", 1, 3600, "fear"),
        (TALK, "Ann voice", "voice", 0, 0.25, "happiness"),
    ]


@on_sqlite
def test_the_command_line_says_what_it_left_out(store, tmp_path, capsys):
    database, media = str(tmp_path / "mmer.db"), str(tmp_path / "home" / "media")
    out = str(tmp_path / "vtt")
    assert main(["export", "--database", database, "--media", media, "--format", "webvtt", "--out", out]) == 0
    said = capsys.readouterr()
    assert said.out == f"9 labels written to {out}\n"
    assert said.err.endswith(
        "left out, as webvtt has no place for it: 1 arousal, 2 blind, 2 comment, 2 confidence, 9 created_at, "
        "1 intensity, 1 lead_time_s, 2 transcript, 1 valence\n"
    )
    new = ["--database", str(tmp_path / "new" / "x.db"), "--media-root", str(tmp_path)]
    assert main(["import", out, *new]) == 0  # what the folder looks like
    assert capsys.readouterr().out == "9 labels imported, 0 already there, 0 bad rows\n"
    with pytest.raises(SystemExit, match="2"):
        main(["export", "--format", "csv", "--out", "x", "--push", "ann/labels"])
    assert "--push REPO goes with --format hf" in capsys.readouterr().err
