"""What pip installs: the wheel holds modules, analysis notebooks, sample and facts, and works from any folder."""
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import psych201

ROOT = Path(__file__).parent.parent


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
    done = subprocess.run([sys.executable, "-m", "psych201", "score", "tiny-llama", "--transcripts", "1",
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
