"""The experiments behind the model: one part changed at a time, over several seeds, with a paired test.

    python training/ablate.py --corpora DIR --out results [--rows GROUP|ROW ...] [--seeds 0 1 2] [--budget small]

Groups of rows: `branches` (each branch alone), `skip` (without skip connections), `losses`, `augmentation` (off),
`transfer` (EMO-DB's voices learned from nothing, or starting from RAVDESS), `multi` (the branches of those rows fused),
`fusion` (attention at depth against the mainstream fusions) and `robustness` (noise, blur, cover, wrong words). With
--checkpoint the fusion and robustness rows stand on that checkpoint's branches, else on branches trained here.

A finished row is never run again, and a killed run goes on from its last epoch. Branches are measured on validation
speakers. Fusion is measured on label-matched tuples of validation examples, since the corpora are not paired. The test
against the reference row flips the signs of whole speakers (of the voices, for tuples); images and sentences without a
speaker stand for themselves. Nothing is chosen on what is measured: branches end with their last epoch, and each kind of
fusion chooses its number of steps on data set aside from training.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mmer import checkpoint
from mmer.config import Paths
from mmer.errors import MmerError, TrainingError
from mmer.labels import MODALITIES
from mmer.metrics import classification, paired_test
from mmer.model import EmotionModel
from training import experiment, figures, robustness
from training.data import Faces, Texts, Voices, load_texts
from training.experiment import BUDGETS, BranchRow, Data, Drawn
from training.losses import LOSSES, fit_temperature
from training.manifest import class_counts
from training.rivals import KINDS
from training.runs import Run, Runs
from training.train import Encoded, TrainConfig, branch_module, data_hash


@dataclass(frozen=True)
class FusedRow:
    """Three branches and a fusion; the branches are those of the rows `face`, `voice`, `text` plus `variant`."""

    name: str
    group: str
    kind: str = "attention"
    variant: str = ""
    reference: str | None = None


@dataclass(frozen=True)
class RobustRow:
    """Attention fusion while one branch's input is worse."""

    name: str
    modality: str
    how: str
    level: float
    group: str = "robustness"
    reference: str | None = None


def all_rows() -> dict[str, BranchRow | FusedRow | RobustRow]:
    rows: list = []
    for m in MODALITIES:
        rows.append(BranchRow(m, m, "branches"))
        rows.append(BranchRow(f"{m}-no-skip", m, "skip", m, skip=False))
        rows += [BranchRow(f"{m}-{loss}", m, "losses", m, loss=loss) for loss in LOSSES]
        rows.append(BranchRow(f"{m}-post_hoc", m, "losses", m, loss="cross_entropy", adjust=1.0))
        if m != "text":
            rows.append(BranchRow(f"{m}-no-augmentation", m, "augmentation", m, augmented=False))
    rows.append(BranchRow("emodb-scratch", "voice", "transfer", None, corpus="emodb", measured="emodb"))
    rows.append(BranchRow("emodb-untouched", "voice", "transfer", "emodb-scratch", corpus="ravdess", measured="emodb"))
    rows.append(BranchRow("emodb-transfer", "voice", "transfer", "emodb-scratch", corpus="emodb", measured="emodb", init="emodb-untouched"))  # fmt: skip
    rows.append(FusedRow("multi", "multi"))
    rows += [FusedRow(f"multi-{v}", "multi", variant=v, reference="multi") for v in ("no-skip", "no-augmentation")]
    rows += [FusedRow(f"fusion-{k}", "fusion", k, reference=None if k == "attention" else "fusion-attention") for k in KINDS]  # fmt: skip
    rows.append(RobustRow("clean", "face", "clean", 0.0))
    for how in robustness.NOISES:
        rows += [RobustRow(f"voice-{how}-{db}dB", "voice", how, db) for db in (20, 10, 5, 0)]
    rows += [RobustRow(f"face-blur-{s}px", "face", "blur", s) for s in (1, 2, 3)]
    rows += [RobustRow(f"face-covered-{what}", "face", what, 0) for what in robustness.COVERS]
    rows += [RobustRow(f"text-errors-{p}%", "text", "errors", p / 100) for p in (10, 20, 30)]
    return {r.name: r for r in rows}


