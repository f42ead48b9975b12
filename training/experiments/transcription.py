"""What the transcriber makes of speech whose words are known, and of sounds in which nobody speaks."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmer import media, voice
from mmer.config import SAMPLE_RATE
from mmer.speech import Transcriber, Transcript
from training.data.load import at_most
from training.data.manifest import Row
from training.data.speech_corpora import nemo
from training.data.unpaired import ravdess, ravdess_words

SECONDS = 5.0  # of each sound without speech
KINDS = ("silence", "music", "noise")


def sample(corpora: Path, n: int) -> dict[str, list[Row]]:
    """Return `n` utterances of each corpus whose words are known, drawn by a hash of their names."""
    found = {"ravdess": ravdess(corpora), "nemo": nemo(corpora)}
    return {name: at_most(rows, n) for name, rows in found.items() if rows}


def words_of(row: Row) -> str:
    return row.text or (ravdess_words(row.path) if row.path else "")


def silence(rng: np.random.Generator) -> np.ndarray:
    """Return a quiet room: hiss and mains hum far below speech, sometimes nothing at all."""
    t = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    hiss, hum = 10 ** rng.uniform(-5, -3), 10 ** rng.uniform(-5, -3)
    x = rng.normal(size=len(t)) * hiss + np.sin(2 * np.pi * rng.choice([50, 60]) * t) * hum
    return (x * (rng.random() > 0.2)).astype(np.float32)


def music(rng: np.random.Generator) -> np.ndarray:
    """Return a melody over chords: notes of six harmonics with an attack and a decay."""
    x = np.zeros(round(SECONDS * SAMPLE_RATE))
    scale = np.array([0, 2, 4, 5, 7, 9, 11])
    beat, root = rng.uniform(0.2, 0.6), rng.uniform(110, 330)
    for start in np.arange(0, SECONDS - beat, beat):
        chord = [int(rng.integers(0, 7))] + ([0, 2, 4] if rng.random() < 0.5 else [])
        for step in chord:
            t = np.arange(round(2 * beat * SAMPLE_RATE)) / SAMPLE_RATE
            hz = root * 2 ** (scale[step] / 12)
            note = sum(np.sin(2 * np.pi * hz * h * t) / h for h in range(1, 7))
            note = note * np.minimum(t / 0.02, 1) * np.exp(-t / beat)
            at = round(start * SAMPLE_RATE)
            x[at : at + len(note)] += note[: len(x) - at]
    return (x / np.abs(x).max() * rng.uniform(0.1, 0.7)).astype(np.float32)


def noise(rng: np.random.Generator) -> np.ndarray:
    """Return noise between white and brown, in bursts or steady."""
    n = round(SECONDS * SAMPLE_RATE)
    hz = np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 20)
    x = np.fft.irfft(np.fft.rfft(rng.normal(size=n)) * hz ** -rng.uniform(0, 1), n)
    if rng.random() < 0.5:  # as machines and waves do
        x *= 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 4) * np.arange(n) / SAMPLE_RATE)
    return (x / np.abs(x).max() * rng.uniform(0.05, 0.7)).astype(np.float32)


MAKERS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {"silence": silence, "music": music, "noise": noise}


def sounds(kind: str, n: int) -> Iterator[np.ndarray]:
    """Yield `n` sounds without speech, the same ones at each call."""
    for i in range(n):
        yield MAKERS[kind](np.random.default_rng([KINDS.index(kind), i]))


def normalised(text: str) -> str:
    """Return words as Whisper's authors compare them: lower case, no punctuation."""
    from whisper.normalizers import BasicTextNormalizer

    return " ".join(BasicTextNormalizer()(text).split())


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Return substitutions, deletions and insertions over the words said."""
    import jiwer

    return float(jiwer.wer([normalised(x) for x in said], [normalised(x) for x in heard]))


def times_are_plausible(found: Transcript, seconds: float) -> bool:
    """Return whether words follow each other inside the clip, none before its start or of more than two seconds."""
    times = [t for w in found.words for t in (w.start_s, w.end_s)]
    long = any(w.end_s - w.start_s > 2 for w in found.words)
    return times == sorted(times) and not long and (not times or (times[0] >= 0 and times[-1] <= seconds + 0.02))


def spoken(transcriber: Transcriber, samples: np.ndarray) -> Transcript:
    """Return what is transcribed of a clip as in use: only where voice activity hears somebody."""
    return transcriber.transcribe(samples, voice.speech_spans(samples))


def of_speech(transcriber: Transcriber, rows: Sequence[Row], name: str) -> dict:
    """Return the figures on utterances of one corpus."""
    said, heard, plausible = [], [], 0
    took = lasts = 0.0
    languages: Counter[str] = Counter()
    for row in tqdm(rows, desc=name, mininterval=5):
        assert row.path is not None
        samples = media.read_audio(row.path, sample_rate=SAMPLE_RATE)
        spans = voice.speech_spans(samples)
        since = time.process_time()
        found = transcriber.transcribe(samples, spans)
        took += time.process_time() - since
        lasts += len(samples) / SAMPLE_RATE
        plausible += times_are_plausible(found, len(samples) / SAMPLE_RATE)
        languages[found.language or "none"] += 1
        said.append(words_of(row))
        heard.append(found.text)
    return {
        "n": len(rows),
        "speakers": len({r.speaker for r in rows}),
        "wer": word_error_rate(said, heard),
        "wer_by_clip": [word_error_rate([s], [h]) for s, h in zip(said, heard, strict=True)],
        "languages": dict(languages.most_common()),
        "plausible_times": plausible / len(rows),
        "cpu_seconds": took / len(rows),
        "seconds": lasts / len(rows),
        "real_time_factor": took / lasts,
        "heard": heard,
    }


def of_nothing(transcriber: Transcriber, kind: str, n: int) -> dict:
    """Return how often words are invented where nobody speaks, and which."""

    found = [spoken(transcriber, x) for x in tqdm(sounds(kind, n), total=n, desc=kind, mininterval=5)]
    return {"n": n, "invented": sum(bool(x.text) for x in found), "texts": [x.text for x in found if x.text]}


def measure(transcriber: Transcriber, rows: dict[str, list[Row]], n_sounds: int) -> dict:
    """Return the figures of one transcriber on every corpus and on sounds without speech."""
    return {
        "pad_s": transcriber.pad_s,
        "speech": {name: of_speech(transcriber, part, name) for name, part in rows.items()},
        "nothing": {kind: of_nothing(transcriber, kind, n_sounds) for kind in KINDS},
    }


def page(found: Sequence[dict]) -> str:
    """Return the figures of several transcribers as Markdown tables."""
    lines = [
        "| silence behind | corpus | clips, speakers | WER | language | times plausible | CPU s a clip | for 1 s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in found:
        pad = "to half a minute" if part["pad_s"] is None else f"{part['pad_s']:g} s"
        for name, x in part["speech"].items():
            told = ", ".join(f"{language} {n}" for language, n in x["languages"].items())
            took = f"{x['cpu_seconds']:.2f} | {x['real_time_factor']:.2f}"
            heard = f"{x['wer']:.3f} | {told} | {x['plausible_times']:.2f}"
            lines.append(f"| {pad} | {name} | {x['n']}, {x['speakers']} | {heard} | {took} |")
        invented = ", ".join(f"{x['invented']} of {x['n']} ({kind})" for kind, x in part["nothing"].items())
        lines.append(f"| {pad} | words where nobody speaks | {invented} | | | | | |")
    return "\n".join(lines) + "\n"
