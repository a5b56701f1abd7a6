"""Error types. Every message names the fault and its remedy in one line."""

from __future__ import annotations

from typing import Final

DIVERGED: Final = "diverged: "
"""Start of the message of `Diverged`. A trial with the same settings would fail in the same way."""


class BadInput(Exception):
    """Something the user gave cannot be used. Commands print the message alone and exit with code 2."""


class CorruptFile(BadInput):
    """A file exists, but its content is damaged or was changed."""


class NotQuasiHomogeneous(BadInput):
    """Φ(x; e^{αΛ}ζ) = e^α Φ(x; ζ) does not hold for the degrees Λ that were chosen."""

    def __init__(self, layer: str, reason: str) -> None:
        """`layer` names the module at fault."""
        super().__init__(f"the classifier is not quasi-homogeneous: {layer}: {reason}")
        self.layer, self.reason = layer, reason


class Diverged(Exception):
    """A loss stopped being finite. The trial has failed because of its settings, not because of a fault in the program."""

    def __init__(self, step: int, part: str) -> None:
        """`part` is the name of the first loss that was not finite, seen at optimiser step `step`."""
        super().__init__(f"{DIVERGED}{part} was not finite at step {step}")
        self.step, self.part = step, part

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, str]]:
        """Rebuild from (step, part): the default would call the constructor with the message."""
        return type(self), (self.step, self.part)


class Disagreement(Exception):
    """Measured values differ from the logged ones. Commands print the result first, then this message, and exit with code 1."""
