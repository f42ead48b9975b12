"""Why one utterance was judged as it was: scores, verdicts on them, and a sentence that goes no further."""

from dataclasses import dataclass, field

from torch import Tensor

from mmer.trust import MIN_GAP, VERDICTS, Trust

_THE = {"face": "the face", "voice": "the voice", "text": "the words"}
_SPEAK = {"face": "speaks", "voice": "speaks", "text": "speak"}
_IT_SAYS = {"face": "it says", "voice": "it says", "text": "they say"}
_COUNT = {"face": "counts", "voice": "counts", "text": "count"}
_MAP = {"face": "face", "voice": "voice", "text": "word"}
_MEANING = {
    "trustworthy": ("is trustworthy", "are trustworthy"),
    "weak": ("is weak", "are weak"),
    "no clear evidence": ("shows no clear evidence", "show no clear evidence"),
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
        """What the figures say in words, no more than the verdicts on the maps allow."""
        shares = {m: v for m, v in self.modality.items() if v is not None}
        leader = max(shares, key=lambda m: shares[m])
        what = self.target.capitalize() + (f" rather than {self.against}" if self.against else "")
        if shares[leader] < MIN_GAP:
            said = [f"{what}: nothing speaks for it clearly."]
            rest = shares
        else:
            most = shares[leader] > sum(map(abs, shares.values())) / 2
            where = self._where(leader)
            said = [f"{what}: {'mostly' if most else 'above all'} {_THE[leader]}{where and f', {where}'}."]
            rest = {m: v for m, v in shares.items() if m != leader}
        for m, share in rest.items():
            if share <= -MIN_GAP:
                other = self.alone.get(m, self.target)
                alone = f"; alone {_IT_SAYS[m]} {other}" if other != self.target else ""
                said.append(f"{_THE[m].capitalize()} {_SPEAK[m]} against it{alone}.")
            elif share >= MIN_GAP:
                said.append(f"{_THE[m].capitalize()} {_SPEAK[m]} for it too.")
            else:
                said.append(f"{_THE[m].capitalize()} hardly {_COUNT[m]}.")
        for verdict, (one, many) in _MEANING.items():
            maps = [_MAP[m] for m, trust in self.trust.items() if trust is not None and trust.verdict == verdict]
            if maps:
                named = " and ".join([", ".join(maps[:-1])] * (len(maps) > 1) + maps[-1:])
                said.append(f"The {named} map {one}." if len(maps) == 1 else f"The {named} maps {many}.")
        return " ".join(said)

    def _where(self, branch: str) -> str:
        """Return what in a branch speaks most for the target; nothing unless its map is trustworthy."""
        trust = self.trust[branch]
        if trust is None or trust.verdict != VERDICTS[0]:
            return ""
        if branch == "voice":
            best = max(self.voice_bands, key=lambda band: band["score"])
            band = f"{best['low_hz']:.0f} to {best['high_hz']:.0f} Hz"
            return f"strongest from {best['start_s']:.1f} to {best['end_s']:.1f} s at {band}"
        scores = self.face_regions if branch == "face" else self.words
        if not scores:
            return ""
        name, score = max(scores, key=lambda pair: pair[1])
        return "" if score <= 0 else f"strongest at the {name}" if branch == "face" else f'strongest in "{name}"'

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
            "face_regions": [{"region": r, "score": round(s, 4)} for r, s in self.face_regions],
            "face_moments": [{"time_s": round(t, 3), "score": round(s, 4)} for t, s in self.face_moments],
            "trust": {
                m: {k: round(v, 4) if isinstance(v, float) else v for k, v in vars(t).items()}
                for m, t in self.trust.items()
                if t is not None
            },
        }
