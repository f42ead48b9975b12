"""A checkpoint and its card on the Hugging Face hub."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from mmer import checkpoint
from mmer.checkpoint import META, WEIGHTS
from mmer.config import Paths
from mmer.errors import TrainingError
from mmer.hub import CARD, EXEMPLARS
from mmer.versions import QUESTIONS

_NOT_TOLD = ("run",)  # of meta.json: it means something in this database only


def push(
    paths: Paths, name: str, repo: str, *, public: bool = False, endpoint: str | None = None, token: str | None = None
) -> str:
    """Upload a checkpoint with its card to a model repository, made when there is none; return where it is.

    Args:
        public: make the repository for everybody; one that is there stays as it is.

    Raises:
        TrainingError: `push_failed`, `public_repo`: nothing was uploaded then.
        CheckpointError: `no_checkpoint`, `bad_checkpoint`.
    """
    checkpoint.load(name, paths.checkpoints)  # what cannot be read is of no use elsewhere
    api = HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as folder:
        _gather(Path(folder), checkpoint.folder_of(name, paths.checkpoints), name, repo)
        try:
            api.create_repo(repo, repo_type="model", private=not public, exist_ok=True)
            if not public and not api.model_info(repo).private:  # it was there before: creating does not change it
                raise TrainingError("public_repo", f"model {repo} is public; make it private, or say --public")
            done = api.upload_folder(
                repo_id=repo, repo_type="model", folder_path=folder, commit_message=f"Checkpoint {name}"
            )
        except (HfHubHTTPError, HFValidationError, httpx2.HTTPError) as error:
            raise TrainingError("push_failed", f"cannot push to {repo}: {str(error).splitlines()[0]}") from None
    return f"hf:{repo}@{done.oid}"


def _gather(folder: Path, source: Path, name: str, repo: str) -> None:
    meta = json.loads((source / META).read_text(encoding="utf-8"))
    told = {key: value for key, value in meta.items() if key not in _NOT_TOLD}
    (folder / META).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    for file in (WEIGHTS, EXEMPLARS):
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    given = source / CARD
    text = given.read_text(encoding="utf-8") if given.is_file() else card(meta, name, repo)
    (folder / CARD).write_text(text, encoding="utf-8")


def card(meta: dict[str, Any], name: str, repo: str) -> str:
    """Return the card of a retrained checkpoint in Markdown: figures, what it learned from, what it is not for."""
    front = ["---", "license: other", "library_name: mmer", "tags:", "- emotion-recognition", "- multimodal", "---"]
    lines = [
        *front,
        "",
        f"# {repo.split('/')[-1]}",
        "",
        f"Checkpoint `{name}` of mmer, which recognises emotion in face, voice and words:",
        f"{', '.join(meta['emotions'])}. It comes from `{meta.get('parent')}` and learned from people's corrections of",
        "that model's answers.",
        "",
        f"    MMER_CHECKPOINT=hf:{repo} python app.py",
        "",
        "## Figures",
        "",
        *_figures(meta.get("metrics") or {}),
    ]
    if meta.get("verdict") == "forced":
        lines += ["", "It was put in use by force: the gate had refused it."]
    parts = {n: p for n, p in (meta.get("data") or {}).items() if isinstance(p, dict) and "labels" in p}
    if parts:
        lines += ["", "## Data", "", "| part | clips | speakers | labels | sha256 |", "|---|---|---|---|---|"]
        lines += [
            f"| {n.replace('_', ' ')} | {p['clips']} | {p['speakers']} | {p['labels']} | `{p['sha256'][:16]}` |"
            for n, p in parts.items()
        ]
        lines += ["", "No clip, no transcript and no name is part of this repository."]
    lines += [
        "",
        "## What it is not for",
        "",
        "It recognises displays of emotion, not what anybody feels, and is worse for people unlike those it learned",
        "from. It must not decide about people.",
        "",
    ]
    return "\n".join(lines)


def _figures(metrics: dict[str, Any]) -> list[str]:
    asked = [(words, found) for q, words in QUESTIONS.items() if (found := metrics.get(q)) and found.get("served")]
    if not asked:
        return ["None were measured when it was made."]
    lines = ["| asked of | judgements | UAR before | UAR | gain, standard error | ECE |", "|---|---|---|---|---|---|"]
    for words, found in asked:
        error = f"{found['error']:.3f}" if found["error"] is not None else "unknown"
        before, after = found["served"], found["new"]
        lines.append(
            f"| {words} | {found['judgements']} | {before['uar']:.3f} | {after['uar']:.3f} | "
            f"{found['gain']:+.3f}, {error} | {after['ece']:.3f} |"
        )
    return lines
