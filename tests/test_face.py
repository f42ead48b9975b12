import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from mmer.config import FaceConfig
from mmer.errors import AssetError
from mmer.face import REGIONS, FaceTracker, _pose, fit_crops, flat_share, quality
from mmer.media import VideoFrame, stream
from tests import synth

BACKGROUND = (120, 140, 160)
BROW_INNER_UP, JAW_OPEN, SMILE_LEFT = 3, 25, 44  # in MediaPipe's order

pytestmark = pytest.mark.usefixtures("face_model")


def film(*pictures, fps=5.0, still=False):
    with FaceTracker(still=still) as tracker:
        for i, picture in enumerate(pictures):
            tracker.add(VideoFrame(i / fps, np.asarray(picture)))
    return tracker.tracks()


def photograph(picture):
    return film(picture, still=True)


def alike(a, b):
    """Return the correlation of two crops and their mean difference in luma."""
    return np.corrcoef(a.flatten(), b.flatten())[0, 1], (a - b).abs().mean().item()


def canvas(width, height, picture, at):
    image = Image.new("RGB", (width, height), BACKGROUND)
    image.paste(picture, at)
    return image


@pytest.fixture(scope="module")
def plain():
    return photograph(synth.face())[0]


@pytest.mark.parametrize(
    ("part", "index", "least"),
    [("mouth_open", JAW_OPEN, 0.5), ("smile", SMILE_LEFT, 0.7), ("brows", BROW_INNER_UP, 0.3)],
)
def test_blendshapes_follow_the_drawing(part, index, least):
    low, high = (photograph(synth.face(**{part: value}))[0].blendshapes[0, index].item() for value in (0.0, 1.0))
    assert high - low > least  # measured: 0.70, 0.93, 0.54


@pytest.mark.parametrize(
    ("picture", "roll"),
    [
        (synth.face(shift=(0.2, -0.1), scale=0.8), 0),
        (synth.face(scale=0.6), 0),
        (synth.face(size=1280), 0),
        (synth.face().rotate(20, Image.Resampling.BICUBIC, fillcolor=BACKGROUND), 20),
        (synth.face().rotate(-30, Image.Resampling.BICUBIC, fillcolor=BACKGROUND), -30),
        (canvas(720, 1280, synth.face(size=190), (300, 900)), 0),
    ],
    ids=["moved", "smaller", "larger", "turned left", "turned right", "far away"],
)
def test_a_face_gives_nearly_the_same_crop_wherever_it_is(plain, picture, roll):
    (track,) = photograph(picture)
    correlation, difference = alike(track.crops, plain.crops)
    assert correlation > 0.96
    assert difference < 0.02  # of the full range; measured 0.005 to 0.015
    assert track.pose_deg[0, 2].item() == pytest.approx(roll, abs=2.5)


def test_a_large_face_is_averaged_and_not_sampled():
    image = np.asarray(synth.face(size=1280)).astype(int)
    grain = np.where(np.indices(image.shape[:2]).sum(0) % 2, 40, -40)[..., None]  # alternates from pixel to pixel
    clean, grainy = (photograph(x.clip(0, 255).astype(np.uint8))[0] for x in (image, image + grain))
    assert (clean.crops - grainy.crops)[..., 12:36, 12:36].abs().mean() < 0.03  # each pixel differs by 0.16


def test_landmarks_count_from_the_corner_of_the_picture_and_not_from_the_first_pixel():
    large = synth.face(size=640)
    sides = [photograph(picture)[0].boxes.mean().item() for picture in (large, large.reduce(4))]
    assert abs(sides[0] - sides[1]) * 160 < 0.2  # pixels of the smaller; 0.375 when half a pixel is missing


