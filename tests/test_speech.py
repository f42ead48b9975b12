"""Transcription through Whisper's real loader and decoder, with a checkpoint small enough to be made on the spot."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from mmer.speech import (
    Transcriber,
    Transcript,
    Word,
    _join_split_words,
    _of_one_language,
    _place,
    _windows,
    encoder_mel,
    run_encoder,
    typed,
)
from mmer.voice import Span, speech_spans
from tests import synth

RATE = 16_000
SENTENCE = "Ich bin heute so froh."


def dimensions(width: int = 32, n_layers: int = 1) -> dict[str, int]:
    """Return a Whisper small enough to be made on the spot; the vocabulary is the real one."""
    return {
        "n_mels": 80,
        "n_audio_ctx": 1500,
        "n_audio_state": width,
        "n_audio_head": 2,
        "n_audio_layer": n_layers,
        "n_vocab": 51865,
        "n_text_ctx": 32,
        "n_text_state": width,
        "n_text_head": 2,
        "n_text_layer": 1,
    }


def checkpoint(path: Path, says: str = SENTENCE, *, gain: float = 20.0, width: int = 32) -> Path:
    """Write a Whisper checkpoint in the official format that says one German sentence whatever it hears.

    Every block adds nothing, so what comes next depends on the position alone: its embedding is the next token's own,
    a thousand times. Attention is real and random, so the words get times.

    Args:
        gain: how sure it is of each token: 20 quite, 1 not at all.
        width: of the encoder's and the decoder's states.
    """
    from whisper.model import ModelDimensions, Whisper
    from whisper.tokenizer import get_tokenizer

    torch.manual_seed(0)
    dims = dimensions(width)
    tokenizer = get_tokenizer(True, language="de", task="transcribe")
    begin = tokenizer.timestamp_begin
    german = tokenizer.to_language_token("de")
    after = [german, tokenizer.transcribe, begin, *tokenizer.encode(" " + says), begin + 100, tokenizer.eot]
    state = Whisper(ModelDimensions(**dims)).state_dict()
    for name in state:
        if name.endswith(("attn.out.weight", "attn.out.bias", "mlp.2.weight", "mlp.2.bias")):
            state[name].zero_()
    tokens = torch.randn(dims["n_vocab"], dims["n_text_state"])
    tokens -= tokens.mean(1, keepdim=True)
    tokens /= tokens.norm(dim=1, keepdim=True)
    state["decoder.token_embedding.weight"] = tokens
    state["decoder.positional_embedding"] = 1000 * tokens[after + [tokenizer.eot] * (dims["n_text_ctx"] - len(after))]
    state["decoder.ln.weight"] = torch.full((dims["n_text_state"],), gain)
    torch.save({"dims": dims, "model_state_dict": state}, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """So small a model only loses time by splitting its work, minutes of it where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("whisper") / "tiny-german.pt")


@pytest.fixture(scope="module")
def transcriber(weights) -> Transcriber:
    return Transcriber(str(weights))


@pytest.fixture(scope="module")
def said() -> np.ndarray:
    """A voice from 1 to 3.5 s and another from 7 to 9 s."""
    pauses = [np.zeros(round(s * RATE), dtype=np.float32) for s in (1.0, 3.5, 1.0)]
    voices = [synth.voice(2.5, pause_s=0.0), synth.voice(2.0, pause_s=0.0, pitch_hz=200.0)]
    return np.concatenate([pauses[0], voices[0], pauses[1], voices[1], pauses[2]])


@pytest.fixture(scope="module")
def spans(said) -> list[Span]:
    return speech_spans(said)


def test_both_utterances_are_transcribed_with_word_times_inside_them(transcriber, said, spans):
    result = transcriber.transcribe(said, spans)
    assert (result.text, result.language, result.status, result.message) == (f"{SENTENCE} {SENTENCE}", "de", "ok", "")
    assert [w.text for w in result.words] == SENTENCE.split() * 2
    times = [t for w in result.words for t in (w.start_s, w.end_s)]
    assert times == sorted(times)
    assert len(spans) == 2
    for words, span in ((result.words[:5], spans[0]), (result.words[5:], spans[1])):
        assert all(span.start_s - 1e-3 <= w.start_s <= w.end_s <= span.end_s + 1e-3 for w in words)
        assert words[-1].end_s > words[0].start_s
    assert all(w.probability > 0.99 for w in result.words)


