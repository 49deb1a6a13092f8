"""The source as a syntax tree: modules, what they import and where, functions and their lengths."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("editing", "monitoring", "benchmarks", "daemon")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def files() -> dict[str, Path]:
    """Module → its file."""
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {_name(path): path for path in found}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(files()[module].read_text())


def functions(module: str) -> Iterator[Function]:
    return (node for node in ast.walk(tree(module)) if isinstance(node, Function))


def body_lines(function: Function) -> int:
    """Lines of a function's body: without its signature, its docstring and the functions within it."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    lines = set(range(body[0].lineno, (body[-1].end_lineno or 0) + 1))
    for inner in ast.walk(function):
        if isinstance(inner, Function) and inner is not function:
            lines -= set(range(inner.lineno, (inner.end_lineno or 0) + 1))
    return len(lines)


def imported(module: str) -> set[str]:
    """Our modules that a module imports: anywhere, so also in functions and for type checkers alone."""
    return set().union(*(_targets(node) for node in ast.walk(tree(module)))) - {module}


def late_imports(module: str) -> set[int]:
    """Lines of the imports within functions."""
    found = (node for function in functions(module) for node in ast.walk(function))
    return {node.lineno for node in found if isinstance(node, ast.Import | ast.ImportFrom)}


def _targets(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & files().keys()
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        # `from daemon.apply import building` imports a module, `from daemon.app import celery` a name.
        inner = {f"{node.module}.{alias.name}" for alias in node.names} & files().keys()
        named = len(inner) < len(node.names)
        return inner | ({node.module} & files().keys() if named else set())
    return set()


def circles() -> set[frozenset[str]]:
    """Sets of modules that import each other, directly or by way of others (Tarjan's components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in imported(module):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            start = stack.index(module)
            if len(stack) - start > 1:
                found.add(frozenset(stack[start:]))
            del stack[start:]

    for module in files():
        if module not in index:
            visit(module)
    return found


def bare_any(module: str) -> list[str]:
    """Parameters annotated as `Any` alone; `*args: Any` and `**rest: Any` are of no fixed type."""
    return [
        f"{function.name}({argument.arg})"
        for function in functions(module)
        for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        if isinstance(argument.annotation, ast.Name) and argument.annotation.id == "Any"
    ]
