"""The experiments behind the model: one part changed at a time, over several seeds, with a paired test.

    python training/ablate.py --corpora DIR --out results [--rows GROUP|ROW ...] [--seeds 0 1 2] [--budget small]

Groups of rows: `branches` (each branch alone), `skip` (without skip connections), `losses`, `augmentation` (off),
`transfer` (EMO-DB's voices learned from nothing, or starting from RAVDESS), `multi` (the branches of those rows fused),
`fusion` (attention at depth against the mainstream fusions) and `robustness` (noise, blur, cover, wrong words). With
--checkpoint the fusion and robustness rows stand on that checkpoint's branches, else on branches trained here.

A finished row is never run again, and a killed run goes on from its last epoch. Branches are measured on validation
speakers. Fusion is measured on label-matched tuples of validation examples, since the corpora are not paired. The
test against the reference row flips the signs of whole speakers (of the voices, for tuples); images and sentences
without a speaker stand for themselves. Nothing is chosen on what is measured: branches end with their last epoch, and
each kind of fusion chooses its number of steps on the calibration split.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from mmer.config import Paths
from mmer.errors import TrainingError
from mmer.labels import MODALITIES
from training.command import run
from training.experiments.budgets import BUDGETS
from training.learn.config import TrainConfig


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, help="folder that holds the corpora")
    parser.add_argument("--out", type=Path, default=Path("results/ablation"), help="tables, figures and finished runs")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="groups or rows, default all; --list shows them")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, dest="one", help="the same as --seeds with one")
    parser.add_argument(
        "--budget",
        choices=list(BUDGETS),
        default="full",
        help="small: fewer epochs and, for faces and sentences, fewer rows, so that two cores can do it; tiny: to see "
        "it run",
    )
    parser.add_argument("--checkpoint", metavar="ID", help="whose branches the fusion and robustness rows stand on")
    parser.add_argument(
        "--whisper",
        metavar="NAME|FILE",
        help="let the checkpoint's voice read the encoder of this Whisper; without it, it does without",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    return parser


def main() -> int:
    options = parser()
    args = options.parse_args()

    from training.experiments.ablation_grid import all_rows  # torch: --help does without

    known = all_rows()
    groups = list(dict.fromkeys(r.group for r in known.values()))
    if args.list:
        print("\n".join(f"{r.group:14} {name}" for name, r in known.items()))
        return 0
    if args.whisper and not args.checkpoint:
        options.error("--whisper is for --checkpoint: branches trained here learn without it")
    if not args.corpora:
        options.error("--corpora is needed: the folder that holds the corpora")
    asked = args.rows or groups
    unknown = [r for r in asked if r not in known and r not in groups]
    if unknown:
        options.error(f"--rows {' '.join(unknown)}: use groups ({', '.join(groups)}) or rows of --list")
    names = [n for n, r in known.items() if n in asked or r.group in asked]
    if args.checkpoint and any(known[n].group == "multi" for n in names):
        raise TrainingError("bad_rows", "the rows of group multi need branches trained here; leave --checkpoint out")
    # References first, and in the table even when only what is compared with them was asked for.
    references = [reference for n in names if (reference := known[n].reference)]
    ablate(args, list(dict.fromkeys([*references, *names])), args.seeds if args.one is None else [args.one])
    return 0


def ablate(args: argparse.Namespace, names: list[str], seeds: list[int]) -> None:
    """Run the rows seed by seed and write their tables and figures after each seed."""
    from tqdm import tqdm

    from mmer import checkpoint
    from mmer.speech import Transcriber
    from training.experiments.ablation_data import Data
    from training.experiments.ablation_report import draw, page, summary
    from training.experiments.ablation_runner import Ablation
    from training.experiments.run_cache import Runs

    paths, config = Paths.from_env(), TrainConfig(precision=args.precision)
    served = checkpoint.load(args.checkpoint, paths.checkpoints) if args.checkpoint else None
    whisper = Transcriber(args.whisper, download_root=paths.assets / "whisper") if args.whisper else None
    if whisper is not None and served is not None:
        shape, found = served.model.config, whisper.encoder_size()
        if (shape.whisper_depths, shape.whisper_width) != found:
            message = f"the voice branch of {served.id} reads another Whisper than {args.whisper}, or none"
            raise TrainingError("wrong_whisper", message)
    data = Data(args.corpora, args.out / "work", BUDGETS[args.budget], whisper, config.voice_whisper_views)
    ablation = Ablation(data, config, Runs(args.out / "runs"), served)
    sizes = [
        f"{m} {len(data.rows(m, 'train'))} rows to train on, {len(data.rows(m, 'val'))} to measure" for m in MODALITIES
    ]
    bar = tqdm(total=len(names) * len(seeds), desc="rows", mininterval=1)
    for i, seed in enumerate(seeds):
        for name in names:
            bar.set_postfix_str(f"{name}, seed {seed}")
            ablation.run(name, seed)
            bar.update()
        done = seeds[: i + 1]  # the tables can be read while further seeds run
        entries = summary(ablation, names, done)
        about = (
            f"Budget {args.budget}, seeds {', '.join(map(str, done))}; branches of fused rows: "
            f"{f'the checkpoint {served.id}' if served else 'trained here'}"
            f"{', its voice with Whisper' if whisper else ''}. {'; '.join(sizes)}."
        )
        report = {
            "budget": args.budget,
            "seeds": done,
            "checkpoint": served.id if served else None,
            "config": asdict(ablation.config),
            "rows": entries,
        }
        (args.out / "ablation.json").write_text(json.dumps(report, indent=1) + "\n")
        (args.out / "ablation.md").write_text(page(entries, about))
        draw(args.out, entries)
    bar.close()
    print(f"wrote {args.out / 'ablation.md'}")


if __name__ == "__main__":
    run(main)
