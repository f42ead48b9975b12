"""Cross-validate the voice branch over speakers who are never trained on, the epoch chosen without them.

    python training/crossval.py --corpora DIR --out results/crossval [--classes 8] [--folds emobox] [--epochs N]
    python training/crossval.py --corpora DIR --out results/crossval --classes 8 --fixed --unseen emodb
    python training/crossval.py --corpora DIR --out results/crossval --across ravdess:emodb

RAVDESS has the folds of EmoBox (https://arxiv.org/abs/2406.07162) by name; a fold is left out when one of its actors is
missing. Any other corpus is cut into --folds parts by a hash of its speakers' names. In each fold the speakers of the
next fold are kept out of training too, and the epoch is the one that serves them best; the test speakers are read once.
--refit then trains again on those speakers as well and stops at that epoch; --fixed chooses nothing and trains on all
other speakers for all epochs. The branch has a head of its own for the experiment, so that RAVDESS can keep calm apart
from neutral (--classes 8); the same answers are then also measured with calm counted as neutral. --across trains on one
whole corpus and tests on another; --unseen measures every fold's branch on another corpus as well.

What is finished is never run again, and a killed fold goes on from its last epoch.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from mmer.config import Config, ModelConfig
from mmer.errors import MmerError, TrainingError
from mmer.labels import EMOTIONS, RAVDESS_CODES
from mmer.metrics import bootstrap, by_group, classification, headline
from mmer.model import EmotionModel
from training import corpora, figures
from training.branches import branch_module, train_statistics, train_voice
from training.corpora import RAVDESS_TEST, RAVDESS_VAL
from training.data import Voices, load_voices
from training.loop import save_atomically
from training.manifest import Row, data_hash
from training.recipe import TrainConfig
from training.runs import Run, Runs, without
from training.tuples import encode_voices

EMOBOX = ({1, 11, 20, 21}, {4, 10, 12, 14}, {8, 9, 19, 23}, {3, 5, 7, 24}, RAVDESS_VAL, RAVDESS_TEST)
CALM = "calm"
HOW = {
    "nested": "",
    "refit": ", trained again with the inner speakers",
    "fixed": ", all of them, on all other speakers",
}


@dataclass(frozen=True)
class Fold:
    name: str
    test: frozenset[str]  # speakers
    inner: frozenset[str]  # speakers who choose the epoch


def emobox(speakers: set[str]) -> list[Fold]:
    """Return the folds of EmoBox of which every actor is there."""
    named = [frozenset(f"ravdess-{a:02d}" for a in actors) for actors in EMOBOX]
    here = [(str(i + 1), actors) for i, actors in enumerate(named) if actors <= speakers]
    return _rotated(here, "EmoBox's folds of RAVDESS")


def hashed(speakers: set[str], n: int) -> list[Fold]:
    """Return `n` folds of about as many speakers each, drawn by a hash of their names."""
    order = sorted(speakers, key=lambda s: hashlib.sha256(s.encode()).hexdigest())
    parts = [(str(i + 1), frozenset(order[i::n])) for i in range(n)]
    return _rotated([p for p in parts if p[1]], f"{n} folds")


def _rotated(parts: list[tuple[str, frozenset[str]]], what: str) -> list[Fold]:
    if len(parts) < 3:  # one to test on, one to choose the epoch on, one to learn from
        raise TrainingError(
            "too_few_folds", f"{what}: {len(parts)} can be made of the speakers here; at least 3 are needed"
        )
    return [Fold(name, test, parts[(i + 1) % len(parts)][1]) for i, (name, test) in enumerate(parts)]


def labels(rows: Sequence[Row], classes: int) -> tuple[tuple[str, ...], torch.Tensor]:
    """Return the classes' names and the rows' targets (N, classes), calm apart from neutral where there are eight."""
    if classes == 7:
        return EMOTIONS, torch.tensor([r.target for r in rows])
    names = (*EMOTIONS, CALM)
    index = [
        names.index(CALM) if r.corpus == "ravdess" and RAVDESS_CODES[r.path.stem.split("-")[2]] == CALM else r.label
        for r in rows
    ]
    return names, nn.functional.one_hot(torch.tensor(index), len(names)).float()


def pick(voices: Voices, where: np.ndarray) -> Voices:
    index = np.flatnonzero(where)
    whose = tuple(voices.corpora[i] for i in index) if voices.corpora else ()
    return replace(voices, samples=[voices.samples[i] for i in index], targets=voices.targets[index], corpora=whose)


def calm_is_neutral(probs: np.ndarray) -> np.ndarray:
    """Return probabilities (N, 7) of the emotions from those of seven or eight classes (N, 7 or 8)."""
    merged = probs[:, : len(EMOTIONS)].copy()
    merged[:, EMOTIONS.index("neutral")] += probs[:, len(EMOTIONS) :].sum(1)
    return merged


def _seven(truth: np.ndarray) -> np.ndarray:
    return np.where(truth == len(EMOTIONS), EMOTIONS.index("neutral"), truth)


def _spread(uars: np.ndarray) -> dict[str, float | None]:
    """Return the mean of UARs (folds, seeds) and their deviations."""
    over = uars.mean(0)
    return {
        "uar": float(over.mean()),
        "sd_over_folds": float(uars.mean(1).std(ddof=1)) if len(uars) > 1 else None,
        "sd_over_seeds": float(over.std(ddof=1)) if len(over) > 1 else None,
    }


def new_model(config: ModelConfig, classes: int, seed: int) -> EmotionModel:
    torch.manual_seed(seed)
    model = EmotionModel(config, Config().voice.n_mels)
    model.heads["voice"] = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.state, classes))
    return model


def _uar(model: EmotionModel, voices: Voices, names: Sequence[str]) -> float:
    probs = encode_voices(model, voices).logits.softmax(1).numpy()
    return classification(voices.targets.argmax(1).numpy(), probs, names)["uar"]


def train(
    voices: Voices, inner: Voices | None, names: Sequence[str], shape: ModelConfig, config: TrainConfig, work: Path, stop: int | None = None
) -> tuple[EmotionModel, int, dict[str, float]]:  # fmt: skip
    """Train a branch and return it, the epoch its CNN stopped at, and the CNN's UAR on `inner` after each epoch.

    Epochs are counted from 1; `config.voice_epochs` + 1 is the weights training ends with, the average where one is kept.
    The statistics learn after the CNN, beside the one that was chosen.

    Args:
        inner: speakers who choose the epoch; None: it is `stop`.
    """
    work.mkdir(parents=True, exist_ok=True)
    model = new_model(shape, len(names), config.seed)
    watched = new_model(replace(shape, voice_statistics=0), len(names), config.seed)
    module, best, note = branch_module(model, "voice"), work / "best.pt", work / "curve.json"
    curve = json.loads(note.read_text()) if note.is_file() else {}

    def look(epoch: int) -> str:
        """Keep the weights if no earlier epoch was better."""
        state = {k: v.detach().cpu() for k, v in module.state_dict().items() if "statistics" not in k}
        if inner is None:
            better, words = epoch == stop, ""
        else:
            branch_module(watched, "voice").load_state_dict(state)
            score = _uar(watched.eval(), inner, names)
            better = score >= max([v for k, v in curve.items() if k != str(epoch)], default=0.0)
            curve[str(epoch)] = score
            words = f"UAR of the inner speakers {score:.3f}"
        if better:
            save_atomically(state, best)
        note.with_suffix(".part").write_text(json.dumps(curve))
        os.replace(note.with_suffix(".part"), note)
        return words

    train_voice(model, voices, config, work, report=lambda epoch: look(epoch + 1))
    look(config.voice_epochs + 1)
    module.load_state_dict(module.state_dict() | torch.load(best, weights_only=True))
    train_statistics(model, voices, config, work)
    chosen = stop if inner is None else max(curve, key=lambda k: (curve[k], int(k)))
    return model.eval(), int(chosen), curve


class CrossValidation:
    def __init__(
        self, rows: Sequence[Row], classes: int, shape: ModelConfig, config: TrainConfig, runs: Runs, how: str,
        unseen: Sequence[Row] = (),
    ):  # fmt: skip
        """
        Args:
            how: nested, refit or fixed: what the inner speakers are for.
            unseen: recordings of another corpus, which every fold's branch is measured on too.
        """
        self.rows, self.classes, self.shape, self.config = rows, classes, shape, config
        self.runs, self.how, self.unseen = runs, how, unseen
        self.speakers = np.array([r.speaker for r in rows])
        self.names, self.targets = labels(rows, classes)

    @cached_property
    def voices(self) -> Voices:
        """The recordings, read at first use: a finished experiment needs none."""
        found = load_voices(self.rows)
        if len(found.samples) != len(self.rows):
            raise TrainingError("unreadable", "a recording cannot be read, see above; repair it or take it out")
        return replace(found, targets=self.targets)

    @cached_property
    def others(self) -> Voices:
        return load_voices(self.unseen)

    def run(self, fold: Fold, seed: int) -> Run:
        decided = {"model": asdict(self.shape), "config": asdict(self.config)}
        settings = {"fold": [sorted(fold.test), sorted(fold.inner)], "classes": self.classes, "seed": seed, "how": self.how,
                    **without(decided, ("face", "text", "fusion")), "data": data_hash(tuple(self.rows)),
                    "unseen": data_hash(tuple(self.unseen))}  # fmt: skip
        return self.runs.get(f"fold-{fold.name}-seed-{seed}", settings, lambda work: self._run(fold, seed, work))

    def _run(self, fold: Fold, seed: int, work: Path) -> Run:
        config = replace(self.config, seed=seed)
        test, inner = (np.isin(self.speakers, sorted(part)) for part in (fold.test, fold.inner))
        learned = ~test if self.how == "fixed" else ~test & ~inner
        watch = None if self.how == "fixed" else pick(self.voices, inner)
        stop = config.voice_epochs + 1  # the weights training ends with
        model, chosen, curve = train(
            pick(self.voices, learned), watch, self.names, self.shape, config, work / self.how, stop
        )
        if self.how == "refit":
            learned = ~test
            model, _, _ = train(
                pick(self.voices, learned), None, self.names, self.shape, config, work / "again", chosen
            )
        held = pick(self.voices, test)
        probs = encode_voices(model, held).logits.softmax(1).numpy()
        truth = held.targets.argmax(1).numpy()
        found = {**headline(classification(truth, probs, self.names)), "epoch": chosen, "inner": curve, "trained_on": sorted(set(self.speakers[learned]))}  # fmt: skip
        arrays = {"probs": probs, "truth": truth, "rows": np.flatnonzero(test)}
        if self.unseen:
            other = self.others
            arrays["unseen_truth"] = other.targets.argmax(1).numpy()
            arrays["unseen_probs"] = calm_is_neutral(encode_voices(model, other).logits.softmax(1).numpy())
            found["unseen"] = headline(classification(arrays["unseen_truth"], arrays["unseen_probs"], EMOTIONS))
        return Run(found, arrays)

    def summary(self, folds: Sequence[Fold], seeds: Sequence[int]) -> dict:
        """Return figures per fold, over folds, and over all test rows together with intervals by speaker."""
        parts = [{"fold": f.name, "speakers": sorted(f.test), "inner": sorted(f.inner), "runs": [self.run(f, s).figures for s in seeds]} for f in folds]  # fmt: skip
        per_seed = []
        for seed in seeds:
            runs = [self.run(f, seed) for f in folds]
            truth = np.concatenate([r.arrays["truth"] for r in runs])
            probs = np.concatenate([r.arrays["probs"] for r in runs])
            rows = [self.rows[i] for r in runs for i in r.arrays["rows"]]
            speakers = [r.speaker for r in rows]
            whole = classification(truth, probs, self.names)
            whole["ci95"] = bootstrap(truth, probs.argmax(1), speakers, n_classes=len(self.names), seed=seed)
            whole["gaps"] = by_group(truth, probs, speakers, [r.group for r in rows], names=self.names, seed=seed)
            whole["by_speaker"] = {
                s: float((probs.argmax(1) == truth)[np.array(speakers) == s].mean()) for s in sorted(set(speakers))
            }
            per_seed.append({"seed": seed, **whole})
        uars = np.array([[r["uar"] for r in p["runs"]] for p in parts])  # (folds, seeds)
        found = {"classes": list(self.names), "folds": parts, "mean_of_folds": _spread(uars), "pooled": per_seed}
        runs = [[self.run(f, s) for s in seeds] for f in folds]
        if self.classes == 8:
            merged = [[classification(_seven(r.arrays["truth"]), calm_is_neutral(r.arrays["probs"]), EMOTIONS)["uar"] for r in part] for part in runs]  # fmt: skip
            found["calm_as_neutral"] = {**_spread(np.array(merged)), "folds": merged}
        if self.unseen:
            other = [[r.figures["unseen"]["uar"] for r in part] for part in runs]
            together = np.mean([r.arrays["unseen_probs"] for part in runs for r in part], axis=0)
            found["unseen"] = {
                **_spread(np.array(other)), "folds": other,
                "together": classification(runs[0][0].arrays["unseen_truth"], together, EMOTIONS),
            }  # fmt: skip
        return found


def page(found: dict, about: str) -> str:
    """Return the tables as Markdown."""
    mean = found["mean_of_folds"]
    over = ", ".join(f"sd over {k.rsplit('_', 1)[1]} {v:.3f}" for k, v in mean.items() if k != "uar" and v is not None)
    parts = [
        f"# Cross-validation\n\n{about}\n\nMean UAR of the folds **{mean['uar']:.3f}**{f' ({over})' if over else ''}.\n"
    ]
    if "calm_as_neutral" in found:
        parts.append(f"Calm counted as neutral, seven classes: **{found['calm_as_neutral']['uar']:.3f}**.\n")
    if "unseen" in found:
        other = found["unseen"]
        parts.append(
            f"On the corpus nobody trained on, mean UAR of the folds' branches **{other['uar']:.3f}**; of their mean "
            f"answer {other['together']['uar']:.3f} ({other['together']['n']} utterances).\n"
        )
    rows = [
        (p["fold"], ", ".join(p["speakers"]), r["n"], r["uar"], r["accuracy"], r["macro_f1"], r["epoch"])
        for p in found["folds"]
        for r in p["runs"]
    ]
    parts.append(figures.markdown(("fold", "test speakers", "n", "UAR", "accuracy", "macro-F1", "epoch"), rows))
    parts.append("\nAll test rows together, 95 % intervals by speaker:\n")
    rows = []
    for p in found["pooled"]:
        gap = p["gaps"]["gaps"].get("uar")
        said = f"{gap['gap']:.3f} {gap['ci95']} ({gap['best']} better)" if gap else None
        rows.append((p["seed"], p["n"], f"{p['uar']:.3f} {p['ci95']['uar']}", f"{p['accuracy']:.3f} {p['ci95']['accuracy']}", p["macro_f1"], p["ece"], said))  # fmt: skip
    parts.append(figures.markdown(("seed", "n", "UAR", "accuracy", "macro-F1", "ECE", "gap in UAR"), rows))
    recalls = [(c, *(p["per_class"][c]["recall"] if c in p["per_class"] else None for p in found["pooled"])) for c in found["classes"]]  # fmt: skip
    parts.append("\nRecall of each class:\n")
    parts.append(figures.markdown(("class", *(f"seed {p['seed']}" for p in found["pooled"])), recalls))
    return "\n".join(parts)


def draw(folder: Path, found: dict) -> None:
    table = np.sum([p["confusion"] for p in found["pooled"]], axis=0)
    figures.confusion(folder / "confusion.png", table, found["classes"], "all folds and seeds")
    bars = {}
    for p in found["folds"]:
        uars = [r["uar"] for r in p["runs"]]
        bars[f"fold {p['fold']}"] = (
            float(np.mean(uars)),
            float(np.std(uars, ddof=1)) if len(uars) > 1 else float("nan"),
        )
    figures.bars(folder / "folds.png", bars, "UAR on unseen speakers")
    curves = {}
    for p in found["folds"]:
        curve = p["runs"][0]["inner"]
        epochs = sorted(map(int, curve))
        curves[f"fold {p['fold']}"] = (epochs, [curve[str(e)] for e in epochs])
    if any(epochs for epochs, _ in curves.values()):
        figures.lines(folder / "epochs.png", curves, "epoch", "UAR of the inner speakers")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--out", type=Path, default=Path("results/crossval"), help="tables, figures and finished runs")
    parser.add_argument("--corpus", choices=("ravdess", "emodb"), default="ravdess")
    parser.add_argument(
        "--classes", type=int, choices=(7, 8), default=7, help="8: RAVDESS with calm apart from neutral"
    )
    parser.add_argument("--folds", default="emobox", help="emobox, or how many to make (default: emobox)")
    parser.add_argument("--only", nargs="+", metavar="FOLD", help="run these folds only")
    parser.add_argument(
        "--across", metavar="TRAIN:TEST", help="train on one corpus and test on another, as ravdess:emodb"
    )
    parser.add_argument("--unseen", choices=("ravdess", "emodb"), help="measure every fold's branch on this corpus too")
    parser.add_argument("--also", choices=("ravdess", "emodb"), help="train on this corpus' training speakers too")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--refit", dest="how", action="store_const", const="refit", default="nested", help="train again with the inner speakers, up to the chosen epoch")  # fmt: skip
    how.add_argument("--fixed", dest="how", action="store_const", const="fixed", help="choose nothing: all other speakers, all epochs")  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seed", type=int, dest="one", help="the same as --seeds with one")
    parser.add_argument("--epochs", type=int, default=TrainConfig().voice_epochs, help="default %(default)s; fewer are another experiment")  # fmt: skip
    parser.add_argument("--batch", type=int, default=TrainConfig().voice_batch)
    parser.add_argument("--lr", type=float, default=TrainConfig().voice_lr)
    parser.add_argument("--strange", type=float, default=TrainConfig().voice_strange, help="share of the utterances made another speaker's, default %(default)s")  # fmt: skip
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--model", choices=("full", "tiny"), default="full", help="tiny: to see it run")
    args = parser.parse_args()
    if args.folds != "emobox" and not (args.folds.isdigit() and int(args.folds) > 2):
        parser.error(f"--folds {args.folds!r}: give emobox or a number from 3")
    seeds = args.seeds if args.one is None else [args.one]
    read = {"ravdess": corpora.ravdess(args.corpora), "emodb": corpora.emodb(args.corpora)}

    def of(name: str) -> list[Row]:
        if not read.get(name):
            raise TrainingError("no_corpora", f"{args.corpora} holds no {name}; it or its speech is needed")
        return read[name]

    if args.across:
        source, _, target = args.across.partition(":")
        if {source, target} != {"ravdess", "emodb"}:
            parser.error(f"--across {args.across!r}: use ravdess:emodb or emodb:ravdess")
        rows = [*of(source), *of(target)]
        inner = emobox({r.speaker for r in of(source)})[-1].test if source == "ravdess" else hashed({r.speaker for r in of(source)}, 4)[0].test  # fmt: skip
        folds = [Fold(args.across.replace(":", "-"), frozenset(r.speaker for r in of(target)), inner)]
    else:
        rows = list(of(args.corpus))
        people = {r.speaker for r in rows}
        if args.folds == "emobox" and args.corpus != "ravdess":
            parser.error("--folds emobox is for RAVDESS; give a number")
        folds = emobox(people) if args.folds == "emobox" else hashed(people, int(args.folds))
        if args.also and args.also != args.corpus:
            rows += [r for r in of(args.also) if r.split == "train"]
    if args.only:
        unknown = set(args.only) - {f.name for f in folds}
        if unknown:
            parser.error(f"--only {' '.join(sorted(unknown))}: there are {', '.join(f.name for f in folds)}")
        folds = [f for f in folds if f.name in args.only]
    if args.unseen in {r.corpus for r in rows}:
        parser.error(f"--unseen {args.unseen}: it is trained on")
    config = TrainConfig(
        voice_epochs=args.epochs, voice_lr=args.lr, voice_batch=args.batch, voice_strange=args.strange, precision=args.precision
    )  # fmt: skip
    shape = ModelConfig.tiny() if args.model == "tiny" else ModelConfig()
    unseen = of(args.unseen) if args.unseen else ()
    runs = CrossValidation(rows, args.classes, shape, config, Runs(args.out / "runs"), args.how, unseen)
    for seed, fold in (bar := tqdm([(s, f) for s in seeds for f in folds], desc="folds", mininterval=1)):
        bar.set_postfix_str(f"fold {fold.name}, seed {seed}")
        runs.run(fold, seed)
    found = runs.summary(folds, seeds)
    what = args.across or args.corpus
    name = f"{what.replace(':', '-')}-{args.classes}" + (f"-with-{args.also}" if args.also else "")
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    about = (
        f"{what}, voice, {args.classes} classes, {args.epochs} epochs, {len(folds)} folds, seeds {', '.join(map(str, seeds))}"
        f"{', with ' + args.also if args.also else ''}{HOW[args.how]}. "
        "No test speaker is trained on or chooses an epoch."
    )
    (folder / "crossval.json").write_text(
        json.dumps({"about": about, "config": asdict(config), **found}, indent=1) + "\n"
    )
    (folder / "crossval.md").write_text(page(found, about))
    draw(folder, found)
    print(f"mean UAR of {len(folds)} folds {found['mean_of_folds']['uar']:.3f}; wrote {folder / 'crossval.md'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MmerError as error:
        sys.exit(f"error: {error}")
