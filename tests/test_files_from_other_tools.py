"""Files as other tools and people write them: what is read comes out right, what is not is named."""

import hashlib
import json
import unicodedata
import wave
from pathlib import Path

import pytest
from pympi import Eaf

from annotations.__main__ import main
from annotations.db.schema import OUTCOMES
from annotations.formats.import_export import ImportReport, format_of, import_labels
from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue
from annotations.store import Store
from mmer.errors import LabelError

HEADER = "clip,label,annotator,target,confidence,comment,created_at,speaker"


def write_wav(path: Path, seconds: float = 2.0, tone: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes([tone, 0]) * round(16_000 * seconds))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a.wav, b.wav and c.wav of two seconds, where import files are put."""
    for n, name in enumerate("abc", 1):
        write_wav(tmp_path / "in" / f"{name}.wav", tone=n)
    return tmp_path / "in"


def imported(file: Path, **options) -> tuple[ImportReport, list[tuple]]:
    """Return the report of an import, and (clip, annotator, target, start, end, what) of the labels that are there."""
    home = file.parent.parent / "home"
    store = Store(f"sqlite:///{home / 'mmer.db'}", home / "media", home / "features")
    report = import_labels(store, file, format_of(file), **options)
    labels = [
        (label.name, label.annotator, label.target, label.start_s, label.end_s, *(label.emotions or [label.outcome]))
        for label in store.labels(OUTCOMES)
    ]
    store.engine.dispose()
    return report, labels


def codes(report: ImportReport) -> list[str]:
    return [line.split(": ")[1] for line in report.bad]


def after_import(report: ImportReport, labels: list[tuple]) -> tuple[list[tuple], list[str]]:
    return [label[1:] for label in labels], codes(report)


FEAR = ("Bob", "all", 0.1, 0.4, "fear")


@pytest.mark.parametrize(
    ("text", "labels", "bad"),
    [
        ("WEBVTT\n00:00.100 --> 00:00.400\n<v Bob>fear</v>\n", [FEAR], []),  # the header touches the cue
        ("WEBVTT - of a talk\nKind: captions\n\n00:00.100 --> 00:00.400\n<v Bob>fear", [FEAR], []),
        ("\ufeffWEBVTT\r\n\r\n00:00.100 --> 00:00.400\r\n<v Bob>fear</v>\r\n", [FEAR], []),
        ("WEBVTT\r\r00:00.100 --> 00:00.400\r<v Bob>fear</v>", [FEAR], []),
        ("WEBVTT\n\n0:00:00.100 --> 000:00:00.400\n<v Bob>fear</v>", [FEAR], []),
        ("WEBVTT\n\n00:00.100-->00:00.400align:start\n<v Bob>fear</v>", [FEAR], []),
        ("WEBVTT\n\n\t00:00.100\t-->\t00:00.400 position:10%\n<v Bob>fear</v>", [FEAR], []),
        ("WEBVTT\n\nfirst\nsecond\n00:00.100 --> 00:00.400\n<v Bob>fear</v>", [FEAR], []),  # an id of two lines
        (
            "WEBVTT\n\nSTYLE\n::cue {}\n\nREGION\nid:x\n\nNOTE a --\n\nid\n00:00.100 --> 00:00.400\n<v Bob>fear",
            [FEAR],
            [],
        ),
        (
            "WEBVTT\n\n00:00.100 --> 00:00.400\n<v Bob>fear</v>\n00:00.500 --> 00:00.700\n<v Bob>joy</v>",
            [FEAR, ("Bob", "all", 0.5, 0.7, "happiness")],
            [],
        ),
        (
            "WEBVTT\n\n00:00.100 --> 00:00.400\n<v Bob>fear</v>\n00:00.500 --> 00:00.700\n<v.face Ann  B>joy</v>",
            [FEAR, ("Ann B", "face", 0.5, 0.7, "happiness")],
            [],
        ),
        (
            "WEBVTT\n\n00:00.100 --> 00:00.400\n<v Bob><c.loud>fe</c><0:0>ar</v>\n<v.voice A&amp;B>dis&#103;ust</v>",
            [FEAR, ("A&B", "voice", 0.1, 0.4, "disgust")],
            [],
        ),
        ("WEBVTT\n\n00:00.100 --> 00:00.400\n00:00.100 --> 00:00.400\n<v Bob>fear", [FEAR], ["no_annotator"]),
        ("WEBVTT\n\n0:00.100 --> 00:00.400\n<v Bob>joy\n00:00.100 --> 00:00.400\n<v Bob>fear", [FEAR], ["bad_segment"]),
        ("WEBVTT\n\n65:00.100 --> 66:00.400\n<v Bob>joy", [], ["bad_segment"]),
        ("WEBVTT\n\n00:00.1000 --> 00:00.400\n<v Bob>joy", [], ["bad_segment"]),
        ("WEBVTT\n\n00:00.100 -> 00:00.400\n<v Bob>joy", [], []),  # no arrow, no cue
        ("WEBVTT\n\n00:00.100 --> 00:00.400\n<v Bob>", [], ["no_label"]),
        ("WEBVTT\n\n00:00.100 --> 00:00.400\n<v>joy", [], ["no_annotator"]),
        ("WEBVTT\n\n00:01.500 --> 00:02.500\n<v Bob>joy", [], ["bad_segment"]),  # the clip lasts two seconds
    ],
)
def test_webvtt_is_cut_into_cues_as_a_player_cuts_it(folder, text, labels, bad):
    (folder / "a.vtt").write_bytes(text.encode())
    report, found = imported(folder / "a.vtt")
    assert after_import(report, found) == (labels, bad)
    assert bool(report.left_out) == (not labels and not bad)  # a file without a cue is named


def eaf(folder: Path, tiers: dict[str, list[tuple]], **clip) -> Path:
    """Write an EAF; an annotation is (start, end, value) in milliseconds."""
    document = Eaf()
    document.remove_tier("default")
    for media in clip.get("media", [{"MEDIA_URL": "file:///D:/proj/a.wav", "RELATIVE_MEDIA_URL": "./a.wav"}]):
        document.media_descriptors.append({"MIME_TYPE": "audio/x-wav", **media})
    for name, annotations in tiers.items():
        document.add_tier(name)
        for start, end, value in annotations:
            document.add_annotation(name, start, end, value)
    document.to_file(folder / "x.eaf")
    return folder / "x.eaf"


@pytest.mark.parametrize(
    ("tiers", "values", "left_out"),
    [
        ({"emotion": ["anger"], "words": ["I", "am", "so", "happy", "and", "calm"]}, ["anger"], {"words": 6}),
        ({"words": ["happy", "calm", "skip"]}, [], {"words": 3}),
        ({"Transcription-P1": ["happy"], "Ann": ["joy", "boredom"]}, ["happiness"], {"Transcription-P1": 1}),
        ({"sentiment": ["neutral", "positive", "neutral"]}, [], {"sentiment": 3}),
        ({"P1": ["happy", "to", "see", "you"]}, [], {"P1": 4}),
        ({"P1": ["skip", "it"]}, [], {"P1": 2}),
        ({"emotion_intensity": ["fear"], "Émotion": ["neutral"]}, ["neutral"], {"emotion_intensity": 1}),
        ({"ann face": ["sad", "broken"]}, ["sadness", "broken"], {}),
    ],
)
def test_an_elan_tier_is_about_emotions_as_a_whole_or_not(folder, tiers, values, left_out):
    timed = {name: [(100 * i, 100 * i + 90, v) for i, v in enumerate(tier)] for name, tier in tiers.items()}
    report, labels = imported(eaf(folder, timed))
    assert [label[-1] for label in labels] == values
    assert dict(report.left_out) == left_out
    assert codes(report) == (["unknown_label"] if "Ann" in tiers else [])


def test_a_vocabulary_of_emotions_makes_an_elan_tier_one(folder):
    file = eaf(folder, {"P1": [(0, 100, "neutral")], "P2": [(0, 100, "neutral")]})
    document = Eaf(str(file))
    for cv, values in (("feels", ("anger", "neutral")), ("polarity", ("positive", "neutral", "negative"))):
        document.add_language("en", "en", "English")
        document.add_controlled_vocabulary(cv)
        for i, value in enumerate(values):
            document.add_cv_entry(cv, f"{cv}{i}", [(value, "en", "")])
        document.add_linguistic_type(f"type {cv}")
        document.linguistic_types[f"type {cv}"]["CONTROLLED_VOCABULARY_REF"] = cv
    document.tiers["P1"][2]["LINGUISTIC_TYPE_REF"] = "type feels"
    document.tiers["P2"][2]["LINGUISTIC_TYPE_REF"] = "type polarity"
    document.to_file(file)
    report, labels = imported(file)
    assert labels == [("a.wav", "P1", "all", 0.0, 0.1, "neutral")]
    assert dict(report.left_out) == {"P2": 1}


def test_a_dependent_elan_tier_has_the_times_of_its_parent(folder):
    document = Eaf(str(eaf(folder, {"utt": [(0, 300, "leave me alone"), (300, 900, "thank you")]})))
    document.add_linguistic_type("assoc", "Symbolic_Association", timealignable=False)
    document.add_linguistic_type("parts", "Symbolic_Subdivision", timealignable=False)
    for name, kind, parent in (
        ("emotion", "assoc", "utt"),
        ("emotion 2", "assoc", "emotion"),
        ("emotions", "parts", "utt"),
    ):
        document.add_tier(name, kind, parent=parent, ann=name)
    document.add_ref_annotation("emotion", "utt", 100, "anger")
    document.add_ref_annotation("emotion", "utt", 400, "joy")
    document.add_ref_annotation("emotion 2", "emotion", 400, "surprise")
    document.add_ref_annotation("emotions", "utt", 400, "sad")
    (first,) = document.tiers["emotions"][1]
    document.add_ref_annotation("emotions", "utt", 400, "fear", prev=first)
    document.to_file(folder / "x.eaf")
    report, labels = imported(folder / "x.eaf")
    assert after_import(report, labels) == (
        [
            ("emotion", "all", 0.0, 0.3, "anger"),
            ("emotion", "all", 0.3, 0.9, "happiness"),
            ("emotion 2", "all", 0.3, 0.9, "surprise"),
            ("emotions", "all", 0.3, 0.6, "sadness"),
            ("emotions", "all", 0.6, 0.9, "fear"),
        ],
        [],
    )


@pytest.mark.parametrize(
    ("media", "start_s"),
    [
        (
            [
                {"MEDIA_URL": "file:///D:/p/cam.mpg", "RELATIVE_MEDIA_URL": "../v/cam.mpg"},
                {"MEDIA_URL": "file:///D:/p/b.wav"},
            ],
            0.5,
        ),
        ([{"MEDIA_URL": "file:///C:/Users/me/b.wav"}], 0.5),
        ([{"MEDIA_URL": "file:///home/me/b%2Ewav"}], 0.5),
        ([{"MEDIA_URL": "", "RELATIVE_MEDIA_URL": "file:/b.wav"}], 0.5),
        ([{"MEDIA_URL": "file:///D:/b.wav", "TIME_ORIGIN": "1000"}], 1.5),
        (
            [{"MEDIA_URL": "file:///D:/gone.wav", "TIME_ORIGIN": "900"}, {"MEDIA_URL": "b.wav", "TIME_ORIGIN": "-200"}],
            0.3,
        ),
    ],
)
def test_elan_times_are_of_the_linked_file_that_lies_here(folder, media, start_s):
    report, labels = imported(eaf(folder, {"emotion": [(500, 800, "anger")]}, media=media))
    assert report.bad == []
    assert labels == [("b.wav", "emotion", "all", start_s, round(start_s + 0.3, 3), "anger")]


@pytest.mark.parametrize(("origin", "end_ms"), [("0", 2300), ("1500", 900), ("-600", 900)])
def test_an_elan_annotation_outside_its_clip_is_named(folder, origin, end_ms):
    media = [{"MEDIA_URL": "file:///D:/a.wav", "TIME_ORIGIN": origin}]
    report, labels = imported(eaf(folder, {"emotion": [(500, end_ms, "anger")]}, media=media))
    assert (labels, codes(report)) == ([], ["bad_segment"])


def test_a_second_answer_to_one_question_does_not_replace_the_first(folder):
    cue = "00:00.100 --> 00:00.400\n"
    (folder / "a.vtt").write_text(
        f"WEBVTT\n\n{cue}<v Bob>fear\n{cue}<v Bob>fear\n{cue}<v Bob>joy\n{cue}<v.face Bob>joy"
    )
    report, labels = imported(folder / "a.vtt")
    assert after_import(report, labels) == ([FEAR, ("Bob", "face", 0.1, 0.4, "happiness")], ["two_labels"])
    document = Eaf(
        str(eaf(folder, {"emotion 1": [(0, 100, "sad")], "emotion 2": [(0, 100, "fear"), (100, 200, "fear")]}))
    )
    for tier in document.tiers.values():
        tier[2]["ANNOTATOR"] = "kim"
    document.to_file(folder / "x.eaf")
    report, labels = imported(folder / "x.eaf")
    assert [label[1:] for label in labels if label[1] == "kim"] == [
        ("kim", "all", 0.0, 0.1, "sadness"),
        ("kim", "all", 0.1, 0.2, "fear"),
    ]
    assert codes(report) == ["two_labels"]


def choice(name: str, *values, **more) -> dict:
    return {
        "id": "x",
        "from_name": name,
        "to_name": "audio",
        "type": "choices",
        "value": {"choices": list(values)},
    } | more


def region(key: str, name: str, start: float, end: float, *values) -> dict:
    value = {"start": start, "end": end, "labels": list(values)}
    return {"id": key, "from_name": name, "to_name": "audio", "type": "labels", "value": value}


def side(kind: str, name: str, value, **more) -> dict:
    return {"id": "z", "from_name": name, "to_name": "audio", "type": kind, "value": value, **more}


def task(results: list, clip: str = "a", **annotation) -> dict:
    annotation = {"id": 1, "completed_by": 1, "result": results, "lead_time": 2.5, **annotation}
    return {"id": 1, "data": {"audio": f"/data/upload/1/0a1b2c3d-{clip}.wav"}, "annotations": [annotation]}


def label_studio(folder: Path, *tasks: dict) -> Path:
    (folder / "x.json").write_text(json.dumps(tasks))
    return folder / "x.json"


def test_a_label_studio_control_is_about_emotions_as_a_whole_or_not(folder):
    values = ("Positive", "Negative", "Neutral")
    report, labels = imported(
        label_studio(folder, *(task([choice("sentiment", v)], c) for v, c in zip(values, "abc", strict=True)))
    )
    assert (labels, report.bad, report.left_out) == ([], [], {"sentiment": 3})
    report, labels = imported(
        label_studio(folder, task([choice("mood", "Happy")]), task([choice("mood", "Smug")], "b"))
    )
    assert [label[0] for label in labels] == ["a.wav"]
    assert codes(report) == ["unknown_label"]
    assert "'Smug'" in report.bad[0]


def test_the_labeling_config_says_what_a_control_asks(folder):
    (folder / "x.xml").write_text(
        '<View><Choices name="q1" toName="audio"><Choice value="Happy" alias="h"/><Choice value="Sad"/></Choices>'
        '<Choices name="q2" toName="audio"><Choice value="Happy ending"/><Choice value="Calm"/>'
        '<Choice value="x"/></Choices></View>'
    )
    report, labels = imported(label_studio(folder, task([choice("q1", "h"), choice("q2", "Calm")])))
    assert [label[-1] for label in labels] == ["happiness"]
    assert (report.bad, report.left_out) == ([], {"q2": 1})


@pytest.mark.parametrize(
    "field",
    [
        side("textarea", "comment", {"text": None}),
        side("textarea", "transcript", {"text": []}),
        side("textarea", "comment", {}),
        side("textarea", "comment", None),
        side("number", "confidence", {"number": None}),
        side("rating", "intensity", {}),
        side("choices", "scene", {"choices": None}),
    ],
)
def test_an_empty_side_field_says_nothing_and_loses_no_annotation(folder, field):
    report, labels = imported(label_studio(folder, task([choice("emotion", "anger"), field])))
    assert labels == [("a.wav", "label-studio user 1", "all", None, None, "anger")]
    assert (report.bad, report.left_out) == ([], {})


def test_a_side_field_that_cannot_be_read_is_counted_and_loses_no_annotation(folder):
    results = [
        choice("emotion", "anger"),
        side("rating", "confidence", {"rating": 9}),
        side("number", "valence", {"number": "high"}),
        side("textarea", "comment", {"text": 7}),
    ]
    report, labels = imported(label_studio(folder, task(results)))
    assert [label[-1] for label in labels] == ["anger"]
    assert codes(report) == ["bad_row"]  # the text that is a number
    assert report.left_out == {"confidence": 1, "valence": 1}


def test_a_region_without_a_label_costs_only_itself(folder):
    empty = {"id": "q", "from_name": "label", "to_name": "audio", "type": "labels", "value": {"start": 0.1, "end": 0.4}}
    report, labels = imported(label_studio(folder, task([empty, region("r", "label", 0.4, 0.6, "sad")])))
    assert after_import(report, labels) == ([("label-studio user 1", "all", 0.4, 0.6, "sadness")], ["no_label"])


def test_per_region_choices_are_of_their_region(folder):
    results = [
        region("r1", "speaker", 0.1, 0.4, "Speaker 1"),
        choice("emotion", "happy", id="r1"),
        side("rating", "intensity", {"rating": 4}, id="r1"),
        choice("emotion", "sad", id="r2"),
        region("r2", "speaker", 0.4, 0.6, "Speaker 2"),
    ]
    report, labels = imported(label_studio(folder, task(results)))
    assert [label[2:] for label in labels] == [("all", 0.1, 0.4, "happiness"), ("all", 0.4, 0.6, "sadness")]
    assert (report.bad, report.left_out) == ([], {"speaker": 2})


def test_choices_of_a_box_or_of_letters_are_not_of_the_whole_clip(folder):
    box = {
        "id": "b",
        "from_name": "who",
        "to_name": "i",
        "type": "rectanglelabels",
        "value": {"x": 1, "rectanglelabels": ["A"]},
    }
    letters = {"start": 0, "end": 4, "text": "well", "labels": ["happy"]}
    results = [box, choice("emotion", "happy", id="b"), side("labels", "feeling", letters), choice("emotion", "sad")]
    report, labels = imported(label_studio(folder, task(results)))
    assert [label[2:] for label in labels] == [("all", None, None, "sadness")]
    assert report.bad == []
    assert report.left_out == {
        "who": 1,
        "emotion of what is no stretch of time": 1,
        "feeling of what is no stretch of time": 1,
    }


def test_two_answers_to_one_question_are_not_silently_one(folder):
    report, labels = imported(label_studio(folder, task([choice("emotion_1", "happy"), choice("emotion_2", "sad")])))
    assert [label[-1] for label in labels] == ["happiness"]
    assert codes(report) == ["two_labels"]


def test_label_studio_names_one_person_in_one_way(folder):
    people = [9, {"id": 9, "email": ""}, {"id": 9, "email": "kim@example.org"}, "9"]
    for person in people:
        _, labels = imported(label_studio(folder, task([choice("emotion", "anger")], completed_by=person)))
    assert [label[1] for label in labels] == ["label-studio user 9"]
    report, labels = imported(label_studio(folder, task([choice("emotion", "sad")], "b", completed_by=None)))
    assert labels[-1][1] == "label-studio user unknown"
    assert report.notes == {"labels without a known annotator, stored as 'label-studio user unknown'": 1}


def test_of_two_annotators_whose_accounts_were_deleted_one_lost_their_vote(folder):
    both = task([choice("emotion", "anger")], completed_by=None)
    both["annotations"] += task([choice("emotion", "sad")], completed_by=None, id=2)["annotations"]
    report, labels = imported(label_studio(folder, both))
    assert [(label[1], label[-1]) for label in labels] == [
        ("label-studio user unknown", "anger"),
        ("label-studio user unknown 2", "sadness"),
    ]
    assert report.notes == {"labels without a known annotator, stored as 'label-studio user unknown'": 2}
    assert imported(folder / "x.json")[0].present == 2


@pytest.mark.parametrize("lead_time", [1e7, -0.5, "long", [], float("nan"), True])
def test_an_odd_lead_time_goes_and_the_label_stays(folder, lead_time):
    report, labels = imported(label_studio(folder, task([choice("emotion", "anger")], lead_time=lead_time)))
    assert [label[-1] for label in labels] == ["anger"]
    assert (report.bad, report.notes) == ([], {"impossible lead times dropped, the labels kept": 1})


@pytest.mark.parametrize("lead_time_s", [-1.0, 8 * 86400.0, float("nan")])
def test_an_odd_lead_time_on_the_page_goes_and_the_label_stays(folder, tmp_path, lead_time_s):
    store = Store(f"sqlite:///{tmp_path / 'home' / 'mmer.db'}", tmp_path / "home" / "media")
    chosen = projects.create(store, "voices", gold_share=0.0, actor="boss")
    projects.add_items(store, chosen, [store.utterance(store.register_clip(None, "a" * 64, name="a"))])
    queue = Queue(store, chosen)
    queue.submit(queue.next("ann")[0].assignment_id, "ann", Answer("anger"), lead_time_s=lead_time_s, blind=True)
    assert [(label.emotions, label.lead_time_s) for label in store.labels()] == [({"anger": 1.0}, None)]


def test_a_text_task_is_a_clip_of_words(folder, tmp_path):
    words = "I am so glad, see http://x"
    one = {"id": 1, "data": {"text": words}, "annotations": task([choice("emotion", "happy")])["annotations"]}
    report, labels = imported(label_studio(folder, one))
    assert (report.bad, [label[0] for label in labels]) == ([], [words])
    store = Store(f"sqlite:///{tmp_path / 'home' / 'mmer.db'}", tmp_path / "home" / "media")
    (label,) = store.labels()
    assert (label.sha256, label.words) == (hashlib.sha256(words.encode()).hexdigest(), words)


ROW = ("a.wav", "ann", "face", None, None, "anger")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("clip;label;annotator;target;confidence\na.wav;anger;ann;face;0,5\n", "utf-8"),
        ("clip\tlabel\tannotator\ttarget\tconfidence\na.wav\tanger\tann\tface\t0.5\n", "utf-16"),
        ("clip,label,annotator,target,confidence\na.wav,anger,ann,face,0.5\n", "utf-16-le"),
        ("clip,label,annotator,target,confidence\na.wav,anger,ann,face,0.5\n", "utf-16-be"),
        ("clip,label,annotator,target,confidence\r\na.wav,anger,ann,face,0.5\r\n,,,,\r\n", "utf-8-sig"),
        ("sep=;\r\nclip;label;annotator;target;confidence\r\na.wav;anger;ann;face;0,5\r\n", "utf-8-sig"),
        ('"sep=|"\nclip|label|annotator|target|confidence\na.wav|anger|ann|face|0.5\n', "utf-8"),
        (" CLIP ,Label,ANNOTATOR,Target,Confidence\na.wav, Anger ,ann, FACE ,0.5\n", "utf-8"),
        ('"clip";"label";"annotator";"target";"confidence"\n".\\a.wav";"anger";"ann";"face";".5"\n', "utf-8"),
        ("clip,label,annotator,target,confidence\nC:\\Users\\me\\in\\a.wav,anger,ann,face,0.5\n", "utf-8"),
        ("clip,label,annotator,target,confidence\n\\\\server\\share\\a.wav,anger,ann,face,0.5\n", "utf-8"),
        ("clip,label,annotator,target,confidence\r../in/a.wav,anger,ann,face,0.5\r", "utf-8"),
    ],
)
def test_csv_is_read_as_spreadsheets_save_it(folder, text, encoding):
    (folder / "x.csv").write_bytes(text.encode(encoding))
    report, labels = imported(folder / "x.csv")
    assert (labels, report.bad) == ([ROW], [])


@pytest.mark.parametrize("header", ["text,label,annotator,speaker", "clip,text,label,annotator,speaker"])
def test_a_table_of_sentences_was_refused(folder, header):
    """Labels about words alone came in through Label Studio only."""
    sentences = ["Leave me alone", "Oh, you!"]
    rows = [f'"{words}",anger,ann,Rachel' for words in sentences]
    empty = "," if header.startswith("clip") else ""
    (folder / "x.csv").write_text("\n".join([header, *(empty + row for row in rows)]))
    store = Store(f"sqlite:///{folder.parent / 'mmer.db'}", folder.parent / "media", folder.parent / "features")
    report = import_labels(store, folder / "x.csv", "csv")
    assert (report.imported, report.bad) == (2, [])
    labels = list(store.labels())
    assert [(label.words, label.speaker, label.media) for label in labels] == [(w, "Rachel", None) for w in sentences]
    store.engine.dispose()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"path;emotion\nx;anger\n",
            "no column clip, label, annotator; its first line names path, emotion, separated by ';'",
        ),
        (b"clip,label\na.wav,anger\n", "no column annotator; its first line names clip, label, separated by commas"),
        (b"PK\x03\x04 a workbook", "is a workbook of a spreadsheet; save the sheet as CSV"),
        (b"clip,label,annotator,Label\na.wav,anger,ann,fear\n", "has the column label more than once"),
    ],
)
def test_a_table_that_is_not_read_says_the_real_cause(folder, content, said):
    (folder / "x.csv").write_bytes(content)
    with pytest.raises(LabelError, match=said):
        imported(folder / "x.csv")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_is_found_under_its_other_unicode_form(folder, forms):
    stored, written = (unicodedata.normalize(form, "Zoë/Zoë.wav") for form in forms)
    write_wav(folder / stored, tone=9)
    (folder / "x.csv").write_text(f"clip,label,annotator\n{written},anger,ann\n", encoding="utf-8")
    report, labels = imported(folder / "x.csv")
    assert (len(labels), report.bad) == (1, [])
    (folder / unicodedata.normalize(forms[1], "Zoë.vtt")).write_text("WEBVTT\n\n00:00.100 --> 00:00.400\n<v Bob>fear")
    write_wav(folder / unicodedata.normalize(forms[0], "Zoë.wav"), tone=8)
    assert imported(folder / unicodedata.normalize(forms[1], "Zoë.vtt"))[0].imported == 1


def test_a_clip_is_deleted_under_either_form_of_its_name(folder, tmp_path, capsys):
    write_wav(folder / unicodedata.normalize("NFD", "Zoë.wav"), tone=9)
    (folder / "x.tsv").write_text("clip\tlabel\tannotator\nZoë.wav\tanger\tann\n", encoding="utf-8")
    where = ["--database", str(tmp_path / "home" / "x.db")]
    assert main(["import", str(folder / "x.tsv"), *where]) == 0
    assert main(["delete", "--clip", unicodedata.normalize("NFC", str(folder / "Zoë.wav")), *where]) == 0
    assert "deleted 1 clips, 1 label rows" in capsys.readouterr().out


def test_an_import_registers_no_file_of_elsewhere(folder, tmp_path):
    outside = write_wav(tmp_path / "elsewhere" / "private.wav", tone=7)
    (folder / "secret.wav").write_text("root:x:0:0:root:/root:/bin/bash\n" * 9)
    (folder / "notes.txt").write_text("notes")
    (folder / "link.wav").symlink_to(outside)
    kept = write_wav(tmp_path / "home" / "media" / "kept.wav", tone=6)
    (tmp_path / "home" / "accounts.json").write_text("{}")
    names = {
        "/etc/passwd": "outside_folder",
        str(outside): "outside_folder",
        "../elsewhere/private.wav": "outside_folder",
        "link.wav": "outside_folder",
        str(tmp_path / "home" / "mmer.db"): "outside_folder",
        "secret.wav": "not_media",
        "notes.txt": "not_media",
        str(kept): "own_file",
    }
    (folder / "x.csv").write_text("clip,label,annotator\n" + "".join(f"{name},anger,ann\n" for name in names))
    report, labels = imported(folder / "x.csv")
    assert (labels, codes(report)) == ([], list(names.values()))
    assert "--allow-outside takes any" in report.bad[0]
    tasks = [
        {"id": n, "data": {"video": name}, "annotations": task([choice("emotion", "sad")])["annotations"]}
        for n, name in enumerate(names)
    ]
    report, labels = imported(label_studio(folder, *tasks))
    assert {code for code in codes(report)} <= {"outside_folder", "not_media", "own_file", "clip_not_found"}
    assert len(report.bad) == len(names)
    trusted, labels = imported(folder / "x.csv", allow_outside=True)
    assert [label[0] for label in labels] == ["private.wav"]
    assert (trusted.imported, trusted.present) == (1, 2)  # by three names
    assert sorted(codes(trusted)) == ["not_media"] * 4 + ["own_file"]


def test_a_folder_that_is_given_is_where_clips_may_lie(folder, tmp_path):
    write_wav(tmp_path / "clips" / "far" / "d.wav", tone=5)
    (folder / "x.csv").write_text("clip,label,annotator\nfar/d.wav,anger,ann\n")
    assert codes(imported(folder / "x.csv")[0]) == ["clip_not_found"]
    where = ["--database", str(tmp_path / "home" / "x.db")]
    assert main(["import", str(folder / "x.csv"), "--media-root", str(tmp_path / "clips"), *where]) == 0


def test_a_metadata_table_brings_labels_too(folder, tmp_path):
    write_wav(folder / "test" / "t.wav", tone=4)
    (folder / "metadata.csv").write_text("file_name;label;annotator\na.wav;anger;ann\n../etc.wav;anger;ann\n")
    (folder / "test" / "metadata.jsonl").write_text('{"file_name": "t.wav", "label": "sad", "annotator": "bea"}\n')
    store = Store(f"sqlite:///{tmp_path / 'home' / 'mmer.db'}", tmp_path / "home" / "media")
    assert format_of(folder) == "hf"
    report = import_labels(store, folder, "hf")
    assert [(label.name, label.annotator, *label.emotions) for label in store.labels()] == [
        ("a.wav", "ann", "anger"),
        ("t.wav", "bea", "sadness"),
    ]
    assert codes(report) == ["clip_not_found"]
    (folder / "metadata.csv").write_text("file_name,label\na.wav,anger\n")
    with pytest.raises(LabelError, match="has no column annotator; import --project takes its clips without labels"):
        import_labels(store, folder, "hf")


def test_a_folder_of_nothing_known_says_so(folder):
    with pytest.raises(LabelError, match=r"is a folder without .eaf, .vtt, metadata.csv"):
        format_of(folder)
