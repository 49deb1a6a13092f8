"""Errors of the editing package.

EditError                 anything below
├── ModelError            a model cannot be loaded, or is of an unknown family
├── FactError             a fact cannot be written as given: names the field, the value and the mend
├── OptionError           a method, placement, anchor or protection that does not exist or does not combine
├── SolveError            a system is not positive definite or not finite
└── DeltaError            a version's file is missing, damaged, or does not fit the base weights
"""


class EditError(Exception):
    """Base of all errors raised on purpose by `editing`."""


class ModelError(EditError):
    """Raised when a model cannot be loaded or its family is unknown."""


class OptionError(EditError):
    """Raised when an editing option is unknown or does not combine with the others."""


class SolveError(EditError):
    """Raised when a linear system is not positive definite or holds values that are not finite."""


class DeltaError(EditError):
    """Raised when a version's tensors are missing, damaged, or do not fit the base weights."""


class FactError(EditError):
    """Raised when a fact cannot be written as given.

    Attributes:
        field: the field at fault, e.g. ``"subject"``.
        value: its value, shortened for display.
        mend: what to change.
    """

    def __init__(self, field: str, value: object, mend: str) -> None:
        text = repr(value)
        self.field, self.value, self.mend = field, text if len(text) <= 80 else text[:77] + "...", mend
        super().__init__(f"{field} = {self.value}: {mend}")
