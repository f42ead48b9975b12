"""Settings: frozen dataclasses with a default and a reason for each field."""

import ipaddress
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from mmer.errors import MmerError

SAMPLE_RATE = 16_000  # what silero-vad and Whisper were trained on, and what `media` decodes to
ROOT = Path(__file__).resolve().parent.parent


def _default_home() -> Path:
    """Return `data/` beside app.py in a checkout; installed, the place this system keeps a user's data in."""
    if (ROOT / "app.py").is_file():
        return ROOT / "data"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mmer"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "mmer"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "mmer"


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sqlite_url(file: Path) -> str:
    """Return the URL of a SQLite file; what has a meaning in a URL (%20, ?, #) stays part of the file's name."""
    return f"sqlite:///{quote(str(file))}"


def _days(value: str) -> int:
    if not value.isdecimal():
        raise MmerError("bad_setting", f"MMER_KEEP_DAYS is {value!r}; a whole number of days is needed, 0 for no end")
    return int(value)


def _hosts(value: str) -> tuple[str, ...]:
    return tuple(name for part in value.split(",") if (name := part.strip().lower()))


def _count(name: str) -> int:
    value = os.environ.get(name) or "0"
    if not value.isdecimal():
        raise MmerError("bad_setting", f"{name} is {value!r}; a whole number of labels is needed, 0 for never")
    return int(value)


def _contact(value: str) -> str:
    if len(value) > 200 or not value.isprintable():
        raise MmerError("bad_setting", "MMER_CONTACT is one line of up to 200 characters: an address or a name")
    return value.strip()


def _log(value: str) -> str:
    if value not in ("plain", "json"):
        raise MmerError("bad_setting", f"MMER_LOG is {value!r}; plain or json is needed")
    return value


def _secret(value: str) -> str:
    if value and len(value) < 32:
        raise MmerError("bad_setting", "MMER_SECRET has fewer than 32 characters; `openssl rand -hex 32` makes one")
    return value


def _switch(name: str) -> bool:
    value = os.environ.get(name) or "0"
    if value not in ("0", "1"):
        raise MmerError("bad_setting", f"{name} is {value!r}; 1 or 0 is needed")
    return value == "1"


@dataclass(frozen=True)
class Paths:
    """Where things live and which machine runs them. `from_env` is the only reader of the environment."""

    home: Path = field(default_factory=_default_home)
    assets: Path = field(default_factory=lambda: _default_home() / "assets")
    database_url: str = ""  # empty: the SQLite file in `home`
    device: str = "auto"  # auto | cpu | cuda
    checkpoint: str = ""  # put in use when the page starts: an id here, or hf:namespace/name@revision
    retrain_after: int = 0  # labels that no run has used, after which the page starts one by itself; 0: never
    whisper: str = ""  # a Whisper model name or a .pt file; empty: base, on a GPU turbo
    keep_days: int = 0  # retention period of recordings kept with consent; 0: until somebody asks for their deletion
    host: str = "127.0.0.1"  # address the page listens on
    space: str = ""  # "owner/name" on a Hugging Face Space, where people log in with their account there
    hosts: tuple[str, ...] = ()  # names, beside this machine's own, under which the page is served
    backup: str = ""  # where labels and kept recordings are copied to: a folder, an fsspec URL, hf-dataset:OWNER/NAME
    contact: str = ""  # whom people ask about what is kept of them: an address or a name, shown in the page
    trusts_proxy: bool = False  # whether who comes through a proxy may do what the person at this machine may
    log: str = "plain"  # plain | json
    metrics_token: str = field(default="", repr=False)  # who sends it may read /metrics from elsewhere
    mcp: bool = False  # whether programs that speak the Model Context Protocol may ask for verdicts and reasons
    secret: str = field(default="", repr=False)  # with it links to recordings hold across servers and restarts

    @classmethod
    def from_env(cls) -> "Paths":
        home = Path(os.environ.get("MMER_HOME") or _default_home()).expanduser().resolve()
        assets = Path(os.environ.get("MMER_ASSETS") or home / "assets").expanduser().resolve()
        return cls(
            home=home,
            assets=assets,
            database_url=os.environ.get("MMER_DATABASE_URL") or sqlite_url(home / "mmer.db"),
            device=os.environ.get("MMER_DEVICE") or "auto",
            checkpoint=os.environ.get("MMER_CHECKPOINT") or "",
            retrain_after=_count("MMER_RETRAIN_AFTER"),
            whisper=os.environ.get("MMER_WHISPER") or "",
            keep_days=_days(os.environ.get("MMER_KEEP_DAYS") or "0"),
            host=os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1",
            space=os.environ.get("SPACE_ID") or "",
            backup=os.environ.get("MMER_BACKUP") or "",
            hosts=_hosts(f"{os.environ.get('MMER_HOSTS', '')},{os.environ.get('SPACE_HOST', '')}"),
            contact=_contact(os.environ.get("MMER_CONTACT") or ""),
            trusts_proxy=_switch("MMER_TRUST_PROXY"),
            log=_log(os.environ.get("MMER_LOG") or "plain"),
            metrics_token=os.environ.get("MMER_METRICS_TOKEN") or "",
            mcp=_switch("MMER_MCP"),
            secret=_secret(os.environ.get("MMER_SECRET") or ""),
        )

    def to_env(self) -> dict[str, str]:
        """Return the variables that let another process of this program find the same places."""
        return {
            "MMER_HOME": str(self.home),
            "MMER_ASSETS": str(self.assets),
            "MMER_DATABASE_URL": self.database_url,
            "MMER_DEVICE": self.device,
            "MMER_WHISPER": self.whisper,
        }

    @property
    def is_private(self) -> bool:
        """Whether only people at this machine can open the page."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False  # a name that may be anybody's

    @property
    def accounts(self) -> Path:
        return self.home / "accounts.json"

    @property
    def checkpoints(self) -> Path:
        return self.home / "checkpoints"

    @property
    def media(self) -> Path:
        return self.home / "media"

    @property
    def features(self) -> Path:
        return self.home / "features"

    @property
    def imports(self) -> Path:
        """Where an uploaded archive is unpacked, for as long as its clips are taken in."""
        return self.home / "imports"

    @property
    def uploads(self) -> Path:
        """What the page's visitors sent; nothing in it grows old."""
        return self.home / "uploads"


