"""The experiment commands on tiny corpora in their real layouts: what they write, and how they go on."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmer.config import ModelConfig
from mmer.errors import TrainingError
from mmer.labels import EMOTIONS
from mmer.metrics import threshold_of
from mmer.model import BranchStates, EmotionModel
from mmer.speech import Transcriber
from tests import synth
from tests.test_speech import checkpoint as whisper_checkpoint
from tests.test_training import corpora_folder, run  # noqa: F401
from training import crossval
from training.data import unpaired
from training.data.load import Voices
from training.data.manifest import Row
from training.experiments import crossval_run, figures
from training.experiments.ablation_data import Data
from training.experiments.ablation_grid import all_rows
from training.experiments.ablation_report import page
from training.experiments.ablation_runner import Ablation
from training.experiments.ablation_stages import drawn, two_folds
from training.experiments.budgets import BUDGETS
from training.experiments.folds import CrossValidation, Fold, emobox, labels, new_model, train
from training.experiments.run_cache import Run, Runs, without
from training.learn.config import TrainConfig
from training.learn.fusion import N_VIEWS, Encoded, Judged, fit_abstention, subset_probs


def test_a_finished_run_is_never_run_again(tmp_path):
    runs, made = Runs(tmp_path), []

    def make(work):
        made.append(work)
        return Run({"uar": 0.5}, {"probs": np.eye(2)})

    first = runs.get("a row", {"seed": 0}, make)
    again = Runs(tmp_path).get("a row", {"seed": 0}, make)
    assert len(made) == 1
    assert again.figures == first.figures == {"uar": 0.5}
    assert np.array_equal(again.arrays["probs"], np.eye(2))
    runs.get("a row", {"seed": 1}, make)
    assert len(made) == 2
    assert made[0] != made[1]


def test_a_run_that_failed_is_not_kept_and_finds_its_work_again(tmp_path):
    runs = Runs(tmp_path)

    def killed(work):
        (work / "epoch").write_text("3")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.get("row", {}, killed)
    found = runs.get("row", {}, lambda work: Run({"epoch": (work / "epoch").read_text()}))
    assert found.figures == {"epoch": "3"}


def encoded(n: int, seed: int) -> Encoded:
    g = torch.Generator().manual_seed(seed)
    targets = torch.eye(7)[torch.arange(n) % 7]
    top = torch.randn(n, 16, generator=g)
    return Encoded(torch.randn(n, 8, generator=g), top, targets * 4, targets, top)


def test_what_only_concerns_other_branches_does_not_decide_a_run():
    settings = {
        "epochs": {"face": 5, "text": 2},
        "config": {"seed": 0, "face_lr": 0.1, "text_lr": 0.2, "conflict": 0.15},
    }
    own = {"epochs": {"text": 2}, "config": {"seed": 0, "text_lr": 0.2, "conflict": 0.15}}
    assert without(settings, ["face", "voice"]) == own
    assert without(settings, []) == settings


def test_tuples_are_the_same_under_every_condition():
    """Worse states of the same examples make the same tuples, and the picks say which examples they are."""
    held = {"face": encoded(70, 0), "voice": encoded(35, 1), "text": encoded(49, 2)}
    clean = drawn(held, torch.ones(3), 300)
    worse = drawn({**held, "voice": encoded(35, 9)}, torch.ones(3), 300)
    assert np.array_equal(clean.picks, worse.picks)
    assert np.array_equal(clean.truth, worse.truth)
    assert torch.equal(clean.states.tops[:, 1], held["voice"].top[clean.picks[:, 1]])
    assert torch.equal(worse.states.tops[:, 0], held["face"].top[clean.picks[:, 0]])
    assert (clean.picks % 7 == clean.truth[:, None]).all()


def test_nothing_is_in_both_folds_in_any_view():
    speakers = ["a", "a", "b", "b", "b", "a"]
    sizes = {"face": 9, "voice": len(speakers), "text": 8}
    calibration = {}
    for i, (m, n) in enumerate(sizes.items()):
        e = encoded(n * N_VIEWS[m], i)
        number = torch.arange(n).repeat(N_VIEWS[m])[:, None].float()  # which example a view is of
        calibration[m] = Encoded(e.middle, number, e.logits, e.targets, e.pooled)
    one, two = two_folds(calibration, speakers)
    for m, n in sizes.items():
        numbers = [set(half[m].top.flatten().tolist()) for half in (one, two)]
        assert not numbers[0] & numbers[1], m
        assert numbers[0] | numbers[1] == set(range(n)), m
        assert len(one[m].top) + len(two[m].top) == n * N_VIEWS[m]
    assert {speakers[int(i)] for i in one["voice"].top.flatten()} == {"a"}
    assert two_folds(calibration, ["a"] * 6) is None


def test_every_reference_is_a_row_and_starts_are_trained_first():
    rows = all_rows()
    for row in rows.values():
        assert row.reference is None or row.reference in rows
        assert getattr(row, "init", None) is None or row.init in rows
    assert {r.group for r in rows.values()} == {
        "branches",
        "skip",
        "losses",
        "augmentation",
        "transfer",
        "multi",
        "fusion",
        "robustness",
    }


def test_subsets_of_one_branch_are_that_branch():
    torch.manual_seed(0)
    model = EmotionModel(ModelConfig.tiny()).eval()
    sizes = {m: model.encoders[m].middle_size for m in ("face", "voice", "text")}
    held = {}
    for i, (m, size) in enumerate(sizes.items()):
        e = encoded(35, i)
        held[m] = Encoded(torch.randn(35, size), e.top, e.logits, e.targets, e.pooled)
    given = drawn(held, torch.ones(3), 50)
    probs = subset_probs(model, given.states)
    assert len(probs) == 7
    np.testing.assert_allclose(probs["voice"], given.states.logits[:, 1].softmax(1).numpy(), atol=1e-6)


@pytest.fixture(scope="module")
def ablated(corpora_folder, tmp_path_factory, face_model, text_encoder):  # noqa: F811
    out = tmp_path_factory.mktemp("ablation")
    arguments = (
        "--corpora",
        corpora_folder,
        "--out",
        out,
        "--budget",
        "tiny",
        "--seeds",
        0,
        1,
        "--rows",
        "voice-no-skip",
        "voice-post_hoc",
        "fusion-average",
        "fusion-gated",
        "voice-white-0dB",
        "text-errors-30%",
        "face-covered-mouth",
    )
    done = run("ablate", *arguments, home=out / "home")
    assert done.returncode == 0, done.stderr
    return out, arguments


@pytest.mark.slow
def test_the_ablation_compares_each_row_with_its_reference(ablated):
    out, _ = ablated
    found = json.loads((out / "ablation.json").read_text())
    entries = {e["row"]: e for e in found["rows"]}
    assert {"voice", "voice-no-skip", "voice-post_hoc", "fusion-attention", "fusion-average", "fusion-gated"} <= set(
        entries
    )
    assert entries["voice"]["seeds"] == [0, 1]
    assert entries["voice-no-skip"]["reference"] == "voice"
    gap = entries["voice-no-skip"]["accuracy"]["mean"] - entries["voice"]["accuracy"]["mean"]
    assert entries["voice-no-skip"]["paired"]["difference"] == pytest.approx(gap)
    assert entries["voice-no-skip"]["paired"]["n_groups"] == 2
    assert entries["voice-no-skip"]["paired"]["p"] >= 0.5  # two speakers prove nothing
    subsets = entries["fusion-gated"]["runs"][0]["subsets"]
    assert subsets["face"] == entries["fusion-average"]["runs"][0]["subsets"]["face"]
    robust = entries["voice-white-0dB"]
    assert robust["best_remaining"]["branch"] in ("face", "text")
    assert robust["runs"][0]["subsets"]["face"] == entries["text-errors-30%"]["runs"][0]["subsets"]["face"]
    text = (out / "ablation.md").read_text()
    for title in ("Branches alone", "Losses", "Fusions on the same branches", "Worse input"):
        assert f"## {title}" in text
    assert (out / "fusion.png").stat().st_size > 5000


@pytest.mark.slow
def test_an_ablation_given_again_only_writes_its_tables(ablated):
    out, arguments = ablated
    before = {p: os.stat(p).st_mtime_ns for p in (out / "runs").glob("*.npz")}
    (out / "ablation.md").unlink()
    done = run("ablate", *arguments, home=out / "home")
    assert done.returncode == 0, done.stderr
    assert "epoch" not in done.stdout + done.stderr
    assert {p: os.stat(p).st_mtime_ns for p in (out / "runs").glob("*.npz")} == before
    assert (out / "ablation.md").is_file()


def test_an_unknown_row_is_refused(tmp_path):
    done = run("ablate", "--corpora", tmp_path, "--rows", "nothing", home=tmp_path)
    assert done.returncode == 2
    assert "--rows nothing: use groups (branches, skip" in done.stderr


def test_a_table_shows_what_is_missing():
    assert figures.markdown(("a", "b"), [("x", None), ("y|z", 0.12345)]) == (
        "| a | b |\n|---|---|\n| x | – |\n| y/z | 0.123 |\n"
    )
    assert "## " not in page([], "nothing was run")


def test_the_folds_of_emobox_share_no_actor():
    speakers = {f"ravdess-{a:02d}" for a in range(1, 25)} - {f"ravdess-{a:02d}" for a in (6, 13, 17, 22)}
    folds = emobox(speakers)
    assert [f.name for f in folds] == ["1", "2", "3", "4", "5"]  # the sixth has actors who are missing
    assert set.union(*(set(f.test) for f in folds)) == speakers
    assert sum(len(f.test) for f in folds) == len(speakers)
    assert folds[0].test == {"ravdess-01", "ravdess-11", "ravdess-20", "ravdess-21"}
    assert all(not f.test & f.inner for f in folds)
    assert folds[4].inner == folds[0].test
    with pytest.raises(TrainingError, match="2 can be made of the speakers here"):
        emobox({f"ravdess-{a:02d}" for a in (1, 11, 20, 21, 4, 10, 12, 14, 8)})


def test_calm_is_a_class_of_its_own_where_there_are_eight():
    rows = [
        Row((e,), Path(f"03-01-{code}-01-01-01-01.wav"), corpus="ravdess")
        for code, e in (("01", "neutral"), ("02", "neutral"), ("05", "anger"))
    ]
    names, targets = labels(rows, 8)
    assert [names[i] for i in targets.argmax(1)] == ["neutral", "calm", "anger"]
    names, targets = labels(rows, 7)
    assert [names[i] for i in targets.argmax(1)] == ["neutral", "neutral", "anger"]


@pytest.fixture(scope="module")
def spoken(corpora_folder, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("crossval")
    arguments = (
        "--corpora",
        corpora_folder,
        "--out",
        out,
        "--folds",
        3,
        "--classes",
        8,
        "--epochs",
        2,
        "--batch",
        8,
        "--model",
        "tiny",
    )
    done = run("crossval", *arguments, home=out / "home")
    assert done.returncode == 0, done.stderr
    return out, arguments, done


def test_cross_validation_tests_every_speaker_once_and_never_one_it_trained_on(spoken):
    out, _, done = spoken
    found = json.loads((out / "ravdess-8" / "crossval.json").read_text())
    assert found["classes"][-1] == "calm"
    everybody = {f"ravdess-{a:02d}" for a in (1, 2, 3, 4, 5, 7, 8, 9, 10)}
    assert sorted(s for p in found["folds"] for s in p["speakers"]) == sorted(everybody)
    for part in found["folds"]:
        trained = set(part["runs"][0]["trained_on"])
        assert trained | set(part["speakers"]) | set(part["inner"]) == everybody
        assert not trained & (set(part["speakers"]) | set(part["inner"]))
        inner = part["runs"][0]["inner"]
        assert set(inner) == {"1", "2", "3"}  # after each epoch, and what training ends with
        assert inner[str(part["runs"][0]["epoch"])] == max(inner.values())
    assert found["pooled"][0]["n"] == 72
    assert found["pooled"][0]["per_class"]["calm"]["n"] == 9
    mean = np.mean([p["runs"][0]["uar"] for p in found["folds"]])
    assert found["mean_of_folds"]["uar"] == pytest.approx(mean)
    assert f"mean UAR of 3 folds {mean:.3f}" in done.stdout
    assert "No test speaker is trained on" in (out / "ravdess-8" / "crossval.md").read_text()
    assert (out / "ravdess-8" / "confusion.png").stat().st_size > 5000


def test_a_finished_cross_validation_reads_no_recording_again(spoken):
    out, arguments, first = spoken
    done = run("crossval", *arguments, home=out / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout == first.stdout.splitlines(keepends=True)[-1]
    assert "voices" not in done.stderr


def test_one_corpus_is_tested_with_what_another_taught(corpora_folder, tmp_path):  # noqa: F811
    done = run(
        "crossval",
        "--corpora",
        corpora_folder,
        "--out",
        tmp_path,
        "--across",
        "emodb:ravdess",
        "--model",
        "tiny",
        home=tmp_path,
    )
    assert done.returncode == 1
    assert "4 folds: 2 can be made of the speakers here" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_corpora_teach_beside_the_folds_by_their_training_speakers_only(corpora_folder, tmp_path):  # noqa: F811
    def planned(*options: str) -> set[str]:
        args = crossval.parser().parse_args(["--corpora", str(corpora_folder), "--folds", "4", *options])
        return {r.speaker for r in crossval_run.plan(args, refuse).rows}

    def refuse(message: str):
        raise ValueError(message)

    assert planned("--also", "emodb") - planned() == {"emodb-03"}  # 10 validates
    with pytest.raises(ValueError, match="its folds are trained on already"):
        planned("--also", "emodb", "ravdess")
    with pytest.raises(ValueError, match="name all that teach in --across"):  # the report said it had taught
        planned("--across", "emodb:ravdess", "--also", "nemo")


def test_an_epoch_is_chosen_by_the_inner_speakers_and_refitting_stops_there(corpora_folder, tmp_path):  # noqa: F811
    rows = [r for r in unpaired.ravdess(corpora_folder) if r.speaker in ("ravdess-01", "ravdess-03", "ravdess-04")]
    config = TrainConfig(voice_epochs=2, voice_batch=8)
    whole = CrossValidation(rows, 7, ModelConfig.tiny(), config, Runs(tmp_path), "refit")
    fold = Fold("x", frozenset({"ravdess-01"}), frozenset({"ravdess-03"}))
    found = whole.run(fold, 0)
    assert found.figures["trained_on"] == ["ravdess-03", "ravdess-04"]
    assert {rows[i].speaker for i in found.arrays["rows"]} == {"ravdess-01"}
    again = CrossValidation(rows, 7, ModelConfig.tiny(), config, Runs(tmp_path / "again"), "refit").run(fold, 0)
    np.testing.assert_allclose(again.arrays["probs"], found.arrays["probs"], atol=1e-4)


def test_nothing_is_chosen_when_all_other_speakers_learn_for_all_epochs(corpora_folder, tmp_path):  # noqa: F811
    rows = [r for r in unpaired.ravdess(corpora_folder) if r.speaker in ("ravdess-01", "ravdess-03", "ravdess-04")]
    unseen = unpaired.emodb(corpora_folder)
    config = TrainConfig(voice_epochs=2, voice_batch=8, voice_statistics_epochs=2)
    folds = [Fold("x", frozenset({"ravdess-01"}), frozenset({"ravdess-03"}))]
    whole = CrossValidation(rows, 8, ModelConfig.tiny(), config, Runs(tmp_path), "fixed", unseen)
    found = whole.summary(folds, [0])
    run = whole.run(folds[0], 0)
    assert run.figures["trained_on"] == ["ravdess-03", "ravdess-04"]
    assert (run.figures["epoch"], run.figures["inner"]) == (3, {})
    assert run.arrays["unseen_truth"].tolist() == [r.label for r in unseen]
    np.testing.assert_allclose(run.arrays["unseen_probs"].sum(1), 1, atol=1e-5)
    assert found["unseen"]["together"]["n"] == len(unseen)
    calm, neutral = len(EMOTIONS), EMOTIONS.index("neutral")
    truth = np.where(run.arrays["truth"] == calm, neutral, run.arrays["truth"])
    merged = np.delete(run.arrays["probs"], calm, 1)
    merged[:, neutral] += run.arrays["probs"][:, calm]
    recalls = [(merged.argmax(1) == truth)[truth == k].mean() for k in range(7)]
    assert found["calm_as_neutral"]["uar"] == pytest.approx(np.mean(recalls))


def test_the_threshold_of_each_subset_keeps_the_promise_on_every_corpus():
    """Branches that are right where they are sure; one corpus is harder, so its threshold is the branch's."""
    torch.manual_seed(0)
    model = EmotionModel(ModelConfig.tiny()).eval()
    n = 500
    g = torch.Generator().manual_seed(1)
    truth = torch.randint(7, (n,), generator=g)
    sure = torch.rand(n, 3, 1, generator=g)
    votes = 6 * sure * torch.eye(7)[truth][:, None] + torch.randn(n, 3, 7, generator=g)
    middles = tuple(torch.zeros(n, model.encoders[m].middle_size) for m in ("face", "voice", "text"))
    states = BranchStates(middles, torch.zeros(n, 3, 16), votes)
    fused, labels = subset_probs(model, states), truth.numpy()
    easy, hard = fused["text"][:250], np.roll(fused["text"][250:], 1, axis=0)  # its answers belong to other rows
    mixed = np.where(np.arange(250)[:, None] % 20 > 0, fused["text"][250:], hard)
    alone = {
        "face": [Judged(fused["face"], labels, [""] * n)],
        "voice": [
            Judged(fused["voice"], labels, [""] * n),
            Judged(np.full((250, 7), 1 / 7), labels[:250], [""] * 250),  # tells nothing at all
        ],
        "text": [Judged(easy, labels[:250], [""] * 250), Judged(mixed, labels[250:], [""] * 250)],
    }
    promise = fit_abstention(fused, labels, alone, target=0.9)
    assert set(promise["subsets"]) == set(fused)
    for name in ("face", "face+voice", "face+voice+text"):
        kept = fused[name].max(1) >= promise["subsets"][name]["threshold"]
        assert kept.mean() == pytest.approx(promise["subsets"][name]["coverage"])
        assert (fused[name].argmax(1) == labels)[kept].mean() >= 0.9
    assert promise["subsets"]["voice"] is None  # one corpus' answers are never right often enough
    for probs, right, _ in alone["text"]:
        kept = probs.max(1) >= promise["subsets"]["text"]["threshold"]
        assert (probs.argmax(1) == right)[kept].mean() >= 0.9
    present = [False, True, False]
    assert threshold_of(promise, present) > 1
    assert threshold_of({"threshold": 0.7, "target": 0.8}, present) == 0.7  # of an older checkpoint
    assert threshold_of(None, present) is None


