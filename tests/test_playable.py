"""What Label and Review play: recordings only, the registered ones, in a form that browsers have a player for."""

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from annotations.store import Store
from mmer import media
from mmer.errors import ClipError
from mmer.ui.playable import Player
from tests import synth

SECONDS = 1.0
DEAD = {  # name: (video codec, audio codec), of which browsers showed a dead or a mute player
    "a.avi": ("mpeg4", "libmp3lame"),
    "b.wmv": ("wmv2", "wmav2"),
    "c.flv": ("flv", "libmp3lame"),
    "d.mpg": ("mpeg2video", "mp2"),
    "e.mkv": ("libx264", "ac3"),
    "f.mp4": ("libx265", "aac"),
    "g.aiff": (None, "pcm_s16be"),
    "h.m4a": (None, "alac"),
}


def write(path: Path, video: str | None, audio: str | None) -> Path:
    """Write a second of a face and a voice in any codec."""
    with av.open(str(path), "w", format={".wmv": "asf", ".m4a": "ipod"}.get(path.suffix)) as out:
        film = out.add_stream(video, rate=25) if video else None
        sound = out.add_stream(audio, rate=44_100, layout="mono") if audio else None
        if sound and audio not in ("alac", "pcm_s16be"):
            sound.bit_rate = 96_000  # wmav2 has no default
        if film:
            film.width, film.height, film.pix_fmt = 320, 240, "yuv420p"
            picture = np.asarray(synth.face().convert("RGB").resize((320, 240)))
            for i in range(25):
                frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
                frame.pts = i
                out.mux(film.encode(frame))
            out.mux(film.encode(None))
        if sound:
            tone = (0.3 * np.sin(np.arange(44_100) * 0.06)).astype(np.float32)
            block = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
            block.sample_rate, block.pts = 44_100, 0
            resampler = av.AudioResampler(sound.codec_context.format or "fltp", "mono", 44_100)
            for frame in resampler.resample(block):
                out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
    return path


@pytest.fixture
def store(tmp_path):
    opened = Store(f"sqlite:///{tmp_path / 'mmer.db'}", tmp_path / "media", tmp_path / "features")
    yield opened
    opened.engine.dispose()


def registered(store: Store, path: Path) -> str:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    store.register_clip(path, sha256, name=path.name, in_place=True)
    return sha256


@pytest.mark.parametrize("name", DEAD)
def test_a_browser_showed_a_dead_player(store, tmp_path, name):
    path = write(tmp_path / name, *DEAD[name])
    sha256 = registered(store, path)
    found = Player(store).of(path, sha256)
    assert found.path.parent == store.features_dir
    assert found.type == ("video/mp4" if DEAD[name][0] else "audio/mp4")
    made = media.probe(found.path)
    assert made.kind == found.type.split("/")[0]
    assert made.duration_s == pytest.approx(SECONDS, abs=0.15)
    with av.open(str(found.path)) as container:
        assert {each.codec_context.name for each in container.streams} == {"aac", "h264"} - (
            {"h264"} if not DEAD[name][0] else set()
        )
    heard = media.read_audio(found.path)
    assert np.sqrt(np.mean(heard[4000:12000] ** 2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.15)  # not mute
    assert Player(store).of(path, sha256).path.stat().st_mtime_ns == found.path.stat().st_mtime_ns  # made once
    store.delete_clip(sha256)
    assert list(store.features_dir.iterdir()) == []


def test_a_tiff_was_no_picture(store, tmp_path):
    path = tmp_path / "face.tif"
    synth.face().save(path)
    found = Player(store).of(path, registered(store, path))
    assert found.type == "image/png"
    assert np.array_equal(np.asarray(Image.open(found.path)), np.asarray(synth.face().convert("RGB")))


@pytest.mark.parametrize("name", ["a.mp4", "b.webm", "c.wav", "d.mp3", "e.flac", "f.m4a", "g.ogg"])
def test_what_browsers_play_is_sent_as_it_is(store, tmp_path, name):
    path = synth.write_clip(tmp_path / name, seconds=0.5)
    found = Player(store).of(path, registered(store, path))
    assert found.path == path
    assert found.type.split("/")[0] == ("video" if name in ("a.mp4", "b.webm") else "audio")


def test_files_of_the_server_were_shown_as_films(store, tmp_path):
    """An import may register any path: what is no recording, or no longer the registered one, is not read out."""
    settings = tmp_path / "passwd.mp4"
    settings.write_text("root:x:0:0:root:/root:/bin/bash\n" * 50)
    player = Player(store)
    for path in (settings, Path("/etc/passwd"), tmp_path / "mmer.db"):
        with pytest.raises(ClipError):
            player.of(path, registered(store, path))
    clip = synth.write_clip(tmp_path / "a.wav", seconds=0.5)
    sha256 = registered(store, clip)
    synth.write_clip(clip, seconds=0.7)
    with pytest.raises(ClipError, match="is not the recording that was registered") as refused:
        player.of(clip, sha256)
    assert refused.value.code == "changed"


def test_a_recording_that_was_deleted_with_its_receipt_stayed_playable(tmp_path):
    """What was made of an upload to be played has other bytes than the clip: only its name says whose it is."""
    uploads = tmp_path / "uploads"
    kept = Store(f"sqlite:///{tmp_path / 'mmer.db'}", tmp_path / "media", tmp_path / "features", uploads)
    (uploads / "0123").mkdir(parents=True)
    for name in ("a.avi", "b.wmv"):
        path = write(uploads / "0123" / name, *DEAD[name])
        assert Player(kept).preview(path, media.probe(path), uploads)
    sha256 = registered(kept, uploads / "0123" / "a.avi")
    assert kept.delete_clip(sha256).files == 2
    assert not any(sha256 in file.name for file in uploads.rglob("*"))
    assert len(list(uploads.glob("*-play.mp4"))) == 1  # of the other recording
    kept.engine.dispose()


def test_a_preview_that_failed_left_half_a_film_and_no_list(store, tmp_path):
    path = write(tmp_path / "a.avi", *DEAD["a.avi"])
    info = media.probe(path)
    uploads = tmp_path / "uploads"
    (uploads / f"{info.sha256}-play.mp4").mkdir(parents=True)  # nothing can be moved there
    assert Player(store).preview(path, info, uploads) is None
    assert [file.name for file in uploads.iterdir()] == [f"{info.sha256}-play.mp4"]
    picture = tmp_path / "face.tif"
    synth.face().save(picture)
    assert Player(store).preview(picture, media.probe(picture), tmp_path / "none") is None
