"""A face and a voice judged while they go on, on the last seconds of each: nothing before that is held."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import torch
from torch import Tensor

from mmer import assets, voice
from mmer.config import SAMPLE_RATE, LiveConfig, MediaLimits
from mmer.encoders import FaceEncoder
from mmer.errors import ClipError
from mmer.face import FaceTrack, FaceTracker
from mmer.features import Features, collate
from mmer.labels import MODALITIES, N_EMOTIONS
from mmer.media import VideoFrame
from mmer.model import BranchStates, EmotionModel

if TYPE_CHECKING:
    from mmer.checkpoint import Checkpoint
    from mmer.predict import Predictor

_Frame = tuple[Tensor, Tensor, Tensor]  # what `FaceEncoder.frames` returns, of one crop


@dataclass(frozen=True)
class Moment:
    """The verdict on the last seconds. Probabilities (K,) are in the order of `EMOTIONS`; None: nothing is read."""

    face: np.ndarray | None
    voice: np.ndarray | None
    together: np.ndarray | None


class Live:
    """Follows one person. `see`, `listen` and `moment` are one thread's at a time; `hear` may be another's."""

    def __init__(self, predictor: "Predictor", windows: LiveConfig | None = None):
        """
        Raises:
            AssetError: the landmarker's file is missing, or the machine lacks a library it needs.
        """
        self._predictor, self._windows = predictor, windows or LiveConfig()
        config = replace(predictor.checkpoint.config.face, max_faces=1)
        self._tracker = FaceTracker(config, model_path=assets.find("face_landmarker", predictor.paths))
        self._frames: dict[tuple[float, ...], _Frame] = {}  # by when and where the crop was seen
        self._of = ""  # the checkpoint that they are of
        self._seen_s = 0.0  # when the last picture came
        self._resampler: av.AudioResampler | None = None
        self._rate = 0
        self._sound = np.zeros(0, np.float32)  # the last seconds
        self._heard: tuple[str, BranchStates] | None = None  # by which checkpoint, what
        self._hearing = threading.Lock()

    def close(self) -> None:
        """Free everything; nothing may be asked of it then."""
        self._tracker.close()
        self._frames.clear()
        self._sound, self._heard = np.zeros(0, np.float32), None

    def see(self, rgb: np.ndarray, time_s: float) -> None:
        """Take in a picture (H, W, 3) uint8; times do not go back."""
        self._tracker.forget(time_s - self._windows.face_s)
        self._tracker.add(VideoFrame(rgb=rgb, time_s=time_s))
        self._seen_s = time_s

    def listen(self, samples: np.ndarray, rate: int) -> None:
        """Take in sound (L,) int16 that follows what came before.

        Raises:
            ClipError: `bad_rate`.
        """
        limits = MediaLimits()
        if not limits.min_sample_rate <= rate <= limits.max_sample_rate:
            raise ClipError("bad_rate", f"sound of {rate} Hz cannot be read; {limits.min_sample_rate} and more can")
        if self._resampler is None or rate != self._rate:
            self._resampler, self._rate = av.AudioResampler("flt", "mono", SAMPLE_RATE), rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], "s16", "mono")
        frame.sample_rate = rate
        pieces = [piece.to_ndarray()[0] for piece in self._resampler.resample(frame)]
        self._sound = np.concatenate([self._sound, *pieces])[-round(self._windows.voice_s * SAMPLE_RATE) :]

    def fall_silent(self) -> None:
        """Forget the sound: the microphone does not go on."""
        self._sound, self._heard = np.zeros(0, np.float32), None

    @torch.no_grad()
    def hear(self) -> None:
        """Judge the voice of the last seconds; where nobody speaks there is none. It takes several times a picture."""
        with self._hearing:
            sound, loaded = self._sound, self._predictor.checkpoint
            item = self._utterance(sound, loaded)
            if item is None:
                self._heard = None
                return
            batch = collate([item], loaded.config).to(self._predictor.device)
            self._heard = loaded.id, loaded.model.branches(batch)

    def _utterance(self, sound: np.ndarray, loaded: "Checkpoint") -> Features | None:
        """Return the voice from its first to its last word in the sound."""
        spans = voice.speech_spans(sound) if len(sound) >= SAMPLE_RATE // 4 else []
        if not spans:
            return None
        bounds = voice.speech_bounds(spans, len(sound) / SAMPLE_RATE, loaded.config.voice)
        part = sound[int(bounds.start_s * SAMPLE_RATE) : int(bounds.end_s * SAMPLE_RATE)]
        item = Features(0.0, len(part) / SAMPLE_RATE, sound=voice.log_mel(part, loaded.config.voice))
        if not loaded.config.model.whisper_depths:
            return item
        return self._predictor.perceiver.encode(loaded.config, [item], part, [])[0]

    @torch.no_grad()
    def moment(self) -> Moment:
        """Return the verdict on the face as it was seen last and on the voice as it was heard last."""
        loaded = self._predictor.checkpoint
        heard = self._heard
        states = [self._face(loaded), heard[1] if heard and heard[0] == loaded.id else None]
        here = [s for s in states if s is not None]
        if not here:
            return Moment(None, None, None)
        present = torch.tensor([[s is not None for s in states] + [False]], device=self._predictor.device)
        output = loaded.model.fuse(_joined(here), present)
        alone = output.branch_logits[0].softmax(-1).cpu().numpy()
        face, heard_alone = (alone[i] if s is not None else None for i, s in enumerate(states))
        return Moment(face, heard_alone, output.logits[0].softmax(-1).cpu().numpy())

    def _face(self, loaded: "Checkpoint") -> BranchStates | None:
        """Return the face branch's states of the last seconds; only crops that are new are computed."""
        tracks = self._tracker.tracks()
        if not tracks or self._seen_s - float(tracks[0].times_s[-1]) > self._windows.lost_s:
            self._frames.clear()
            return None
        if self._of != loaded.id:
            self._frames.clear()
            self._of = loaded.id
        encoder, before, now = cast(FaceEncoder, loaded.model.encoder("face")), self._frames, {}
        for key, crop in _one_by_one(tracks[0]):
            now[key] = before[key] if key in before else self._computed(encoder, crop)
        self._frames = now
        middles, frames, scores = (torch.cat(part) for part in zip(*now.values(), strict=True))
        return _alone(loaded.model, *encoder.over_time(middles, frames, scores))

    def _computed(self, encoder: FaceEncoder, crop: FaceTrack) -> _Frame:
        fitted = crop.regions.flatten(1).any(1)
        device = self._predictor.device
        return encoder.frames(crop.crops.to(device), crop.blendshapes.to(device), fitted.to(device))


