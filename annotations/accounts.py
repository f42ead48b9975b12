"""Who may do what, and the accounts of those who log in with a password."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from annotations.choices import ROLES
from annotations.text import check_text, clean_name, composed
from mmer.errors import LabelError

try:
    import fcntl
except ImportError:  # Windows: of two who change the accounts at once the later one wins
    fcntl = None  # type: ignore[assignment]

ACTIONS = ("analyse", "label", "review", "manage")  # what each of ROLES adds to those before it
MIN_PASSWORD = 8  # characters: what NIST SP 800-63B asks of a password
_HASHER = PasswordHasher()  # argon2id: 64 MiB and some 50 ms a try


@dataclass(frozen=True)
class Person:
    """Somebody at the page; without a name, somebody who has not said who they are."""

    name: str
    role: str  # one of ROLES
    logged_in: bool = True  # the name is theirs; otherwise anybody may type it
    let_in: bool = True  # by the page's owner, with an account or at this machine: they may see consented recordings


def may(role: str, action: str) -> bool:
    """Return whether a role allows an action."""
    return ACTIONS.index(action) <= ROLES.index(role)


def require(person: Person, action: str) -> None:
    """Refuse what a person's role does not allow.

    Raises:
        LabelError: `not_allowed`.
    """
    if not may(person.role, action):
        needed = ROLES[ACTIONS.index(action)]
        raise LabelError(
            "not_allowed",
            f"to {action} takes the role {needed}, and {person.name or 'who is not logged in'} has the role "
            f"{person.role}; log in as somebody else, or ask an administrator for the role",
        )


class Accounts:
    """The accounts in a JSON file that only its owner can read; each call reads it anew.

    Args:
        file: made by the first `add`; its folder too.
    """

    def __init__(self, file: Path):
        self.file = Path(file)

    def __bool__(self) -> bool:
        return self.file.exists()

    def add(self, name: str, password: str | None, role: str) -> Person:
        """Return the new account's person.

        Args:
            password: None for somebody who is identified elsewhere, as on a Hugging Face Space.

        Raises:
            LabelError: `no_annotator, bad_text, bad_role, weak_password, account_exists`.
        """
        person = Person(_name(name), _role(role))
        if password is not None and len(password) < MIN_PASSWORD:
            raise LabelError(
                "weak_password", f"the password has {len(password)} characters; {MIN_PASSWORD} or more are needed"
            )
        secret = None if password is None else _HASHER.hash(check_text(password, "password"))
        with self._changing() as rows:
            if person.name in rows:
                raise LabelError("account_exists", f"there is an account {person.name!r} already; remove it first")
            rows[person.name] = {"role": role, "password": secret}
        return person

    def change_role(self, name: str, role: str) -> Person:
        """Return the person with another role; it counts from their next click on.

        Raises:
            LabelError: `unknown_account`, `bad_role`.
        """
        person = Person(_name(name), _role(role))
        with self._changing() as rows:
            self._row(rows, person.name)["role"] = role
        return person

    def remove(self, name: str) -> None:
        """Remove an account, with the right to do anything; the person's labels stay.

        Raises:
            LabelError: `unknown_account`.
        """
        with self._changing() as rows:
            self._row(rows, _name(name))
            del rows[_name(name)]

    def check(self, name: str, password: str) -> Person | None:
        """Return the person of this name and password, None when one of them is wrong."""
        row = self._rows().get(composed(name))
        secret = row["password"] if row else None
        nobody = _nobody()  # asked of known names too: the first call takes its time
        try:
            _HASHER.verify(secret or nobody, password)
        except (VerificationError, InvalidHashError):
            return None
        return Person(composed(name), row["role"]) if row and secret else None

    def person(self, name: str) -> Person | None:
        """Return the person with an account of this name."""
        row = self._rows().get(composed(name))
        return Person(composed(name), row["role"]) if row else None

    def stamp(self, name: str) -> str | None:
        """Return what stays the same until the account is removed or has another password; None without an account."""
        row = self._rows().get(composed(name))
        return None if row is None else row["password"] or "identified elsewhere"

    def people(self) -> list[Person]:
        """Return everybody with an account, by name."""
        return [Person(name, row["role"]) for name, row in sorted(self._rows().items())]

    def _rows(self) -> dict[str, dict]:
        try:
            rows = json.loads(self.file.read_text(encoding="utf-8"))
            if all(row["role"] in ROLES and "password" in row for row in rows.values()):
                return {composed(name): row for name, row in rows.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError, KeyError):
            pass  # the error below says it; nobody gets in by a damaged file
        raise LabelError("accounts_unreadable", f"{self.file} is not a readable accounts file; restore or delete it")

    def _row(self, rows: dict[str, dict], name: str) -> dict:
        if name not in rows:
            raise LabelError(
                "unknown_account", f"there is no account {name!r}; there is {', '.join(sorted(rows)) or 'none'}"
            )
        return rows[name]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, dict]]:
        """Yield the accounts to change, and replace the file at the end; two who change it wait for each other."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.file.parent, os.O_RDONLY) if fcntl else -1
        temporary = self.file.with_suffix(".tmp")
        try:
            if fcntl:
                fcntl.flock(folder, fcntl.LOCK_EX)
            rows = self._rows()
            yield rows
            temporary.unlink(missing_ok=True)  # of a writer that was killed
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
                json.dump(rows, out, indent=2, ensure_ascii=False)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, self.file)
        finally:
            if fcntl:
                os.close(folder)


@cache
def _nobody() -> str:
    """Return what a password of an unknown name is held against, so that refusing it takes as long as a wrong one."""
    return _HASHER.hash("nobody")


def _name(name: str) -> str:
    name = clean_name(name, "account")
    if not name:
        raise LabelError("no_annotator", "an account needs a name")
    return name


def _role(role: str) -> str:
    if role not in ROLES:
        raise LabelError("bad_role", f"role {role!r} is none of {', '.join(ROLES)}")
    return role
