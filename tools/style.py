"""Counts prose, cell lengths and checks of every notebook and holds them against the limits of the project.

A method notebook (one that exports) has at least 2 words of prose per exported line, exported cells of at most 12
lines in the median and 50 at most, lines of at most 120 characters, at most 80 cells and 100 KB, exports at most 400
lines, and has a check for every public function. Prose (Markdown cells and docstrings) is plain English: WORDS lists what
it avoids.
"""
import ast
import re
import statistics
import sys
from pathlib import Path

import nbformat

MIN_WORDS_PER_LINE, MAX_MEDIAN, MAX_CELL, MAX_CELLS, MAX_KB = 2, 12, 50, 80, 100
MAX_LINE, MAX_LINES, MAX_SUBTITLE = 120, 400, 114  # a subtitle becomes the docstring of its module
WORDS = {  # pattern in prose -> better
    r"\banew\b": "again", r"(?i:\b(some|no)body\b)": "a participant, a user, no one", r"(?i:\bwhoever\b)": "the one who, or the noun",
    r"\b(is|are) said\b|\bsaid aloud\b": "the subject states, reports, prints", r"\bbeside\b": "next to, with, and",
    r"\bas good as none\b": "negligible", r"\bso much for\b": "leave it out", r"\bone row a\b": "one row per",
    r"(^|[.!?] )Where (?![^.!?]*\?)": "If, When", r"\bmakes? (the )?numbers\b": "computes", r"\bheld against\b": "compared with",
    r"\bthat (are|is) there\b": "existing, or leave it out", r"\bas it is told\b": "as reported"}
EXPORTED = re.compile(r"^#\|\s*exporti?\b", re.M)
DEFAULT_EXP = re.compile(r"^#\|\s*default_exp\s+(\S+)", re.M)
CHECK = re.compile(r"\bassert\b|\btest_\w+\(|\bexpect_fail\(|\bassert_\w+\(")


def docstring_lines(source: str) -> set[int]:
    "The lines of a cell, from 1, on which a docstring goes on after its first line."
    documented = (node.body[0] for node in ast.walk(ast.parse(source))
                  if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node))
    return {number for docstring in documented for number in range(docstring.lineno + 1, docstring.end_lineno + 1)}


def length(source: str) -> int:
    "Lines of code of a cell: blank ones, directives, and what a docstring says after its first line are left out."
    prose = docstring_lines(source)
    return sum(bool(line.strip()) and not line.startswith("#|") and number not in prose
               for number, line in enumerate(source.splitlines(), 1))


def public_functions(source: str) -> list[str]:
    "Names of the public functions that a cell defines."
    return [node.name for node in ast.parse(source).body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def vacuous(source: str) -> list[str]:
    "Bare calls of expect_fail: it is a context manager, so that without `with` it checks nothing."
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with a shell command or a magic
        return []
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "expect_fail"]


def docstrings(source: str) -> list[str]:
    "The docstrings of the functions and classes that a cell defines."
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def clumsy(texts: list[str]) -> list[str]:
    "What prose says and should not, with the better word."
    found = [(match, better) for text in texts for pattern, better in WORDS.items()
             for match in re.finditer(pattern, re.sub(r"```.*?```", "", text, flags=re.S), re.M)]
    return [f"...{match.string[max(0, match.start() - 25) : match.end() + 15]!r}... (better: {better})" for match, better in found]


