"""The notebooks themselves: tags, templates without outputs, style, README; every analysis runs on a tiny model."""
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import polars as pl
import pytest

from helpers import ROOT
from psych201 import data, scoring, store
from psych201.models.cards import card
from psych201.catalogue import BASELINES
from psych201.workbench.page import COLUMN_NOTES, read_gaps
from psych201.workbench.runner import WorkbenchError, analyses_folder, run_notebook
from psych201.transcripts import Transcript

ANALYSES = sorted(analyses_folder().glob("*.ipynb"))

# For each analysis the parameters of a run of seconds; a new notebook must be added here.
PARAMETERS = {
    "make_sample": {"participants": 2, "bandit_trials": 3, "risky_trials": 3},
    "score_model": {"model": "tiny-gemma", "data": ["sample"], "limit": 1},
    "rules": {"models": ["tiny-llama", "tiny-gemma"]},
    **{name: {"models": ["tiny-llama", "tiny-gemma"], "pairs": [["tiny-gemma", "tiny-llama"]]}
       for name in ("misalignment", "robustness", "generations", "domains", "calibration", "supplement")},
    "domains": {"models": ["tiny-llama", "tiny-gemma"], "pairs": [["tiny-gemma", "tiny-llama"]],
                "domains": dict.fromkeys(["simulated2026bandit", "simulated2026riskychoice"], "Decision Making")},
    "chance": {"models": ["tiny-llama", "tiny-gemma"], "data": ["sample"],
               "domains": dict.fromkeys(["simulated2026bandit", "simulated2026riskychoice"], "Decision Making")},
    "data_set": {"models": ["tiny-llama", "tiny-gemma"], "data": ["sample"]},
    "published": {"width": 89.0},
    "formats": {"models": ["tiny-gemma"], "data": ["sample"]},
    "controls": {"models": ["tiny-llama", "tiny-gemma"], "data": ["sample"], "limit": 2, "draws": 100},
    "describe": {"data": ["sample"], "embedding": "tfidf"},
    "organism": {"participants": 4, "effort": 0.002, "draws": 100},
    "nll_by_size": {"models": ["tiny-llama", "tiny-gemma"]},
}

pytestmark = pytest.mark.usefixtures("warm")


def _of_controls(folder: Path, conditions: int, studies: int) -> pl.DataFrame:
    "The means behind the figure of controls, after a look at them."
    means, shared, against = (pl.read_csv(folder / name) for name in ("figures/controls.csv", "tables/shared.csv", "tables/against.csv"))
    assert shared["conditions"].to_list() == [conditions] * studies and len(means) == conditions * (studies + 1)
    of = dict(means.filter(pl.col("format") == "plain", pl.col("study") == "all studies").select("model", "mean_nll").iter_rows())
    for post, base, difference in against.select("post", "base", "difference").iter_rows():
        assert difference == pytest.approx(of[post] - of[base], abs=1e-9)
    assert all((folder / "figures" / f"{name}.png").exists() for name in ("controls", "learning_curves"))
    return means


def tool(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)


def errors(path: Path) -> list[str]:
    "Errors and unexecuted cells of an executed notebook."
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return [output.evalue for cell in cells for output in cell.outputs if output.output_type == "error"] + [
        cell.source for cell in cells if cell.source.strip() and cell.execution_count is None]


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    "A store with two tiny models and two baselines."
    folder = tmp_path_factory.mktemp("scores")
    for name in ("tiny-llama", "tiny-gemma", "baseline:marginal", "baseline:uniform"):
        scoring.score(name, data.load_data("sample", limit=2), folder, progress="none")
    return folder


@pytest.mark.parametrize("path", ANALYSES, ids=lambda path: path.stem)
def test_an_analysis_takes_its_parameters(path):
    "Without the tag papermill would run the defaults whatever it is given, and report success."
    known = papermill.inspect_notebook(str(path))
    assert set(PARAMETERS[path.stem]) <= set(known)
    assert all(parameter["help"] for parameter in known.values())
    assert not any(cell.get("outputs") for cell in nbformat.read(path, 4).cells)


