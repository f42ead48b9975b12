"""The examples of the page are what they say: a face that is found, a voice that is heard."""

import time

import numpy as np
import pytest
from PIL import Image

from mmer import media, voice
from mmer.face import FaceTracker
from mmer.media import VideoFrame
from mmer.ui.examples import EXAMPLES, ExampleFiles, draw_face, speak


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, list[str]]:
    made = ExampleFiles(tmp_path_factory.mktemp("home") / "uploads")
    return {example.id: made.place(example) for example in EXAMPLES}


def test_every_example_is_a_file_that_can_be_read_or_a_sentence(files):
    for example in EXAMPLES:
        assert files[example.id] or example.words
    kinds = {name: media.probe(found[0]).kind for name, found in files.items() if found}
    assert kinds == {"talk": "video", "smile": "image", "voice": "audio"}


def test_a_face_is_found_in_the_drawing_and_its_mouth_follows(face_model):
    opened = []
    for mouth in (0.0, 0.9):
        with FaceTracker(still=True, model_path=face_model) as tracker:
            tracker.add(VideoFrame(0.0, np.asarray(draw_face(mouth, 0.2, 0.1))))
            (track,) = tracker.tracks()
        opened.append(float(track.blendshapes[0, 25]))  # jawOpen
    assert opened[0] + 0.2 < opened[1]


def test_somebody_is_heard_in_the_synthesised_voice():
    samples = speak(3.0, 120.0)
    assert (samples.dtype, len(samples), round(float(np.abs(samples).max()), 3)) == (np.float32, 48_000, 0.5)
    spans = voice.speech_spans(samples)
    assert sum(span.end_s - span.start_s for span in spans) > 1.5


def test_an_example_is_placed_anew_each_time_and_made_once(tmp_path):
    made = ExampleFiles(tmp_path / "uploads")
    made.warm()
    since = time.perf_counter()
    first, second = (made.place(EXAMPLES[1])[0] for _ in range(2))
    assert time.perf_counter() - since < 1
    assert first != second
    assert Image.open(first).size == Image.open(second).size == (320, 320)
    assert {path.name for path in (tmp_path / "uploads").rglob("*.png")} == {"drawn smile.png"}
