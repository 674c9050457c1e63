"""Writes README.md from nbs/index.ipynb (Quarto, which nbdev would use, is not needed), and from it the package's page.

On a package index there are no files beside the page, so its relative links become names of files. `--check` only
compares.
"""
import base64
import re
import sys
from pathlib import Path

import nbformat

NOTICE = "<!-- Written from nbs/index.ipynb by tools/readme.py. Edit that notebook, then `make readme`. -->"
HIDDEN, HIDDEN_INPUT = re.compile(r"^#\|\s*hide\s*$", re.M), re.compile(r"^#\|\s*hide_input\b", re.M)
PICTURES = "nbs/images"  # of the README
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)


def output_text(cell, output) -> str:
    "An output as Markdown: text in a code block, a picture as the link to its file; HTML has no place in a README."
    if output.get("name") == "stderr":
        return ""
    if "image/png" in output.get("data", {}):
        return f"![{cell.id.replace('-', ' ')}]({PICTURES}/{cell.id}.png)"
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def cell_markdown(cell) -> str:
    "A cell as Markdown; hidden cells are left out."
    if cell.cell_type == "markdown":
        return re.sub(r"\]\((?!https?:|#)([^)]+)\)", r"](nbs/\1)", cell.source).replace("](nbs/../", "](")
    if cell.cell_type != "code" or HIDDEN.search(cell.source):
        return ""
    source = DIRECTIVE.sub("", cell.source).strip()
    shown = [] if HIDDEN_INPUT.search(cell.source) else [f"```python\n{source}\n```"]
    return "\n\n".join([*shown, *filter(None, (output_text(cell, output) for output in cell.outputs))])


def pictures(notebook: Path = Path("nbs/index.ipynb")) -> dict[Path, bytes]:
    "The pictures of the notebook, by the files that the README shows."
    return {Path(f"{PICTURES}/{cell.id}.png"): base64.b64decode(output.data["image/png"]) for cell in nbformat.read(notebook, 4).cells
            for output in cell.get("outputs", []) if "image/png" in output.get("data", {})}


def readme(notebook: Path = Path("nbs/index.ipynb")) -> str:
    "The whole README."
    cells = nbformat.read(notebook, 4).cells
    return "\n\n".join([NOTICE, *filter(None, map(cell_markdown, cells))]) + "\n"


def package_page(text: str) -> str:
    "The README for a package index: links to files become their names."
    text = re.sub(r"!\[[^\]]*\]\([^)]+\)\n\n\*[^\n]*\*\n\n", "", text)  # a picture and its caption
    return re.sub(r"\[[^\]]+\]\((?!https?:|#)([^)]+)\)", r"`\1`", text)


if __name__ == "__main__":
    text = readme()
    for target, wanted in {Path("README.md"): text.encode(), Path("tools/package_page.md"): package_page(text).encode(), **pictures()}.items():
        if "--check" not in sys.argv:
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(wanted)
        elif not target.exists() or target.read_bytes() != wanted:
            sys.exit(f"{target} differs from nbs/index.ipynb. Run `make readme` and commit it.")