def test_regions_lie_on_what_is_drawn(plain):
    crop, regions = plain.crops[0, 0], dict(zip(REGIONS, plain.regions[0], strict=True))
    assert plain.regions.sum(1).max() == 1  # no pixel in two
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    middle = {name: rows[mask].float().mean().item() for name, mask in regions.items()}
    assert middle["brows"] < middle["eyes"] < middle["nose"] < middle["mouth"] < middle["jaw"]
    face = (columns > 8) & (columns < 40)
    dark = (crop < 0.3) & face  # pupils, brows and mouth; the skin is 0.75
    assert regions["mouth"][dark & (rows > 32)].float().mean() > 0.9
    assert regions["eyes"][dark & (rows > 15) & (rows < 22)].float().mean() > 0.9
    assert regions["brows"][dark & (rows > 9) & (rows < 14)].float().mean() > 0.6
    for side, (x, y) in ((columns < 24, FaceConfig.left_eye), (columns >= 24, FaceConfig.right_eye)):
        eye = regions["eyes"] & side
        assert columns[eye].float().mean().item() + 0.5 == pytest.approx(48 * x, abs=1)
        assert rows[eye].float().mean().item() + 0.5 == pytest.approx(48 * y, abs=1)


@pytest.mark.parametrize(("axis", "expected"), [("y", (20, 0, 0)), ("x", (0, -20, 0)), ("z", (0, 0, 20))])
def test_pose_names_the_axis_the_head_turns_about(axis, expected):
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    turn = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis]
    assert _pose(np.array(turn)) == pytest.approx(expected)


def test_two_faces_give_two_tracks_the_larger_first():
    def scene(i):
        left = synth.face(size=640, scale=0.45, shift=(-0.3 + 0.01 * i, 0.0), mouth_open=1.0)
        return synth.face(size=640, scale=0.7, shift=(0.22, 0.02 * i), mouth_open=0.0, onto=left)

    main, other = film(*(scene(i) for i in range(8)))
    assert len(main.times_s) == len(other.times_s) == 8
    assert main.times_s.tolist() == pytest.approx([i / 5 for i in range(8)])
    assert main.boxes[:, 0].min() > 0.5 > other.boxes[:, 2].max()
    assert main.blendshapes[:, JAW_OPEN].max() < 0.3 < other.blendshapes[:, JAW_OPEN].min()
    assert main.track_id != other.track_id


def test_a_face_that_looks_away_for_a_moment_stays_one_track():
    face, away = synth.face(), Image.new("RGB", (320, 320), BACKGROUND)
    (track,) = film(face, face, *[away] * 5, face, face)
    assert len(track.times_s) == 4
    assert [n.code for n in quality(track, 9)] == ["face_drawn", "face_lost"]
    assert [len(t.times_s) for t in film(face, face, *[away] * 15, face, face, face)] == [3, 2]


def test_another_face_after_a_cut_starts_a_track():
    one, other = synth.face(size=640, scale=0.5, shift=(-0.1, 0.0)), synth.face(size=640, scale=0.5, shift=(0.1, 0.0))
    away = Image.new("RGB", (640, 640), BACKGROUND)
    assert [len(t.times_s) for t in film(one, one, one, *[away] * 5, other, other)] == [3, 2]
    assert [len(t.times_s) for t in film(one, one, other, other)] == [4]  # that near at once: it moved


def test_a_face_seen_in_one_picture_of_a_film_is_no_track():
    away = Image.new("RGB", (320, 320), BACKGROUND)
    assert film(away, synth.face(), away, away) == []
    assert len(film(synth.face(), away)) == 1


def test_a_small_face_in_a_long_picture_is_found():
    picture = canvas(1280, 720, synth.face(size=190), (1000, 300))
    (track,) = photograph(picture)
    x0, y0, x1, y1 = (track.boxes[0] * torch.tensor([1280, 720, 1280, 720])).tolist()
    assert 1000 < x0 < x1 < 1190
    assert 300 < y0 < y1 < 490
    (filmed,) = film(picture, picture, picture)
    assert len(filmed.times_s) == 3


def test_a_face_found_twice_took_the_place_of_another():
    """Two squares show the one at the left, and two faces are looked for."""
    picture = canvas(1280, 480, synth.face(size=190), (277, 150))
    picture.paste(synth.face(size=190), (1050, 150))
    with FaceTracker(FaceConfig(max_faces=2), still=True) as tracker:
        tracker.add(VideoFrame(0.0, np.asarray(picture)))
    assert sorted(round(float(t.boxes[0, [0, 2]].mean()), 1) for t in tracker.tracks()) == [0.3, 0.9]


