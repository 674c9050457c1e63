"""Holds the rooms of the package in order: imports, names of notebooks, faces, references; and writes lists.

A room imports only from rooms above it in ORDER, a module only from modules before it in its room. Lists of rooms and of
the catalogue stand between marks (`<!-- formats -->`, `<!-- /formats -->`) in nbs/index.ipynb, nbs/guide and
CONTRIBUTING.md; `--write` writes them, without it they are compared.
"""
import ast
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import nbformat

TOP = ["settings", "errors", "transcripts", "reference", "downloads", "catalogue"]  # modules that every room may use, in order
ORDER = ["paradigms", "participants", "data", "contribute", "inputs", "likelihood", "models", "store", "scoring", "stats",
         "figures", "workbench", "organism"]  # a room imports from those before it
NUMBERED = re.compile(r"(\d\d)_(\w+)\.ipynb$")
LINK = re.compile(r"\]\((?!https?:|#|data:)([^)\s#]+)")
FLAT = re.compile(r"`(\d\d[a-z]?_[a-z]\w*)`")  # as notebooks were called before there were rooms
PATH = re.compile(r"nbs/(?:\w+/)?\d\d_\w+\.ipynb|tests/[\w/]+\.py")
NAMED = re.compile(rf"`({'|'.join(ORDER)})\.(?!csv)(\w+)(?:\.(\w+))?[(`]")


def imports(path: Path) -> list[str]:
    "The modules of the package that a module imports, as `room.module` or `module`; also inside of functions."
    package = ("psych201", *path.parent.parts[1:])
    targets = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            if module and module[0] == "psych201":
                inside = ".".join(module[1:])
                targets += [inside] if inside and inside not in ORDER else [f"{inside}.{a.name}".strip(".") for a in node.names]
    return [target for target in targets if target not in ("__version__", "")]


def ranks() -> dict[str, tuple[int, int]]:
    "Each module -> (place of its room, number in it); modules at the top come before all rooms."
    placed = {name: (-1, number) for number, name in enumerate(TOP)} | {"settings": (-1, 0)}
    for place, room in enumerate(ORDER):
        for path in Path("nbs", room).glob("*.ipynb"):
            if match := NUMBERED.match(path.name):
                placed[f"{room}.{match[2]}"] = (place, int(match[1]))
    return placed


def import_faults() -> list[str]:
    "Imports against the order, and modules without a numbered notebook."
    placed, wrong = ranks(), []
    for path in sorted(Path("psych201").rglob("*.py")):
        name = ".".join(path.with_suffix("").parts[1:])
        if path.name.startswith("_"):
            continue
        if name not in placed:
            wrong.append(f"{path}: there is no notebook nbs/{path.parent.name}/NN_{path.stem}.ipynb")
            continue
        for target in imports(path):
            if target not in placed:
                wrong.append(f"{path}: imports {target}, which is not a module of a room")
            elif placed[target] >= placed[name]:
                wrong.append(f"{path}: imports {target}, which comes after it")
    return wrong


def face(room: str) -> dict[str, str]:
    "What a room offers: name -> module, from its stub."
    tree = ast.parse(Path("psych201", room, "__init__.pyi").read_text(encoding="utf-8"))
    return {alias.name: node.module or alias.name for node in tree.body for alias in node.names}