@pytest.mark.parametrize("path", ANALYSES, ids=lambda path: path.stem)
def test_an_analysis_runs(path, tmp_path, scored):
    given = {"output": str(tmp_path), **PARAMETERS[path.stem]}
    if path.stem == "rules":
        del given["output"]
    if "output" in given and "models" in given and path.stem not in ("formats", "controls"):
        given["store"] = str(scored)
    if path.stem == "score_model":
        given["store"] = str(tmp_path / "scores")
        del given["output"]
    done = run_notebook(path.stem, tmp_path / "done.ipynb", given, verbose=False)
    assert errors(done) == []
    for table in tmp_path.rglob("*.csv"):  # a p value says of what, and the page explains it
        tests = {name for name in pd.read_csv(table, nrows=0).columns if name == "p" or name.startswith("p_")}
        assert tests <= set(COLUMN_NOTES), (table.name, tests)
    if path.stem == "score_model":
        rows = store.read_scores(tmp_path / "scores")
        assert rows["model"].unique().to_list() == ["tiny-gemma"] and len(rows) == 40 + 24
    if path.stem == "nll_by_size":
        assert {p.name for p in tmp_path.rglob("*.*") if p.suffix != ".ipynb"} == {
            "nll_by_size.png", "nll_by_size.pdf", "nll_by_size.csv", "nll_by_study.png", "nll_by_study.pdf",
            "nll_by_study.csv", "mean_nll.csv", "mean_nll_by_study.csv", "conditions.csv"}
    if path.stem == "misalignment":
        assert (tmp_path / "tables" / "misalignment_by_study.csv").read_text().count("tiny-gemma,tiny-llama") == 2
    if path.stem in TABLES:
        name, columns, length = TABLES[path.stem]
        table = pl.read_csv(tmp_path / name)
        assert len(table) == length and {"participants", "responses", *columns} <= set(table.columns)
    if path.stem == "controls":
        _of_controls(tmp_path, 2 * 6 + len(BASELINES), 2)
        shared, sensitivity = (pl.read_csv(tmp_path / "tables" / f"{name}.csv") for name in ("shared", "sensitivity"))
        assert shared["responses"].to_list() == [80, 48] and sensitivity.select("subject", "format").n_unique() == 10
    if path.stem == "chance":
        rows, means = (pl.read_csv(tmp_path / "tables" / f"{name}.csv") for name in ("chance", "chance_by_domain"))
        assert means["studies"].to_list() == [2, 2] and means["responses"].to_list() == [128, 128]
        assert means["r2"].to_list() == pytest.approx([rows.filter(model=model, baseline="baseline:uniform")["r2"].mean() for model in means["model"]])
        assert [gap.what for gap in read_gaps(tmp_path)] == ["distributions"]  # everyone in the sample has keys of their own


# Of some analyses a table, columns that it must have, and its rows; how many people and responses is in each.
TABLES = {
    "calibration": ("tables/temperature_split.csv", {"dropped", "left_out", "stays_low", "stays_high", "removed_low"}, 2),
    "chance": ("tables/chance.csv", {"baseline", "r2", "low", "high", "dropped"}, 2 * 2 * 2),
    "domains": ("figures/domains.csv", {"studies", "dropped", "cohens_d", "low", "high"}, 1),
    "generations": ("tables/slopes.csv", {"n", "slope", "unscored"}, 1),
    "supplement": ("figures/accuracy_options.csv", {"without_options", "dropped", "accuracy_options", "chance"}, 2),
}