class Ablation:
    """Runs rows on demand: a row that another one needs is run first."""

    def __init__(self, data: Data, config: TrainConfig, runs: Runs, served: checkpoint.Checkpoint | None):
        self.data, self.runs, self.served = data, runs, served
        epochs = data.budget.epochs or {}
        self.config = replace(
            config, text_tuned=data.budget.text_tuned, **{f"{m}_epochs": n for m, n in epochs.items()}
        )
        self.rows = all_rows()
        self._models: dict[tuple, EmotionModel] = {}
        self._held: dict[tuple, dict[str, Encoded]] = {}
        self._drawn: dict[tuple, Drawn] = {}

    def _settings(self, row, seed: int, *modalities: str) -> dict:
        """Return all that decides a run: another of these is another run."""
        whole = {"row": asdict(row), "seed": seed, "budget": asdict(self.data.budget), "config": asdict(self.config)}
        if self.served and not isinstance(row, BranchRow):
            whole["branches"] = self.served.meta["weights_sha256"]
        for m in modalities:
            whole[m] = [data_hash(self.data.rows(m, part)) for part in ("train", "aside", "val")]
        return whole

    def run(self, name: str, seed: int) -> Run:
        row = self.rows[name]
        if isinstance(row, BranchRow):
            return self.runs.get(
                name, self._settings(row, seed, row.modality), lambda work: self._branch(row, seed, work)
            )
        make = self._fused if isinstance(row, FusedRow) else self._robust
        return self.runs.get(name, self._settings(row, seed, *MODALITIES), lambda work: make(row, seed, work))

    def _branch_model(self, row: BranchRow, seed: int) -> EmotionModel:
        if row.adjust:  # nothing of its own to train
            row = self.rows[f"{row.modality}-{row.loss}"]
        init = None
        if row.init:
            init = branch_module(self._branch_model(self.rows[row.init], seed), row.modality).state_dict()
        work = self.runs.work(row.name, self._settings(row, seed, row.modality))
        return experiment.train_branch(row, self.data, replace(self.config, seed=seed), work, init)

    def _branch(self, row: BranchRow, seed: int, work: Path) -> Run:
        m, found = row.modality, {}
        took = experiment.timed(lambda: found.update(model=self._branch_model(row, seed)))
        held = experiment.encoded(found["model"], m, self.data.load(found["model"], m, "val", row.measured))
        counts = torch.tensor(class_counts(self.data.rows(m, "train", row.corpus)))
        probs = experiment.probabilities(row, held.logits, counts).numpy()
        rows = self.data.rows(m, "val", row.measured)
        truth = held.targets.argmax(1).numpy()
        corpora = {}
        for corpus in sorted({r.corpus for r in rows}):
            own = np.array([r.corpus == corpus for r in rows])
            corpora[corpus] = _brief(classification(truth[own], probs[own]))
        whole = classification(truth, probs)
        kept = {**_brief(whole), "per_class": whole["per_class"], "by_corpus": corpora, **took}
        return Run(kept, {"probs": probs.astype(np.float16), "truth": truth})

    def _model(self, variant: str, seed: int) -> tuple[EmotionModel, tuple]:
        """Return a model with its branches and what it is known by."""
        if self.served:
            return self.served.model, ("served",)
        key = (variant, seed)
        if key not in self._models:
            model = EmotionModel(
                replace(self.data.settings.model, skip=variant != "no-skip"), self.data.settings.voice.n_mels
            )
            for m in MODALITIES:
                name = f"{m}-{variant}" if f"{m}-{variant}" in self.rows else m
                self.run(name, seed)
                branch_module(model, m).load_state_dict(
                    branch_module(self._branch_model(self.rows[name], seed), m).state_dict()
                )
            self._models[key] = model.eval()
        return self._models[key], key

    def _states(self, part: str, model: EmotionModel, key: tuple, seed: int) -> dict[str, Encoded]:
        """Return the branches' states on a part, computed once and kept; temperatures are fitted on the part set aside."""
        name = "_".join(map(str, ("states", part, *key)))
        settings = self._settings(FusedRow("states", ""), 0 if self.served else seed, *MODALITIES)
        path = self.runs.work(name, settings) / "states.pt"
        known = (part, *key)
        if known not in self._held:
            if path.is_file():
                kept = torch.load(path, weights_only=True)
                self._held[known] = {m: Encoded(*kept[m]) for m in MODALITIES}
            else:
                if part == "aside":
                    held = experiment.set_aside(model, self.data, 0 if self.served else seed)
                else:
                    held = {m: experiment.encoded(model, m, self.data.load(model, m, part)) for m in MODALITIES}
                self._held[known] = held
                torch.save({m: [e.middle, e.top, e.logits, e.targets] for m, e in held.items()}, path)
        held = self._held[known]
        if part == "aside" and not self.served:
            for i, m in enumerate(MODALITIES):
                model.temperatures[i] = fit_temperature(held[m].logits, held[m].targets)
        return held

    def _fused(self, row: FusedRow, seed: int, work: Path) -> Run:
        model, key = self._model(row.variant, seed)
        own, config = model.fusion, replace(self.config, seed=seed)
        aside = self._states("aside", model, key, seed)
        speakers = [r.speaker for r in self.data.rows("voice", "aside")]
        try:
            first = replace(config, seed=0)  # steps are chosen once, not for each seed
            choice = self.runs.get(
                f"steps-{row.kind}-{'_'.join(map(str, key))}",
                self._settings(row, 0 if self.served else seed, *MODALITIES),
                lambda at: Run(dict(zip(("steps", "tried"), experiment.chosen_steps(model, row.kind, aside, speakers, first, at, self.data.budget.steps), strict=True))),
            ).figures  # fmt: skip
            took = experiment.timed(
                lambda: experiment.fit_fusion(model, row.kind, aside, config, work, choice["steps"])
            )
            given = self._tuples(model, key, seed)
            probs = experiment.subset_probs(model, given)
            subsets = {name: _brief(classification(given.truth, p)) for name, p in probs.items()}
            found = {**subsets["face+voice+text"], "subsets": subsets, **choice, **took}
            found["weights"] = sum(p.numel() for p in model.fusion.parameters())
        finally:
            model.fusion = own
        return Run(
            found, {"probs": probs["face+voice+text"].astype(np.float16), "truth": given.truth, "picks": given.picks}
        )

    def _tuples(self, model: EmotionModel, key: tuple, seed: int) -> Drawn:
        if key not in self._drawn:
            held = self._states("val", model, key, seed)
            self._drawn[key] = experiment.drawn(held, model.temperatures)
        return self._drawn[key]

    def _robust(self, row: RobustRow, seed: int, work: Path) -> Run:
        model, key = self._model("", seed)
        own = model.fusion
        aside = None if self.served else self._states("aside", model, key, seed)
        held = dict(self._states("val", model, key, seed))
        if row.how != "clean":
            held[row.modality] = experiment.encoded(model, row.modality, self.worse(model, row, work))
        given = experiment.drawn(held, model.temperatures)
        try:
            if not self.served:
                steps = min(self.config.fusion_steps, max(self.data.budget.steps))
                experiment.fit_fusion(model, "attention", aside, replace(self.config, seed=seed), work, steps)
            probs = experiment.subset_probs(model, given)
        finally:
            model.fusion = own
        subsets = {name: _brief(classification(given.truth, p)) for name, p in probs.items()}
        arrays = {name: (p.argmax(1) == given.truth) for name, p in probs.items()}
        return Run({**subsets["face+voice+text"], "subsets": subsets}, {**arrays, "picks": given.picks})

    def worse(self, model: EmotionModel, row: RobustRow, work: Path) -> Faces | Voices | Texts:
        """Return the validation part of a branch under a condition, read anew as in use: new landmark fits, new states."""
        loaded, rng = self.data.load(model, row.modality, "val"), np.random.default_rng(1)
        if row.modality == "voice":
            babble = loaded.samples if row.how == "babble" else ()
            return replace(loaded, samples=[robustness.noisy(x, row.level, rng, babble) for x in loaded.samples])
        if row.modality == "face":
            from mmer.face import fit_crops

            blur = row.how == "blur"
            images = (
                robustness.blurred(loaded.images, row.level) if blur else robustness.covered(loaded.images, row.how)
            )
            found = fit_crops(x.numpy() for x in tqdm(images, desc=f"fits, {row.name}", leave=False, mininterval=5))
            fits = [np.full(52, np.nan) if x is None else x for x in found]
            blendshapes = torch.from_numpy(np.stack(fits).astype(np.float32))
            fitted = ~blendshapes.isnan().any(1)
            return replace(loaded, images=images, blendshapes=blendshapes.nan_to_num(), fitted=fitted)
        rows = self.data.rows("text", "val")
        words = [w for r in rows for w in r.text.split()]
        heard = tuple(replace(r, text=robustness.misheard(r.text, row.level, words, rng)) for r in rows)
        return load_texts(heard, work, self.data.language, model.encoders["text"])

    def speakers(self, row, run: Run) -> list[str]:
        if isinstance(row, BranchRow):
            return [r.speaker for r in self.data.rows(row.modality, "val", row.measured)]
        voices = self.data.rows("voice", "val")
        return [voices[i].speaker for i in run.arrays["picks"][:, 1]]


