"""What in the words counts."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmer.features import LanguageModel
from mmer.integrated_gradients import slopes
from mmer.occlusion import occluded, regressed
from mmer.target_logit import TargetLogit
from mmer.trust import Kept, UnitScores, off_by


class WordLogit:
    """The target as a function of the token embeddings. The baseline is padding tokens; marks of beginning and end
    stay."""

    def __init__(
        self,
        target: TargetLogit,
        words: tuple[str, ...],
        token_ids: Tensor,
        token_words: Tensor,
        language: LanguageModel,
    ):
        self.target, self.encoder, self.language = target, target.model.encoders["text"], language
        self.words, self.device = words, target.batch.present.device
        self.ids, self.owners = token_ids[None].to(language.device), token_words.to(self.device)
        self.mask = torch.ones_like(self.ids, dtype=torch.bool)
        self.whole = language.embeddings(self.ids).detach()  # (1, S, 384)
        padding = language.embeddings.weight[language.embeddings.padding_idx].detach()
        inside = (self.owners >= 0).to(language.device)
        self.empty = torch.where(inside[None, :, None], padding, self.whole)
        self.kept = Kept(self._run)

    @property
    def n_units(self) -> int:
        return len(self.words)

    def logit(self, embedded: Tensor) -> Tensor:
        """Return the logits (B,) for other token embeddings (B, S, 384)."""
        return self.target.asked(self.logits(embedded))

    def logits(self, embedded: Tensor) -> Tensor:
        B = len(embedded)
        mask = self.mask.expand(B, -1)
        states = self.language.run(self.ids.expand(B, -1), mask, embedded=embedded).to(self.device)
        state = self.encoder(states, mask.to(self.device))
        return self.target.logits_of(2, state.middle, state.top, state.pooled)

    @torch.no_grad()
    def _run(self, kept: Tensor) -> Tensor:
        """Return the logits (R,) with padding in place of all but the kept words (R, n)."""
        return self.target.asked(self.kept_logits(kept))

    @torch.no_grad()
    def kept_logits(self, kept: Tensor) -> Tensor:
        """As `kept`, of all emotions (R, K)."""
        stays = kept[:, self.owners.clamp_min(0)] | (self.owners < 0)
        return self.logits(torch.where(stays[..., None].to(self.language.device), self.whole, self.empty))

    def spread(self, found: UnitScores) -> Tensor:
        """Return the score of each token (S,); those of a word share its score equally."""
        if found.shares is not None:
            return found.shares
        inside = self.owners >= 0
        sizes = self.owners[inside].bincount(minlength=self.n_units)
        tokens = found.scores.new_zeros(len(self.owners))
        tokens[inside] = (found.scores / sizes.clamp_min(1))[self.owners[inside]]
        return tokens


def token_gradients(text: WordLogit) -> UnitScores:
    """Attribute to the token embeddings by integrated gradients; sub-words add up."""
    with torch.no_grad():
        gap = float(text.logit(text.whole) - text.logit(text.empty))
    # A recurrent layer on a GPU gives no gradient in evaluation mode through cuDNN.
    with torch.backends.cudnn.flags(enabled=False):
        (found,), delta = slopes(text.logit, (text.whole,), (text.empty,))
    tokens = ((text.whole - text.empty) * found)[0].sum(1).to(text.device)  # (S,)
    inside = text.owners >= 0
    scores = tokens.new_zeros(text.n_units).index_add(0, text.owners[inside], tokens[inside])
    return UnitScores("integrated gradients against padding", scores, gap, delta, tokens)


def occlusion(text: WordLogit) -> UnitScores:
    """Take each word away once."""
    return _occluded(text, "occlusion of words by padding", both_ways=False)


def two_way_occlusion(text: WordLogit) -> UnitScores:
    """Take each word away once, and all but it once."""
    return _occluded(text, "occlusion of words, and of all but them, by padding", both_ways=True)


def _occluded(text: WordLogit, method: str, *, both_ways: bool) -> UnitScores:
    word = torch.arange(text.n_units, device=text.device)
    scores, gap = occluded(text.kept, (word,), both_ways=both_ways)
    return UnitScores(method, scores, gap, off_by(float(scores.sum()), gap))


def regression(text: WordLogit) -> UnitScores:
    """As `occlusion`, from all sets of words that were taken away."""
    word = torch.arange(text.n_units, device=text.device)
    scores, gap = regressed(text.kept, (word,), torch.eye(text.n_units))
    return UnitScores("regression on words taken away", scores, gap, off_by(float(scores.sum()), gap))


METHODS: dict[str, Callable[[WordLogit], UnitScores]] = {
    "integrated gradients": token_gradients,
    "occlusion": occlusion,
    "two-way occlusion": two_way_occlusion,
    "regression": regression,
}
DEFAULT = "two-way occlusion"  # on validation sentences better than the others, see the card