def test_people_with_the_same_keys_are_compared(tmp_path):
    "Twelve people answer two questions with the same keys; others, with keys of their own, are counted and left out."
    ask = lambda person, keys: f"Press {keys[0]} or {keys[1]}.\nWord: <<{keys[person % 2]}>>\nNonword: <<{keys[person % 3 == 0]}>>\n"
    for study, keys in (("same", ["FJ"] * 12), ("own", ["AB", "CD", "EG", "HI", "KL", "MN"] * 2)):
        (tmp_path / study).mkdir()
        records = [{"text": ask(person, pair), "experiment": "exp1", "participant": str(person)} for person, pair in enumerate(keys)]
        (tmp_path / study / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    sources = [str(tmp_path / study) for study in ("same", "own")]
    scoring.score("tiny-llama", data.load_data(sources), tmp_path / "scores", progress="none")
    run_notebook("chance", tmp_path / "done.ipynb", {"store": str(tmp_path / "scores"), "data": sources, "output": str(tmp_path)}, verbose=False)
    table = pl.read_csv(tmp_path / "tables" / "distributions.csv")
    assert table["responses"].sum() == 24 and table["items"].max() <= 2
    assert table["dropped"].unique().to_list() == table["own_keys"].unique().to_list() == [24]
    assert 0.5 < table["entropy_people"].mean() < 0.75  # of half of the people each; 0.68 among all


class Formatted:
    "A scorer whose numbers depend on the format alone: chat costs 0.4 nats, a persona 0.001 and more."

    def __init__(self, name: str, format: str):
        self.name, self.format = name, format

    def identity(self):
        return store.Identity({"format": self.format, "rule": "span", "dtype": "float32"}, {"code": "test"})

    def digest(self, transcript):
        "Of participant 5 nothing is known."
        return f"{'plain' if (self.format, transcript.participant) == ('persona', '5') else self.format}-{transcript.digest}"

    def score(self, transcripts):
        rows = [dict(model=self.name, format=self.format, rule="span", transcript=one.key, response_index=i, response=response, n_tokens=1,
                     nll=1 + {"plain": 0, "chat": 0.4, "persona": 0.001 * (1 + int(one.participant))}[self.format] + i / 10, argmax_right=False)
                for one in transcripts for i, response in enumerate(one.responses)]
        return pl.DataFrame(rows, schema_overrides=store.RESPONSES).with_columns(
            pl.lit(None, kind).alias(name) for name, kind in store.RESPONSES.items() if name not in rows[0]).select(list(store.RESPONSES))


def test_personas_and_templates_of_a_store(tmp_path):
    "Figures that need other formats, and the test that a persona does as good as nothing, in nats, over people who have one."
    people = [Transcript("You take <<J>> and <<F>>.", f"study{s}", "e", str(p), p) for s in range(4) for p in range(6)]
    for name in ("Qwen/Qwen3-4B", "Qwen/Qwen3-8B"):
        for format in ("plain", "chat", "persona"):
            scoring.score(Formatted(name, format), data.Dataset(people), tmp_path / "scores", progress="none")
    run_notebook("supplement", tmp_path / "done.ipynb", {"store": str(tmp_path / "scores"), "output": str(tmp_path)}, verbose=False)
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {"accuracy", "template", "persona"}
    template = pd.read_csv(tmp_path / "figures" / "template.csv").pivot(index="model", columns="format", values="mean_nll")
    assert (template["chat"] - template["plain"]).tolist() == pytest.approx([0.4, 0.4])
    drawn = pd.read_csv(tmp_path / "figures" / "persona.csv")
    assert drawn["study"].value_counts().to_dict() == {"all": 2} | {f"study{s}": 2 for s in range(4)}
    null = pd.read_csv(tmp_path / "tables" / "persona_null.csv")
    assert null["difference"].tolist() == pytest.approx([-0.003, -0.003]) and (null["p_equivalence_holm"] < 0.01).all()
    assert null["warning"].isna().all()
    means = pd.read_csv(tmp_path / "tables" / "persona_means.csv")
    for table in (null, means):
        assert table[["studies", "participants", "responses", "dropped"]].to_numpy().tolist() == [[4, 20, 40, 0]] * 2
    assert (means["cohens_d"] < 0).all()  # it costs something


class Shifted(Formatted):
    "A scorer whose post-trained models need some nats more, not the same for each person."

    MORE = {"Qwen/Qwen2.5-0.5B-Instruct": 0.1, "Qwen/Qwen2.5-7B-Instruct": 0.3, "Qwen/Qwen3-0.6B": 0.4, "Qwen/Qwen3-8B": 0.6}

    def score(self, transcripts):
        person = pl.col("transcript").str.slice(-2, 1).str.to_integer(base=16) / 16
        return super().score(transcripts).with_columns(nll=pl.col("nll") + self.MORE.get(self.name, 0) * (1 + person) + 0.2 * pl.col("transcript").str.slice(-1).is_in(list("02468ace")))


def test_tables_of_generations_and_of_kinds_of_post_training(tmp_path):
    "One row a series and a type; Cohen's d with the standard deviation of the published figure."
    people = [Transcript("You take <<J>> and <<F>>.", f"study{s}", "e", str(p), p) for s in range(4) for p in range(5)]
    for name in (*Shifted.MORE, "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-7B", "Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-8B-Base"):
        scoring.score(Shifted(name, "plain"), data.Dataset(people), tmp_path / "scores", progress="none")
    for notebook in ("generations", "misalignment"):
        run_notebook(notebook, tmp_path / "done.ipynb", {"store": str(tmp_path / "scores"), "output": str(tmp_path)}, verbose=False)
    effects = pd.read_csv(tmp_path / "tables" / "misalignment_by_study.csv")
    drawn = pd.read_csv(tmp_path / "figures" / "generations.csv").query("panel == 'pairs'").set_index("post")["cohens_d"]
    published = effects.groupby("post")["cohens_d"].mean()  # standard deviations of ten responses, with n
    assert drawn.to_dict() == pytest.approx((published * (9 / 10) ** 0.5).to_dict())
    (trend,) = pd.read_csv(tmp_path / "tables" / "generation_trends.csv").to_dict("records")
    means = drawn.groupby(drawn.index.str.contains("Qwen3")).mean()
    assert (trend["series"], trend["generations"], trend["pairs"]) == ("Qwen", 2, 4) and trend["step"] == pytest.approx(means[True] - means[False])
    by_type = pd.read_csv(tmp_path / "tables" / "misalignment_by_type.csv").set_index("type")
    assert by_type["pairs"].sum() == 4 and by_type.loc["instruct", "dropped"] == 0 and set(by_type["participants"]) == {20}
    of_type = effects.assign(type=[card(post).type for post in effects["post"]]).groupby("type")[["cohens_d", "difference"]].mean()
    pd.testing.assert_frame_equal(by_type[["cohens_d", "difference"]].sort_index(), of_type.sort_index())
    over, each = (pd.read_csv(tmp_path / "tables" / f"misalignment_{name}.csv") for name in ("over_studies", "leave_one_out"))
    assert over[["studies", "participants", "responses", "dropped"]].to_numpy().tolist() == [[4, 20, 40, 0]] * 4
    assert each.groupby("post").size().tolist() == [4] * 4 and each.groupby("post").first()["without"].to_dict() == over.set_index("post")["without"].to_dict()


def test_the_figure_says_which_model_is_missing(tmp_path, scored):
    with pytest.raises(WorkbenchError, match="holds no scores of gemma-3-270m"):
        run_notebook("nll_by_size", tmp_path / "f.ipynb", {"store": str(scored), "models": ["gemma-3-270m"]}, verbose=False)


def test_notebooks_and_modules_agree():
    found = tool("tools/check_export.py")
    assert found.returncode == 0, found.stderr


def test_style():
    found = tool("tools/style.py")
    assert found.returncode == 0, found.stderr


def test_the_readme_is_that_of_the_index():
    found = tool("tools/readme.py", "--check")
    assert found.returncode == 0, found.stderr


def broken_notebook(folder: Path, *cells: str, kernel: str = "python3", title: str = "# T\n\n> One sentence.") -> Path:
    "A notebook with these code cells."
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(title), *map(nbformat.v4.new_code_cell, cells)])
    made.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
    nbformat.write(made, folder / "x.ipynb")
    return folder / "x.ipynb"


