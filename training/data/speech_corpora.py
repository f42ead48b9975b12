"""Corpora of emotional speech in several languages, as their authors publish them, with speaker-disjoint splits.

Where a corpus has few speakers, those who validate (and test) are the first by a hash of their names; where it has
many, each is drawn by it.
"""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmer.errors import LabelError
from mmer.labels import emotion
from training.data.manifest import Row
from training.data.paired import drawn_split

_ASED_CODES = {"n": "neutral", "f": "fear", "h": "happiness", "s": "sadness", "a": "anger"}
_ESD_WOMEN = {"0001", "0002", "0003", "0007", "0009", "0015", "0016", "0017", "0018", "0019"}
_SEXES = {"F": "female", "M": "male"}


def first_by_hash(speakers: Iterable[str], n: int = 1) -> set[str]:
    """Return `n` of the speakers, the same ones wherever the corpus lies."""
    return set(sorted(speakers, key=lambda s: hashlib.sha256(s.encode()).hexdigest())[:n])


def _sounds(folder: Path, pattern: str, *suffixes: str) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (suffixes or (".wav",))):
        if match := re.fullmatch(pattern, path.stem):
            yield path, match


def nemo(folder: Path) -> list[Row]:
    """nEMO, Polish: `data.tsv` beside `samples/SPEAKER_emotion_N.wav` (or ogg); a woman and a man validate."""
    rows = []
    for table in sorted(folder.rglob("data.tsv")):
        with table.open(newline="", encoding="utf-8") as f:
            reader = csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)
            if not {"file_id", "emotion", "raw_text", "speaker_id", "gender"} <= set(reader.fieldnames or ()):
                continue
            lines = [{k: (v or "").strip() for k, v in cells.items()} for cells in reader]
        sexes = {cells["speaker_id"]: cells["gender"] for cells in lines}
        val = set[str]().union(*(first_by_hash(s for s in sexes if sexes[s] == sex) for sex in ("female", "male")))
        sounds = {p.stem: p for p in (table.parent / "samples").glob("*") if p.suffix.lower() in (".wav", ".ogg")}
        for cells in lines:
            path, who = sounds.get(Path(cells["file_id"]).stem), cells["speaker_id"]
            if path is not None:
                rows.append(
                    Row(
                        (emotion(cells["emotion"]),),
                        path,
                        cells["raw_text"],
                        speaker=f"nemo-{who}",
                        corpus="nemo",
                        split="val" if who in val else "train",
                        group=sexes[who],
                    )
                )
    return rows


def ased(folder: Path) -> list[Row]:
    """ASED, Amharic: `EN-SS-RR-GG-PP.wav`: emotion and folder, sentence, repetition, sex (01 female), participant."""
    rows = []
    for path, match in _sounds(folder, r"([nfhsa])\d-\d\d-\d\d-(0[12])-(\d\d)"):
        label, speaker = _ASED_CODES[match[1]], f"ased-{match[3]}"
        group = "female" if match[2] == "01" else "male"
        rows.append(Row((label,), path, speaker=speaker, corpus="ased", split=drawn_split(speaker), group=group))
    return rows


def urdu(folder: Path) -> list[Row]:
    """URDU, talk shows: `Angry|Happy|Neutral|Sad/SMn_Fn_An.wav`: sex and number of the speaker, file, emotion."""
    rows = []
    for path, match in _sounds(folder, r"S([MF])(\d+)_F\d+_[AHNS]\d+"):
        label, speaker = _folder_emotion(path), f"urdu-{match[1]}{match[2]}"
        if label:
            split, group = drawn_split(speaker), _SEXES[match[1]]
            rows.append(Row((label,), path, speaker=speaker, corpus="urdu", split=split, group=group))
    return rows


def turev(folder: Path) -> list[Row]:
    """TurEV-DB, Turkish: `Sound Source/Angry|Calm|Happy|Sad/PPPP_ee_word.wav`; one person validates, one tests."""
    found = [
        (path, match[1], label)
        for path, match in _sounds(folder, r"(\d{4})_[a-z]{2}_\w+")
        if (label := _folder_emotion(path))
    ]
    people = {who for _, who, _ in found}
    val = first_by_hash(people)
    test = first_by_hash(people - val)
    splits = {who: "val" if who in val else "test" if who in test else "train" for who in people}
    return [
        Row((label,), path, speaker=f"turev-{who}", corpus="turev", split=splits[who]) for path, who, label in found
    ]


def tess(folder: Path) -> list[Row]:
    """TESS: `OAF_word_emotion.wav` of an older woman, who trains, and `YAF_…` of a younger one, who validates."""
    rows = []
    for path, match in _sounds(folder, r"(O|Y)AF?_([a-z]+)_(angry|disgust|fear|happy|neutral|ps|sad)"):
        label = "surprise" if match[3] == "ps" else emotion(match[3])  # a pleasant surprise
        words, split = f"Say the word {match[2]}.", "train" if match[1] == "O" else "val"
        speaker = f"tess-{match[1]}AF"
        rows.append(Row((label,), path, words, speaker=speaker, corpus="tess", split=split, group="female"))
    return rows


def esd(folder: Path) -> list[Row]:
    """ESD: `SSSS/Emotion/[train|evaluation|test/]SSSS_NNNNNN.wav`, Mandarin up to 0010, then English.

    Its own splits share all speakers and are not kept.
    """
    rows = []
    for path, match in _sounds(folder, r"(\d{4})_\d{6}"):
        parent = path.parent.parent if path.parent.name in ("train", "evaluation", "test") else path.parent
        label, who = _folder_emotion(parent / path.name), match[1]
        if label and parent.parent.name == who:
            group = "female" if who in _ESD_WOMEN else "male"
            corpus = "esd-mandarin" if who <= "0010" else "esd-english"
            speaker = f"esd-{who}"
            rows.append(Row((label,), path, speaker=speaker, corpus=corpus, split=drawn_split(speaker), group=group))
    return rows


def _folder_emotion(path: Path) -> str | None:
    """Return the emotion that a file's folder is called by, None where it is called otherwise."""
    try:
        return emotion(path.parent.name)
    except LabelError:
        return None
