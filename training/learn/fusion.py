"""How fusion learns without paired corpora: from label-matched tuples of branch embeddings of single examples."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur
from tqdm import tqdm

from mmer.config import SAMPLE_RATE
from mmer.errors import TrainingError
from mmer.labels import EMOTIONS, MODALITIES, N_EMOTIONS
from mmer.metrics import NEVER, abstention_threshold, classification
from mmer.model import BranchStates, EmotionModel
from mmer.voice import log_mel
from training.data import augment, voice_views
from training.data.load import Faces, Texts, Voices
from training.learn.branches import one_cycle
from training.learn.config import TrainConfig, settings_of
from training.learn.loop import fit, processes
from training.learn.losses import fit_temperature, soft_cross_entropy

N_TUPLES = 4000  # drawn to measure on
N_VIEWS = {"face": 2, "voice": 5, "text": 1}  # of each example that fusion learns from, see `encode_views`


@dataclass(frozen=True)
class Encoded:
    """One branch's embeddings of a set of examples, with what its head answers."""

    middle: Tensor  # (N, C_middle)
    top: Tensor  # (N, state)
    logits: Tensor  # (N, K) before calibration
    targets: Tensor  # (N, K)
    pooled: Tensor  # (N, C_pooled)


def joined(parts: list[Encoded]) -> Encoded:
    """Return several views of the same examples as one set."""
    return Encoded(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Encoded)})


@torch.no_grad()
def encode(model: EmotionModel, modality: str, inputs: Iterator[tuple], targets: Tensor) -> Encoded:
    """Run a branch over batches of its encoder's inputs."""
    middles, pooled, tops, logits = [], [], [], []
    for batch in inputs:
        state = model.encoders[modality](*batch)
        pooled.append(state.pooled)
        middles.append(state.middle)
        tops.append(state.top)
        logits.append(model.heads[modality](state.top))
    return Encoded(torch.cat(middles), torch.cat(tops), torch.cat(logits), targets, torch.cat(pooled))


def encode_faces(model: EmotionModel, data: Faces, *, fits: bool) -> Encoded:
    def inputs() -> Iterator[tuple]:
        for i in torch.arange(len(data.images)).split(256):
            seen = torch.ones(len(i), 1, dtype=torch.bool)
            fitted = data.fitted[i][:, None] & fits
            yield data.images[i][:, None, None].float() / 255, seen, data.blendshapes[i][:, None], fitted

    return encode(model, "face", inputs(), data.targets)


def encode_voices(
    model: EmotionModel,
    data: Voices,
    noisy: torch.Generator | None = None,
    *,
    view: int = 0,
    with_whisper: bool = True,
) -> Encoded:
    """Run the voice branch over utterances.

    Args:
        noisy: other speeds, stretches and noise; None: each utterance whole.
        view: of those that Whisper's encoder heard, where it did; 0 is the utterance as it is.
        with_whisper: False: as where Whisper's weights are not to be had.
    """
    states = data.whisper if with_whisper and model.encoders["voice"].whisper is not None else None
    crowds = voice_views.crowds(data.samples, data.speakers) if view else []

    def inputs() -> Iterator[tuple]:
        for i, samples in enumerate(tqdm(data.samples, desc="voice states", leave=False, mininterval=5)):
            if noisy is not None:
                samples = augment.waveform(samples, min(len(samples), 5 * SAMPLE_RATE), noisy)
            elif view:
                *_, samples = voice_views.views(samples, crowds[i], view)
            mel = log_mel(samples).mel[None]
            extra = () if states is None else (states[i, view][None].float(), torch.ones(1, dtype=torch.bool))
            yield mel, torch.ones(mel.shape[:2], dtype=torch.bool), *extra

    return encode(model, "voice", inputs(), data.targets)


def encode_texts(model: EmotionModel, data: Texts) -> Encoded:
    return encode(model, "text", (data.batch(i) for i in torch.arange(len(data.targets)).split(256)), data.targets)


