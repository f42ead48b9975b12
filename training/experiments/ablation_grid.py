"""The rows of the ablation: what is changed in each, and what it is compared with."""

from dataclasses import dataclass

from mmer.labels import MODALITIES
from training.experiments import corruptions
from training.experiments.fusion_baselines import KINDS
from training.learn.losses import LOSSES


@dataclass(frozen=True)
class BranchRow:
    """One branch, trained in one way and measured on validation speakers."""

    name: str
    modality: str
    group: str
    reference: str | None = None  # the row it is compared with
    loss: str | None = None  # None: the recipe of training/train.py
    augmented: bool = True
    skip: bool = True
    adjust: float = 0.0  # tau of post-hoc logit adjustment, on the weights of the row with plain cross-entropy
    corpus: str | None = None  # trained on this corpus only
    measured: str | None = None  # measured on this corpus only
    init: str | None = None  # starts from the branch of this row and the same seed


@dataclass(frozen=True)
class FusedRow:
    """Three branches and a fusion; the branches are those of the rows `face`, `voice`, `text` plus `variant`."""

    name: str
    group: str
    kind: str = "attention"
    variant: str = ""
    reference: str | None = None


@dataclass(frozen=True)
class RobustRow:
    """Attention fusion while one branch's input is worse."""

    name: str
    modality: str
    how: str
    level: float
    group: str = "robustness"
    reference: str | None = None


def all_rows() -> dict[str, BranchRow | FusedRow | RobustRow]:
    rows: list = []
    for m in MODALITIES:
        rows.append(BranchRow(m, m, "branches"))
        rows.append(BranchRow(f"{m}-no-skip", m, "skip", m, skip=False))
        # Faces and voices learn by smoothed labels already.
        others = [loss for loss in LOSSES if m == "text" or loss != "smoothing"]
        rows += [BranchRow(f"{m}-{loss}", m, "losses", m, loss=loss) for loss in others]
        rows.append(BranchRow(f"{m}-post_hoc", m, "losses", m, loss="cross_entropy", adjust=1.0))
        if m != "text":
            rows.append(BranchRow(f"{m}-no-augmentation", m, "augmentation", m, augmented=False))
    rows.append(BranchRow("emodb-scratch", "voice", "transfer", None, corpus="emodb", measured="emodb"))
    rows.append(BranchRow("emodb-untouched", "voice", "transfer", "emodb-scratch", corpus="ravdess", measured="emodb"))
    rows.append(
        BranchRow(
            "emodb-transfer",
            "voice",
            "transfer",
            "emodb-scratch",
            corpus="emodb",
            measured="emodb",
            init="emodb-untouched",
        )
    )
    rows.append(FusedRow("multi", "multi"))
    rows += [FusedRow(f"multi-{v}", "multi", variant=v, reference="multi") for v in ("no-skip", "no-augmentation")]
    rows += [
        FusedRow(f"fusion-{k}", "fusion", k, reference=None if k == "attention" else "fusion-attention") for k in KINDS
    ]
    rows.append(RobustRow("clean", "face", "clean", 0.0))
    for how in corruptions.NOISES:
        rows += [RobustRow(f"voice-{how}-{db}dB", "voice", how, db) for db in (20, 10, 5, 0)]
    rows += [RobustRow(f"face-blur-{s}px", "face", "blur", s) for s in (1, 2, 3)]
    rows += [RobustRow(f"face-covered-{what}", "face", what, 0) for what in corruptions.COVERS]
    rows += [RobustRow(f"text-errors-{p}%", "text", "errors", p / 100) for p in (10, 20, 30)]
    return {r.name: r for r in rows}
