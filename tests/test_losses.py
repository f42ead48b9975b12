"""Losses against values worked out by hand and against each other's limits."""

import math

import pytest
import torch

from training.learn import losses
from training.learn.losses import Loss

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
HARD = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
SOFT = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
COUNTS = torch.tensor([10_000.0, 625.0, 16.0])


def test_focal_loss_of_even_odds():
    """Three equal logits: p = 1/3, so (1 - 1/3)^2 ln 3."""
    loss = losses.focal(torch.zeros(1, 3), HARD[:1], gamma=2)
    assert loss == pytest.approx((2 / 3) ** 2 * math.log(3))


@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
def test_losses_without_their_parameter_are_the_cross_entropy(targets):
    plain = float(losses.soft_cross_entropy(LOGITS, targets))
    assert losses.focal(LOGITS, targets, gamma=0) == pytest.approx(plain)
    assert losses.ldam(LOGITS, targets, torch.zeros(3)) == pytest.approx(plain)
    assert losses.soft_cross_entropy(LOGITS, targets, weights=torch.ones(3)) == pytest.approx(plain)
    assert losses.soft_cross_entropy(LOGITS, targets, log_prior=losses.log_prior(COUNTS, 0.0)) == pytest.approx(plain)


def test_focal_loss_hardly_counts_what_is_right():
    sure = torch.tensor([[5.0, 0.0, 0.0]])
    assert losses.focal(sure, HARD[:1]) < 0.01 * losses.soft_cross_entropy(sure, HARD[:1])


def test_margins_fall_with_the_fourth_root():
    """Counts 16, 625 and 10,000 have fourth roots 2, 5 and 10."""
    assert losses.margins(COUNTS, largest=0.5).tolist() == pytest.approx([0.5 * 2 / 10, 0.5 * 2 / 5, 0.5])


def test_ldam_lowers_only_the_right_logit():
    """-log of e^(2 - 0.5) over e^(2 - 0.5) + e^0 + e^-1."""
    loss = losses.ldam(LOGITS[:1], HARD[:1], torch.tensor([0.5, 9.0, 9.0]))
    assert loss == pytest.approx(-math.log(math.exp(1.5) / (math.exp(1.5) + 1 + math.exp(-1))))


def test_ldam_keeps_its_gradient_where_one_class_rules():
    logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    losses.ldam(logits, torch.tensor([[0.0, 1.0, 0.0]]), torch.full((3,), 0.5)).backward()
    assert logits.grad[0].tolist() == pytest.approx([1, -1, 0], abs=1e-5)


def test_the_effective_number_of_examples():
    """beta 0.9: 1 example counts 1, 2 count 1.9, so the weights stand as 1.9 to 1."""
    weights = losses.class_balanced_weights(torch.tensor([1.0, 2.0]), beta=0.9)
    assert float(weights[0] / weights[1]) == pytest.approx(1.9)
    assert float(weights.mean()) == pytest.approx(1)
    assert losses.class_balanced_weights(COUNTS, beta=0.0).tolist() == pytest.approx([1, 1, 1])
    inverse = losses.class_balanced_weights(COUNTS, beta=1 - 1e-9)
    assert float(inverse[2] / inverse[0]) == pytest.approx(10_000 / 16, rel=1e-3)


def test_a_class_nobody_shows_has_no_weight():
    weights = losses.class_balanced_weights(torch.tensor([4.0, 0.0, 4.0]))
    assert weights.tolist() == pytest.approx([1, 0, 1])


def test_adjusted_logits_choose_the_class_of_least_balanced_error():
    """0.6 against 0.4 where the first is nine times as frequent: evidence 0.6 / 0.9 < 0.4 / 0.1, so the second."""
    logits = torch.tensor([[0.6, 0.4]]).log()
    probs = losses.adjusted(logits, torch.tensor([9.0, 1.0])).softmax(1)
    assert probs[0].tolist() == pytest.approx([(2 / 3) / (2 / 3 + 4), 4 / (2 / 3 + 4)])
    assert torch.equal(losses.adjusted(logits, torch.tensor([9.0, 1.0]), tau=0.0), logits)


def test_adjusting_while_training_and_afterwards_agree():
    """A model trained with the prior added gives what a plainly trained one gives once the prior is taken away."""
    counts = torch.tensor([90.0, 10.0])
    targets = torch.eye(2).repeat_interleave(torch.tensor([90, 10]), 0)
    found = {}
    for name in ("cross_entropy", "logit_adjustment"):
        bias, loss_of = torch.zeros(2, requires_grad=True), Loss(name, counts)
        optimizer = torch.optim.LBFGS([bias], max_iter=100, line_search_fn="strong_wolfe")

        def closure(bias=bias, optimizer=optimizer, loss_of=loss_of):
            optimizer.zero_grad()
            loss = loss_of(bias.expand(100, 2), targets)
            loss.backward()
            return loss

        optimizer.step(closure)
        found[name] = bias.detach()[None]
    assert found["cross_entropy"].softmax(1)[0].tolist() == pytest.approx([0.9, 0.1], abs=1e-3)
    assert found["logit_adjustment"].softmax(1)[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    assert losses.adjusted(found["cross_entropy"], counts).softmax(1)[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)


def test_two_labels_are_two_yeses():
    logits = torch.tensor([[0.0, 0.0, 0.0]])
    both = torch.tensor([[0.5, 0.5, 0.0]])
    assert losses.multi_label(logits, both) == pytest.approx(math.log(2))
    right, half = torch.tensor([[9.0, 9.0, -9.0]]), torch.tensor([[9.0, 0.0, -9.0]])
    assert losses.multi_label(right, both) < 0.001 < losses.multi_label(half, both)
    reference = torch.nn.functional.binary_cross_entropy_with_logits(LOGITS, HARD)
    assert losses.multi_label(LOGITS, HARD) == pytest.approx(float(reference))


def test_weights_are_deferred_to_the_last_fifth():
    loss = Loss("ldam_drw", COUNTS)
    early = float(loss(LOGITS, HARD))
    loss.begin(7, 10)
    assert float(loss(LOGITS, HARD)) == pytest.approx(early)
    loss.begin(8, 10)
    weights = losses.class_balanced_weights(COUNTS)
    assert float(loss(LOGITS, HARD)) == pytest.approx(
        float(losses.ldam(LOGITS, HARD, losses.margins(COUNTS), weights=weights))
    )
    assert float(loss(LOGITS, HARD)) != pytest.approx(early)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_falls_towards_the_answer_and_gives_probabilities(name):
    loss = Loss(name, torch.tensor([5.0, 3.0, 2.0]))
    logits = torch.zeros(2, 3, requires_grad=True)
    loss(logits, HARD).backward()
    better = -logits.grad
    assert better.argmax(1).tolist() == [0, 1]
    torch.testing.assert_close(loss.probabilities(better).sum(1), torch.ones(2))


def test_an_unknown_loss_names_the_known_ones():
    with pytest.raises(ValueError, match="'hinge' is none of cross_entropy, smoothing"):
        Loss("hinge", COUNTS)
