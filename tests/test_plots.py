"""Figures: what is drawn is where it should be, in both signs, and readable without colour."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmer import plots
from mmer.explanation import Explanation
from mmer.face import FaceTrack
from mmer.features import Features
from mmer.voice import LogMel


def explanation(**given) -> Explanation:
    empty = {"modality": {}, "words": (), "voice_bands": (), "face_regions": (), "face_moments": (), "trust": {}}
    return Explanation(
        **{"target": "fear", "start_s": 2.0, "end_s": 3.0, "logit": 1.0, "baseline_logit": 0.0, **empty, **given}
    )


def face_features(n_frames: int) -> Features:
    grey = torch.full((n_frames, 1, 48, 48), 0.5)
    zeros = {"blendshapes": (52,), "pose_deg": (3,), "boxes": (4,), "sharpness": (), "size_px": ()}
    rest = {name: torch.zeros(n_frames, *shape) for name, shape in zeros.items()}
    regions = torch.zeros(n_frames, 5, 48, 48, dtype=torch.bool)
    track = FaceTrack(crops=grey, times_s=2 + torch.arange(n_frames) / 5, regions=regions, track_id=0, **rest)
    return Features(2.0, 3.0, face=track)


def coloured(image: Image.Image, colour) -> np.ndarray:
    """Where (H, W) a picture leans towards a colour rather than to grey."""
    pixels = np.asarray(image.convert("RGB"), float) / 255
    lean = pixels - pixels.mean(2, keepdims=True)
    wanted = np.array(colour[:3]) - np.mean(colour[:3])
    cosine = (lean @ wanted) / (np.linalg.norm(lean, axis=2) * np.linalg.norm(wanted) + 1e-9)
    return (cosine > 0.95) & (np.linalg.norm(lean, axis=2) > 0.12)


def on(image: Image.Image, background: str) -> np.ndarray:
    base = Image.new("RGBA", image.size, background)
    base.alpha_composite(image)
    return np.asarray(base.convert("RGB"), float)


@pytest.fixture(scope="module")
def still_face() -> Image.Image:
    """One frame whose upper left speaks for and whose lower right against."""
    face_map = torch.zeros(1, 48, 48)
    face_map[0, 4:16, 4:16], face_map[0, 32:44, 32:44] = 1.0, -1.0
    return plots.face(face_features(1), explanation(face_map=face_map, face_moments=((0.0, 0.4),)))


def test_the_face_map_lies_on_its_crop(still_face):
    """The second square is 0.96 inches from 0.175 of 6.4 inches: what was planted above left is drawn above left."""
    left, side = round(0.175 * still_face.width), round(0.96 * 160)
    bottom = still_face.height - round((1.35 - 1.2) * 160)
    square = still_face.crop((left, bottom - side, left + side, bottom))
    for colour, (y, x) in ((plots.FOR, (10 / 48, 10 / 48)), (plots.AGAINST, (38 / 48, 38 / 48))):
        found = np.argwhere(coloured(square, colour))
        assert len(found) > 300
        np.testing.assert_allclose(found.mean(0) / side, (y, x), atol=0.04)
    crop = still_face.crop((round(0.02 * still_face.width), bottom - side, round(0.17 * still_face.width), bottom))
    assert not coloured(crop, plots.FOR).any()
    assert not coloured(crop, plots.AGAINST).any()


def test_the_face_map_lies_on_the_face_in_its_picture():
    """A head that is tilted by 30 degrees in a picture of 300 x 400 pixels, its crop two fifths as large."""
    turn = 0.4 * np.exp(-1j * np.radians(30))
    shift = 24 + 24j - turn * (220 + 140j)  # the middle of the crop is there
    face_map = torch.zeros(1, 48, 48)
    face_map[0, 4:16, 4:16], face_map[0, 32:44, 32:44] = 1.0, -1.0
    features = face_features(1)
    alignment = torch.tensor([[turn.real, turn.imag, shift.real, shift.imag]], dtype=torch.float32)
    features = replace(features, face=replace(features.face, alignment=alignment))
    picture = np.full((300, 400, 3), 128, np.uint8)
    image = plots.face(features, explanation(face_map=face_map, face_moments=((0.0, 0.4),)), {0: picture})
    left, side = round(0.175 * image.width), round(0.96 * 160)
    bottom = image.height - round((1.35 - 1.2) * 160)
    square = image.crop((left, bottom - side, left + side, bottom))
    corners = (48 * np.array([0, 1, 1j, 1 + 1j]) - shift) / turn
    around = 0.25 * 48 / abs(turn)
    x0, y0 = corners.real.min() - around, corners.imag.min() - around
    shown = corners.real.max() + around - x0
    for colour, crop_point in ((plots.FOR, 10 + 10j), (plots.AGAINST, 38 + 38j)):
        expected = (crop_point - shift) / turn
        found = np.argwhere(coloured(square, colour)).mean(0) / side * shown
        np.testing.assert_allclose(found, (expected.imag - y0, expected.real - x0), atol=0.05 * shown)


def test_moments_are_drawn_above_and_below_zero():
    face_map = torch.full((5, 48, 48), torch.nan)
    face_map[[0, 2, 4]] = 0.0
    moments = tuple((2 + i / 5, s) for i, s in enumerate((0.5, 0.1, -0.6, 0.1, 0.3)))
    image = plots.face(face_features(5), explanation(face_map=face_map, face_moments=moments))
    lower = image.crop((0, image.height // 2, image.width, image.height))
    for_, against = coloured(lower, plots.FOR), coloured(lower, plots.AGAINST)
    assert np.flatnonzero(for_.any(1)).max() <= np.flatnonzero(against.any(1)).min()  # nothing on both sides of zero
    heights = for_.any(1).sum() / against.any(1).sum()
    assert heights == pytest.approx(0.5 / 0.6, rel=0.1)
    assert 0.4 < np.argwhere(against)[:, 1].mean() / image.width < 0.65  # the third of five


def voice_figure(scores: dict[tuple[int, int], float]) -> Image.Image:
    """One second of grey noise, cells of a quarter of a second by three bands."""
    edges, shares, bands = (50.0, 1000.0, 4000.0, 8000.0), torch.zeros(101, 64), []
    for i in range(4):
        for j in range(3):
            score = scores.get((i, j), 0.0)
            bands.append(
                {
                    "start_s": 2 + i / 4,
                    "end_s": 2.25 + i / 4,
                    "low_hz": edges[j],
                    "high_hz": edges[j + 1],
                    "score": score,
                }
            )
    for (i, j), score in scores.items():
        shares[25 * i : 25 * i + 25, (0, 23, 48)[j] : (23, 48, 64)[j]] = score
    sound = LogMel(torch.zeros(101, 64), -2.0, 2.0)
    return plots.voice(Features(2.0, 3.0, sound=sound), explanation(voice_map=shares, voice_bands=tuple(bands)))


def test_the_voice_map_lies_at_its_time_and_pitch():
    image = voice_figure({(0, 0): 0.8, (3, 2): -0.8})
    inside = image.crop((0, round(0.15 * image.height), image.width, image.height))  # without the legend
    low_early = np.argwhere(coloured(inside, plots.FOR)).mean(0) / inside.size[::-1]
    high_late = np.argwhere(coloured(inside, plots.AGAINST)).mean(0) / inside.size[::-1]
    assert low_early[0] > 0.5 > high_late[0]
    assert low_early[1] < 0.4
    assert high_late[1] > 0.75


def test_both_signs_differ_in_grey():
    """Numbers and dashes: the same map with the other sign is another picture even without colour."""
    plus, minus = (np.asarray(voice_figure({(1, 1): s}).convert("L"), float) for s in (0.8, -0.8))
    assert (np.abs(plus - minus) > 60).sum() > 50


@pytest.mark.parametrize("background", ["#ffffff", "#0b0f19"])
def test_ink_is_read_on_light_and_dark(still_face, background):
    """WCAG asks 3 to 1 of large text and of graphics; the figure's own ground is transparent."""

    def luminance(rgb) -> float:
        c = np.asarray(rgb) / 255
        return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))

    assert np.asarray(still_face)[-1, -1, 3] == 0
    ground = luminance(on(still_face, background)[-1, -1])
    for colour in (
        tuple(int(plots.INK[i : i + 2], 16) for i in (1, 3, 5)),
        *(np.array(c[:3]) * 255 for c in (plots.FOR, plots.AGAINST)),
    ):
        dark, light = sorted((luminance(colour), ground))
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_without_a_map_there_is_no_figure():
    assert plots.face(Features(0.0, 1.0), explanation()) is None
    assert plots.voice(Features(0.0, 1.0), explanation()) is None


def test_figures_need_no_pyplot():
    """pyplot keeps every figure it makes and is not made for threads."""
    source = Path(plots.__file__).read_text()
    assert "pyplot" not in source