def encoded(model: EmotionModel, loaded: Faces | Voices | Texts) -> Encoded:
    """Run the branch that a loaded part is for over it."""
    if isinstance(loaded, Faces):
        return encode_faces(model, loaded, fits=True)
    return encode_voices(model, loaded) if isinstance(loaded, Voices) else encode_texts(model, loaded)


def blurred(faces: Faces, seed: int) -> Faces:
    """Return faces out of focus by 1 to 4 pixels: the fusion learns there that such a face tells little."""
    sigmas = 1 + 3 * torch.rand(len(faces.images), generator=torch.Generator().manual_seed(seed))
    images = torch.stack(
        [gaussian_blur(x[None], [13, 13], [float(s), float(s)])[0] for x, s in zip(faces.images, sigmas, strict=True)]
    )
    return replace(faces, images=images)


@dataclass(frozen=True)
class Views:
    """What fusion learns from: each branch's embeddings of the calibration split, in several views of its examples."""

    faces: list[Encoded]  # with landmark fits, and without
    deaf: list[Encoded]  # voices without Whisper's encoder: clean, then augmented
    texts: Encoded
    voices: list[Encoded] = field(default_factory=list)  # with it, where there is one: clean, then augmented

    def joined(self) -> dict[str, Encoded]:
        """Return all views of each branch as one set; of the voices half without Whisper, since fusion serves both."""
        return {"face": joined(self.faces), "voice": joined([*self.deaf, *self.voices]), "text": self.texts}


def encode_views(model: EmotionModel, faces: Faces, voices: Voices, texts: Texts, seed: int) -> Views:
    """Return every view but those through Whisper's encoder, see `encode_through_whisper`."""
    g = torch.Generator().manual_seed(seed)
    n = N_VIEWS["voice"] if voices.whisper is None else voices.whisper.shape[1]
    return Views(
        [encode_faces(model, faces, fits=fits) for fits in (True, False)],
        [encode_voices(model, voices, noisy, with_whisper=False) for noisy in (None, *(n - 1) * [g])],
        encode_texts(model, texts),
    )


def encode_through_whisper(model: EmotionModel, voices: Voices) -> list[Encoded]:
    """Return the voice branch's embeddings of each view that Whisper's encoder heard, none where it heard nothing."""
    n = 0 if voices.whisper is None else voices.whisper.shape[1]
    return [encode_voices(model, voices, view=v) for v in range(n)]


class Tuples:
    """Label-matched tuples: draws of one example of each branch that carry the same label."""

    def __init__(self, encoded: dict[str, Encoded], temperatures: Tensor, conflict: float):
        self.encoded, self.temperatures, self.conflict = encoded, temperatures, conflict
        # Examples by their first label; those with several labels stay out.
        self.by_label = {
            m: [torch.nonzero(e.targets[:, k] > 0.99).flatten() for k in range(N_EMOTIONS)] for m, e in encoded.items()
        }
        for m, pools in self.by_label.items():
            missing = [EMOTIONS[k] for k, pool in enumerate(pools) if not len(pool)]
            if missing:
                raise TrainingError(
                    "no_tuples", f"no {m} example says {', '.join(missing)}; fusion needs some of each emotion"
                )

    def draw(self, n: int, g: torch.Generator, *, subsets: bool = True) -> tuple[BranchStates, Tensor, Tensor]:
        """Return branch states, `present` (n, 3) and targets (n, K): the mean of the labels that are present."""
        label = torch.randint(N_EMOTIONS, (n,), generator=g)
        carried = label[:, None].repeat(1, len(MODALITIES))  # (n, 3)
        odd = torch.rand(n, generator=g) < self.conflict
        which = torch.randint(len(MODALITIES), (n,), generator=g)
        carried[odd, which[odd]] = torch.randint(N_EMOTIONS, (int(odd.sum()),), generator=g)
        present = torch.ones(n, len(MODALITIES), dtype=torch.bool)
        if subsets:  # half whole, half with one branch left out; one branch alone needs no fusion
            gone = torch.rand(n, generator=g) < 0.5
            present[gone, torch.randint(len(MODALITIES), (n,), generator=g)[gone]] = False
        middles, tops, logits = [], [], []
        for i, m in enumerate(MODALITIES):
            e = self.encoded[m]
            pick = torch.empty(n, dtype=torch.long)
            for k in range(N_EMOTIONS):
                rows = carried[:, i] == k
                pool = self.by_label[m][k]
                pick[rows] = pool[torch.randint(len(pool), (int(rows.sum()),), generator=g)]
            here = present[:, i, None]
            middles.append(e.middle[pick] * here)
            tops.append(e.top[pick] * here)
            logits.append(e.logits[pick] / self.temperatures[i] * here)
        shares = nn.functional.one_hot(carried, N_EMOTIONS).float() * present[..., None]
        targets = shares.sum(1) / present.sum(1, keepdim=True)
        face, voice, text = middles
        return BranchStates((face, voice, text), torch.stack(tops, 1), torch.stack(logits, 1)), present, targets


