"""The settings of a training run and what each stage takes of them."""

from dataclasses import asdict, dataclass

CORPORA = {"face": ("fer2013",), "voice": ("ravdess", "emodb"), "text": ("goemotions", "meld")}


@dataclass(frozen=True)
class TrainConfig:
    seed: int = 0
    precision: str = "fp32"  # bf16 halves the time of the convolutions on CPUs that have it; fp16 on GPUs that lack it
    layer_decay: float = 1.0  # learning rate of each layer over that of the layer above it
    unfreeze: int = 0  # epochs over which the layers begin to learn, the head first
    init_share: float = 0.0  # how much of the weights of --init a trained branch keeps
    compile: bool = False  # let torch compile the face's CNN, where there is a C++ compiler
    average: float = 0.99  # decay per step of the weights' average, which a branch ends with; 0: the last weights
    face_epochs: int = 48
    face_batch: int = 96
    face_lr: float = 0.05  # SGD with momentum, one cycle
    face_small: float = 0.7  # share of the epochs, the first ones, on crops of two thirds their size, at half the time
    face_tau: float = 0.0  # logit adjustment after training: 0 has the best macro-F1 of 0 to 1 on what is set aside
    voice_epochs: int = 80  # from nothing: after 40 RAVDESS has ten points less
    voice_batch: int = 16
    voice_lr: float = 1e-3  # AdamW, one cycle
    voice_crop_s: float = 3.0
    voice_strange: float = 0.25  # share of the utterances that the CNN hears as from another speaker, some in a room
    voice_statistics_epochs: int = 40  # in which the statistics learn after the CNN: seconds each
    voice_statistics_readings: int = 6  # disturbed ones of each utterance
    voice_statistics_batch: int = 64
    voice_statistics_lr: float = 1e-3  # AdamW, one cycle
    voice_power: float = 0.25  # a corpus' emotion with n utterances is drawn n ** power times as often as one with one
    text_epochs: float = 4.0
    text_batch: int = 64
    text_lr: float = 1e-3
    text_tau: float = 0.4  # logit adjustment: neutral is 30-47 % of the sentences
    text_back: float = 0.2  # share of the log frequencies the head gets back: best of -0.4 to 0.6 on what is set aside
    text_tuned: bool = False  # train MiniLM's last two layers with the branch: 600 s a core and epoch more
    fusion_steps: int = 100  # best of 100 and 300 on halves of what is set aside; 3000 learn the few voices by heart
    fusion_batch: int = 256
    fusion_lr: float = 3e-4
    fusion_dropout: float = 0.5  # of the branch states it reads, never of their votes
    conflict: float = 0.15  # share of tuples in which one branch carries another label
    smoothing: float = 0.1


def settings_of(stage: str, config: TrainConfig) -> dict:
    """Return the settings that decide what a stage learns; the statistics stand on what the voice's CNN learned."""
    always = ("seed", "layer_decay", "average", "unfreeze", "precision", "smoothing")
    later = ("face_tau", "text_back") if stage != "voice" else tuple(k for k in asdict(config) if "statistics" in k)
    own = f"{stage.split('_')[0]}_"
    return {k: v for k, v in asdict(config).items() if k in always or (k.startswith(own) and k not in later)}
