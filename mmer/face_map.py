"""What in a face counts: its frames, and in the frames that count most its pixels and regions."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from mmer import shapley
from mmer.encoders import FaceEncoder
from mmer.face import REGIONS
from mmer.integrated_gradients import slopes
from mmer.occlusion import occluded, regressed
from mmer.target_logit import TargetLogit
from mmer.trust import Kept, UnitScores, off_by

KEY_FRAMES = 3  # crops that get a map: with its test 80 runs each, at 5 ms forth and 7 ms back
PATCH = 8  # pixels a side: the grain at which the face map is tested
SOFTEN = 5.0  # standard deviation in pixels of the blur: eyes and mouth of a 48-pixel crop melt away
_AT_ONCE = 96  # crops: more only leave the cache
_BLENDSHAPES = {
    "brows": slice(1, 6),
    "eyes": slice(9, 23),
    "nose": slice(50, 52),
    "mouth": slice(27, 50),
    "jaw": slice(23, 27),
}


def soften(crops: Tensor, sigma: float = SOFTEN) -> Tensor:
    """Return square crops (..., H, H) without an expression: a Gaussian blur of `sigma` pixels."""
    at = torch.arange(crops.shape[-1], device=crops.device, dtype=crops.dtype)
    blur = (-((at[:, None] - at) ** 2) / (2 * sigma**2)).exp()
    blur = blur / blur.sum(1, keepdim=True)
    return blur @ crops @ blur.T


class FaceLogit:
    """The target as a function of the face: of the states of its frames, and of the pixels of some of them.

    First the states of the frames are moved from those of the blurred crops to the real ones: each frame's share is its
    moment. Then in each key frame that share, as a linear function of the frame's state, goes to pixels and
    blendshapes.

    The baseline is out of focus and not one grey: the encoder divides a crop by its own deviation, so on the way to a
    constant crop nothing changes until contrast is below 2 % (16 steps: 14 % off; towards the blur 2 %). Blendshapes go
    to 0, a face at rest.

    Args:
        key: the frames to map, (F,); those with the largest moments when None.
    """

    def __init__(self, target: TargetLogit, key: Tensor | None = None):
        batch = target.batch
        self.target, self.encoder = target, cast(FaceEncoder, target.model.encoders["face"])
        self.crops, self.blendshapes = batch.crops[0], batch.blendshapes[0]  # (T_f, 1, H, W), (T_f, 52)
        self.known = batch.blend_mask[0, :1]
        self.soft, self.rest = soften(self.crops), torch.zeros_like(self.blendshapes)
        with torch.no_grad():
            self.states = self.frames(self.crops, self.blendshapes)  # (T_f, C_middle + state + 1)
            self.baseline = self.frames(self.soft, self.rest)
            self.gap = float(self.logit(self.states[None]) - self.logit(self.baseline[None]))
        (found,), self.delta = slopes(self.logit, (self.states[None],), (self.baseline[None],))
        self.slopes = found[0]  # (T_f, C_middle + state + 1)
        self.moments = ((self.states - self.baseline) * self.slopes).sum(1)  # (T_f,)
        n_key = min(KEY_FRAMES, len(self.moments))
        # (F,) the frames that get a map: those with the largest moments
        self.key = self.moments.abs().topk(n_key).indices.sort().values if key is None else key
        self.kept = Kept(self._run)

    @property
    def n_units(self) -> int:
        """Patches of all key frames."""
        *_, H, W = self.crops.shape
        return len(self.key) * (H // PATCH) * (W // PATCH)

    def frames(self, crops: Tensor, blendshapes: Tensor) -> Tensor:
        """Return the states (N, C_middle + state + 1) of frames, last what attention over time weighs them by."""
        self.target.go_on()
        middle, frame, score = self.encoder.frames(crops, blendshapes, self.known.expand(len(crops)))
        return torch.cat([middle, frame, score[:, None]], 1)

    def logit(self, states: Tensor) -> Tensor:
        """Return the logits (B,) of the states (B, T_f, C) of frames."""
        return self.target.asked(self.logits(states))

    def logits(self, states: Tensor) -> Tensor:
        """Pool states (B, T_f, C) over time as the encoder does and return the logits (B, K)."""
        middle_size = self.encoder.middle_size
        middles, frames, scores = states.split([middle_size, states.shape[2] - middle_size - 1, 1], 2)
        weights = scores.softmax(1)
        pooled = (frames * weights).sum(1)
        return self.target.logits_of(0, (middles * weights).sum(1), self.encoder.project(pooled), pooled)

    @torch.no_grad()
    def masked(self, key: Tensor, kept: Tensor, kept_blendshapes: Tensor) -> Tensor:
        """Return the logits (R, K) with only the kept pixels (R, F, H, W) of the frames `key` (F,) sharp."""
        R, F = kept.shape[:2]
        shapes_kept = kept_blendshapes.expand(R, F, self.blendshapes.shape[1])
        # A frame that stays whole has its state already: an occlusion changes one frame of three.
        row, frame = (~(kept.flatten(2).all(2) & shapes_kept.all(2))).nonzero(as_tuple=True)
        states = self.states.expand(R, -1, -1).clone()
        for r, f in zip(row.split(_AT_ONCE), frame.split(_AT_ONCE), strict=True):
            at = key[f]
            mixed = torch.where(kept[r, f][:, None], self.crops[at], self.soft[at])
            states[r, at] = self.frames(mixed, self.blendshapes[at] * shapes_kept[r, f])
        return self.logits(states)

    def _run(self, kept: Tensor) -> Tensor:
        """Return the logits (R,) with only the kept patches (R, n) of the key frames sharp."""
        *_, H, W = self.crops.shape
        grid = kept.view(len(kept), len(self.key), H // PATCH, W // PATCH)
        pixels = grid.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
        return self.target.asked(self.masked(self.key, pixels, kept.new_ones(len(kept), 1, 1)))

    def spread(self, found: UnitScores) -> Tensor:
        """Return a map (F, H, W) of the key frames; scores of patches are equal within a patch."""
        if found.shares is not None:
            return found.shares
        *_, H, W = self.crops.shape
        grid = found.scores.view(len(self.key), H // PATCH, W // PATCH) / PATCH**2
        return grid.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)


def patch_gradients(face: FaceLogit) -> UnitScores:
    """Attribute the key frames' moments to their pixels by integrated gradients."""
    key = face.key
    (pixels, _), delta = slopes(
        lambda crops, blendshapes, along: (face.frames(crops, blendshapes) * along).sum(1),
        (face.crops[key], face.blendshapes[key]),
        (face.soft[key], face.rest[key]),
        (face.slopes[key],),
    )
    shares = ((face.crops[key] - face.soft[key]) * pixels)[:, 0]  # (F, H, W)
    scores = torch.nn.functional.avg_pool2d(shares, PATCH).flatten() * PATCH**2
    method = "integrated gradients against the face out of focus"
    return UnitScores(method, scores, face.gap, max(face.delta, delta), shares)