def depths_of(model, sound: np.ndarray) -> torch.Tensor:
    """Return (depths, T, width) as Whisper's own layers give them, one by one, on the sound and a second more."""
    import whisper
    from torch.nn.functional import gelu

    encoder = model.encoder
    with torch.no_grad():
        longer = np.concatenate([sound, np.zeros(RATE, dtype=np.float32)])
        mel = whisper.log_mel_spectrogram(longer, model.dims.n_mels)[None]
        x = gelu(encoder.conv2(gelu(encoder.conv1(mel)))).permute(0, 2, 1)
        states = [x + encoder.positional_embedding[: x.shape[1]]]
        for block in encoder.blocks:
            states.append(block(states[-1]))
    return torch.cat(states)[:, : -(-len(sound) // 320)]


@pytest.fixture(scope="module")
def random_whisper(tmp_path_factory) -> Transcriber:
    """A checkpoint whose blocks do something: two layers of random weights."""
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    dims = dimensions(n_layers=2)
    path = tmp_path_factory.mktemp("whisper") / "random.pt"
    torch.save({"dims": dims, "model_state_dict": Whisper(ModelDimensions(**dims)).state_dict()}, path)
    return Transcriber(str(path))


def test_encoder_states_are_means_and_deviations_over_the_utterance(random_whisper, said):
    sound = said[RATE : int(3.3 * RATE)]
    assert random_whisper.encoder_size() == (3, 32)
    states = depths_of(random_whisper._load(), sound)
    pooled = random_whisper.encode(sound)
    assert pooled.shape == (3, 64)
    torch.testing.assert_close(pooled[:, :32], states.mean(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pooled[:, 32:], states.std(1, correction=0), atol=1e-4, rtol=1e-4)


def test_on_half_a_minute_the_short_encoder_is_whispers_own(random_whisper, said):
    """The encoder run at an utterance's length is Whisper's, not a copy that has drifted."""
    model = random_whisper._load()
    mel = encoder_mel(model, np.resize(said, 29 * RATE))
    assert mel.shape[1] == 3000
    with torch.no_grad():
        own = model.encoder.ln_post(run_encoder(model, mel[None], 1500)[0, -1])
        torch.testing.assert_close(own, model.encoder(mel[None])[0], atol=1e-5, rtol=1e-5)


def test_speech_longer_than_one_pass_is_encoded_to_its_end(random_whisper, said):
    long = np.resize(said, 35 * RATE)
    parts = [depths_of(random_whisper._load(), x) for x in (long[: 29 * RATE], long[29 * RATE :])]
    torch.testing.assert_close(random_whisper.encode(long)[:, :32], torch.cat(parts, 1).mean(1), atol=1e-4, rtol=1e-4)


def test_nobody_speaking_gives_no_text_and_loads_nothing(tmp_path):
    transcriber = Transcriber(str(tmp_path / "not-there.pt"))
    result = transcriber.transcribe(np.zeros(5 * RATE, dtype=np.float32), [])
    assert (result.text, result.words, result.status) == ("", (), "no_speech")
    assert not transcriber.loaded


def test_the_model_is_loaded_by_the_first_speech_and_kept(weights, said, spans):
    transcriber = Transcriber(str(weights))
    assert not transcriber.loaded
    first = transcriber.transcribe(said, spans[:1])
    assert transcriber.loaded
    model = transcriber._model
    assert transcriber.transcribe(said, spans[:1]) == first
    assert transcriber._model is model


def test_words_said_over_and_over_are_marked_as_guesses(tmp_path, said, spans):
    loop = "ja ja ja ja ja ja ja ja ja ja ja ja"
    result = Transcriber(str(checkpoint(tmp_path / "loop.pt", loop))).transcribe(said, spans[:1])
    assert (result.text, result.status) == (loop, "low_confidence")
    assert result.message == "12 of 12 words are guesses: correct them before trusting the text"


def test_words_drawn_at_random_are_marked_and_draw_from_nobody_else(tmp_path, said, spans):
    transcriber = Transcriber(str(checkpoint(tmp_path / "babble.pt", gain=1.0)))
    result = transcriber.transcribe(said, spans[:1])
    state = torch.random.get_rng_state()  # loading makes a random model first
    assert transcriber.transcribe(said, spans[:1]) == result
    assert torch.equal(torch.random.get_rng_state(), state)
    assert result.status == "low_confidence"
    assert f"{len(result.words)} of {len(result.words)} words are guesses" in result.message


def test_two_threads_at_once_both_get_the_right_words(transcriber, said, spans):
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: transcriber.transcribe(said, spans)})) for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == transcriber.transcribe(said, spans)
    assert found[0].status == "ok"


