"""Train the branches on their corpora, then their fusion, calibrate, and write a checkpoint.

    python training/train.py --corpora DIR [--work DIR] [--out DIR] [--stage face voice text fusion]
    python training/train.py --corpora DIR --init base --stage voice --layer-decay 0.7 --unfreeze 3
    accelerate launch --multi_gpu --num_processes 2 training/train.py --corpora DIR

Each stage goes on from its last finished epoch when the command is given again with the same --work. With --init the
branches have a checkpoint's shape and start from its weights; one that is not among the stages and has no state in
--work keeps them. Without a GPU the processes of `accelerate launch` run on the CPU.

The corpora are not paired: no person in them is seen, heard and read at once. Fusion therefore learns from tuples of a
face, a voice and a sentence that carry the same label, with branches left out at random and a share of conflicting
tuples. It learns, and the temperatures are fitted, on a tenth of the training data that the branches have not seen, so
that it knows how far each branch can be trusted on new people.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import hashlib
import itertools
import math
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmer import assets, checkpoint
from mmer.config import Config, ModelConfig, Paths
from mmer.errors import MmerError, TrainingError
from mmer.features import LanguageModel
from mmer.labels import EMOTIONS, MODALITIES, N_EMOTIONS
from mmer.metrics import classification
from mmer.model import BranchStates, EmotionModel
from mmer.speech import Transcriber
from mmer.voice import log_mel
from training import abstain, augment, corpora
from training.data import Faces, Texts, Voices, load_faces, load_texts, load_voices, split_off
from training.loop import fit, layerwise, processes, timed, weights
from training.losses import fit_temperature, log_prior, soft_cross_entropy
from training.manifest import Row, class_counts

LossFunction = Callable[[Tensor, Tensor], Tensor]  # logits and targets (B, K) -> a scalar
Report = Callable[[int], str]  # after each epoch: its number -> a few words for the log
CORPORA = {"face": ("fer2013",), "voice": ("ravdess", "emodb"), "text": ("goemotions", "meld")}


@dataclass(frozen=True)
class TrainConfig:
    seed: int = 0
    precision: str = "fp32"  # bf16 halves the time of the convolutions on CPUs that have it; fp16 on GPUs that lack it
    layer_decay: float = 1.0  # learning rate of each layer over that of the layer above it
    unfreeze: int = 0  # epochs over which the layers begin to learn, the head first
    init_share: float = 0.0  # how much of the weights of --init a trained branch keeps
    compile: bool = False  # let torch compile the face's CNN, where there is a C++ compiler
    average: float = 0.99  # decay per step of the weights' average, which a branch ends with; 0: the last weights
    face_epochs: int = 16
    face_batch: int = 128
    face_lr: float = 0.06  # SGD with momentum, one cycle
    face_small: float = 0.0  # share of the epochs, the first ones, on crops of two thirds their size, at half the time
    face_tau: float = 0.5  # logit adjustment after training: best macro-F1 of 0 to 1 on what is set aside
    voice_epochs: int = 40
    voice_batch: int = 16
    voice_lr: float = 1e-3  # AdamW, one cycle
    voice_crop_s: float = 3.0
    voice_strange: float = 0.25  # share of the utterances that the CNN hears as from another speaker, some in a room
    voice_statistics_epochs: int = 40  # in which the statistics learn after the CNN: seconds each
    voice_statistics_readings: int = 6  # disturbed ones of each utterance
    voice_statistics_batch: int = 64
    voice_statistics_lr: float = 1e-3  # AdamW, one cycle
    voice_power: float = 0.5  # a corpus' emotion with n utterances is drawn n ** power times as often as one with one
    text_epochs: float = 4.0
    text_batch: int = 64
    text_lr: float = 1e-3
    text_tau: float = 0.4  # logit adjustment: neutral is 30-47 % of the sentences
    text_back: float = 0.2  # share of the log frequencies the head gets back: best of -0.4 to 0.6 on what is set aside
    text_tuned: bool = False  # train MiniLM's last two layers with the branch: 600 s a core and epoch more
    fusion_steps: int = 100  # best of 100 and 300 on halves of what is set aside; 3000 learn the few voices by heart
    fusion_batch: int = 256
    fusion_lr: float = 3e-4
    fusion_dropout: float = 0.5  # of the branch states it reads, never of their votes
    conflict: float = 0.15  # share of tuples in which one branch carries another label
    smoothing: float = 0.1


def branch_module(model: EmotionModel, modality: str) -> nn.ModuleDict:
    return nn.ModuleDict({"encoder": model.encoders[modality], "head": model.heads[modality]})


def _shuffled(n: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """Return whole batches of indices in random order; what is left over waits for the next epoch."""
    order = torch.randperm(n, generator=generator)
    parts = list(order.split(size))
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) < size else parts


def _one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    rates = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, 8), pct_start=0.25)


def _fit(name: str, module: nn.Module, optimizer, steps: int, batches, loss_of, config: TrainConfig, **options) -> None:
    """Run a branch's stage; an epoch has `steps` batches."""
    epochs = getattr(config, f"{name}_epochs")
    if name == "face" and config.compile:  # voices differ in length: each would be compiled anew
        module["encoder"].cnn.compile(dynamic=False)
    fit(
        name, module, optimizer, _one_cycle(optimizer, int(steps * epochs)), batches, loss_of, epochs=math.ceil(epochs),
        average=config.average, unfreeze=config.unfreeze, precision=config.precision, **options,
    )  # fmt: skip


