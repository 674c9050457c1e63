"""Runs the method notebooks and keeps their outputs: nbdev-test --save, less what changes from run to run.

Pictures keep 64 colours, which takes a quarter of the room. Analysis notebooks are templates and stay without outputs.
"""
import base64
import io
import subprocess
from pathlib import Path

import nbformat
from PIL import Image


def fewer_colours(png: str, colours: int = 64) -> str:
    "A picture (base64) with so many colours, or as it was if that is no smaller."
    picture, small = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    if picture.mode == "P":
        return png
    opaque = Image.new("RGB", picture.size, "white")
    opaque.paste(picture, mask=picture.getchannel("A") if "A" in picture.getbands() else None)
    opaque.quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return min(base64.b64encode(small.getvalue()).decode(), png, key=len)


def small_pictures(path: Path) -> None:
    "Pictures in outputs with fewer colours."
    notebook = nbformat.read(path, 4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = fewer_colours(output.data["image/png"])
    nbformat.write(notebook, path)


def without_stderr(path: Path) -> None:
    "Drops progress bars and warnings of libraries, and nbdev's timing, which is not valid notebook format."
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in sorted(path for path in Path("nbs").rglob("*.ipynb") if path.parent.name not in ("analyses", ".ipynb_checkpoints")):
        subprocess.run(["nbdev-test", "--save", str(path)], check=True)
        without_stderr(path)
        small_pictures(path)