FUNCTION = "#| export\ndef double(n: int) -> int:\n    return 2 * n"
FAULTS = {
    "no check for double": ("#| default_exp x", FUNCTION, "double(2)", "assert True  # of double"),
    "words of prose per exported line": ("#| default_exp x", FUNCTION.replace("return", "n = +n\n    return"), "assert double(2) == 4"),
    "an exported cell of 51 lines": ("#| default_exp x", "#| export\n" + "\n".join(f"a{n} = {n}" for n in range(51))),
    "1 exported lines of more than 120": ("#| default_exp x", f"#| export\na = {'9' * 120}"),
    "exports 403 lines": ("#| default_exp x", *["#| export\n" + "\n".join(f"a{n} = {n}" for n in range(30))] * 13),
    "prose to mend, 2 times: ...'Nobody ": ("#| default_exp x", FUNCTION.replace(":\n", ':\n    "Nobody is told where it stands beside."\n')),
    "a subtitle of 115 characters": ("#| default_exp x",),
    "checks nothing": ("#| default_exp x", "from fastcore.test import expect_fail\nexpect_fail(lambda: 1 / 0, ZeroDivisionError)"),
    "81 cells": ("#| default_exp x", *["1"] * 79),
}


@pytest.mark.parametrize("message,cells", FAULTS.items(), ids=FAULTS)
def test_the_style_check_finds_faults(tmp_path, monkeypatch, message, cells):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import style

    title = "# T\n\n> " + "x" * 115 if "subtitle" in message else "# T\n\n> One sentence."
    assert any(message in fault for fault in style.faults(broken_notebook(tmp_path, *cells, title=title)))
    assert style.main(tmp_path) == 1
    good = broken_notebook(tmp_path, "#| default_exp x", FUNCTION, "assert double(2) == 4", title="# T\n\n> " + "word " * 20)  # prose enough
    assert style.faults(good) == []


