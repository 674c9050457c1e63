"""Writes README.md from nbs/index.ipynb (Quarto, which nbdev would use, is not needed), and from it the package's page.

On a package index there are no files beside the page, so its relative links become names of files. `--check` only
compares.
"""
import re
import sys
from pathlib import Path

import nbformat

NOTICE = "<!-- Written from nbs/index.ipynb by tools/readme.py. Edit that notebook, then `make readme`. -->"
HIDDEN = re.compile(r"^#\|\s*hide\b", re.M)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)


def output_text(output) -> str:
    "An output as Markdown: text in a code block; pictures and HTML have no place in a README."
    if output.get("name") == "stderr":
        return ""
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def cell_markdown(cell) -> str:
    "A cell as Markdown; hidden cells are left out."
    if cell.cell_type == "markdown":
        return re.sub(r"\]\((?!https?:|#)([^)]+)\)", r"](nbs/\1)", cell.source).replace("](nbs/../", "](")
    if cell.cell_type != "code" or HIDDEN.search(cell.source):
        return ""
    source = DIRECTIVE.sub("", cell.source).strip()
    return "\n\n".join([f"```python\n{source}\n```", *filter(None, map(output_text, cell.outputs))])


def readme(notebook: Path = Path("nbs/index.ipynb")) -> str:
    "The whole README."
    cells = nbformat.read(notebook, 4).cells
    return "\n\n".join([NOTICE, *filter(None, map(cell_markdown, cells))]) + "\n"


def package_page(text: str) -> str:
    "The README for a package index: links to files become their names."
    return re.sub(r"\[[^\]]+\]\((?!https?:|#)([^)]+)\)", r"`\1`", text)


if __name__ == "__main__":
    text = readme()
    for target, wanted in ((Path("README.md"), text), (Path("tools/package_page.md"), package_page(text))):
        if "--check" not in sys.argv:
            target.write_text(wanted, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != wanted:
            sys.exit(f"{target} differs from nbs/index.ipynb. Run `make readme` and commit it.")
