"""What if: an utterance changed in what was kept of it, and judged again. Nothing is decoded, no face is looked for."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mmer import voice
from mmer.config import SAMPLE_RATE, VoiceConfig
from mmer.errors import ClipError
from mmer.face_map import soften
from mmer.features import Features, LanguageModel, with_text
from mmer.labels import MODALITIES, check_modalities
from mmer.messages import Say, marked, plain
from mmer.predict import EmotionResult, Predictor, Segment, named
from mmer.speech import ENCODER_S, FRAME, Heard, Transcriber, encoder_mel_of_power, encoder_power
from mmer.voice_map import WHISPER_HOP

_PER_STATE = FRAME // WHISPER_HOP  # frames that the encoder reads for each of its states
# From where noise or voice is all there is to where nothing is heard or changed; beyond, single precision overflows.
_LEAST_DB, _MOST_DB = -60.0, 100.0
_LEAST_BLUR, _MOST_BLUR = 0.1, 48.0  # pixels: nothing changes; a crop is one grey
_CHANNELS = {"face": "the face", "voice": "the voice", "text": "the words"}
_WITHOUT = {
    "face": marked("without the face"),
    "voice": marked("without the voice"),
    "text": marked("without the words"),
}


@dataclass(frozen=True)
class Changes:
    """What is changed in an utterance, in this order."""

    cut_s: tuple[float, float] | None = None  # a stretch that goes, in seconds of the clip: voice, frames, words
    rate: float | None = None  # how much faster the voice speaks, its pitch unchanged
    noise_db: float | None = None  # white noise, the voice that far above it
    blur: float | None = None  # of the face, in pixels of its crop; landmarks are not seen in it
    replace_words: tuple[tuple[int, str], ...] = ()  # number of a word, from 1, and what is said instead
    drop_words: tuple[int, ...] = ()
    hide: tuple[str, ...] = ()  # channels that go

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) not in (None, ()) for f in fields(self))

    def __str__(self) -> str:
        return self.told()

    def told(self, say: Say = plain) -> str:
        """Return what is changed in words.

        Args:
            say: says the texts in some language.
        """
        said = []
        if self.cut_s is not None:
            said.append(say(marked("{start:g} to {end:g} s cut out"), start=self.cut_s[0], end=self.cut_s[1]))
        if self.rate is not None:
            said.append(say(marked("speech {rate:g} times as fast"), rate=self.rate))
        if self.noise_db is not None:
            said.append(say(marked("noise {n:g} dB below the voice"), n=self.noise_db))
        if self.blur is not None:
            said.append(say(marked("the face blurred by {n:g} pixels"), n=self.blur))
        said += [say(marked('word {n} replaced by "{word}"'), n=n, word=word) for n, word in self.replace_words]
        said += [say(marked("word {n} dropped"), n=n) for n in self.drop_words]
        said += [say(_WITHOUT[m]) for m in self.hide]
        return "; ".join(said)


@dataclass(frozen=True)
class WhatIf:
    """One utterance as it was judged, and as it is once changed."""

    changes: Changes
    before: Segment
    after: Segment
    words_stayed: bool = False  # a stretch was cut out, but when its words were said is not known

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of `python -m mmer whatif`."""
        return {
            "changes": str(self.changes),
            "turned": self.before.emotion != self.after.emotion,
            "words_stayed": self.words_stayed,
            "before": _verdict(self.before),
            "after": _verdict(self.after),
        }


def _verdict(segment: Segment) -> dict[str, Any]:
    return {
        "start_s": round(segment.start_s, 3),
        "end_s": round(segment.end_s, 3),
        "emotion": segment.emotion,
        "probs": named(segment.probs),
        "per_modality": {
            m: named(p) if here else None
            for m, p, here in zip(MODALITIES, segment.branch_probs, segment.present, strict=True)
        },
        "words": list(segment.features.words),
    }


def what_if(predictor: Predictor, result: EmotionResult, changes: Changes, utterance: int | None = None) -> WhatIf:
    """Return how the checkpoint that judged a clip judges an utterance of it once it is changed.

    Args:
        utterance: its number, from 1; the one that decided when None.

    Raises:
        ClipError: `nothing_changed`, `nothing_left`, or what is to be changed is not there.
    """
    before = chosen(result, utterance)
    if not changes:
        raise ClipError("nothing_changed", "no change was asked for; mute the voice, hide the face, drop a word, …")
    loaded = predictor.checkpoint_of(result)
    language = predictor.language_if_words(loaded, before.features)
    times = word_times(result, before)
    features = changed(before.features, changes, loaded.config.voice, language, predictor.transcriber, word_times=times)
    stayed = changes.cut_s is not None and bool(features.words) and times is None
    judged, after = predictor.judge([before.features, features], loaded)
    return WhatIf(changes, judged, after, stayed)


