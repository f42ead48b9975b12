"""Speech to words with times, by Whisper: only where somebody speaks, and nothing invented elsewhere.

https://arxiv.org/abs/2212.04356
"""

import logging
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import gelu

from mmer.assets import Asset, Part, obtain
from mmer.config import SAMPLE_RATE, Paths
from mmer.errors import AssetError, ClipError

WINDOW_S = 29.0  # Whisper hears 30 s at once, and a window is half a second longer than its speech at most
MAX_PAUSE_S = 2.0  # a longer pause ends a window: Whisper fills long silence with words nobody said
MARGIN_S = 0.2  # heard around a window: voice activity cuts consonants
ENCODER_S = 30  # the longest that the encoder hears in one pass
CLEAR_S, CLEAR_MOST_S = 1.0, 10  # from which length and within which a span's language can be told
UNLIKELY, SURE = 0.1, 0.8  # a span in which its window's language is less likely is in another, which is named if sure
UNKNOWN_LANGUAGE = "und"  # ISO 639-2
_WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")  # languages that Whisper divides by characters
FRAME = 320  # samples in one of its states: 20 ms
NEAR_S = 0.3  # a word further than this from speech was not said; more than the margin, whose edge words can touch

# Whisper's own defaults, https://arxiv.org/abs/2212.04356: text beyond these limits is tried again at the next
# temperature; what stays beyond them is a guess and is marked. No trained weights were at hand to choose better ones.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MIN_LOGPROB = -1.0
MAX_COMPRESSION = 2.4
MAX_NO_SPEECH = 0.6
# Tokens a second and tokens more that speech can hold: a first try that reaches them repeats itself.
TOKENS_A_SECOND, TOKENS_MORE = 12, 16
PAD_S: float | None = 4.0  # silence after the words in a first, shorter try; None: the half minute at once

# Decoding hangs hooks on the model, and numba's thread pool under the word times aborts the process when two threads
# enter it without an OpenMP library: one decoding at a time in the whole process.
_decoding, _next = threading.Lock(), threading.Lock()
_log = logging.getLogger(__name__)


@contextmanager
def _turn() -> Iterator[None]:
    """Decode alone; who has waited goes before who comes again, which a lock by itself does not see to."""
    with _next:
        _decoding.acquire()
    try:
        yield
    finally:
        _decoding.release()


@dataclass(frozen=True)
class Word:
    text: str
    start_s: float
    end_s: float
    probability: float
    language: str | None = None  # as a transcript's; None: that one


@dataclass(frozen=True)
class Transcript:
    """What was said, and how far to trust it."""

    text: str
    language: str | None  # of most words: Whisper's code, "en"; "und" for another one; None when nobody detected any
    words: tuple[Word, ...]  # in order, without overlap
    status: str  # ok | low_confidence | no_speech | typed | off | unavailable
    message: str = ""  # why, in one line, when not ok

    def words_in(self, start_s: float, end_s: float) -> tuple[Word, ...]:
        """Return the words of a stretch: those whose middle lies in it."""
        return tuple(w for w in self.words if start_s <= (w.start_s + w.end_s) / 2 < end_s)


@dataclass(frozen=True)
class Heard:
    """What Whisper's encoder reads of an utterance in one pass."""

    mel: torch.Tensor  # (bands, T) log-mel, 10 ms a frame; a second of silence at its end
    n_frames: int  # of the encoder's states that are of the utterance, 20 ms each


@dataclass
class _Window:
    """What Whisper hears at once."""

    spans: list
    language: str | None = None  # to decode it in; None: the longest window's
    is_sure: bool = True  # false where it is another language, but it stays open which


OFF = Transcript("", None, (), "off", "transcription was switched off")