def test_without_an_epoch_of_its_cnn_the_voice_is_whispers_stream_alone(tmp_path):
    """The statistics learned for minutes through the head of a CNN that knew nothing, and counted for nothing."""
    shape = replace(ModelConfig.tiny(), whisper_depths=2, whisper_width=32)
    states, sounds = torch.randn(14, 2, 2, 64), [synth.voice(0.5)] * 14
    voices = Voices(sounds, torch.eye(7)[torch.arange(14) % 7], ("c",) * 14, states)
    config = TrainConfig(voice_epochs=0, voice_whisper_epochs=1, voice_whisper_batch=7)
    model, _, _ = train(voices, voices, EMOTIONS, shape, config, tmp_path, 1)
    fresh = new_model(shape, 7, config.seed)
    for name, weights in model.encoders["voice"].statistics.state_dict().items():
        assert torch.equal(weights, fresh.encoders["voice"].statistics.state_dict()[name]), name
    assert float(model.encoders["voice"].whisper.rest.detach()) == 0
    assert not torch.equal(model.encoders["voice"].whisper.depths, fresh.encoders["voice"].whisper.depths)


def test_views_that_whisper_heard_stay_in_the_fold_of_their_utterance():
    speakers = ["a", "a", "b"]
    calibration = {m: encoded(n * N_VIEWS[m], 0) for m, n in (("face", 4), ("text", 4))}
    number = torch.arange(3).repeat(8)[:, None].float()  # four views without Whisper, four with it
    calibration["voice"] = Encoded(number, number, number, torch.eye(7)[torch.arange(24) % 7], number)
    one, two = two_folds(calibration, speakers)
    assert [sorted(set(half["voice"].top.flatten().tolist())) for half in (one, two)] == [[0, 1], [2]]
    assert len(one["voice"].top) == 16


