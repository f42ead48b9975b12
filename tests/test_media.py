"""Media against real files that PyAV and Pillow wrote on the spot: containers, clocks, turns, limits, damage."""

import hashlib
import math
import os
import subprocess
import sys
import wave
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mmer.config import ROOT, MediaLimits
from mmer.errors import ClipError
from mmer.media import AudioChunk, VideoFrame, _Sound, content_hash, lay_out, probe, read_audio, stream
from tests import synth

AAC_FRAME_S = 1024 / synth.RATE
VIDEO = (".mp4", ".mov", ".mkv", ".webm", ".avi")
SOUND = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus")
QUADRANTS = Image.fromarray(
    np.kron(
        np.array([[[220, 30, 30], [30, 220, 30]], [[30, 30, 220], [230, 230, 230]]], np.uint8),
        np.ones((60, 80, 1), np.uint8),
    )
)  # red, green / blue, white: 160 x 120, no two of its eight orientations look alike


def parts(path, **options):
    pieces = list(stream(path, **options))
    return (
        [piece for piece in pieces if isinstance(piece, VideoFrame)],
        [piece for piece in pieces if isinstance(piece, AudioChunk)],
    )


def assert_upright(rgb):
    assert rgb.shape == (120, 160, 3)
    assert rgb.flags.c_contiguous
    for at, colour in {(30, 40): 0, (30, 120): 1, (90, 40): 2}.items():
        assert rgb[at].argmax() == colour
    assert rgb[90, 120].min() > 180


def level(samples):
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


@pytest.mark.parametrize("suffix", VIDEO)
def test_every_video_container_gives_picture_and_sound(clips, suffix):
    path = synth.write_clip(clips / f"all{suffix}", seconds=2, size=160)
    info = probe(path)
    assert (info.kind, info.width, info.height, info.fps, info.rotation, info.channels) == ("video", 160, 160, 25, 0, 1)
    assert info.duration_s == pytest.approx(2, abs=0.1)
    frames, chunks = parts(path)
    assert 10 <= len(frames) <= 11
    assert np.diff([frame.time_s for frame in frames]) == pytest.approx(0.2, abs=0.13)
    assert level(lay_out(chunks)) == pytest.approx(level(synth.voice(2)), rel=0.1)


@pytest.mark.parametrize("suffix", SOUND)
def test_every_sound_container_gives_the_sound_that_was_written(clips, suffix):
    path = synth.write_clip(clips / f"all{suffix}", seconds=2)
    info = probe(path)
    assert (info.kind, info.has_picture, info.has_sound, info.channels) == ("audio", False, True, 1)
    assert info.duration_s == pytest.approx(2, abs=AAC_FRAME_S)
    samples, voice = read_audio(path), synth.voice(2)
    assert (samples.dtype, samples.ndim) == (np.float32, 1)
    assert np.corrcoef(samples[: len(voice)], voice)[0, 1] > 0.95
    assert parts(path, sound=False) == ([], [])


def test_a_webm_without_duration_is_read_to_its_end(tmp_path):
    path = synth.write_clip(tmp_path / "recorded.webm", seconds=2, size=160, options={"live": "1"})
    assert probe(path).duration_s is None
    frames, chunks = parts(path)
    assert len(frames) == 10
    assert len(lay_out(chunks)) == pytest.approx(2 * 16_000, abs=20)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_says(tmp_path, suffix, orientation):
    path = synth.write_image(tmp_path / f"photo{suffix}", QUADRANTS, orientation=orientation)
    info = probe(path)
    assert (info.kind, info.width, info.height, info.duration_s) == ("image", 160, 120, None)
    (frame,), chunks = parts(path)
    assert_upright(frame.rgb)
    assert (frame.time_s, chunks) == (0.0, [])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_video_is_turned_as_its_display_matrix_says(tmp_path, suffix, rotation):
    path = synth.write_clip(tmp_path / f"phone{suffix}", seconds=0.4, face=QUADRANTS, voice=False, rotation=rotation)
    with av.open(str(path)) as container:
        stored = container.streams.video[0]
        assert (stored.width, stored.height) == ((160, 120) if rotation % 180 == 0 else (120, 160))
    info = probe(path)
    assert (info.width, info.height, info.rotation) == (160, 120, rotation)
    for frame in parts(path)[0]:
        assert_upright(frame.rgb)