def check_words(text: str) -> str:
    """Return words as they are.

    Raises:
        ClipError: `bad_text` for half a character (a lone surrogate), which no encoding and no tokenizer takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"the words hold half a character ({text[error.start]!a} at {error.start + 1}); type them again"
        raise ClipError("bad_text", message) from None
    return text


def typed(text: str) -> Transcript:
    """Return a sentence the user typed as a transcript without times."""
    return Transcript(
        " ".join(check_words(text).split()), None, (), "typed", "typed by hand, so there are no word times"
    )


class Transcriber:
    """Whisper, loaded when the first speech arrives.

    Args:
        model: an official name, or a .pt file in Whisper's format.
        device: cpu | cuda; half precision on cuda.
        download_root: where official weights lie or go; `<assets>/whisper` when None.
        retry_s: weights that could not be had are asked for again after this; a file that changed, at once.
        pad_s: how much silence follows the words in a first, shorter try; None: the half minute at once.
    """

    def __init__(
        self,
        model: str = "base",
        device: str = "cpu",
        download_root: Path | None = None,
        retry_s: float = 300.0,
        pad_s: float | None = PAD_S,
    ):
        self.model_name = str(model)
        self.device = device
        self.download_root = Path(download_root or Paths.from_env().assets / "whisper")
        self.retry_s, self.pad_s = retry_s, pad_s
        self._model = None
        self._loading = threading.Lock()
        self._failure: tuple[float, tuple | None, tuple[str, str]] | None = None  # when, the file then, what was said

    @property
    def loaded(self) -> bool:
        return self._model is not None

    def load(self) -> None:
        """Load the weights now; otherwise the first use does.

        Raises:
            AssetError: the weights cannot be had.
        """
        self._load()

    def transcribe(
        self,
        samples: np.ndarray,
        spans: Sequence,
        should_stop: Callable[[], bool] | None = None,
    ) -> Transcript:
        """Return what is said in `spans`; weights that cannot be had give the status `unavailable`, not an error.

        Args:
            samples: (L,) mono at 16 kHz, in [-1, 1].
            spans: in order, each with `start_s` and `end_s`, as `voice.speech_spans` returns them.
            should_stop: asked before every window; True gives the status `off`.
        """
        if not spans:
            return Transcript("", None, (), "no_speech", "nobody was heard speaking")
        try:
            model = self._load()
            return self._decode(model, np.asarray(samples, dtype=np.float32), spans, should_stop)
        except AssetError as error:
            return Transcript("", None, (), "unavailable", error.message)
        except torch.OutOfMemoryError:
            return Transcript("", None, (), "unavailable", self._too_large())

    def _decode(self, model, samples: np.ndarray, spans: Sequence, should_stop) -> Transcript:
        # The longest window decides the language of those that do not tell: a lone "ja" is too short.
        windows = []
        for spoken in _windows(spans):
            several = len(spoken) > 1 and model.is_multilingual
            with _turn():
                told = [_languages(model, samples, s) for s in spoken] if several else []
            windows += _of_one_language(spoken, told)
        windows.sort(key=lambda part: part.spans[0].start_s - part.spans[-1].end_s)
        usual, found = None, []
        for part in windows:
            window = part.spans
            if should_stop is not None and should_stop():
                return Transcript("", None, (), "off", "transcription was stopped")
            start = max(int((window[0].start_s - MARGIN_S) * SAMPLE_RATE), 0)
            sound = samples[start : int((window[-1].end_s + MARGIN_S) * SAMPLE_RATE)]
            with _turn():  # a short clip beside a long one waits for one of its windows, not for all of them
                language = part.language or usual or _language(model, samples, window)
                result = self._read_words(model, sound, language)
            usual = usual or result["language"]
            language = result["language"] if part.is_sure else UNKNOWN_LANGUAGE
            found.append((start / SAMPLE_RATE, part, language, result["segments"]))
        pieces: list[str] = []
        words: list[Word] = []
        n_guessed = 0
        for start_s, part, language, segments in sorted(found, key=lambda item: item[0]):
            for segment in segments:
                guessed = (
                    segment["avg_logprob"] < MIN_LOGPROB
                    or segment["compression_ratio"] > MAX_COMPRESSION
                    or segment["no_speech_prob"] > MAX_NO_SPEECH
                )
                for raw in _join_split_words(segment["words"], language):
                    after = words[-1].end_s if words else 0.0
                    if word := _place(raw, start_s, part.spans, after):
                        pieces.append(raw["word"])
                        words.append(replace(word, language=language))
                        n_guessed += guessed
        text = " ".join("".join(pieces).split())
        if not text:
            return Transcript("", None, (), "no_speech", "a voice was heard, but no words were understood")
        language = Counter(word.language for word in words).most_common(1)[0][0]
        if n_guessed * 2 >= len(words):
            message = f"{n_guessed} of {len(words)} words are guesses: correct them before trusting the text"
            return Transcript(text, language, tuple(words), "low_confidence", message)
        return Transcript(text, language, tuple(words), "ok")

    def _read_words(self, model, sound: np.ndarray, language: str | None) -> dict:
        """Return what Whisper makes of a sound (L,): shorter than half a minute first, where that can be believed."""
        cuda = [model.device] if model.device.type == "cuda" else []
        options = {
            "language": language,
            "fp16": bool(cuda),
            "word_timestamps": True,
            "condition_on_previous_text": False,  # one invented sentence would go on inventing
        }
        seconds = len(sound) / SAMPLE_RATE
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(0)  # higher temperatures draw: the same clip gives the same words
            if self.pad_s is not None and seconds + self.pad_s < ENCODER_S:
                most = min(int(seconds * TOKENS_A_SECOND) + TOKENS_MORE, model.dims.n_text_ctx // 2)
                with _encoding_once(model, round((seconds + self.pad_s) * SAMPLE_RATE / FRAME)):
                    result = model.transcribe(sound, temperature=0.0, sample_len=most, **options)
                if _is_clear(result["segments"], most):
                    return result
            with _encoding_once(model):
                return model.transcribe(sound, temperature=TEMPERATURES, **options)

    def encoder_size(self) -> tuple[int, int]:
        """Return how many depths the encoder has, its input and each layer, and how wide its states are.

        Raises:
            AssetError: the weights cannot be had.
        """
        dims = self._load().dims
        return dims.n_audio_layer + 1, dims.n_audio_state

    def encode(self, samples: np.ndarray) -> torch.Tensor:
        """Return the mean and the deviation over time of the encoder's states at each depth, (depths, 2 * width).

        Args:
            samples: (L,) one utterance, mono at 16 kHz, in [-1, 1].

        Raises:
            AssetError: the weights cannot be had.
        """
        return self.encode_heard(self.hear(samples))

    def hear(self, samples: np.ndarray) -> tuple[Heard, ...]:
        """Return what the encoder reads of an utterance, in more than one pass when it is longer than half a minute.

        Args:
            samples: (L,) one utterance, mono at 16 kHz, in [-1, 1].

        Raises:
            AssetError: the weights cannot be had.
        """
        model = self._load()
        samples = np.asarray(samples, dtype=np.float32)
        step = (ENCODER_S - 1) * SAMPLE_RATE
        pieces = [samples[i : i + step] for i in range(0, max(len(samples), 1), step)]
        return tuple(Heard(encoder_mel(model, x).cpu(), max(-(-len(x) // FRAME), 1)) for x in pieces)

    def encode_heard(self, heard: Sequence[Heard]) -> torch.Tensor:
        """As `encode`, of what `hear` returned."""
        with torch.inference_mode():
            pooled = self.pooled_states([h.mel[None] for h in heard], [h.n_frames for h in heard])[0]
        return pooled.cpu().clone()  # outside inference mode, so that it can be part of a graph

    def pooled_states(self, mels: Sequence[torch.Tensor], n_frames: Sequence[int]) -> torch.Tensor:
        """Return the means and deviations over time (B, depths, 2 * width) of the encoder's states.

        The encoder runs over the utterance and a second of silence instead of the half minute that transcription pads
        to: a tenth of the time, and better for emotion. Only frames of the utterance are pooled.

        Args:
            mels: (B, bands, T) of each pass.
            n_frames: of each pass, those of the utterance.

        Raises:
            AssetError: the weights cannot be had.
        """
        model = self._load()
        pieces = [run_encoder(model, mel.to(model.device), n) for mel, n in zip(mels, n_frames, strict=True)]
        states = torch.cat(pieces, 2).float()  # (B, depths, T, width)
        return torch.cat([states.mean(2), states.std(2, correction=0)], -1)

    def _load(self):
        """Return the model, loading it once.

        Raises:
            AssetError: `asset_missing`, `asset_damaged` or `asset_too_large`.
        """
        with self._loading:
            if self._model is not None:
                return self._model
            if self._failure is not None:
                when, state, failed = self._failure
                if time.monotonic() - when < self.retry_s and state == _state(self.file):
                    raise AssetError(*failed)
            try:
                self._model = self._read()
            except AssetError as error:
                self._failure = time.monotonic(), _state(self.file), (error.code, error.message)
                raise
            return self._model

    @property
    def url(self) -> str | None:
        """Where official weights are fetched from; None of a file of one's own."""
        from whisper import _MODELS

        return _MODELS.get(self.model_name)

    @property
    def file(self) -> Path:
        """The file that the weights are read from."""
        url = self.url
        return self.download_root / url.rsplit("/", 1)[1] if url else Path(self.model_name).expanduser()

    def _read(self):
        import whisper  # 1 s, and 4 s more for numba to compile the word times at the first decoding

        url, file = self.url, self.file
        if url:
            self._fetch(url, file)
        elif not file.is_file():
            known = ", ".join(whisper.available_models())
            raise self._error("asset_missing", f"{file} is neither a file nor one of {known}")
        try:
            model = whisper.load_model(self.model_name if url else str(file), self.device, str(self.download_root))
        except torch.OutOfMemoryError as error:
            raise AssetError("asset_too_large", self._too_large()) from error
        except Exception as error:  # a file that is not what it claims fails in as many ways as there are files
            _log.warning("Whisper weights cannot be loaded from %s", file, exc_info=True)
            reason = str(error).strip().split("\n")[0][:120]
            raise self._error("asset_damaged", f"{file} cannot be loaded ({reason})") from error
        return model.eval().requires_grad_(False)

    def _fetch(self, url: str, file: Path) -> None:
        """Put official weights in place: Whisper's own downloader has no time-out, does not resume and leaves half a
        file behind, so `assets` does it; Whisper's loader then finds the file and checks its sha256 again."""
        sha256 = url.split("/")[-2]
        paths = Paths(assets=self.download_root)

        def pinned(size_bytes: int) -> Asset:
            return Asset(f"whisper-{self.model_name}", file.name, (Part(file.name, sha256, size_bytes),), url=url)

        problem = "is missing"
        if file.is_file():
            try:
                obtain(pinned(file.stat().st_size), paths, download=False)
                return
            except AssetError:
                problem = "is damaged"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10) as reply:
                size_bytes = int(reply.headers["Content-Length"])
            obtain(pinned(size_bytes), paths)
        except (OSError, TypeError, AssetError) as error:  # TypeError: no Content-Length
            why = error.__cause__ or error
            reason = str(getattr(why, "reason", why)).split("\n")[0]
            raise self._error(
                "asset_missing", f"{file} {problem} and could not be downloaded ({reason}); put {url} there"
            ) from error

    def _too_large(self) -> str:
        found = f"Whisper {self.model_name} does not fit into the memory of {self.device}"
        return f"{found}; set MMER_WHISPER=tiny, or type the sentence"

    def _error(self, code: str, found: str) -> AssetError:
        hint = "set MMER_WHISPER to a .pt file of Whisper, or type the sentence"
        return AssetError(code, f"speech cannot be transcribed: {found}; {hint}")


