"""Weight files that are not ours: pinned, found on disk or downloaded, verified, and put in place in one move."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from mmer.config import Paths
from mmer.errors import AssetError
from mmer.hashing import content_hash

_BLOCK = 1 << 20
_TIMEOUT_S = 30.0
_MISSING = "missing"
_SEEN = ".verified.json"  # beside the files: what was hashed already, by size and time of change
_verified: dict[str, list] = {}  # the same for this process, for a folder that cannot be written to

Progress = Callable[[int, int, str], None]  # bytes there, bytes in all, name of the asset


@dataclass(frozen=True)
class Part:
    """One file of an asset and exactly what it must be."""

    path: str  # under the assets folder
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Asset:
    """A file, or a folder of files, pinned by content; it comes from `url` or from a revision of a hub repository."""

    name: str
    path: str  # of the file or folder, under the assets folder
    parts: tuple[Part, ...]
    url: str = ""
    repo_id: str = ""
    revision: str = ""

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    @property
    def home(self) -> str:
        """The page or file to send a person to."""
        return self.url or f"https://huggingface.co/{self.repo_id}/tree/{self.revision}"

    def source(self, part: Part) -> str:
        """Return the address one part is downloaded from; a hub mirror named by HF_ENDPOINT is honoured."""
        if self.url:
            return self.url
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo_id, Path(part.path).name, revision=self.revision)


_MINILM = "all-MiniLM-L6-v2"
_FACE = Part("face_landmarker.task", "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff", 3_758_596)
_TEXT = (
    Part(f"{_MINILM}/config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
    Part(f"{_MINILM}/special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3", 112),
    Part(f"{_MINILM}/tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
    Part(f"{_MINILM}/tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350),
    Part(f"{_MINILM}/vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231_508),
    Part(
        f"{_MINILM}/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376
    ),
)
_GOOGLE = "https://storage.googleapis.com/mediapipe-models"
ASSETS = {
    "face_landmarker": Asset(
        "face_landmarker",
        _FACE.path,
        (_FACE,),
        url=f"{_GOOGLE}/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
    ),
    "text_encoder": Asset(
        "text_encoder",
        _MINILM,
        _TEXT,
        repo_id=f"sentence-transformers/{_MINILM}",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",  # all six files have the hashes above
    ),
}


def find(name: str, paths: Paths | None = None, *, download: bool = True, progress: Progress | None = None) -> Path:
    """Return the verified file or folder of a pinned asset, downloading what is missing.

    Args:
        progress: told (bytes there, bytes in all, name) while downloading; a bar on stderr when None.

    Raises:
        AssetError: `unknown_asset`, `asset_missing` or `asset_damaged`.
    """
    if name not in ASSETS:
        raise AssetError("unknown_asset", f"there is no asset {name!r}; use one of {', '.join(ASSETS)}")
    return obtain(ASSETS[name], paths, download=download, progress=progress)


def obtain(
    asset: Asset, paths: Paths | None = None, *, download: bool = True, progress: Progress | None = None
) -> Path:
    """Return where `asset` lies, as `find` does for a name."""
    folder = (paths or Paths.from_env()).assets
    if problems := _problems(asset, folder):
        if not download:
            raise _error(asset, folder, problems)
        _download(asset, folder, progress)
    return folder / asset.path


def _error(asset: Asset, folder: Path, problems: dict[Part, str], why: str = "", damaged: bool = False) -> AssetError:
    named: dict[str, list[str]] = {}
    for part, problem in problems.items():
        named.setdefault(problem, []).append(Path(part.path).name)
    listed = "; ".join(f"{', '.join(files)} {problem}" for problem, files in named.items())
    return AssetError(
        "asset_damaged" if damaged or set(named) - {_MISSING} else "asset_missing",
        f"{asset.name}: {listed}{f', and downloading failed ({why})' if why else ''}; fetch {asset.home} and put it at "
        f"{folder / asset.path}, or set MMER_ASSETS to a folder that has {asset.path}",
    )


def _problems(asset: Asset, folder: Path) -> dict[Part, str]:
    return {part: problem for part in asset.parts if (problem := _problem(folder, part))}


def _problem(folder: Path, part: Part) -> str:
    """Return what is wrong with a part on disk in words, empty when it is as pinned.

    The size is looked at every time. The hash (0.2 s for 90 MB) is computed once and remembered by size
    and time of change, beside the files when the folder can be written to, otherwise for this process.
    """
    file = folder / part.path
    if not file.is_file():
        return _MISSING
    stat = file.stat()
    if stat.st_size != part.size_bytes:
        return f"damaged ({stat.st_size:,} bytes where {part.size_bytes:,} belong)"
    stamp = [stat.st_size, stat.st_mtime_ns, part.sha256]
    if stamp in (_verified.get(str(file)), _remembered(folder).get(part.path)):
        return ""
    if content_hash(file) != part.sha256:
        return "damaged (its sha256 is not the pinned one)"
    _remember(folder, part.path, stamp)
    return ""


def _remembered(folder: Path) -> dict[str, list]:
    try:
        stamps = json.loads((folder / _SEEN).read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # never written, or half of it lost: hash again
    return stamps if isinstance(stamps, dict) else {}


def _remember(folder: Path, path: str, stamp: list) -> None:
    _verified[str(folder / path)] = stamp
    if _writable(folder):
        partial = folder / f"{_SEEN}.{os.getpid()}.{threading.get_ident()}.part"
        with suppress(OSError):  # a full disk costs the next start a hash, not this one the asset
            partial.write_text(json.dumps(_remembered(folder) | {path: stamp}), "utf-8")
            os.replace(partial, folder / _SEEN)


def _writable(folder: Path) -> bool:
    """Tell whether files may be put in a folder; one marked read-only is left alone by root too, whom nothing stops."""
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def _download(asset: Asset, folder: Path, progress: Progress | None) -> None:
    """Put every part that is missing or damaged in place; one process at a time, the others find the work done."""
    from huggingface_hub.utils import WeakFileLock
    from tqdm import tqdm

    try:
        if folder.is_dir() and not _writable(folder):
            raise PermissionError(f"{folder} is read-only")
        folder.mkdir(parents=True, exist_ok=True)
        bar = tqdm(total=asset.size_bytes, unit="B", unit_scale=True, desc=asset.name, disable=progress is not None)
        with WeakFileLock(folder / f".{asset.name}.lock"), bar:
            problems, done = _problems(asset, folder), 0
            for part in asset.parts:
                for n_bytes in _fetch(asset, folder, part) if part in problems else [part.size_bytes]:
                    bar.update(done + n_bytes - bar.n)
                    if progress is not None:
                        progress(done + n_bytes, asset.size_bytes, asset.name)
                done += part.size_bytes
    except (OSError, HTTPException) as error:
        why = error.reason if type(error) is URLError else error
        raise _error(asset, folder, _problems(asset, folder), str(why), isinstance(error, _WrongContent)) from error


class _WrongContent(OSError):
    """What a server sent is not the pinned file."""


def _fetch(asset: Asset, folder: Path, part: Part) -> Iterator[int]:
    """Download one part, going on where an earlier try stopped; yields the bytes there so far.

    huggingface-hub's own downloader deletes what it has when the line drops and needs 23 s to say that there is no
    network, so the hub gives the address and its cache, and the transfer is the same for every asset.
    """
    target = folder / part.path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    if cached := _in_hub_cache(asset, part):
        shutil.copyfile(cached, partial)
    have = partial.stat().st_size if partial.is_file() else 0
    if have > part.size_bytes:
        have = 0
    yield have
    if have < part.size_bytes:
        request = Request(asset.source(part), headers={"Range": f"bytes={have}-"} if have else {})
        with urlopen(request, timeout=_TIMEOUT_S) as reply:
            if reply.status != 206:  # the server does not resume and sends it all
                have = 0
            with partial.open("ab" if have else "wb") as out:
                while have <= part.size_bytes and (block := reply.read(_BLOCK)):
                    out.write(block)
                    have += len(block)
                    yield have
    if have < part.size_bytes:
        raise OSError(f"the line dropped after {have:,} of {part.size_bytes:,} bytes; the next try goes on from there")
    if have != part.size_bytes or content_hash(partial) != part.sha256:
        partial.unlink()
        raise _WrongContent(f"what came as {target.name} is not the pinned file: its sha256 differs")
    os.replace(partial, target)
    stat = target.stat()
    _remember(folder, part.path, [stat.st_size, stat.st_mtime_ns, part.sha256])


def _in_hub_cache(asset: Asset, part: Part) -> str | None:
    """Return the file in the hub's cache, where a Space's `preload_from_hub` puts it, or None."""
    if not asset.repo_id:
        return None
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(asset.repo_id, Path(part.path).name, revision=asset.revision)
    return file if isinstance(file, str) else None
