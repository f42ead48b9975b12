"""What the page's endpoints for programs return, as types: /gradio_api/info shows them as JSON schema."""

from typing import Any, TypedDict


class _Word(TypedDict):
    word: str
    start_s: float
    end_s: float


class _Transcript(TypedDict):
    text: str
    language: str | None
    words: list[_Word]
    status: str
    message: str


class _Segment(TypedDict):
    start_s: float
    end_s: float
    emotion: str | None
    probs: dict[str, float]
    present: dict[str, bool]


class _Notice(TypedDict):
    code: str
    message: str


class Result(TypedDict):
    """The object of `python -m mmer analyse`."""

    clip: str
    sha256: str
    duration_s: float | None
    emotion: str | None
    abstain: bool
    probs: dict[str, float]
    present: dict[str, bool]
    per_modality: dict[str, Any]  # {probs, emotion} or null for each channel
    contribution: dict[str, float]
    transcript: _Transcript
    segments: list[_Segment]
    quality: list[_Notice]
    timing_ms: dict[str, float]
    checkpoint: str


class Reasons(TypedDict):
    """The object `explanation` of `python -m mmer analyse --explain`."""

    target: str
    against: str | None
    sentence: str
    start_s: float
    end_s: float
    logit: float
    baseline_logit: float
    modality: dict[str, float | None]
    alone: dict[str, str]
    words: list[dict[str, Any]]
    voice_bands: list[dict[str, Any]]
    voice_contours: dict[str, Any] | None
    face_regions: list[dict[str, Any]]
    face_moments: list[dict[str, Any]]
    trust: dict[str, dict[str, Any]]


class _Item(TypedDict):
    id: int  # of the loan: what `/label` is told
    item_id: int
    name: str
    kind: str  # video, audio, image or text
    media: str | None  # a data: URI
    note: str  # why there is no media
    start_s: float | None
    end_s: float | None
    transcript: str


class _Progress(TypedDict):
    done: int
    remaining: int
    gold_right: int
    gold_seen: int


class NextItem(TypedDict):
    item: _Item | None  # null: nothing is left for this annotator
    guidelines: str
    targets: list[str]
    labels: list[str]
    progress: _Progress


class Stored(TypedDict):
    label_ids: list[int]
    gold: dict[str, Any] | None
    progress: _Progress


class Exported(TypedDict):
    labels: list[dict[str, Any]]  # as a row of JSONL
    next: int | None  # what to ask for the labels after these with; null: these were the last


class _Checkpoint(TypedDict):
    id: str
    created_at: str
    parent: str | None
    metrics: dict[str, Any] | None
    problem: str  # why it cannot be read; empty where it can


class Versions(TypedDict):
    mmer: str
    checkpoint: str  # the one that answers
    checkpoints: list[_Checkpoint]
    emotions: list[str]
    modalities: list[str]
    database: str  # of its schema
    python: str
    torch: str
    gradio: str