def measure(path: Path) -> dict:
    "The counts of one notebook."
    notebook = nbformat.read(path, 4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    exported = [source for source in code if EXPORTED.search(source)]
    checks = "\n".join(re.sub(r"#.*", "", source) for source in code
                       if not EXPORTED.search(source) and CHECK.search(source))
    lines = [length(source) for source in exported]
    functions = [name for source in exported for name in public_functions(source)]
    return {
        "module": next((m.group(1) for source in code if (m := DEFAULT_EXP.search(source))), None),
        "kernel": notebook.metadata.get("kernelspec", {}).get("name"),
        "kb": path.stat().st_size / 1024, "cells": len(notebook.cells),
        "words_per_line": sum(len(text.split()) for text in prose) / max(1, sum(lines)),
        "median": statistics.median(lines) if lines else 0, "longest": max(lines, default=0),
        "clumsy": clumsy(prose + [text for source in exported for text in docstrings(source)]),
        "lines": sum(len(source.splitlines()) for source in exported),
        "long": [line for source in exported for line in source.splitlines() if len(line) > MAX_LINE],
        "subtitle": next((line[2:] for line in prose[0].splitlines() if line.startswith("> ")), "") if prose else "",
        "unchecked": [name for name in functions if not re.search(rf"\b{name}\b", checks)],
        "vacuous": [call for source in code for call in vacuous(source)],
        "repeated": sorted({cell.id for cell in notebook.cells if [c.id for c in notebook.cells].count(cell.id) > 1}),
        "titled": bool(prose) and prose[0].startswith("# ") and "\n> " in prose[0],
    }


def faults(path: Path) -> list[str]:
    "What a notebook does against the limits, in words."
    m = measure(path)
    found = [
        (not m["titled"], "the first cell is not a title with one sentence behind '>'"),
        (m["kernel"] != "python3", f"the kernel is {m['kernel']}, not python3"),
        (m["kb"] > MAX_KB, f"{m['kb']:.0f} KB, more than {MAX_KB}"),
        (m["cells"] > MAX_CELLS, f"{m['cells']} cells, more than {MAX_CELLS}"),
        (bool(m["repeated"]), f"two cells have the id {', '.join(m['repeated'])}"),
        (bool(m["clumsy"]), f"prose to mend, {len(m['clumsy'])} times: {'; '.join(m['clumsy'][:1])}"),
        (bool(m["vacuous"]), f"expect_fail without `with` checks nothing: {m['vacuous'][:1]}"),
    ]
    if m["module"]:
        found += [
            (m["words_per_line"] < MIN_WORDS_PER_LINE,
             f"{m['words_per_line']:.1f} words of prose per exported line, fewer than {MIN_WORDS_PER_LINE}"),
            (m["median"] > MAX_MEDIAN, f"exported cells of {m['median']} lines in the median, more than {MAX_MEDIAN}"),
            (m["longest"] > MAX_CELL, f"an exported cell of {m['longest']} lines, more than {MAX_CELL}"),
            (bool(m["long"]), f"{len(m['long'])} exported lines of more than {MAX_LINE} characters: {m['long'][:1]}"),
            (m["lines"] > MAX_LINES, f"exports {m['lines']} lines, more than {MAX_LINES}; split it"),
            (len(m["subtitle"]) > MAX_SUBTITLE, f"a subtitle of {len(m['subtitle'])} characters, more than {MAX_SUBTITLE}"),
            (bool(m["unchecked"]), f"no check for {', '.join(m['unchecked'])}"),
        ]
    return [text for wrong, text in found if wrong]


def main(folder: Path = Path("nbs")) -> int:
    "Prints a table and the faults; the exit status is 1 if there are any."
    paths = sorted(path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    bad, modules = [], {}
    print(f"{'notebook':38}{'KB':>5}{'cells':>7}{'words/line':>12}{'median':>8}{'longest':>9}")
    for path in paths:
        m = measure(path)
        print(f"{str(path.relative_to(folder)):38}{m['kb']:5.0f}{m['cells']:7}{m['words_per_line']:12.1f}"
              f"{m['median']:8.1f}{m['longest']:9}")
        bad += [f"{path}: {text}" for text in faults(path)]
        if m["module"] in modules:
            bad.append(f"{path}: exports to {m['module']}, as {modules[m['module']]} does; one would overwrite the other")
        if m["module"]:
            modules[m["module"]] = path
    print(*bad, sep="\n", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
