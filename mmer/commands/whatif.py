"""`python -m mmer whatif`: an utterance of a clip changed and judged again, one JSON object."""

import argparse
import json
from typing import Any

from mmer.commands.answers import any_name_prints
from mmer.config import Paths
from mmer.errors import MmerError
from mmer.labels import MODALITIES


def add(commands) -> None:
    about = "judge a clip again with the voice muted, the face hidden, a word dropped, noise and more"
    whatif = commands.add_parser("whatif", help=about, description=about)
    whatif.add_argument("clip", nargs="?", metavar="CLIP", help="video, sound or picture; may be missing with --text")
    whatif.add_argument("--text", help="what is said, instead of transcribing it")
    whatif.add_argument("--no-speech", action="store_true", help="do not transcribe")
    whatif.add_argument("--utterance", type=int, metavar="I", help="which one, from 1; default: the one that decided")
    whatif.add_argument("--mute", action="store_true", help="as --hide voice")
    whatif.add_argument("--hide", action="append", default=[], choices=MODALITIES, help="leave a channel out")
    whatif.add_argument("--blur", type=float, metavar="PIXELS", help="blur the face, in pixels of its 48-pixel crop")
    whatif.add_argument("--drop-word", type=int, action="append", default=[], metavar="N", help="the N-th, from 1")
    whatif.add_argument(
        "--replace-word", nargs=2, action="append", default=[], metavar=("N", "WORD"), help="say WORD for the N-th"
    )
    whatif.add_argument("--noise", type=float, metavar="DB", help="white noise, the voice DB above it")
    whatif.add_argument("--rate", type=float, metavar="X", help="the voice X times as fast, at the same pitch")
    whatif.add_argument("--cut", type=float, nargs=2, metavar=("START", "END"), help="cut a stretch out, in seconds")
    whatif.add_argument("--search", action="store_true", help="also look for the smallest change that turns the answer")
    whatif.add_argument("--checkpoint", metavar="ID", help="use this checkpoint instead of the promoted one")
    whatif.set_defaults(run=run, parser=whatif)


def run(args: argparse.Namespace) -> int:
    """Print before and after; 1 where the clip cannot be read or changed so."""
    if not args.clip and not (args.text or "").strip():
        args.parser.error("give a CLIP, or --text")
    numbers = [n for n, _ in args.replace_word if not n.isdecimal()]
    if numbers:
        args.parser.error(f"--replace-word takes the number of a word and a word; {numbers[0]!r} is no number")
    asked = (args.cut, args.rate, args.noise, args.blur, *args.replace_word, *args.drop_word, *args.hide)
    if not (args.mute or args.search or any(value is not None for value in asked)):
        args.parser.error("whatif asks for at least one change, or --search")
    try:
        found = _found(args)
    except MmerError as error:
        print(json.dumps({"clip": args.clip or "text", "error": {"code": error.code, "message": error.message}}))
        return 1
    any_name_prints()
    print(json.dumps(found, ensure_ascii=False))
    return 0


def _found(args: argparse.Namespace) -> dict[str, Any]:
    from mmer.counterfactual import smallest_turn
    from mmer.predict import Predictor
    from mmer.whatif import Changes, chosen, what_if

    changes = Changes(
        cut_s=None if args.cut is None else (args.cut[0], args.cut[1]),
        rate=args.rate,
        noise_db=args.noise,
        blur=args.blur,
        replace_words=tuple((int(n), word) for n, word in args.replace_word),
        drop_words=tuple(args.drop_word),
        hide=tuple(dict.fromkeys([*args.hide, *(["voice"] if args.mute else [])])),
    )
    predictor = Predictor(Paths.from_env(), args.checkpoint)
    files = [args.clip] if args.clip else []
    result = predictor.analyse(*files, name=args.clip or "text", text=args.text, speech=not args.no_speech)
    found: dict[str, Any] = {"clip": result.clip, "sha256": result.sha256, "checkpoint": result.checkpoint}
    if changes:
        found |= what_if(predictor, result, changes, args.utterance).to_dict()
    if args.search:
        features = chosen(result, args.utterance).features
        loaded = predictor.checkpoint_of(result)
        language = predictor.language_if_words(loaded, features)
        turn = smallest_turn(loaded, features, language, predictor.transcriber)
        found["turn"] = None if turn is None else turn.to_dict()
    return found
