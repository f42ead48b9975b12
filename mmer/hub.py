"""Checkpoints on the Hugging Face hub: `hf:namespace/name@revision` becomes a checkpoint here, whole and verified.

HF_ENDPOINT and HF_TOKEN say where the hub is and who asks, as its own library reads them.
"""

import json
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mmer import checkpoint, versions
from mmer.checkpoint import META, WEIGHTS
from mmer.config import Paths
from mmer.errors import CheckpointError, MmerError
from mmer.hashing import content_hash

PREFIX = "hf:"
CARD, EXEMPLARS = "README.md", "exemplars.safetensors"
_SETTING = "MMER_CHECKPOINT="  # of the log of promotions: the setting did it
_ADDRESS = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_LOG = logging.getLogger(__name__)


def is_address(name: str) -> bool:
    return name.startswith(PREFIX)


def fetch(address: str, root: Path, *, endpoint: str | None = None, token: str | None = None) -> str:
    """Return the id under which a checkpoint of the hub lies below `root`, where it is put if it is not there yet.

    Raises:
        CheckpointError: `bad_address`, `hub_failed`, `bad_checkpoint`, `not_saved`.
    """
    if (named := _ADDRESS.fullmatch(address)) is None:
        raise CheckpointError("bad_address", f"{address!r} is not hf:namespace/name or hf:namespace/name@revision")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=root, ignore_cleanup_errors=True) as folder:
            commit = _download(address, named[1], named[2], Path(folder) / "down", endpoint, token)
            return _take_in(Path(folder) / "down", root, address, f"{PREFIX}{named[1]}@{commit}")
    except OSError as error:
        raise CheckpointError("not_saved", f"{address} cannot be kept in {root.name}/: {error.strerror}") from error


def _download(
    address: str, repo: str, revision: str | None, folder: Path, endpoint: str | None, token: str | None
) -> str:
    """Put a repository's files into a folder and return the commit they are of."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    api = HfApi(endpoint=endpoint, token=token)
    try:
        about = api.model_info(repo, revision=revision)
        there = {file.rfilename for file in about.siblings or ()}
        for name in (META, WEIGHTS, *({CARD, EXEMPLARS} & there)):
            api.hf_hub_download(repo, name, revision=about.sha, local_dir=folder)
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError, httpx2.HTTPError, ConnectionError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError("hub_failed", f"{address} cannot be fetched: {why}") from None
    return str(about.sha)


def _take_in(came: Path, root: Path, address: str, source: str) -> str:
    """Move what came to its place under an id of its own; what cannot serve stays out."""
    try:
        meta: dict[str, Any] = json.loads((came / META).read_text(encoding="utf-8"))
        digest = content_hash(came / WEIGHTS)
        if meta.get("weights_sha256") != digest:
            raise CheckpointError("bad_checkpoint", f"{address}: the sha256 of {WEIGHTS} is not the one in {META}")
        name = str(meta["id"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("bad_checkpoint", f"{address}: its {META} is none of a checkpoint: {error}") from None
    if not re.fullmatch(r"[\w-][\w.-]{0,80}", name) or name == checkpoint.BASE:
        name = f"hub-{digest[:8]}"
    if name in checkpoint.listing(root):
        if checkpoint.read_meta(name, root).get("weights_sha256") == digest:
            return name
        name = f"{name}-{digest[:8]}"
    meta.pop("run", None)  # of another database
    (came / META).write_text(json.dumps({**meta, "id": name, "source": source}, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(came / ".cache", ignore_errors=True)  # the library's notes
    try:
        checkpoint.load(came.name, came.parent)
    except CheckpointError as error:
        raise CheckpointError(error.code, f"{address}: {error.message}") from None
    os.replace(came, root / name)
    return name


def follow_setting(paths: Paths) -> None:
    """Put the checkpoint that the setting names in use, once for each value that it is given.

    What is promoted later stays in use, until the setting changes. Where the checkpoint cannot be had, what served
    goes on.
    """
    if not paths.checkpoint:
        return
    by, root = f"{_SETTING}{paths.checkpoint}", paths.checkpoints
    before = [p.by for p in versions.promotions(root) if p.by.startswith(_SETTING)]
    if before and before[-1] == by:
        return
    try:
        name = fetch(paths.checkpoint, root) if is_address(paths.checkpoint) else paths.checkpoint
        checkpoint.load(name, root)
        checkpoint.promote(name, root, by=by)
    except MmerError as error:
        _LOG.error("MMER_CHECKPOINT: %s; %s goes on answering", error, checkpoint.promoted(root))