def train_face(
    model: EmotionModel,
    data: Faces,
    config: TrainConfig,
    work: Path,
    *,
    loss: LossFunction | None = None,
    report: Report | None = None,
    augmented: bool = True,
) -> None:
    module = branch_module(model, "face")
    steps = len(data.images) // config.face_batch
    small = [side * 2 // 3 for side in data.images.shape[1:]]
    groups = [
        {"params": part, "lr": group["lr"], "weight_decay": decay}
        for group in layerwise(module, config.face_lr, config.layer_decay)
        for part, decay in (([p for p in group["params"] if p.ndim > 1], 5e-4), ([p for p in group["params"] if p.ndim <= 1], 0.0))
        if part
    ]  # fmt: skip
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        for index in _shuffled(len(data.images), config.face_batch, g):
            crops = data.images[index][:, None].float() / 255
            if epoch < config.face_small * config.face_epochs:  # https://arxiv.org/abs/2104.00298
                crops = nn.functional.interpolate(crops, size=small, mode="area")
            crops = augment.faces(crops, g) if augmented else crops
            # Half of the fits are hidden, so that the crop alone is enough where no landmarks exist.
            fitted = data.fitted[index] & (torch.rand(len(index), generator=g) < 0.5)
            yield crops, data.blendshapes[index], fitted, data.targets[index]

    def loss_of(crops: Tensor, blendshapes: Tensor, fitted: Tensor, targets: Tensor) -> Tensor:
        seen = torch.ones(len(crops), 1, dtype=torch.bool, device=crops.device)
        state = module["encoder"](crops[:, None], seen, blendshapes[:, None], fitted[:, None])
        logits = module["head"](state.top).float()
        return loss(logits, targets) if loss else soft_cross_entropy(logits, targets, smoothing=config.smoothing)

    _fit("face", module, optimizer, steps, batches, loss_of, config, work=work, report=report)


def _disturbed(samples: np.ndarray, length: int, strange: float, g: torch.Generator) -> Tensor:
    """Return the log-mel (T_a, M) of an utterance disturbed, with chance `strange` as from another speaker's throat."""
    x = augment.waveform(samples, length, g)
    other, room = torch.rand(2, generator=g).tolist()
    if room < 0.3 * strange:
        x = augment.reverberate(x, g)
    mel = log_mel(x).mel
    return augment.other_speaker(mel, g) if other < strange else mel


def train_voice(
    model: EmotionModel,
    data: Voices,
    config: TrainConfig,
    work: Path,
    *,
    loss: LossFunction | None = None,
    report: Report | None = None,
    augmented: bool = True,
) -> None:
    """Train the CNN as if the statistics were not there; `train_statistics` comes after it."""
    module = branch_module(model, "voice")
    n = max(len(data.samples) // config.voice_batch, 1) * config.voice_batch  # drawn in an epoch
    length = int(config.voice_crop_s * 16_000)
    seconds = torch.tensor([min(len(x), length) for x in data.samples]) / 16_000
    often = _how_often(data, config)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        drawn = torch.multinomial(often, n, replacement=True, generator=g)
        near = (seconds[drawn] + 0.4 * torch.rand(n, generator=g)).argsort()  # like lengths together: little padding
        parts = drawn[near].split(config.voice_batch)
        for part in torch.randperm(len(parts), generator=g):
            index = parts[part]
            sounds = [data.samples[i] for i in index]
            if augmented:
                mels = [_disturbed(x, length, config.voice_strange, g) for x in sounds]
            else:
                mels = [log_mel(x[:length]).mel for x in sounds]
            heard = None if data.whisper is None else data.whisper[index]
            lengths = torch.tensor([len(m) for m in mels])
            padded, targets = nn.utils.rnn.pad_sequence(mels, batch_first=True), data.targets[index]
            if augmented:
                padded = augment.spec_augment(padded, g)
                padded, targets, other, share = augment.mixup(padded, targets, g)
                lengths = torch.maximum(lengths, lengths[other])
                if heard is not None:
                    heard = share * heard + (1 - share) * heard[other]
            mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
            # Half of the time it does without Whisper, as where that is not to be had.
            extra = () if heard is None else (heard, torch.rand(len(index), generator=g) < 0.5)
            yield padded, mask, targets, *extra

    def loss_of(mels: Tensor, mask: Tensor, targets: Tensor, *heard: Tensor) -> Tensor:
        logits = module["head"](module["encoder"](mels, mask, *heard).top).float()
        return loss(logits, targets) if loss else soft_cross_entropy(logits, targets, smoothing=config.smoothing)

    stream, module["encoder"].statistics = module["encoder"].statistics, None
    try:
        optimizer = torch.optim.AdamW(layerwise(module, config.voice_lr, config.layer_decay), weight_decay=0.05)
        _fit("voice", module, optimizer, n // config.voice_batch, batches, loss_of, config, work=work, report=report)
    finally:
        module["encoder"].statistics = stream


def _how_often(data: Voices, config: TrainConfig) -> Tensor:
    return data.cell_sizes() ** (config.voice_power - 1)


def train_statistics(
    model: EmotionModel,
    data: Voices,
    config: TrainConfig,
    work: Path,
    *,
    loss: LossFunction | None = None,
    augmented: bool = True,
) -> None:
    """Let the voice's statistics learn to judge alone, through the head as it is; nothing else changes."""
    module = branch_module(model, "voice")
    if module["encoder"].statistics is None:
        return
    stream = nn.ModuleDict({"statistics": module["encoder"].statistics})
    head = {k: v.detach().clone() for k, v in module["head"][1].state_dict().items()}
    n, size = len(data.samples), config.voice_statistics_batch
    readings, length = config.voice_statistics_readings if augmented else 0, int(config.voice_crop_s * 16_000)
    optimizer = torch.optim.AdamW(stream.parameters(), config.voice_statistics_lr, weight_decay=0.01)
    often = _how_often(data, config)

    @cache
    @torch.no_grad()
    def bank() -> Tensor:
        """(readings + 1, N, n): each utterance as it is and disturbed."""
        g, read = torch.Generator().manual_seed(config.seed), module["encoder"].statistics.read

        def one(mel: Tensor) -> Tensor:
            return read(mel[None], torch.ones(1, len(mel), dtype=torch.bool))

        clean = [one(log_mel(x).mel) for x in tqdm(data.samples, desc="statistics", leave=False, mininterval=5)]
        rounds = tqdm(range(readings), desc="statistics, disturbed", leave=False, mininterval=5)
        disturbed = [[one(_disturbed(x, length, 1.0, g)) for x in data.samples] for _ in rounds]
        return torch.stack([torch.cat(part) for part in (clean, *disturbed)])

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        which = torch.multinomial(often, n * len(bank()), replacement=True, generator=g)
        reading = torch.randint(len(bank()), which.shape, generator=g)
        for part in range(0, max(len(which) - size + 1, 1), size):
            index = which[part : part + size]
            x, targets = bank()[reading[part : part + size], index], data.targets[index]
            x, targets, *_ = augment.mixup(x, targets, g, alpha=0.4)
            yield x, targets

    def loss_of(x: Tensor, targets: Tensor) -> Tensor:
        weight, bias = (head[k].to(x.device) for k in ("weight", "bias"))
        logits = nn.functional.linear(stream["statistics"](x), weight, bias).float()
        return loss(logits, targets) if loss else soft_cross_entropy(logits, targets, smoothing=config.smoothing)

    steps = max(n * (readings + 1) // size, 1)
    fit(
        "voice_statistics", stream, optimizer, _one_cycle(optimizer, steps * config.voice_statistics_epochs), batches,
        loss_of, epochs=config.voice_statistics_epochs, average=config.average, precision=config.precision, work=work,
    )  # fmt: skip


def train_text(
    model: EmotionModel,
    data: Texts,
    rows: tuple[Row, ...],
    config: TrainConfig,
    work: Path,
    *,
    loss: LossFunction | None = None,
    report: Report | None = None,
) -> None:
    module = branch_module(model, "text")
    n, size = len(data.targets), config.text_batch
    lengths = (data.offsets[1:] - data.offsets[:-1]).float()
    optimizer = torch.optim.AdamW(layerwise(module, config.text_lr, config.layer_decay), weight_decay=0.02)
    prior = log_prior(torch.tensor(class_counts(rows)), config.text_tau)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        noisy = lengths + 4 * torch.rand(n, generator=g)  # near lengths together: little padding
        parts = noisy.argsort().split(size)
        share = min(config.text_epochs - epoch, 1.0)  # of the last epoch
        for i in torch.randperm(len(parts), generator=g)[: int(len(parts) * share)]:
            yield *data.batch(parts[i]), data.targets[parts[i]]

    def loss_of(states: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        logits = module["head"](module["encoder"](states, mask).top).float()
        if loss:
            return loss(logits, targets)
        return soft_cross_entropy(logits, targets, smoothing=config.smoothing, log_prior=prior.to(logits.device))

    _fit("text", module, optimizer, -(-n // size), batches, loss_of, config, work=work, report=report)


@dataclass(frozen=True)
class Encoded:
    """One branch's states on a set of examples."""

    middle: Tensor  # (N, C_middle)
    top: Tensor  # (N, state)
    logits: Tensor  # (N, K) before calibration
    targets: Tensor  # (N, K)


def joined(parts: list[Encoded]) -> Encoded:
    """Return several readings of the same examples as one set."""
    return Encoded(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Encoded)})


@torch.no_grad()
def encode(model: EmotionModel, modality: str, inputs: Iterator[tuple], targets: Tensor) -> Encoded:
    """Run a branch over batches of its encoder's inputs."""
    middles, tops, logits = [], [], []
    for batch in inputs:
        state = model.encoders[modality](*batch)
        middles.append(state.middle)
        tops.append(state.top)
        logits.append(model.heads[modality](state.top))
    return Encoded(torch.cat(middles), torch.cat(tops), torch.cat(logits), targets)


def encode_faces(model: EmotionModel, data: Faces, *, fits: bool) -> Encoded:
    def inputs() -> Iterator[tuple]:
        for i in torch.arange(len(data.images)).split(256):
            seen = torch.ones(len(i), 1, dtype=torch.bool)
            fitted = data.fitted[i][:, None] & fits
            yield data.images[i][:, None, None].float() / 255, seen, data.blendshapes[i][:, None], fitted

    return encode(model, "face", inputs(), data.targets)


def encode_voices(model: EmotionModel, data: Voices, noisy: torch.Generator | None = None) -> Encoded:
    """With a generator, other speeds, stretches and noise; without, each utterance whole as it is."""

    def inputs() -> Iterator[tuple]:
        for i, samples in enumerate(tqdm(data.samples, desc="voice states", leave=False, mininterval=5)):
            if noisy is not None:
                samples = augment.waveform(samples, min(len(samples), 5 * 16_000), noisy)
            mel = log_mel(samples).mel[None]
            heard = () if data.whisper is None else (data.whisper[i : i + 1], torch.ones(1, dtype=torch.bool))
            yield mel, torch.ones(mel.shape[:2], dtype=torch.bool), *heard

    return encode(model, "voice", inputs(), data.targets)


def encode_texts(model: EmotionModel, data: Texts) -> Encoded:
    return encode(model, "text", (data.batch(i) for i in torch.arange(len(data.targets)).split(256)), data.targets)


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
        return BranchStates(tuple(middles), torch.stack(tops, 1), torch.stack(logits, 1)), present, targets


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

    def loss_of(face: Tensor, voice: Tensor, text: Tensor, tops: Tensor, logits: Tensor, present: Tensor, targets: Tensor) -> Tensor:  # fmt: skip
        states = BranchStates((hidden(face), hidden(voice), hidden(text)), hidden(tops), logits)
        return soft_cross_entropy(model.fusion(states, present)[0], targets)

    scheduler = _one_cycle(optimizer, rounds * per_round)
    fit("fusion", model.fusion, optimizer, scheduler, batches, loss_of, epochs=rounds, work=work)


def subset_table(model: EmotionModel, tuples: Tuples, seed: int, n: int = 4000) -> dict[str, dict]:
    """Measure every subset of branches on label-matched tuples, none of them conflicting."""
    states, _, targets = tuples.draw(n, torch.Generator().manual_seed(seed), subsets=False)
    truth = targets.argmax(1).numpy()
    table = {}
    for size in (1, 2, 3):
        for kept in itertools.combinations(range(len(MODALITIES)), size):
            present = torch.zeros(n, len(MODALITIES), dtype=torch.bool)
            present[:, list(kept)] = True
            with torch.no_grad():
                probs = model.fuse(states, present).logits.softmax(1).numpy()
            found = classification(truth, probs)
            table["+".join(MODALITIES[i] for i in kept)] = {k: round(found[k], 4) for k in ("accuracy", "uar", "ece")}
    return table


def shape_of(loaded: checkpoint.Checkpoint | None, anew: Sequence[str], usual: ModelConfig) -> ModelConfig:
    """Return the shape of a checkpoint's model, but for the branches that begin anew, which have the usual one."""
    if loaded is None:
        return usual
    ours = tuple(f"{m}_" for m in anew)
    return replace(loaded.config.model, **{k: v for k, v in vars(usual).items() if k.startswith(ours)})


def start_from(model: EmotionModel, other: EmotionModel, anew: Sequence[str] = ()) -> str:
    """Take over every weight of the other's branches that has its name and shape here; says how many there were.

    Args:
        anew: branches that take nothing over.
    """
    own, theirs = model.state_dict(), other.state_dict()
    taken = {
        name: theirs[name]
        for name in own
        if name.startswith(("encoders.", "heads.")) and name in theirs and theirs[name].shape == own[name].shape
        if name.split(".")[1] not in anew
    }
    model.load_state_dict(taken, strict=False)
    wanted = sum(name.startswith(("encoders.", "heads.")) for name in own)
    return f"{len(taken)} of {wanted} tensors of the branches start from the given checkpoint"


def between(learned: dict[str, Tensor], started: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return weights that keep `share` of those that training started from; counters are taken as they were learned.

    https://arxiv.org/abs/2109.01903
    """
    return {k: v.lerp(started[k], share) if v.is_floating_point() else v for k, v in learned.items()}


def imagenet_weights(path: str) -> dict[str, Tensor]:
    """Return torchvision's ResNet-18 weights from a .pth file, or, without one, from where torchvision keeps them.

    Raises:
        TrainingError: `bad_weights` when the file holds no such weights, `no_weights` when they cannot be fetched.
    """
    from torchvision.models import ResNet18_Weights

    try:
        if not path:
            return ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        found = torch.load(path, weights_only=True, map_location="cpu")
    except OSError as error:
        raise TrainingError("no_weights", f"ResNet-18's ImageNet weights cannot be had: {error}; give --imagenet FILE") from error  # fmt: skip
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise TrainingError("bad_weights", f"{path} is not a file of PyTorch weights; torchvision's resnet18 .pth is one") from error  # fmt: skip
    if not isinstance(found, dict) or found.get("conv1.weight", torch.empty(0)).shape != (64, 3, 7, 7):
        raise TrainingError("bad_weights", f"{path} does not hold the weights of torchvision's resnet18")
    return found


def data_hash(rows: tuple[Row, ...]) -> str:
    """Return a hash of which examples with which labels a stage was given."""
    lines = sorted(f"{r.corpus}|{r.path.name if r.path else r.text}|{'|'.join(r.emotions)}" for r in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def told(stage: str, make: Callable[[], None]) -> None:
    """Train a stage and say what it took."""
    took = timed(make)
    if processes().is_main_process:
        print(
            f"{stage}: {took['seconds'] / 60:.1f} minutes in this run, {took['peak_mb'] / 1024:.1f} GB at most so far"
        )


def build(args: argparse.Namespace, config: TrainConfig) -> str:
    """Run the stages asked for; returns what was done in one line."""
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    paths = Paths.from_env()
    loaded = checkpoint.load(args.init, paths.checkpoints) if args.init else None
    before = loaded.meta.get("training", {}) if loaded else {}
    shape = shape_of(loaded, args.anew, ModelConfig.tiny() if args.model == "tiny" else ModelConfig())
    whisper = None
    if args.whisper:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        whisper = Transcriber(args.whisper, device, paths.assets / "whisper")
        depths, width = whisper.encoder_size()
        shape = replace(shape, whisper_depths=depths, whisper_width=width)
    resnet18 = args.imagenet is not None
    shape = replace(
        shape, face_resnet18=resnet18 or shape.face_resnet18, text_tuned=config.text_tuned or shape.text_tuned
    )
    settings = Config(model=shape)
    team = processes()  # the first fills the caches, all train, the first writes
    with team.main_process_first():
        found = corpora.read_all(args.corpora, work / "corpora")
    rows = {m: tuple(r for c in CORPORA[m] for r in found.get(c, ())) for m in MODALITIES}
    train = {m: tuple(r for r in rows[m] if r.split == "train") for m in MODALITIES}
    val = {m: tuple(r for r in rows[m] if r.split == "val") for m in MODALITIES}
    halves = {m: split_off(train[m]) for m in MODALITIES}  # for the branches, for their fusion

    model = EmotionModel(settings.model, settings.voice.n_mels)
    stages = args.stage
    language = None
    if {"text", "fusion"} & set(stages):
        language = LanguageModel(assets.find("text_encoder", paths))
        if shape.text_tuned:
            model.encoders["text"].layers.load_state_dict(language.last_layers())
    if resnet18:
        model.encoders["face"].cnn.adopt(imagenet_weights(args.imagenet))
    if loaded:
        print(start_from(model, loaded.model, args.anew))
    if "face" in stages:
        with team.main_process_first():
            faces = load_faces(halves["face"][0], work, settings.face.crop_size)
        told("face", lambda: train_face(model, faces, config, work))
    if "voice" in stages:
        voices = load_voices(halves["voice"][0], whisper, work)
        told("voice", lambda: train_voice(model, voices, config, work))
        told("voice statistics", lambda: train_statistics(model, voices, config, work))
    if "text" in stages:
        with team.main_process_first():
            texts = load_texts(halves["text"][0], work, language, model.encoders["text"])
        told("text", lambda: train_text(model, texts, halves["text"][0], config, work))
    if "fusion" not in stages:
        return f"trained {', '.join(stages)}; give --stage fusion to write a checkpoint"

    for m in MODALITIES:
        state = work / f"{m}.state.pt"
        if state.is_file():
            branch = branch_module(model, m)
            learned, rest = weights(state), work / "voice_statistics.state.pt"
            if m == "voice" and model.encoders["voice"].statistics is not None:
                if not rest.is_file():
                    raise TrainingError("no_state", f"{rest} is missing; give --stage voice again, which goes on")
                learned |= {f"encoder.{k}": v for k, v in weights(rest).items()}
            branch.load_state_dict(between(learned, branch.state_dict(), config.init_share if args.init else 0.0))
        elif not args.init:
            raise TrainingError("no_state", f"{state} is missing; train the {m} branch first or give --init ID")
    with torch.no_grad():
        for m, field, share in (("face", "face_tau", -config.face_tau), ("text", "text_back", config.text_back)):
            if (work / f"{m}.state.pt").is_file() or field not in before:  # else the weights of --init have it already
                model.heads[m][1].bias += log_prior(torch.tensor(class_counts(halves[m][0])), share)
        # Rounded before anything is measured: the file holds them in half the bytes.
        for parameter in (*model.encoders.parameters(), *model.heads.parameters()):
            parameter.copy_(parameter.half())
    model.eval()

    def encoded(part: dict[str, tuple[Row, ...]], *, noisy: bool) -> dict[str, Encoded]:
        with team.main_process_first():
            faces = load_faces(part["face"], work, settings.face.crop_size)
            texts = load_texts(part["text"], work, language, model.encoders["text"])
        voices = load_voices(part["voice"], whisper, work)
        sounds = [encode_voices(model, voices)]
        if noisy:
            g = torch.Generator().manual_seed(config.seed)
            sounds += [encode_voices(model, voices, g) for _ in range(4)]
        looks = [encode_faces(model, faces, fits=f) for f in ((True, False) if noisy else (True,))]
        return {"face": joined(looks), "voice": joined(sounds), "text": encode_texts(model, texts)}

    aside = encoded({m: halves[m][1] for m in MODALITIES}, noisy=True)
    for i, m in enumerate(MODALITIES):
        model.temperatures[i] = fit_temperature(aside[m].logits, aside[m].targets)
    tuples = Tuples(aside, model.temperatures, config.conflict)
    told("fusion", lambda: train_fusion(model, tuples, config, work))
    held = encoded(val, noisy=False)
    if not team.is_main_process:
        return "the first process writes the checkpoint"
    calm = Tuples(aside, model.temperatures, 0.0)
    states, present, targets = calm.draw(8000, torch.Generator().manual_seed(config.seed + 1))
    with torch.no_grad():
        model.fusion.temperature.fill_(fit_temperature(model.fuse(states, present).logits, targets))
    states, _, targets = calm.draw(4000, torch.Generator().manual_seed(config.seed + 3), subsets=False)
    threshold = abstain.fit(model, states, targets)

    table = subset_table(model, Tuples(held, model.temperatures, 0.0), config.seed + 2)
    for name, line in table.items():
        print(f"{name:16} " + "  ".join(f"{k} {v:.3f}" for k, v in line.items()))
    meta = {
        "parent": None,
        "init": args.init and {"id": args.init, "weights_sha256": loaded.meta.get("weights_sha256")},
        "seed": config.seed,
        "whisper": args.whisper and Path(args.whisper).name,
        "training": asdict(config),
        "data": {m: {"train": data_hash(halves[m][0]), "fusion": data_hash(halves[m][1]), "val": data_hash(val[m]),
                     "n": [len(halves[m][0]), len(halves[m][1]), len(val[m])]} for m in MODALITIES},
        "temperature": {**dict(zip(MODALITIES, model.temperatures.tolist(), strict=True)), "fused": float(model.fusion.temperature)},
        "abstain": threshold,
        "metrics": {"label_matched_validation_tuples": table},
    }  # fmt: skip
    name = checkpoint.save(model, settings, args.out or paths.checkpoints, meta, name=args.name)
    return f"wrote {(args.out or paths.checkpoints) / name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--work", type=Path, default=Paths.from_env().home / "runs" / "train", help="states and caches")
    parser.add_argument("--out", type=Path, help="where the checkpoint goes (default: the checkpoints folder)")
    parser.add_argument("--name", help="fixed checkpoint id instead of time and hash")
    parser.add_argument("--model", choices=("full", "tiny"), default="full", help="tiny: to see the pipeline run")
    parser.add_argument("--imagenet", nargs="?", const="", metavar="FILE", help="use ResNet-18 for the face, from torchvision's ImageNet weights (default: fetched)")  # fmt: skip
    parser.add_argument("--whisper", metavar="NAME|FILE", help="let the voice branch read the encoder of this Whisper too, as base or a .pt file")  # fmt: skip
    parser.add_argument("--init", metavar="ID", help="checkpoint whose branches training starts from")
    parser.add_argument("--anew", nargs="+", choices=MODALITIES, default=[], help="with --init: branches that begin from nothing, in the shape of today's defaults")  # fmt: skip
    parser.add_argument("--stage", nargs="+", choices=[*MODALITIES, "fusion"], default=[*MODALITIES, "fusion"])
    for field, value in TrainConfig().__dict__.items():
        how = {"action": argparse.BooleanOptionalAction} if isinstance(value, bool) else {"type": type(value)}
        parser.add_argument(f"--{field.replace('_', '-')}", default=value, help=f"default {value}", **how)
    args = parser.parse_args()
    config = TrainConfig(**{k: getattr(args, k) for k in TrainConfig.__dataclass_fields__})
    print(build(args, config))
    processes().destroy_process_group()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MmerError as error:
        sys.exit(f"error: {error}")