def test_stopping_is_asked_before_every_window(transcriber, said, spans):
    answers = iter([False, True])
    result = transcriber.transcribe(said, spans, should_stop=lambda: next(answers))
    assert (result.text, result.status, result.message) == ("", "off", "transcription was stopped")


def test_weights_that_cannot_be_downloaded_are_said_once_and_remembered(offline, tmp_path, said, spans):
    transcriber = Transcriber("tiny", download_root=tmp_path)
    result = transcriber.transcribe(said, spans)
    assert (result.text, result.words, result.status) == ("", (), "unavailable")
    assert result.message.startswith(f"speech cannot be transcribed: {tmp_path / 'tiny.pt'} is missing and could not")
    assert "502" in result.message
    assert "put https://openaipublic.azureedge.net/main/whisper/models/65147644" in result.message
    assert result.message.endswith("; set MMER_WHISPER to a .pt file of Whisper, or type the sentence")
    assert "\n" not in result.message
    assert offline == ["openaipublic.azureedge.net:443"]
    assert transcriber.transcribe(said, spans) == result
    assert len(offline) == 1  # not asked again
    (tmp_path / "tiny.pt").write_bytes(b"half a file")
    assert "is damaged and could not be downloaded" in transcriber.transcribe(said, spans).message
    assert len(offline) == 2  # a changed file is looked at
    assert (tmp_path / "tiny.pt").read_bytes() == b"half a file"


def test_a_failure_is_forgotten_after_a_while(offline, tmp_path, said, spans):
    transcriber = Transcriber("tiny", download_root=tmp_path, retry_s=0.0)
    for _ in range(2):
        assert transcriber.transcribe(said, spans).status == "unavailable"
    assert len(offline) == 2


def test_a_name_that_is_no_model_is_answered_with_those_that_are(offline, tmp_path, said, spans):
    result = Transcriber("enormous", download_root=tmp_path).transcribe(said, spans)
    assert result.status == "unavailable"
    assert "enormous is neither a file nor one of tiny.en, tiny, base.en, base" in result.message
    assert offline == []


@pytest.mark.parametrize("damage", ["truncated", "text", "other", "shapes"])
def test_a_damaged_file_is_named_and_a_good_one_in_its_place_works_at_once(tmp_path, weights, said, spans, damage):
    path = tmp_path / "mine.pt"
    good = weights.read_bytes()
    if damage == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif damage == "text":
        path.write_text("not a checkpoint")
    else:
        content = torch.load(weights)
        content["model_state_dict" if damage == "shapes" else "dims"] = {}
        torch.save(content, path)
    transcriber = Transcriber(str(path))
    result = transcriber.transcribe(said, spans)
    assert result.status == "unavailable"
    assert f"{path} cannot be loaded (" in result.message
    assert "\n" not in result.message
    path.write_bytes(good)
    assert transcriber.transcribe(said, spans[:1]).text == SENTENCE


def test_a_typed_sentence_has_words_but_no_times():
    assert typed("  I am \n so happy ") == Transcript(
        "I am so happy", None, (), "typed", "typed by hand, so there are no word times"
    )


def test_windows_divide_at_long_pauses_and_at_the_longest_of_a_full_half_minute():
    near, far = [Span(0.0, 5.0), Span(6.0, 9.0)], [Span(11.5, 12.0)]
    assert list(_windows(near + far)) == [near, far]
    # 40 s of five-second sentences with pauses of 0.2 s; the one at 20 s lasts 0.9 s.
    run = [Span(5.0 * i + (0.7 if i == 4 else 0.0), 5.0 * i + 4.8) for i in range(8)]
    assert list(_windows(run)) == [run[:4], run[4:]]
    assert list(_windows([Span(0.0, 50.0), Span(50.1, 52.0)])) == [[Span(0.0, 50.0)], [Span(50.1, 52.0)]]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.1, 0.9, (2.1, 2.9)),  # inside: only moved by the window's start
        (0.8, 1.6, (2.8, 3.0)),  # reaches into the pause after its span
        (1.2, 2.5, (4.0, 4.5)),  # the pause before it counted in
        (1.1, 1.15, (3.0, 3.0)),  # a consonant voice activity cut off
        (1.35, 1.65, None),  # said where nobody spoke
    ],
)
def test_words_are_placed_in_the_speech_they_overlap_or_dropped(start, end, expected):
    raw = {"word": " so", "start": start, "end": end, "probability": 0.5}
    word = _place(raw, 2.0, [Span(2.0, 3.0), Span(4.0, 5.0)], 0.0)
    assert word == (expected and Word("so", *expected, 0.5))


