"""Corpora in which one person is seen, heard and read at once, in the layouts of their authors.

CREMA-D has actors, SAVEE and eNTERFACE volunteers who act, IEMOCAP pairs of actors. Where the authors say what is
spoken it becomes the text, so that nothing is transcribed. No speaker is in two splits.
"""

import csv
import hashlib
import re
from pathlib import Path

from mmer.errors import TrainingError
from training.data.manifest import Row

_CREMAD_CODES = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}
_CREMAD_WORDS = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
_SAVEE_CODES = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}
# Excited is counted as happy, as is usual; frustrated, other and undecided are none of the seven.
_IEMOCAP_CODES = {
    "ang": "anger",
    "dis": "disgust",
    "fea": "fear",
    "hap": "happiness",
    "exc": "happiness",
    "neu": "neutral",
    "sad": "sadness",
    "sur": "surprise",
}
_ENTERFACE_CODES = {"an": "anger", "di": "disgust", "fe": "fear", "ha": "happiness", "sa": "sadness", "su": "surprise"}


def drawn_split(speaker: str) -> str:
    """Return train, val or test for a speaker, 70, 15 and 15 % of them, by a hash of the name."""
    draw = int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) / 2**32
    return "train" if draw < 0.7 else "val" if draw < 0.85 else "test"


def cremad(folder: Path, label: str = "acted") -> list[Row]:
    """CREMA-D: `VideoFlash/NNNN_SSS_EEE_LL.flv`, or `AudioWAV/*.wav` for clips without a picture.

    Args:
        label: "acted" is the emotion the actor was asked for, in the file's name; "heard" what most raters saw and
            heard, from processedResults/summaryTable.csv, several with a tie. Models reach 73 against 48 % of them,
            so the corpus is called cremad-acted or cremad-heard.
    """
    name = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_(XX|LO|MD|HI|X)")
    found: dict[str, Path] = {}
    for suffix in ("flv", "mp4", "wav"):  # a clip with a picture comes first
        for path in sorted(folder.rglob(f"[0-9][0-9][0-9][0-9]_*.{suffix}")):
            if name.fullmatch(path.stem):
                found.setdefault(path.stem, path)
    if not found:
        return []
    sexes: dict[str, str] = {}
    for table in folder.rglob("VideoDemographics.csv"):
        with table.open(newline="", encoding="utf-8") as f:
            sexes |= {cells["ActorID"]: cells["Sex"].strip().lower() for cells in csv.DictReader(f)}
    heard = _cremad_votes(folder) if label == "heard" else {}
    rows = []
    for stem, path in sorted(found.items()):
        actor, words, code, _ = stem.split("_")
        labels = heard.get(stem, ()) if label == "heard" else (_CREMAD_CODES[code],)
        if labels:
            speaker = f"cremad-{actor}"
            rows.append(
                Row(
                    labels,
                    path,
                    _CREMAD_WORDS.get(words, ""),
                    speaker=speaker,
                    corpus=f"cremad-{label}",
                    split=drawn_split(speaker),
                    group=sexes.get(actor, ""),
                )
            )
    return rows


def _cremad_votes(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return what most raters of picture and sound chose, by clip; votes are letters, ties joined by a colon."""
    tables = sorted(folder.rglob("summaryTable.csv"))
    if not tables:
        raise TrainingError(
            "no_votes", f"{folder} has no processedResults/summaryTable.csv; the heard labels are there"
        )
    letters = {code[0]: e for code, e in _CREMAD_CODES.items()}
    with tables[0].open(newline="", encoding="utf-8") as f:
        return {
            cells["FileName"]: tuple(letters[v] for v in cells["MultiModalVote"].split(":"))
            for cells in csv.DictReader(f)
        }


def savee(folder: Path) -> list[Row]:
    """SAVEE: `AudioVisualClip/DC/a01.avi` or `AudioData/DC/a01.wav`; four men, of whom JK validates and KL tests."""
    found: dict[tuple[str, str], Path] = {}
    for suffix in ("avi", "wav"):
        for path in sorted(folder.rglob(f"*.{suffix}")):
            match = re.fullmatch(r"(?:(DC|JE|JK|KL)_)?((?:sa|su|[adfhn])\d\d)", path.stem)
            if match and (speaker := match[1] or path.parent.name) in ("DC", "JE", "JK", "KL"):
                found.setdefault((speaker, match[2]), path)
    splits = {"JK": "val", "KL": "test"}
    return [
        Row(
            (_SAVEE_CODES[take[:-2]],),
            path,
            speaker=f"savee-{who}",
            corpus="savee",
            split=splits.get(who, "train"),
            group="male",
        )
        for (who, take), path in sorted(found.items())
    ]


def iemocap(folder: Path) -> list[Row]:
    """IEMOCAP: `SessionN/dialog/EmoEvaluation/*.txt` with `sentences/wav/*/*.wav` and the transcriptions.

    Its videos show both speakers side by side, so only sound and words are read. Session 4 validates, session 5 tests.
    """
    rows = []
    for session in sorted(p for p in folder.rglob("Session[1-5]") if (p / "dialog" / "EmoEvaluation").is_dir()):
        number = session.name[-1]
        words = {}
        for path in sorted((session / "dialog" / "transcriptions").glob("Ses*.txt")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                match = re.match(r"(Ses\w+) \[[\d.-]+\]: (.*)", line)
                if match:
                    words[match[1]] = match[2].strip()
        for path in sorted((session / "dialog" / "EmoEvaluation").glob("Ses*.txt")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                match = re.match(r"\[[\d.]+ - [\d.]+\]\t(\w+)\t(\w+)\t", line)
                if not match or match[2] not in _IEMOCAP_CODES:
                    continue
                name = match[1]
                sound = session / "sentences" / "wav" / name.rsplit("_", 1)[0] / f"{name}.wav"
                if sound.is_file():
                    sex = name.rsplit("_", 1)[1][0]
                    split = {"4": "val", "5": "test"}.get(number, "train")
                    rows.append(
                        Row(
                            (_IEMOCAP_CODES[match[2]],),
                            sound,
                            words.get(name, ""),
                            speaker=f"iemocap-{number}{sex}",
                            corpus="iemocap",
                            split=split,
                            group={"F": "female", "M": "male"}.get(sex, ""),
                        )
                    )
    return rows


def enterface(folder: Path) -> list[Row]:
    """eNTERFACE'05: `subject N/<emotion>/sentence M/sN_EE_M.avi`; one subject's files lie one folder higher."""
    rows = []
    for path in sorted(folder.rglob("s*_*_*.avi")):
        match = re.match(r"s_?(\d+)_(an|di|fe|ha|sa|su)_\d", path.stem)
        if match:
            speaker = f"enterface-{int(match[1]):02d}"
            rows.append(
                Row(
                    (_ENTERFACE_CODES[match[2]],), path, speaker=speaker, corpus="enterface", split=drawn_split(speaker)
                )
            )
    return rows
