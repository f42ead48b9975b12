"""Utterances to tensors: what each branch reads, gathered per utterance and padded into batches."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmer import english, media, voice
from mmer.config import Config, VoiceConfig
from mmer.errors import AssetError, Notice
from mmer.face import FaceTrack
from mmer.labels import check_modalities
from mmer.model import Batch
from mmer.speech import Heard, check_words
from mmer.voice import LogMel


def utterance_samples(
    path: str | Path, start_s: float | None = None, end_s: float | None = None, config: VoiceConfig | None = None
) -> np.ndarray:
    """Return the speech of a recording that is known to be one utterance, at 16 kHz, silence at its ends cut away.

    Where voice activity finds nothing the whole recording is returned: that it holds an utterance is known.

    Raises:
        ClipError: the recording cannot be read or has no sound.
    """
    config = config or VoiceConfig()
    samples = media.read_audio(path, sample_rate=config.sample_rate, start_s=start_s, end_s=end_s)
    speech = voice.speech_bounds(voice.speech_spans(samples), len(samples) / config.sample_rate, config)
    return samples[int(speech.start_s * config.sample_rate) : int(speech.end_s * config.sample_rate)]


class LanguageModel:
    """The frozen text encoder, all-MiniLM-L6-v2, without its last layers where a branch has these to itself.

    https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
    """

    def __init__(self, folder: Path, device: str = "cpu", max_tokens: int = 128, without: int = 0):
        """
        Args:
            without: how many of its last layers are left out: `ModelConfig.text_layers` of who reads it.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # the pooler in the file is not used, and it would say so every time
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            config.num_hidden_layers -= without
            self._model = AutoModel.from_pretrained(
                folder, config=config, local_files_only=True, add_pooling_layer=False
            )
        except (OSError, ValueError) as error:
            raise AssetError("asset_damaged", f"the text encoder in {folder} cannot be loaded: {error}") from error
        self._model.eval().requires_grad_(False).to(device)
        self.device, self.max_tokens = device, max_tokens
        self.identity = f"all-MiniLM-L6-v2 {config.num_hidden_layers}x{config.hidden_size}"
        self._lock = threading.Lock()  # the tokenizer keeps its truncation and padding settings inside

    @property
    def embeddings(self) -> torch.nn.Embedding:
        """The token embedding layer: where attributions to words start."""
        return self._model.embeddings.word_embeddings

    @property
    def layers(self) -> torch.nn.ModuleList:
        """Its transformer layers: where a branch that has the last ones to itself starts from."""
        return self._model.encoder.layer

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids (B, S) and their mask (B, S) bool."""
        with self._lock:
            encoding = self._tokenizer(
                list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
            )
        return encoding["input_ids"], encoding["attention_mask"].bool()

    def word_index(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the ids (1, S) of a sentence given as words, and the word each token belongs to (S,), -1 for none."""
        with self._lock:
            encoding = self._tokenizer(
                [list(words)],
                is_split_into_words=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
        return encoding["input_ids"], torch.tensor([-1 if w is None else w for w in encoding.word_ids(0)])

    def pieces(self, words: Sequence[str]) -> list[list[str]]:
        """Return the word pieces of each word, however many there are."""
        pieces: list[list[str]] = [[] for _ in words]
        if words:
            with self._lock:
                encoding = self._tokenizer([list(words)], is_split_into_words=True, add_special_tokens=False)
            for piece, owner in zip(encoding.tokens(0), encoding.word_ids(0), strict=True):
                pieces[owner].append(piece)
        return pieces

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the token states (B, S, 384) after its last layer; padding holds zeros."""
        with torch.no_grad():
            return self.run(ids, mask)

    def run(self, ids: Tensor, mask: Tensor, *, embedded: Tensor | None = None) -> Tensor:
        """As `states`, with gradients; `embedded` (B, S, 384) replaces the token embeddings of `ids`."""
        mask = mask.to(self.device)
        inputs = {"input_ids": ids.to(self.device)} if embedded is None else {"inputs_embeds": embedded}
        return self._model(**inputs, attention_mask=mask.long()).last_hidden_state * mask[..., None]


@dataclass(frozen=True)
class Features:
    """One utterance as the branches read it; None where a modality is absent."""

    start_s: float
    end_s: float
    face: FaceTrack | None = None  # only the frames of this utterance
    landmarks: bool = True  # false where the crop came from a corpus and has no landmark fit
    sound: LogMel | None = None
    pitch_hz: Tensor | None = None  # (T_a,) at each frame of `sound`, NaN where no voice sounds: nothing but told
    whisper: Tensor | None = None  # (depths, 2 * width) from Whisper's encoder, where the model reads it
    heard: tuple[Heard, ...] = ()  # what that encoder read: where an explanation of its part starts
    words: tuple[str, ...] = ()
    token_ids: Tensor | None = None  # (S,)
    token_words: Tensor | None = None  # (S,) index into `words`, -1 for none
    text_states: Tensor | None = None  # (S, 384) where the model's text branch starts

    def __repr__(self) -> str:
        parts = [repr(part) for part in (self.face, self.sound) if part is not None]
        parts += [f"{len(self.words)} words"] * (self.text_states is not None)
        return f"Features({', '.join([f'{self.start_s:.2f} to {self.end_s:.2f} s', *(parts or ['nothing'])])})"

    @property
    def present(self) -> tuple[bool, bool, bool]:
        """Which modalities are there, in the order of `MODALITIES`."""
        return self.face is not None, self.sound is not None, self.text_states is not None

    @property
    def weight(self) -> float:
        """Its share in the clip's verdict: its length in seconds, 0.1 at least; 0 when nothing can be read."""
        return max(self.end_s - self.start_s, 0.1) * any(self.present)

    def only(self, modalities: Sequence[str]) -> "Features":
        """Return the same utterance without the modalities that are not named."""
        check_modalities(modalities)
        cleared: dict[str, Any] = {}
        if "face" not in modalities:
            cleared["face"] = None
        if "voice" not in modalities:
            cleared.update(sound=None, pitch_hz=None, whisper=None, heard=())
        if "text" not in modalities:
            cleared.update(words=(), token_ids=None, token_words=None, text_states=None)
        return replace(self, **cleared)


def trim(track: FaceTrack, start_s: float, end_s: float, max_crops: int) -> FaceTrack | None:
    """Return the crops of a track between two times, at most `max_crops` spread evenly; None when there are none."""
    inside = torch.nonzero((track.times_s >= start_s) & (track.times_s <= end_s)).flatten()
    if not len(inside):
        return None
    if len(inside) > max_crops:
        inside = inside[torch.linspace(0, len(inside) - 1, max_crops).round().long()]
    return track.at(inside)


def corpus_face(image: np.ndarray, size: int) -> FaceTrack:
    """Return a one-crop track for a picture that already is a face crop: nothing is detected, no landmarks are known.

    Args:
        image: (H, W) or (H, W, 3) uint8.
    """
    luma = Image.fromarray(image).convert("L")
    if luma.size != (size, size):
        luma = luma.resize((size, size), Image.Resampling.BOX if luma.width > size else Image.Resampling.BICUBIC)
    crop = torch.from_numpy(np.array(luma)).float() / 255
    return FaceTrack(
        crops=crop[None, None],
        blendshapes=torch.zeros(1, 52),
        times_s=torch.zeros(1),
        regions=torch.zeros(1, 5, size, size, dtype=torch.bool),
        pose_deg=torch.zeros(1, 3),
        boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
        sharpness=torch.zeros(1),
        size_px=torch.full((1,), float(image.shape[1])),
        track_id=0,
    )


def with_text(features: Features, text: str, language: LanguageModel) -> Features:
    """Return the utterance with the words of `text`; no words, no change."""
    words = tuple(check_words(text).split())
    if not words:
        return features
    ids, owners = language.word_index(words)
    states = language.states(ids, torch.ones_like(ids, dtype=torch.bool))[0]
    return replace(features, words=words, token_ids=ids[0], token_words=owners, text_states=states.cpu())


def read_words(
    items: Sequence[Features], texts: Sequence[str], language: LanguageModel
) -> tuple[list[Features], list[Notice]]:
    """Return utterances with their words, and what to know of words that were not read or not to their end.

    Words that the text branch cannot read are left out. A text that stands alone is read in windows, one item each;
    elsewhere what follows the first `max_tokens` is cut.
    """
    read: list[Features] = []
    unread: dict[str, int] = {}
    n_cut = 0
    for item, text in zip(items, texts, strict=True):
        words = check_words(text).split()
        pieces = language.pieces(words)
        if words and (why := english.why_unread(words, pieces)):
            unread[why] = unread.get(why, 0) + 1
            read.append(item)
            continue
        windows = _windows(words, [len(p) for p in pieces], language.max_tokens - 2) or [""]
        alone = len(items) == 1 and not any(item.present)
        n_cut += len(windows) > 1 and not alone
        read += [with_text(item, part, language) for part in (windows if alone else [text])]
    notices = []
    if unread:
        why = "; ".join(unread)
        part = "" if len(items) == 1 else f" of {sum(unread.values())} of {len(items)} utterances"
        notices.append(Notice("text_not_read", f"the words{part} were left out: {why}"))
    if n_cut:
        notices.append(Notice("text_cut", f"only the first {language.max_tokens} pieces of a long text were read"))
    return read, notices


def _windows(words: Sequence[str], n_pieces: Sequence[int], most: int) -> list[str]:
    """Return words in runs of `most` pieces at most, of about equal length; a longer word is a run of its own."""
    total = sum(n_pieces)
    aim = total / max(math.ceil(total / most), 1)
    windows: list[list[str]] = []
    n_here, n_before = 0, 0
    for word, n in zip(words, n_pieces, strict=True):
        if not windows or n_here + n > most or n_before >= aim * len(windows):
            windows.append([])
            n_here = 0
        windows[-1].append(word)
        n_here, n_before = n_here + n, n_before + n
    return [" ".join(window) for window in windows]


def collate(items: Sequence[Features], config: Config) -> Batch:
    """Pad utterances into one batch; a modality nobody has gets a length of one."""

    def pad(rows: list[Tensor | None], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([0 if r is None else len(r) for r in rows])
        longest = max(int(lengths.max()), 1)
        padded = torch.zeros(len(rows), longest, *shape)
        for i, r in enumerate(rows):
            if r is not None:
                padded[i, : len(r)] = r
        return padded, torch.arange(longest)[None] < lengths[:, None]

    size = config.face.crop_size
    crops, crop_mask = pad([f.face.crops if f.face else None for f in items], (1, size, size))
    blendshapes, _ = pad([f.face.blendshapes if f.face else None for f in items], (config.model.n_blendshapes,))
    mels, mel_mask = pad([f.sound.mel if f.sound else None for f in items], (config.voice.n_mels,))
    states, text_mask = pad([f.text_states for f in items], (config.model.text_input,))
    whisper = {}
    if config.model.whisper_depths:
        nothing = torch.zeros(config.model.whisper_depths, 2 * config.model.whisper_width)
        whisper["whisper"] = torch.stack([nothing if f.whisper is None else f.whisper for f in items])
        whisper["whisper_mask"] = torch.tensor([f.whisper is not None for f in items])
    return Batch(
        crops=crops,
        crop_mask=crop_mask,
        blendshapes=blendshapes,
        blend_mask=crop_mask & torch.tensor([f.landmarks for f in items])[:, None],
        log_mel=mels,
        mel_mask=mel_mask,
        text_states=states,
        text_mask=text_mask,
        present=torch.tensor([f.present for f in items]),
        **whisper,
    )
