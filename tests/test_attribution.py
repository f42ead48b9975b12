"""Attributions: what they must sum to, what is not there, and planted evidence that they must find."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmer import face_map, integrated_gradients, voice_map
from mmer.__main__ import _parser as command_line
from mmer.attribution import explain, forget
from mmer.checkpoint import Checkpoint
from mmer.commands.analyse import asked_emotions
from mmer.config import Config, ModelConfig, VoiceConfig
from mmer.errors import ClipError, MmerError
from mmer.explanation import Explanation
from mmer.face import REGIONS, FaceTracker
from mmer.face_map import FaceLogit, soften
from mmer.features import Features, LanguageModel, collate, corpus_face, with_text
from mmer.labels import EMOTIONS, MODALITIES
from mmer.media import VideoFrame
from mmer.occlusion import occluded, regressed
from mmer.speech import Transcriber
from mmer.target_logit import TargetLogit
from mmer.trust import MIN_GAP, Kept, Trust, UnitScores, judge
from mmer.voice import log_mel
from mmer.voice_map import voice_edges
from tests import synth
from tests.test_model import make_model
from tests.test_speech import dimensions

CONFIG = Config(model=ModelConfig.tiny())
SENTENCE = "I don't  know, it's unbelievably good-natured news!"
TARGET = "happiness"
PER_FRAME = ("crops", "blendshapes", "times_s", "regions", "pose_deg", "boxes", "sharpness", "size_px")


def strong_model(seed: int = 0):
    """A random model whose votes are as far apart as a trained one's, and whose frames do not all weigh the same."""
    model = make_model(seed=seed)
    for head in model.heads.values():
        torch.nn.init.normal_(head[1].weight, std=3.0)
    for layer in (model.encoders["face"].embed, model.encoders["face"].score):
        torch.nn.init.normal_(layer.weight, std=2.0)
    return model


def checkpoint_of(model) -> Checkpoint:
    return Checkpoint("tiny", Path(), model.eval(), CONFIG, {})


@pytest.fixture(scope="module")
def loaded() -> Checkpoint:
    return checkpoint_of(strong_model())


@pytest.fixture(scope="module")
def language(text_encoder) -> LanguageModel:
    return LanguageModel(text_encoder)


@pytest.fixture(scope="module")
def face_and_voice(face_model) -> Features:
    """Eight pictures of a face that opens its mouth while a voice speaks."""
    with FaceTracker(CONFIG.face, model_path=face_model) as tracker:
        for i in range(8):
            tracker.add(VideoFrame(10 + i / 5, np.asarray(synth.face(mouth_open=i / 7))))
        (track,) = tracker.tracks()
    return Features(10.0, 12.0, face=track, sound=log_mel(synth.voice(2.0)))


@pytest.fixture(scope="module")
def everything(face_and_voice, language) -> Features:
    return with_text(face_and_voice, SENTENCE, language)


@pytest.fixture(scope="module")
def explained(loaded, everything, language):
    return explain(loaded, everything, TARGET, language)


@torch.no_grad()
def logit(loaded: Checkpoint, features: Features, target: str, **changed) -> float:
    """The fused logit of the whole model, some of its inputs exchanged."""
    batch = replace(collate([features], loaded.config), **changed)
    return float(loaded.model(batch).logits[0, EMOTIONS.index(target)])


def test_the_logit_is_the_models_own(loaded, everything, language, explained):
    assert explained.logit == pytest.approx(logit(loaded, everything, TARGET), abs=1e-4)
    assert explained.baseline_logit == 0
    winner = explain(loaded, everything.only(("voice",))).target
    batch = collate([everything.only(("voice",))], CONFIG)
    assert winner == EMOTIONS[int(loaded.model(batch).logits[0].argmax())]


@torch.no_grad()
def test_modalities_get_their_shapley_values(loaded, everything, explained):
    batch = collate([everything], CONFIG)
    from captum.attr import ShapleyValues  # a second to import

    states = loaded.model.branches(batch)

    def worth(mask):  # (1, 3)
        return loaded.model.fuse(states, mask.bool()).logits[:, EMOTIONS.index(TARGET)]

    exact = ShapleyValues(worth).attribute(batch.present.float())[0]
    found = [explained.modality[m] for m in MODALITIES]
    np.testing.assert_allclose(found, exact, atol=1e-4)
    assert sum(found) == pytest.approx(explained.logit - explained.baseline_logit, abs=1e-4)


