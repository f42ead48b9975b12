"""The page's two languages: every marked text has its German, none too many, and each request gets its own."""

import ast
import contextvars
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

from mmer.config import ROOT
from mmer.explanation import Explanation
from mmer.messages import listed
from mmer.trust import Trust
from mmer.ui import language, render
from mmer.ui.language import (
    asked,
    current,
    english,
    gettext,
    in_language,
    isolated,
    label,
    ngettext,
    speaking,
    told,
)
from mmer.ui.names import emotion, emotions_in
from mmer.ui.numbers import likely, seconds, signed, stretch
from mmer.ui.render import _TEMPLATES, braced

UI = ROOT / "mmer" / "ui"
GERMAN = language.CATALOGUES["de"]
MARKS = {"gettext": 1, "ngettext": 2, "marked": 1, "label": 1, "pattern": 1}  # how many of their arguments are texts
CODE = sorted([*(ROOT / "mmer").glob("*.py"), *UI.glob("*.py")])
TOLD = sorted(
    [*(ROOT / "mmer").rglob("*.py"), *(ROOT / "annotations").rglob("*.py"), *(ROOT / "training").rglob("*.py")]
)


def in_code(file: Path) -> Iterator[str]:
    """Yield the texts that a module marks."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for given in node.args[: MARKS.get(name, 0)]:
                if isinstance(given, ast.Constant) and isinstance(given.value, str):
                    yield given.value


def in_template(file: Path) -> Iterator[str]:
    for _, _, found in _TEMPLATES.extract_translations(file.read_text(encoding="utf-8")):
        for text in found if isinstance(found, tuple) else (found,):
            if isinstance(text, str):
                yield braced(text)


def marked_texts() -> dict[str, str]:
    """Return every marked text, each with a file that marks it."""
    found = {text: file.name for file in CODE for text in in_code(file)}
    found |= {text: file.name for file in (UI / "templates").iterdir() for text in in_template(file)}
    return found | {text: file.name for file in UI.glob("*.js") for text in language.in_script(file.read_text("utf-8"))}


def fields(text: str) -> list[str]:
    return sorted(name + spec for _, name, spec, _ in Formatter().parse(text) if name is not None)


def template(node: ast.expr) -> str | None:
    """Return a text of the code with {} for each field, None where it is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join("{}" if isinstance(part, ast.FormattedValue) else str(part.value) for part in node.values)
    return None


