"""Twenty items labelled in a real browser without a mouse, and what the database has of them."""

import pytest
from playwright.sync_api import Page

from annotations.db.schema import OUTCOMES, AssignmentRecord, LabelRecord
from annotations.queue import projects
from annotations.store import Store
from mmer import media
from mmer.ui.service import Service
from tests import synth
from tests.test_label_tab import PREDICTION, paths_in

READY = (
    "id => { const item = mmerLabel.state.item; const media = document.querySelector('#mm-screen :is(video, audio)');"
    " return item && mmerLabel.settled() && item.id !== id"
    " && (item.kind === 'text' || (media && media.readyState >= 3)); }"
)
CHOSEN = "n => document.querySelectorAll('#label-all input:checked').length === n"


@pytest.fixture
def service(tmp_path) -> Service:
    """A page with a project of 23 items: a film of a face, a sentence, and voices."""
    paths = paths_in(tmp_path)
    store = Store(paths.database_url, paths.media, paths.features)
    project = projects.create(store, "voices", gold_share=0, order="random", actor="ada")
    files = [synth.write_clip(tmp_path / "face.mp4", seconds=1)]
    files += [
        synth.write_clip(tmp_path / f"{i}.wav", seconds=0.6, voice=synth.voice(0.6, pitch_hz=100 + 8 * i, seed=i))
        for i in range(21)
    ]
    items = [store.utterance(store.register_clip(None, "f" * 64, name="sentence"), transcript="I will not go")]
    for file in files:
        clip = store.register_clip(file, media.content_hash(file), name=file.name, in_place=True, source="import")
        store.add_prediction(clip, PREDICTION)
        items.append(store.utterance(clip))
    projects.add_items(store, project, items)
    store.engine.dispose()
    return Service(paths)


class Desk:
    """The Label tab, worked by keys."""

    def __init__(self, page: Page):
        self.page = page
        self.item = None

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def choose(self, *digits: int, n: int | None = None) -> None:
        for digit in digits:
            self.press(str(digit))
        self.page.wait_for_function(CHOSEN, arg=len(digits) if n is None else n)
        self.page.wait_for_timeout(100)  # the choice is on its way into the form

    def wait(self) -> None:
        """Wait until another item than the last can be played."""
        self.page.wait_for_function(READY, arg=self.item)
        self.item = self.page.evaluate("mmerLabel.state.item.id")
        self.page.wait_for_function(CHOSEN, arg=0)

    def told(self, words: str) -> None:
        self.page.locator("#label-told", has_text=words).wait_for()


def test_twenty_items_by_keyboard_alone(service, serve, visit):
    expected = label(Desk(visit(serve(service), height=1000)))
    check(service.store, expected)


def label(desk: Desk) -> list[dict]:
    """Label twenty items and return what has to be on record of each, in their order."""
    page = desk.page
    page.get_by_role("tab", name="Label").press("Enter")
    page.wait_for_function("document.querySelector('#label-project input')?.value === 'voices'")
    page.locator("#label-name input, #label-name textarea").focus()
    page.keyboard.type("bea")
    desk.press("Enter")
    desk.wait()
    expected: list[dict] = []

    def done(**row) -> None:
        expected.append({"item": desk.item, **row})
        desk.wait()

    desk.choose(1)
    desk.press("Enter")
    done(emotions={"anger": 1.0}, blind=True)

    desk.choose(7, 4)  # the first is the strongest
    desk.press("Shift+Digit3", "Enter")
    done(emotions={"happiness": 1 / 3, "surprise": 2 / 3}, intensity=1.0, blind=True)

    desk.press("s")
    done(outcome="skip")

    desk.press("c")
    done(outcome="cannot_tell")

    desk.choose(2, 2, 6, n=1)  # again takes it back
    desk.press("Enter")
    done(emotions={"sadness": 1.0}, blind=True)

    desk.press("b")  # looked before choosing
    desk.told("Model")
    desk.choose(3)
    desk.press("Enter")
    done(emotions={"fear": 1.0}, blind=False)

    desk.choose(3)
    desk.press("b")  # looked after choosing
    desk.told("Model")
    desk.press("Enter")
    done(emotions={"fear": 1.0}, blind=True)

    page.locator("#label-more button").first.press("Enter")
    page.locator("#label-comment textarea, #label-comment input").first.focus()
    page.keyboard.type("1 is it? u s c x b")
    desk.press("Escape")
    desk.choose(5)
    desk.press("Enter")
    done(emotions={"neutral": 1.0}, comment="1 is it? u s c x b", blind=True)

    desk.choose(5)  # answered, taken back, answered anew
    desk.press("Enter")
    first = desk.item
    desk.wait()
    desk.press("u")
    desk.told("Taken back")
    page.wait_for_function("id => mmerLabel.state.item.id === id", arg=first)
    desk.item = first
    page.wait_for_function(CHOSEN, arg=0)
    desk.choose(1)
    desk.press("Enter")
    done(emotions={"anger": 1.0}, blind=False)

    desk.press("Enter")  # nothing chosen: told so, and nothing lost
    desk.told("choose an emotion")
    desk.press("?")
    page.get_by_text("Keys do nothing while you write in a field").wait_for()
    desk.press("x")
    done(outcome="broken")

    desk.press(" ", "h", "f", "v", "o", "o")  # ways to play change nothing
    for i in range(10):
        desk.choose(1 + i % 7)
        desk.press("Enter")
        done(emotions={EMOTIONS[i % 7]: 1.0}, blind=True)
    return expected


EMOTIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


def check(store: Store, expected: list[dict]) -> None:
    assert len(expected) == 20
    with store.reading() as session:
        items = {a.id: a.item_id for a in session.query(AssignmentRecord)}
        assert session.query(LabelRecord).filter_by(outcome="undo").count() == 1
    found = {row.item_id: row for row in store.labels(OUTCOMES)}
    assert len(found) == 20
    for want in expected:
        row = found[items[want["item"]]]
        assert row.annotator == "bea"
        assert row.outcome == want.get("outcome", "label")
        assert row.emotions == pytest.approx(want.get("emotions", {}))
        assert row.intensity == want.get("intensity")
        assert (row.valence, row.arousal, row.confidence, row.transcript) == (None, None, None, None)  # nobody said
        assert row.comment == want.get("comment", "")
        if "blind" in want:
            assert row.blind is want["blind"]
        assert 0 < row.lead_time_s < 120