def _brief(whole: dict) -> dict:
    return {k: whole[k] for k in ("n", "uar", "accuracy", "macro_f1", "weighted_f1", "ece")}


def _right(runs: Sequence[Run]) -> np.ndarray:
    return np.mean([r.arrays["probs"].argmax(1) == r.arrays["truth"] for r in runs], axis=0)


def summary(ablation: Ablation, names: Sequence[str], seeds: Sequence[int]) -> list[dict]:
    """Return one entry for each finished row: mean and deviation over seeds, and the test against its reference."""
    found = []
    for name in names:
        row = ablation.rows[name]
        runs = [ablation.run(name, seed) for seed in seeds]
        entry = {
            "row": name,
            "group": row.group,
            "seeds": list(seeds),
            "n": runs[0].figures["n"],
            "runs": [r.figures for r in runs],
        }
        for key in ("uar", "accuracy", "macro_f1", "weighted_f1", "ece"):
            values = [r.figures[key] for r in runs]
            entry[key] = {
                "mean": float(np.mean(values)),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            }
        if isinstance(row, RobustRow):
            kept = MODALITIES if row.how == "clean" else tuple(m for m in MODALITIES if m != row.modality)
            best = max(kept, key=lambda m: np.mean([r.arrays[m].mean() for r in runs]))
            fused = np.mean([r.arrays["face+voice+text"] for r in runs], axis=0)
            alone = np.mean([r.arrays[best] for r in runs], axis=0)
            entry["best_remaining"] = {"branch": best, "accuracy": float(alone.mean())}
            entry["paired"] = paired_test(fused, alone, ablation.speakers(row, runs[0]))
        elif row.reference and row.reference in names:
            reference = [ablation.run(row.reference, seed) for seed in seeds]
            entry["reference"] = row.reference
            entry["paired"] = paired_test(_right(runs), _right(reference), ablation.speakers(row, runs[0]))
        found.append(entry)
    return found


