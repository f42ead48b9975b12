"""What `import mmer` gives, and what an installed copy holds."""

import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from setuptools import find_namespace_packages

import mmer

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, folder: Path, **variables: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MMER_")} | variables
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_the_first_page_waited_for_torch_and_scipy():
    code = (
        "import mmer.ui.page, sys; print([m for m in ('torch', 'scipy', 'matplotlib', 'whisper') if m in sys.modules])"
    )
    assert python(code, ROOT) == "[]\n"


def test_the_public_names_come_when_they_are_asked_for():
    code = "import mmer, sys; mmer.EMOTIONS, mmer.ClipError; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert python(code, ROOT) == "False False\n"
    assert {name for name in mmer.__all__ if getattr(mmer, name).__class__ is type} >= {"Predictor", "EmotionResult"}
    assert set(mmer.__all__) <= set(dir(mmer))
    with pytest.raises(AttributeError, match="no attribute 'predictor'"):
        mmer.predictor  # noqa: B018


def test_an_installed_copy_holds_every_file_of_the_packages():
    settings = (ROOT / "pyproject.toml").read_text()
    patterns = settings.split('"*" = ["')[1].split('"]')[0].split('", "')
    packages = find_namespace_packages(str(ROOT), include=["mmer*", "annotations*", "training*"])
    tracked = subprocess.run(
        ["git", "ls-files", "mmer", "annotations", "training"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.split():
        file = Path(name)
        assert ".".join(file.parent.parts) in packages, name
        assert any(fnmatch(file.name, pattern) for pattern in ("*.py", *patterns)), f"{name} would not be installed"


def test_home_is_data_in_a_checkout_and_the_users_data_folder_elsewhere(tmp_path):
    code = "from mmer.config import Paths; print(Paths.from_env().home, Paths().assets)"
    assert python(code, ROOT) == f"{ROOT / 'data'} {ROOT / 'data' / 'assets'}\n"
    shutil.copytree(ROOT / "mmer", tmp_path / "mmer", ignore=shutil.ignore_patterns("checkpoints", "__pycache__"))
    if sys.platform == "linux":
        home = tmp_path / "share" / "mmer"
        assert python(code, tmp_path, XDG_DATA_HOME=str(tmp_path / "share")) == f"{home} {home / 'assets'}\n"
    assert not (tmp_path / "data").exists()
