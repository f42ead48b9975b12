"""The command line as a whole: it is complete, its help is quick, and each of its doors opens."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from annotations.__main__ import build_parser, main
from annotations.commands import COMMANDS
from annotations.queue import projects
from annotations.queue.assignment import Answer, Queue
from annotations.store import Store
from mmer.config import ROOT


def leaves(parser: argparse.ArgumentParser, *before: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command that has none below it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield before
    for action in below:
        for name, sub in action.choices.items():
            yield from leaves(sub, *before, name)


def test_each_command_of_the_parser_does_something_and_nothing_else_can_be_done():
    assert {" ".join(words) for words in leaves(build_parser())} == set(COMMANDS)


@pytest.mark.parametrize("words", [(), ("project",), *leaves(build_parser())], ids=" ".join)
def test_help_waits_for_no_library(words):
    """SQLAlchemy and pyarrow alone take longer than the half second that a reader of the help should wait."""
    code = (
        "import sys; from annotations.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(*sorted({'sqlalchemy', 'pyarrow', 'torch', 'pandas', 'numpy', 'argon2'} & set(sys.modules)),\n"
        "               file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, *words, "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "\n")
    assert " ".join(words) in run.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "annotations", "stats"),
        ("-m", "mmer", "checkpoint", "list"),
        ("-c", "from training.command import run; run(lambda: print('a line') or 0)"),
    ],
    ids=lambda command: command[1],
)
def test_a_pipe_that_was_closed_was_a_failure(command, filled):
    """`| head` that has read enough ends the command as it does any program's, without a word."""
    options, _ = filled
    there, here = os.pipe()
    os.close(there)
    command = [sys.executable, *command, *(options if "stats" in command else ())]
    run = subprocess.run(command, cwd=ROOT, stdout=here, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(here)
    assert (run.returncode, run.stderr) == (141, "")


@pytest.fixture
def filled(tmp_path):
    """The options that name a database with a project of two items, and its store."""
    store = Store(f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "media")
    project = projects.create(store, "voices", actor="ada", gold_share=0.0, guidelines="old")
    clips = [store.register_clip(None, f"{i:064x}", name=f"{i}.wav") for i in range(2)]
    projects.add_items(store, project, [store.utterance(clip) for clip in clips])
    yield ["--database", str(tmp_path / "x.db")], store
    store.engine.dispose()


def test_a_project_is_changed_and_what_is_not_named_stays(filled, tmp_path, capsys):
    where, store = filled
    (tmp_path / "new.md").write_text("# Listen twice", "utf-8")
    change = ["project", "change", "voices", *where]
    assert main([*change, "--per-item", "3", "--not-blind", "--guidelines", str(tmp_path / "new.md")]) == 0
    assert json.loads(capsys.readouterr().out)["per_item"] == 3
    changed = projects.project(store, "voices")
    assert (changed.per_item, changed.blind, changed.guidelines) == (3, False, "# Listen twice")
    assert (changed.gold_share, changed.lease_s, changed.targets) == (0.0, 900, ("all",))
    assert main([*change, "--blind", "--rename", "talks"]) == 0
    assert projects.project(store, "talks").blind is True
    assert [p.name for p in projects.projects(store)] == ["talks"]
    assert main(["project", "change", "talks", "--gold-share", "2", *where]) == 1
    assert "bad_project: share of gold items 2.0" in capsys.readouterr().err
    assert main(change) == 1
    assert "there is no project 'voices'; there is talks" in capsys.readouterr().err


def test_what_an_annotator_holds_is_given_back(filled, capsys):
    where, store = filled
    queue = Queue(store, projects.project(store, "voices"))
    first, _ = queue.next("ann", 2)
    queue.submit(first.assignment_id, "ann", Answer("anger"))
    assert queue.progress("bob").remaining == 2
    release = ["project", "release", "voices"]
    assert main([*release, "ann", *where]) == 0
    assert capsys.readouterr().out == "1 items of ann given back to voices\n"
    assert main([*release, "ann", *where]) == 0
    assert capsys.readouterr().out == "0 items of ann given back to voices\n"
    assert [label.name for label in store.labels()] == [first.name]
    assert main([*release, "nobody", *where]) == 1
    assert "unknown_annotator: nobody by the name 'nobody' has labelled here" in capsys.readouterr().err