def test_a_word_that_whisper_divided_at_its_hyphen_is_one():
    parts = [(" a", 0.0, 0.2), (" self", 0.2, 0.6), ("-starter", 0.6, 1.2), (" who", 1.3, 1.5), ("'s", 1.5, 1.6)]
    raw = [{"word": word, "start": start, "end": end, "probability": 0.5} for word, start, end in parts]
    joined = [(w["word"], w["start"], w["end"], w["probability"]) for w in _join_split_words(raw, "en")]
    assert joined == [(" a", 0.0, 0.2, 0.5), (" self-starter", 0.2, 1.2, 0.5), (" who's", 1.3, 1.6, 0.5)]
    assert len(list(_join_split_words([{**w, "word": w["word"].strip()} for w in raw], "ja"))) == 5


def test_words_never_overlap():
    raw = {"word": " so", "start": 0.0, "end": 0.3, "probability": 0.5}
    assert _place(raw, 0.0, [Span(0.0, 1.0)], 0.5) == Word("so", 0.5, 0.5, 0.5)


def test_several_languages_in_one_window_came_out_as_one():
    """German and Polish between English sentences were decoded as English; the figures are Whisper base's."""
    spans = [Span(0.1, 1.8), Span(2.6, 3.9), Span(4.5, 6.4), Span(6.5, 6.7), Span(7.0, 9.2), Span(9.4, 11.0)]
    told = [
        {"en": 0.98, "de": 0.0, "pl": 0.0},
        {"en": 0.06, "de": 0.63, "pl": 0.0},
        {"en": 0.99, "de": 0.0, "pl": 0.0},
        {},  # too short
        {"en": 0.0, "de": 0.0, "pl": 0.97},
        {"en": 0.4, "de": 0.1, "pl": 0.3},  # not unlikely enough
    ]
    parts = _of_one_language(spans, told)
    assert [(p.spans, p.language, p.is_sure) for p in parts] == [
        (spans[:1], "en", True),
        (spans[1:2], "de", False),
        (spans[2:4], "en", True),
        (spans[4:5], "pl", True),
        (spans[5:], "en", True),
    ]
    alike = _of_one_language(spans[:2], [{"en": 0.98}, {"en": 0.7}])
    assert [(p.spans, p.language) for p in alike] == [(spans[:2], None)]  # the longest window decides, as ever
    assert [p.spans for p in _of_one_language(spans[:1], [])] == [spans[:1]]


def encoder_passes(transcriber: Transcriber, said: np.ndarray, spans: list[Span]) -> tuple[Transcript, list[int]]:
    """Return a transcript and how many states each run of the encoder gave for it."""
    lengths: list[int] = []
    handle = transcriber._load().encoder.blocks[-1].register_forward_hook(lambda _, __, x: lengths.append(x.shape[1]))
    try:
        return transcriber.transcribe(said, spans), lengths
    finally:
        handle.remove()


def test_half_a_minute_is_encoded_once_for_a_window(weights, said, spans):
    """It was three times: for the language, for the words and for their times."""
    _, lengths = encoder_passes(Transcriber(str(weights), pad_s=None), said, spans)
    assert [n for n in lengths if n == 1500] == [1500, 1500]  # two windows
    assert all(n < 300 for n in lengths if n != 1500)  # the language, of the utterance alone


def test_a_shorter_try_gives_the_same_words_and_no_half_minute(weights, transcriber, said, spans):
    short, lengths = encoder_passes(transcriber, said, spans)
    assert max(lengths) < 400
    whole = Transcriber(str(weights), pad_s=None).transcribe(said, spans)
    assert [w.text for w in short.words] == [w.text for w in whole.words]
    times = [t for w in short.words for t in (w.start_s, w.end_s)]
    assert times == sorted(times)


def test_a_shorter_try_that_repeats_itself_is_not_believed(tmp_path, said, spans):
    """A window cut close makes Whisper say a word without end; then it hears the half minute."""
    weights = checkpoint(tmp_path / "again.pt", "so so so so so so so so so so so so so so so so so so so so")
    _, lengths = encoder_passes(Transcriber(str(weights)), said, spans)
    assert 1500 in lengths


def test_whispers_encoder_is_its_own_again_after_a_transcription(transcriber, said, spans):
    transcriber.transcribe(said, spans)
    assert "forward" not in vars(transcriber._load().encoder)
