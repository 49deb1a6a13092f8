"""The pages of docs/ that are written from the code; `make docs` runs `python -m daemon.cli.docs`.

tests/daemon/cli/test_docs.py fails when a page differs from the code.
"""

import ast
import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import typer
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sqlalchemy import create_engine
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from daemon.cli.exits import EXIT_MEANINGS
from daemon.cli.lazy import LazyGroup
from daemon.cli.main import app
from daemon.core import settings
from daemon.core.messages import Correction, Neighbour
from daemon.core.settings import Settings, load_settings
from daemon.http.api import create_app, router
from daemon.http.service import ADMIN, SUBMIT, may_review
from daemon.ledger.database import Database
from daemon.ledger.ledger import Ledger
from monitoring.reference import metrics_page

#: Folder of the four pages; the other pages in it are written by hand.
FOLDER = Path(__file__).parents[2] / "docs"

# What stands above the tables.
CLI = """\
Every command takes `--help`. Answers go to stdout, messages, bars and errors to stderr. Colours and bars
are for terminals: a pipe gets none, nor does a terminal with `NO_COLOR` set. With `--json` an error is an
object on stdout too: `{"error", "mend", "exit_code"}`.
`factd --install-completion` sets up completion of commands and options in your shell."""
SETTINGS = """\
Read from the environment, once, by each process. A command's option wins over the variable; what a running
`factd up` has announced fills in what neither names. A setting that cannot be used ends a command with exit
code 2 and names every setting at fault. vLLM's own process reads `FACTD_STORE`, `FACTD_ADMIN_TOKEN`,
`FACTD_VERSION_KEY` and `FACTD_BASE_HASH` ([serving](serving.md#starting-vllm))."""
API = """\
Bearer tokens: `submit` posts and asks, `admin` may do all that `submit` may, operate, and review what others
posted; tokens of sources are in [trust](trust.md). The first two are in
`STATE/run/tokens.json`, or come from `FACTD_SUBMIT_TOKEN` and `FACTD_ADMIN_TOKEN`. The schema itself is
served at `GET /v1/openapi.json`. Times are unix seconds; `valid_from`,
`valid_until` and `coming` are ISO 8601 in UTC. Every `GET` route answers `HEAD`. Quote an id as one part of
the path: `a/b` is `a%2Fb`.

A refusal is `{"detail": …}`, and nothing of the message was recorded:

- 401: no token; 403: the other scope's
- 404: unknown id; 409: a contradiction of what is recorded
- 413: too large a body
- 422: a bad message. Of a correction it has `"problems": [{"field", "value", "mend", "line"}]` and `"more"`,
  how many are not listed"""


def pages() -> dict[str, str]:
    """File name → text."""
    return {
        "cli.md": cli_page(),
        "settings.md": settings_page(),
        "metrics.md": metrics_page(),
        "api.md": api_page(),
    }


def main() -> None:
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"written: {path}\n")


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(columns)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]


def _page(title: str, source: str, *parts: str) -> str:
    head = f"# {title}\n\nGenerated from {source} by `make docs`; a test compares."
    return "\n\n".join([head, *parts]) + "\n"


# -- command line -----------------------------------------------------------------------------------


def cli_page() -> str:
    root = cast(LazyGroup, typer.main.get_command(app))
    codes = _table(
        ("code", "name", "meaning"), ((str(int(c)), c.name, text) for c, text in EXIT_MEANINGS.items())
    )
    commands = ["\n".join(_command(name, command)) for name, command in _leaves(root)]
    return _page("Commands", "the commands themselves", CLI, "## Exit codes", "\n".join(codes), *commands)


