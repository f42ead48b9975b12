"""Labels as a Hugging Face dataset: `metadata.parquet`, `media/` and a card, to be pushed to a private repository.

A row is a label, so that annotators stay apart and a clip has as many rows as it has labels. Media is copied only for
clips whose people consented to its being kept; of the others the hash, the labels and, with consent, the features.
https://huggingface.co/docs/datasets/video_dataset#videofolder
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, groupby
from pathlib import Path

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from sqlalchemy import bindparam, select

from annotations.clip_files import ClipFiles
from annotations.db.schema import ClipRecord, ConsentRecord
from annotations.formats.atomic_write import new_folder
from annotations.formats.label_row import DETAILS, FIELDS, REQUIRED
from annotations.formats.text_table import METADATA_TABLES, open_table, open_text, read_jsonl
from annotations.label import Label, heaviest
from annotations.store import Store
from mmer.errors import LabelError
from mmer.labels import EMOTIONS

SUPPORTED_FIELDS = FIELDS
METADATA, CARD = "metadata.parquet", "README.md"
PATH_COLUMNS = ("file_name", "path", "clip")
ROWS = 1000  # per batch: memory holds one
SCHEMA = pa.schema(
    [
        ("file_name", pa.string()),  # null without consent to the media
        ("sha256", pa.string()),
        ("name", pa.string()),
        ("start_s", pa.float64()),  # both null: the whole clip
        ("end_s", pa.float64()),
        ("label", pa.string()),  # the heaviest emotion, or skip, cannot_tell, broken
        ("emotions", pa.struct([(emotion, pa.float64()) for emotion in EMOTIONS])),  # weights, sum 1
        ("target", pa.string()),
        ("annotator", pa.string()),
        ("confidence", pa.float64()),
        ("intensity", pa.float64()),
        ("valence", pa.float64()),
        ("arousal", pa.float64()),
        ("comment", pa.string()),
        ("transcript", pa.string()),
        ("lead_time_s", pa.float64()),
        ("blind", pa.bool_()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("speaker", pa.string()),
        ("consent", pa.string()),  # versions of the texts the person agreed to
        ("features", pa.string()),  # file of the features, without face and voice
    ]
)
_SAME_NAME = (
    "sha256",
    "name",
    "start_s",
    "end_s",
    "target",
    "annotator",
    "confidence",
    "comment",
    "created_at",
    "speaker",
)
_CONSENTS = (  # built once: putting a statement together takes longer than running it
    select(ConsentRecord.text_version, ConsentRecord.scope, ConsentRecord.text, ClipRecord.features)
    .join(ClipRecord, ConsentRecord.clip_id == ClipRecord.id)
    .where(ClipRecord.sha256 == bindparam("sha256"))
    .order_by(ConsentRecord.id)
)


def write(labels: Iterable[Label], out: Path, store: Store) -> None:
    """Write the folder, all or nothing; the labels of one clip must follow each other."""
    clips: Counter[str | None] = Counter()  # by the versions of their consent
    n_labels = 0
    texts: dict[str, tuple[str, str]] = {}  # {version: (scope, text)}
    with new_folder(out, lambda entry: entry.name in (METADATA, CARD, "media", "features", ".cache")) as folder:
        with pq.ParquetWriter(folder / METADATA, SCHEMA, compression="zstd") as table:
            rows = []
            for _, group in groupby(labels, key=lambda label: label.sha256):
                first = next(group)
                about, consents = _clip(first, folder, store)
                clips[about["consent"]] += 1
                texts |= consents
                for label in chain([first], group):
                    rows.append(_row(label) | about)
                    if len(rows) == ROWS:
                        table.write_table(pa.Table.from_pylist(rows, SCHEMA))
                        n_labels, rows = n_labels + ROWS, []
            table.write_table(pa.Table.from_pylist(rows, SCHEMA))
        (folder / CARD).write_text(_card(n_labels + len(rows), clips, texts), encoding="utf-8")


def _clip(label: Label, folder: Path, store: Store) -> tuple[dict, dict[str, tuple[str, str]]]:
    """Copy what may be copied of a clip; return its columns and {version: (scope, text)} of its consents."""
    with store.reading() as session:
        given = session.execute(_CONSENTS, {"sha256": label.sha256}).all()
    about = {
        "file_name": None,
        "features": None,
        "consent": " ".join(consent.text_version for consent in given) or None,
    }
    if label.media and not label.in_place and any(consent.scope == "media" for consent in given):
        about["file_name"] = _copy(label.media, folder / "media")
    features = store.features_dir and given and given[0].features and store.features_dir / given[0].features
    if features and features.is_file():
        about["features"] = _copy(features, folder / "features")
    return about, {consent.text_version: (consent.scope, consent.text) for consent in given}


def _copy(file: Path, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(file, folder / file.name)
    return f"{folder.name}/{file.name}"


def _row(label: Label) -> dict:
    return {
        **{name: getattr(label, name) for name in (*_SAME_NAME, *DETAILS)},
        "label": heaviest(label.emotions) or label.outcome,
        "emotions": label.emotions or None,
    }


def _card(n_labels: int, clips: Counter[str | None], texts: dict[str, tuple[str, str]]) -> str:
    lines = [
        "---",
        "pretty_name: Emotion labels",
        "license: other",
        "license_name: by-consent",
        "task_categories: [video-classification, audio-classification]",
        "tags: [emotion-recognition, multimodal, human-annotated]",
        "---",
        "",
        "# Emotion labels",
        "",
        f"{n_labels} labels of {clips.total()} clips. A row of `{METADATA}` is one annotator's label of a clip, or of",
        "a segment of it, as a whole or of the face, the voice or the words alone (`target`). `label` is the heaviest",
        "of `emotions`, whose weights sum to 1, or skip, cannot_tell, broken. `speaker` groups clips that must not be",
        "split.",
        "",
        "## Consent and licence",
        "",
        "No licence comes with the media: it may be used for what the recorded people agreed to, in the words below,",
        "and has to go when one of them asks. Labels name their annotators. Keep this dataset private.",
        "",
        "| consent | clips |",
        "|---|---|",
        *(f"| {version or 'none: labels only, no media'} | {n} |" for version, n in sorted(clips.items(), key=str)),
    ]
    for version, (scope, text) in sorted(texts.items()):
        kept = {"media": "the clip", "features": "features without face and voice", "words": "its words"}[scope]
        lines += ["", f"### {version}: {kept}", "", *(f"> {line}" for line in text.splitlines())]
    return "\n".join(lines) + "\n"


def read(path: Path, files: ClipFiles, left_out: Counter[str]) -> Iterator[tuple[str, dict | LabelError]]:
    """Yield the rows of a dataset folder: of its `metadata.parquet`, `.csv` or `.jsonl`, in each split's folder.

    Raises:
        LabelError: `unreadable_file`, `missing_column`, `embedded_media`.
    """
    folder = path if path.is_dir() else path.parent
    tables = sorted(table for name in METADATA_TABLES for table in folder.rglob(name))
    if not tables:
        raise LabelError(
            "unreadable_file", f"{folder} has no {METADATA} that can be read, nor metadata as CSV or JSONL"
        )
    for table in tables:
        inside = table.parent.relative_to(folder)
        for n, values in enumerate(_read_table(table), 1):
            where = f"row {n}" if inside == Path() else f"{inside.as_posix()} row {n}"
            yield where, values if isinstance(values, LabelError) else _parse(values, folder, inside)


def _read_table(file: Path) -> Iterator[dict | LabelError]:
    if file.suffix == ".parquet":
        yield from _read_parquet(file)
    elif file.suffix == ".csv":
        with open_table(file, REQUIRED + PATH_COLUMNS) as table:
            _require_columns(file, table.columns)
            yield from (row if isinstance(row, LabelError) else _set(row) for _, row in table.rows)
    else:
        with open_text(file) as stream:
            yield from (row for _, row in read_jsonl(stream))


def _read_parquet(file: Path) -> Iterator[dict]:
    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None
    with table:
        names = table.schema_arrow.names
        _require_columns(file, names)
        if not {"sha256", *PATH_COLUMNS} & set(names):
            raise LabelError("embedded_media", f"{file} names no files; import its media with --project first")
        batches = table.iter_batches(ROWS)
        while True:
            try:
                rows = next(batches).to_pylist()
            except StopIteration:
                return
            except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
                raise _unreadable(file, error) from None
            for values in rows:
                yield {name: value for name, value in values.items() if value is not None}


def _unreadable(file: Path, error: Exception) -> LabelError:
    return LabelError("unreadable_file", f"{file.parent} has no {METADATA} that can be read: {error}")


def _require_columns(file: Path, names: Iterable[str]) -> None:
    if missing := {"label", "annotator"} - set(names):
        raise LabelError(
            "missing_column",
            f"{file} has no column {', '.join(sorted(missing))}; import --project takes its clips without labels",
        )


def _set(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if value}  # CSV has no null


def _parse(row: dict, folder: Path, inside: Path) -> dict | LabelError:
    """Return a row as the other formats have it.

    Args:
        inside: where in the dataset's folder the table lies that names the file.
    """
    file_name = next((str(row[name]) for name in PATH_COLUMNS if row.get(name)), "")
    if file_name and not (folder / inside / file_name).resolve().is_relative_to(folder.resolve()):
        return LabelError("clip_not_found", f"{file_name!r} points out of the dataset's folder")
    emotions = row.get("emotions")
    weights = {name: weight for name, weight in emotions.items() if weight} if isinstance(emotions, dict) else {}
    created_at = row.get("created_at")
    return {
        **row,
        "created_at": created_at.isoformat() if isinstance(created_at, datetime) else created_at,
        "clip": str(inside / file_name) if file_name else row.get("sha256"),
        "label": weights or row.get("label"),
    }


def push(folder: Path, repo: str, *, endpoint: str | None = None, token: str | None = None) -> str:
    """Upload a folder written by `write` to a private dataset repository, made when there is none; return its address.

    Media and tables that the folder no longer has go from the repository too, though not from its history.

    Raises:
        LabelError: `push_failed`, `public_repo`: nothing was uploaded then.
    """
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        if not api.dataset_info(repo).private:  # it was there before, and creating does not change it
            raise LabelError("public_repo", f"dataset {repo} is public; make it private, or name another")
        api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=[METADATA, CARD, "media/*", "features/*"],
            delete_patterns=["media/*", "features/*"],
            commit_message="Labels exported",
        )
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError) as error:
        raise LabelError("push_failed", f"cannot push to {repo}: {str(error).splitlines()[0]}") from None
    return f"{api.endpoint}/datasets/{repo}"