def test_a_voice_map_sums_to_what_silence_would_take_away(loaded, everything, explained):
    mel = collate([everything], CONFIG).log_mel
    gap = explained.logit - logit(loaded, everything, TARGET, log_mel=torch.full_like(mel, everything.sound.silence))
    assert abs(gap) > MIN_GAP
    assert float(explained.voice_map.sum()) == pytest.approx(gap, rel=0.05)
    assert sum(b["score"] for b in explained.voice_bands) == pytest.approx(float(explained.voice_map.sum()), abs=1e-3)
    assert explained.trust["voice"].delta == pytest.approx(abs(float(explained.voice_map.sum()) / gap - 1), abs=1e-3)


def test_face_moments_sum_to_what_blur_and_rest_would_take_away(loaded, everything, explained):
    batch = collate([everything], CONFIG)
    resting = {"crops": soften(batch.crops), "blendshapes": torch.zeros_like(batch.blendshapes)}
    gap = explained.logit - logit(loaded, everything, TARGET, **resting)
    assert abs(gap) > MIN_GAP
    assert sum(s for _, s in explained.face_moments) == pytest.approx(gap, rel=0.01)  # pooling is smooth
    np.testing.assert_allclose([t for t, _ in explained.face_moments], everything.face.times_s)


def test_the_map_of_a_frame_sums_to_its_moment_where_no_blendshapes_are_known(loaded, everything):
    found = explain(loaded, replace(everything.only(("face", "voice")), landmarks=False), TARGET)
    scores = np.array([s for _, s in found.face_moments])
    mapped = ~torch.isnan(found.face_map).any(2).any(1)
    assert mapped.sum() == face_map.KEY_FRAMES
    assert set(np.argsort(-np.abs(scores))[: face_map.KEY_FRAMES]) == set(np.flatnonzero(mapped))
    wrong = np.abs(found.face_map[mapped].sum((1, 2)).numpy() - scores[mapped])
    assert wrong.sum() <= 0.05 * max(np.abs(scores[mapped]).sum(), MIN_GAP)


def test_face_regions_are_the_exact_shapley_values_of_their_coalitions(loaded, everything):
    """With as many frames as get a map the values sum to blurring all five regions in the whole clip."""
    track = everything.face
    few = {n: getattr(track, n)[2:5] for n in PER_FRAME}
    short = replace(everything.only(("face", "voice")), face=replace(track, **few))
    found = explain(loaded, short, TARGET)
    batch = collate([short], CONFIG)
    inside = short.face.regions.any(1)[None, :, None]
    shapes = batch.blendshapes.clone()
    shapes[..., 1:6] = shapes[..., 9:] = 0  # all but the cheeks belong to a region
    gone = {"crops": torch.where(inside, soften(batch.crops), batch.crops), "blendshapes": shapes}
    assert tuple(r for r, _ in found.face_regions) == REGIONS
    assert sum(s for _, s in found.face_regions) == pytest.approx(
        found.logit - logit(loaded, short, TARGET, **gone), abs=1e-3
    )


def test_words_are_the_typed_ones_and_sum_to_what_padding_would_take_away(loaded, everything, language, explained):
    assert [w for w, _ in explained.words] == SENTENCE.split()
    ids = everything.token_ids[None].clone()
    ids[:, everything.token_words >= 0] = 0  # [PAD]
    empty = language.states(ids, torch.ones_like(ids, dtype=torch.bool))
    gap = explained.logit - logit(loaded, everything, TARGET, text_states=empty)
    assert abs(gap) > MIN_GAP
    assert sum(s for _, s in explained.words) == pytest.approx(gap, rel=0.05)
    for i, (_, score) in enumerate(explained.words):  # sub-words add up to their word
        assert score == pytest.approx(float(explained.token_scores[everything.token_words == i].sum()), abs=1e-5)
    assert (everything.token_words == 3).sum() > 1  # "unbelievably"
    assert torch.all(explained.token_scores[everything.token_words < 0] == 0)


def test_each_channel_says_what_it_would_alone(loaded, everything, explained):
    for m in MODALITIES:
        batch = collate([everything.only((m,))], CONFIG)
        assert explained.alone[m] == EMOTIONS[int(loaded.model(batch).logits[0].argmax())]


def test_a_contrast_divides_the_difference_of_two_logits(loaded, everything):
    voice = everything.only(("voice",))
    found = explain(loaded, voice, "anger", against="disgust")
    difference = logit(loaded, voice, "anger") - logit(loaded, voice, "disgust")
    assert found.logit == pytest.approx(difference, abs=1e-4)
    assert found.modality["voice"] == pytest.approx(difference, abs=1e-4)
    silent = torch.full_like(collate([voice], CONFIG).log_mel, voice.sound.silence)
    gap = difference - logit(loaded, voice, "anger", log_mel=silent) + logit(loaded, voice, "disgust", log_mel=silent)
    assert float(found.voice_map.sum()) == pytest.approx(gap, abs=0.05 * max(abs(gap), 0.1))
    assert found.to_dict()["against"] == "disgust"
    assert found.sentence.startswith("Anger rather than disgust: ")
    with pytest.raises(MmerError, match="anger cannot be held against itself"):
        explain(loaded, voice, "anger", against="anger")


