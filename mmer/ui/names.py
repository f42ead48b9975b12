"""What emotions, channels and roles are called in the language of the page."""

import re

from mmer import messages
from mmer.messages import marked
from mmer.ui.language import Texts, gettext, label, number

# The modalities as the page names them, by themselves and inside a sentence.
CHANNELS = Texts({"face": marked("Face"), "voice": marked("Voice"), "text": marked("Words")})
IN_SENTENCE = Texts({"face": marked("face"), "voice": marked("voice"), "text": marked("words")})
ROLE_NAMES = Texts(
    {
        "viewer": marked("viewer"),
        "annotator": marked("annotator"),
        "reviewer": marked("reviewer"),
        "admin": marked("admin"),
    }
)
_CHOICES = (
    *(marked("anger"), marked("disgust"), marked("fear"), marked("happiness"), marked("neutral"), marked("sadness")),
    *(marked("surprise"), marked("cannot tell"), marked("broken"), marked("skip"), marked("nothing")),
)
_LABELS = (  # of the fields in which they are chosen
    *(marked("Anger"), marked("Disgust"), marked("Fear"), marked("Happiness"), marked("Neutral"), marked("Sadness")),
    marked("Surprise"),
)


def choice(name: str) -> tuple[str, str]:
    """Return an emotion as a field of gradio's offers it: its name there, and its value."""
    return label(name.capitalize()), name


def emotion(name: str, *, capital: bool = False) -> str:
    """Return the name of an emotion, or of another choice that labels have."""
    found = gettext(name.replace("_", " "))
    return messages.capital(found) if capital else found


def emotions_in(text: str) -> str:
    """Return a text that is made of such names and of numbers, as `fear 67 %, anger 33 %`."""
    return number(re.sub("|".join(_CHOICES), lambda found: gettext(found.group()), text.replace("_", " ")))
