"""A group of commands that imports a command's module only when the command is called.

This is the one place of the command line that imports lazily. `factd --help` and a mistyped option must be
answered at once, and torch alone takes seconds to load. So each command's file has its imports at the top,
and only the file of the command that runs is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from daemon.cli.exits import EPILOG, CommandError, Exit, fail


@dataclass(frozen=True)
class Entry:
    """A command in the list of its group.

    Attributes:
        where: module and name, as `daemon.cli.ask.tail:tail`: a function, or a `typer.Typer` of commands.
        help: the first sentence of its docstring; a test compares.
        needs: packages of the extra `bench` that it cannot do without.
    """

    where: str
    help: str
    needs: tuple[str, ...] = ()

    def check(self, as_json: bool) -> None:
        """Ends the command when a package is missing: now, not after hours of measuring."""
        for package in self.needs:
            if find_spec(package) is None:
                mend = "pip install 'factd[bench]', or `make setup` in the repository"
                fail(CommandError(Exit.FAILED, f"{package} is not installed", mend), as_json)

    def load(self, name: str) -> Any:
        """The command itself, for typer."""
        module, _, attribute = self.where.partition(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(name, epilog=EPILOG)(found)
            found = single
        return typer.main.get_command(found)


class LazyGroup(TyperGroup):
    """Lists its commands from `table`; loads one when it is called."""

    table: ClassVar[Mapping[str, Entry]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in self.table.items():
            # Stands for the command in the help, in suggestions and in completion.
            self.add_command(TyperCommand(name, help=entry.help))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, command, rest
        self.table[name].check("--json" in rest)
        return name, self.loaded(name), rest

    def loaded(self, name: str) -> Any:
        """The command of this name with all its options."""
        return self.table[name].load(name)


def group_of(table: Mapping[str, Entry], **about: Any) -> typer.Typer:
    """A typer application whose commands are those of the table.

    Args:
        about: name, help and so on, as `typer.Typer` takes them.
    """

    class Group(LazyGroup):
        pass

    Group.table = table
    shown: dict[str, Any] = {
        "epilog": EPILOG,
        "no_args_is_help": True,
        "rich_markup_mode": None,
        "add_completion": False,
    }
    made = typer.Typer(cls=Group, pretty_exceptions_enable=False, **(shown | about))
    # Without a callback typer would take an application that has no commands yet for no group.
    made.callback()(lambda: None)
    return made
