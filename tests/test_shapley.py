import pytest
import torch

from mmer.shapley import exact


def test_the_one_left_glove_is_worth_four_times_a_right_one():
    """Player 0 has a left glove, 1 and 2 a right one each; a pair is worth 1 (Shapley's own kind of example)."""
    worth = torch.tensor([float(bool(c & 1) and bool(c & 6)) for c in range(8)])
    assert exact(worth).tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6])


def test_what_players_add_independently_is_their_value_and_all_of_it_is_shared():
    weights = torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 4.0], [0.0, 1.0], [-1.0, 2.0]])
    bits = torch.arange(32)[:, None] >> torch.arange(5) & 1
    torch.testing.assert_close(exact(bits.float() @ weights), weights)
    game = torch.randn(32, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(exact(game).sum(0), game[31] - game[0])
