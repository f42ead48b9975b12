"""Corpora of one kind of media, or of media that are read apart, to rows with speaker-disjoint splits."""

import csv
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mmer.labels import EMODB_CODES, RAVDESS_CODES, emotion
from training.data.manifest import Row

# Speakers kept out of training. RAVDESS: one fold of the EmoBox list for validation, the last for testing
# (https://arxiv.org/abs/2406.07162).
RAVDESS_VAL, RAVDESS_TEST = {2, 15, 16, 18}, {6, 13, 17, 22}
_RAVDESS_WORDS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
EMODB_VAL = {"10", "11"}
EMODB_TEST = {"12", "13", "14", "15", "16"}
EMODB_MEN = {"03", "10", "11", "12", "15"}
_MELD_FOLDERS = {"train_splits": "train", "dev_splits_complete": "val", "output_repeated_splits_test": "test"}
# Copies of MELD went through cp1252: these control characters are its quotes, dashes and dots.
_CP1252 = {c: bytes([c]).decode("cp1252") for c in (0x85, *range(0x91, 0x98))}
_PLUTCHIK = {"1": "anger", "3": "disgust", "4": "fear", "5": "happiness", "6": "sadness", "7": "surprise"}
_SOUND = (".wav", ".flac")
_IMAGE = (".jpg", ".jpeg", ".png")


def ravdess(folder: Path) -> list[Row]:
    """Speech of RAVDESS: `Actor_NN/03-01-EE-II-SS-RR-AA`, calm counted as neutral."""
    rows = []
    for path in sorted(p for p in folder.rglob("03-01-*") if p.suffix.lower() in _SOUND):
        parts = path.stem.split("-")
        if len(parts) != 7 or parts[2] not in RAVDESS_CODES:
            continue
        actor = int(parts[6])
        split = "val" if actor in RAVDESS_VAL else "test" if actor in RAVDESS_TEST else "train"
        label = emotion(RAVDESS_CODES[parts[2]])
        group = "male" if actor % 2 else "female"  # its authors number them so
        rows.append(Row((label,), path, speaker=f"ravdess-{actor:02d}", corpus="ravdess", split=split, group=group))
    return rows


def ravdess_words(path: Path) -> str:
    """Return what is said in a file of RAVDESS; its two sentences have a number in the name."""
    return _RAVDESS_WORDS.get(path.stem.split("-")[4], "")


def ravdess_video(folder: Path) -> list[Row]:
    """RAVDESS with picture and sound: `Actor_NN/01-01-EE-II-SS-RR-AA.mp4`, speech; splits as those of its sound."""
    rows = []
    for path in sorted(folder.rglob("01-01-*.mp4")):
        parts = path.stem.split("-")
        if len(parts) != 7 or parts[2] not in RAVDESS_CODES:
            continue
        actor = int(parts[6])
        split = "val" if actor in RAVDESS_VAL else "test" if actor in RAVDESS_TEST else "train"
        label, words = emotion(RAVDESS_CODES[parts[2]]), ravdess_words(path)
        group = "male" if actor % 2 else "female"
        rows.append(
            Row((label,), path, words, speaker=f"ravdess-{actor:02d}", corpus="ravdess_video", split=split, group=group)
        )
    return rows


def emodb(folder: Path) -> list[Row]:
    """EMO-DB: `SSTTTEv`; boredom is none of the seven emotions and is left out."""
    rows = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SOUND and len(p.stem) == 7):
        speaker, code = path.stem[:2], path.stem[5]
        if not speaker.isdigit() or EMODB_CODES.get(code, "boredom") == "boredom":
            continue
        split = "val" if speaker in EMODB_VAL else "test" if speaker in EMODB_TEST else "train"
        group = "male" if speaker in EMODB_MEN else "female"
        label = EMODB_CODES[code]
        rows.append(Row((label,), path, speaker=f"emodb-{speaker}", corpus="emodb", split=split, group=group))
    return rows


def fer2013_folders(folder: Path) -> list[Row]:
    """FER2013 as `train|validation|test/<class>/*.jpg`; a training image that is also held out is left out."""
    splits = {"train": "train", "validation": "val", "publictest": "val", "test": "test", "privatetest": "test"}
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _IMAGE):
        split = splits.get(path.parent.parent.name.lower())
        if split:
            found.append((split, path))
    found.sort(key=lambda item: item[0] == "train")  # held-out images claim their bytes first
    rows, seen = [], set()
    for split, path in found:
        digest = hashlib.sha256(path.read_bytes()).digest()
        if split == "train" and digest in seen:
            continue
        seen.add(digest)
        rows.append(Row((emotion(path.parent.name),), path, corpus="fer2013", split=split, crop="face"))
    return rows