def _leaves(group: TyperGroup, path: str = "factd") -> Iterator[tuple[str, TyperCommand]]:
    for name, listed in group.commands.items():
        command = group.loaded(name) if isinstance(group, LazyGroup) else cast(TyperCommand, listed)
        if isinstance(command, TyperGroup):
            yield from _leaves(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _command(name: str, command: TyperCommand) -> list[str]:
    arguments = [param for param in command.params if isinstance(param, TyperArgument)]
    options = [param for param in command.params if isinstance(param, TyperOption) and not param.hidden]
    usage = [name, *(a.name.upper() if a.required else f"[{a.name.upper()}]" for a in arguments)]
    lines = [f"## {name}", "", f"`{' '.join([*usage, *(['[OPTIONS]'] if options else [])])}`", ""]
    lines += [inspect.cleandoc(command.help or ""), ""]
    rows = [(f"`{a.name.upper()}`", "", a.help or "") for a in arguments]
    rows += [(f"`{', '.join((*o.opts, *o.secondary_opts))}`", _default(o), o.help or "") for o in options]
    return lines + _table(("parameter", "default", "meaning"), rows)


def _default(option: TyperOption) -> str:
    shown = option.default() if callable(option.default) else option.default
    if option.required:
        return "required"
    return "" if shown in (None, False, "", []) else f"`{shown}`"


# -- settings ---------------------------------------------------------------------------------------


def settings_page() -> str:
    meanings = setting_meanings()
    rows = [
        (f"`FACTD_{name.upper()}`", f"`{_type(field.annotation)}`", _shown(field), meanings[name])
        for name, field in Settings.model_fields.items()
    ]
    table = _table(("variable", "type", "default", "meaning"), rows)
    return _page("Settings", "`daemon/core/settings.py`", SETTINGS, "\n".join(table))


def setting_meanings() -> dict[str, str]:
    """Setting → the text of the `#:` comment above it; empty where there is none."""
    source = inspect.getsource(settings)
    lines = source.splitlines()
    body = next(
        n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Settings"
    ).body
    found: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, words = node.lineno - 2, list[str]()
            while lines[above].strip().startswith("#:"):
                words.insert(0, lines[above].strip().removeprefix("#:").strip())
                above -= 1
            found[node.target.id] = " ".join(words)
    return found


def _type(annotation: object) -> str:
    """`Path | None`, `int`, `list of str` and so on."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()):
        return "secret" if annotation.__name__ == "SecretStr" else annotation.__name__
    text = str(annotation).replace("pathlib.Path", "Path").replace("pydantic.types.SecretStr", "secret")
    return text.replace("pathlib._local.Path", "Path").replace("tuple[str, ...]", "list of str")


def _shown(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    return f"`{json.dumps(value, default=str)}`"


# -- HTTP -------------------------------------------------------------------------------------------


def api_page() -> str:
    parts = ["## Routes", "\n".join(_table(("route", "scope", "meaning"), _route_rows()))]
    for model, text in (
        (
            Correction,
            "Body of `POST /v1/corrections` (one, or a list), of a line of `factd post --file`, and of\n"
            "`factd.submit`. Unknown fields are refused.",
        ),
        (Neighbour, "A statement close to the correction that must stay as it is."),
    ):
        rows = _table(("field", "type", "required", "limits"), _field_rows(model))
        parts += [f"## {model.__name__}", text, "\n".join(rows)]
    return _page(
        "HTTP API", "the OpenAPI schema of `daemon/http/api.py` and `daemon/core/messages.py`", API, *parts
    )


def described_app() -> FastAPI:
    """The application for the description of its routes; its database is empty."""
    nothing = Ledger(Database(create_engine("sqlite://")))
    return create_app(load_settings(admin_token="unused"), nothing, replicas=[], ring=lambda: None)


def _route_rows() -> Iterator[tuple[str, str, str]]:
    scopes = {id(SUBMIT[0].dependency): "submit", id(ADMIN[0].dependency): "admin"}
    scopes[id(may_review)] = "review"
    scope_of = {
        (method.lower(), route.path_format): scopes[id(given.call)]
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
        # Also a dependency that a route takes as a parameter, to get the token's name.
        for given in route.dependant.dependencies
        if id(given.call) in scopes
    }
    for path, methods in described_app().openapi()["paths"].items():
        for method, route in methods.items():
            given = [f"{one['name']}=" for one in route.get("parameters", ()) if one["in"] == "query"]
            shown = f"`{method.upper()} {path}{'?' + '&'.join(given) if given else ''}`"
            meaning = route.get("description") or f"{route['summary']}."
            yield shown, scope_of.get((method, path), "open"), " ".join(meaning.split())


def _field_rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    schema = model.model_json_schema()
    for name, field in schema["properties"].items():
        kind = next(one for one in field.get("anyOf", [field]) if one.get("type") != "null")
        items = kind.get("items", {})
        shown = kind.get("type", "") + (
            f" of {items.get('type') or items['$ref'].rsplit('/', 1)[-1]}" if items else ""
        )
        words = {"minLength": "{} character or more", "maxLength": "{} characters at most"}
        words |= {"maxItems": "{} at most", "minimum": "{} or more", "maximum": "{} or less"}
        limits = [text.format(kind[key]) for key, text in words.items() if key in kind]
        yield f"`{name}`", shown, "yes" if name in schema.get("required", ()) else "no", ", ".join(limits)


if __name__ == "__main__":
    main()
