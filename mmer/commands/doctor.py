"""Whether this installation can do its work: one line for each thing it needs, and what to do where it cannot."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from mmer import assets, checkpoint
from mmer.commands.finding import BAD, NOTE, OK, Finding
from mmer.config import ROOT, Paths
from mmer.errors import AssetError, CheckpointError, MmerError
from mmer.hashing import content_hash

LIBRARIES = {  # what mediapipe and opencv load, and the Debian package in packages.txt that has it
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libEGL.so.1": "libegl1",
    "libGLESv2.so.2": "libgles2",
}
_NAMED = ("torch", "gradio", "mediapipe")  # whose versions explain most reports
_FULL_BYTES, _TIGHT_BYTES = 600 * 2**20, 3 * 2**30  # one upload and its copy; weights, kept clips and checkpoints
_REACH_S = 5.0  # how long the server of missing weights may take to answer


def examine() -> Iterator[Finding]:
    """Yield a finding for each thing, in the order in which one would mend them."""
    yield from guarded("python", lambda: [python(sys.version_info[:3])])
    yield from guarded("packages", lambda: [packages(requirements())])
    yield from guarded("libraries", lambda: [libraries(LIBRARIES)])
    try:
        paths = Paths.from_env()
    except MmerError as error:
        yield Finding("settings", BAD, error.message)
        return
    yield from guarded("home", lambda: [home(paths.home)])
    yield from guarded("disk", lambda: [disk(paths.home)])
    yield from guarded("database", lambda: [database(paths.database_url)])
    yield from guarded("backup", lambda: backup(paths))
    yield from guarded("device", lambda: [device(paths.device)])
    yield from guarded("checkpoint", lambda: [served_checkpoint(paths)])
    for name, asset in assets.ASSETS.items():
        yield from guarded(name, partial(_weights_alone, asset, paths))
    yield from guarded("whisper", lambda: whisper(paths))


def guarded(what: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what a look finds; one that fails is a finding too, and the others go on."""
    try:
        yield from look()
    except MmerError as error:
        yield Finding(what, BAD, error.message)
    except Exception as error:  # whatever is broken here is what the doctor was called for
        yield Finding(what, BAD, f"{type(error).__name__}: {str(error).strip() or 'no more is known'}")


def python(version: tuple[int, ...]) -> Finding:
    found = f"{'.'.join(map(str, version))} on {platform.platform(terse=True)}"
    if (3, 10) <= version[:2] <= (3, 12):
        return Finding("python", OK, found)
    return Finding("python", BAD, found, "make an environment with Python 3.10, 3.11 or 3.12")


def requirements() -> list[str]:
    """Return what has to be installed: of a checkout requirements.txt, else what the installed package names."""
    listed = ROOT / "requirements.txt"
    if listed.is_file():
        return listed.read_text("utf-8").split("# tests\n")[0].split("\n")
    return [line for line in importlib.metadata.requires("mmer") or [] if "extra ==" not in line]


def packages(wanted: Iterable[str]) -> Finding:
    """Return whether packages are here in the versions that are wanted, which are written as pip takes them."""
    from packaging.requirements import Requirement

    n_wanted, missing, other = 0, [], []
    for line in filter(str.strip, wanted):
        need = Requirement(line)
        n_wanted += 1
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(need.name)
            continue
        if not need.specifier.contains(version, prereleases=True):
            other.append(f"{need.name} {version} where {need.specifier} is wanted")
    if missing or other:
        found = "; ".join([*(f"{name} is not installed" for name in missing), *other])
        return Finding("packages", BAD if missing else NOTE, found, "run `pip install -r requirements.txt`")
    named = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _NAMED)
    return Finding("packages", OK, f"{named}; all {n_wanted} as required")


