from dataclasses import replace

import pytest
import torch

from mmer.config import ModelConfig
from mmer.efficientnet import EfficientNetLite0, SameConv2d
from mmer.labels import MODALITIES, N_EMOTIONS
from mmer.model import Batch, EmotionModel


def make_model(config: ModelConfig | None = None, seed: int = 0) -> EmotionModel:
    """A random model whose fusion does more than add votes."""
    torch.manual_seed(seed)
    model = EmotionModel(config or ModelConfig.tiny())
    for p in model.fusion.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


def make_batch(B: int, *, T_f: int = 4, T_a: int = 80, S: int = 6, seed: int = 1) -> Batch:
    g = torch.Generator().manual_seed(seed)

    def whole(T: int) -> torch.Tensor:
        return torch.ones(B, T, dtype=torch.bool)

    return Batch(
        crops=torch.rand(B, T_f, 1, 48, 48, generator=g),
        crop_mask=whole(T_f),
        blendshapes=torch.rand(B, T_f, 52, generator=g),
        blend_mask=whole(T_f),
        log_mel=torch.randn(B, T_a, 64, generator=g),
        mel_mask=whole(T_a),
        text_states=torch.randn(B, S, 384, generator=g),
        text_mask=whole(S),
        present=whole(3),
    )


def rows(batch: Batch, index: slice, T_f: int, T_a: int, S: int) -> Batch:
    """Cut a batch to some rows and lengths."""
    return Batch(
        batch.crops[index, :T_f],
        batch.crop_mask[index, :T_f],
        batch.blendshapes[index, :T_f],
        batch.blend_mask[index, :T_f],
        batch.log_mel[index, :T_a],
        batch.mel_mask[index, :T_a],
        batch.text_states[index, :S],
        batch.text_mask[index, :S],
        batch.present[index],
    )


