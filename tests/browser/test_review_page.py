"""The Review tab in a real browser."""

import pytest
from playwright.sync_api import expect

from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue
from annotations.review.adjudication import final_labels
from annotations.store import Store
from mmer.hashing import content_hash
from mmer.labels import SIGNS
from mmer.ui.service import Service
from tests import synth
from tests.test_label_tab import PREDICTION, paths_in

# Pictures and films drawn at another ratio of sides than their own.
DISTORTED = """() => [...document.querySelectorAll('img, video')].filter(e => {
  const [w, h] = [e.naturalWidth ?? e.videoWidth, e.naturalHeight ?? e.videoHeight];
  const fits = ['contain', 'scale-down', 'cover'].includes(getComputedStyle(e).objectFit);
  return e.offsetParent && w && !fits && Math.abs(e.clientWidth / e.clientHeight / (w / h) - 1) > 0.02;
}).map(e => `${e.className} ${e.clientWidth}x${e.clientHeight}`)"""


@pytest.fixture
def service(tmp_path) -> Service:
    """A page with a project of a square picture, a film and a voice, each judged by two annotators who differ."""
    paths = paths_in(tmp_path)
    store = Store(paths.database_url, paths.media, paths.features)
    project = projects.create(store, "faces", gold_share=0, order="random", actor="ada")
    files = [
        synth.write_image(tmp_path / "square.png", synth.face(smile=1.0)),
        synth.write_clip(tmp_path / "film.mp4", seconds=1),
        synth.write_clip(tmp_path / "voice.wav", seconds=1),
    ]
    for file in files:
        clip = store.register_clip(file, content_hash(file), name=file.name, in_place=True, source="import")
        store.add_prediction(clip, PREDICTION)
        projects.add_items(store, project, [store.utterance(clip)])
    queue = Queue(store, project)
    for annotator, emotion in (("ann", "fear"), ("bea", "anger")):
        for task in queue.next(annotator, len(files)):
            queue.submit(task.assignment_id, annotator, Answer(emotion))
    store.engine.dispose()
    return Service(paths)


def open_review(page):
    page.get_by_role("tab", name="Review").click()
    page.wait_for_function("document.querySelector('#review-project input')?.value === 'faces'")
    page.locator("#review-show button, button#review-show").click()
    page.locator("#review-items label").first.wait_for()
    return page


def test_pictures_and_films_keep_their_ratio_of_sides(service, serve, visit):
    page = open_review(visit(serve(service)))
    for name in ("square.png", "film.mp4"):
        page.locator("#review-items label", has_text=name).click()
        page.locator("#review-detail h2", has_text=name).wait_for()
        page.wait_for_function(
            "() => { const e = document.querySelector('.mm-clip'); return e.naturalWidth || e.videoWidth }"
        )
        assert page.evaluate(DISTORTED) == []


def test_a_list_of_text_has_the_signs_of_emotions_too(service, serve, visit):
    page = open_review(visit(serve(service)))
    lines = page.locator("#review-items label")
    expect(lines).to_have_count(3)
    for line in lines.all():
        expect(line).to_contain_text(f"{SIGNS['anger'].symbol} anger 1")
        expect(line).to_contain_text(f"{SIGNS['fear'].symbol} fear 1")
        heard = line.locator("input").evaluate("(input) => input.ariaLabel")
        assert "anger 1" in heard
        assert not any(sign.symbol in heard for sign in SIGNS.values())  # nobody wants to hear what it looks like
    coloured = page.evaluate("[...CSS.highlights.get('mm-fear')].map(String)")
    assert coloured == [SIGNS["fear"].symbol] * 3


def test_items_are_decided_by_keyboard_and_the_next_one_opens(service, serve, visit):
    page = visit(serve(service))
    page.get_by_role("tab", name="Review").press("Enter")
    page.wait_for_function("document.querySelector('#review-project input')?.value === 'faces'")
    page.locator("#review-show").press("Enter")
    page.locator("#review-items label").first.wait_for()
    expect(page.locator("#review-agreement")).to_contain_text("too few items to say")
    page.locator("#review-name input, #review-name textarea").wait_for(state="hidden")
    page.evaluate("document.activeElement.blur()")
    names = page.locator("#review-items label").all_inner_texts()

    def opened(name: str) -> None:
        page.locator("#review-detail h2", has_text=name.split(",")[0]).wait_for()
        page.wait_for_timeout(200)

    page.keyboard.press("n")
    opened(names[0])
    page.locator("#review-name input, #review-name textarea").focus()  # beside what is decided
    page.keyboard.type("rita")
    page.keyboard.press("Escape")
    page.keyboard.press("6")
    page.keyboard.press("1")
    page.wait_for_function("document.querySelectorAll('#review-final input:checked').length === 2")
    page.wait_for_timeout(150)
    page.keyboard.press("Enter")
    page.locator("#review-decided", has_text="Here is the next").wait_for()
    opened(names[1])
    page.keyboard.press("c")
    opened(names[2])
    page.keyboard.press("x")
    page.locator("#review-decided", has_text="No undecided item is left").wait_for()
    assert all("decided" in line for line in page.locator("#review-items label").all_inner_texts())
    page.keyboard.press("u")
    page.locator("#review-decided", has_text="taken back").wait_for()
    final = final_labels(service.store)
    assert sorted(map(len, final.values())) == [0, 2]
    (mixture,) = (shares for shares in final.values() if shares)
    assert mixture == pytest.approx({"anger": 1 / 3, "sadness": 2 / 3})


def test_an_item_under_review_has_an_address(service, serve, visit):
    url = serve(service)
    page = open_review(visit(url))
    page.locator("#review-items label", has_text="film.mp4").click()
    page.locator("#review-detail h2", has_text="film.mp4").wait_for()
    page.wait_for_function("/^#review\\/faces\\/\\d+$/.test(location.hash)")
    page.reload()
    page.locator("#review-detail h2", has_text="film.mp4").wait_for()
    assert page.get_by_role("tab", name="Review").get_attribute("aria-selected") == "true"