def test_the_export_check_finds_an_edited_module(tmp_path, monkeypatch):
    "A module edited by hand, one without a notebook, and a dropped tag setting are all noticed."
    import shutil

    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import check_export

    for name in ("nbs", "psych201"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=check_export.IGNORED)
    for name in ("pyproject.toml", "settings.ini", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    assert check_export.changed(tmp_path) == []
    module = tmp_path / "psych201" / "stats" / "effect_sizes.py"
    module.write_text(module.read_text() + "\nedited = True\n")
    shutil.copy(tmp_path / "psych201" / "inputs" / "formats.py", tmp_path / "psych201" / "inputs" / "orphan.py")
    assert check_export.changed(tmp_path) == ["psych201/inputs/orphan.py", "psych201/stats/effect_sizes.py"]
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('allowed_cell_metadata_keys = ["tags"]', ""))
    assert "nbs/analyses/score_model.ipynb" in check_export.changed(tmp_path)


def test_a_notebook_that_registers_leaves_the_package_s_attention_in_place():
    "nbdev-test runs many notebooks in one process; those after likelihood.attention are to test the package, not that notebook."
    code = ("from pathlib import Path\nfrom nbdev.test import test_nb\nimport torch\nfrom transformers import AttentionInterface, AttentionMaskInterface\n"
            "from psych201.likelihood import attention\n"
            "assert test_nb(Path('nbs/likelihood/04_attention.ipynb'))[0] and test_nb(Path('nbs/likelihood/03_attention_kernels.ipynb'))[0]\n"
            "assert AttentionInterface()[attention.NAME] is attention.attend_layer and AttentionMaskInterface()[attention.NAME] is attention._mask\n"
            "assert torch.is_grad_enabled()")
    done = tool("-c", code)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_controls_on_real_studies(studies_path, packaged, tmp_path):
    "Both packaged models, all ablations and baselines, with intervals over participants."
    models = ["smollm2-135m-instruct", "gemma-3-270m"]
    for model in models:
        packaged(model)
    given = {"models": models, "data": [str(studies_path)], "studies": ["franke2024bayesian", "thoma2025riskychoice"], "limit": 2,
             "draws": 100, "output": str(tmp_path)}
    assert errors(run_notebook("controls", tmp_path / "done.ipynb", given, verbose=False)) == []
    means = _of_controls(tmp_path, 2 * 6 + len(BASELINES), 2)
    assert means.filter(model="gemma-3-270m").select(pl.all_horizontal(pl.col("low") < pl.col("mean_nll"), pl.col("mean_nll") < pl.col("high")).all()).item()