def chosen(result: EmotionResult, utterance: int | None) -> Segment:
    """Return an utterance by its number from 1, or the one that decided.

    Raises:
        ClipError: `no_such_utterance`, `nothing_readable`.
    """
    if utterance is None:
        if result.telling_segment is None:
            raise ClipError("nothing_readable", "no emotion was given, so there is nothing to change")
        return result.telling_segment
    if not 1 <= utterance <= len(result.segments):
        raise ClipError("no_such_utterance", f"the clip has {len(result.segments)} utterances; {utterance} is none")
    return result.segments[utterance - 1]


def word_times(result: EmotionResult, segment: Segment) -> tuple[tuple[float, float], ...] | None:
    """Return when each word of an utterance begins and ends, None where the transcript does not say."""
    words = result.transcript.words
    inside = result.transcript.words_in(segment.start_s, segment.end_s)
    for some in (inside, words):  # a clip that is one utterance has all of them
        if " ".join(w.text.strip() for w in some).split() == list(segment.features.words):
            # A word of the transcript may be several of the branch's: "New York" said as one.
            return tuple((w.start_s, w.end_s) for w in some for _ in w.text.split())
    return None


def changed(
    features: Features,
    changes: Changes,
    config: VoiceConfig,
    language: LanguageModel | None = None,
    transcriber: Transcriber | None = None,
    *,
    word_times: Sequence[tuple[float, float]] | None = None,
) -> Features:
    """Return an utterance with the changes made.

    Args:
        word_times: when each word was said; the words of a stretch that is cut out stay without it.

    Raises:
        ClipError: `nothing_left`, `no_such_word`, `no_such_channel`, `bad_change`.
    """
    words: list[str] = list(features.words)
    for n in (*changes.drop_words, *(n for n, _ in changes.replace_words)):
        if not 1 <= n <= len(words):
            raise ClipError("no_such_word", f"the utterance has {len(words)} words; word {n} is none of them")
    gone = {n - 1 for n in changes.drop_words}
    for n, word in changes.replace_words:
        words[n - 1] = word
    out = features
    if changes.cut_s is not None:
        start_s, end_s = changes.cut_s
        if not start_s < end_s:
            raise ClipError("bad_change", f"a stretch ends after it begins; {start_s:g} to {end_s:g} s does not")
        out = _cut(out, start_s, end_s, config, transcriber)
        gone |= {i for i, (a, b) in enumerate(word_times or ()) if start_s <= (a + b) / 2 < end_s}
    if changes.rate is not None:
        out = _at_rate(out, changes.rate, config, transcriber)
    if changes.noise_db is not None:
        out = _noisy(out, changes.noise_db, config, transcriber)
    if changes.blur is not None:
        out = _blurred(out, changes.blur)
    said = " ".join(word for i, word in enumerate(words) if i not in gone)
    if said.split() != list(features.words):
        out = out.only([m for m, here in zip(MODALITIES, out.present, strict=True) if here and m != "text"])
        if said:
            if language is None:
                raise ValueError("the language model that read the words is needed to read others")
            out = with_text(out, said, language)
    return _without(out, changes.hide)


def _without(features: Features, channels: Sequence[str]) -> Features:
    check_modalities(channels or MODALITIES)
    here = [m for m, present in zip(MODALITIES, features.present, strict=True) if present]
    for m in channels:
        if m not in here:
            has = " and ".join(_CHANNELS[x] for x in here) or "nothing"
            raise ClipError("no_such_channel", f"{_CHANNELS[m]} cannot be left out: the utterance has {has}")
    left = features.only([m for m in here if m not in channels])
    if not any(left.present):
        raise ClipError("nothing_left", "nothing of the utterance is left with that change; leave something in")
    return left


def _blurred(features: Features, pixels: float) -> Features:
    if features.face is None:
        raise ClipError("no_such_channel", "there is no face to blur in this utterance")
    if not _LEAST_BLUR <= pixels <= _MOST_BLUR:
        raise ClipError("bad_change", f"a blur is {_LEAST_BLUR:g} to {_MOST_BLUR:g} pixels wide; {pixels:g} is not")
    crops = soften(features.face.crops, pixels)
    return replace(features, face=replace(features.face, crops=crops), landmarks=False)


def _voiced(features: Features, transcriber: Transcriber | None) -> voice.LogMel:
    """Return the sound of an utterance of which all that heard it can hear it again."""
    if features.sound is None:
        raise ClipError("no_such_channel", "there is no voice to change in this utterance")
    if features.whisper is not None and (not features.heard or transcriber is None):
        raise ClipError("no_such_channel", "what Whisper heard was not kept, so the voice cannot be changed")
    return features.sound


def _heard_again(
    features: Features, sound: voice.LogMel, heard: tuple[Heard, ...], transcriber: Transcriber | None
) -> Features:
    whisper = features.whisper
    if features.heard and transcriber is not None:
        whisper = transcriber.encode_heard(heard)
    return replace(features, sound=sound, pitch_hz=None, heard=heard, whisper=whisper)


