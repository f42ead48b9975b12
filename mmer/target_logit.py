"""What an explanation explains: the fused logit of one emotion, as a function of one branch's state."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmer import shapley
from mmer.checkpoint import Checkpoint
from mmer.errors import ClipError, MmerError
from mmer.features import Features, collate
from mmer.labels import EMOTIONS, MODALITIES
from mmer.model import BranchStates


class TargetLogit:
    """The fused logit of one emotion, or how far it is above another's, the branches that are not asked about held.

    Args:
        target: an emotion; the winning one when None.
        against: the emotion whose logit is taken off.
        should_stop: asked before every run of the model.

    Raises:
        ClipError: `nothing_to_explain` when no modality is present.
        MmerError: `bad_contrast` for an emotion held against itself; later `stopped`, when `should_stop` said so.
    """

    @torch.no_grad()
    def __init__(
        self,
        loaded: Checkpoint,
        features: Features,
        target: str | None = None,
        against: str | None = None,
        should_stop: Callable[[], bool] | None = None,
    ):
        if not any(features.present):
            raise ClipError(
                "nothing_to_explain", "neither a face, nor a voice, nor words were found; there is nothing to explain"
            )
        self.model, self._should_stop = loaded.model, should_stop
        self.batch = collate([features], loaded.config).to(self.model.temperatures.device)
        self.states = self.model.branches(self.batch)
        self.fused = self.model.fuse(self.states, self.batch.present).logits[0]  # (K,)
        self.k = int(self.fused.argmax()) if target is None else EMOTIONS.index(target)
        self.other = None if against is None else EMOTIONS.index(against)
        if self.k == self.other:
            raise MmerError("bad_contrast", f"{against} cannot be held against itself; name another emotion")
        self.value = float(self.asked(self.fused))
        self.of_nothing = float(self.among(torch.zeros_like(self.batch.present, dtype=torch.float32)))

    @property
    def target(self) -> str:
        return EMOTIONS[self.k]

    def asked(self, logits: Tensor) -> Tensor:
        """Return what is explained (...) of logits (..., K)."""
        return logits[..., self.k] - (0 if self.other is None else logits[..., self.other])

    def among(self, mask: Tensor) -> Tensor:
        """Return the logit (B,) when only the branches in the mask (B, 3) are there."""
        states = self._rows(len(mask))
        return self.asked(self.model.fuse(states, mask.bool() & self.batch.present).logits)

    def logits_of(self, branch: int, middle: Tensor, top: Tensor, pooled: Tensor) -> Tensor:
        """Return the logits (B, K) for other states of a branch: (B, C_middle), (B, state) and (B, C_pooled)."""
        self.go_on()
        B = len(top)
        held = self._rows(B)
        vote = self.model.vote_of(MODALITIES[branch], top, pooled)
        face, voice, text = (middle if i == branch else m for i, m in enumerate(held.middles))
        tops = torch.stack([top if i == branch else held.tops[:, i] for i in range(len(MODALITIES))], 1)
        votes = torch.stack([vote if i == branch else held.logits[:, i] for i in range(len(MODALITIES))], 1)
        states = BranchStates((face, voice, text), tops, votes)
        return self.model.fuse(states, self.batch.present.expand(B, -1)).logits

    @torch.no_grad()
    def shares(self) -> dict[str, float | None]:
        """Return the exact Shapley value of each branch that is present. https://arxiv.org/abs/1705.07874"""
        present = self.batch.present
        values = self.asked(shapley.of_branches(self.model, self.states, present)[0]).tolist()
        return {m: v if here else None for m, v, here in zip(MODALITIES, values, present[0].tolist(), strict=True)}

    def alone(self) -> dict[str, str]:
        """Return what each branch that is present says alone."""
        here = zip(MODALITIES, self.states.logits[0].argmax(1).tolist(), self.batch.present[0].tolist(), strict=True)
        return {m: EMOTIONS[k] for m, k, present in here if present}

    def go_on(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise MmerError("stopped", "the explanation was stopped")

    def _rows(self, B: int) -> BranchStates:
        s = self.states
        face, voice, text = (m.expand(B, -1) for m in s.middles)
        return BranchStates((face, voice, text), s.tops.expand(B, -1, -1), s.logits.expand(B, -1, -1))