def _pm(value: dict) -> str:
    return f"{value['mean']:.3f}" + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")


def page(entries: Sequence[dict], about: str) -> str:
    """Return the tables as Markdown."""
    parts = [f"# Ablation\n\n{about}\n"]
    groups = {"branches": "Branches alone", "skip": "Without skip connections", "losses": "Losses", "augmentation": "Without augmentation",
              "transfer": "Transfer", "multi": "Multi-branch", "fusion": "Fusions on the same branches", "robustness": "Worse input"}  # fmt: skip
    for group, title in groups.items():
        own = [e for e in entries if e["group"] == group]
        if not own:
            continue
        parts.append(f"\n## {title}\n")
        if group == "robustness":
            header = ("input", "face", "voice", "text", "best other branch", "fused", "fused - best other", "p")
            rows = []
            for e in own:
                alone = [float(np.mean([r["subsets"][m]["accuracy"] for r in e["runs"]])) for m in MODALITIES]
                best = f"{e['best_remaining']['accuracy']:.3f} ({e['best_remaining']['branch']})"
                rows.append(
                    (e["row"], *alone, best, _pm(e["accuracy"]), f"{e['paired']['difference']:+.3f}", e["paired"]["p"])
                )
        else:
            header = ("row", "n", "UAR", "accuracy", "macro-F1", "ECE", "accuracy - reference", "p")
            rows = []
            for e in own:
                test = e.get("paired")
                gap = f"{test['difference']:+.3f} ({e['reference']})" if test else None
                rows.append(
                    (
                        e["row"],
                        e["n"],
                        _pm(e["uar"]),
                        _pm(e["accuracy"]),
                        _pm(e["macro_f1"]),
                        _pm(e["ece"]),
                        gap,
                        test and test["p"],
                    )
                )
        parts.append(figures.markdown(header, rows))
        if group in ("multi", "fusion"):
            subsets = list(own[0]["runs"][0]["subsets"])
            parts.append("\nAccuracy of every subset, mean over the seeds:\n")
            rows = [
                (e["row"], *(float(np.mean([r["subsets"][s]["accuracy"] for r in e["runs"]])) for s in subsets))
                for e in own
            ]
            parts.append(figures.markdown(("row", *subsets), rows))
            rows = [(e["row"], e["runs"][0]["steps"], e["runs"][0]["weights"], e["runs"][0]["seconds"]) for e in own]
            parts.append("\nSteps chosen on data set aside, weights and seconds:\n")
            parts.append(figures.markdown(("row", "steps", "weights", "seconds"), rows))
    return "\n".join(parts)


