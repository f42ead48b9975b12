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
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from mmer import assets, checkpoint
from mmer.config import Config, ModelConfig, Paths
from mmer.errors import MmerError
from mmer.features import LanguageModel
from mmer.labels import MODALITIES
from mmer.model import EmotionModel
from mmer.speech import Transcriber
from training import corpora
from training.data.load import Faces, Texts, Voices, load_faces, load_texts, load_voices, split_off
from training.data.manifest import Row, data_hash
from training.learn.branches import train_face, train_statistics, train_text, train_voice
from training.learn.config import CORPORA, TrainConfig
from training.learn.fusion import (
    N_TUPLES,
    Tuples,
    calibrate,
    encode_aside,
    encoded,
    fit_abstention,
    subset_probs,
    subset_table,
    train_fusion,
)
from training.learn.loop import PRECISIONS, processes, timed
from training.learn.losses import fit_temperature
from training.learn.warm_start import assemble, imagenet_weights, of_branches, shape_of, start_from


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
    whole = Config(model=shape)
    team = processes()  # the first fills the caches, all train, the first writes
    with team.main_process_first():
        found = corpora.read_all(args.corpora, work / "corpora")
    rows = {m: tuple(r for c in CORPORA[m] for r in found.get(c, ())) for m in MODALITIES}
    train = {m: tuple(r for r in rows[m] if r.split == "train") for m in MODALITIES}
    val = {m: tuple(r for r in rows[m] if r.split == "val") for m in MODALITIES}
    halves = {m: split_off(train[m]) for m in MODALITIES}  # for the branches, for their fusion

    model = EmotionModel(whole.model, whole.voice.n_mels)
    language = None
    if {"text", "fusion"} & set(args.stage):
        language = LanguageModel(assets.find("text_encoder", paths))
        if shape.text_tuned:
            model.encoders["text"].layers.load_state_dict(language.last_layers())
    if resnet18:
        model.encoders["face"].cnn.adopt(imagenet_weights(args.imagenet))
    fresh = of_branches(model)
    if loaded:
        fresh -= start_from(model, loaded.model, args.anew)
        print(f"all but {len(fresh)} of the branches' {len(of_branches(model))} tensors start from {args.init}")
    if "face" in args.stage:
        with team.main_process_first():
            faces = load_faces(halves["face"][0], work, whole.face.crop_size)
        told("face", lambda: train_face(model, faces, config, work))
    if "voice" in args.stage:
        with team.main_process_first():
            voices = load_voices(halves["voice"][0], whisper, work)
        told("voice", lambda: train_voice(model, voices, config, work))
        told("voice statistics", lambda: train_statistics(model, voices, config, work))
    if "text" in args.stage:
        with team.main_process_first():
            texts = load_texts(halves["text"][0], work, language, model.encoders["text"])
        told("text", lambda: train_text(model, texts, halves["text"][0], config, work))
    if "fusion" not in args.stage:
        return f"trained {', '.join(args.stage)}; give --stage fusion to write a checkpoint"

    made = assemble(model, work, config, loaded, fresh, args.anew, {m: halves[m][0] for m in MODALITIES})

    def load(part: dict[str, tuple[Row, ...]]) -> tuple[Faces, Voices, Texts]:
        with team.main_process_first():
            return (
                load_faces(part["face"], work, whole.face.crop_size), load_voices(part["voice"], whisper, work),
                load_texts(part["text"], work, language, model.encoders["text"]),
            )  # fmt: skip

    aside = encode_aside(model, *load({m: halves[m][1] for m in MODALITIES}), config.seed)
    for i, m in enumerate(MODALITIES):
        model.temperatures[i] = fit_temperature(aside[m].logits, aside[m].targets)
    told("fusion", lambda: train_fusion(model, Tuples(aside, model.temperatures, config.conflict), config, work))
    heldout = load(val)
    if not team.is_main_process:
        return "the first process writes the checkpoint"
    calm = Tuples(aside, model.temperatures, 0.0)
    calibrate(model, calm, config.seed + 1)
    states, _, targets = calm.draw(N_TUPLES, torch.Generator().manual_seed(config.seed + 3), subsets=False)
    threshold = fit_abstention(subset_probs(model, states), targets.argmax(1).numpy())

    held = {m: encoded(model, m, part) for m, part in zip(MODALITIES, heldout, strict=True)}
    table = subset_table(model, Tuples(held, model.temperatures, 0.0), config.seed + 2)
    for name, line in table.items():
        print(f"{name:16} " + "  ".join(f"{k} {v:.3f}" for k, v in line.items()))
    meta = {
        "parent": None,
        "init": args.init and {"id": args.init, "weights_sha256": loaded.meta.get("weights_sha256")},
        "seed": config.seed,
        "whisper": args.whisper and Path(args.whisper).name,
        **made,
        "data": {m: {"train": data_hash(halves[m][0]), "fusion": data_hash(halves[m][1]), "val": data_hash(val[m]),
                     "n": [len(halves[m][0]), len(halves[m][1]), len(val[m])]} for m in MODALITIES},
        "temperature": {**dict(zip(MODALITIES, model.temperatures.tolist(), strict=True)), "fused": float(model.fusion.temperature)},
        "abstain": threshold,
        "metrics": {"label_matched_validation_tuples": table},
    }  # fmt: skip
    name = checkpoint.save(model, whole, args.out or paths.checkpoints, meta, name=args.name)
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
        how |= {"choices": PRECISIONS} if field == "precision" else {}
        parser.add_argument(f"--{field.replace('_', '-')}", default=value, help=f"default {value}", **how)
    args = parser.parse_args()
    if args.anew and not args.init:
        parser.error("--anew is for --init: without a checkpoint every branch begins from nothing")
    config = TrainConfig(**{k: getattr(args, k) for k in TrainConfig.__dataclass_fields__})
    print(build(args, config))
    processes().destroy_process_group()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MmerError as error:
        sys.exit(f"error: {error}")
