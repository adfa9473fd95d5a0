"""The reference of every public name, from docstrings, as pages of Sphinx's Python domain.

Files are read, never imported, so that the reference needs neither torch nor Ray; docstrings are plain text with
`code`, which is Markdown once what Markdown would take for its own is escaped.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$")
ENTRY = re.compile(r"^    (\S[^:]{0,60}): (.*)$")


def pages(root: Path, docs: Path) -> dict[Path, str]:
    """What to write where: a page for each package and one that lists them, below `docs`/api."""
    made, listed = {}, []
    packages = [path.parent for top in ("pipeline", "stages") for path in sorted((root / top).rglob("__init__.py"))]
    for folder in packages:
        name = ".".join(folder.relative_to(root).parts)
        files = [path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
        caption = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
        body = [f"# {name}", text(caption)]
        body += [module(path, f"{name}.{path.stem}") for path in files]
        made[docs / "api" / f"{name}.md"] = "\n\n".join(body) + "\n"
        listed.append(name)
    head = "# Reference\n\nEvery public name, from its docstring. What something is for is said on the other pages.\n"
    made[docs / "api" / "index.md"] = head + "\n```{toctree}\n" + "\n".join(listed) + "\n```\n"
    return made


class Full(ast.NodeTransformer):
    """Annotations with the full names of what is ours, so that two classes of one name are told apart."""

    def __init__(self, tree: ast.Module, name: str) -> None:
        self.known = {node.name: f"{name}.{node.name}" for node in tree.body if isinstance(node, ast.ClassDef)}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.known[node.targets[0].id] = f"{name}.{node.targets[0].id}"
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                of = f"{name.rpartition('.')[0]}.{node.module}" if node.level else node.module or ""
                if of.split(".")[0] in ("pipeline", "stages"):
                    self.known |= {alias.asname or alias.name: f"{of}.{alias.name}" for alias in node.names}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.parse(self.known.get(node.id, node.id), mode="eval").body

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        given = node.args
        for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]:
            if argument is not None and argument.annotation is not None:
                argument.annotation = self.visit(argument.annotation)
        node.returns = None if node.returns is None else self.visit(node.returns)
        return node


def module(path: Path, name: str) -> str:
    """The section of one module."""
    tree = ast.parse(path.read_text("utf-8"))
    full = Full(tree, name)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            full.visit_FunctionDef(node)
    parts = [f"## {name}", fenced(4, f"{{py:module}} {name}", ""), text(ast.get_docstring(tree) or "")]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            parts.append(klass(node))
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            parts.append(function(node, "function"))
        elif isinstance(node, ast.Assign) and re.fullmatch(r"[A-Z]\w*[a-z]\w*", ast.unparse(node.targets[0])):
            alias = ast.unparse(node.value).replace("\n", " ")
            parts.append(fenced(6, f"{{py:data}} {ast.unparse(node.targets[0])}", f":value: {alias}"))
    return "\n\n".join(part for part in parts if part)


def klass(node: ast.ClassDef) -> str:
    """A class with its fields and public methods that say what they do."""
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not ast.unparse(n.target).startswith("_")]
    fields = [n for n in fields if not ast.unparse(n.annotation).startswith("ClassVar")]
    frozen = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    given = ", ".join(f"{ast.unparse(n.target)}{'=' + default(n.value) if n.value else ''}" for n in fields)
    bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
    inside = [f"A kind of {bases}." if bases else "", text(ast.get_docstring(node) or "")]
    if frozen and fields:
        inside.append("\n".join(f"- `{ast.unparse(n.target)}: {ast.unparse(n.annotation)}`" for n in fields))
    for n in node.body:
        if isinstance(n, ast.FunctionDef) and not n.name.startswith("_") and ast.get_docstring(n):
            plain = any(ast.unparse(decorator).endswith("property") for decorator in n.decorator_list)
            inside.append(function(n, "property" if plain else "method", 5))
    return fenced(6, f"{{py:class}} {node.name}{f'({given})' if frozen else ''}", "\n\n".join(filter(None, inside)))


def default(value: ast.expr) -> str:
    """A default as a signature shows it: long ones are cut, and `field(...)` is what it stands for."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        value = next((word.value for word in value.keywords if word.arg == "default"), ast.Constant(...))
    shown = ast.unparse(value)
    return shown if len(shown) <= 40 else "..."


def function(node: ast.FunctionDef, kind: str, ticks: int = 6) -> str:
    """A function, method or property."""
    arguments = node.args
    if kind != "function" and arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments = ast.arguments(
            arguments.posonlyargs,
            arguments.args[1:],
            arguments.vararg,
            arguments.kwonlyargs,
            arguments.kw_defaults,
            arguments.kwarg,
            arguments.defaults,
        )
    given = "" if kind == "property" else f"({ast.unparse(arguments)})"
    back = f" -> {ast.unparse(node.returns)}" if node.returns is not None and kind != "property" else ""
    return fenced(ticks, f"{{py:{kind}}} {node.name}{given}{back}", text(ast.get_docstring(node) or ""))


def fenced(ticks: int, opening: str, inside: str) -> str:
    """A directive; an outer one has more ticks than those within."""
    return f"{'`' * ticks}{opening}\n{inside}\n{'`' * ticks}"


def text(docstring: str) -> str:
    """A docstring as Markdown: sections as lists, everything that only Markdown would take for a mark escaped."""
    out, section, code = [], False, False
    for line in docstring.splitlines():
        if SECTION.match(line):
            out += ["", f"**{line.rstrip(':')}**", ""]
            section = True
        elif section and (entry := ENTRY.match(line)):
            out.append(f"- `{entry[1]}`: {plain(entry[2])}")
        elif section and line.startswith("    "):
            out.append(f"  {plain(line.strip())}" if out[-1] else f"- {plain(line.strip())}")
        else:
            section = section and not line.strip()
            code = line.startswith("    ") and (code or not out or not out[-1].strip())
            out.append(line if code else plain(line))
    return "\n".join(out)


def plain(line: str) -> str:
    """A line with the marks of Markdown escaped, outside of `code`."""
    parts = re.split(r"(`[^`]*`)", line)
    parts[::2] = [re.sub(r"([\\*<\[\]_{}])", r"\\\1", part) for part in parts[::2]]
    return re.sub(r"^(\s*)([>#+]|\d+(?=[.)] ))", r"\1\\\2", "".join(parts))
