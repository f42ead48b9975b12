"""What the doctor found of one thing."""

from dataclasses import dataclass

OK, NOTE, BAD = "ok", "note", "BAD"  # a note stops nobody


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do where that is not well."""

    what: str
    state: str  # OK | NOTE | BAD
    found: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.state:4}  {self.what:15}  {self.found}" + (f"; {self.cure}" if self.cure else "")
