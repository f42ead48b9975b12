"""Many clips: the same rows as one by one, whatever is bad among them, and once each however often a run is killed."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from mmer.commands import tasks
from mmer.commands.answers import Options, answer_all, predictor_of
from mmer.commands.journal import Journal
from mmer.commands.pool import Pool
from mmer.config import ROOT, Paths
from mmer.errors import ClipError
from tests import synth
from tests.test_app import new_checkpoint
from tests.until import until

UNTIMED = ("timing_ms",)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> Paths:
    """A home with a small model."""
    home = tmp_path_factory.mktemp("home")
    found = replace(Paths.from_env(), home=home, database_url=f"sqlite:///{home / 'mmer.db'}", device="cpu")
    new_checkpoint(found, 1)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight short sounds, one of them no sound at all, and a file that is no clip."""
    folder = tmp_path_factory.mktemp("recordings")
    for i in range(7):
        (folder / f"group {i % 2}").mkdir(exist_ok=True)
        synth.write_clip(folder / f"group {i % 2}" / f"{i}.wav", seconds=2, voice=synth.voice(2, seed=i))
    (folder / "bad.mp4").write_text("words, not a film\n" * 50)
    (folder / "notes.txt").write_text("not a clip")
    return folder


def analyse(paths: Paths, *args: object, **options) -> subprocess.CompletedProcess:
    """Run the command; nothing is transcribed."""
    command = [sys.executable, "-m", "mmer", "analyse", *map(str, args), "--no-speech"]
    return subprocess.run(command, cwd=ROOT, env=environment(paths), capture_output=True, text=True, **options)


def environment(paths: Paths) -> dict[str, str]:
    return {**os.environ, "MMER_HOME": str(paths.home), "MMER_ASSETS": str(paths.assets)}


