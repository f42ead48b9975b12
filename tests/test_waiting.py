"""What is told while somebody waits, and the results of each of several faces."""

import time

import pytest

from mmer import media
from mmer.errors import ClipError
from mmer.labels import EMOTIONS
from mmer.numerals import likely, stretch
from mmer.ui.faces_html import faces
from mmer.ui.service import Service, SessionResult
from mmer.ui.turns import Turn, Turns
from mmer.ui.waiting import Pace, Waiting
from tests import synth
from tests.test_app import new_checkpoint, plain
from tests.test_label_tab import paths_in


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Service:
    paths = paths_in(tmp_path_factory.mktemp("home"))
    new_checkpoint(paths, 1)
    return Service(paths)


def face_of(result) -> dict:
    return result.to_dict()["per_modality"]["face"]


def test_the_verdict_on_face_and_voice_comes_before_the_words(service, talk, face_model):
    told, waiting = [], Waiting()

    def watch(progress, early):
        told.append((progress.stage, progress.share, early))
        waiting.tell(progress, early)

    result = service.analyse([str(talk)], None, watcher=watch)
    stages = [stage for stage, _, _ in told]
    assert list(dict.fromkeys(stages)) == ["decode", "voice", "speech"]
    shares = [share for stage, share, _ in told if stage == "decode"]
    assert shares == sorted(shares)
    assert shares[-1] > 0.7
    (early,) = [early for _, _, early in told if early is not None]
    assert early.present == {"face": True, "voice": True, "text": False}
    assert early.to_dict()["per_modality"]["voice"] == result.to_dict()["per_modality"]["voice"]
    card = plain(waiting.card(3.0, 8.0))
    assert f"So far , from face and voice: {early.emotion}" in card
    assert "3 s so far; clips like it took about 5 s more." in card
    assert "Face read Voice read Words to come" in card
    assert f"Happiness … {likely(early.branch_probs[0][3])} {likely(early.branch_probs[1][3])} …" in card
    before = plain(Waiting().card(0.0, None, in_line=True))
    assert before.startswith("Waiting for its turn")
    assert before.count("…") == 4 * len(EMOTIONS)


def test_utterances_are_shown_before_their_words_are_there(service, tmp_path):
    long = synth.write_clip(tmp_path / "long.wav", seconds=16, voice=synth.voice(16, pause_s=0.8))
    waiting = Waiting()
    result = service.analyse([str(long)], None, watcher=waiting.tell)
    assert len(result.segments) > 1
    card = waiting.card(3.0, None)
    assert "Over time, so far: " in card
    for one in result.segments:
        assert f"{stretch(one.start_s, one.end_s)} {EMOTIONS[int(one.branch_probs[1].argmax())]}" in card


def test_the_first_utterances_are_told_of_while_the_rest_is_decoded(service, tmp_path, face_model):
    long = synth.write_clip(
        tmp_path / "long.mp4", seconds=30, fps=5, face=synth.face(), voice=synth.voice(30, pause_s=0.8)
    )
    told = []
    result = service.analyse([str(long)], None, watcher=lambda progress, early: told.append((progress, early)))
    first, everything = [(progress, early) for progress, early in told if early is not None]
    assert (first[0].stage, everything[0].stage) == ("decode", "speech")
    assert 0.2 < first[0].share < 0.6
    n = len(first[1].segments)
    assert 0 < n < len(everything[1].segments) == len(result.segments)
    assert first[1].present == {"face": True, "voice": True, "text": False}
    for early, final in zip(first[1].segments[:-1], result.segments, strict=False):
        assert (early.start_s, early.end_s) == (final.start_s, final.end_s)
        assert early.branch_probs[1] == pytest.approx(final.branch_probs[1], abs=1e-4)
    assert first[1].segments[-1].end_s < 9


def test_a_call_that_gave_way_says_so_and_its_estimate_stands_still():
    turns = Turns(1)
    with Turn(turns):
        turn = Turn(turns)
        waiting = Waiting(turn)
        assert waiting.sentence == "Others have their turn"
        time.sleep(0.2)
        assert turn.waited_s >= 0.2
        assert "0 s so far; clips like it took about 6 s more" in waiting.card(turn.waited_s, 6.0)


def test_an_estimate_is_of_clips_like_it_and_there_is_none_before(talk, voice_only):
    film, sound = media.probe(talk), media.probe(voice_only)
    pace = Pace()
    assert pace.expected_s([film], False) is None
    for took_s in (3.0, 6.0, 30.0):
        pace.learn([film], False, took_s)
    assert pace.expected_s([film], False) == pytest.approx(6.0)
    assert pace.expected_s([sound], False) is None
    assert pace.expected_s([film], True) is None
    assert "no estimate" in Waiting().card(0, None)
    assert "done by now" in Waiting().card(9, 6.0)


def test_each_of_two_faces_has_a_result_of_its_own(service, clips, face_model):
    whole = synth.face(shift=(-0.2, 0.0), scale=0.65, size=480, mouth_open=0.9)
    both = synth.face(shift=(0.27, 0.1), scale=0.5, smile=1.0, onto=whole)
    result = service.analyse([str(synth.write_image(clips / "two.png", both))], None)
    first, second = service.faces(result)
    assert first is result
    left, right = result.observation.view.boxes
    assert left[2] < right[0]  # the larger one, on the left, is read first
    assert face_of(first) != face_of(second)
    assert face_of(service.of_face(second, 0)) == face_of(first)
    with pytest.raises(ClipError, match="there is no face 2; 2 can be chosen from 0 on"):
        service.of_face(result, 2)
    shown = faces([first, second], 0)
    assert plain(shown).count("Face ") == 2
    assert shown.count('aria-pressed="true"') == 2  # its box and its line


def test_every_face_was_judged_again_outside_the_turn_whenever_a_result_was_shown(service, clips, face_model):
    whole = synth.face(shift=(-0.2, 0.0), scale=0.65, size=480)
    both = synth.face(shift=(0.27, 0.1), scale=0.5, smile=1.0, onto=whole)
    result = service.analyse([str(synth.write_image(clips / "pair.png", both))], None)
    turn = service.new_turn()
    session = service.with_faces(result, turn)
    assert (session.result, len(session.faces)) == (result, 2)
    chosen = service.choose_face(session, 1, turn)
    assert chosen.result is session.faces[1]  # nothing is judged anew
    assert chosen.faces is session.faces
    unlisted = service.choose_face(SessionResult(result), 1, turn)  # as a program's session holds it
    assert face_of(unlisted.result) == face_of(chosen.result)
    turn.stop()
    assert service.with_faces(result, turn).faces == ()


def test_one_face_is_no_choice(service, still, face_model):
    result = service.analyse([str(still)], None)
    assert (service.faces(result), result.observation.view) == ([], None)
    assert faces([], 0) == ""
