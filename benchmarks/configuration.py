"""What is run: an editing method with its choices and numbers, as one line of text."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.errors import ChoiceError
from editing import methods
from editing.editor import Editor
from editing.errors import OptionError
from editing.install import Installation
from editing.memory.state import EditState
from editing.methods.method import Protect
from editing.methods.parameters import GROUP_OF, Parameters
from editing.methods.published import parameters
from editing.model.loaded import LoadedModel, load_model
from editing.solve.placement import Placement, rounds
from editing.solve.second_moment import Progress
from editing.values.anchor import AnchorRule
from editing.values.options import ValueOptions

_PARTS = ("method", "placement", "anchor", "protect")
_VALUES = {f.name for f in fields(ValueOptions)}
_NUMBERS = set(GROUP_OF) - {"values"}


@dataclass(frozen=True)
class Configuration:
    """A method with all its choices made.

    Attributes:
        changes: (name, text) of fields of `Parameters` and `ValueOptions` that shall differ from the
            method's own numbers.
    """

    method: str
    placement: Placement
    anchor: AnchorRule
    protect: Protect
    changes: tuple[tuple[str, str], ...] = field(default=())

    @classmethod
    def parse(cls, text: str, values: str = "") -> "Configuration":
        """``method[:placement[:anchor[:protect[:name=value,…]]]]``; an empty part is the method's default.

        Args:
            values: ``name=value,…`` put before the configuration's own.

        Raises:
            ChoiceError: a part is unknown or does not combine with the method.
        """
        method, placement, anchor, protect, changes = (text.split(":", 4) + [""] * 4)[:5]
        try:
            combined = methods.named(method).combined(
                method, placement or None, anchor or None, protect or "none"
            )
        except OptionError as error:
            raise ChoiceError(f"configuration {text!r}: {error}") from error
        return cls(method, *combined, changes=_changes(values) + _changes(changes))

    def __str__(self) -> str:
        parts = [getattr(self, part) for part in _PARTS]
        return ":".join([*parts, self.options] if self.options else parts)

    @property
    def options(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.changes)

    def numbers(self, loaded: LoadedModel) -> Parameters:
        """The method's numbers for a model, with the changes."""
        found = parameters(self.method, loaded, self.placement)
        for name, value in self.changes:
            if name in _VALUES:
                values = replace(found.values, **{name: _converted(name, value, getattr(found.values, name))})
                found = replace(found, values=values)
            else:
                found = found.changed(**{name: _converted(name, value, found.get(name))})
        return found

    def layers(self, loaded: LoadedModel) -> tuple[int, ...]:
        """Those that are written, of a placement that writes once."""
        (write,) = rounds(self.placement, self.numbers(loaded).layers)
        return write.layers

    def choices(self, loaded: LoadedModel) -> dict[str, Any]:
        """What an editor is told besides the model and its statistics."""
        return {part: getattr(self, part) for part in _PARTS} | {"numbers": self.numbers(loaded)}

    def open(self, loaded: LoadedModel, install: Installation) -> Editor:
        """An editor on a model that has its unedited weights."""
        return Editor(loaded, install, **self.choices(loaded))


def _changes(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or name not in _VALUES | _NUMBERS:
            known = ", ".join(sorted(_VALUES | _NUMBERS))
            raise ChoiceError(f"{part!r}: write name=value, a name being one of {known}")
        found.append((name, value))
    return tuple(found)


def _converted(name: str, text: str, old: object) -> Any:
    """`text` as the type of `old`; layers are written 4-8 or 4.6.8."""
    try:
        if isinstance(old, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(old, tuple):
            return _listed(text, of_texts=isinstance(old[0], str))
        if isinstance(old, int | float | str):
            return type(old)(text)
    except (KeyError, ValueError) as error:
        raise ChoiceError(f"{name} = {text!r}: give a value like {old!r}") from error
    raise ChoiceError(f"{name} = {old!r} cannot be changed from the command line; leave it out")


def _listed(text: str, of_texts: bool) -> tuple[str, ...] | tuple[int, ...]:
    if of_texts:
        return tuple(text.split("."))
    first, dash, last = text.partition("-")
    return tuple(range(int(first), int(last) + 1)) if dash else tuple(map(int, text.split(".")))


@dataclass(frozen=True)
class Model:
    """A loaded model with its statistics, on which configurations are run one after another."""

    name: str
    loaded: LoadedModel
    install: Installation

    @classmethod
    def open(
        cls,
        name: str,
        state_dir: Path,
        progress: Progress,
        *,
        dtype: str = "auto",
        corpus: Path | None = None,
        tokens: int | None = None,
    ) -> "Model":
        """See `Editor.open`."""
        loaded = load_model(name, state_dir, dtype)
        return cls(name, loaded, Installation(loaded, state_dir, corpus, progress, tokens))

    @contextmanager
    def editor(self, configuration: Configuration) -> Generator[Editor]:
        """An editor for a while; the model is unedited before and after."""
        editor = configuration.open(self.loaded, self.install)
        try:
            yield editor
        finally:
            editor.restore(EditState())


def parse_all(texts: Sequence[str], values: str = "") -> list[Configuration]:
    """Configurations without repeats, in order."""
    return list(dict.fromkeys(Configuration.parse(text, values) for text in texts))
