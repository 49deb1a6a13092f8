"""Errors of the benchmarks.

BenchError                anything below
├── DataError             a file of facts or text is missing, damaged, or of an unknown schema
└── ChoiceError           a configuration cannot be read: names the part and what is possible
"""


class BenchError(Exception):
    """Base of all errors raised on purpose by `benchmarks`."""


class DataError(BenchError):
    """Raised when facts or texts cannot be read."""


class ChoiceError(BenchError):
    """Raised when an option of a benchmark cannot be read."""