def train_fusion(model: EmotionModel, tuples: Tuples, config: TrainConfig, work: Path) -> None:
    optimizer = torch.optim.AdamW(model.fusion.parameters(), config.fusion_lr, weight_decay=0.05)
    rounds, per_round = 10, max(config.fusion_steps // 10, 1)

    def batches(epoch: int) -> Iterator[tuple]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        for _ in range(per_round):
            states, present, targets = tuples.draw(config.fusion_batch, g)
            yield *states.middles, states.tops, states.logits, present, targets

    def hidden(x: Tensor) -> Tensor:
        return nn.functional.dropout(x, config.fusion_dropout)

    def loss_of(*batch: Tensor) -> Tensor:
        face, voice, text, tops, logits, present, targets = batch
        states = BranchStates((hidden(face), hidden(voice), hidden(text)), hidden(tops), logits)
        return soft_cross_entropy(model.fusion(states, present)[0], targets)

    fit(
        "fusion",
        model.fusion,
        optimizer,
        one_cycle(optimizer, rounds * per_round),
        batches,
        loss_of,
        epochs=rounds,
        work=work,
        settings={**settings_of("fusion", config), "conflict": tuples.conflict},
        data=(tuples.temperatures, *(e.logits for e in tuples.encoded.values())),
        precision=config.precision,
    )
    if processes().is_main_process:  # a matter of seconds: the next fusion, on other branches, begins again
        (work / "fusion.state.pt").unlink()


def calibrate(model: EmotionModel, tuples: Tuples, seed: int) -> None:
    """Fit the fusion's temperature on tuples, which carry no conflict."""
    states, present, targets = tuples.draw(8000, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.fusion.temperature.fill_(fit_temperature(model.fusion(states, present)[0], targets))


@torch.no_grad()
def subset_probs(model: EmotionModel, states: BranchStates) -> dict[str, np.ndarray]:
    """Return probabilities (N, K) for every subset of branches, as `face+voice`."""
    found = {}
    for size in range(1, len(MODALITIES) + 1):
        for kept in itertools.combinations(range(len(MODALITIES)), size):
            present = torch.zeros(len(states.tops), len(MODALITIES), dtype=torch.bool)
            present[:, list(kept)] = True
            found["+".join(MODALITIES[i] for i in kept)] = model.fuse(states, present).logits.softmax(1).numpy()
    return found


def subset_table(model: EmotionModel, tuples: Tuples, seed: int) -> dict[str, dict]:
    """Measure every subset of branches on label-matched tuples, none of them conflicting."""
    states, _, targets = tuples.draw(N_TUPLES, torch.Generator().manual_seed(seed), subsets=False)
    truth = targets.argmax(1).numpy()
    found = {name: classification(truth, probs) for name, probs in subset_probs(model, states).items()}
    return {name: {k: round(f[k], 4) for k in ("accuracy", "uar", "ece")} for name, f in found.items()}


ABSTAIN_TARGET = 0.8  # of the answers given are to be right; the page calls 0.75 and more clear
# Standard errors that rows set aside have to be better by: the lowest threshold that just keeps the promise on them is
# the one that luck favours most, and breaks it on other rows more often than not.
ABSTAIN_DOUBT = 1.0
MIN_JUDGED = 40  # answers to a corpus: fewer tell no threshold


class Judged(NamedTuple):
    """What a branch alone answers to a corpus that taught it nothing."""

    probs: np.ndarray  # (N, K)
    truth: np.ndarray  # (N,) indices of emotions
    speakers: Sequence[str]  # of each row; "" where unknown


def by_corpus(
    probs: np.ndarray, targets: Tensor, corpora: Sequence[str], speakers: Sequence[str | None]
) -> list[Judged]:
    """Return answers (N, K) apart by corpus, without rows of several labels, which have no single truth."""
    one, truth, found = (targets > 0.99).any(1).numpy(), targets.argmax(1).numpy(), []
    for corpus in sorted(set(corpora)):
        here = np.flatnonzero(one & (np.array(corpora) == corpus))
        if len(here) >= MIN_JUDGED:
            found.append(Judged(probs[here], truth[here], [speakers[i] or "" for i in here.tolist()]))
    return found


def judged(
    model: EmotionModel, modality: str, part: Encoded, corpora: Sequence[str], speakers: Sequence[str | None]
) -> list[Judged]:
    """Return what a branch answers to examples that taught it nothing, apart by corpus."""
    probs = (part.logits / model.temperatures[MODALITIES.index(modality)]).softmax(1).numpy()
    return by_corpus(probs, part.targets, corpora, speakers)


def fit_abstention(
    fused: dict[str, np.ndarray],
    truth: np.ndarray,
    alone: dict[str, list[Judged]],
    *,
    target: float = ABSTAIN_TARGET,
) -> dict:
    """Return for each subset of branches the confidence from which on answers are right at least `target` of the time.

    A branch alone keeps the promise on each corpus by itself, in the corpus' own mix of emotions: the highest of their
    thresholds counts. Several branches have only label-matched tuples, whose errors are independent, so they are asked
    for the lowest threshold of their members at least. None where no confidence keeps the promise.

    Args:
        fused: (N, K) probabilities of tuples for every subset of branches, as `face+voice`.
        truth: (N,) indices of the tuples' emotions.
        alone: of each branch, its answers to every corpus by itself.
    """

    def threshold(
        probs: np.ndarray, truth: np.ndarray, speakers: Sequence[str] | None = None
    ) -> dict[str, float] | None:
        right = probs.argmax(1) == truth
        return abstention_threshold(probs.max(1), right, target, doubt=ABSTAIN_DOUBT, speakers=speakers)

    subsets: dict[str, dict[str, float] | None] = {}
    for name, parts in alone.items():
        found = [threshold(*part) for part in parts]
        kept = [f for f in found if f is not None]
        subsets[name] = max(kept, key=lambda f: f["threshold"]) if kept and len(kept) == len(found) else None
    for name, probs in fused.items():
        if "+" not in name:
            continue
        subsets[name] = found_here = threshold(probs, truth)
        if found_here is not None:
            members = [f["threshold"] for m in name.split("+") if (f := subsets[m]) is not None]
            least = max(found_here["threshold"], min(members, default=NEVER))
            kept_here = probs.max(1) >= least
            found_here.update(
                threshold=least,
                coverage=float(kept_here.mean()),
                accuracy=float((probs.argmax(1) == truth)[kept_here].mean()) if kept_here.any() else 1.0,
            )
    return {"target": target, "subsets": subsets}