def unpack_fer2013(source: Path, out: Path) -> Path:
    """Turn FER2013's zip or fer2013.csv into folders of images below `out`, once."""
    target = out / "fer2013"
    done = target / "complete"
    if done.is_file():
        return target
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as z:
            z.extractall(target)
    else:
        classes = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
        usages = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
        csv.field_size_limit(1 << 20)
        with source.open(newline="") as f:
            for i, cells in enumerate(csv.DictReader(f)):
                folder = target / usages[cells["Usage"]] / classes[int(cells["emotion"])]
                folder.mkdir(parents=True, exist_ok=True)
                pixels = np.array(cells["pixels"].split(), np.uint8).reshape(48, 48)
                Image.fromarray(pixels).save(folder / f"{i:05d}.png")
    done.touch()
    return target


def meld(folder: Path) -> list[Row]:
    """MELD's sentences: `{train,dev,test}_sent_emo.csv`."""
    rows = []
    for path in sorted(folder.rglob("*_sent_emo.csv")):
        split = {"train": "train", "dev": "val", "test": "test"}.get(path.name.split("_")[0])
        if split is None:
            continue
        for cells, text in meld_sentences(path):
            rows.append(
                Row(
                    (emotion(cells["Emotion"]),),
                    text=text,
                    speaker=f"meld-{cells['Speaker']}",
                    corpus="meld",
                    split=split,
                )
            )
    return rows


def meld_sentences(path: Path) -> Iterator[tuple[dict, str]]:
    """Yield the lines of one of MELD's tables, each with its sentence; empty ones are left out."""
    with path.open(newline="", encoding="utf-8", errors="replace") as f:
        for cells in csv.DictReader(f):
            text = cells["Utterance"].translate(_CP1252).strip()
            if text:
                yield cells, text


def meld_video(folder: Path) -> list[Row]:
    """MELD raw: `diaD_uttU.mp4` in its three folders of splits, and the sentences' tables; only rows with a clip.

    Its own splits are kept; they share its six main characters.
    """
    clips: dict[tuple[str, str], Path] = {}
    for name, split in _MELD_FOLDERS.items():
        for part in folder.rglob(name):
            clips |= {(split, p.stem): p for p in part.glob("dia*_utt*.mp4")}
    if not clips:
        return []
    rows = []
    for path in sorted(folder.rglob("*_sent_emo.csv")):
        split = {"train": "train", "dev": "val", "test": "test"}.get(path.name.split("_")[0], "")
        for cells, text in meld_sentences(path):
            clip = clips.get((split, f"dia{cells['Dialogue_ID']}_utt{cells['Utterance_ID']}"))
            if clip is not None:
                rows.append(
                    Row(
                        (emotion(cells["Emotion"]),),
                        clip,
                        text,
                        speaker=f"meld-{cells['Speaker']}",
                        corpus="meld_video",
                        split=split,
                    )
                )
    return rows


def goemotions(folder: Path) -> list[Row]:
    """GoEmotions, Ekman grouping: `{train,dev,test}.tsv` with text, label numbers into labels.txt, id."""
    rows = []
    for names in sorted(folder.rglob("labels.txt")):
        labels = names.read_text().split()
        for path in sorted(names.parent.glob("*.tsv")):
            split = {"train": "train", "dev": "val", "test": "test"}.get(path.stem)
            if split is None:
                continue
            for line in path.read_text(encoding="utf-8").splitlines():
                text, numbers, _ = line.split("\t")
                found = tuple(emotion(labels[int(n)]) for n in numbers.split(","))
                rows.append(Row(found, text=text, corpus="goemotions", split=split))
    return rows


def xed(folder: Path) -> list[Row]:
    """XED, lines of films: `en-annotated.tsv` with Plutchik's numbers and `neu_en.txt`, split by a hash of the line.

    Anticipation and trust are none of ours: a line that has only these is left out.
    """
    rows = []
    for path in sorted([*folder.rglob("en-annotated.tsv"), *folder.rglob("neu_en.txt")]):
        for line in path.read_text(encoding="utf-8").splitlines():
            cells = line.split("\t")
            if len(cells) != 2:
                continue
            neutral = path.name == "neu_en.txt"
            labels = ("neutral",) if neutral else _plutchik(cells[1])
            text = cells[1 if neutral else 0].strip()
            if text and labels:
                rows.append(Row(labels, text=text, corpus="xed", split=_line_split(text)))
    return rows


def _plutchik(cell: str) -> tuple[str, ...]:
    """Return our emotions among Plutchik's numbers, each once, in their order."""
    names = (_PLUTCHIK.get(number.strip()) for number in cell.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def _line_split(text: str) -> str:
    """Return train, val or test, 80, 10 and 10 %; the same line, however it is written, is in one split."""
    draw = int(hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()[:8], 16) / 2**32
    return "train" if draw < 0.8 else "val" if draw < 0.9 else "test"
