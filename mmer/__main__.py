"""The command line: `python -m mmer analyse CLIP...` prints one JSON object per clip."""

import argparse
import json
import logging
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from mmer.config import Paths
from mmer.errors import MmerError

_LOG = logging.getLogger("mmer")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmer", description="Multimodal emotion recognition.")
    commands = parser.add_subparsers(dest="command", required=True)
    analyse = commands.add_parser("analyse", help="say which emotion clips show, one JSON object per line")
    analyse.add_argument("clips", nargs="*", metavar="CLIP", help="video, sound or picture; may be missing with --text")
    analyse.add_argument("--text", help="what is said, instead of transcribing it")
    analyse.add_argument("--no-speech", action="store_true", help="do not transcribe")
    analyse.add_argument("--explain", action="store_true", help="add attributions and how far to trust them")
    analyse.add_argument("--denoise", action="store_true", help="reduce steady background noise first")
    analyse.add_argument("--out", type=Path, metavar="F.jsonl", help="also write the lines to this file")
    analyse.add_argument("--checkpoint", metavar="ID", help="use this checkpoint instead of the promoted one")
    return parser


def _analyse(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from mmer.predict import Predictor

    predictor = Predictor(Paths.from_env(), args.checkpoint)
    predictor.checkpoint  # noqa: B018  a missing checkpoint ends the run, not each clip
    failed = 0
    # A name that is not UTF-8 holds halves of characters: they are written as JSON escapes them.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    with ExitStack() as stack:
        outputs = [sys.stdout]
        if args.out:
            outputs.append(stack.enter_context(args.out.open("w", encoding="utf-8", errors="backslashreplace")))
        clips = [[c] for c in args.clips] or [[]]
        for files in tqdm(clips, unit="clip", file=sys.stderr, disable=not sys.stderr.isatty() or len(clips) < 2):
            line = _one(predictor, files, args)
            failed += "error" in line
            for output in outputs:
                print(json.dumps(line, ensure_ascii=False), file=output, flush=True)
    return 1 if failed else 0


def _one(predictor, files: list[str], args: argparse.Namespace) -> dict:
    clip = files[0] if files else "text"
    try:
        result = predictor.analyse(*files, name=clip, text=args.text, speech=not args.no_speech, denoise=args.denoise)
        line = result.to_dict()
        if args.explain:
            line["explanation"] = None
            if result.telling_segment is not None:
                from mmer.attribution import explain

                since = time.perf_counter()
                segment = result.telling_segment
                language = predictor.language if segment.features.words else None
                found = explain(predictor.checkpoint_of(result), segment.features, result.emotion, language)
                line["explanation"] = found.to_dict()
                line["timing_ms"]["explain"] = round((time.perf_counter() - since) * 1e3, 1)
                line["timing_ms"]["total"] = round(line["timing_ms"]["total"] + line["timing_ms"]["explain"], 1)
        return line
    except MmerError as error:
        return {"clip": clip, "error": {"code": error.code, "message": error.message}}
    except Exception as error:  # a bug of ours must not cost the other clips their answer
        _LOG.exception("analysing %s failed", clip)
        return {"clip": clip, "error": {"code": "internal", "message": f"{type(error).__name__}: {error}"}}


def main() -> int:
    parser = _parser()
    args = parser.parse_args()
    if not args.clips and not (args.text or "").strip():
        parser.error("give at least one CLIP, or --text")
    try:
        return _analyse(args)
    except MmerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