@pytest.mark.parametrize("degrees", [0, 90])
def test_a_mirrored_video_is_mirrored_back(tmp_path, degrees):
    path = tmp_path / "selfie.mp4"
    mirrored = np.asarray(QUADRANTS.rotate(degrees, expand=True))[:, ::-1] if degrees == 0 else None
    stored = mirrored if degrees == 0 else np.rot90(np.asarray(QUADRANTS)[:, ::-1], 1)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.height, video.width = stored.shape[:2]
        video.pix_fmt = "yuv420p"
        video.set_display_rotation(-degrees, hflip=True)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), "rgb24")
        out.mux(video.encode(frame))
        out.mux(video.encode(None))
    assert_upright(parts(path)[0][0].rgb)


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = tmp_path / "anamorphic.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 80, 120, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(2, 1)
        out.mux(video.encode(av.VideoFrame.from_image(QUADRANTS.resize((80, 120)))))
        out.mux(video.encode(None))
    assert (probe(path).width, probe(path).height) == (160, 120)
    assert_upright(parts(path)[0][0].rgb)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif"])
def test_a_variable_frame_rate_keeps_its_times(tmp_path, suffix):
    times = [0.0, 0.04, 0.5, 0.54, 1.5, 1.9]
    path = synth.write_clip(tmp_path / f"vfr{suffix}", size=160, voice=False, times=times)
    assert [frame.time_s for frame in parts(path, fps=100)[0]] == pytest.approx(times, abs=0.002)
    assert [frame.time_s for frame in parts(path, fps=5)[0]] == pytest.approx([0.0, 0.5, 1.5, 1.9], abs=0.002)


@pytest.mark.parametrize("fps", [3, 12.5, 25, 30, 60])
def test_pictures_are_thinned_to_at_most_the_rate_asked_for(tmp_path, fps):
    path = synth.write_clip(tmp_path / "rate.mp4", seconds=2, fps=fps, face=QUADRANTS, voice=False)
    frames, _ = parts(path, fps=5)
    assert len(frames) == min(10, 2 * fps)
    slots = [math.floor(frame.time_s * 5 + 1e-3) for frame in frames]
    assert len(slots) == len(set(slots))


def test_avi_times_never_go_back(tmp_path):
    path = tmp_path / "b-frames.avi"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"bf": "3"})
        video.width, video.height, video.pix_fmt = 160, 160, "yuv420p"
        for i in range(50):
            frame = av.VideoFrame.from_image(synth.talking(i / 25, size=160))
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    times = [frame.time_s for frame in parts(path, fps=1000)[0]]
    assert len(times) == 50
    assert np.all(np.diff(times) > 0)
    assert times[-1] == pytest.approx(1.96, abs=0.13)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 96_000])
def test_any_sample_rate_keeps_pitch_and_level(tmp_path, rate):
    path = synth.write_clip(tmp_path / "tone.flac", voice=synth.tone(2, 1000, rate=rate), rate=rate)
    assert probe(path).sample_rate == rate
    samples = read_audio(path)
    assert len(samples) == pytest.approx(32_000, abs=2)
    spectrum = np.abs(np.fft.rfft(samples[8_000:24_000]))
    assert spectrum.argmax() == 1000  # 16,000 samples: one bin is 1 Hz
    assert np.abs(samples[8_000:24_000]).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("n_channels", [2, 6])
def test_equal_channels_mix_to_the_level_of_one(tmp_path, n_channels):
    path = synth.write_clip(tmp_path / "mix.flac", voice=np.tile(synth.tone(1), (n_channels, 1)))
    assert probe(path).channels == n_channels
    assert np.abs(read_audio(path)).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("n_channels", [3, 9, 24, 300])