def test_an_ablation_asks_whose_voice_is_to_read_whisper(tmp_path):
    done = run("ablate", "--corpora", tmp_path, "--whisper", "base", home=tmp_path)
    assert done.returncode == 2
    assert "--whisper is for --checkpoint: branches trained here learn without it" in done.stderr
    weights = whisper_checkpoint(tmp_path / "whisper.pt")
    done = run(
        "ablate", "--corpora", tmp_path, "--rows", "fusion", "--checkpoint", "base", "--whisper", weights, home=tmp_path
    )
    assert done.returncode == 1
    assert "the voice branch of base reads another Whisper than" in done.stderr


def test_a_checkpoints_voice_reads_whisper_in_noise_too(corpora_folder, tmp_path):  # noqa: F811
    """The rows of worse input measured a branch that had lost its main stream."""
    whisper = Transcriber(str(whisper_checkpoint(tmp_path / "whisper.pt")))
    data = Data(corpora_folder, tmp_path, BUDGETS["tiny"], whisper, 1)
    assert data.voices("calibration").whisper.shape[1:] == (2, 2, 64)  # the utterance and one view of it
    clean = data.voices("val")
    ablation = Ablation(data, TrainConfig(), Runs(tmp_path / "runs"), None)
    row = all_rows()["voice-white-0dB"]
    noisy = ablation.worse(EmotionModel(ModelConfig.tiny()), row, tmp_path)
    assert noisy.whisper.shape == clean.whisper.shape
    assert (noisy.whisper - clean.whisper).abs().max() > 0.01