def _noisy(features: Features, snr_db: float, config: VoiceConfig, transcriber: Transcriber | None) -> Features:
    """Add the power of white noise to the power of the voice: on the average their phases cancel out."""
    if not _LEAST_DB <= snr_db <= _MOST_DB:
        raise ClipError("bad_change", f"noise is {_LEAST_DB:g} to {_MOST_DB:g} dB below the voice; {snr_db:g} is not")
    sound = _voiced(features, transcriber)
    power = voice.power_of(sound, config)
    generator = torch.Generator().manual_seed(0)
    # At least one window of it: a cut may have left less.
    noise = torch.randn(max((len(power) - 1) * config.hop_length, config.n_fft), generator=generator)
    spectrum = voice.mel_power(noise, config)[: len(power)]
    spectrum = torch.cat([spectrum, spectrum[-1:].expand(len(power) - len(spectrum), -1)])
    level = power.sum() / spectrum.sum() / 10 ** (snr_db / 10)  # mel filters add up to one: their sum is the power
    heard = []
    for i, h in enumerate(features.heard):
        start = i * (ENCODER_S - 1) * SAMPLE_RATE
        own = noise[start : start + h.n_frames * FRAME] * level.sqrt()
        heard.append(replace(h, mel=_with_noise(h.mel, own)))
    return _heard_again(features, voice.of_power(power + level * spectrum, config), tuple(heard), transcriber)


def _with_noise(mel: Tensor, noise: Tensor) -> Tensor:
    """Return what the encoder reads (bands, T) of an utterance with noise (L,) over it, silent where the noise is."""
    import whisper

    bands, n_frames = mel.shape
    padding = max(n_frames * WHISPER_HOP - len(noise), 0)
    own = whisper.log_mel_spectrogram(noise[: n_frames * WHISPER_HOP], bands, padding=padding)
    return encoder_mel_of_power(encoder_power(mel) + encoder_power(own[:, :n_frames]))


def _cut(
    features: Features, start_s: float, end_s: float, config: VoiceConfig, transcriber: Transcriber | None
) -> Features:
    out = features
    if features.face is not None and len(features.face.times_s) > 1:
        outside = (features.face.times_s < start_s) | (features.face.times_s >= end_s)
        out = replace(out, face=features.face.at(outside) if bool(outside.any()) else None)
    if features.sound is None:
        return out
    sound = _voiced(features, transcriber)
    step_s = config.hop_length / config.sample_rate
    stays = _outside(len(sound.mel), step_s, features.start_s, start_s, end_s)
    heard = []
    for i, h in enumerate(features.heard):
        n_own = h.n_frames * _PER_STATE
        begin_s = features.start_s + i * (ENCODER_S - 1)
        kept = _outside(h.mel.shape[1], WHISPER_HOP / SAMPLE_RATE, begin_s, start_s, end_s)
        kept[n_own:] = True  # the second of silence at the end
        n_frames = int(kept[:n_own].sum()) // _PER_STATE
        if n_frames:
            heard.append(Heard(h.mel[:, kept], n_frames))
    if not bool(stays.any()) or (features.heard and not heard):  # under 20 ms is left: nothing that Whisper could hear
        return out.only([m for m, here in zip(MODALITIES, out.present, strict=True) if here and m != "voice"])
    shorter = voice.of_power(voice.power_of(sound, config)[stays], config)
    return _heard_again(out, shorter, tuple(heard), transcriber)


def _outside(n: int, step_s: float, begin_s: float, start_s: float, end_s: float) -> Tensor:
    """Return which of `n` frames (n,), the first at `begin_s`, lie outside a stretch."""
    times = begin_s + torch.arange(n) * step_s
    return (times < start_s) | (times >= end_s)


def _at_rate(features: Features, rate: float, config: VoiceConfig, transcriber: Transcriber | None) -> Features:
    """Squeeze or stretch the spectrograms: the same sounds follow each other faster or slower."""
    if not 0.5 <= rate <= 2:
        raise ClipError("bad_change", f"a rate lies between 0.5 and 2 times as fast; {rate:g} does not")
    sound = _voiced(features, transcriber)

    def squeezed(x: Tensor) -> Tensor:  # (T, M) -> (T / rate, M)
        n = max(round(len(x) / rate), 1)
        return torch.nn.functional.interpolate(x.T[None], size=n, mode="linear", align_corners=True)[0].T

    heard = []
    for h in features.heard:
        n_own = min(h.n_frames * _PER_STATE, h.mel.shape[1])
        own = squeezed(h.mel[:, :n_own].T).T[:, : (ENCODER_S - 1) * SAMPLE_RATE // WHISPER_HOP]
        heard.append(Heard(torch.cat([own, h.mel[:, n_own:]], 1), max(own.shape[1] // _PER_STATE, 1)))
    power = squeezed((voice.power_of(sound, config) + config.floor).log()).exp() - config.floor
    return _heard_again(features, voice.of_power(power, config), tuple(heard), transcriber)
