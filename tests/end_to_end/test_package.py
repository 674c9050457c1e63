"""What pip installs: the wheel holds modules, analysis notebooks, sample and facts, and works from any folder."""
import os
import pydoc
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from helpers import ROOT
import psych201


def test_every_dependency_has_a_lower_bound_and_is_pinned():
    if sys.version_info < (3, 11):
        import tomli as tomllib
    else:
        import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = project["dependencies"] + project["optional-dependencies"]["dev"]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    for requirement in required:
        assert ">=" in requirement, requirement
        assert re.split("[>=<;]", requirement)[0] in pinned, requirement


@pytest.mark.slow
def test_a_wheel_works_elsewhere(tmp_path):
    "Built, installed beside the dependencies of this environment, used from another folder."
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT],
                   check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("psych201-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("psych201/analyses/score_model.ipynb", "psych201/analyses/nll_by_size.ipynb", "psych201/assets/paper/pairs.csv",
                   "psych201/assets/shipped/organism-base/model.safetensors", "psych201/assets/shipped/organism-people/tokenizer.json",
                   "psych201/paradigms/risky_choice.py", "psych201/assets/sample/simulated2026bandit/prompts.jsonl"):
        assert needed in names
    assert not [name for name in names if "/nbs/" in name or name.startswith("tests/")]
    target = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel], check=True)
    environment = os.environ | {"PYTHONPATH": str(target), "PSYCH201_DATA": ""}
    where = subprocess.run([sys.executable, "-c", "import psych201; print(psych201.__file__)"], cwd=tmp_path,
                           env=environment, capture_output=True, text=True, check=True).stdout
    assert where.startswith(str(target))
    done = subprocess.run([sys.executable, "-m", "psych201", "score", "tiny-llama", "--limit", "1",
                           "--output", "out"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "notebooks").glob("score_model-tiny-llama-*.ipynb"))) == 1


@pytest.mark.slow
def test_the_source_distribution_holds_what_is_read_and_edited(tmp_path):
    "Notebooks, tests, tools and settings: whoever has only this can work on the method."
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("psych201-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        page = archive.extractfile(next(name for name in archive.getnames() if name.endswith("/PKG-INFO"))).read().decode()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")[:-1]
    left_out = {".gitignore", ".ci/run"}
    assert set(tracked) - names <= left_out, sorted(set(tracked) - names)
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert links and all(link.startswith("https://") for link in links), links


def test_the_version_stands_in_one_place():
    from importlib.metadata import version

    assert version("psych201") == psych201.__version__


ROOMS = [path.parent.name for path in sorted((ROOT / "psych201").glob("*/__init__.pyi"))]


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_face_can_be_had(room):
    "What tab completion and help() show is there, and is what the module holds."
    face = import_module(f"psych201.{room}")
    assert face.__doc__ and face.__all__ and set(face.__all__) <= set(dir(face))
    for name in face.__all__:
        value = getattr(face, name)
        home = getattr(value, "__module__", None)
        if isinstance(home, str) and home.startswith("psych201.") and not name.isupper():
            assert home.startswith(f"psych201.{room}."), (name, home)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        face.nothing_like_it


def test_the_package_offers_what_a_user_needs():
    names = {"load_data", "load_model", "score", "read_scores", "Transcript", "Dataset", "make_baseline", "paired_means", *ROOMS}
    assert names <= set(dir(psych201)) and (ROOT / "psych201" / "py.typed").exists()
    assert psych201.load_data is psych201.data.load_data and psych201.score is psych201.scoring.score
    page = pydoc.render_doc(psych201, renderer=pydoc.plaintext)
    assert "load_model" in page and "How human-like is a language model?" in page


@pytest.mark.parametrize("code", ["import psych201.figures as room", "import psych201.stats as room", "import psych201.store as room",
                                  "import psych201.scoring.baselines as room; room.__all__ = []"])
def test_what_reads_and_draws_needs_no_torch(code):
    code += "\nimport sys\nfor name in room.__all__: getattr(room, name)\nprint({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def rooms_tool(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return import_module("rooms")


def rooms_tool_on_a_copy(folder: Path, monkeypatch):
    rooms = rooms_tool(monkeypatch)
    for name in ("nbs", "psych201", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    shutil.copy(ROOT / "CONTRIBUTING.md", folder)
    monkeypatch.chdir(folder)
    return rooms


def test_rooms_import_only_from_rooms_above_them(monkeypatch):
    rooms = rooms_tool(monkeypatch)
    assert rooms.import_faults() == rooms.face_faults() == rooms.reference_faults() == []
    assert sorted(rooms.ORDER) == ROOMS
    assert sum(len(set(rooms.imports(path))) for path in (ROOT / "psych201").rglob("[!_]*.py")) > 300


@pytest.mark.parametrize("module,line,message", [
    ("stats/means.py", "from ..figures.style import save", "imports figures.style, which comes after it"),
    ("stats/means.py", "def f():\n    from psych201.stats.paired import paired_means", "imports stats.paired, which comes after it"),
    ("errors.py", "from .transcripts import Transcript", "imports transcripts, which comes after it"),
    ("stats/means.py", "from .. import workbench", "imports workbench, which is not a module of a room"),
    ("stats/orphan.py", "", "there is no notebook nbs/stats/NN_orphan.ipynb")])
def test_an_import_against_the_order_is_found(tmp_path, monkeypatch, module, line, message):
    rooms = rooms_tool_on_a_copy(tmp_path, monkeypatch)
    path = tmp_path / "psych201" / module
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    (fault,) = rooms.import_faults()
    assert message in fault


@pytest.mark.parametrize("text,message", [
    ("see `10e_paired`", "10e_paired is the name of a flat module"), ("see `stats.pairs_of`", "there is no stats.pairs_of"),
    ("see `store.read.read_everything`", "there is no store.read.read_everything"), ("[x](../stats/03_pairs.ipynb)", "the link ../stats/03_pairs.ipynb leads nowhere")])
def test_a_stale_reference_is_found(tmp_path, monkeypatch, text, message):
    rooms = rooms_tool_on_a_copy(tmp_path, monkeypatch)
    path = tmp_path / "nbs" / "stats" / "00_means.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_markdown_cell(text))
    nbformat.write(notebook, path)
    assert [message in fault for fault in rooms.reference_faults()] == [True]


def test_a_path_of_a_notebook_that_is_not_there_is_found(tmp_path, monkeypatch):
    rooms = rooms_tool_on_a_copy(tmp_path, monkeypatch)
    assert rooms.path_faults() == []
    page = tmp_path / "CONTRIBUTING.md"
    page.write_text(page.read_text() + "\nsee nbs/stats/00_meanings.ip" + "ynb\n")
    assert rooms.path_faults() == ["CONTRIBUTING.md: there is no nbs/stats/00_meanings.ip" + "ynb"]
    monkeypatch.setattr(sys, "argv", ["rooms.py"])
    assert rooms.main() == 1


def test_a_face_that_promises_too_much_is_found(tmp_path, monkeypatch):
    rooms = rooms_tool_on_a_copy(tmp_path, monkeypatch)
    stub = tmp_path / "psych201" / "store" / "__init__.pyi"
    stub.write_text(stub.read_text() + "from .read import write as write\n")
    assert [fault.rpartition(": ")[2] for fault in rooms.face_faults()] == ["read exports no write", "the module write would shadow the function"]
    stub.write_text(stub.read_text().replace("from .read import write as write\n", "").replace("from . import shards as shards\n", ""))
    assert rooms.face_faults() == ["psych201/store/__init__.pyi: does not offer the module shards"]
