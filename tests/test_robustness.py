import numpy as np
import pytest
import torch

from training.experiments.corruptions import blurred, covered, misheard, noisy


@pytest.mark.parametrize("babble", [(), [np.sin(np.arange(900) / 7).astype(np.float32)] * 3], ids=["white", "babble"])
def test_the_noise_has_the_level_that_was_asked_for(babble):
    voice = np.sin(np.arange(16_000) / 20).astype(np.float32) * 0.3
    for snr_db in (20, 0):
        noise = noisy(voice, snr_db, np.random.default_rng(0), babble) - voice
        assert 10 * np.log10((voice**2).mean() / (noise**2).mean()) == pytest.approx(snr_db, abs=0.01)


def test_a_blur_spreads_a_point_and_keeps_its_light():
    image = torch.zeros(1, 49, 49, dtype=torch.uint8)
    image[0, 20:29, 20:29] = 200
    soft = blurred(image, 2.0)
    assert float(soft.sum()) == pytest.approx(float(image.sum()), rel=0.02)
    assert soft[0, 24, 24] > soft[0, 24, 20] > soft[0, 24, 16] > 0
    assert torch.equal(
        blurred(torch.full((1, 48, 48), 77, dtype=torch.uint8), 3.0), torch.full((1, 48, 48), 77, dtype=torch.uint8)
    )


def test_a_mask_hides_the_mouth_and_leaves_the_eyes():
    image = torch.randint(60, 180, (2, 48, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mask, glasses = covered(image, "mouth"), covered(image, "eyes")
    assert torch.equal(mask[:, :24], image[:, :24])
    assert mask[:, 40, 10:38].float().std() == 0
    assert torch.equal(glasses[:, 30:], image[:, 30:])
    assert glasses[:, 18, 10:38].float().std() == 0


def test_word_errors_come_at_their_rate():
    rng = np.random.default_rng(0)
    said = " ".join(["word"] * 6000)
    heard = misheard(said, 0.3, ["other"], rng).split()
    others, n = heard.count("other"), heard.count("word")
    assert n == pytest.approx(6000 * 0.8, rel=0.03)  # a fifth was replaced or dropped
    assert others == pytest.approx(6000 * 0.2, rel=0.06)  # a tenth replaced, a tenth added
    assert misheard(said, 0.0, ["other"], rng) == said
    assert misheard("no", 1.0, ["other"], np.random.default_rng(3)) != ""
