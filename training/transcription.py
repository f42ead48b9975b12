"""Measure transcription: word error rate, time, words' times, the language found, and words nobody said.

    python training/transcription.py --corpora DIR --out results/transcription --whisper base [--pads none 4 8]

Reads utterances of RAVDESS (its two sentences) and nEMO (its transcripts), drawn by a hash of their names, and makes
silence, music and noise itself. With --pads each way is measured: `none` is Whisper's half minute, a number says how
many seconds of silence a first, shorter try hears behind the words. Needs jiwer. Writes transcription.json and .md.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import json
from pathlib import Path

from mmer.config import Paths
from mmer.errors import TrainingError
from training.command import run


def _pad(value: str) -> float | None:
    return None if value == "none" else float(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds RAVDESS, nEMO or both")
    parser.add_argument("--out", type=Path, default=Path("results/transcription"))
    parser.add_argument("--whisper", default="base", metavar="NAME|FILE")
    parser.add_argument("--clips", type=int, default=60, help="utterances of each corpus (default: %(default)s)")
    parser.add_argument("--sounds", type=int, default=30, help="of each kind without speech (default: %(default)s)")
    parser.add_argument("--pads", nargs="+", type=_pad, metavar="SECONDS|none", help="default: as in use")
    args = parser.parse_args()

    from mmer.speech import PAD_S, Transcriber  # and torch: --help does without
    from training.experiments.transcription import measure, page, sample

    rows = sample(args.corpora, args.clips)
    if not rows:
        raise TrainingError("no_corpora", f"{args.corpora} holds neither RAVDESS nor nEMO")
    args.out.mkdir(parents=True, exist_ok=True)
    root, found = Paths.from_env().assets / "whisper", []
    for pad_s in args.pads or [PAD_S]:
        transcriber = Transcriber(args.whisper, download_root=root, pad_s=pad_s)
        found.append(measure(transcriber, rows, args.sounds))
        (args.out / "transcription.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        (args.out / "transcription.md").write_text(page(found))
    print(page(found))
    return 0


if __name__ == "__main__":
    run(main)
