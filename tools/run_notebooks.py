"""Runs the method notebooks and keeps their outputs: nbdev-test --save, less what changes from run to run.

Analysis notebooks are templates and stay without outputs.
"""
import subprocess
from pathlib import Path

import nbformat


def without_stderr(path: Path) -> None:
    "Drops progress bars and warnings of libraries, and nbdev's timing, which is not valid notebook format."
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in sorted([*Path("nbs").glob("*.ipynb"), *Path("nbs/experiments").glob("*.ipynb")]):
        subprocess.run(["nbdev-test", "--save", str(path)], check=True)
        without_stderr(path)
