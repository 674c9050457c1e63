"""One row is enough: what is added to the catalogue shows in registries, help, captions and the guide; rows keep what they promise."""
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from helpers import ROOT
from psych201 import catalogue, figures, inputs, scoring
from psych201.workbench import find_notebook

FORMAT = '''

def shouted(transcript, tokenizer=None):
    "The session in capitals, but for its responses."
    return [Piece(text if kind == "response" else text.upper(), kind) for text, kind in marked_pieces(transcript.text)]
'''
BASELINE = '''

@dataclass(frozen=True)
class StubbornBaseline(EarlierBaseline):
    "As earlier, under another name."
    name: str = "baseline:stubborn"
'''
FIGURE = '''

def nll_by_mood(table):
    "A figure."
'''
SCRIPT = """
import json, sys
from pathlib import Path
from psych201 import catalogue, inputs, scoring, workbench
from psych201.transcripts import Transcript

one = Transcript("Choose. <<J>>", "wulff2020", "exp1", "7")
(folder := Path(sys.argv[1])).mkdir()
(folder / "figures").mkdir()
(folder / "figures" / "nll_by_mood.png").write_bytes(b"")
print(json.dumps({
    "pieces": [piece.text for piece in inputs.format_readings(one, "shouted")[0].pieces], "grid": "shouted" in inputs.GRID,
    "baseline": scoring.make_baseline("baseline:stubborn", [one]).name, "described": "baseline:stubborn" in scoring.describe_baselines().index,
    "checked": workbench.check_models(["baseline:stubborn"]), "analyses": workbench.choose_analyses(["nll_by_mood"]),
    "page": "NLL by mood" in (text := workbench.write_page(folder, "A run", "").read_text()) and "How people feel." in text}))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    "A copy of the package and its notebooks with one more format, baseline and figure: a function each, and a row each."
    folder = tmp_path_factory.mktemp("extended")
    for name in ("psych201", "nbs", "tests", "CONTRIBUTING.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    package = folder / "psych201"
    for module, code in (("inputs/perturbations.py", FORMAT), ("scoring/counting_baselines.py", BASELINE), ("figures/by_size.py", FIGURE)):
        path = package / module
        path.write_text(path.read_text() + code)
    rows = (("FORMATS", '"shouted": Format("perturbations", "wording", "in capitals"),'),
            ("BASELINES", '"baseline:stubborn": Baseline("counting_baselines", "StubbornBaseline", "earlier answers, again", "none", "nobody"),'),
            ("FIGURES", '"nll_by_mood": Figure("nll_by_size", "NLL by mood", "How people feel."),'))
    path = package / "catalogue.py"
    for name, row in rows:
        path.write_text(path.read_text().replace(f"\n{name} = {{\n", f"\n{name} = {{\n    {row}\n", 1))
    return folder


def run(folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_row_and_a_function_show_everywhere(extended, tmp_path):
    assert json.loads(run(extended, "-c", SCRIPT, str(tmp_path / "run"))) == {
        "pieces": ["CHOOSE. <<", "J", ">>"], "grid": True, "baseline": "baseline:stubborn", "described": True,
        "checked": ["baseline:stubborn"], "analyses": ["nll_by_size"], "page": True}
    assert {"shouted", "baseline:stubborn"} <= set(run(extended, "-m", "psych201", "score", "--help").translate(str.maketrans(",()", "   ")).split())
    assert "nll_by_mood" in run(extended, "-m", "psych201", "paper", "--help")


def test_a_row_shows_in_the_guide(extended):
    assert subprocess.run([sys.executable, str(ROOT / "tools" / "rooms.py")], cwd=extended, capture_output=True, text=True).stderr.count("out of date") == 3
    run(extended, str(ROOT / "tools" / "rooms.py"), "--write")
    text = "".join(path.read_text() for path in (extended / "nbs" / "guide").glob("*.ipynb"))
    assert "| `shouted` | in capitals |" in text and "| `baseline:stubborn` | earlier answers, again |" in text and "| `nll_by_mood` | How people feel. |" in text


def test_every_row_has_what_it_names():
    for name, row in catalogue.FORMATS.items():
        module = import_module(f"psych201.inputs.{row.module}")
        assert inputs.FORMATS[name] is getattr(module, name) and row.kind in ("plain", "persona", "chat", "ablation", "wording")
        assert not row.prepare or callable(getattr(module, row.prepare))
    assert list(inputs.FORMATS) == list(catalogue.FORMATS)
    for name in catalogue.BASELINES:
        assert scoring.baseline_class(name).name == name
    for name, row in catalogue.FIGURES.items():
        assert f'"{name}"' in find_notebook(row.notebook).read_text().replace("\\", "").replace("'", '"') or f"figures\\\" / \\\"{name}" in find_notebook(row.notebook).read_text(), name
        assert row.title and row.caption.endswith(".")
    for name in catalogue.PARADIGMS:
        module = import_module(f"psych201.paradigms.{name}")
        assert all(hasattr(module, function) for function in ("draw_participants", "simulate", "to_record"))
    assert callable(figures.nll_by_size)


def test_the_catalogue_imports_nothing_of_the_package():
    code = "import sys; before = set(sys.modules); import psych201.catalogue; print(sorted(m for m in set(sys.modules) - before if m.startswith('psych201')))"
    assert run(ROOT, "-c", code).strip() == "['psych201', 'psych201.catalogue']"