def test_pictures_without_a_face_give_no_track():
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    assert film(noise, noise) == []
    assert photograph(Image.new("RGB", (64, 48))) == []
    (notice,) = quality(None, 2)
    assert (notice.code, notice.message) == ("no_face", "no face was seen; pictures looked at: 2")


def test_a_decoded_film_is_followed_from_end_to_end(silent_face):
    with FaceTracker() as tracker:
        for frame in stream(silent_face, fps=5, sound=False):
            tracker.add(frame)
    (track,) = tracker.tracks()
    assert len(track.times_s) == tracker.n_frames == 10
    assert track.crops.shape == (10, 1, 48, 48)
    assert track.blendshapes.shape == (10, 52)
    assert track.regions.shape == (10, 5, 48, 48)
    assert (track.crops.min() >= 0) & (track.crops.max() <= 1)
    assert [n.code for n in quality(track, tracker.n_frames)] == ["face_drawn"]


def test_pictures_at_the_same_time_are_all_looked_at():
    with FaceTracker() as tracker:
        for time_s in (0.0, 0.0, 0.0004, 0.2):
            tracker.add(VideoFrame(time_s, np.asarray(synth.face())))
    assert len(tracker.tracks()[0].times_s) == 4


def test_pictures_are_not_kept():
    with FaceTracker() as tracker:
        picture = np.array(synth.face(size=1280))
        kept = weakref.ref(picture)
        tracker.add(VideoFrame(0.0, picture))
        del picture
        gc.collect()
        assert kept() is None
        assert len(tracker.tracks()) == 1


def test_a_corpus_crop_is_fitted():
    small = synth.face(mouth_open=0.3).crop((50, 60, 270, 280)).resize((48, 48), Image.Resampling.BOX)
    large = photograph(synth.face(mouth_open=0.3))[0]
    flat = np.full((48, 48), 128, np.uint8)
    found = list(fit_crops([np.asarray(small), flat, np.asarray(small.convert("L"))]))
    assert found[1] is None
    assert np.abs(found[0] - found[2]).mean() < 0.05  # in colour and without
    assert np.abs(found[2] - large.blendshapes[0].numpy()).mean() < 0.06  # measured 0.035


def test_a_drawn_face_is_said_to_be_one(plain):
    (notice,) = quality(plain, 1)
    assert notice.code == "face_drawn"
    assert 0.55 < flat_share(plain.crops) < 0.75  # 0.61 to 0.67 in pictures and films; photographs 0.12
    assert flat_share(torch.full((2, 1, 48, 48), 0.5)) == 1.0
    assert flat_share(torch.linspace(0, 1, 48 * 48).view(1, 1, 48, 48)) == 0.0  # brighter with each row


def test_quality_names_what_is_wrong(plain):
    def codes(track, *arguments):
        grain = torch.randn(track.crops.shape, generator=torch.Generator().manual_seed(0)) * 0.03
        photographed = replace(track, crops=(track.crops + grain).clamp(0, 1))
        return [notice.code for notice in quality(photographed, *arguments)]

    assert codes(plain, 1) == []
    assert codes(photograph(synth.face().filter(ImageFilter.GaussianBlur(6)))[0], 1) == ["face_blurred"]
    assert codes(photograph(synth.face(size=1600).resize((56, 56), Image.Resampling.BOX))[0], 1) == ["face_small"]
    assert codes(replace(plain, pose_deg=torch.tensor([[40.0, 0.0, 0.0]])), 1) == ["face_turned"]
    assert codes(replace(plain, pose_deg=torch.tensor([[0.0, 0.0, 40.0]])), 1) == []  # the crop takes roll out
    assert codes(plain, 2, 3) == ["face_lost", "several_faces"]


def test_a_landmarker_that_does_not_start_is_an_asset_error(tmp_path):
    path = tmp_path / "face_landmarker.task"
    with pytest.raises(AssetError, match="Face Landmarker does not start with") as caught:
        FaceTracker(model_path=path)
    assert caught.value.code == "face_landmarker_unusable"
    path.write_bytes(b"not a bundle")
    with pytest.raises(AssetError, match="Face Landmarker does not start with"):
        FaceTracker(model_path=path)
