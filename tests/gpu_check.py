"""The GPU path against the CPU's: verdicts, Whisper in half precision, explanations, a training step, and times.

    python tests/gpu_check.py [--speech CLIP]

Takes about three minutes and no network; weights are taken from MMER_ASSETS and MMER_WHISPER, and what is not there is
left out and said. Without CUDA it says so and ends with status 0; status 1 when a check fails. `--device cpu` runs the
same comparisons on the CPU alone, to try the script.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path

if __name__ == "__main__":  # before the imports below, whose seconds --help need not wait for
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what is compared with the CPU")
    parser.add_argument("--speech", type=Path, metavar="CLIP", help="speech, to compare transcripts")
    args = parser.parse_args()

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("MPLBACKEND", "Agg")

from mmer.attribution import explain
from mmer.config import Paths
from mmer.errors import AssetError
from mmer.features import collate
from mmer.labels import EMOTIONS, MODALITIES
from mmer.predict import EmotionResult, Predictor
from tests import synth
from training.learn.loop import fit

PROBABILITY = 0.02  # by which a probability may differ: convolutions on a GPU round to ten bits (TF32)
SUM = 0.02  # by which Shapley values may miss the gap they add up to, in logits
SCORE = 0.05  # by which a modality's share may differ, in logits
WORDS = 0.1  # of the words that half precision may hear otherwise
TEXT = "I did not expect that at all"


@dataclass
class Report:
    """What was compared, and what it came to."""

    failed: list[str] = field(default_factory=list)

    def check(self, what: str, found: float, most: float) -> None:
        well = found <= most
        print(f"{'ok ' if well else 'BAD'}  {what}: {found:.4f}, at most {most:g}")
        if not well:
            self.failed.append(what)

    def told(self, what: str) -> None:
        print(f"     {what}")


def timed(call: Callable[[], object], n: int = 5) -> float:
    """Return the median milliseconds of a call, after one that warms up."""
    call()
    times = []
    for _ in range(n):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        since = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append((time.perf_counter() - since) * 1e3)
    return float(np.median(times))


def verdicts(report: Report, cpu: Predictor, gpu: Predictor, clip: Path) -> tuple[EmotionResult, EmotionResult]:
    """Compare what both say of a clip with a face, a voice and words."""
    on_cpu, on_gpu = (each.analyse(clip, text=TEXT) for each in (cpu, gpu))
    report.check("fused probabilities differ by", float(np.abs(on_cpu.probs - on_gpu.probs).max()), PROBABILITY)
    for i, modality in enumerate(MODALITIES):
        if on_cpu.present[modality] != on_gpu.present[modality]:
            report.check(f"{modality} is read by one only", 1, 0)
        elif on_cpu.present[modality]:
            gap = float(np.abs(on_cpu.branch_probs[i] - on_gpu.branch_probs[i]).max())
            report.check(f"probabilities of {modality} differ by", gap, PROBABILITY)
        else:
            why = "; ".join(n.message for n in on_cpu.quality if n.code.endswith("unavailable"))
            report.told(f"{modality} is not compared: {why or 'nothing was found'}")
    report.check("emotions differ", float(on_cpu.emotion != on_gpu.emotion), 0)
    for name, each in (("cpu", cpu), (gpu.device, gpu)):
        report.told(f"a clip of 3 s on {name}: {timed(lambda each=each: each.analyse(clip, text=TEXT), 3):.0f} ms")
    items = [s.features for s in on_cpu.segments] * 16
    for name, each in (("cpu", cpu), (gpu.device, gpu)):
        report.told(
            f"the model on {len(items)} utterances on {name}: {timed(lambda each=each: each.judge(items)):.0f} ms"
        )
    return on_cpu, on_gpu


def explanations(report: Report, cpu: Predictor, gpu: Predictor, result: EmotionResult) -> None:
    """Compare explanations, which run the recurrent layer of the text branch backwards."""
    segment = result.telling_segment
    if segment is None:
        report.told("explanations are not compared: nothing was read")
        return
    whys = []
    for each in (cpu, gpu):
        language = each.language_if_words(each.checkpoint, segment.features)
        since = time.perf_counter()
        why = explain(each.checkpoint, segment.features, result.emotion, language, transcriber=each.transcriber)
        report.told(f"an explanation on {each.device}: {time.perf_counter() - since:.1f} s")
        shares = [v for v in why.modality.values() if v is not None]
        report.check(f"shares on {each.device} miss the gap by", abs(sum(shares) - why.logit + why.baseline_logit), SUM)
        whys.append(why)
    for m in MODALITIES:
        ours, theirs = (why.modality[m] for why in whys)
        if ours is not None and theirs is not None:
            report.check(f"the share of {m} differs by", abs(ours - theirs), SCORE)
    if not any(score for _, score in whys[1].words):
        report.told("no word has a score: the recurrent layer was not asked")
    report.check("the model was left in training mode", float(gpu.checkpoint.model.training), 0)


def transcripts(report: Report, cpu: Predictor, gpu: Predictor, speech: Path | None) -> None:
    """Compare Whisper in half precision with single."""
    if speech is None:
        report.told("transcripts are not compared: name a clip with --speech")
        return
    try:
        gpu.transcriber.load()
    except AssetError as error:
        report.told(f"transcripts are not compared: {error.message}")
        return
    weights = {p.dtype for p in gpu.transcriber._load().parameters()}
    report.told(
        f"Whisper's weights on {gpu.device}: {', '.join(sorted(map(str, weights)))}; it decodes in half precision"
    )
    said = []
    for each in (cpu, gpu):
        said.append(each.analyse(speech))
        report.told(
            f"{each.device}: {said[-1].timing_ms['speech'] / 1e3:.1f} s for {said[-1].duration_s:.0f} s of speech"
        )
    words = [result.transcript.text.lower().split() for result in said]
    same = sum(block.size for block in SequenceMatcher(None, *words, autojunk=False).get_matching_blocks())
    report.check("share of words heard otherwise", 1 - same / max(*map(len, words), 1), WORDS)
    for ours, theirs in zip(*(result.segments for result in said), strict=False):
        if ours.present == theirs.present:
            gap = float(np.abs(ours.probs - theirs.probs).max())
            report.check(f"verdicts at {ours.start_s:.1f} s differ by", gap, 3 * PROBABILITY)


def training_step(report: Report, gpu: Predictor, result: EmotionResult) -> None:
    """Take one step in bfloat16 and look whether every branch that was read has learned something finite."""
    items = [s.features for s in result.segments] * 4
    loaded = gpu.checkpoint
    model = type(loaded.model)(loaded.config.model, loaded.config.voice.n_mels)
    model.load_state_dict(loaded.model.state_dict())
    before = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    batch = collate(items, loaded.config).to(gpu.device)
    targets = torch.arange(len(items)) % len(EMOTIONS)

    def loss_of(rows: Tensor, wanted: Tensor) -> Tensor:
        output = model.fuse(model.branches(batch), batch.present)
        return cross_entropy(output.logits.float()[rows], wanted)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    since = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        fit(
            "step",
            model,
            optimizer,
            scheduler,
            lambda _: [(torch.arange(len(items)), targets)],
            loss_of,
            epochs=1,
            work=Path(work),
            precision="bf16",
        )
    report.told(f"a training step in bfloat16 on {gpu.device}: {time.perf_counter() - since:.1f} s")
    after = model.state_dict()
    bad = sum(not torch.isfinite(value).all() for value in after.values())
    report.check("weights that are no number", float(bad), 0)
    moved = sum(not torch.equal(before[name], after[name].cpu()) for name in before)
    report.check("share of weights that did not move", 1 - moved / len(before), 0.5)


def main(args: argparse.Namespace) -> int:
    if args.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no CUDA device answers")
        return 0
    paths = Paths.from_env()
    report = Report()
    if args.device == "cuda":
        report.told(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    with tempfile.TemporaryDirectory() as folder:
        ours = replace(paths, home=Path(folder), whisper=paths.whisper or "base")
        cpu, gpu = (Predictor(replace(ours, device=device)) for device in ("cpu", args.device))
        clip = synth.write_clip(Path(folder) / "talk.mp4", seconds=3)
        on_cpu, _ = verdicts(report, cpu, gpu, clip)
        explanations(report, cpu, gpu, on_cpu)
        transcripts(report, cpu, gpu, args.speech)
        training_step(report, gpu, on_cpu)
    if args.device == "cuda":
        report.told(f"memory of the GPU at most: {torch.cuda.max_memory_allocated() / 2**20:.0f} MB")
    print(f"{len(report.failed)} failed: {', '.join(report.failed)}" if report.failed else "all is well")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(args))