def rows(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def untimed(found: list[dict]) -> list[dict]:
    return sorted(({k: v for k, v in row.items() if k not in UNTIMED} for row in found), key=lambda row: row["id"])


def test_a_folder_gives_the_rows_that_its_clips_give_alone(paths, folder, tmp_path):
    out = tmp_path / "r.jsonl"
    run = analyse(paths, folder, "--out", out, "--workers", 2, timeout=240)
    options = Options(paths, speech=False)
    alone = answer_all(predictor_of(options), list(tasks.read(str(folder))), options)
    assert untimed(rows(out)) == untimed(alone)
    assert len(alone) == 8
    assert [row["error"]["code"] for row in alone if "error" in row] == ["not_media"]
    assert run.returncode == 1
    assert run.stdout == ""
    assert "8 clips in " in run.stderr
    assert f"0 were there before; of all 8 in {out} 1 failed (1 not_media)" in run.stderr
    again = analyse(paths, folder, "--out", out, "--workers", 1, timeout=240)
    assert "0 clips in " in again.stderr
    assert len(rows(out)) == 8


def test_a_run_that_was_killed_goes_on_and_no_row_is_doubled(paths, folder, tmp_path):
    out = tmp_path / "r.jsonl"
    command = [sys.executable, "-m", "mmer", "analyse", str(folder), "--no-speech", "--workers", "1", "--out", str(out)]
    for n_rows in (1, 4):
        run = subprocess.Popen(command, cwd=ROOT, env=environment(paths), stderr=subprocess.DEVNULL)

        def has_come(n: int = n_rows, run: subprocess.Popen = run) -> bool:
            assert run.poll() is None
            return out.exists() and out.read_bytes().count(b"\n") >= n

        until(has_come, seconds=240, every=0.005)
        run.send_signal(signal.SIGKILL)
        run.wait()
        with out.open("ab") as half:
            half.write(b'{"id": "half of a ro')
    assert analyse(paths, folder, "--out", out, timeout=240).returncode == 1
    assert [row["id"] for row in untimed(rows(out))] == sorted(task.id for task in tasks.read(str(folder)))


def test_parquet_holds_the_rows_and_grows(paths, folder, tmp_path):
    from pyarrow import parquet

    out = tmp_path / "r.parquet"
    first = analyse(paths, folder / "group 0", "--out", out, "--workers", 1, timeout=240)
    assert first.returncode == 0, first.stderr
    analyse(paths, folder, "--out", out, "--workers", 1, timeout=240)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.parquet"]
    table = parquet.read_table(out).to_pylist()
    assert len(table) == len({row["id"] for row in table}) == 8
    for row in table:
        whole = json.loads(row["json"])
        assert row["emotion"] == whole.get("emotion")
        assert row["error_code"] == whole.get("error", {}).get("code")
        assert row["prob_anger"] == whole.get("probs", {}).get("anger")
        assert row["has_voice"] == whole.get("present", {}).get("voice")


def test_a_manifest_names_stretches_and_words(folder, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "path,text,start,end,label\n"
        "a.wav,,,,anger\n"
        "a.wav,,0.5,1.25,\n"
        "a.wav,go away,,,\n"
        ",go away,,,\n"
        ",,,,\n"
        "a.wav,,soon,,\n"
    )
    found = list(tasks.read(str(manifest)))
    a = str(tmp_path / "a.wav")
    assert [(t.path, t.text, t.start_s, t.end_s) for t in found[:4]] == [
        (a, None, None, None),
        (a, None, 0.5, 1.25),
        (a, "go away", None, None),
        ("", "go away", None, None),
    ]
    assert found[1].id == f"{a}@0.5-1.25"
    assert len({t.id for t in found}) == 6
    assert [t.problem for t in found[4:]] == [
        "line 6 has neither a path nor a text",
        "line 7: start is 'soon'; seconds are needed",
    ]
    manifest.write_text("file,label\na.wav,anger\n")
    with pytest.raises(ClipError, match=r"neither a column path nor text \(found: file, label\)"):
        list(tasks.read(str(manifest)))
    with pytest.raises(ClipError, match="holds no video, sound or picture"):
        list(tasks.read(str(tmp_path)))
    assert [t.path for t in tasks.read(str(folder))] == sorted(str(p) for p in folder.rglob("*.[wm][ap][v4]"))


def test_names_come_by_standard_input_and_twice_is_once(paths, folder, tmp_path):
    names = "".join(f"{folder / name}\n" for name in ("group 0/0.wav", "missing.wav", "group 0/0.wav"))
    out = tmp_path / "r.jsonl"
    run = analyse(paths, "-", "--out", out, "--workers", 1, input=names, timeout=240)
    assert run.returncode == 1
    assert {row["clip"]: row.get("error", {}).get("code") for row in rows(out)} == {
        str(folder / "group 0/0.wav"): None,
        str(folder / "missing.wav"): "not_found",
    }
    assert len(rows(out)) == 2


def test_a_process_that_dies_costs_no_other_clip_and_its_own_after_two_tries(paths, folder):
    options = Options(paths, speech=False)
    some = list(tasks.read(str(folder / "group 0")))
    pool = Pool(options, 1)
    found: list[dict] = []
    kills: list[int] = []

    def kill_twice() -> None:
        for _ in range(2):  # each before its process has read a clip
            until(lambda: pool._workers[0].process.pid not in kills)
            kills.append(pool._workers[0].process.pid)
            os.kill(kills[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_twice)
    killer.start()
    try:
        for answered in pool.run(some, batch=1):
            found += answered
    finally:
        pool.close()
        killer.join()
    assert len(set(kills)) == 2
    assert sorted(row["id"] for row in found) == sorted(task.id for task in some)
    (crashed,) = [row for row in found if "error" in row]
    assert crashed["error"]["code"] == "crashed"
    assert crashed["error"]["message"].endswith("died by signal 9")


def test_a_batch_whose_process_dies_is_tried_clip_by_clip(paths, folder):
    some = list(tasks.read(str(folder / "group 0")))
    pool = Pool(Options(paths, speech=False), 1)
    os.kill(pool._workers[0].process.pid, signal.SIGKILL)
    try:
        found = [row for answered in pool.run(some, batch=len(some)) for row in answered]
    finally:
        pool.close()
    assert sorted(row["id"] for row in found) == sorted(task.id for task in some)
    assert not [row for row in found if "error" in row]


def test_a_device_that_is_none_wrote_every_clip_off(paths, folder, tmp_path):
    """Each worker died of it, each clip was said to have crashed, and the journal kept that for good."""
    out = tmp_path / "r.jsonl"
    args = ("analyse", folder, "--no-speech", "--out", out, "--workers", 1)
    command = [sys.executable, "-m", "mmer", *map(str, args)]
    env = {**environment(paths), "MMER_DEVICE": "quantum"}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert run.returncode
    assert "MMER_DEVICE is 'quantum'; use auto, cpu or cuda" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_results_of_two_checkpoints_do_not_mix(paths, folder, tmp_path):
    out = tmp_path / "r.jsonl"
    analyse(paths, folder / "group 1", "--out", out, "--workers", 1, timeout=240)
    first = rows(out)[0]["checkpoint"]
    other = new_checkpoint(paths, 2)
    refused = analyse(paths, folder, "--out", out, "--checkpoint", other, timeout=240)
    assert refused.returncode == 2
    assert f"holds answers of {first!r}, not of {other!r}; name another file with --out" in refused.stderr
    analyse(paths, folder, "--out", out, "--workers", 1, timeout=240)  # goes on with the first
    assert {row["checkpoint"] for row in rows(out) if "checkpoint" in row} == {first}
    assert len(rows(out)) == 8


def test_a_file_of_something_else_is_left_alone(tmp_path):
    for name, content, told in (
        ("labels.jsonl", b'{"clip": "a", "label": "anger"}\n', "line 1 is no row of such a run"),
        ("list.jsonl", b"[1]\n", "line 1 is no row of such a run"),
        ("table.parquet", b"PAR1 it is not", "is no file of such a run"),
        ("table.csv", b"", "use .jsonl or .parquet"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ClipError, match=told):
            Journal(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
    with Journal(tmp_path / "r.jsonl"), pytest.raises(ClipError, match="another run writes to"):
        Journal(tmp_path / "r.jsonl")


def test_a_name_that_is_not_utf_8_broke_the_table(tmp_path):
    from pyarrow import parquet

    name = os.fsdecode(b"caf\xe9.wav")
    for out in (tmp_path / "r.jsonl", tmp_path / "r.parquet"):
        for _ in range(2):
            with Journal(out) as journal:
                if name not in journal.done:
                    journal.add([{"id": name, "clip": name, "error": {"code": "not_found", "message": name}}])
                journal.finish()
    assert len(rows(tmp_path / "r.jsonl")) == 1
    assert parquet.read_table(tmp_path / "r.parquet")["clip"].to_pylist() == ["caf\\udce9.wav"]


def test_what_is_asked_wrongly_ends_with_one_line(paths, folder, tmp_path):
    for args, told in (
        ((folder,), "many clips need --out"),
        ((folder, "--out", tmp_path / "r.jsonl", "--text", "hello"), "--text is what is said in one clip"),
        ((folder, "--out", tmp_path / "r.jsonl", "--workers", "0"), "'0' is no number from 1 on"),
    ):
        run = analyse(paths, *args, timeout=120)
        assert (run.returncode, run.stdout) == (2, "")
        assert told in run.stderr.strip().split("\n")[-1]


def test_the_same_rows_from_a_ray_cluster(paths, folder):
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'mmer[ray]'")
    from mmer.commands import batch

    options = Options(paths, speech=False)
    args = argparse.Namespace(engine="ray", address=None, batch=2)
    found = [row for some in batch.rows(args, tasks.read(str(folder)), options, 1) for row in some]
    assert untimed(found) == untimed(answer_all(predictor_of(options), list(tasks.read(str(folder))), options))


def test_a_clip_that_ended_its_ray_process_was_tried_for_ever(paths, folder, monkeypatch):
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'mmer[ray]'")
    from mmer.commands import on_ray

    class Dying(on_ray.Answerer):
        def __call__(self, batch):
            if any("bad.mp4" in task for task in batch["task"]):
                os._exit(1)
            return super().__call__(batch)

    monkeypatch.setattr(on_ray, "Answerer", Dying)
    all_tasks = list(tasks.read(str(folder)))
    found = on_ray.run(all_tasks, Options(paths, speech=False), address=None, n_workers=1, batch=4)
    codes = {row["id"]: row.get("error", {}).get("code") for some in found for row in some}
    assert codes == {task.id: "crashed" if task.path.endswith("bad.mp4") else None for task in all_tasks}