@pytest.mark.parametrize("n_bytes", [1, 2, 4])
def test_channels_that_have_no_layout_are_mixed_too(tmp_path, n_channels, n_bytes):
    path = tmp_path / "array.wav"
    tone = synth.tone(0.5, rate=8_000)
    whole = np.repeat(tone * (127, 32_767, 2**31 - 128)[n_bytes // 2], n_channels)
    data = (whole + 128).astype(np.uint8) if n_bytes == 1 else whole.astype(f"<i{n_bytes}")
    with wave.open(str(path), "wb") as out:
        out.setnchannels(n_channels)
        out.setsampwidth(n_bytes)
        out.setframerate(8_000)
        out.writeframes(data.tobytes())
    assert read_audio(path, sample_rate=8_000) == pytest.approx(tone, abs=2 / 128)


@pytest.mark.parametrize("n_channels", [2, 9, 48])
def test_planes_behind_the_last_channel_crashed_the_process(n_channels):
    """A damaged film of 48 channels in planes ended with a segmentation fault in PyAV's `to_ndarray`."""
    levels = np.arange(n_channels, dtype=np.float32) / n_channels
    packed = av.AudioFrame.from_ndarray(np.tile(levels, 64)[None], "flt", f"{n_channels} channels")
    packed.sample_rate = 16_000
    (planar,) = av.AudioResampler("fltp", f"{n_channels} channels", 16_000).resample(packed)
    mixed = _Sound(Path("array"), None, MediaLimits(), 0.0, 1.0, 16_000)._mono(planar)
    assert mixed.to_ndarray()[0] == pytest.approx(np.full(64, levels.mean()))


def test_samples_beyond_full_scale_and_not_a_number_stay_in_range(tmp_path):
    path = tmp_path / "wild.wav"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("pcm_f32le", rate=16_000, layout="mono")
        wild = np.array([[np.nan, np.inf, -np.inf, 7.0, -7.0, 0.25] * 200], np.float32)
        frame = av.AudioFrame.from_ndarray(wild, "flt", "mono")
        frame.sample_rate = 16_000
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    assert np.unique(read_audio(path)).tolist() == [-1.0, 0.0, 0.25, 1.0]


BURSTS = (0.52, 1.52)


def flash(t):
    return Image.new("RGB", (64, 64), (255, 255, 255) if any(abs(t % 2 - at) < 0.02 for at in BURSTS) else (0, 0, 0))


def bursts(rate=synth.RATE):
    samples = synth.silence(2, rate=rate)
    for at in BURSTS:
        samples[round(at * rate) : round((at + 0.02) * rate)] = 1.5 * synth.tone(0.02, 1000, rate=rate)
    return samples


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize(("face_at_s", "voice_at_s"), [(0, 0), (0, 0.6), (2, 0), (4, 4.4)])
def test_picture_and_sound_stay_in_step_wherever_they_start(tmp_path, suffix, face_at_s, voice_at_s):
    path = synth.write_clip(
        tmp_path / f"delayed{suffix}", face=flash, voice=bursts(), face_at_s=face_at_s, voice_at_s=voice_at_s
    )
    frames, chunks = parts(path, fps=100)
    seen = [frame.time_s for frame in frames if frame.rgb.mean() > 128]
    heard = np.flatnonzero(np.abs(lay_out(chunks)) > 0.2) / 16_000
    begin_s = min(face_at_s, voice_at_s)
    assert seen == pytest.approx([at + face_at_s - begin_s for at in BURSTS], abs=0.003)
    assert [heard[0], heard[heard > heard[0] + 0.5][0]] == pytest.approx(
        [at + voice_at_s - begin_s for at in BURSTS], abs=0.003
    )


def test_a_gap_in_a_recording_is_silence_of_its_length(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as out:
        audio = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start_s in (0.0, 3.0):
            frame = av.AudioFrame.from_ndarray(synth.tone(1)[None], "flt", "mono")
            frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), round(start_s * 16_000)
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    samples = read_audio(path)
    assert len(samples) == 4 * 16_000
    assert np.abs(samples[17_000:47_000]).max() == 0
    assert level(samples[:16_000]) == pytest.approx(level(samples[48_000:]), rel=0.01)
    assert level(samples[:16_000]) == pytest.approx(0.5 / math.sqrt(2), rel=0.01)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
@pytest.mark.parametrize(("start_s", "end_s"), [(0.2, 0.7), (3.0, 5.0), (5.37, None), (50.0, 51.0)])
def test_a_range_is_the_same_as_that_part_of_the_whole(clips, suffix, start_s, end_s):
    path = clips / f"range{suffix}"
    if not path.exists():
        synth.write_clip(path, seconds=6, size=96)
    whole, whole_chunks = parts(path, fps=1000)
    frames, chunks = parts(path, fps=1000, start_s=start_s, end_s=end_s)
    wanted = [frame for frame in whole if start_s <= frame.time_s < (end_s or math.inf)]
    assert [frame.time_s for frame in frames] == pytest.approx([frame.time_s for frame in wanted])
    assert all(np.array_equal(one.rgb, other.rgb) for one, other in zip(frames, wanted, strict=True))
    sound = lay_out(whole_chunks)[round(start_s * 16_000) : None if end_s is None else round(end_s * 16_000)]
    part = lay_out(chunks, start_s=start_s)
    assert abs(len(part) - len(sound)) <= 16  # webm writes whole milliseconds
    n = min(len(part), len(sound)) - 32
    if n > 0:
        agreement = [np.corrcoef(part[16 : 16 + n], sound[16 + lag : 16 + lag + n])[0, 1] for lag in range(-16, 17)]
        assert max(agreement) > 0.999
        assert suffix == ".webm" or np.argmax(agreement) == 16


def test_a_range_of_sound_alone_is_exact_to_the_sample(clips, voice_only):
    assert np.array_equal(read_audio(voice_only, start_s=1.25, end_s=2.5), read_audio(voice_only)[20_000:40_000])


def test_a_picture_that_ends_early_does_not_stop_a_range_of_the_sound(tmp_path):
    path = synth.write_clip(tmp_path / "short.mkv", seconds=1, face=QUADRANTS, voice=synth.voice(8))
    limits = MediaLimits(max_seconds=3)
    frames, chunks = parts(path, start_s=2, end_s=4, limits=limits)
    assert frames == []
    assert len(lay_out(chunks, start_s=2)) == 2 * 16_000


def test_a_stream_that_is_missing_is_an_answer(silent_face, voice_only, still):
    info = probe(silent_face)
    assert (info.kind, info.has_picture, info.has_sound, info.sample_rate) == ("video", True, False, None)
    frames, chunks = parts(silent_face)
    assert (len(frames), chunks) == (10, [])
    assert (probe(voice_only).width, probe(still).has_sound) == (None, False)
    for path in (silent_face, still):
        with pytest.raises(ClipError, match="has no sound") as error:
            read_audio(path)
        assert error.value.code == "no_sound"


@pytest.mark.parametrize("suffix", [".mp3", ".m4a"])
def test_cover_art_is_not_a_video(tmp_path, suffix):
    path = synth.write_clip(tmp_path / f"song{suffix}", seconds=1, cover=synth.face())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    info = probe(path)
    assert (info.kind, info.has_picture, info.has_sound) == ("audio", False, True)
    frames, chunks = parts(path)
    assert frames == []
    assert len(lay_out(chunks)) == pytest.approx(16_000, abs=1024)


def test_an_animated_gif_is_a_video_and_a_plain_one_a_picture(tmp_path):
    assert probe(synth.write_clip(tmp_path / "moving.gif", seconds=0.4, size=96)).kind == "video"
    QUADRANTS.save(tmp_path / "plain.gif")
    assert probe(tmp_path / "plain.gif").kind == "image"


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00garbage",
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x02\x00\x02\x00\x00\x006\x00\x00\x00",
    ],
)
def test_a_picture_whose_exif_is_damaged_is_shown_as_it_lies(tmp_path, exif):
    QUADRANTS.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert probe(tmp_path / "a.jpg").rotation == 0
    (frame,), _ = parts(tmp_path / "a.jpg")
    assert_upright(frame.rgb)


