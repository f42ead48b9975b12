"""Manifests: one CSV row per utterance, image or sentence, with its label, speaker and split."""

import csv
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from mmer.errors import LabelError, TrainingError
from mmer.labels import EMOTIONS, N_EMOTIONS, emotion

COLUMNS = ("path", "text", "start", "end", "label", "speaker", "corpus", "split", "crop", "group", "votes")
SPLITS = ("train", "val", "test", "")


@dataclass(frozen=True)
class Row:
    """One labelled utterance. `emotions` has more than one entry where a corpus gives several labels."""

    emotions: tuple[str, ...]
    path: Path | None = None
    text: str = ""
    start_s: float | None = None
    end_s: float | None = None
    speaker: str = ""
    corpus: str = ""
    split: str = ""
    crop: str = ""  # "face": the image already is a face crop
    line: int = 0  # in the file it came from
    group: str = ""  # of speakers, to compare how well each is served: female, male
    votes: tuple[float, ...] = ()  # (K,) shares of what raters saw, a soft target beside the label

    @property
    def label(self) -> int:
        """Index of the only emotion, or of the first of several."""
        return EMOTIONS.index(self.emotions[0])

    @property
    def target(self) -> list[float]:
        """Probability of each emotion: equal shares of the labels given."""
        return [self.emotions.count(e) / len(self.emotions) for e in EMOTIONS]

    @property
    def name(self) -> str:
        return str(self.path) if self.path else self.text[:60]


@dataclass(frozen=True)
class Manifest:
    rows: tuple[Row, ...]
    problems: tuple[str, ...] = field(default=())  # one line for each row that could not be read

    def part(self, split: str) -> tuple[Row, ...]:
        return tuple(r for r in self.rows if r.split == split)


def _seconds(value: str | None) -> float | None:
    return float(value) if value and value.strip() else None


def _parse(cells: dict, folder: Path, line: int) -> Row:
    get = {k: (v or "").strip() for k, v in cells.items() if isinstance(k, str) and not isinstance(v, list)}.get
    path = folder / get("path", "") if get("path", "") else None
    if path is None and not get("text", ""):
        raise LabelError("empty_row", "neither path nor text is given")
    if path is not None and not path.is_file():
        raise LabelError("no_file", f"{path} does not exist")
    split = get("split", "")
    if split not in SPLITS:
        raise LabelError("unknown_split", f"split {split!r} is not one of train, val, test or empty")
    start, end = _seconds(get("start")), _seconds(get("end"))
    if start is not None and end is not None and end <= start:
        raise LabelError("bad_times", f"end {end:g} s is not after start {start:g} s")
    if get("crop", "") not in ("", "face"):
        raise LabelError("unknown_crop", f"crop {get('crop')!r} is not 'face' or empty")
    return Row(
        tuple(emotion(part) for part in get("label", "").split("|")),
        path,
        get("text", ""),
        start,
        end,
        get("speaker", ""),
        get("corpus", ""),
        split,
        get("crop", ""),
        line,
        get("group", ""),
        _votes(get("votes", "")),
    )


def _votes(cell: str) -> tuple[float, ...]:
    if not cell:
        return ()
    shares = tuple(float(part) for part in cell.split("|"))
    if len(shares) != N_EMOTIONS or min(shares) < 0 or not sum(shares) > 0:
        raise LabelError(
            "bad_votes", f"votes {cell!r} are not {N_EMOTIONS} shares from 0, in the order {', '.join(EMOTIONS)}"
        )
    return tuple(share / sum(shares) for share in shares)


def read(path: str | Path) -> Manifest:
    """Read a manifest; a row that cannot be read becomes a line in `problems`. Several labels are joined by `|`.

    Raises:
        TrainingError: `no_manifest`, `bad_manifest` when the file as a whole cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise TrainingError(
            "no_manifest", f"{path} does not exist; a CSV with the columns {', '.join(COLUMNS)} is needed"
        )
    rows, problems = [], []
    with path.open(newline="", encoding="utf-8-sig") as f:
        reader = csv.DictReader(f)
        try:
            if not reader.fieldnames or "label" not in reader.fieldnames:
                found = ", ".join(reader.fieldnames or ()) or "no header"
                raise TrainingError("bad_manifest", f"{path} has {found}; the columns {', '.join(COLUMNS)} are needed")
            for cells in reader:
                try:
                    rows.append(_parse(cells, path.parent, reader.line_num))
                except (LabelError, ValueError, OSError) as error:  # OSError: a path longer than any file's name
                    problems.append(f"{path.name} line {reader.line_num}: {error}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise TrainingError("bad_manifest", f"{path} cannot be read as UTF-8 CSV: {error}") from error
    return Manifest(tuple(rows), tuple(problems))


def write(path: str | Path, rows: list[Row] | tuple[Row, ...]) -> None:
    """Write rows as a manifest; media paths become relative to it where they can."""
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)

    def relative(p: Path | None) -> str:
        if p is None:
            return ""
        p = p.resolve()
        return str(p.relative_to(path.parent)) if p.is_relative_to(path.parent) else str(p)

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(COLUMNS)
        for r in rows:
            times = number(r.start_s), number(r.end_s)
            about = r.speaker, r.corpus, r.split, r.crop, r.group
            votes = "|".join(f"{share:.4g}" for share in r.votes)
            writer.writerow([relative(r.path), r.text, *times, "|".join(r.emotions), *about, votes])


def class_counts(rows: list[Row] | tuple[Row, ...]) -> list[float]:
    """Return how much label mass each emotion has, in the order of `EMOTIONS`."""
    return [sum(r.target[k] for r in rows) for k in range(N_EMOTIONS)]


def data_hash(rows: tuple[Row, ...]) -> str:
    """Return a hash of which examples with which labels a stage was given."""
    lines = sorted(
        f"{r.corpus}|{r.path.name if r.path else r.text}|{'|'.join(r.emotions)}{r.votes or ''}" for r in rows
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
