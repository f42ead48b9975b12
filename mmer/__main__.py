"""The command line: `analyse` prints one JSON object per clip, `checkpoint` shows and changes which checkpoint serves,
`doctor` says what this installation lacks, `whatif` judges a changed clip again.

torch takes seconds to import, so each command imports what it needs.
"""

import argparse
import io
import json
import logging
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mmer import checkpoint, hub, versions
from mmer.commands import whatif
from mmer.config import Paths
from mmer.errors import MmerError
from mmer.labels import EMOTIONS

if TYPE_CHECKING:
    from mmer.predict import Predictor

_LOG = logging.getLogger("mmer")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mmer", description="Multimodal emotion recognition.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_analyse(commands)
    _add_checkpoint(commands)
    _add_doctor(commands)
    whatif.add(commands)
    return parser


def _add_analyse(commands) -> None:
    analyse = commands.add_parser("analyse", help="say which emotion clips show, one JSON object per line")
    analyse.add_argument("clips", nargs="*", metavar="CLIP", help="video, sound or picture; may be missing with --text")
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
    analyse.set_defaults(run=_analyse, parser=analyse)


def _add_checkpoint(commands) -> None:
    about = "list, show, promote or roll back checkpoints"
    actions = commands.add_parser("checkpoint", help=about, description=about).add_subparsers(required=True)
    listed = actions.add_parser(
        "list",
        help="a line each: id, when it was made, parent, figures, what it learned from, who put it in use; * serves",
    )
    listed.set_defaults(run=_list_checkpoints)
    show = actions.add_parser("show", help="print a checkpoint's meta.json and who put it in use when")
    show.add_argument("id", nargs="?", metavar="ID", help="default: the one that serves")
    show.set_defaults(run=_show_checkpoint)
    promote = actions.add_parser("promote", help="let a checkpoint serve; an open page takes it with the next clip")
    promote.add_argument("id", metavar="ID", help="or hf:namespace/name@revision, which is fetched from the hub")
    promote.set_defaults(run=_promote_checkpoint)
    rollback = actions.add_parser("rollback", help="let the parent of the one that serves do so again")
    rollback.set_defaults(run=_roll_back)


def _add_doctor(commands) -> None:
    about = "say of weights, database, disk, device and versions how they are, and what to do; exit status 1: not well"
    doctor = commands.add_parser("doctor", help=about, description=about)
    doctor.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from mmer.commands import doctor

    return doctor.run()


def _list_checkpoints(args: argparse.Namespace) -> int:
    for version in versions.versions(Paths.from_env().checkpoints):
        mark = "*" if version.serves else " "
        if version.problem:
            print(f"{mark} {version.id}  {version.problem}")
            continue
        put = [f"put in use {p.at} by {p.by}" for p in version.promotions[-1:]]
        told = [f"from {version.parent or 'nothing'}", *version.figures, *version.learned, *put]
        print(f"{mark} {version.id}  {version.created_at or 'no time'}  {'  '.join(told)}")
    return 0


def _show_checkpoint(args: argparse.Namespace) -> int:
    root = Paths.from_env().checkpoints
    name = args.id or checkpoint.promoted(root)
    put = [{"at": p.at, "by": p.by, "before": p.before} for p in versions.promotions(root) if p.checkpoint == name]
    print(json.dumps({**checkpoint.read_meta(name, root), "promotions": put}, indent=1))
    return 0


def _promote_checkpoint(args: argparse.Namespace) -> int:
    root = Paths.from_env().checkpoints
    name = hub.fetch(args.id, root) if hub.is_address(args.id) else args.id
    checkpoint.load(name, root)  # one that cannot be read must not serve
    before = checkpoint.promoted(root)
    checkpoint.promote(name, root)
    print(f"{name} serves; before it did {before}")
    return 0


def _roll_back(args: argparse.Namespace) -> int:
    root = Paths.from_env().checkpoints
    before = checkpoint.promoted(root)
    print(f"{checkpoint.roll_back(root)} serves again; before it did {before}")
    return 0


def _contrast(args: argparse.Namespace) -> tuple[str | None, str | None]:
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


def _analyse(args: argparse.Namespace) -> int:
    args.target, args.against = _contrast(args)
    if not args.clips and not (args.text or "").strip():
        args.parser.error("give at least one CLIP, or --text")
    from tqdm import tqdm

    from mmer.predict import Predictor

    predictor = Predictor(Paths.from_env(), args.checkpoint)
    predictor.checkpoint  # noqa: B018  a missing checkpoint ends the run, not each clip
    failed = 0
    # A name that is not UTF-8 holds halves of characters: they are written as JSON escapes them.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    with ExitStack() as stack:
        outputs: list[TextIO] = [sys.stdout]
        if args.out:
            outputs.append(stack.enter_context(args.out.open("w", encoding="utf-8", errors="backslashreplace")))
        clips = [[c] for c in args.clips] or [[]]
        for files in tqdm(clips, unit="clip", file=sys.stderr, disable=not sys.stderr.isatty() or len(clips) < 2):
            line = _one(predictor, files, args)
            failed += "error" in line
            for output in outputs:
                print(json.dumps(line, ensure_ascii=False), file=output, flush=True)
    return 1 if failed else 0


def _one(predictor: "Predictor", files: list[str], args: argparse.Namespace) -> dict:
    clip = files[0] if files else "text"
    try:
        result = predictor.analyse(*files, name=clip, text=args.text, speech=not args.no_speech, denoise=args.denoise)
        line = result.to_dict()
        if args.explain is not None:
            line["explanation"] = None
            if result.telling_segment is not None:
                from mmer.attribution import explain

                since = time.perf_counter()
                segment = result.telling_segment
                language = predictor.language if segment.features.words else None
                explanation = explain(
                    predictor.checkpoint_of(result),
                    segment.features,
                    args.target or result.emotion,
                    language,
                    against=args.against,
                    transcriber=predictor.transcriber,
                )
                line["explanation"] = explanation.to_dict()
                line["timing_ms"]["explain"] = round((time.perf_counter() - since) * 1e3, 1)
                line["timing_ms"]["total"] = round(line["timing_ms"]["total"] + line["timing_ms"]["explain"], 1)
        return line
    except MmerError as error:
        return {"clip": clip, "error": {"code": error.code, "message": error.message}}
    except Exception as error:  # a bug of ours must not cost the other clips their answer
        _LOG.exception("analysing %s failed", clip)
        return {"clip": clip, "error": {"code": "internal", "message": f"{type(error).__name__}: {error}"}}


def main() -> int:
    args = _parser().parse_args()
    try:
        return args.run(args)
    except MmerError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        print(f"error: {named}{error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