def encoder_mel(model, samples: np.ndarray) -> torch.Tensor:
    """Return the log-mel (bands, frames) that Whisper's encoder reads of an utterance and a second of silence."""
    import whisper

    sound = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
    return whisper.log_mel_spectrogram(sound, model.dims.n_mels, padding=SAMPLE_RATE, device=model.device)


def encoder_power(mel: torch.Tensor) -> torch.Tensor:
    """Return the power in each band and frame that a log-mel of Whisper's encoder was made of."""
    return 10 ** (4 * mel - 4)


def encoder_mel_of_power(power: torch.Tensor) -> torch.Tensor:
    """Return what Whisper's encoder reads of a power (bands, T): its logarithm, cut off 80 dB below the loudest."""
    log = power.clamp_min(1e-10).log10()
    return (torch.maximum(log, log.max() - 8) + 4) / 4


def run_encoder(model, mel: torch.Tensor, n_frames: int) -> torch.Tensor:
    """Return the states (B, depths, n_frames, width) of Whisper's encoder on log-mels (B, bands, T) shorter than half a
    minute.

    `AudioEncoder.forward` accepts half a minute only; its positions are those of the first frames here.
    """
    encoder = model.encoder
    x = gelu(encoder.conv1(mel.to(encoder.conv1.weight.dtype)))
    x = gelu(encoder.conv2(x)).permute(0, 2, 1)  # (B, T, width)
    x = (x + encoder.positional_embedding[: x.shape[1]]).to(x.dtype)
    states = [x]
    for block in encoder.blocks:
        states.append(block(states[-1]))
    return torch.stack(states, 1)[:, :, :n_frames]