def _one_by_one(track: FaceTrack) -> list[tuple[tuple[float, ...], FaceTrack]]:
    """Return each crop of a track under what tells it from all others: when and where it was seen."""
    keys = torch.cat([track.times_s[:, None], track.boxes], 1).tolist()
    return [(tuple(key), track.at(torch.tensor([i]))) for i, key in enumerate(keys)]


def _alone(model: EmotionModel, middle: Tensor, pooled: Tensor) -> BranchStates:
    """Return the states of the face alone, as `EmotionModel.branches` lays them out: zeros where a branch is absent."""
    zeros = [middle.new_zeros(1, n) for n in (*model.middle_sizes, *model.pooled_sizes)]
    top = model.encoder("face").project(pooled)
    tops = top.new_zeros(1, len(MODALITIES), top.shape[1])
    logits = top.new_zeros(1, len(MODALITIES), N_EMOTIONS)
    tops[:, 0], logits[:, 0] = top, model.vote_of("face", top, pooled)
    return BranchStates((middle, zeros[1], zeros[2]), tops, logits, (pooled, zeros[4], zeros[5]))


def _joined(states: Sequence[BranchStates]) -> BranchStates:
    """Return the states of branches that were run by themselves as if they had been run together."""
    face, voice_, text = (torch.stack(each).sum(0) for each in zip(*(s.middles for s in states), strict=True))
    tops, logits = (torch.stack([getattr(s, name) for s in states]).sum(0) for name in ("tops", "logits"))
    return BranchStates((face, voice_, text), tops, logits)
