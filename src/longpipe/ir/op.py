"""One unit of work, and its text form `2F3.1`."""

import re
from typing import NamedTuple

from longpipe.errors import ScheduleError
from longpipe.ir.kind import Kind

# Longest words first, so that RECV_F is not read as a stray letter.
_KINDS = "|".join(sorted((kind.value for kind in Kind), key=len, reverse=True))
_NUMBER = r"(\d{1,18})"  # enough for any pipeline; Python refuses to convert far longer ones
_TEXT = re.compile(rf"{_NUMBER}({_KINDS}){_NUMBER}(?:\.{_NUMBER})?", re.ASCII)


class Op(NamedTuple):
    """One unit of work: what, on which stage, for which micro-batch and segment.

    >>> str(Op(Kind.F, stage=2, mb=3, seg=1)), str(Op(Kind.B, stage=0, mb=7))
    ('2F3.1', '0B7')
    """

    kind: Kind
    stage: int
    mb: int
    seg: int = 0

    def __str__(self) -> str:
        tail = f".{self.seg}" if self.seg else ""
        return f"{self.stage}{self.kind.value}{self.mb}{tail}"

    @classmethod
    def parse(cls, text: str) -> "Op":
        """Read the text form; raise ScheduleError on anything that does not print back equal.

        >>> Op.parse("2F3.1")
        Op(kind=<Kind.F: 'F'>, stage=2, mb=3, seg=1)
        """
        found = _TEXT.fullmatch(text)
        op = found and cls(Kind(found[2]), int(found[1]), int(found[3]), int(found[4] or 0))
        if op is None or str(op) != text:
            raise ScheduleError(
                f"cannot read {text!r} as an op: write <stage><kind><micro-batch>[.<segment>], "
                f"such as 2F3 or 2F3.1; kinds are {' '.join(kind.value for kind in Kind)}"
            )
        return op