def why(verdict: str, **shares: float) -> Explanation:
    """An explanation of anger with these shares, whose maps have this verdict."""
    trust = {m: Trust("m", 0.0, 0.2, 0.2, verdict) if m in shares else None for m in MODALITIES}
    band = {"start_s": 0.8, "end_s": 1.3, "low_hz": 300.0, "high_hz": 1000.0, "score": 1.0}
    modality = {m: shares.get(m) for m in MODALITIES}
    return Explanation("anger", 0, 2, 1, 0, modality, (("fine", -1.0),), (band,), (("brows", 0.5),), (), trust)


def test_the_sentence_says_who_leads_who_contradicts_and_what_can_be_trusted():
    assert why("trustworthy", face=0.5, voice=2.0, text=-0.8).sentence == (
        "Anger: mostly the voice, strongest from 0.8 to 1.3 s at 300 to 1000 Hz. The face speaks for it too. "
        "The words speak against it. The face, voice and word maps are trustworthy."
    )
    torn = replace(
        why("weak", face=0.5, voice=2.0, text=-0.8), alone={"face": "fear", "voice": "anger", "text": "neutral"}
    )
    assert torn.sentence == (
        "Anger: mostly the voice. The face speaks for it too. The words speak against it; alone they say neutral. "
        "The face, voice and word maps are weak."
    )
    assert why("weak", voice=2.0, text=0.05).sentence == (
        "Anger: mostly the voice. The words hardly count. The voice and word maps are weak."
    )
    assert why("no clear evidence", text=-0.4).sentence == (
        "Anger: nothing speaks for it clearly. The words speak against it. The word map shows no clear evidence."
    )


@pytest.mark.parametrize(
    ("arguments", "clips", "asked"),
    [
        (["a.mp4", "--explain"], ["a.mp4"], (None, None)),
        (["--explain", "a.mp4", "b.mp4"], ["a.mp4", "b.mp4"], (None, None)),
        (["a.mp4", "--explain", "anger"], ["a.mp4"], ("anger", None)),
        (["--explain", "anger:disgust", "a.mp4"], ["a.mp4"], ("anger", "disgust")),
    ],
)
def test_explain_takes_an_emotion_and_another_but_no_clip(arguments, clips, asked):
    args = command_line().parse_args(["analyse", *arguments])
    assert asked_emotions(args) == asked
    assert args.clips == clips


@pytest.mark.parametrize("wrong", ["angry", "anger:anger", "anger:", "anger:fear:disgust"])
def test_explain_names_the_emotions_it_knows(wrong, capsys):
    args = command_line().parse_args(["analyse", "a.mp4", "--explain", wrong])
    with pytest.raises(SystemExit):
        asked_emotions(args)
    assert "EMOTION:OTHER, two of anger, disgust, fear" in capsys.readouterr().err


def test_an_absent_modality_gets_nothing(loaded, everything, explained):
    found = explain(loaded, everything.only(("voice",)), TARGET)
    assert found.modality == {"face": None, "voice": pytest.approx(found.logit, abs=1e-4), "text": None}
    assert (found.words, found.face_regions, found.face_moments) == ((), (), ())
    assert found.face_map is None
    assert found.token_scores is None
    assert found.trust["face"] is None
    assert found.trust["text"] is None
    alone = logit(loaded, everything.only(("voice",)), TARGET)
    assert found.logit == pytest.approx(alone, abs=1e-4)
    assert found.logit != pytest.approx(explained.logit, abs=1e-2)


def test_a_picture_without_landmarks(loaded):
    picture = Features(0.0, 0.0, face=corpus_face(np.asarray(synth.face(smile=1.0)), 48), landmarks=False)
    found = explain(loaded, picture, "sadness")
    assert found.face_regions == ()
    assert len(found.face_moments) == 1
    assert found.face_map.shape == (1, 48, 48)
    assert float(found.face_map.sum()) == pytest.approx(found.face_moments[0][1], rel=0.05)


def test_the_json_is_that_of_the_contract(explained):
    found = json.loads(json.dumps(explained.to_dict(), allow_nan=False))
    assert set(found) >= {
        "target",
        "logit",
        "baseline_logit",
        "modality",
        "words",
        "voice_bands",
        "face_regions",
        "face_moments",
        "trust",
    }
    assert set(found["modality"]) == set(found["trust"]) == set(MODALITIES)
    assert set(found["words"][0]) == {"word", "score"}
    assert set(found["voice_bands"][0]) == {"start_s", "end_s", "low_hz", "high_hz", "score"}
    assert set(found["face_regions"][0]) == {"region", "score"}
    assert set(found["face_moments"][0]) == {"time_s", "score"}
    assert set(found["trust"]["face"]) == {"method", "delta", "deletion", "insertion", "verdict"}
    assert found["logit"] == pytest.approx(explained.logit, abs=1e-4)