def patch_occlusion(face: FaceLogit) -> UnitScores:
    """Blur each patch of each key frame once."""
    return _occluded(face, "occlusion of patches by blur", both_ways=False)


def two_way_occlusion(face: FaceLogit) -> UnitScores:
    """Blur each patch of each key frame once, and all but it once."""
    return _occluded(face, "occlusion of patches, and of all but them, by blur", both_ways=True)


def _occluded(face: FaceLogit, method: str, *, both_ways: bool) -> UnitScores:
    patch = torch.arange(face.n_units, device=face.crops.device)
    scores, gap = occluded(face.kept, (patch,), both_ways=both_ways)
    return UnitScores(method, scores, face.gap, max(face.delta, off_by(float(scores.sum()), gap)))


def regression(face: FaceLogit) -> UnitScores:
    """As `patch_occlusion`, from all that was blurred: neighbours are expected to be alike."""
    *_, H, W = face.crops.shape
    at = torch.cartesian_prod(*(torch.arange(n // PATCH, dtype=torch.float32) for n in (H, W)))
    near = (-torch.cdist(at, at).square() / 2).exp() + torch.eye(len(at))
    prior = torch.block_diag(*[near] * len(face.key))
    patch = torch.arange(face.n_units, device=face.crops.device)
    scores, gap = regressed(face.kept, (patch,), prior)
    delta = max(face.delta, off_by(float(scores.sum()), gap))
    return UnitScores("regression on blurred patches", scores, face.gap, delta)


METHODS: dict[str, Callable[[FaceLogit], UnitScores]] = {
    "integrated gradients": patch_gradients,
    "occlusion": patch_occlusion,
    "two-way occlusion": two_way_occlusion,
    "regression": regression,
}
DEFAULT = "integrated gradients"


@torch.no_grad()
def region_shares(face: FaceLogit, regions: Tensor) -> tuple[tuple[str, float], ...]:
    """Return the exact Shapley value of each region, pixels and blendshapes together; the rest of the face stays.

    Args:
        regions: (T_f, 5, H, W) bool.
    """
    masks = regions.to(face.crops.device)[face.key]  # (F, 5, H, W)
    n, device = len(REGIONS), masks.device
    bits = 2 ** torch.arange(n, device=device)
    kept = (torch.arange(2**n, device=device)[:, None] & bits) > 0  # (32, 5)
    worth = face.target.asked(face.masked(face.key, *regions_kept(masks, kept)))
    return tuple(zip(REGIONS, shapley.exact(worth).tolist(), strict=True))


def regions_kept(masks: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pixels (R, F, H, W) and blendshapes (R, 1, 52) stay with only some regions.

    Args:
        masks: (F, 5, H, W) bool.
        kept: (R, 5) bool.
    """
    gone = (masks & ~kept[:, None, :, None, None]).any(2)
    shapes = kept.new_ones(len(kept), 1, 52)
    for i, region in enumerate(REGIONS):
        shapes[:, 0, _BLENDSHAPES[region]] = kept[:, i, None]
    return ~gone, shapes