@dataclass(frozen=True)
class MediaLimits:
    max_bytes: int = 500 * 2**20  # a ten-minute 1080p phone clip
    max_seconds: float = 600.0  # audio is held whole: 38 MB at this length
    max_pixels: int = 3840 * 2160  # one 4K frame is 24 MB as RGB
    max_pixel_rate: int = 3840 * 2160 * 60  # of a second of film: what a phone records; all of it is decoded
    max_image_pixels: int = 50_000_000  # a 48-megapixel photograph; it is scaled down to `max_pixels`
    max_image_side: int = 65_535  # what a JPEG can hold; scaled down, a line of 1 x 50 million would have no width left
    min_sample_rate: int = 4_000  # below this no vowel formant survives
    max_sample_rate: int = 384_000  # the highest rate converters record at


@dataclass(frozen=True)
class FaceConfig:
    fps: float = 5.0  # expressions last about half a second or longer
    crop_size: int = 48  # FER2013's own resolution: larger crops would only interpolate
    max_faces: int = 4  # a panel; each further face costs landmarker time
    # Where a face falls in a crop, in crop fractions (x, y): the mean over the 29,691 of 32,298 FER2013 images on which
    # Face Landmarker finds a face, so that a corpus crop and an aligned one look alike. Single images spread around it
    # by 0.07 (one standard deviation, each coordinate). An eye and the mouth are the middle of their corners.
    left_eye: tuple[float, float] = (0.325, 0.39)  # the left one in the picture
    right_eye: tuple[float, float] = (0.675, 0.39)
    mouth: tuple[float, float] = (0.505, 0.77)


@dataclass(frozen=True)
class VoiceConfig:
    sample_rate: int = SAMPLE_RATE
    n_fft: int = 512
    win_length: int = 400  # 25 ms
    hop_length: int = 160  # 10 ms
    n_mels: int = 64
    f_min_hz: float = 50.0  # below the lowest speaking pitch
    f_max_hz: float = 8_000.0
    floor: float = 1e-6  # mel energy of digital silence: where the log stops
    max_utterance_s: float = 10.0
    min_utterance_s: float = 0.3
    pad_s: float = 0.1  # voice activity cuts consonants; leave this much around


@dataclass(frozen=True)
class LiveConfig:
    """Sliding windows of a live verdict; they are all the smoothing there is."""

    face_s: float = 2.0  # ten crops, weighed by the face branch's own attention over time
    voice_s: float = 4.0  # an utterance of RAVDESS lasts 3.7 s
    lost_s: float = 1.0  # a face that was not seen for so long has gone


@dataclass(frozen=True)
class ModelConfig:
    face_widths: tuple[int, ...] = (32, 64, 128, 256)
    face_blocks: tuple[int, ...] = (2, 2, 2, 2)
    face_stride: int = 2  # of the stem: at 1 the first stage sees every pixel, for two and a half times the time
    face_imagenet: bool = False  # EfficientNet-Lite0 beside it, which starts from ImageNet: 3.6 M weights more
    voice_widths: tuple[int, ...] = (24, 48, 96, 160)
    voice_blocks: tuple[int, ...] = (2, 2, 2, 2)
    voice_statistics: int = 256  # hidden units over statistics of the log-mel, read beside the CNN; 0: none
    whisper_depths: int = 0  # of Whisper's encoder that the voice branch reads too: its layers and one; 0: none
    whisper_width: int = 512  # of its states: 384 tiny, 512 base, 768 small, 1024 medium, 1280 large
    whisper_sums: int = 3  # weighted sums over its depths
    whisper_hidden: int = 256  # units between those states and the branch's own
    text_input: int = 384  # MiniLM's hidden size
    text_channels: int = 96  # per convolution width
    text_widths: tuple[int, ...] = (1, 3, 5)
    text_hidden: int = 128  # GRU units per direction
    text_layers: int = 6  # of MiniLM's six, the last ones, which the branch trains as its own: 1.8 M weights each
    state: int = 160  # size of every branch state
    fusion: int = 128  # size of the fusion query
    fusion_heads: int = 4
    dropout: float = 0.2
    skip: bool = True  # skip connections in the residual blocks: the ablation turns them off
    n_blendshapes: int = 52
    max_crops: int = 32  # crops per utterance, spread evenly: 6 s at 5 fps

    @classmethod
    def tiny(cls) -> "ModelConfig":
        """The same code, small enough for tests."""
        return cls(
            face_widths=(8, 16),
            face_blocks=(1, 1),
            face_stride=1,
            voice_widths=(8, 16),
            voice_blocks=(1, 1),
            voice_statistics=16,
            text_layers=0,
            text_channels=8,
            text_hidden=8,
            state=16,
            fusion=16,
            fusion_heads=2,
            dropout=0.0,
            max_crops=8,
        )


@dataclass(frozen=True)
class Config:
    """Everything that decides what a clip's features are and what the model does with them."""

    media: MediaLimits = field(default_factory=MediaLimits)
    face: FaceConfig = field(default_factory=FaceConfig)
    voice: VoiceConfig = field(default_factory=VoiceConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