@contextmanager
def _encoding_once(model, n_frames: int | None = None) -> Iterator[None]:
    """Let Whisper's encoder read a half minute once, however often the decoder asks for it.

    It asks for each temperature and once more for the words' times.

    Args:
        n_frames: of its states that are computed, from the start; None: all.
    """
    encoder = model.encoder
    whole = encoder.forward
    kept: list[torch.Tensor] = []

    def forward(mel: torch.Tensor) -> torch.Tensor:
        if not kept or not torch.equal(kept[0], mel):
            if n_frames is None:
                states = whole(mel)
            else:
                states = encoder.ln_post(run_encoder(model, mel[..., : 2 * n_frames], n_frames)[:, -1])
            kept[:] = mel, states
        return kept[1]

    encoder.forward = forward
    try:
        yield
    finally:
        del encoder.forward  # the class' own again


def _is_clear(segments: Sequence[dict], most: int) -> bool:
    """Return whether words are within Whisper's own limits, and fewer tokens than `most`."""
    sure = all(s["avg_logprob"] >= MIN_LOGPROB and s["compression_ratio"] <= MAX_COMPRESSION for s in segments)
    return bool(segments) and sure and sum(len(s["tokens"]) for s in segments) < most


def _state(file: Path) -> tuple | None:
    return (file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else None


def _windows(spans: Sequence) -> Iterator[list]:
    """Yield runs of spans Whisper can hear at once, divided at long pauses, else at the longest of the later half."""
    rest = list(spans)

    def pause_s(i: int) -> float:
        return rest[i].start_s - rest[i - 1].end_s

    while rest:
        n = 1
        while n < len(rest) and pause_s(n) <= MAX_PAUSE_S and rest[n].end_s - rest[0].start_s <= WINDOW_S:
            n += 1
        if n < len(rest) and pause_s(n) <= MAX_PAUSE_S:
            n = max(range((n + 1) // 2, n + 1), key=pause_s)
        yield rest[:n]
        rest = rest[n:]


def _of_one_language(window: list, told: Sequence[dict[str, float]]) -> list[_Window]:
    """Divide a window where another language is spoken.

    Whisper hears one language in a window and turns the others into nonsense. A span in which the surest language of
    the window is unlikely is taken for another, even if it stays open which.

    Args:
        told: of each span how likely each language is; nothing where it is too short to tell.
    """
    best = [max(found.items(), key=lambda item: item[1]) for found in told if found]
    if not best:
        return [_Window(window)]
    surest = max(best, key=lambda item: item[1])[0]
    parts: list[_Window] = []
    for span, found in zip(window, told, strict=True):
        other = bool(found) and found[surest] < UNLIKELY
        spoken = max(found, key=found.__getitem__) if other else surest
        if parts and (not found or parts[-1].language == spoken):
            parts[-1].spans.append(span)
        else:
            parts.append(_Window([span], spoken, not other or found[spoken] >= SURE))
    return parts if len(parts) > 1 else [_Window(window)]


def _languages(model, samples: np.ndarray, span) -> dict[str, float]:
    """Return how likely each language is in a span, nothing where it is too short to tell.

    The encoder's states of the utterance alone tell it as those of half a minute do: tried on RAVDESS, EMO-DB, nEMO.
    """
    from whisper.tokenizer import get_tokenizer

    if span.end_s - span.start_s < CLEAR_S:
        return {}
    sound = samples[int(span.start_s * SAMPLE_RATE) : int(span.end_s * SAMPLE_RATE)][: CLEAR_MOST_S * SAMPLE_RATE]
    known = get_tokenizer(model.is_multilingual, num_languages=model.num_languages)
    with torch.inference_mode():
        mel = encoder_mel(model, sound)[None]
        states = model.encoder.ln_post(run_encoder(model, mel, mel.shape[2])[:, -1])
        logits = model.decoder(torch.tensor([[known.sot]], device=states.device), states)[0, 0].float()
    probs = logits[list(known.all_language_tokens)].softmax(-1).tolist()
    return dict(zip(known.all_language_codes, probs, strict=True))


def _language(model, samples: np.ndarray, window: Sequence) -> str | None:
    """Return the language of a window's longest span; None where it is too short, so that Whisper tells it itself."""
    if not model.is_multilingual:
        return None
    told = _languages(model, samples, max(window, key=lambda span: span.end_s - span.start_s))
    return max(told, key=told.__getitem__) if told else None


def _join_split_words(words: Iterable[dict], language: str | None) -> Iterator[dict]:
    """Yield Whisper's words, joined again where it divided one at a mark inside it, as " self" and "-starter"."""
    if language in _WITHOUT_SPACES:
        yield from words
        return
    whole: dict | None = None
    for part in words:
        if whole and not part["word"].startswith(" "):
            n = (len(whole["word"].strip()), len(part["word"].strip()))
            probability = float(np.average([whole["probability"], part["probability"]], weights=n))
            whole = {**whole, "word": whole["word"] + part["word"], "end": part["end"], "probability": probability}
            continue
        if whole:
            yield whole
        whole = part
    if whole:
        yield whole


def _place(raw: dict, offset_s: float, window: Sequence, after_s: float) -> Word | None:
    """Return a word inside the span it overlaps most, not before `after_s`; None for one said where nobody spoke.

    Whisper's times come from attention and reach into the pauses around a word.
    """
    start_s, end_s = offset_s + float(raw["start"]), offset_s + float(raw["end"])

    def overlap_s(span) -> float:
        return min(end_s, span.end_s) - max(start_s, span.start_s)

    span = max(window, key=overlap_s)
    if overlap_s(span) < -NEAR_S:
        return None
    start_s = max(min(max(start_s, span.start_s), span.end_s), after_s)
    end_s = max(min(end_s, span.end_s), start_s)
    return Word(raw["word"].strip(), round(start_s, 3), round(end_s, 3), float(raw["probability"]))
