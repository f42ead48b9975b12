"""`python -m mmer analyse`: one JSON object for each clip."""

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from mmer.commands import tasks
from mmer.commands.answers import Options, answer, any_name_prints, predictor_of
from mmer.config import Paths
from mmer.labels import EMOTIONS


def add(commands) -> None:
    analyse = commands.add_parser("analyse", help="say which emotion clips show, one JSON object per line")
    analyse.add_argument(
        "clips",
        nargs="*",
        metavar="CLIP",
        help="video, sound or picture; may be missing with --text. Or, alone and with --out, a folder of them, a "
        "manifest.csv, or - for names on standard input",
    )
    analyse.add_argument("--text", help="what is said, instead of transcribing it")
    analyse.add_argument("--no-speech", action="store_true", help="do not transcribe")
    analyse.add_argument(
        "--explain",
        nargs="?",
        const="",
        metavar="EMOTION[:OTHER]",
        help="add attributions and how far to trust them: of the answer, of EMOTION, or why it rather than OTHER",
    )
    analyse.add_argument("--denoise", action="store_true", help="reduce steady background noise first")
    analyse.add_argument("--out", type=Path, metavar="F.jsonl", help="also write the lines to this file")
    analyse.add_argument("--checkpoint", metavar="ID", help="use this checkpoint instead of the promoted one")
    many = analyse.add_argument_group(
        "many clips", "a folder, a manifest or -; --out R.jsonl or R.parquet, where a run that was stopped goes on"
    )
    many.add_argument(
        "--workers", type=_count, metavar="N", help="processes, or Ray actors (default: one a core, up to 4)"
    )
    many.add_argument(
        "--batch", type=_count, default=1, metavar="N", help="clips handed to a worker at once (default 1)"
    )
    many.add_argument(
        "--engine", choices=("processes", "ray"), default="processes", help="of this machine, or a cluster's"
    )
    many.add_argument("--address", metavar="HOST:PORT", help="of the Ray cluster (default: one started here)")
    analyse.set_defaults(run=run, parser=analyse)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def asked_emotions(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return the emotion to explain and the one to hold it against, None where none is named.

    What follows --explain and looks like a file is the first clip: the option takes an emotion or nothing.
    """
    if args.explain:
        target, *other = args.explain.split(":")
        if target in EMOTIONS and len(other) < 2 and set(other) <= set(EMOTIONS) - {target}:
            return target, other[0] if other else None
        if not Path(args.explain).suffix:
            known = ", ".join(EMOTIONS)
            args.parser.error(f"--explain takes EMOTION or EMOTION:OTHER, two of {known}; not {args.explain!r}")
        args.clips.insert(0, args.explain)
    return None, None


def run(args: argparse.Namespace) -> int:
    """Print what is said of each clip; 1 where one failed."""
    target, against = asked_emotions(args)
    if not args.clips and not (args.text or "").strip():
        args.parser.error("give at least one CLIP, or --text")
    explain = args.explain is not None
    options = Options(Paths.from_env(), args.checkpoint, not args.no_speech, args.denoise, explain, target, against)
    if len(args.clips) == 1 and tasks.is_source(args.clips[0]):
        if args.text:
            args.parser.error("--text is what is said in one clip; of many, a manifest's column text says it")
        from mmer.commands import batch

        return batch.run(args, options)
    from tqdm import tqdm

    predictor = predictor_of(options)
    predictor.checkpoint  # noqa: B018  a missing checkpoint ends the run, not each clip
    failed = 0
    any_name_prints()
    with ExitStack() as stack:
        outputs: list[TextIO] = [sys.stdout]
        if args.out:
            outputs.append(stack.enter_context(args.out.open("w", encoding="utf-8", errors="backslashreplace")))
        clips = args.clips or [""]
        for clip in tqdm(clips, unit="clip", file=sys.stderr, disable=not sys.stderr.isatty() or len(clips) < 2):
            line = answer(predictor, tasks.of(clip, args.text), options)
            failed += "error" in line
            for output in outputs:
                print(json.dumps(line, ensure_ascii=False), file=output, flush=True)
    return 1 if failed else 0
