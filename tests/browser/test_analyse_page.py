"""The Analyse tab in a real browser: what is given, what is shown meanwhile, what comes out of it."""

import json

import pytest
from playwright.sync_api import Page, expect

from mmer.labels import EMOTIONS
from mmer.ui.service import Service
from tests import synth
from tests.browser.services import analysing
from tests.test_app import KEYS
from tests.test_label_tab import paths_in


@pytest.fixture
def service(tmp_path, text_encoder, face_model) -> Service:
    return analysing(paths_in(tmp_path))


def drop(page: Page, *files) -> None:
    page.locator("#drop input[type=file]").set_input_files([str(f) for f in files])


def result(page: Page):
    return page.locator("#result .mm-emotion")


def test_a_forgotten_video_was_fused_with_a_new_sound(service, serve, visit, talk, voice_only):
    page = visit(serve(service))
    drop(page, talk)
    chips = page.locator("#chips .mm-chip")
    expect(chips).to_have_count(1)
    expect(chips.first).to_contain_text("Video, 3.0 s: picture and sound will be read")
    drop(page, voice_only)
    expect(chips).to_have_count(2)
    expect(chips.nth(0)).to_contain_text("picture will be read")
    expect(chips.nth(1)).to_contain_text("sound will be read")
    expect(page.locator("#chips [role=note]")).to_contain_text("nothing here can tell")
    page.get_by_role("button", name="Remove talk.mp4").click()
    expect(chips).to_have_count(1)
    page.locator("#analyse").click()
    result(page).wait_for(timeout=120_000)
    expect(page.locator("#result")).to_contain_text("Face not used: no picture was given")


def test_a_film_that_no_browser_plays_is_shown_all_the_same(service, serve, visit, clips):
    page = visit(serve(service))
    drop(page, synth.write_clip(clips / "old.avi", seconds=1))
    page.locator("#chips video").wait_for()
    page.wait_for_function("document.querySelector('#chips video').readyState > 0")
    assert page.evaluate("document.querySelector('#chips video').error") is None


def test_what_cannot_be_read_says_so_before_anybody_waits(service, serve, visit, tmp_path):
    (tmp_path / "talk.mp4").write_text("these are words, not a film\n" * 40)
    page = visit(serve(service))
    drop(page, tmp_path / "talk.mp4")
    expect(page.locator("#chips .mm-failed")).to_contain_text("talk.mp4 cannot be read")
    page.locator("#analyse").click()
    page.locator("#status [role=alert]").wait_for(timeout=60_000)
    expect(page.locator("#result")).to_contain_text("Nothing came of it")


def test_an_example_gives_a_result_with_one_click(service, serve, visit):
    page = visit(serve(service))
    expect(page.locator("#result")).to_contain_text("The answer appears here")
    page.locator("#example-talk").click()
    page.locator("#result .mm-stages").wait_for()
    result(page).wait_for(timeout=120_000)
    expect(page.locator("#chips")).to_contain_text("drawn face talking.mp4")
    for inner in ("#choose-face", "#explain-utterance", "#remove-file", "#files"):
        expect(page.locator(inner)).to_be_hidden()
    player = page.locator("#timeline video")
    page.wait_for_function("document.querySelector('#timeline video').readyState > 0")
    assert player.evaluate("(video) => video.textTracks[0].mode") == "showing"
    page.wait_for_function("document.querySelector('#timeline video').textTracks[0].cues?.length > 0")
    cue = player.evaluate("(video) => video.textTracks[0].cues[0].text")
    assert any(emotion in cue for emotion in EMOTIONS)


def test_utterances_play_follow_and_explain_each(service, serve, visit, clips):
    sound = synth.voice(24, pause_s=0.8)
    long = synth.write_clip(clips / "long_talk.mp4", seconds=24, fps=5, face=synth.face(), voice=sound)
    page = visit(serve(service))
    drop(page, long)
    page.locator("#chips .mm-chip").wait_for()
    page.locator("#analyse").click()
    rows = page.locator("#timeline .mm-utterances li")
    rows.nth(1).wait_for(timeout=240_000)
    assert page.locator("#timeline .mm-strip svg").count() == 3  # together, face, voice
    second = rows.nth(1)
    start_s = float(second.get_attribute("data-start"))
    second.get_by_role("button", name="Play").click()
    page.wait_for_function(f"document.querySelector('#mm-player').currentTime >= {start_s}")
    page.locator("#timeline li[data-now]").wait_for()
    assert page.locator("#timeline li[data-now]").get_attribute("data-start") == second.get_attribute("data-start")
    second.get_by_role("button", name="Explain").click()
    heading = page.locator("#why h2")
    heading.wait_for(timeout=240_000)
    assert f"{start_s:.1f}–" in heading.inner_text()
    second.get_by_role("button", name="Correct the words").click()
    assert page.evaluate("document.activeElement.closest('#transcript') !== null")


def test_a_verdict_on_edited_words_says_so_with_before_and_after(service, serve, visit):
    page = visit(serve(service))
    page.locator("#example-anger").click()
    result(page).wait_for(timeout=120_000)
    assert page.locator("#result .mm-edited").count() == 0
    page.locator("#transcript textarea").fill("What a wonderful day")
    page.locator("#rerun").click()
    edited = page.locator("#result .mm-edited")
    edited.wait_for()
    expect(edited).to_contain_text("Leave me alone, I hate this.")
    expect(edited).to_contain_text("What a wonderful day")
    page.locator("#transcript textarea").fill("Leave me alone, I hate this.")
    page.locator("#rerun").click()
    expect(edited).to_have_count(0)


def test_a_result_is_downloaded_as_report_json_and_captions(service, serve, visit):
    page = visit(serve(service))
    page.locator("#example-voice").click()
    result(page).wait_for(timeout=120_000)
    texts = {}
    for ending in ("html", "json", "vtt"):
        with page.expect_download() as waiting:
            page.locator(f"#download-{ending}").click()
        assert waiting.value.suggested_filename == f"synthesised voice-emotion.{ending}"
        texts[ending] = waiting.value.path().read_text("utf-8")
    assert set(json.loads(texts["json"])) == KEYS
    assert texts["vtt"].startswith("WEBVTT\n\n00:00:0")
    page.goto("about:blank")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_content(texts["html"])
    expect(page.locator(".mm-emotion")).to_be_visible()
    assert asked == []  # it needs nothing else
    assert json.loads(page.locator("pre").inner_text() or page.locator("pre").text_content())["clip"]


def test_of_several_faces_one_is_chosen(service, serve, visit, clips):
    both = synth.face(shift=(0.27, 0.1), scale=0.5, smile=1.0, onto=synth.face(shift=(-0.2, 0.0), scale=0.65, size=480))
    page = visit(serve(service))
    drop(page, synth.write_image(clips / "both.png", both))
    page.locator("#chips .mm-chip").wait_for()
    page.locator("#analyse").click()
    boxes = page.locator("#faces .mm-frame button")
    boxes.nth(1).wait_for(timeout=120_000)
    assert [box.get_attribute("aria-pressed") for box in boxes.all()] == ["true", "false"]
    lines = [line.inner_text() for line in page.locator("#faces li").all()]
    boxes.nth(1).click()
    page.locator("#faces .mm-frame button:nth-of-type(2)[aria-pressed=true]").wait_for()
    assert page.locator("#result .mm-emotion strong").inner_text() in lines[1]