def test_grey_pictures_of_any_depth_show_the_same(tmp_path):
    grey = np.linspace(0, 1, 64 * 48).reshape(48, 64)
    Image.fromarray((grey * 65535).astype(np.uint16)).save(tmp_path / "a.png")
    Image.fromarray((grey * 65535).astype(np.uint16)).save(tmp_path / "b.tif")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "c.tif")
    for name in ("a.png", "b.tif", "c.tif"):
        (frame,), _ = parts(tmp_path / name)
        assert np.abs(frame.rgb[..., 0] - grey * 255).max() <= 1, name


def test_a_large_photograph_is_scaled_down_to_a_frame(tmp_path):
    QUADRANTS.resize((4032, 3024)).save(tmp_path / "12mp.jpg")
    assert (probe(tmp_path / "12mp.jpg").width, probe(tmp_path / "12mp.jpg").height) == (4032, 3024)
    ((frame,), _) = parts(tmp_path / "12mp.jpg")
    height, width, _ = frame.rgb.shape
    assert 0.9 * 3840 * 2160 < height * width <= 3840 * 2160
    assert width / height == pytest.approx(4 / 3, abs=0.01)
    assert frame.rgb[height // 4, width // 4].argmax() == 0


def test_the_hash_is_that_of_the_bytes_whatever_the_name(tmp_path, still):
    copy = tmp_path / "copy with another name.jpg"
    copy.write_bytes(still.read_bytes())
    assert content_hash(still) == probe(copy).sha256 == hashlib.sha256(still.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["12:30.mp4", "http:x.mp4", "ü ? % #.mp4", "clip.txt"])
def test_a_name_is_never_taken_for_an_address(tmp_path, silent_face, name):
    (tmp_path / name).write_bytes(silent_face.read_bytes())
    assert probe(tmp_path / name).kind == "video"


def saved(path, data):
    path.write_bytes(data)
    return path


def wav(path, rate, n_samples=8_000):
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(bytes(2 * n_samples))
    return path


def blank(width, height):
    return Image.new("RGB", (width, height))


NOISE = np.random.default_rng(0).bytes(60_000)
BAD = {
    "not there": ("not_found", "does not exist", lambda d, good: d / "no.mp4"),
    "name too long": ("not_found", "does not exist", lambda d, good: d / ("a" * 300)),
    "folder": ("not_a_file", "folder", lambda d, good: d),
    "empty": ("empty_file", "0 bytes", lambda d, good: saved(d / "x.mp4", b"")),
    "text": ("not_media", "something else under that name", lambda d, good: saved(d / "x.mp4", b"some text\n" * 999)),
    "subtitles": (
        "not_media",
        "cannot be read",
        lambda d, good: saved(d / "x.mp4", b"1\n00:00:01,0 --> 00:00:02,0\na\n"),
    ),
    "noise": ("not_media", "cannot be read", lambda d, good: saved(d / "x.mp3", NOISE)),
    "noise after a jpg's first bytes": (
        "not_media",
        "read",
        lambda d, good: saved(d / "x.jpg", b"\xff\xd8\xff\xe0" + NOISE),
    ),
    "heic": ("not_media", "HEIC", lambda d, good: saved(d / "x.jpg", b"\0\0\0\x18ftypheic" + NOISE)),
    "mp4 without its index": ("not_media", "cut off", lambda d, good: saved(d / "x.mp4", good[: len(good) // 2])),
    "cut jpg": ("undecodable", "damaged picture", lambda d, good: saved(d / "x.jpg", jpg(d)[: len(jpg(d)) // 2])),
    "mp4 of noise": ("undecodable", "all its data is damaged", lambda d, good: saved(d / "x.mp4", spoilt(good))),
    "no samples": ("zero_length", "lasts 0 s", lambda d, good: wav(d / "x.wav", 16_000, 0)),
    "no frames": ("zero_length", "lasts 0 s", lambda d, good: no_frames(d / "x.avi")),
    "no tracks": ("no_streams", "found: no streams", lambda d, good: no_frames(d / "x.mp4")),
    "only subtitles": ("no_streams", "found: subtitle", lambda d, good: only_subtitles(d / "x.mkv")),
    "an hour": ("too_long", "lasts 3600 s; clips up to 600 s", lambda d, good: wav(d / "x.wav", 4_000, 14_400_000)),
    "8K": ("too_many_pixels", "7680 x 4320; up to 8.3 mega", lambda d, good: one_frame(d / "x.mp4", blank(7680, 4320))),
    "64 megapixels": (
        "too_many_pixels",
        "up to 50.0",
        lambda d, good: synth.write_image(d / "x.png", blank(8000, 8000)),
    ),
    "a bomb": (
        "too_many_pixels",
        "larger than any",
        lambda d, good: synth.write_image(d / "x.png", Image.new("1", (20_000, 20_000))),
    ),
    "a line of 50 million pixels": (
        "too_many_pixels",
        "1 x 50000000; up to 65,535 a side",
        lambda d, good: synth.write_image(d / "x.png", Image.new("1", (1, 50_000_000))),
    ),
    "spoilt avif": ("undecodable", "damaged picture", lambda d, good: saved(d / "x.avif", spoilt_avif(d))),
    "1 Hz": ("bad_sample_rate", "1 samples a second; 4,000 to 384,000", lambda d, good: wav(d / "x.wav", 1)),
    "2 GHz": ("bad_sample_rate", "2,147,483,647 samples", lambda d, good: wav(d / "x.wav", 2**31 - 1)),
}


def jpg(folder):
    return synth.write_image(folder / "whole.jpg", synth.face()).read_bytes()


def spoilt_avif(folder):
    """Whole boxes around noise: Pillow raises a bare RuntimeError."""
    data = synth.write_image(folder / "whole.avif", synth.face()).read_bytes()
    first = data.index(b"mdat") + 4
    return data[:first] + NOISE[: len(data) - first]


def spoilt(mp4):
    first, last = mp4.index(b"mdat") + 4, mp4.index(b"moov") - 4
    return mp4[:first] + np.random.default_rng(1).bytes(last - first) + mp4[last:]


def one_frame(path, picture):
    return synth.write_clip(path, seconds=0.2, fps=5, face=picture, voice=False)


def no_frames(path):
    with av.open(str(path), "w") as out:
        out.add_stream("aac" if path.suffix == ".mp4" else "libmp3lame", rate=16_000, layout="mono")
        out.start_encoding()
    return path


def only_subtitles(path):
    """A Matroska file with one subtitle track, element by element, since PyAV encodes no subtitles."""

    def element(name, *content):
        data = b"".join(content)
        return bytes.fromhex(name) + (0x10000000 | len(data)).to_bytes(4, "big") + data

    track = element(
        "AE", element("D7", b"\1"), element("73C5", b"\1"), element("83", b"\x11"), element("86", b"S_TEXT/UTF8")
    )
    block = element("A0", element("A1", b"\x81\0\0\0hello"), element("9B", b"\x03\xe8"))
    head = element("1A45DFA3", element("4282", b"matroska"))
    info = element("1549A966", element("2AD7B1", b"\x0f\x42\x40"))
    return saved(
        path,
        head + element("18538067", info, element("1654AE6B", track), element("1F43B675", element("E7", b"\0"), block)),
    )


@pytest.mark.parametrize("what", list(BAD))
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_bad_input_is_one_line_with_a_code_and_the_next_clip_works(tmp_path, capfd, silent_face, what):
    code, words, make = BAD[what]
    path = make(tmp_path, silent_face.read_bytes())
    with pytest.raises(ClipError, match=words) as error:
        list(stream(path))
    assert error.value.code == code
    assert "\n" not in error.value.message
    if what not in ("cut jpg", "spoilt avif"):  # a picture is decoded only when it is wanted
        with pytest.raises(ClipError, match=words):
            probe(path)
    assert len(parts(silent_face)[0]) == 10
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("what", ["not there", "folder", "empty", "not readable"])
def test_an_error_told_the_folder_a_clip_lies_in(tmp_path, what):
    """Annotators read it of a clip registered in place: the folder may be called what they are to say."""
    path = tmp_path / "anger" / "x.mp4"
    path.parent.mkdir()
    if what == "folder":
        path.mkdir()
    elif what != "not there":
        path.write_bytes(b"" if what == "empty" else b"sound")
    if what == "not readable":
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("nothing stops this user")
    with pytest.raises(ClipError, match=r"^x\.mp4 ") as caught:
        probe(path)
    assert "anger" not in caught.value.message


def test_limits_are_the_ones_given(silent_face, voice_only):
    tight = MediaLimits(max_bytes=1000, max_seconds=1.5, max_pixels=1000, min_sample_rate=20_000)
    for field, code, clip in (
        ("max_bytes", "too_large", silent_face),
        ("max_seconds", "too_long", silent_face),
        ("max_pixels", "too_many_pixels", silent_face),
        ("min_sample_rate", "bad_sample_rate", voice_only),
    ):
        limits = replace(MediaLimits(), **{field: getattr(tight, field)})
        for read in (lambda clip, limits: list(stream(clip, limits=limits)), probe):
            with pytest.raises(ClipError) as error:
                read(clip, limits=limits)
            assert error.value.code == code


def test_a_clip_without_duration_is_stopped_when_it_passes_the_limit(tmp_path):
    path = synth.write_clip(tmp_path / "endless.webm", seconds=30, size=96, fps=5, voice=False, options={"live": "1"})
    pieces, got = stream(path, limits=MediaLimits(max_seconds=10)), []
    with pytest.raises(ClipError, match=r"lasts at least \d+ s; clips up to 10 s are accepted") as error:
        got.extend(piece.time_s for piece in pieces)
    assert error.value.code == "too_long"
    assert got == pytest.approx([i / 5 for i in range(51)], abs=0.002)


def test_a_small_file_of_many_large_pictures_stopped_the_rest(tmp_path):
    """100 KB of 4K at 240 pictures a second took 15 s for 10 s of film; how many there are is known from the header."""
    path = synth.write_clip(tmp_path / "fast.mp4", seconds=1, size=96, fps=100, voice=False)
    most = 96 * 96 * 60
    for read in (lambda clip, limits: list(stream(clip, limits=limits)), probe):
        with pytest.raises(ClipError, match="has 100 pictures of 96 x 96 a second; up to 60 of that size") as error:
            read(path, limits=MediaLimits(max_pixel_rate=most))
        assert error.value.code == "too_many_frames"
    assert len(parts(path)[0]) == 5  # as many as one looks at
    assert MediaLimits().max_pixel_rate >= 1920 * 1080 * 240  # slow motion of a phone


def test_pictures_that_the_header_does_not_speak_of_are_counted(tmp_path):
    times = [i * 0.002 for i in range(300)] + [30.0]  # 10 a second on the whole, 500 at first
    path = synth.write_clip(tmp_path / "burst.mp4", size=96, times=times, voice=False)
    with pytest.raises(ClipError) as error:
        list(stream(path, limits=MediaLimits(max_pixel_rate=96 * 96 * 60)))
    assert error.value.code == "too_many_frames"
    assert list(stream(path))[-1].time_s == pytest.approx(30.0, abs=0.01)


def test_a_playlist_renamed_to_mp4_does_not_open_what_it_names(tmp_path, silent_face):
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{silent_face}\n#EXT-X-ENDLIST\n"
    for text in (playlist, f"ffconcat version 1.0\nfile '{silent_face}'\n"):
        with pytest.raises(ClipError) as error:
            probe(saved(tmp_path / "list.mp4", text.encode()))
        assert error.value.code == "not_media"


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp3"])
def test_a_recording_that_was_cut_off_gives_what_is_there(tmp_path, suffix):
    whole = synth.write_clip(tmp_path / f"whole{suffix}", seconds=3, size=160).read_bytes()
    path = saved(tmp_path / f"cut{suffix}", whole[: len(whole) // 2])
    assert probe(path).kind == ("audio" if suffix == ".mp3" else "video")
    frames, chunks = parts(path)
    assert 0.7 < len(lay_out(chunks)) / 16_000 < 2.3
    assert suffix == ".mp3" or 3 < len(frames) < 13


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mp3", ".flac"])
def test_damage_in_the_middle_costs_only_what_it_hit(tmp_path, suffix):
    voice = synth.voice(12)  # Matroska goes on at its next cluster of 5 s
    path = synth.write_clip(tmp_path / f"whole{suffix}", seconds=12, face=QUADRANTS, fps=10, voice=voice)
    data = bytearray(path.read_bytes())
    middle = slice(int(0.40 * len(data)), int(0.45 * len(data)))
    data[middle] = np.random.default_rng(3).bytes(middle.stop - middle.start)
    frames, chunks = parts(saved(tmp_path / f"damaged{suffix}", bytes(data)))
    samples = lay_out(chunks)[: len(voice)]
    lost_s = 1.2 if suffix == ".mp3" else 0.02  # mp3 has no clock: what is lost moves the rest forward
    for first in (16_000, 3 * 16_000, len(samples) - 17_000):
        sound = samples[first : first + 16_000]
        spectra = np.fft.rfft(voice, 2**18) * np.fft.rfft(sound, 2**18).conj()
        at = int(np.fft.irfft(spectra)[: len(voice) - len(sound)].argmax())
        assert np.corrcoef(sound, voice[at : at + len(sound)])[0, 1] > 0.9
        assert abs(at - first) < lost_s * 16_000
    assert len(samples) > (11.8 - lost_s) * 16_000
    assert suffix in (".mp3", ".flac") or frames[-1].time_s > 11.5


def test_a_picture_that_is_all_damage_leaves_the_sound(tmp_path):
    path = tmp_path / "half.mkv"
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream("mjpeg", rate=10), out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        video.width, video.height, video.pix_fmt = 160, 120, "yuvj420p"
        for i in range(20):
            packet = av.Packet(NOISE[i * 500 : (i + 1) * 500])
            packet.stream, packet.time_base, packet.pts, packet.dts = video, Fraction(1, 10), i, i
            out.mux(packet)
        frame = av.AudioFrame.from_ndarray(synth.tone(2)[None], "flt", "mono")
        frame.sample_rate = 16_000
        out.mux(audio.encode(frame))
    info = probe(path)
    assert (info.kind, info.has_picture, info.has_sound) == ("video", False, True)
    frames, chunks = parts(path)
    assert frames == []
    assert len(lay_out(chunks)) == 32_000


def test_a_generator_that_is_left_early_closes_its_file(talk):
    pieces = stream(talk)
    next(pieces)
    pieces.close()
    assert len(parts(talk)[0]) == 15


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_memory_does_not_grow_with_length(tmp_path):
    """Half a minute more of 480 x 480 is 100 MB of thinned frames: none of it may stay."""
    code = (
        "import sys; from mmer.media import stream\n"
        "print(sum(1 for _ in stream(sys.argv[1])))\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    peaks_mb = []
    for seconds in (4, 34):
        path = synth.write_clip(
            tmp_path / f"{seconds}.mp4", seconds=seconds, fps=5, face=synth.face(size=480), voice=synth.tone(seconds)
        )
        done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
        n_pieces, peak_kb = map(int, done.stdout.split())
        assert n_pieces > 20 * seconds
        peaks_mb.append(peak_kb / 1024)
    assert peaks_mb[1] - peaks_mb[0] < 10, peaks_mb


def test_channels_out_of_phase_were_silence(tmp_path):
    """The plain mean of a voice and its mirror image is nothing."""
    tone = synth.tone(1)
    path = synth.write_clip(tmp_path / "anti.flac", voice=np.stack([tone, -tone]))
    np.testing.assert_allclose(np.abs(read_audio(path)), np.abs(tone), atol=2e-3)


def test_one_live_microphone_of_sixteen_was_a_sixteenth_as_loud(tmp_path):
    tone = synth.tone(1)
    channels = np.zeros((len(tone), 16))
    channels[:, 11] = tone
    with wave.open(str(tmp_path / "array.wav"), "wb") as out:
        out.setnchannels(16)
        out.setsampwidth(2)
        out.setframerate(synth.RATE)
        out.writeframes((channels * 32_767).astype("<i2").tobytes())
    np.testing.assert_allclose(read_audio(tmp_path / "array.wav"), tone, atol=2e-3)


def test_one_live_channel_of_two_stays_at_half(tmp_path):
    tone = synth.tone(1)
    path = synth.write_clip(tmp_path / "left.flac", voice=np.stack([tone, np.zeros_like(tone)]))
    np.testing.assert_allclose(read_audio(path), tone / 2, atol=2e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_was_turned_twice(tmp_path, orientation):
    path = synth.write_image(tmp_path / "photo.tif", QUADRANTS, orientation=orientation)
    info = probe(path)
    assert (info.width, info.height) == QUADRANTS.size
    (frame,) = stream(path)
    np.testing.assert_array_equal(frame.rgb, np.asarray(QUADRANTS))


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_an_animation_that_ffmpeg_does_not_read_was_its_first_picture(tmp_path, suffix):
    pictures = [Image.new("RGB", (160, 120), (20 * i, 0, 0)) for i in range(9)]
    path = tmp_path / f"moving{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=125, quality=95)
    info = probe(path)
    assert (info.kind, info.width, info.height, info.has_sound) == ("video", 160, 120, False)
    assert (info.duration_s, info.fps) == (pytest.approx(1.125), pytest.approx(8))
    frames = list(stream(path, fps=4))
    assert [f.time_s for f in frames] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert [f.rgb[..., 0].mean() for f in frames] == pytest.approx([0, 40, 80, 120, 160], abs=4)
    part = list(stream(path, fps=8, start_s=0.25, end_s=0.6))
    assert [f.time_s for f in part] == pytest.approx([0.25, 0.375, 0.5])
    with pytest.raises(ClipError, match="lasts at least 1 s; clips up to 1 s are accepted"):
        probe(path, MediaLimits(max_seconds=0.6))
    with pytest.raises(ClipError, match="pictures of 160 x 120 a second"):
        probe(path, MediaLimits(max_pixel_rate=160 * 120))
