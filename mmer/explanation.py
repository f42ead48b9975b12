"""Why one utterance was judged as it was: scores, verdicts on them, and a sentence that goes no further."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from mmer.messages import Say, capital, listed, marked, plain
from mmer.prosody import Prosody
from mmer.trust import MIN_GAP, VERDICTS, Trust

_NOTHING = marked("{what}: nothing speaks for it clearly.")
_MOSTLY = {
    "face": marked("{what}: mostly the face{where}."),
    "voice": marked("{what}: mostly the voice{where}."),
    "text": marked("{what}: mostly the words{where}."),
}
_ABOVE_ALL = {
    "face": marked("{what}: above all the face{where}."),
    "voice": marked("{what}: above all the voice{where}."),
    "text": marked("{what}: above all the words{where}."),
}
_AGAINST = {
    "face": marked("The face speaks against it."),
    "voice": marked("The voice speaks against it."),
    "text": marked("The words speak against it."),
}
_AGAINST_FOR = {
    "face": marked("The face speaks against it; alone it says {other}."),
    "voice": marked("The voice speaks against it; alone it says {other}."),
    "text": marked("The words speak against it; alone they say {other}."),
}
_FOR_TOO = {
    "face": marked("The face speaks for it too."),
    "voice": marked("The voice speaks for it too."),
    "text": marked("The words speak for it too."),
}
_HARDLY = {
    "face": marked("The face hardly counts."),
    "voice": marked("The voice hardly counts."),
    "text": marked("The words hardly count."),
}
_AT = {
    "brows": marked(", strongest at the brows"),
    "eyes": marked(", strongest at the eyes"),
    "nose": marked(", strongest at the nose"),
    "mouth": marked(", strongest at the mouth"),
    "jaw": marked(", strongest at the jaw"),
}
_AT_PITCH = marked(", strongest from {start:.1f} to {end:.1f} s at {low:.0f} to {high:.0f} Hz")
_LIKE = {  # louder, higher
    (True, True): marked(", where it is louder and higher than elsewhere"),
    (True, False): marked(", where it is louder than elsewhere"),
    (False, True): marked(", where it is higher than elsewhere"),
}
_AT_WORD = marked(', strongest in "{word}"')
_MAP = {"face": marked("face"), "voice": marked("voice"), "text": marked("word")}
_MEANING = {  # of one map, of several
    "trustworthy": (marked("The {named} map is trustworthy."), marked("The {named} maps are trustworthy.")),
    "weak": (marked("The {named} map is weak."), marked("The {named} maps are weak.")),
    "no clear evidence": (
        marked("The {named} map shows no clear evidence."),
        marked("The {named} maps show no clear evidence."),
    ),
}


@dataclass(frozen=True)
class Explanation:
    """Why one utterance was judged as it was. Scores are shares of the logit of `target`."""

    target: str
    start_s: float
    end_s: float
    logit: float
    baseline_logit: float  # of nothing at all
    modality: dict[str, float | None]  # None where absent; sums to logit - baseline_logit
    words: tuple[tuple[str, float], ...]  # each typed word
    voice_bands: tuple[dict[str, float], ...]  # start_s, end_s, low_hz, high_hz, score; they tile the spectrogram
    face_regions: tuple[tuple[str, float], ...]  # over the key frames; empty without landmarks
    face_moments: tuple[tuple[float, float], ...]  # (time_s, score) of every frame
    trust: dict[str, Trust | None]
    face_map: Tensor | None = None  # (T_f, H, W); NaN in all but the `KEY_FRAMES` crops with the largest moments
    voice_map: Tensor | None = None  # (T_a, M)
    prosody: Prosody | None = None  # how the voice ran
    token_scores: Tensor | None = None  # (S,)
    against: str | None = None  # the emotion it is held against: the scores are then shares of both logits' difference
    pending: tuple[str, ...] = ()  # branches whose maps are still to come
    alone: dict[str, str] = field(default_factory=dict)  # what each branch that is present says alone

    def __repr__(self) -> str:
        shares = ", ".join(f"{m} {v:+.2f}" for m, v in self.modality.items() if v is not None)
        target = self.target if self.against is None else f"{self.target} rather than {self.against}"
        return f"Explanation({target}, logit {self.logit:.2f}, {shares})"

    @property
    def sentence(self) -> str:
        """What the figures say in English."""
        return self.told()

    def told(self, say: Say = plain, name: Callable[[str], str] = str) -> str:
        """Return what the figures say in words, no more than the verdicts on the maps allow.

        Args:
            say: says the texts in some language.
            name: names an emotion in it.
        """
        shares = {m: v for m, v in self.modality.items() if v is not None}
        leader = max(shares, key=lambda m: shares[m])
        what = name(self.target)
        if self.against:
            what = say(marked("{what} rather than {other}"), what=what, other=name(self.against))
        what = capital(what)
        if shares[leader] < MIN_GAP:
            said = [say(_NOTHING, what=what)]
            rest = shares
        else:
            most = shares[leader] > sum(map(abs, shares.values())) / 2
            said = [say((_MOSTLY if most else _ABOVE_ALL)[leader], what=what, where=self._where(leader, say))]
            rest = {m: v for m, v in shares.items() if m != leader}
        for m, share in rest.items():
            if share <= -MIN_GAP:
                other = self.alone.get(m, self.target)
                alone = other != self.target
                said.append(say(_AGAINST_FOR[m], other=name(other)) if alone else say(_AGAINST[m]))
            else:
                said.append(say((_FOR_TOO if share >= MIN_GAP else _HARDLY)[m]))
        for verdict, (one, many) in _MEANING.items():
            maps = [say(_MAP[m]) for m, trust in self.trust.items() if trust is not None and trust.verdict == verdict]
            if maps:
                said.append(say(many if len(maps) > 1 else one, named=listed(maps, say)))
        return " ".join(said)

    def _where(self, branch: str, say: Say) -> str:
        """Return what in a branch speaks most for the target; nothing unless its map is trustworthy."""
        trust = self.trust[branch]
        if trust is None or trust.verdict != VERDICTS[0]:
            return ""
        if branch == "voice":
            best = max(self.voice_bands, key=lambda band: band["score"])
            where = say(_AT_PITCH, start=best["start_s"], end=best["end_s"], low=best["low_hz"], high=best["high_hz"])
            if self.prosody is None:
                return where
            span = best["start_s"], best["end_s"]
            like = _LIKE.get((self.prosody.louder(*span), self.prosody.higher(*span)))
            return where + (say(like) if like else "")
        scores = self.face_regions if branch == "face" else self.words
        if not scores:
            return ""
        found, score = max(scores, key=lambda pair: pair[1])
        if score <= 0:
            return ""
        return say(_AT[found]) if branch == "face" else say(_AT_WORD, word=found)

    def to_dict(self) -> dict:
        """Return the JSON object `explanation` of `python -m mmer analyse --explain`."""
        return {
            "target": self.target,
            "against": self.against,
            "sentence": self.sentence,
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "logit": round(self.logit, 4),
            "baseline_logit": round(self.baseline_logit, 4),
            "modality": {m: None if v is None else round(v, 4) for m, v in self.modality.items()},
            "alone": self.alone,
            "words": [{"word": w, "score": round(s, 4)} for w, s in self.words],
            "voice_bands": [{k: round(v, 4) for k, v in band.items()} for band in self.voice_bands],
            "voice_contours": None if self.prosody is None else self.prosody.to_dict(),
            "face_regions": [{"region": r, "score": round(s, 4)} for r, s in self.face_regions],
            "face_moments": [{"time_s": round(t, 3), "score": round(s, 4)} for t, s in self.face_moments],
            "trust": {
                m: {k: round(v, 4) if isinstance(v, float) else v for k, v in vars(t).items()}
                for m, t in self.trust.items()
                if t is not None
            },
        }
