"""Dockerfile and compose.yaml, read and held to what the program needs: no engine is at hand to build them."""

import ast
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from mmer.config import ROOT
from mmer.ui.probes import PROBES

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
PAGES = ("page-1", "page-2")


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile as (instruction, arguments), continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", " ", text).split("\n")
    return [(line.split()[0], line.split(None, 1)[1].strip()) for line in lines if line.strip()]


def of(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


def variables() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in of("ENV") for pair in shlex.split(line))


def known_settings() -> set[str]:
    return set(re.findall(r"MMER_[A-Z]+(?:_[A-Z]+)*", (ROOT / "mmer" / "config.py").read_text()))


def test_the_image_runs_as_nobody_special_and_keeps_its_data_in_a_volume():
    order = [name for name, _ in instructions()]
    known = {*("FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER"), *("VOLUME", "EXPOSE", "HEALTHCHECK")}
    assert set(order) <= known | {"STOPSIGNAL", "CMD"}
    assert order[0] == "FROM"
    assert of("USER") == ["10001"]  # a number: who runs it can see that it is not root
    assert any("useradd --uid 10001 --create-home mmer" in line for line in of("RUN"))
    assert "root" not in order[order.index("USER") :]
    assert not {"RUN", "COPY"} & set(order[order.index("USER") :])  # nothing is installed as that user
    assert of("VOLUME") == [variables()["MMER_HOME"]]
    assert any("install -d -o mmer" in line and variables()["MMER_HOME"] in line for line in of("RUN"))
    assert (of("STOPSIGNAL"), len(of("CMD"))) == (["SIGTERM"], 1)


def test_the_image_has_the_python_and_the_packages_that_the_program_names():
    front = yaml.safe_load((ROOT / "README.md").read_text().split("---")[1])
    assert of("FROM") == [f"python:{front['python_version']}-slim-bookworm"]
    installs = next(line for line in of("RUN") if "pip install" in line)
    script = installs.replace("pip install", "echo pip install")
    for device, index in (("cpu", "https://download.pytorch.org/whl/cpu"), ("gpu", "https://pypi.org/simple")):
        told = run_steps(script, DEVICE=device)
        assert told.stdout.split("\n")[:2] == [
            f"pip install --index-url {index} -r torch.txt",
            "pip install -r runtime.txt",
        ]
    wrong = run_steps(script, DEVICE="tpu")
    assert (wrong.returncode, wrong.stderr.strip()) == (1, "DEVICE is tpu; cpu or gpu is needed")
    assert any("xargs -a packages.txt apt-get install" in line for line in of("RUN"))


def run_steps(script: str, **variables: str) -> subprocess.CompletedProcess:
    """Run the lines of a RUN in an empty folder, beside the file they read."""
    beside = f"cd $(mktemp -d) && cp {shlex.quote(str(ROOT / 'requirements.txt'))} . && {script}"
    return subprocess.run(["sh", "-c", beside], env={"PATH": "/usr/bin:/bin", **variables}, **_TEXT)


_TEXT: dict = {"capture_output": True, "text": True, "timeout": 60}


def test_torch_alone_comes_from_the_other_index():
    """The lines that the image takes out of requirements.txt, by the commands with which it does."""
    steps = next(line for line in of("RUN") if "pip install" in line)
    cut, torch = re.search(r"(sed .*? > runtime\.txt)", steps), re.search(r"(grep .*? > torch\.txt)", steps)
    assert cut is not None
    assert torch is not None
    found = run_steps(f"{cut.group()} && {torch.group()} && cat torch.txt && echo -- && cat runtime.txt")
    torches, rest = found.stdout.split("--\n")
    runtime = (ROOT / "requirements.txt").read_text().split("# tests\n")[0]
    assert rest == runtime
    assert [line.split("==")[0] for line in torches.split()] == ["torch", "torchvision", "torchaudio"]


def test_what_the_image_copies_is_enough_to_serve(tmp_path):
    for line in of("COPY"):
        *sources, target = line.split()
        for source in sources:
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, tmp_path / target, dirs_exist_ok=True, ignore=ignore)
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    command = ast.literal_eval(of("CMD")[0])
    env = {"PATH": "/usr/bin:/bin", "MMER_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, *command[1:], "--help"], cwd=tmp_path, env=env, **_TEXT)
    assert run.returncode == 0, run.stderr
    code = "import mmer.ui.page, training.retrain, annotations.__main__; print(mmer.ui.page.__file__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, **{**_TEXT, "timeout": 240})
    assert run.stdout.strip() == str(tmp_path / "mmer" / "ui" / "page.py"), run.stderr


def test_the_health_check_asks_what_is_served():
    command = ast.literal_eval(of("CMD")[0])
    port = command[command.index("--port") + 1]
    assert of("EXPOSE") == [port]
    (check,) = of("HEALTHCHECK")
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)
    assert asked is not None
    assert asked.group(1) == port
    assert asked.group(2) in PROBES
    asks = ast.literal_eval(check[check.index("CMD ") + 4 :])
    compile(asks[2], "HEALTHCHECK", "exec")
    proxy = COMPOSE["configs"]["caddyfile"]["content"]
    assert f"reverse_proxy {' '.join(f'{page}:{port}' for page in PAGES)}" in proxy
    health = re.search(r"health_uri (\S+)", proxy)
    assert health is not None
    assert health.group(1) == "/readyz"


def test_every_setting_is_one_the_program_reads():
    named = {name for name in variables() if name.startswith("MMER_")}
    for page in PAGES:
        named |= {name for name in COMPOSE["services"][page]["environment"] if name.startswith("MMER_")}
    assert named >= {"MMER_HOME", "MMER_DATABASE_URL", "MMER_HOSTS"}
    assert named <= known_settings()


def test_both_pages_share_the_database_and_the_media():
    services = COMPOSE["services"]
    assert set(services) == {"db", "proxy", *PAGES}
    one, two = (services[page] for page in PAGES)
    for same in ("image", "environment", "volumes", "build", "stop_grace_period"):
        assert one[same] == two[same]
    url = one["environment"]["MMER_DATABASE_URL"]
    assert url == "postgresql+psycopg://mmer:${MMER_DB_PASSWORD:?a password for the database}@db/mmer"
    assert services["db"]["environment"]["POSTGRES_PASSWORD"] == re.search(r"\$\{.*?\}", url).group()  # type: ignore[union-attr]
    assert one["volumes"] == [f"home:{variables()['MMER_HOME']}"]
    mounted = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert mounted == set(COMPOSE["volumes"])
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for port in service.get("ports", []):
            assert port.startswith("${MMER_BIND:-127.0.0.1}:")  # this machine's alone, unless somebody says otherwise


def test_a_container_has_time_to_finish_what_runs():
    minutes = re.fullmatch(r"(\d+)m", COMPOSE["services"]["page-1"]["stop_grace_period"])
    finish = re.search(r"^_FINISH_S = ([\d.]+)", (ROOT / "app.py").read_text(), re.M)
    assert minutes is not None
    assert finish is not None
    assert int(minutes.group(1)) * 60 >= float(finish.group(1))


@pytest.mark.parametrize("name", ["MMER_SITE", "MMER_HOSTS", "MMER_BIND", "MMER_DB_PASSWORD"])
def test_the_readme_says_what_compose_asks_for(name):
    deploy = (ROOT / "README.md").read_text().split("## Deploy")[1].split("\n## ")[0]
    assert name in deploy
    assert name in (ROOT / "compose.yaml").read_text()
