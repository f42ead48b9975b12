"""The fusions of the comparison: what absence means to each, and values worked out by hand where nothing is learned."""

import pytest
import torch

from mmer.config import ModelConfig
from mmer.labels import N_EMOTIONS
from mmer.model import BranchStates
from training.experiments import fusion_baselines
from training.experiments.fusion_baselines import KINDS, fusion_of
from training.learn.losses import soft_cross_entropy

CONFIG, MIDDLES = ModelConfig.tiny(), (8, 8, 24)
SUBSETS = torch.tensor([[bool(code >> i & 1) for i in range(3)] for code in range(8)])


def states(n: int, seed: int = 0) -> BranchStates:
    g = torch.Generator().manual_seed(seed)
    middles = tuple(torch.randn(n, c, generator=g) for c in MIDDLES)
    return BranchStates(middles, torch.randn(n, 3, 16, generator=g), torch.randn(n, 3, N_EMOTIONS, generator=g))


def some(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return fusion_of(kind, CONFIG, MIDDLES).eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_absent_never_counts(kind):
    """Other values inside absent branches leave the answer as it was."""
    fusion, one, other = some(kind), states(8), states(8, seed=1)

    def where(a: torch.Tensor, b: torch.Tensor, i: int) -> torch.Tensor:
        return torch.where(SUBSETS[:, i, None], a, b)

    changed = BranchStates(
        tuple(where(a, b, i) for i, (a, b) in enumerate(zip(one.middles, other.middles, strict=True))),
        torch.where(SUBSETS[..., None], one.tops, other.tops),
        torch.where(SUBSETS[..., None], one.logits, other.logits),
    )
    torch.testing.assert_close(fusion(changed, SUBSETS)[0], fusion(one, SUBSETS)[0])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_one_branch_is_passed_through_and_none_says_nothing(kind):
    fusion, given = some(kind), states(8)
    fusion.temperature.fill_(3.0)
    logits, weights = fusion(given, SUBSETS)
    for row in range(8):
        if SUBSETS[row].sum() == 1:
            torch.testing.assert_close(logits[row], given.logits[row, SUBSETS[row]][0])
    assert logits[0].abs().sum() == 0
    assert bool((weights[~SUBSETS] == 0).all())


@torch.no_grad()
def test_the_average_and_the_product_of_two_experts():
    """0.8 and 0.2 against 0.5 and 0.5: the mean is 0.65 to 0.35, the product 0.4 to 0.1."""
    votes = torch.full((1, 3, N_EMOTIONS), -40.0)
    votes[0, 0, :2] = torch.tensor([0.8, 0.2]).log()
    votes[0, 2, :2] = torch.tensor([0.5, 0.5]).log()
    given = BranchStates(tuple(torch.zeros(1, c) for c in MIDDLES), torch.zeros(1, 3, 16), votes)
    present = torch.tensor([[True, False, True]])
    assert some("average")(given, present)[0].softmax(1)[0, :2].tolist() == pytest.approx([0.65, 0.35], abs=1e-5)
    assert some("product")(given, present)[0].softmax(1)[0, :2].tolist() == pytest.approx([0.8, 0.2], abs=1e-5)


@torch.no_grad()
def test_low_rank_fusion_is_the_sum_of_products():
    fusion, given = some("low_rank").baseline, states(1)
    present = torch.tensor([[True, True, False]])
    x = fusion.embed(given, present)[0]
    face = fusion.factors[0](x[0]).view(fusion.rank, N_EMOTIONS)
    voice = fusion.factors[1](x[1]).view(fusion.rank, N_EMOTIONS)
    expected = fusion.bias + sum(fusion.weights[r] * face[r] * voice[r] for r in range(fusion.rank))
    torch.testing.assert_close(fusion(given, present)[0], expected)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("average", "product")])
def test_each_learns_what_only_two_branches_together_say(kind):
    """The label is whether the signs of two branches agree: no branch alone knows, and no sum of votes does."""
    torch.manual_seed(1)
    fusion = fusion_of(kind, CONFIG, MIDDLES)
    optimizer = torch.optim.Adam(fusion.parameters(), 1e-2)
    g = torch.Generator().manual_seed(2)

    def draw(n: int) -> tuple[BranchStates, torch.Tensor]:
        signs = torch.randint(2, (n, 3), generator=g) * 2.0 - 1
        tops = torch.randn(n, 3, 16, generator=g) * 0.1
        tops[:, :, 0] += signs
        agree = (signs[:, 0] == signs[:, 1]).long()
        middles = tuple(torch.zeros(n, c) for c in MIDDLES)
        return BranchStates(middles, tops, torch.zeros(n, 3, N_EMOTIONS)), agree

    for _ in range(250):
        given, label = draw(128)
        loss = soft_cross_entropy(fusion(given, torch.ones(128, 3, dtype=torch.bool))[0], torch.eye(N_EMOTIONS)[label])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    given, label = draw(500)
    with torch.no_grad():
        right = fusion.eval()(given, torch.ones(500, 3, dtype=torch.bool))[0].argmax(1) == label
    assert right.float().mean() > 0.9


def test_every_kind_has_a_paper_and_says_what_absence_means():
    for made in fusion_baselines.BASELINES.values():
        assert "http" in made.__doc__