def libraries(wanted: dict[str, str]) -> Finding:
    """Return whether the system's libraries are here, which no wheel brings."""
    if sys.platform != "linux":
        return Finding("libraries", OK, f"none are needed on {sys.platform}")
    missing = []
    for file, package in wanted.items():
        try:
            ctypes.CDLL(file)
        except OSError:
            missing.append((file, package))
    if missing:
        install = f"apt-get install {' '.join(package for _, package in missing)}"
        return Finding("libraries", BAD, f"{', '.join(f for f, _ in missing)} cannot be loaded", f"`{install}`")
    return Finding("libraries", OK, ", ".join(wanted))


def home(folder: Path) -> Finding:
    """Return whether MMER_HOME can be written to, and whether others can read what it holds of people."""
    there = _nearest(folder)
    named = f"{folder}" if there == folder else f"{folder} (not there yet)"
    if not there.is_dir():
        return Finding("home", BAD, f"{there} is no folder", "set MMER_HOME to a folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        cure = f"give it to this user (`chown -R {os.getuid()} {there}`) or set MMER_HOME to a folder of theirs"
        return Finding("home", BAD, f"{named} cannot be written to: {error.strerror}", cure)
    held = [folder / name for name in ("mmer.db", "accounts.json", "media", "features", "uploads")]
    if open_ := [path.name for path in held if path.exists() and path.stat().st_mode & 0o077]:
        cure = f"`chmod -R go= {folder}`"
        return Finding("home", NOTE, f"{named}: other users of this machine can read {', '.join(open_)}", cure)
    return Finding("home", OK, named)


def disk(folder: Path, full_bytes: int = _FULL_BYTES, tight_bytes: int = _TIGHT_BYTES) -> Finding:
    free = shutil.disk_usage(_nearest(folder)).free
    found = f"{free / 2**30:.1f} GB are free for {folder}"
    if free < full_bytes:
        return Finding("disk", BAD, found, f"make room: an upload needs {full_bytes / 2**30:.1f} GB")
    if free < tight_bytes:
        return Finding("disk", NOTE, found, f"weights, clips and checkpoints come to {tight_bytes / 2**30:.0f} GB")
    return Finding("disk", OK, found)


def database(url: str) -> Finding:
    """Return whether the labels' database opens, is of this program's schema and can be written to; nothing changes."""
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    from annotations.db.engine import open_engine, sqlite_file, version_of
    from annotations.db.schema import OLDER, VERSION

    file = sqlite_file(url)
    if file and not file.is_file():
        there = _nearest(file.parent)
        if os.access(there, os.W_OK) and there.is_dir():
            return Finding("database", NOTE, f"{file} is not there yet", "the page and `annotations` make it")
        return Finding("database", BAD, f"{file} is not there, and {there} cannot be written to", "see home")
    if file and not os.access(file, os.W_OK):  # before SQLite tries to open its log beside it
        return Finding("database", BAD, f"{file} is read-only for this user", f"`chown {os.getuid()} {file}`")
    engine = open_engine(url, create=False)
    named = str(file or engine.url.render_as_string())  # without the password
    try:
        with engine.execution_options(write=True).connect() as connection:
            version = version_of(connection)
            if version is None:
                return Finding("database", NOTE, f"{named} has no tables yet", "the page and `annotations` make them")
            if version != VERSION:
                cure = "run `python -m annotations upgrade`" if version in OLDER else "update this program"
                return Finding("database", BAD, f"{named} has schema {version}, this program {VERSION}", cure)
            connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
            n_labels = connection.scalar(text("SELECT count(*) FROM labels"))
            connection.rollback()
    except DBAPIError as error:
        reason = str(error.orig).strip().split("\n")[0]
        cure = "see `python -m annotations restore`" if file else "start the server, or set MMER_DATABASE_URL"
        return Finding("database", BAD, f"{named}: {reason}", cure)
    finally:
        engine.dispose()
    return Finding("database", OK, f"{named}, schema {version}, {n_labels:,} labels, can be written to")


def backup(paths: Paths) -> Iterator[Finding]:
    from mmer.commands import backup_check  # needs packages that may be missing

    return backup_check.examine(paths)


def device(wish: str) -> Finding:
    """Return what the models run on."""
    import torch

    from mmer.predict import Predictor

    chosen = Predictor.device_of(wish)
    if chosen == "cuda":
        card = torch.cuda.get_device_properties(0)
        return Finding(
            "device", OK, f"cuda: {card.name}, {card.total_memory / 2**30:.0f} GB, CUDA {torch.version.cuda}"
        )
    return Finding("device", OK, f"cpu, {torch.get_num_threads()} threads (MMER_DEVICE={wish})")


def served_checkpoint(paths: Paths) -> Finding:
    """Return which checkpoint serves, with the sha256 of its weights."""
    name = checkpoint.promoted(paths.checkpoints)
    try:
        loaded = checkpoint.load(name, paths.checkpoints)
    except CheckpointError as error:
        cure = "`python -m mmer checkpoint rollback`, or `promote` another one"
        return Finding("checkpoint", BAD, error.message, cure if name != checkpoint.BASE else "install mmer again")
    return Finding("checkpoint", OK, f"{name} serves, sha256 {content_hash(loaded.folder / checkpoint.WEIGHTS)}")


def weights(asset: assets.Asset, paths: Paths) -> Finding:
    """Return whether pinned weights are here and whole; nothing is downloaded."""
    try:
        place = assets.obtain(asset, paths, download=False)
    except AssetError as error:
        if error.code == "asset_damaged":
            return Finding(asset.name, BAD, error.message)
        return _to_fetch(asset.name, asset.source(asset.parts[0]), asset.size_bytes, paths.assets / asset.path)
    largest = max(asset.parts, key=lambda part: part.size_bytes)
    return Finding(asset.name, OK, f"{place}, {asset.size_bytes / 1e6:.0f} MB, sha256 {largest.sha256}")


def _weights_alone(asset: assets.Asset, paths: Paths) -> list[Finding]:
    return [weights(asset, paths)]


def whisper(paths: Paths) -> Iterator[Finding]:
    """Yield whether Whisper is here and can be loaded, and the encoder of the voice branch where that is another."""
    from mmer.perceive import Perceiver
    from mmer.predict import Predictor

    perceiver = Perceiver(paths, Predictor.device_of(paths.device))
    for transcriber in dict.fromkeys((perceiver.transcriber, perceiver.encoder)):
        name = f"whisper {transcriber.model_name}" if transcriber.url else "whisper"
        file, url = transcriber.file, transcriber.url
        if url and not file.is_file():
            yield _to_fetch(name, url, 0, file)
            continue
        if url and content_hash(file) != url.split("/")[-2]:
            yield Finding(name, BAD, f"{file} is damaged (its sha256 differs)", f"delete it, or put {url} there")
            continue
        n_depths, width = transcriber.encoder_size()
        yield Finding(name, OK, f"{file}, {file.stat().st_size / 1e6:.0f} MB, {n_depths - 1} layers of {width}")


def _to_fetch(name: str, url: str, n_bytes: int, place: Path) -> Finding:
    """Return whether weights that are not here can be fetched when a clip needs them."""
    size = f" ({n_bytes / 1e6:.0f} MB)" if n_bytes else ""
    cure = f"fetch {url} and put it at {place}"
    there = _nearest(place.parent)
    if not (there.stat().st_mode & 0o222 and os.access(there, os.W_OK)):
        return Finding(name, BAD, f"{place} is missing, and {there} cannot be written to", cure)
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_REACH_S):
            return Finding(name, NOTE, f"{place} is missing{size}", "the first clip that needs it fetches it")
    except HTTPError as error:
        reason = f"{error.code} {error.reason}"
    except OSError as error:
        reason = str(getattr(error, "reason", error))
    return Finding(name, BAD, f"{place} is missing and cannot be fetched ({reason})", cure)


def _nearest(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def run() -> int:
    """Print the findings; 1 where something would stop somebody, else 0."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    findings = []
    for finding in examine():
        print(finding, flush=True)
        findings.append(finding)
    bad = [finding.what for finding in findings if finding.state == BAD]
    print(f"{len(bad)} to mend: {', '.join(bad)}" if bad else "all is well")
    return 1 if bad else 0
