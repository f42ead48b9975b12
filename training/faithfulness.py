"""Measure how faithful the maps of an explanation are, for each branch and method.

    python training/faithfulness.py --manifest M.csv ... --report R.json [--limit N] [--split val]

Units of a map (patches of a face, cells of a spectrogram, words) are taken away and put back in the map's order; the
areas under the curves of the logit, from 0 to 1, are compared with those of random maps and of a map that only knows
the centre. `gain` is how much better a method is, `ci95` its interval over clips; a method is better than chance where
the interval excludes 0. The default is measured on all clips, the other methods on the first --compare of them; there
the best that adds up is chosen, which `default` names. `infidelity`, `sensitivity` and `random_weights` (the
correlation with the map of a model whose weights were shuffled) are measured on the first --checks.

--planted N also trains a small model for each branch on a signal planted where it is known (a tone, a patch, a word)
and says how well the verdicts tell right maps from wrong ones: `planted{branch: {auroc, …}}`.

What was measured of a clip is kept beside the report (R.clips.jsonl), so that a run goes on where it was stopped;
clips come in the order of a hash of their names, the same one each time.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmer.config import Paths
from mmer.errors import MmerError, TrainingError
from mmer.labels import MODALITIES
from training.command import run
from training.data import manifest

if TYPE_CHECKING:
    from mmer.predict import Predictor


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, nargs="+")
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--limit", type=int, metavar="N", help="clips at most")
    parser.add_argument("--longest", type=float, metavar="S", help="leave longer utterances out: they take longer")
    parser.add_argument("--compare", type=int, default=50, metavar="N", help="clips on which all methods are measured")
    parser.add_argument("--checks", type=int, default=10, metavar="N", help="clips on which all checks are made")
    parser.add_argument(
        "--planted", type=int, default=0, metavar="N", help="utterances with a planted signal, per branch"
    )
    parser.add_argument("--checkpoint", metavar="ID", help="default: the promoted one")
    parser.add_argument("--modalities", default=",".join(MODALITIES), help="which to use, comma separated")
    parser.add_argument("--split", choices=("train", "val", "test"), help="only rows of this split")
    parser.add_argument("--seed", type=int, default=0, help="of random maps and of the bootstrap")
    return parser


def main() -> int:
    options = parser()
    args = options.parse_args()
    modalities = [m.strip() for m in args.modalities.split(",") if m.strip()]
    if not modalities or not set(modalities) <= set(MODALITIES):
        options.error(f"--modalities {args.modalities!r}: use some of {','.join(MODALITIES)}")
    rows = _rows(args)

    from mmer.predict import Predictor  # torch: --help does without
    from training.experiments.faithfulness import report

    predictor = Predictor(Paths.from_env(), args.checkpoint)
    lines, failed, left_out = _measure(args, rows, modalities, predictor)
    if not lines:
        nothing = f"none of the rows of {_names(args.manifest)} could be explained"
        raise TrainingError("no_rows", f"{nothing}; see the lines above")
    checkpoint = predictor.checkpoint.id
    result = {**report(lines, args.seed), "failed": failed, "left_out": left_out, "checkpoint": checkpoint}
    if args.planted:
        from training.experiments.planted_signals import CONFIG, measure

        result["planted"] = measure(args.planted, args.seed, predictor.perceiver.language(CONFIG))
    args.report.write_text(json.dumps(result, indent=1) + "\n")
    for branch, methods in result["branches"].items():
        for name, f in methods.items():
            gain = ", ".join(f"{g} {f['gain'][g]:+.3f}" for g in ("deletion", "insertion"))
            mark = " *" if result["default"][branch] == name else ""
            print(f"{branch}, {name}{mark}: {gain} over random maps, {f['trustworthy']:.0%} trustworthy, n {f['n']}")
    return 0


def _rows(args: argparse.Namespace) -> list[tuple[str, manifest.Row]]:
    """Return the rows that were asked for, each with its name, in the order of a hash of what it says."""
    rows = []
    for file in args.manifest:
        read = manifest.read(file)
        rows += [(f"{file.stem} {r.line} {r.name}", r) for r in read.rows if args.split in (None, r.split)]
        for problem in read.problems:
            print(problem, file=sys.stderr)
    if not rows:
        raise TrainingError("no_rows", f"{_names(args.manifest)} has no row to explain; see the lines above")

    from training.data.load import row_digest

    return sorted(rows, key=lambda named: row_digest(named[1]))


def _measure(
    args: argparse.Namespace, rows: list[tuple[str, manifest.Row]], modalities: list[str], predictor: "Predictor"
) -> tuple[list[dict], int, int]:
    """Return what was measured, by earlier runs too, and how many clips could not be read or were too long."""
    from tqdm import tqdm

    from training.experiments.evaluation import perceive
    from training.experiments.faithfulness import measure_clip

    loaded = predictor.checkpoint
    kept = args.report.with_suffix(".clips.jsonl")
    args.report.parent.mkdir(parents=True, exist_ok=True)
    known = _known(kept, loaded.id, args.seed, modalities)
    lines: list[dict] = []
    limit, failed, left_out = args.limit or len(rows), 0, 0
    with kept.open("a", encoding="utf-8") as out, tqdm(total=min(limit, len(rows)), unit="clip", mininterval=2) as bar:
        for clip, row in rows:
            if bar.n == limit:
                break
            if clip in known:
                lines += known[clip]
                bar.update()
                continue
            try:
                features = perceive(predictor, row, modalities, False)
                if args.longest is not None and features.end_s - features.start_s > args.longest:
                    left_out += 1
                    continue
                found = list(
                    measure_clip(
                        loaded,
                        features,
                        predictor.language_if_words(loaded, features),
                        predictor.transcriber,
                        everything=bar.n < args.compare,
                        checks=bar.n < args.checks,
                        seed=args.seed,
                    )
                )
            except MmerError as error:
                print(f"{clip}: {error}", file=sys.stderr)
                failed += 1
                continue
            bar.update()
            lines += found
            entry = {"clip": clip, **_made_with(loaded.id, args.seed, modalities), "lines": found}
            print(json.dumps(entry), file=out, flush=True)
    return lines, failed, left_out


def _names(files: list[Path]) -> str:
    return ", ".join(map(str, files))


def _made_with(checkpoint: str, seed: int, modalities: list[str]) -> dict:
    return {"checkpoint": checkpoint, "seed": seed, "modalities": sorted(modalities)}


def _known(file: Path, checkpoint: str, seed: int, modalities: list[str]) -> dict[str, list[dict]]:
    """Return what an earlier run measured of each clip in the same way; a line that was cut off is measured again."""
    found, wanted = {}, _made_with(checkpoint, seed, modalities)
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if {k: entry.get(k) for k in wanted} == wanted:
            found[entry["clip"]] = entry["lines"]
    return found


if __name__ == "__main__":
    run(main)