def draw(folder: Path, entries: Sequence[dict]) -> None:
    for group in dict.fromkeys(e["group"] for e in entries):
        own = [e for e in entries if e["group"] == group]
        key = "accuracy" if group in ("multi", "fusion", "robustness") else "uar"
        bars = {e["row"]: (e[key]["mean"], e[key]["sd"] if e[key]["sd"] is not None else float("nan")) for e in own}
        ours = [e["row"] for e in own if not e.get("reference")]
        figures.bars(folder / f"{group}.png", bars, f"{key}, validation", ours)
    for how in robustness.NOISES:
        own = [e for e in entries if e["row"].startswith(f"voice-{how}")]
        if own:
            levels = [int(e["row"].rsplit("-", 1)[1][:-2]) for e in own]
            lines = {s: (levels, [float(np.mean([r["subsets"][s]["accuracy"] for r in e["runs"]])) for e in own])
                     for s in ("voice", "face+text", "face+voice+text")}  # fmt: skip
            figures.lines(folder / f"noise_{how}.png", lines, "signal to noise, dB", "accuracy")


def main() -> int:
    known = all_rows()
    groups = list(dict.fromkeys(r.group for r in known.values()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--out", type=Path, default=Path("results/ablation"), help="tables, figures and finished runs")
    parser.add_argument("--rows", nargs="+", metavar="ROW", default=groups, help=f"groups ({', '.join(groups)}) or rows; --list shows them")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, dest="one", help="the same as --seeds with one")
    parser.add_argument("--budget", choices=list(BUDGETS), default="full", help="small: fewer epochs and, for faces and sentences, fewer rows, so that two cores can do it; tiny: to see it run")  # fmt: skip
    parser.add_argument("--checkpoint", metavar="ID", help="whose branches the fusion and robustness rows stand on")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{r.group:14} {name}" for name, r in known.items()))
        return 0
    unknown = [r for r in args.rows if r not in known and r not in groups]
    if unknown:
        parser.error(f"--rows {' '.join(unknown)}: use groups ({', '.join(groups)}) or rows of --list")
    names = [n for n, r in known.items() if n in args.rows or r.group in args.rows]
    # References first, and in the table even when only what is compared with them was asked for.
    names = list(dict.fromkeys([known[n].reference for n in names if known[n].reference] + names))
    seeds = args.seeds if args.one is None else [args.one]
    served = checkpoint.load(args.checkpoint, Paths.from_env().checkpoints) if args.checkpoint else None
    if served and any(known[n].group == "multi" for n in names):
        raise TrainingError("bad_rows", "the rows of group multi need branches trained here; leave --checkpoint out")
    data = Data(args.corpora, args.out / "work", BUDGETS[args.budget])
    config = TrainConfig(precision=args.precision)
    ablation = Ablation(data, config, Runs(args.out / "runs"), served)
    for name, seed in (bar := tqdm([(n, s) for s in seeds for n in names], desc="rows", mininterval=1)):
        bar.set_postfix_str(f"{name}, seed {seed}")
        ablation.run(name, seed)
    entries = summary(ablation, names, seeds)
    branches = f"the checkpoint {served.id}" if served else "trained here"
    sizes = "; ".join(
        f"{m} {len(data.rows(m, 'train'))} rows to train on, {len(data.rows(m, 'val'))} to measure" for m in MODALITIES
    )
    about = f"Budget {args.budget}, seeds {', '.join(map(str, seeds))}; branches of fused rows: {branches}. {sizes}."
    whole = {"budget": args.budget, "seeds": seeds, "checkpoint": served.id if served else None, "config": asdict(ablation.config), "rows": entries}  # fmt: skip
    (args.out / "ablation.json").write_text(json.dumps(whole, indent=1) + "\n")
    (args.out / "ablation.md").write_text(page(entries, about))
    draw(args.out, entries)
    print(f"wrote {args.out / 'ablation.md'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MmerError as error:
        sys.exit(f"error: {error}")
