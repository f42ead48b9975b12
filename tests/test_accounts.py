"""Roles and accounts: who may do what, and that nobody gets in by a damaged file."""

import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from annotations.accounts import Accounts, Person, may, require
from annotations.choices import ROLES
from mmer.config import ROOT, Paths
from mmer.errors import LabelError


@pytest.fixture
def accounts(tmp_path):
    return Accounts(tmp_path / "home" / "accounts.json")


def test_each_role_may_what_those_before_it_may_and_one_thing_more():
    table = {role: [a for a in ("analyse", "label", "review", "manage") if may(role, a)] for role in ROLES}
    assert table == {
        "viewer": ["analyse"],
        "annotator": ["analyse", "label"],
        "reviewer": ["analyse", "label", "review"],
        "admin": ["analyse", "label", "review", "manage"],
    }
    require(Person("rita", "reviewer"), "review")
    with pytest.raises(LabelError, match="to manage takes the role admin, and rita has the role reviewer") as refused:
        require(Person("rita", "reviewer"), "manage")
    assert refused.value.code == "not_allowed"


def test_only_the_password_opens_an_account(accounts):
    assert not accounts
    assert accounts.add(" ann ", "correct horse", "annotator") == Person("ann", "annotator")
    assert accounts
    assert accounts.check("ann", "correct horse") == accounts.check(" ann", "correct horse") == accounts.person("ann")
    for name, password in (("ann", "correct  horse"), ("ann", ""), ("bob", "correct horse"), ("", "")):
        assert accounts.check(name, password) is None
    assert "correct horse" not in accounts.file.read_text()
    assert json.loads(accounts.file.read_text())["ann"]["password"].startswith("$argon2id$")


def test_only_the_owner_can_read_the_file(accounts):
    before = os.umask(0)
    try:
        accounts.add("ann", "correct horse", "annotator")
        accounts.change_role("ann", "admin")
    finally:
        os.umask(before)
    assert stat.S_IMODE(accounts.file.stat().st_mode) == 0o600
    assert [f.name for f in accounts.file.parent.iterdir()] == ["accounts.json"]


def test_who_is_identified_elsewhere_has_a_role_and_no_password(accounts):
    accounts.add("octo", None, "reviewer")
    assert accounts.person("octo") == Person("octo", "reviewer")
    for password in ("", "nobody", "None"):
        assert accounts.check("octo", password) is None


def test_a_changed_role_and_a_removal_count_for_those_who_hold_the_file(accounts):
    other = Accounts(accounts.file)
    accounts.add("ann", "correct horse", "annotator")
    other.change_role("ann", "admin")
    assert accounts.check("ann", "correct horse") == Person("ann", "admin")
    accounts.remove("ann")
    assert other.person("ann") is other.check("ann", "correct horse") is None
    assert other  # an emptied file still keeps the door shut


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: a.add("ann", "another one", "admin"), "there is an account 'ann' already"),
        (lambda a: a.add("bob", "short", "admin"), "the password has 5 characters; 8 or more are needed"),
        (lambda a: a.add("bob", "long enough", "boss"), "role 'boss' is none of viewer, annotator, reviewer, admin"),
        (lambda a: a.add(" ", "long enough", "admin"), "an account needs a name"),
        (lambda a: a.change_role("bob", "admin"), "there is no account 'bob'; there is ann"),
        (lambda a: a.remove("bob"), "there is no account 'bob'"),
    ],
)
def test_what_is_refused_changes_nothing(accounts, call, message):
    accounts.add("ann", "correct horse", "annotator")
    before = accounts.file.read_bytes()
    with pytest.raises(LabelError, match=message):
        call(accounts)
    assert accounts.file.read_bytes() == before


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"ann": {"role": "god", "password": null}}', '{"ann": 3}'])
def test_nobody_gets_in_by_a_damaged_file(accounts, damage):
    accounts.add("ann", "correct horse", "annotator")
    accounts.file.write_text(damage)
    if damage == "[]":  # an empty list has nobody in it, and is no accounts file either
        assert accounts
    with pytest.raises(LabelError, match="is not a readable accounts file"):
        accounts.check("ann", "correct horse")
    with pytest.raises(LabelError, match="is not a readable accounts file"):
        accounts.add("eve", "correct horse", "admin")
    assert accounts.file.read_text() == damage


def test_two_who_add_at_once_lose_nobody(accounts):
    names = [f"person {i}" for i in range(8)]
    threads = [threading.Thread(target=Accounts(accounts.file).add, args=(n, None, "viewer")) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in accounts.people()] == names


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("127.9.9.9", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_only_loopback_is_private(host, private):
    assert Paths(host=host).is_private is private


def account(home, *arguments, password=None):
    return subprocess.run(
        [sys.executable, "-m", "annotations", "account", *arguments],
        cwd=ROOT,
        env={**os.environ, "MMER_HOME": str(home)},
        input=password,
        capture_output=True,
        text=True,
    )


def test_the_command_reads_the_password_from_its_input(tmp_path):
    run = account(tmp_path, "add", "ann", "reviewer", password="correct horse\n")
    assert (run.returncode, run.stdout) == (0, "ann may log in as reviewer\n"), run.stderr
    accounts = Accounts(tmp_path / "accounts.json")
    assert accounts.check("ann", "correct horse") == Person("ann", "reviewer")
    assert "correct horse" not in run.stdout + run.stderr
    assert account(tmp_path, "role", "ann", "admin").stdout == "ann is admin now\n"
    assert account(tmp_path, "list").stdout == "ann  admin\n"
    run = account(tmp_path, "add", "bob", password="short\n")
    assert (run.returncode, run.stderr) == (1, "weak_password: the password has 5 characters; 8 or more are needed\n")
    assert account(tmp_path, "remove", "ann").returncode == 0
    assert accounts.people() == []