def test_voice_bands_tile_the_utterance(everything, explained):
    edges, band = voice_edges(VoiceConfig())
    assert edges == (50.0, 300.0, 1000.0, 2500.0, 4000.0, 8000.0)
    assert band.diff().min() == 0
    assert set(band.tolist()) == {0, 1, 2, 3, 4}
    cells = {(b["start_s"], b["low_hz"]): b for b in explained.voice_bands}
    assert len(cells) == len(explained.voice_bands) == 8 * 5  # a quarter of a second each
    area = sum((b["end_s"] - b["start_s"]) * (b["high_hz"] - b["low_hz"]) for b in cells.values())
    assert area == pytest.approx(2.0 * 7950, rel=1e-3)
    assert min(start for start, _ in cells) == everything.start_s


def test_mel_centres_are_where_a_tone_is_loudest():
    centres = voice_map.mel_centres(VoiceConfig())
    for hz in (200, 1000, 3000, 6000):
        loudest = int(log_mel(synth.tone(1.0, hz)).mel.mean(0).argmax())
        assert abs(float(centres[loudest]) / hz - 1) < 0.1


def trained_voice(make_samples, steps: int = 40) -> Checkpoint:
    """A model whose voice branch has learnt to tell sounds (happiness) from others (sadness)."""
    model = make_model()
    voice = torch.nn.ModuleList([model.encoders["voice"], model.heads["voice"]])
    optimizer = torch.optim.Adam(voice.parameters(), 3e-3)
    voice.train()
    for step in range(steps):
        labels = torch.arange(8) % 2
        mels = torch.stack([log_mel(make_samples(bool(label), 8 * step + i)).mel for i, label in enumerate(labels)])
        logits = model.branch_logits("voice", mels, torch.ones(mels.shape[:2], dtype=torch.bool))
        answers = torch.where(labels > 0, EMOTIONS.index("happiness"), EMOTIONS.index("sadness"))
        loss = torch.nn.functional.cross_entropy(logits, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    return checkpoint_of(model)


def tone_in_noise(high: bool, seed: int, at_s: float | None = None, noise: float = 0.01) -> np.ndarray:
    """Return a second and a half of noise with half a second of a tone in it, of 3 kHz or of 600 Hz."""
    rng = np.random.default_rng(seed)
    sound = noise * rng.standard_normal(24_000).astype(np.float32)
    at = int((rng.uniform(0.1, 0.9) if at_s is None else at_s) * 16_000)
    sound[at : at + 8_000] += 0.1 * synth.tone(0.5, 3000 if high else 600)
    return sound


def log_mel_of_whisper(sound: np.ndarray, n_bands: int) -> torch.Tensor:
    import whisper

    return whisper.log_mel_spectrogram(sound, n_bands)


def test_a_planted_tone_is_found_where_it_sounds():
    """The branch tells a tone of 3 kHz in noise from one of 600 Hz; the map says in which band it was, and when."""
    with torch.random.fork_rng():
        loaded = trained_voice(tone_in_noise)
    found = explain(loaded, Features(0.0, 1.5, sound=log_mel(tone_in_noise(True, 10_000, at_s=0.75))), "happiness")
    assert found.logit > 0
    by_band = {}
    for b in found.voice_bands:
        by_band[b["low_hz"]] = by_band.get(b["low_hz"], 0.0) + b["score"]
    assert max(by_band, key=by_band.get) == 2500.0
    best = max(found.voice_bands, key=lambda b: b["score"])
    assert best["low_hz"] == 2500.0
    assert 0.75 <= (best["start_s"] + best["end_s"]) / 2 <= 1.25
    trust = found.trust["voice"]
    assert min(trust.deletion, trust.insertion) > 0.15
    assert trust.verdict == "trustworthy"


@pytest.fixture(scope="module")
def listening(tmp_path_factory) -> tuple[Checkpoint, Transcriber]:
    """A Whisper of random weights, and a model that tells a tone of 3 kHz from one of 600 Hz and from silence by its
    encoder alone."""
    from whisper.model import ModelDimensions, Whisper

    path = tmp_path_factory.mktemp("whisper") / "random.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dims = dimensions(n_layers=2)
        torch.save({"dims": dims, "model_state_dict": Whisper(ModelDimensions(**dims)).state_dict()}, path)
        transcriber = Transcriber(str(path))
        depths, width = transcriber.encoder_size()
        config = replace(CONFIG, model=replace(CONFIG.model, whisper_depths=depths, whisper_width=width))
        model = make_model(config.model)  # its CNN counts nothing beside the stream
        sounds = [clear_tone(i % 2 == 0, i) for i in range(64)] + 16 * [np.zeros(24_000, np.float32)]
        states = torch.stack([transcriber.encode(sound) for sound in sounds])
        answers = torch.full((80,), EMOTIONS.index("sadness"))
        answers[:64:2] = EMOTIONS.index("happiness")
        stream, head = model.encoders["voice"].whisper, model.heads["voice"]
        optimizer = torch.optim.Adam([*stream.parameters(), *head.parameters()], 3e-3)
        stream.train()
        for _ in range(60):
            loss = torch.nn.functional.cross_entropy(head(stream(states)), answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.1
    return Checkpoint("tiny", Path(), model.eval(), config, {}), transcriber


def clear_tone(high: bool, seed: int, at_s: float | None = None) -> np.ndarray:
    """Return a tone in noise that lies 80 dB below it, where Whisper's spectrogram ends."""
    return tone_in_noise(high, seed, at_s, noise=1e-5)


def heard_by(transcriber: Transcriber, sound: np.ndarray) -> Features:
    heard = transcriber.hear(sound)
    seconds = len(sound) / 16_000
    return Features(0.0, seconds, sound=log_mel(sound), whisper=transcriber.encode_heard(heard), heard=heard)


def test_a_planted_tone_that_only_whisper_hears_is_found(listening):
    loaded, transcriber = listening
    features = heard_by(transcriber, clear_tone(True, 10_000, at_s=0.75))
    found = explain(loaded, features, "happiness", transcriber=transcriber)
    best = max(found.voice_bands, key=lambda b: b["score"])
    assert best["low_hz"] == 2500.0
    assert 0.75 <= (best["start_s"] + best["end_s"]) / 2 <= 1.25
    (heard,) = features.heard
    silent = transcriber.encode_heard([replace(heard, mel=torch.full_like(heard.mel, float(heard.mel.min())))])
    gap = found.logit - logit(loaded, replace(features, whisper=silent), "happiness")
    assert gap > 1
    assert float(found.voice_map.sum()) == pytest.approx(gap, rel=0.05)
    assert sum(b["score"] for b in found.voice_bands) == pytest.approx(float(found.voice_map.sum()), abs=1e-3)
    trust = found.trust["voice"]
    assert min(trust.deletion, trust.insertion) > 0.1
    assert trust.delta < 0.05


def test_without_whisper_the_map_is_that_of_the_rest_and_says_so(listening):
    loaded, transcriber = listening
    features = heard_by(transcriber, clear_tone(True, 10_000))
    found = explain(loaded, features, "happiness")
    assert found.logit == pytest.approx(logit(loaded, features, "happiness"), abs=1e-4)
    assert torch.all(found.voice_map == 0)  # the rest counts nothing in this model
    assert found.trust["voice"].verdict == "no clear evidence"
    assert "what Whisper heard stays as it is" in found.trust["voice"].method
    deaf = explain(loaded, replace(features, whisper=None, heard=()), "happiness", transcriber=transcriber)
    assert "Whisper" not in deaf.trust["voice"].method


def test_a_voice_of_more_than_half_a_minute_is_one_map_over_whispers_passes(listening):
    loaded, transcriber = listening
    sound = np.concatenate([clear_tone(False, i) for i in range(20)] + [clear_tone(True, 20, at_s=0.75)])
    features = heard_by(transcriber, sound)
    assert [h.n_frames for h in features.heard] == [1450, 125]
    found = explain(loaded, features, "happiness", transcriber=transcriber)
    assert found.voice_map.shape == features.sound.mel.shape
    best = max(found.voice_bands, key=lambda b: b["score"])
    assert best["low_hz"] == 2500.0
    assert best["start_s"] <= 30.75 <= best["end_s"]


@pytest.mark.parametrize("n_bands", [80, 128])
def test_whispers_bands_are_where_a_tone_is_loudest(n_bands):
    centres = voice_map.whisper_centres(n_bands)
    assert centres.diff().min() >= 0
    for hz in (200, 1000, 3000, 6000):
        loudest = int(log_mel_of_whisper(synth.tone(1.0, hz), n_bands).mean(1).argmax())
        assert abs(float(centres[loudest]) / hz - 1) < 0.1


@pytest.mark.parametrize("both_ways", [False, True])
def test_occlusion_gives_each_cell_its_part_of_a_sum(both_ways):
    """f adds up over times and bands: every cell gets its own value, and what only all together do is divided."""
    times, bands = torch.tensor([4.0, -1.0, 0.5]), torch.tensor([1.0, -2.0])
    values = (times[:, None] + bands).flatten()

    def f(kept):
        return (kept * values).sum(1) + 6 * kept.all(1) + 2 * kept.any(1)

    cell = torch.arange(6)
    scores, gap = occluded(f, (cell // 2, cell % 2), both_ways=both_ways)
    assert gap == pytest.approx(float(values.sum()) + 8)
    own = values.view(3, 2)
    # A group that goes takes what needs all, 6, with it; one that stays alone brings what needs any, 2.
    extra = (6 + 2) / 2 if both_ways else 6
    expected = ((own.sum(1) + extra)[:, None] / 2 + (own.sum(0) + extra) / 3) / 2
    expected = expected + (gap - expected.sum()) / 6
    torch.testing.assert_close(scores, expected.flatten())


def test_regression_finds_what_each_unit_adds():
    """f adds up: the shares are the units' values, though what was expected of them is that all are alike."""
    values = torch.tensor([4.0, -1.0, 0.5, 0.0, 2.0, -3.0])

    def f(kept):
        return (kept * values).sum(1) + 1

    prior = torch.ones(6, 6) + torch.eye(6)
    scores, gap = regressed(f, (torch.arange(6),), prior)
    assert gap == pytest.approx(2.5)
    assert float(scores.sum()) == pytest.approx(gap, abs=1e-5)
    torch.testing.assert_close(scores, values, atol=0.1, rtol=0)


def test_regression_sees_what_taking_away_one_by_one_hides():
    """Either of two units is enough: taken away alone neither is missed, and an occlusion gives all equal shares."""

    def f(kept):
        return 4 * kept[:, :2].any(1).float()

    alone, _ = occluded(f, (torch.arange(8),), both_ways=False)
    assert float(alone.max() - alone.min()) == 0
    scores, _ = regressed(f, (torch.arange(8),), torch.eye(8))
    assert set(scores.topk(2).indices.tolist()) == {0, 1}
    assert float(scores[:2].mean()) > 2 * float(scores[2:].mean())


def test_what_was_run_once_is_not_run_again():
    """An occlusion and its verdict share runs: the model sees each set of units once, and the figures stay."""
    values = torch.tensor([4.0, -1.0, 0.5, 0.0])
    rows = []

    def f(kept):
        rows.extend(map(tuple, kept.tolist()))
        return (kept * values).sum(1)

    kept = Kept(f)
    scores, gap = occluded(kept, (torch.arange(4),), both_ways=True)
    found = judge(UnitScores("sum", scores, gap, 0.0), kept)
    assert len(rows) == len(set(rows)) <= 2**4
    assert found == judge(UnitScores("sum", scores, gap, 0.0), lambda k: (k * values).sum(1))
    torch.testing.assert_close(kept(torch.eye(4, dtype=torch.bool)), values)


def test_a_planted_mouth_is_found(face_and_voice):
    """The regions of a face are lit at random, some mouths have teeth and the branch has learnt to see them."""
    track = replace(face_and_voice.face, **{n: getattr(face_and_voice.face, n)[-1:] for n in PER_FRAME})
    regions, mouth = track.regions[0].float(), REGIONS.index("mouth")

    teeth = (torch.arange(48) // 2 % 2 * 2.0 - 1) * regions[mouth]

    def drawn(lights: torch.Tensor, bites: torch.Tensor) -> torch.Tensor:
        """Return crops (B, 1, 48, 48) with lights (B, 5) of -1 to 1 on their regions, teeth where `bites` (B,)."""
        light = torch.einsum("br,rhw->bhw", lights, regions)
        return track.crops + 0.1 * light[:, None] + 0.2 * (bites[:, None, None] * teeth)[:, None]

    with torch.random.fork_rng():
        model = make_model()
        torch.nn.init.zeros_(model.encoders["face"].blend[3].weight)
        torch.nn.init.zeros_(model.encoders["face"].blend[3].bias)
        parts = torch.nn.ModuleList([model.encoders["face"].cnn, model.encoders["face"].embed, model.heads["face"]])
        optimizer = torch.optim.Adam(parts.parameters(), 1e-2)
        one = torch.ones(32, 1, dtype=torch.bool)
        parts.train()
        for _ in range(150):
            lights, bites = torch.rand(32, 5) * 2 - 1, torch.arange(32) % 2
            answers = torch.where(bites > 0, EMOTIONS.index("surprise"), EMOTIONS.index("sadness"))
            logits = model.branch_logits("face", drawn(lights, bites)[:, None], one, torch.zeros(32, 1, 52), one)
            loss = torch.nn.functional.cross_entropy(logits, answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert float(loss.detach()) < 0.1
    face = replace(track, crops=drawn(torch.tensor([[1.0, -1.0, -1.0, 1.0, 1.0]]), torch.ones(1)))
    found = explain(checkpoint_of(model), Features(0.0, 0.0, face=face), "surprise")
    scores = dict(found.face_regions)
    assert scores.pop("mouth") > 2 * max(map(abs, scores.values()))
    inside = track.regions[0, mouth]
    assert found.face_map[0][inside].abs().mean() > 2 * found.face_map[0][~inside].abs().mean()
    assert found.trust["face"].verdict == "trustworthy"


def test_a_face_map_is_of_both_networks():
    """Frames are weighed by the CNN alone: pooled by what both see, the logit was another one than the model's."""
    torch.manual_seed(0)
    model = make_model(replace(ModelConfig.tiny(), face_imagenet=True))
    for layer in (model.encoders["face"].score, model.heads["face"][1]):
        torch.nn.init.normal_(layer.weight, std=2.0)
    torch.nn.init.constant_(model.encoders["face"].imagenet.rest, 0.3)
    pictures = [np.asarray(synth.face(smile=s, size=48)) for s in (0.0, 0.4, 1.0)]
    one = [corpus_face(picture, 48) for picture in pictures]
    track = replace(one[0].at(torch.zeros(3, dtype=torch.long)), crops=torch.cat([t.crops for t in one]))
    target = TargetLogit(checkpoint_of(model), Features(0.0, 0.0, face=track, landmarks=False))
    face = FaceLogit(target)
    assert float(face.logit(face.states[None])) == pytest.approx(target.value, abs=1e-4)
    assert float(face.moments.sum()) == pytest.approx(face.gap, abs=0.05 * max(abs(face.gap), 0.1))
    whole = float(face.kept(torch.ones(1, face.n_units, dtype=torch.bool)))
    assert whole == pytest.approx(target.value, abs=1e-4)


def test_a_face_map_follows_what_people_corrected():
    """What was corrected stood still while the face was blurred, so the map explained another logit."""
    torch.manual_seed(0)
    model = make_model()
    correction = model.correct("face").requires_grad_(False)
    correction.scale.fill_(1.0)
    torch.nn.init.normal_(correction.change.weight, std=3.0)
    correction.likeness.bias.fill_(2.0)
    track = corpus_face(np.asarray(synth.face(smile=1.0, size=48)), 48)
    target = TargetLogit(checkpoint_of(model), Features(0.0, 0.0, face=track, landmarks=False))
    face = FaceLogit(target)
    one = torch.ones(1, 1, dtype=torch.bool)
    with torch.no_grad():
        blurred = model.branch_logits("face", face.soft[None], one, face.rest[None], ~one)[0, target.k]
    assert float(face.logit(face.baseline[None])) == pytest.approx(float(blurred), abs=1e-4)
    assert float(face.logit(face.states[None])) == pytest.approx(target.value, abs=1e-4)


def test_nothing_to_see_is_said(loaded):
    """Silence differs from the baseline of the voice by nothing."""
    sound = log_mel(np.zeros(16_000, np.float32))
    found = explain(loaded, Features(0.0, 1.0, sound=replace(sound, silence=float(sound.mel[0, 0]))), TARGET)
    assert torch.all(found.voice_map == 0)
    trust = found.trust["voice"]
    assert trust.verdict == "no clear evidence"
    assert (trust.delta, trust.deletion, trust.insertion) == (0, 0, 0)


def test_trust_of_a_sum_of_units():
    """f = the sum of the kept units' values: true scores beat chance, reversed ones lose as much, one is no order."""
    values = torch.tensor([4.0, -3.0, 2.0, 0.5, -1.0, 3.0, 0.0, 1.0])

    def f(kept):
        return (kept * values).sum(1)

    true = judge(UnitScores("sum", values, float(values.sum()), 0.0), f)
    wrong = judge(UnitScores("sum", -values, float(values.sum()), 0.0), f)
    assert min(true.deletion, true.insertion) > 0.2
    assert true.verdict == "trustworthy"
    assert max(wrong.deletion, wrong.insertion) < -0.2
    assert wrong.verdict == "weak"
    assert judge(UnitScores("sum", values, 1.0, 0.06), f).verdict == "weak"  # does not add up
    assert judge(UnitScores("sum", values, 0.09, 0.0), f).verdict == "no clear evidence"
    one = judge(UnitScores("sum", torch.ones(1), 1.0, 0.0), lambda kept: kept.float().sum(1))
    assert (one.deletion, one.insertion, one.verdict) == (0, 0, "weak")


def test_an_integral_is_refined_where_it_is_steep():
    """A step of width 0.01 on the way: four equal pieces of four points miss it, halving the worst one finds it."""
    calls = []

    def steep(x):
        calls.append(len(x))
        return torch.sigmoid((x.sum(1) - 1.37) * 100)

    x, base = torch.ones(1, 2), torch.zeros(1, 2)
    (slopes,), delta = integrated_gradients.slopes(steep, (x,), (base,))
    assert delta <= integrated_gradients.MAX_DELTA
    assert float((x * slopes).sum()) == pytest.approx(1, abs=0.05)
    first, most = integrated_gradients.PIECES
    assert len(calls) > 2 * first + 1
    assert len(calls) <= 2 * first + 1 + 3 * (most - first)


def test_predictions_go_on_undisturbed_while_explaining(loaded, everything, language, explained):
    """Hooks of an explanation on a shared model broke half of the predictions that ran beside it."""
    batch, done, failures, found = collate([everything], CONFIG), threading.Event(), [], []
    with torch.no_grad():
        expected = loaded.model(batch).logits

    def predict():
        n = 0
        while not done.is_set() or n < 5:
            n += 1
            with torch.no_grad():
                states = language.states(everything.token_ids[None], batch.text_mask)
                if not torch.allclose(loaded.model(replace(batch, text_states=states)).logits, expected, atol=1e-4):
                    failures.append("another result")

    def reason():
        found.append(explain(loaded, everything, TARGET, language))

    def guarded(work):
        try:
            work()
        except Exception as error:
            failures.append(error)

    predictors = [threading.Thread(target=guarded, args=(predict,)) for _ in range(2)]
    explainers = [threading.Thread(target=guarded, args=(reason,)) for _ in range(2)]
    for thread in predictors + explainers:
        thread.start()
    for thread in explainers:
        thread.join()
    done.set()
    for thread in predictors:
        thread.join()
    assert not failures
    for each in found:
        torch.testing.assert_close(each.voice_map, explained.voice_map, atol=1e-4, rtol=1e-3)
    assert not any(p.grad is not None for p in loaded.model.parameters())


def test_what_is_known_is_told_as_it_comes(loaded, everything, language, explained):
    """The channels' shares before any map, the long way through the voice last."""
    told = []
    explain(loaded, everything, TARGET, language, report=told.append)
    assert [t.pending for t in told] == [("text", "face", "voice"), ("face", "voice"), ("voice",)]
    assert all(t.modality == pytest.approx(explained.modality, abs=1e-4) for t in told)
    assert told[0].trust == dict.fromkeys(MODALITIES)
    assert told[1].trust["text"] == explained.trust["text"]
    assert told[2].face_map is not None
    assert told[2].voice_map is None
    assert explained.pending == ()
    assert "map" not in told[0].sentence


def test_the_same_question_to_the_same_weights_is_answered_once(loaded, everything):
    voice = everything.only(("voice",))
    known = replace(loaded, meta={"weights_sha256": "of this test"})
    first = explain(known, voice, TARGET)
    assert explain(known, voice, TARGET) is first
    assert explain(known, replace(voice, sound=replace(voice.sound, mel=voice.sound.mel.clone())), TARGET) is first
    for other in (
        explain(known, voice, "fear"),
        explain(known, voice, TARGET, against="fear"),
        explain(known, replace(voice, start_s=9.0, end_s=11.0), TARGET),
        explain(known, replace(voice, sound=replace(voice.sound, mel=voice.sound.mel + 1e-3)), TARGET),
        explain(replace(known, meta={"weights_sha256": "others"}), voice, TARGET),
        explain(loaded, voice, TARGET),  # a model in training has no hash: its weights may have changed
    ):
        assert other is not first
    assert other.to_dict() == first.to_dict()


def test_an_explanation_lay_in_memory_until_the_next_was_asked_for(loaded, everything):
    voice, known = everything.only(("voice",)), replace(loaded, meta={"weights_sha256": "of this test too"})
    first = explain(known, voice, TARGET)
    forget()
    assert explain(known, voice, TARGET) is first  # it is young
    forget(older_s=-1.0)
    assert explain(known, voice, TARGET) is not first


def test_it_can_be_stopped(loaded, everything):
    asked = []

    def after_three():
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(MmerError, match="stopped") as caught:
        explain(loaded, everything.only(("voice",)), should_stop=after_three)
    assert caught.value.code == "stopped"
    assert len(asked) == 4


def test_nothing_to_explain(loaded):
    with pytest.raises(ClipError, match="neither a face, nor a voice, nor words") as caught:
        explain(loaded, Features(0.0, 1.0))
    assert caught.value.code == "nothing_to_explain"


def test_words_need_the_language_model(loaded, everything):
    with pytest.raises(ValueError, match="language model"):
        explain(loaded, everything.only(("text",)))


def test_soften_keeps_the_light_and_loses_the_detail():
    plain = torch.full((1, 1, 48, 48), 0.3)
    torch.testing.assert_close(soften(plain), plain)
    stripes = (torch.arange(48) // 2 % 2).float().expand(1, 1, 48, 48)
    assert float(soften(stripes).std()) < 0.1 * float(stripes.std())
