"""A project's clips as somebody uploads them: an archive or a table, unpacked with limits, taken in with a consent."""

import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from annotations.db.engine import private_folder
from annotations.media_file import ENDINGS
from annotations.queue.media_import import MediaImportReport, import_media
from annotations.queue.projects import Project
from annotations.store import Store
from mmer.errors import LabelError

TABLES = (".csv", ".tsv", ".jsonl")
MAX_FILES = 5_000
MAX_BYTES = 4 * 2**30  # unpacked: some ten hours of phone video
_PART = 2**20


def import_upload(store: Store, project: Project, upload: Path, folder: Path, consent_text: str) -> MediaImportReport:
    """Put what was uploaded in a project's queue; media is copied in, because an upload does not stay.

    Args:
        upload: a zip of media, with or without a table of them, or a table whose rows are sentences.
        folder: where the archive is unpacked for as long as it takes.
        consent_text: what the recorded people agreed to.

    Raises:
        LabelError: `no_consent, bad_archive, archive_too_large`, and those of `import_media`.
    """
    if not consent_text.strip():
        raise LabelError("no_consent", "say what the recorded people agreed to; without it nothing is kept")
    private_folder(folder)
    with tempfile.TemporaryDirectory(prefix="project-", dir=folder) as temporary:
        place = Path(temporary)
        if upload.suffix.lower() in TABLES:
            source = place / upload.name
            shutil.copyfile(upload, source)
        else:
            source = place / "clips"
            unpack(upload, source)
        return import_media(store, project, source, consent_text=consent_text.strip())


def unpack(archive: Path, folder: Path) -> int:
    """Unpack the media and the tables of a zip below a folder, and return how many files it was.

    Names that lead outside, links, and files of other kinds are not unpacked; sizes are counted as they come out, since
    an archive may say anything of them.
    """
    n_bytes = n_files = 0
    try:
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                inside = PurePosixPath(entry.filename.replace("\\", "/"))
                kind = inside.suffix.lower()
                if (
                    entry.is_dir()
                    or inside.is_absolute()
                    or ".." in inside.parts
                    or PureWindowsPath(entry.filename).drive
                ):
                    continue
                if kind not in ENDINGS and kind not in (*TABLES, ".parquet"):
                    continue
                n_files += 1
                if n_files > MAX_FILES:
                    raise LabelError(
                        "archive_too_large", f"the archive holds over {MAX_FILES:,} files; upload it in parts"
                    )
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(entry) as source, target.open("wb") as out:
                    while block := source.read(_PART):
                        n_bytes += len(block)
                        if n_bytes > MAX_BYTES:
                            raise LabelError(
                                "archive_too_large",
                                f"the archive holds over {MAX_BYTES / 2**30:.0f} GiB; upload it in parts",
                            )
                        out.write(block)
    # RuntimeError: a password is needed, or a compression that zipfile does not know.
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise LabelError("disk_full", f"the archive cannot be unpacked: {error.strerror}") from None
        raise LabelError(
            "bad_archive", f"{archive.name} cannot be unpacked ({error}); a zip without a password is needed"
        ) from None
    if not n_files:
        raise LabelError("no_media", f"{archive.name} holds no video, sound, picture or table")
    return n_files