@pytest.mark.parametrize("config", [ModelConfig.tiny(), ModelConfig()], ids=["tiny", "full"])
@torch.no_grad()
def test_a_batch_of_two_lengths_equals_two_batches_of_one(config):
    model, batch = make_model(config), make_batch(2, T_f=5, T_a=101, S=9)
    batch.crop_mask[1, 3:] = batch.blend_mask[1, 3:] = False
    batch.mel_mask[1, 59:] = False
    batch.text_mask[1, 4:] = False
    together = model(batch)
    long = model(rows(batch, slice(0, 1), 5, 101, 9))
    short = model(rows(batch, slice(1, 2), 3, 59, 4))
    torch.testing.assert_close(together.logits[0], long.logits[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.logits[1], short.logits[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.branch_logits[1], short.branch_logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("absent", range(3), ids=MODALITIES)
@torch.no_grad()
def test_what_an_absent_modality_holds_does_not_matter(absent):
    model, one, other = make_model(), make_batch(2, seed=1), make_batch(2, seed=2)
    fields = (("crops", "blendshapes"), ("log_mel",), ("text_states",))[absent]
    changed = Batch(**{**one.__dict__, **{f: getattr(other, f) for f in fields}})
    assert not torch.allclose(model(one).logits, model(changed).logits)
    one.present[:, absent] = False  # both batches share the tensor
    assert torch.equal(model(one).logits, model(changed).logits)
    assert model(one).weights[:, absent].tolist() == [0, 0]
    assert model(one).branch_logits[:, absent].abs().sum() == 0


@torch.no_grad()
def test_one_branch_alone_is_passed_through_and_none_gives_even_odds():
    model, batch = make_model(), make_batch(4)
    batch.present[:] = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
    output = model(batch)
    for i in range(3):
        torch.testing.assert_close(output.logits[i], output.branch_logits[i, i])
    assert output.logits[3].softmax(0).tolist() == pytest.approx([1 / N_EMOTIONS] * N_EMOTIONS)


@torch.no_grad()
def test_a_new_fusion_is_the_product_of_experts():
    torch.manual_seed(0)
    model, batch = EmotionModel(ModelConfig.tiny()).eval(), make_batch(3)
    output = model(batch)
    torch.testing.assert_close(output.logits, output.branch_logits.sum(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.weights, torch.ones(3, 3), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_temperature_scales_a_branch():
    model, batch = make_model(), make_batch(1)
    before = model(batch).branch_logits[0, 1]
    model.temperatures[1] = 2.0
    torch.testing.assert_close(model(batch).branch_logits[0, 1], before / 2)


@torch.no_grad()
def test_blendshapes_count_only_where_landmarks_were_fitted():
    model, one = make_model(), make_batch(2)
    changed = Batch(**{**one.__dict__, "blendshapes": 1 - one.blendshapes})
    assert not torch.allclose(model(one).logits, model(changed).logits)
    one.blend_mask[:] = False
    assert torch.equal(model(one).logits, model(changed).logits)


@torch.no_grad()
def test_lighting_does_not_change_what_a_face_says():
    """Each crop is normalised: half the contrast and other brightness give the same logits."""
    model, one = make_model(), make_batch(1)
    dim = Batch(**{**one.__dict__, "crops": one.crops * 0.5 + 0.2})
    torch.testing.assert_close(model(one).logits, model(dim).logits, atol=1e-3, rtol=1e-3)


def test_gradients_reach_every_branch_and_the_fusion():
    model = make_model().train()
    model(make_batch(3)).logits.square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The scores are shift-invariant under softmax, so their biases get none (up to rounding).
    assert [n for n in silent if not n.endswith("bias")] == []


def test_without_skip_connections_there_are_none():
    def skips(model: EmotionModel) -> int:
        return sum(".skip" in n for n, _ in model.named_parameters())

    assert skips(make_model()) > 0
    assert skips(make_model(replace(ModelConfig.tiny(), skip=False))) == 0


def test_the_full_model_has_between_three_and_six_million_weights_beside_what_others_trained():
    n = sum(p.numel() for p in EmotionModel(ModelConfig(text_layers=0)).parameters())
    assert 3e6 < n < 6e6


@torch.no_grad()
def test_padding_changes_nothing_where_the_language_models_last_layers_are_the_branchs_own():
    encoder = make_model(replace(ModelConfig.tiny(), text_layers=2)).encoders["text"]
    states = torch.randn(2, 9, 384, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9)[None] < torch.tensor([[4], [9]])
    both = encoder(states, mask).top
    torch.testing.assert_close(both[:1], encoder(states[:1, :4], mask[:1, :4]).top, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_efficientnet_takes_over_weights_of_three_colours_in_their_order_and_sums_them_for_luma():
    torch.manual_seed(0)
    net, other = EfficientNetLite0().eval(), EfficientNetLite0().state_dict()
    theirs = {f"their_name_{i}": x for i, x in enumerate(other.values())}
    theirs["their_name_0"] = torch.randn(32, 3, 3, 3)
    net.adopt({**theirs, "their_classifier": torch.ones(1000, 1280)})
    torch.testing.assert_close(net.stem.weight, theirs["their_name_0"].sum(1, keepdim=True))
    torch.testing.assert_close(net.stages[6][0].project.weight, other["stages.6.0.project.weight"])
    assert net(torch.rand(2, 1, 48, 48)).shape == (2, 1280, 3, 3)
    with pytest.raises(ValueError, match=r"stem.weight is \(32, 1, 3, 3\) here and \(7, 1, 3, 3\) there"):
        net.adopt({**theirs, "their_name_0": torch.randn(7, 3, 3, 3)})


@torch.no_grad()
def test_a_faces_state_is_what_the_network_from_imagenet_sees_and_a_share_of_its_own():
    encoder = make_model(replace(ModelConfig.tiny(), face_imagenet=True)).encoders["face"].eval()
    batch = make_batch(2)
    inputs = batch.crops, batch.crop_mask, batch.blendshapes, batch.blend_mask
    stream = encoder.imagenet
    beside = encoder(*inputs)  # `rest` begins at 0: the stream alone
    stream.rest.fill_(0.5)
    both = encoder(*inputs)
    encoder.imagenet = None
    own = encoder(*inputs)
    torch.testing.assert_close(both.top, 0.5 * own.top + beside.top)
    torch.testing.assert_close(both.middle, own.middle)
    assert not torch.allclose(beside.top, torch.zeros_like(beside.top))


@torch.no_grad()
def test_the_odd_pixel_of_padding_goes_behind_as_in_tensorflow():
    conv = SameConv2d(1, 1, 3, stride=2)
    conv.weight.fill_(1.0)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert conv(x).flatten().tolist() == [45.0, 39.0, 66.0, 50.0]  # windows of rows and columns 0-2 and 2-3


def test_statistics_of_a_row_do_not_depend_on_its_padding_and_have_gradients_everywhere():
    stream = make_model().encoders["voice"].statistics
    mels, lengths = torch.randn(3, 60, 64, generator=torch.Generator().manual_seed(3)), (60, 37, 1)
    mask = torch.arange(60)[None] < torch.tensor(lengths)[:, None]
    together = stream.read(mels, mask)
    for row, n in enumerate(lengths):
        alone = stream.read(mels[row : row + 1, :n], torch.ones(1, n, dtype=torch.bool))
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[0, :64], mels[0].mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[0, 4 * 136 : 4 * 136 + 64], mels[0].median(0).values, atol=0.3, rtol=0.3)
    silence = torch.full((1, 40, 64), -2.0, requires_grad=True)  # the baseline of an attribution: nothing varies
    stream(stream.read(silence, torch.ones(1, 40, dtype=torch.bool))).sum().backward()
    assert silence.grad.isfinite().all()
