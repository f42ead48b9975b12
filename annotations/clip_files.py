"""The clips that an import names: where they lie, and which of them it may register.

An import file may come from anybody, and what it registers is played to annotators: so only media, and only from its
own folder or one that is given.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from annotations.media_file import ENDINGS, check_media, content_hash, duration_s
from annotations.text import check_text, composed
from mmer.errors import LabelError

_SLACK_S = 0.1  # encoders pad the end by up to one frame, and tools round to frames
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class ClipFiles:
    """Finds the clips that an import names, and refuses files that an import may not register.

    Args:
        folder: where the import file lies: clips are sought there first, then in `root` and the working directory.
        root: the folder whose files may be registered (default: `folder`).
        allow_outside: files outside of it may be registered too.
        private: folders of the store itself, whose files are never registered.
        is_registered: whether a path is on record already, so that an export comes back into its own database.
    """

    def __init__(
        self,
        folder: Path,
        *,
        root: Path | None = None,
        allow_outside: bool = False,
        private: Iterable[Path | None] = (),
        is_registered: Callable[[Path], bool] = lambda path: False,
    ):
        self.folder, self.root = folder, root or folder
        self._resolved_root, self._allow_outside, self._is_registered = (
            self.root.resolve(),
            allow_outside,
            is_registered,
        )
        self._private = [path.resolve() for path in private if path]
        self._names: dict[Path, dict[str, str]] = {}
        self._hashes: dict[Path, str] = {}
        self._durations: dict[Path, float | None] = {}

    def find(self, name: str) -> Path | None:
        """Return the file of that name, whatever its Unicode form, also when it is written as Windows does."""
        check_text(name, "clip")
        return next(filter(None, map(self._existing, self._places(name))), None)

    def first(self, names: Collection[str]) -> str | None:
        """Return the first of some names under which there is a file, of those that may be registered if any may."""
        existing = [(name, path) for name in names if name and (path := self.find(name))]
        return next((name for name, path in existing if self._is_allowed(path)), existing[0][0] if existing else None)

    def beside(self, file: Path) -> str:
        """Return the name of the media file that lies beside another and shares its stem, "" when there is none."""
        stem = composed(file.stem)
        names = sorted(self._listed(file.parent).items())
        return next(
            (name for form, name in names if Path(form).stem == stem and Path(name).suffix.lower() in ENDINGS), ""
        )

    def check(self, path: Path) -> None:
        """Refuse a file that may not be registered.

        Raises:
            LabelError: `outside_folder`, `own_file`, and what `check_media` raises.
        """
        if any(path.resolve().is_relative_to(folder) for folder in self._private):
            raise LabelError("own_file", f"{path} is a file of the labels database itself; name the recording you have")
        if not self._is_allowed(path):
            raise LabelError(
                "outside_folder",
                f"{path} lies outside {self.root}; --media-root FOLDER says where clips lie, --allow-outside takes any",
            )
        check_media(path)

    def check_end(self, path: Path, end_s: float | None) -> None:
        """Refuse a segment that goes on after its recording.

        Raises:
            LabelError: `bad_segment`.
        """
        if end_s is None:
            return
        if path not in self._durations:
            self._durations[path] = duration_s(path)
        length_s = self._durations[path]
        if length_s is not None and end_s > length_s + _SLACK_S:
            raise LabelError("bad_segment", f"it ends at {end_s:g} s, after {path.name}, which lasts {length_s:.2f} s")

    def sha256(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = content_hash(path)
        return self._hashes[path]

    def _is_allowed(self, path: Path) -> bool:
        resolved = path.resolve()
        return self._allow_outside or resolved.is_relative_to(self._resolved_root) or self._is_registered(resolved)

    def _places(self, name: str) -> Iterator[Path]:
        spellings = [name]
        if "\\" in name:
            spellings.append(name.replace("\\", "/"))
        if _WINDOWS.match(name):  # a path of another computer: its end may lie here
            parts = [part for part in re.split(r"[\\/]+", name) if part][1:]
            spellings += ["/".join(parts[i:]) for i in range(len(parts))]
        for spelling in spellings:
            yield from (self.folder / spelling, self.root / spelling, Path(spelling))

    def _existing(self, path: Path) -> Path | None:
        try:
            if path.is_file():
                return path
            if str(path).isascii():
                return None
            here = Path(path.anchor)
            for part in path.parts[1:] if path.anchor else path.parts:
                child = here / part
                here = child if part == ".." or child.exists() else here / self._listed(here)[composed(part)]
            return here if here.is_file() else None
        except (OSError, KeyError):  # OSError: a name longer than the file system takes
            return None

    def _listed(self, folder: Path) -> dict[str, str]:
        """Return {name in the composed Unicode form: name} of what a folder holds."""
        if folder not in self._names:
            try:
                self._names[folder] = {composed(name): name for name in os.listdir(folder)}
            except OSError:
                self._names[folder] = {}
        return self._names[folder]