def raised(file: Path) -> Iterator[tuple[str, str]]:
    """Yield code and message of the errors and warnings that a module makes."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and len(node.args) > 1:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            code, message = template(node.args[0]), template(node.args[1])
            if (name.endswith("Error") or name == "Notice") and code and message:
                yield code, message


def test_every_text_of_the_page_has_its_german_and_no_german_is_left_over():
    marked, german = marked_texts(), set(GERMAN["page"])
    assert {text: file for text, file in marked.items() if text not in german} == {}
    assert sorted(german - set(marked)) == []


def test_german_has_the_same_fields():
    for section in GERMAN.values():
        assert {english: german for english, german in section.items() if fields(english) != fields(german)} == {}


def test_what_other_rooms_say_is_still_said_by_them():
    said = {template(node) for file in TOLD for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))}
    left = [text for text in GERMAN["told"] if re.sub(r"\{\w+\}", "{}", text) not in said]
    assert left == []


def test_errors_of_the_page_and_of_clips_are_told_in_german():
    ui = [file for file in UI.glob("*.py") if file.stem not in ("api", "mcp_tools")]  # they speak to programs
    rooms = [
        *ui,
        *(ROOT / "mmer" / f"{name}.py" for name in ("media", "sources", "voice", "face", "whatif")),
    ]
    known = {re.sub(r"\{\w+\}", "{}", text) for text in GERMAN["told"]}
    left = {(code, message) for file in rooms for code, message in raised(file) if message not in known}
    assert left == set()


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("en-GB,de;q=0.9", "en"),
        ("en;q=0.5,de;q=0.9", "de"),
        ("fr,de;q=0.5", "en"),  # gradio goes by the first choice alone
        ("*", "en"),
        ("de;q=x", "de"),
    ],
)
def test_the_first_choice_of_a_browser_decides(header, language):
    assert asked(header) == language


def test_texts_come_in_the_language_that_is_spoken():
    assert gettext("Item {id}", id=3) == "Item 3"
    with speaking("de"):
        assert gettext("Item {id}", id=3) == "Einheit 3"
        assert [ngettext("{n} label", "{n} labels", n) for n in (0, 1, 2)] == ["0 Labels", "1 Label", "2 Labels"]
        assert listed(["a", "b", "c"], gettext) == "a, b und c"
        assert (likely(0.995), seconds(1.25), signed(-0.5), stretch(0.5, 1)) == (
            "über 99 %",
            "1,2 s",
            "−0,50",
            "0,5–1,0 s",
        )
        assert emotion("fear") == "Angst"
        assert emotion("neutral", capital=True) == "Neutral"
        assert emotions_in("fear 67 %, anger 33 %") == "Angst 67 %, Wut 33 %"
    assert current() == "en"


def test_a_generator_is_in_its_language_at_every_step_and_leaves_others_alone():
    def steps():
        yield gettext("Save")
        yield gettext("Stop")

    told = in_language("de", steps())
    assert next(told) == "Speichern"
    assert gettext("Save") == "Save"
    assert contextvars.copy_context().run(next, told) == "Stopp"  # gradio runs each step in a context of its own


def test_what_others_say_is_found_by_its_fields():
    said = "smile, {x}.mp4 has 300 MB; clips up to 256 MB are accepted"
    assert told(said) == said
    with speaking("de"):
        assert told(said) == "smile, {x}.mp4 hat 300 MB; angenommen werden Clips bis 256 MB"
        unread = "the words were left out: they do not look like English, and English alone was learned"
        assert (
            told(unread)
            == "die Wörter wurden ausgelassen: sie sehen nicht nach Englisch aus, und gelernt wurde nur Englisch"
        )
        asked_for = "choose an emotion, 'cannot tell' or skip first: What does the face show?"
        assert told(asked_for).endswith("oder lassen Sie aus: Was zeigt das Gesicht?")
        assert told("learned from 5 faces, 2 voices") == "gelernt aus 5 Gesichtern, 2 Stimmen"
        unsure = "the confidence 0.31 is below 0.50, from which on 80% of the answers were right on people set aside"
        assert told(f"{unsure}; do not rely on fear").startswith("die Konfidenz 0,31 liegt unter 0,50, ab der ")
        assert told(f"{unsure}; do not rely on fear").endswith("; verlassen Sie sich nicht auf Angst")
        assert told("nobody has translated this") is None
        assert render.told("nobody < translated") == '<span lang="en">nobody &lt; translated</span>'


def test_an_explanation_is_a_german_sentence():
    trust = {"face": Trust("m", 0.0, 0.5, 0.5, "trustworthy"), "voice": Trust("m", 0.0, 0.0, 0.0, "weak"), "text": None}
    why = Explanation(
        "anger",
        0.0,
        1.0,
        2.0,
        0.0,
        {"face": 2.0, "voice": -0.5, "text": None},
        (),
        (),
        (("mouth", 0.7),),
        (),
        trust,
        against="disgust",
        alone={"face": "anger", "voice": "sadness"},
    )
    with speaking("de"):
        assert why.told(gettext, emotion) == (
            "Wut statt Ekel: überwiegend das Gesicht, am stärksten am Mund. Die Stimme spricht dagegen; allein sagt "
            "sie Trauer. Die Karte „Gesicht“ ist verlässlich. Die Karte „Stimme“ ist schwach."
        )
        assert why.sentence.startswith("Anger rather than disgust: mostly the face, strongest at the mouth. ")


def test_labels_reach_gradio_as_keys_that_nobody_types():
    assert english(label("Save")) == "Save"
    texts = language.catalogue().translations_dict
    assert (texts["de"]["mmer: Save"], texts["en"]["mmer: Save"]) == ("Speichern", "Save")
    assert all(key.startswith("mmer: ") for each in texts.values() for key in each)


def test_a_name_from_right_to_left_is_isolated():
    assert isolated("clip.mp4") == "clip.mp4"
    assert isolated("תמונה.mp4") == "\u2068תמונה.mp4\u2069"
