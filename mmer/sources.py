"""Several files that are read as one clip: which of them is seen, which is heard, and what speaks against it."""

from collections.abc import Sequence

from mmer.errors import Notice
from mmer.media import MediaInfo

_DIFFERENT_S, _DIFFERENT_SHARE = 1.0, 0.2  # in length, from which on two files hardly belong together


def seen_and_heard(infos: Sequence[MediaInfo]) -> tuple[MediaInfo | None, MediaInfo | None]:
    """Return the file whose picture is read, and the one whose sound is: the first that has one."""
    return next((i for i in infos if i.has_picture), None), next((i for i in infos if i.has_sound), None)


def doubts(seen: MediaInfo | None, heard: MediaInfo | None) -> list[Notice]:
    """Return what to know where the face is of one file and the voice of another."""
    if seen is None or heard is None or seen is heard:
        return []
    notices = [
        Notice(
            "two_sources",
            f"the face is read from {seen.name} and the voice from {heard.name}; that both are of one person, nothing "
            "here can tell",
        )
    ]
    if seen.kind == "video" and seen.duration_s is not None and heard.duration_s is not None:
        shorter, longer = sorted((seen.duration_s, heard.duration_s))
        if longer - shorter > max(_DIFFERENT_S, _DIFFERENT_SHARE * longer):
            notices.append(
                Notice(
                    "lengths_differ",
                    f"{seen.name} lasts {seen.duration_s:.1f} s and {heard.name} {heard.duration_s:.1f} s; they are "
                    "laid side by side from their beginnings, so face and voice may be of different moments",
                )
            )
    return notices
