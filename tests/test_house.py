"""The rooms of the house: who may import whom, and a README that cannot lie."""

import ast
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each module of mmer may import those in earlier floors; modules on one floor never import each other.
FLOORS = [
    {"errors", "hashing", "messages"},
    {"english", "labels", "numerals"},
    {"config", "metrics"},
    {"assets"},
    {"media"},
    {"face", "voice", "speech", "sources", "efficientnet"},
    {"encoders", "correction", "prosody"},
    {"model"},
    {"features", "checkpoint", "branch_states", "shapley"},
    {"perceive", "versions", "trust", "target_logit", "captum_attr"},
    {"integrated_gradients", "occlusion", "explanation"},
    {"face_map", "voice_map", "word_map"},
    {"predict", "attribution", "hub"},
    {"plots", "whatif", "counterfactual", "live"},
    {"ui", "commands"},
    {"__main__"},
]
FLOOR_OF = {name: i for i, floor in enumerate(FLOORS) for name in floor}


def imported(path: Path) -> set[str]:
    """Return every module a file imports, wherever in the file; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.parent.name if path.parent.name in ("ui", "commands") else path.stem


def test_every_module_has_a_floor():
    modules = {p.stem for p in (ROOT / "mmer").glob("*.py")} - {"__init__"}
    assert modules | {"ui", "commands"} == set(FLOOR_OF)


@pytest.mark.parametrize("path", sorted((ROOT / "mmer").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_inside_mmer_point_down(path):
    here = room(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "mmer" and len(parts) > 1 and parts[1] in FLOOR_OF and parts[1] != here:
            assert FLOOR_OF[parts[1]] < FLOOR_OF.get(here, 99), f"{path.name} imports {name}"
        assert parts[0] != "training", f"{path.name} imports {name}"
        assert parts[0] != "annotations" or here in ("ui", "commands"), f"{path.name} imports {name}"


def test_only_the_page_imports_gradio():
    for path in [*ROOT.glob("mmer/*.py"), *ROOT.glob("annotations/*.py"), *ROOT.glob("training/*.py")]:
        assert not any(n.split(".")[0] == "gradio" for n in imported(path)), path


def test_annotations_know_only_labels_errors_and_settings():
    for path in ROOT.glob("annotations/**/*.py"):
        own = {n.split(".")[1] for n in imported(path) if n.startswith("mmer.")}
        assert own <= {"labels", "errors", "config", "hashing"}, path
        assert not any(n.split(".")[0] in ("training", "torch", "app") for n in imported(path)), path


def test_one_reader_of_the_environment():
    for path in [*ROOT.glob("mmer/**/*.py"), *ROOT.glob("annotations/**/*.py"), *ROOT.glob("training/**/*.py")]:
        text = path.read_text()
        if path.name != "config.py":
            assert not re.search(r"environ(\.get\(|\[)\"MMER_|getenv\(\"MMER_", text), path


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return sorted({m.group(1) for m in re.finditer(r"^    (python [^#\n]+)", text, re.M)})


def test_the_readme_names_every_command():
    assert {c.split()[1] for c in readme_commands()} >= {
        "app.py",
        "-m",
        "training/train.py",
        "training/evaluate.py",
        "training/retrain.py",
    }


def test_the_commands_of_the_readme_exist():
    """Each command line of the README is understood up to its options, and its --help has every option used."""
    options: dict[tuple[str, ...], set[str]] = {}
    for command in readme_commands():
        words = command.split()[1:]
        if words[:2] != ["-m", "pytest"]:
            used = [word for word in words if word.startswith("--")]
            until = words.index(used[0]) if used else len(words)
            options.setdefault(tuple(words[:until]), set()).update(used)

    def help_of(target: tuple[str, ...]) -> str:
        run = subprocess.run([sys.executable, *target, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, f"{' '.join(target)}: {run.stderr}"
        return run.stdout

    with ThreadPoolExecutor(4) as pool:
        for target, text in zip(options, pool.map(help_of, options), strict=True):
            for option in options[target]:
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"{' '.join(target)} has no {option}"


def test_the_tree_of_the_readme_is_the_disk():
    """Every file the tree names exists, and every Python module and top-level file stands in it."""
    text = (ROOT / "README.md").read_text()
    tree = text[text.index("## The tree") :]
    block = tree.split("```")[1]
    named, folders = set(), []
    for line in block.strip("\n").splitlines():
        if not line.strip() or line.startswith("text"):
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[:depth]
        for word in line.strip().split("  ")[0].split(", "):
            path = "/".join([*folders, word.rstrip("/")])
            assert (ROOT / path).exists(), f"the tree names {path}"
            named.add(path)
        if line.strip().split("  ")[0].endswith("/"):
            folders = [*folders, line.strip().split("  ")[0].rstrip("/")]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    wanted = {f for f in listed if f.endswith(".py") and not f.startswith("tests/") and not f.endswith("__init__.py")}
    assert wanted <= named, f"missing from the tree: {sorted(wanted - named)}"


def test_contributing_names_the_floors_and_files_that_there_are():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    drawn = text[text.index("errors, hashing, messages <") :].split("```")[0]
    assert [set(re.findall(r"\w+", floor)) for floor in drawn.split("<")] == FLOORS
    today = text[: text.index("## Former names")]
    files = re.findall(r"`((?:mmer|annotations|training|tests)/[\w/]+(?:\.\w+|/))`", today)
    assert [f for f in files if not (ROOT / f).exists()] == []
    renamed = re.findall(r"^\| .* \| `(\w+/[\w/]+\.py)`", text[len(today) :], re.M)
    assert renamed
    assert [f for f in renamed if not (ROOT / f).exists()] == []
