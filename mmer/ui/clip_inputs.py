"""What is to be analysed: one place for any file, a recorder, words, and a list of what will be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.oauth import OAuthProfile

from mmer import media, sources
from mmer.errors import ClipError
from mmer.media import MediaInfo
from mmer.messages import marked
from mmer.ui.auth import authorize
from mmer.ui.handlers import report_errors
from mmer.ui.language import Texts, gettext, label
from mmer.ui.media_uri import upload_uri
from mmer.ui.render import render, told
from mmer.ui.service import Service

_ADD_INDEX = "(files, _) => [files, window.mmerChips.index]"


_KINDS = Texts({"video": marked("Video"), "audio": marked("Sound"), "image": marked("Picture")})
_READ = {  # whether its picture is read, whether its sound is
    (True, True): marked("picture and sound will be read"),
    (True, False): marked("picture will be read"),
    (False, True): marked("sound will be read"),
    (False, False): marked("not needed beside the others"),
}


class ClipInputs:
    """Lays the inputs out in the page being built. `files` holds what will be read, and `words` what is said."""

    def __init__(self, service: Service):
        self.service = service
        self.drop = gr.File(
            label=label("Video, sound or picture"), file_count="multiple", height=150, elem_id="drop", buttons=[]
        )
        self.chips = gr.HTML(label="What will be read", elem_id="chips")
        with gr.Accordion(label("Record with camera or microphone"), open=False, elem_id="record"):
            self.camera = gr.Video(
                label=label("Camera"),
                sources=["webcam"],
                include_audio=True,
                webcam_options=gr.WebcamOptions(mirror=False),
                buttons=[],
                elem_id="camera",
            )
            self.microphone = gr.Audio(
                label=label("Microphone"),
                sources=["microphone"],
                type="filepath",
                editable=False,
                buttons=[],
                elem_id="microphone",
            )
        self.words = gr.Textbox(
            label=label("Words (optional)"),
            value="",
            lines=2,
            max_lines=6,
            elem_id="words",
            placeholder=label("What is said; left empty, it is transcribed"),
            info=label("Files and words are read together, as one clip of one person."),
        )
        # What will be read: a file that was dropped or recorded goes here at once, and its place is free again.
        self.files = gr.File(label="Files", file_count="multiple", elem_classes="mm-hidden", elem_id="files")
        self.index = gr.Number(0, elem_classes="mm-hidden")
        self.remove_button = gr.Button("Remove", elem_classes="mm-hidden", elem_id="remove-file")
        self.status = gr.HTML(label="Files", elem_id="files-status")
        self._connect()

    def _connect(self) -> None:
        for given in (self.files, self.drop):
            given.preprocess = _paths  # type: ignore[method-assign]
        for recorder in (self.camera, self.microphone):
            recorder.preprocess = _path  # type: ignore[method-assign]
        shown: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "undocumented"}
        outputs = [self.files, self.chips, self.status]
        self.drop.upload(self.add, [self.files, self.drop], [*outputs, self.drop], api_name="add_files", **shown)
        for recorder, name in ((self.camera, "add_film"), (self.microphone, "add_sound")):
            recorder.change(self.add, [self.files, recorder], [*outputs, recorder], api_name=name, **shown)
        self.remove_button.click(
            self.remove, [self.files, self.index], outputs, api_name="remove_file", js=_ADD_INDEX, **shown
        )

    @report_errors("status")
    def add(self, request: gr.Request, profile: OAuthProfile | None, files, more):
        """Take in what was dropped or recorded; the place it came from is given free."""
        authorize(self.service, "analyse", request, profile)
        more = [more] if isinstance(more, str) else more
        if not more:
            yield (gr.skip(),) * 4
            return
        files = [*files, *(f for f in more if f not in files)]
        yield files, self.shown(files), "", None

    @report_errors("status")
    def remove(self, request: gr.Request, profile: OAuthProfile | None, files, index):
        authorize(self.service, "analyse", request, profile)
        files = [f for i, f in enumerate(files) if i != index]
        yield files, self.shown(files), ""

    def shown(self, files: Sequence[str]) -> str:
        """Return the list of what will be read, each with what is read of it, and what speaks against the whole."""
        if not files:
            return ""
        found = {f: probed(f) for f in files}
        infos = [i for f in in_reading_order(files) if isinstance(i := found[f], MediaInfo)]
        seen, heard = sources.seen_and_heard(infos)
        chips = [self._chip(f, found[f], seen, heard) for f in files]
        return render("chips.html", chips=chips, notices=[n.message for n in sources.doubts(seen, heard)])

    def _chip(self, file: str, found: MediaInfo | ClipError, seen: MediaInfo | None, heard: MediaInfo | None) -> "Chip":
        name = Path(file).name
        if isinstance(found, ClipError):
            return Chip(name, gettext("Cannot be read"), told(found.message), failed=True)
        read = gettext(_READ[seen is found, heard is found])
        playable = self.service.player.preview(Path(file), found, self.service.paths.uploads)
        src = upload_uri(playable.path) if playable else ""
        tag = playable.type.split("/")[0] if playable else ""
        return Chip(name, _KINDS[found.kind], read, duration_s=found.duration_s, src=src, tag=tag)


def _paths(payload: Any) -> list[str]:
    """Return where the files of a form lie; unlike gradio's own, they keep their place and name."""
    return [file.path for file in payload or ()]


def _path(payload: Any) -> str | None:
    return payload.path if payload else None


@dataclass(frozen=True)
class Chip:
    """One file in the list of what will be read."""

    name: str
    kind: str
    told: str
    duration_s: float | None = None
    src: str = ""
    tag: str = ""  # video, audio or image; empty: it cannot be shown
    failed: bool = False


def probed(file: str) -> MediaInfo | ClipError:
    """Return what a file is, or why it cannot be read."""
    try:
        stat = Path(file).stat()
        return _probed(file, stat.st_mtime_ns, stat.st_size)
    except ClipError as error:
        return error
    except OSError:
        return ClipError("gone", f"{Path(file).name} is not here any more; give it again")


@lru_cache(maxsize=64)
def _probed(file: str, changed_ns: int, size: int) -> MediaInfo:
    return media.probe(file)


def in_reading_order(files: Sequence[str]) -> list[str]:
    """Return files as they are read: a sound given beside a video is meant, so it comes first."""
    kinds = {f: getattr(probed(f), "kind", "") for f in files}
    return sorted(files, key=lambda f: kinds[f] != "audio")
