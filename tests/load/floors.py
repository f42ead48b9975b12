"""The time of a whole clip against the sum of its floors: decoding, landmarks and the model, each alone, in one run.

    python tests/load/floors.py CLIP... [--repeat 5] [--transcribe]

The floors are what nobody can do without: PyAV decoding every frame and sound packet, Face Landmarker on the pictures
that are read, the model on the utterances that were found. They are measured in turn with the whole, so that other work
of the machine costs all of them alike, and the medians are compared. Words are given, so that nothing is transcribed,
unless `--transcribe` adds Whisper to both sides.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # before the imports below, whose seconds --help need not wait for
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--transcribe", action="store_true", help="let Whisper transcribe, and count it as a floor")
    args = parser.parse_args()

import av
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmer import assets, media
from mmer.config import Config
from mmer.errors import MmerError
from mmer.face import FaceTracker
from mmer.features import collate
from mmer.predict import EmotionResult, Predictor
from mmer.voice import speech_spans

TEXT = "I did not expect that at all"


def decode(clip: Path) -> None:
    """Decode a file once, every frame of it, as it is."""
    with av.open(str(clip)) as container:
        for packet in container.demux():
            for _ in packet.decode():
                continue


def pictures(clip: Path, config: Config) -> list[media.VideoFrame]:
    """Return the pictures of a film that are looked at."""
    found = media.stream(clip, fps=config.face.fps, sample_rate=config.voice.sample_rate, sound=False)
    return [piece for piece in found if isinstance(piece, media.VideoFrame)]


def floors(predictor: Predictor, clip: Path, result: EmotionResult, transcribe: bool) -> dict[str, Callable]:
    """Return the parts of a clip's analysis by name, each ready to be run alone."""
    loaded = predictor.checkpoint
    batch = collate([s.features for s in result.segments], loaded.config).to(predictor.device)
    info = result.observation.files[0]
    parts: dict[str, Callable] = {"decode": lambda: decode(clip)}
    if info.has_picture:
        frames, model = pictures(clip, loaded.config), assets.find("face_landmarker", predictor.paths)

        def landmarks() -> None:
            with FaceTracker(loaded.config.face, still=info.kind == "image", model_path=model) as tracker:
                for frame in frames:
                    tracker.add(frame)

        parts["landmarks"] = landmarks

    @torch.no_grad()
    def forward() -> None:
        loaded.model(batch)

    parts["model"] = forward
    if batch.whisper is not None:  # the voice branch reads its encoder
        heard = [s.features.heard for s in result.segments if s.features.heard]
        parts["encoder"] = lambda: [predictor.transcriber.encode_heard(each) for each in heard]
    if transcribe and info.has_sound:
        found = media.stream(clip, fps=1.0, sample_rate=16_000, picture=False)
        chunks = [piece for piece in found if isinstance(piece, media.AudioChunk)]
        samples = media.lay_out(chunks, 16_000, 0.0)
        spans = speech_spans(samples)
        parts["whisper"] = lambda: predictor.transcriber.transcribe(samples, spans)
    return parts


def measure(predictor: Predictor, clip: Path, repeat: int, transcribe: bool) -> tuple[float | None, dict[str, float]]:
    """Return how long a clip is, and median milliseconds of the whole and of each floor, measured in turn."""

    def whole() -> EmotionResult:
        return predictor.analyse(clip, text=None if transcribe else TEXT)

    result = whole()  # loads what is loaded once
    parts = {"whole": whole, **floors(predictor, clip, result, transcribe)}
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeat):
        for name, part in parts.items():
            since = time.perf_counter()
            part()
            times[name].append((time.perf_counter() - since) * 1e3)
    return result.duration_s, {name: float(np.median(each)) for name, each in times.items()}


def tell_of_each(clips: Sequence[Path], line_of: Callable[[Predictor, Path], str]) -> int:
    """Print a line about each clip, as it is measured; return the exit status."""
    try:
        predictor = Predictor()
        for clip in clips:
            print(line_of(predictor, clip), flush=True)
    except MmerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def main(args: argparse.Namespace) -> int:
    def line_of(predictor: Predictor, clip: Path) -> str:
        duration_s, ms = measure(predictor, clip, args.repeat, args.transcribe)
        least = sum(value for name, value in ms.items() if name != "whole")
        parts = ", ".join(f"{name} {value:.0f}" for name, value in ms.items() if name != "whole")
        length = "" if duration_s is None else f" ({duration_s:.1f} s)"
        told = f"{ms['whole']:.0f} ms, floors {least:.0f} ms ({parts}): {ms['whole'] / least:.2f} x"
        return f"{clip.name}{length}: {told}"

    return tell_of_each(args.clips, line_of)


if __name__ == "__main__":
    sys.exit(main(args))