def public(path: Path) -> list[str]:
    "The names in a module's __all__."
    (node,) = [node for node in ast.parse(path.read_text(encoding="utf-8")).body
               if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"]
    return ast.literal_eval(node.value)


def face_faults() -> list[str]:
    "Modules that a face lacks, names that it offers and its module does not have, and names that a module would shadow."
    wrong = []
    for room in ORDER:
        modules = {path.stem for path in Path("psych201", room).glob("[!_]*.py")}
        wrong += [f"psych201/{room}/__init__.pyi: does not offer the module {name}" for name in sorted(modules - set(face(room)))]
        for name, module in face(room).items():
            if module != name and name not in public(Path("psych201", room, f"{module}.py")):
                wrong.append(f"psych201/{room}/__init__.pyi: {module} exports no {name}")
            if module != name and name in modules:
                wrong.append(f"psych201/{room}/__init__.pyi: the module {name} would shadow the function")
    return wrong


def reference_faults() -> list[str]:
    "References in notebooks to notebooks, modules and functions that are not there."
    wrong = []
    for path in sorted(Path("nbs").rglob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            wrong += [f"{path}: {name} is the name of a flat module" for name in FLAT.findall(cell.source)]
            for room, name, more in NAMED.findall(cell.source):
                module = Path("psych201", room, f"{name}.py")
                there = (more in public(module) if more else name in face(room)) if module.exists() else name in face(room)
                wrong += [] if there else [f"{path}: there is no {room}.{name}" + f".{more}" * bool(more)]
            if cell.cell_type == "markdown":
                wrong += [f"{path}: the link {link} leads nowhere" for link in LINK.findall(cell.source)
                          if not (path.parent / link).exists()]
    return wrong


def path_faults() -> list[str]:
    "Paths of notebooks and tests, in notebooks, tests, tools and pages, at which there is nothing."
    sources = [*Path(".").glob("*.md"), *Path("nbs").rglob("*.ipynb"),
               *(path for folder in ("tests", "tools", "bench") for path in Path(folder).rglob("*.py"))]
    return [f"{path}: there is no {name}" for path in sorted(sources) for name in PATH.findall(path.read_text(encoding="utf-8"))
            if not Path(name).exists()]


def sentence(room: str) -> str:
    "What a room holds: the docstring of its face."
    return ast.get_docstring(ast.parse(Path("psych201", room, "__init__.py").read_text(encoding="utf-8")))


def rooms_table(folder: str) -> str:
    "The rooms in Markdown: name and sentence, with links from a folder."
    return "\n".join(["| room | what it holds |", "|---|---|", *(f"| [{room}]({folder}{room}) | {sentence(room)} |" for room in ORDER)])


def notebooks_table(folder: str) -> str:
    "The rooms in Markdown with their notebooks."
    lines = ["| room | notebooks, in the order of imports |", "|---|---|"]
    for room in ORDER:
        names = [f"[{match[2]}]({folder}{room}/{path.name})" for path in sorted(Path("nbs", room).glob("*.ipynb"))
                 if (match := NUMBERED.match(path.name))]
        lines.append(f"| `{room}` | {', '.join(names)} |")
    return "\n".join(lines)


def generated() -> dict:
    "Name of a list -> function of a folder that makes it."
    spec = spec_from_file_location("catalogue", Path("psych201", "catalogue.py"))
    spec.loader.exec_module(catalogue := module_from_spec(spec))
    lists = {name: lambda _, name=name: catalogue.as_table(getattr(catalogue, name.upper())) for name in ("formats", "baselines", "figures", "paradigms")}
    return lists | {"rooms": rooms_table, "notebooks": notebooks_table}


def written(text: str, folder: str) -> str:
    "A text with each generated list between its two marks."
    for name, make in generated().items():
        text = re.sub(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", lambda m: m[1] + make(folder) + m[2], text, flags=re.S)
    return text


def list_faults(write: bool) -> list[str]:
    "Lists that are out of date in the guide, the README's notebook and CONTRIBUTING.md; or writes them."
    wrong = []
    for path in [Path("nbs/index.ipynb"), *sorted(Path("nbs/guide").glob("*.ipynb"))]:
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            text = written(cell.source, "" if path.parent.name == "nbs" else "../")
            wrong += [f"{path}: a generated list is out of date; run make readme"] if text != cell.source and not write else []
            cell.source = text
        if write:
            nbformat.write(notebook, path)
    path = Path("CONTRIBUTING.md")
    text = path.read_text(encoding="utf-8")
    if write:
        path.write_text(written(text, "nbs/"), encoding="utf-8")
    return wrong + ([f"{path}: a generated list is out of date; run make readme"] if written(text, "nbs/") != text and not write else [])


def main() -> int:
    "Prints the faults, or writes the lists."
    wrong = import_faults() + face_faults() + reference_faults() + path_faults() + list_faults("--write" in sys.argv)
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
