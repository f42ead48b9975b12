"""Words to whether the text branch can read them: it learned English, and reads anything else with confidence."""

import unicodedata
from collections.abc import Sequence

LANGUAGE = "en"  # Whisper's code
_MOST = 0.5
# Share of word pieces that go on with a word, from which a text of so many words (or more) is not English. English
# words are mostly whole in the encoder's vocabulary, others are spelt out of pieces. A single word is no evidence:
# "yikes" and "ughhh" are in pieces, too.
_IN_PIECES = {2: 0.65, 3: 0.45, 4: 0.28}
# One of these makes a text English however it is spelt: frequent in English, rare in its neighbours.
_FREQUENT = """
    the you your my it this that what and of is im we they he she his him have not with for are but just would
    can could should like love get got dont know think see going yes yeah yay oh lol lmao omg wtf haha how why when
    where there then than only some very really too much good great thank thanks please sorry happy from about their our
    out up now one at did well girl
"""
_ENGLISH = frozenset(_FREQUENT.split())


def why_unread(words: Sequence[str], pieces: Sequence[Sequence[str]]) -> str | None:
    """Return why the text branch cannot read a sentence, None where it can.

    Of GoEmotions' 5,426 sentences for development 0.3 % are turned away, of nEMO's 90 in Polish and EMO-DB's 10 in
    German none is read.

    Args:
        pieces: the encoder's word pieces of each word.
    """
    letters = [c for c in unicodedata.normalize("NFKC", "".join(words)) if c.isalpha()]
    if not letters:
        return "there is no letter in them"
    scripts = [unicodedata.name(c, "UNKNOWN").split()[0] for c in letters]
    foreign = [script for script in scripts if script != "LATIN"]
    if len(foreign) > _MOST * len(letters):
        most = max(set(foreign), key=foreign.count)
        return f"they are written in {most if most == 'CJK' else most.title()} letters, and English alone was learned"
    every = [piece for word in pieces for piece in word]
    if every.count("[UNK]") > _MOST * len(every):
        return "most of them are unknown to the text encoder"
    bare = ("".join(c for c in word.lower() if c.isalpha()) for word in words)
    spoken = [word for word in bare if word]
    if len(spoken) < min(_IN_PIECES) or not _ENGLISH.isdisjoint(spoken):
        return None
    lettered = [piece for piece in every if any(c.isalpha() for c in piece)]
    share = sum(piece.startswith("##") for piece in lettered) / max(len(lettered), 1)
    if share >= _IN_PIECES[min(len(spoken), max(_IN_PIECES))]:
        return "they do not look like English, and English alone was learned"
    return None
