"""Public corpora, as they come from their authors, to manifests with speaker-disjoint splits.

    python training/corpora.py --corpora DIR --out DIR

Reads whatever of these lies anywhere below --corpora: RAVDESS speech (wav or flac), EMO-DB (wav or flac), FER2013
(zip or folders of images by class, or the challenge's fer2013.csv), MELD (`*_sent_emo.csv`), GoEmotions grouped to
Ekman's emotions (`*.tsv` beside labels.txt), and those with picture and sound at once: RAVDESS video, MELD raw, and
CREMA-D, SAVEE, IEMOCAP, eNTERFACE of training/data/paired.py. Speech of more languages: nEMO, ASED, URDU, TurEV-DB,
TESS and ESD of training/data/speech_corpora.py; lines of films: XED (`en-annotated.tsv`, `neu_en.txt`). The votes of
FER+ stand beside the labels of FER2013. Writes one manifest for each.
"""

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
from pathlib import Path

from mmer.errors import TrainingError
from training.command import run
from training.data import paired, speech_corpora
from training.data.manifest import Row, write
from training.data.unpaired import (
    emodb,
    fer2013_folders,
    goemotions,
    meld,
    meld_video,
    ravdess,
    ravdess_video,
    unpack_fer2013,
    xed,
)
from training.data.votes import ferplus_votes, with_votes


def read_all(corpora: Path, out: Path, *, cremad: str = "acted") -> dict[str, list[Row]]:
    """Return the rows of every corpus found below `corpora`; images are unpacked below `out`.

    Args:
        cremad: "acted" or "heard", see `training.data.paired.cremad`.

    Raises:
        TrainingError: `no_corpora` when none is there.
    """
    if not corpora.is_dir():
        raise TrainingError("no_corpora", f"{corpora} is not a folder; give the one that holds the corpora")
    found = {
        "ravdess": ravdess(corpora),
        "emodb": emodb(corpora),
        "meld": meld(corpora),
        "goemotions": goemotions(corpora),
        "ravdess_video": ravdess_video(corpora),
        "cremad": paired.cremad(corpora, cremad),
        "meld_video": meld_video(corpora),
        "savee": paired.savee(corpora),
        "iemocap": paired.iemocap(corpora),
        "enterface": paired.enterface(corpora),
        "nemo": speech_corpora.nemo(corpora),
        "ased": speech_corpora.ased(corpora),
        "urdu": speech_corpora.urdu(corpora),
        "turev": speech_corpora.turev(corpora),
        "tess": speech_corpora.tess(corpora),
        "esd": speech_corpora.esd(corpora),
        "xed": xed(corpora),
    }
    packed = [*corpora.rglob("fer2013.zip"), *corpora.rglob("fer2013.csv")]
    found["fer2013"] = fer2013_folders(unpack_fer2013(packed[0], out)) if packed else []
    if not packed:
        for folder in corpora.rglob("*"):
            if folder.is_dir() and folder.name.lower() in ("fer2013", "fer-2013"):
                found["fer2013"] = fer2013_folders(folder)
    if found.get("fer2013"):
        found["fer2013"] = with_votes(found["fer2013"], ferplus_votes(corpora))
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        raise TrainingError(
            "no_corpora",
            f"{corpora} holds none of RAVDESS, EMO-DB, FER2013, MELD, GoEmotions, CREMA-D, SAVEE, IEMOCAP, eNTERFACE, "
            "nEMO, ASED, URDU, TurEV-DB, TESS, ESD, XED",
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    parser.add_argument(
        "--cremad",
        choices=("acted", "heard"),
        default="acted",
        help="CREMA-D's label: what was asked of the actor, or what most raters saw and heard",
    )
    args = parser.parse_args()
    for name, rows in read_all(args.corpora, args.out, cremad=args.cremad).items():
        write(args.out / f"{name}.csv", rows)
        counts = ", ".join(f"{sum(r.split == s for r in rows)} {s}" for s in ("train", "val", "test"))
        print(f"{args.out / name}.csv: {counts}")
    return 0


if __name__ == "__main__":
    run(main)
