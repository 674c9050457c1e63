"""The command line and its runs: failures, interruptions, resuming."""
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from psych201 import models, reference, store, workbench
from psych201.models import cards
from psych201.workbench import cli, paper
from psych201.workbench.arguments import check_models
from psych201.scoring.run import example_store
from psych201.workbench.cli import main

pytestmark = pytest.mark.usefixtures("warm")


def psych201(*words: str, **environment: str) -> subprocess.CompletedProcess:
    "The command in a process of its own."
    return subprocess.run([sys.executable, "-m", "psych201", *words], capture_output=True, text=True,
                          env=os.environ | {"PSYCH201_DATA": "", **environment})


@pytest.fixture
def run(capsys):
    "Function: words -> (exit status, stdout, stderr), within this process."
    def call(*words: str):
        status = main(words)
        said = capsys.readouterr()
        return status, said.out, said.err
    return call


def test_one_failing_model_does_not_stop_the_others(tmp_path, run):
    "One of them is a folder whose configuration is none: seen only when it is loaded."
    (tmp_path / "broken").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "broken" / name).write_text("{}")
    status, out, err = run("score", "tiny-llama", str(tmp_path / "broken"), "tiny-gemma", "--data", "sample",
                           "--limit", "1", "--output", str(tmp_path / "out"))
    assert status == 1
    assert "1 of 3 models failed" in err and "could not be loaded from the folder" in err
    assert set(store.read_scores(tmp_path / "out" / "scores")["model"]) == {"tiny-llama", "tiny-gemma"}
    kept = sorted(path.name for path in (tmp_path / "out" / "notebooks").iterdir())
    assert len(kept) == 3 and [name.split("-sample-")[0] for name in kept if "failed" not in name] == [
        "score_model-tiny-gemma", "score_model-tiny-llama"]
    assert "Traceback" not in err.split("1 of 3 models failed")[1]
    (table,) = [block for block in out.split("\n\n") if "left_out" in block]
    assert table.count("tiny-llama") == table.count("tiny-gemma") == 2 and "nats_per_token" in table


def test_what_a_folder_lacks_is_said_before_any_model_is_loaded(tmp_path, run):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    status, out, err = run("score", "tiny-llama", str(tmp_path / "bare"), "mine=tiny-llama+x/lora", "mine=y/m", "--output", str(tmp_path / "out"))
    assert status == 1 and not (tmp_path / "out").exists()
    assert f"The folder {tmp_path / 'bare'} lacks weights (safetensors).\ntiny-llama+x/lora and y/m would both be stored as mine" in err


def test_score_and_paper(tmp_path, run):
    output = str(tmp_path / "out")
    status, out, err = run("score", "tiny-llama", "--data", "sample", "--studies", "simulated2026bandit",
                           "--limit", "2", "--max-tokens", "300", "--dtype", "bfloat16", "--output", output)
    assert status == 0, err
    (shard,) = store.read_shards(tmp_path / "out" / "scores")
    assert (shard.identity.must["dtype"], shard.identity.must["max_tokens"]) == ("bfloat16", 300)
    assert (shard.study, len(shard.inputs)) == ("simulated2026bandit", 2)
    rows = store.read_scores(tmp_path / "out" / "scores")
    assert len(rows) == 80 and set(rows["reason"]) == {None, "cut"}
    status, out, err = run("paper", "--output", output)
    assert status == 0 and (tmp_path / "out" / "figures" / "nll_by_size.png").stat().st_size > 1_000
    assert "tiny-llama" in (tmp_path / "out" / "tables" / "mean_nll.csv").read_text()
    assert "Missing:   misalignment: no base model and its post-trained model are both scored" in out
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<img ") == 6 and "Accuracy among the options" in page and all(f"<b>{title}</b>" in page for title in ("Misalignment", "Generations", "Domains", "Personas"))


def test_the_figure_of_the_data_set_knows_the_people_that_were_scored(tmp_path, run):
    "Ages and nationalities come from the transcripts; who was not scored is not in the figure."
    study = tmp_path / "mine"
    study.mkdir()
    told = [{"age": "31", "nationality": "Chile"}, {"age": 32, "nationality": "Peru"}, {"Age": "old"}, {"age": 70}]
    records = [{"text": f"You say <<yes>> {i}.", "experiment": "e", "participant": str(i), **one} for i, one in enumerate(told)]
    (study / "prompts.jsonl").write_text("\n".join(map(json.dumps, records[:3])) + "\n")
    words = ["--output", str(tmp_path / "out")]
    assert run("score", "baseline:uniform", "tiny-llama", "--data", str(study), *words)[0] == 0
    (study / "prompts.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    status, out, err = run("paper", *words, "--figures", "data_set", "--data", str(study))
    assert status == 0, err
    table = pd.read_csv(tmp_path / "out" / "figures" / "data_set.csv")
    counted = table[["panel", "label", "value"]].fillna("").to_numpy().tolist()
    assert counted[0] == ["Participants (thousands)", "These data", 0.003]
    assert counted[-2:] == [["Nationality", "Chile", 1], ["Nationality", "Peru", 1]]
    assert table.loc[table["panel"] == "Age histogram", "value"].sum() == 2
    assert "Not readable as ages: 1, such as 'old'." in (tmp_path / "out" / "notebooks" / "data_set.ipynb").read_text()
    assert run("paper", *words, "--figures", "data_set")[0] == 0
    assert pd.read_csv(tmp_path / "out" / "figures" / "data_set.csv")["panel"].tolist() == ["Participants (thousands)"]
    status, out, err = run("paper", *words, "--data", str(tmp_path / "nowhere"))
    assert status == 1 and "nowhere: does not exist" in err and "nll_by_size" not in err


def test_a_pair_of_ones_own(tmp_path, run):
    "Named on the command line; a figure that was drawn before and cannot be drawn now is taken away."
    words = ["--output", str(tmp_path)]
    assert run("score", "tiny-llama", "tiny-gemma", "--data", "sample", "--limit", "2", *words)[0] == 0
    status, out, err = run("paper", *words, "--pair", "tiny-gemma", "tiny-llama", "--figures", "misalignment")
    assert status == 0 and [path.name for path in sorted((tmp_path / "figures").glob("*.png"))] == ["misalignment.png"]
    table = pd.read_csv(tmp_path / "tables" / "misalignment_means.csv")
    rows = store.read_scores(tmp_path / "scores")
    by_study = rows.group_by("model", "study").agg(pl.col("nll").mean()).group_by("model").agg(pl.col("nll").mean())
    means = dict(by_study.rows())
    assert table["difference"][0] == pytest.approx(means["tiny-gemma"] - means["tiny-llama"])
    status, out, err = run("paper", *words, "--figures", "misalignment")
    assert status == 0 and "Missing:   misalignment" in out and not list((tmp_path / "figures").glob("misalignment*"))
    status, out, err = run("paper", *words, "--pair", "tiny-llama", "mine", "--figures", "misalignment")
    assert status == 0 and "Missing:   mine: not scored" in err and "mine</b>: not scored" in (tmp_path / "index.html").read_text()
    for wrong, message in ((["--pair", "tiny-llama", "tiny-llama"], "not tiny-llama and tiny-llama"), (["--models", "mine"], "holds no scores of mine"),
                           (["--figures", "fig2"], "No figure fig2. There are: data_set, nll_by_size"),
                           (["--published", "--figures", "misalignment"], "--figures is about a store of scores")):
        status, out, err = run("paper", *words, *wrong)
        assert status == 1 and message in err


def test_the_published_figures(tmp_path, run):
    "Without scores; the numbers beside each figure are the published ones."
    status, out, err = run("paper", "--published", "--output", str(tmp_path))
    assert status == 0 and [line.split(":")[1].strip() for line in out.splitlines() if line.startswith("Missing")] == ["behaviour", "code_math"]
    drawn = {path.stem: pd.read_csv(path) for path in (tmp_path / "figures").glob("*.csv")}
    assert (tmp_path / "index.html").read_text().count("<img ") == len(drawn) == 7
    levels = drawn["generations"].query("panel == 'base models'")
    assert levels["mean_nll"].tolist() == pytest.approx(reference.reference("scaling")["value"].to_list())
    drawn["generations"] = drawn["generations"].query("panel == 'pairs'")
    drawn["persona"] = drawn["persona"].query("study != 'all'")
    for figure, name, column in (("data_set", "data_set", "value"), ("nll_by_size", "nll", "mean_nll"), ("generations", "generations", "cohens_d"), ("persona", "persona", "cohens_d"),
                                 ("accuracy", "accuracy", "accuracy"), ("template", "template", "mean_nll")):
        published = reference.reference(name)
        assert drawn[figure][column].tolist() == pytest.approx(published["value" if "value" in published.columns else column].to_list())
    domains = pd.read_csv(tmp_path / "tables" / "domains.csv")
    assert domains["cohens_d"].round(4).tolist() == [.0575, .0721, .0831, .0831, .0867, .1233, .1781] and (domains["low"].isna() == (domains["beyond"] > 0)).all()
    assert pd.read_csv(tmp_path / "tables" / "generations.csv")["cohens_d"].round(4).tolist() == [0.0234, 0.0433, 0.1300, 0.1593]


def test_rule_paper_from_the_command_line(tmp_path, run):
    "Beside rule span in one store; figures lie in folders of their own; a rule that is not there is named."
    output = str(tmp_path / "out")
    score = ["score", "tiny-llama", "--data", "sample", "--studies", "simulated2026bandit", "--limit", "1", "--output", output]
    assert run(*score, "--rule", "paper")[0] == 0
    status, out, err = run("paper", "--output", output)
    assert status == 1 and "no scores in the format plain in the rule span, only in plain/paper (format/rule)" in err
    status, out, err = run(*score)
    row = [line.split() for line in out.splitlines() if line.strip().startswith("tiny-llama ")][-1]
    assert status == 0 and row[3:6] == ["40", "40", "0"]
    for rule, folder in (("span", tmp_path / "out"), ("paper", tmp_path / "out" / "plain-paper")):
        status, out, err = run("paper", "--output", output, "--rule", rule, "--figures", "nll_by_size")
        assert status == 0 and (folder / "figures" / "nll_by_size.png").exists()
    both = [pd.read_csv(folder / "tables" / "mean_nll.csv") for folder in (tmp_path / "out", tmp_path / "out" / "plain-paper")]
    assert both[0]["mean_nll"][0] != both[1]["mean_nll"][0]
    status, out, err = run("score", "baseline:uniform", *score[2:], "--rule", "paper")
    assert status == 1 and "the format plain and the rule span only" in err


def test_the_precision_of_scores_is_checked(tmp_path, run):
    "Some transcripts again in float32; nothing to check where scores are exact, or made by a baseline."
    score = ["--data", "sample", "--limit", "2", "--output", str(tmp_path), "--precision-check", "3"]
    status, out, err = run("score", "tiny-gemma", *score, "--dtype", "bfloat16")
    (line,) = re.findall("bfloat16 against float32, 3 transcripts, 88 responses: mean NLL .* nats, single responses up to (.*), means", out)
    assert status == 0 and 1e-4 < float(line) < 0.1
    for model in ("tiny-llama", "baseline:uniform"):
        status, out, err = run("score", model, *score)
        assert status == 0 and ("there is nothing to check" in out or "baseline:uniform has no precision to check" in out)


ONE_LINE = {
    "holds no scores": ["paper", "--output", "OUT"],
    "Did you mean tiny-llama?": ["score", "tiny-lama"],
    "There is no folder set": ["score", "tiny-llama", "set"],
    "The folder / holds no config.json": ["score", "tiny-llama", "/"],
    "my_stduy: does not exist": ["score", "tiny-llama", "--data", "sample", "my_stduy"],
    "No study 'bandit' here": ["score", "tiny-llama", "--data", "sample", "--studies", "bandit"],
    "No format 'chats'": ["score", "tiny-llama", "--format", "chats"],
    "leave out the rule": ["score", "tiny-llama", "--format", "paper", "--rule", "span"],
    "No device 'gpu'": ["score", "tiny-llama", "--device", "gpu"],
    "cannot be made": ["score", "tiny-llama", "--data", "sample", "--output", "/dev/null/x"],
}


@pytest.mark.parametrize("message", ONE_LINE)
def test_an_error_is_one_line(message, tmp_path, run, monkeypatch):
    "It comes before any model is loaded or any folder made, and once, however many models there are."
    monkeypatch.setattr(cli, "score_models", None)  # scoring would fail
    words = [word.replace("OUT", str(tmp_path / "out")) for word in ONE_LINE[message]]
    words += [] if "--output" in words else ["--output", str(tmp_path / "out")]
    status, out, err = run(*words)
    assert status == 1 and message in err and out == ""
    assert err.count("\n") == 1 and err.startswith(f"psych201 {words[0]}: ")
    assert not (tmp_path / "out").exists()


def test_the_format_paper_is_plain_by_the_published_rule(tmp_path, run):
    from psych201 import store

    assert run("score", "tiny-llama", "--format", "paper", "--data", "sample", "--limit", "1", "--output", str(tmp_path))[0] == 0
    assert {(shard.identity.must["format"], shard.identity.must["rule"]) for shard in store.find_shards(tmp_path / "scores")} == {("plain", "paper")}


@pytest.mark.parametrize("option", ["--max-tokens", "--limit"])
def test_a_negative_number_is_no_number(option, run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("score", "tiny-llama", option, "-7")
    assert stop.value.code == 2 and "'-7' is no whole number" in capsys.readouterr().err


def test_help_and_typos_answer_at_once():
    "They import nothing that takes long: no PyTorch, no transformers, no papermill."
    heavy = "{'torch', 'transformers', 'papermill', 'datasets', 'matplotlib'} & set(sys.modules)"
    for words in (["--help"], ["score", "tiny-lama"], ["score", "tiny-llama", "--format", "chats"]):
        code = f"import sys\nfrom psych201.workbench.cli import main\ntry: main({words})\nexcept SystemExit: pass\nprint({heavy})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip().endswith("set()"), (words, done.stdout, done.stderr)
    begin = time.perf_counter()
    psych201("--version")
    assert time.perf_counter() - begin < 5  # 0.1 s where nothing else runs


def test_data_lists_problems(tmp_path, run):
    (tmp_path / "prompts.jsonl").write_text('{"text": "<<J>>", "experiment": "e", "participant": 1}\n{"text": "J"}\n')
    status, out, err = run("data", str(tmp_path))
    assert status == 1 and "1 problem." in err and "line 2" in err and tmp_path.name in out


def test_help_and_version():
    assert '"participant": "7"' in psych201("data", "--help").stdout
    assert "score" in psych201("--help").stdout and "example:" in psych201("score", "--help").stdout
    assert psych201("--version").stdout.startswith("psych201 ")
    assert psych201("scoer").returncode == 2


@pytest.mark.slow
def test_the_demo_scores_the_sample_and_then_real_studies(tmp_path, monkeypatch, run):
    "With a tiny model in the place of the packaged ones; of each study in PSYCH201_DATA two transcripts, on a page of their own."
    monkeypatch.setattr(cards, "PACKAGED", {"tiny-llama": None})
    monkeypatch.setattr(paper, "ANALYSES", {name: workbench.ANALYSES[name] for name in ("nll_by_size", "data_set", "misalignment")})  # others: elsewhere
    study, out = tmp_path / "studies" / "wulff2020", tmp_path / "out"
    study.mkdir(parents=True)
    lines = [json.dumps({"text": f"<<{n}>>", "experiment": "e", "participant": n}) for n in range(5)]
    (study / "prompts.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("PSYCH201_DATA", str(study.parent))
    status, said, err = run("demo", "--output", str(out))
    assert status == 0, err
    known = {"tiny-llama", "baseline:uniform", "baseline:earlier", *models.SHIPPED}
    rows = store.read_scores(out / "scores", rules=["span"])
    assert set(rows["model"]) == known and rows["study"].n_unique() == 2
    assert set(store.read_scores(out / "scores", rules=["paper"])["model"]) == set(models.SHIPPED)
    for name in ("index.html", "figures", "tables", "data/index.html"):
        assert str(out / name) in said and (out / name).exists()
    assert "misalignment.svg" in (page := (out / "index.html").read_text()) or "misalignment.png" in page
    assert said.count("score_model-") == 6 + 3
    rows = store.read_scores(out / "data" / "scores", ["tiny-llama"])
    assert rows["response"].to_list() == ["0", "2"] and not set(store.read_scores(out / "data" / "scores")["model"]) & set(models.SHIPPED)


def test_a_source_that_is_not_there_stops_the_run(tmp_path, run):
    "A misspelt folder beside a good one must not end as a run without it."
    status, out, err = run("score", "tiny-llama", "--data", "sample", str(tmp_path / "my_stduy"), "--output", str(tmp_path / "out"))
    assert status == 1 and "my_stduy: does not exist" in err


def test_a_quick_look_takes_nothing_away(tmp_path, run):
    words = ["score", "tiny-llama", "--data", "sample", "--output", str(tmp_path), "--limit"]
    assert run(*words, "2")[0] == 0
    before = store.read_scores(tmp_path / "scores")
    for more in ([], ["--overwrite"]):
        status, out, err = run(*words, "1", *more)
        assert status == 0 and ("1 transcripts of simulated2026bandit will be replaced" in err) is bool(more)
        assert store.read_scores(tmp_path / "scores").rows() == before.rows()


def test_every_run_keeps_its_notebook(tmp_path, run):
    "Of one model on two studies two copies; the same command again replaces its own; a refused run replaces none."
    words = ["score", "tiny-llama", "--data", "sample", "--limit", "1", "--output", str(tmp_path), "--studies"]
    for study in ("simulated2026bandit", "simulated2026riskychoice", "simulated2026bandit"):
        assert run(*words, study)[0] == 0
    good = {path.name: path.read_bytes() for path in (tmp_path / "notebooks").iterdir()}
    assert sorted(name.split("-")[3] for name in good) == ["simulated2026bandit", "simulated2026riskychoice"]
    (shard, *_) = store.read_shards(tmp_path / "scores")
    whole = shard.path.read_bytes()
    shard.path.write_bytes(whole[:-9])
    status, out, err = run(*words, shard.study)
    assert status == 1 and "damaged" in err and ".failed.ipynb" in err
    left = {path.name: path.read_bytes() for path in (tmp_path / "notebooks").iterdir()}
    assert good.items() <= left.items() and len(left) == 3


def test_spellings_of_a_folder_are_one_model(tmp_path, run, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    tiny.model.save_pretrained("a/m")
    tiny.tokenizer.save_pretrained("a/m")
    words = ["--data", "sample", "--limit", "1", "--output", "out"]
    assert run("score", "a/m", "./a/m", "a/m/", str(tmp_path / "a" / "m"), *words)[0] == 0
    assert store.read_scores("out/scores")["model"].unique().to_list() == ["a/m"]
    assert len(list((tmp_path / "out" / "notebooks").iterdir())) == 1
    status, out, err = run("paper", "--models", str(tmp_path / "a" / "m"), "--output", "out")
    assert status == 0 and " a/m" in out, err
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    assert check_models(["../a/m", str(tmp_path / "a" / "m")]) == [str(tmp_path / "a" / "m")]


def test_edited_data_are_noticed_and_pruned(tmp_path, run):
    "A session is edited after it was scored; another command, and the figure, say so; --prune takes the old text out."
    study = tmp_path / "my_study" / "prompts.jsonl"
    study.parent.mkdir()
    line = lambda who, say: json.dumps({"text": f"{say}: <<{who}>>.", "experiment": "e", "participant": who}) + "\n"
    words = ["score", "tiny-llama", "baseline:uniform", "--data", str(study.parent), "--output", str(tmp_path / "out")]
    study.write_text(line("sun", "Say") + line("rain", "Sya"))
    assert run(*words)[0] == 0
    study.write_text(line("sun", "Say") + line("rain", "Say") + "not JSON\n")
    status, out, err = run(*words)
    assert status == 1 and "tiny-llama: 1 stored transcripts of my_study are not in these data" in err
    assert "1 of the records and files could not be read" in out
    assert "of 1 participants of my_study more texts are scored" in run("paper", "--output", str(tmp_path / "out"), "--figures", "nll_by_size")[2]
    status, out, err = run(*words, "--prune")
    assert status == 1 and "1 records of the data cannot be read" in err  # what it held may be stored
    study.write_text(line("sun", "Say") + line("rain", "Say"))
    assert run(*words, "--prune")[0] == 0
    left = store.read_scores(tmp_path / "out" / "scores").select("model", "participant", "response").rows()
    assert left == [(model, *rest) for model in ("baseline:uniform", "tiny-llama") for rest in (("sun", "sun"), ("rain", "rain"))]
    assert "more texts" not in run("paper", "--output", str(tmp_path / "out"), "--figures", "nll_by_size")[2]


def test_a_full_disk_is_said_and_the_next_model_tried(tmp_path, run, monkeypatch):
    "The disk fills up while the copy of the first model is written: half a notebook, and an error of the system."
    import papermill

    original, tried = papermill.execute_notebook, []

    def full(notebook, copy, parameters, **options):
        tried.append(parameters["model"])
        if len(tried) == 1:
            with open(copy, "w") as stream:
                stream.write('{"cells": [{"cell_type"')
            raise OSError(28, "No space left on device")
        return original(notebook, copy, parameters, **options)

    monkeypatch.setattr(papermill, "execute_notebook", full)
    status, out, err = run("score", "tiny-llama", "tiny-gemma", "--data", "sample", "--limit", "1", "--output", str(tmp_path))
    assert status == 1 and tried == ["tiny-llama", "tiny-gemma"]
    assert "1 of 2 models failed" in err and "No space left on device" in err and "does not appear to be JSON" not in err
    assert set(store.read_scores(tmp_path / "scores")["model"]) == {"tiny-gemma"}
    assert not list(tmp_path.rglob("*.part.ipynb"))


def test_nothing_scored_is_no_success(tmp_path, run):
    status, out, err = run("score", "tiny-llama", "--data", "sample", "--limit", "1", "--max-tokens", "2", "--output", str(tmp_path))
    assert status == 1 and "not one response was scored" in err
    assert store.read_scores(tmp_path / "scores")["reason"].unique().to_list() == ["cut"]


def test_a_baseline_goes_the_same_way(tmp_path, run):
    "Command line, notebook, store and figure."
    words = ["--data", "sample", "--output", str(tmp_path)]
    status, out, err = run("score", "tiny-llama", "baseline:uniform", "baseline:marginal", "--limit", "2", *words)
    assert status == 0, err
    rows = store.read_scores(tmp_path / "scores", ["baseline:uniform"])
    assert rows["nll"].to_list() == pytest.approx([math.log(2)] * len(rows))  # what all participants show: each had two options
    assert len(rows) == 2 * (40 + 24)
    assert store.read_scores(tmp_path / "scores", ["baseline:marginal"])["nll"].to_list() == rows["nll"].to_list()  # keys drawn for each
    assert run("score", "baseline:uniform", *words)[0] == 0
    assert len(store.read_scores(tmp_path / "scores", ["baseline:uniform"])) == 10 * (40 + 24)
    status, out, err = run("paper", "--output", str(tmp_path), "--figures", "nll_by_size")
    assert status == 0 and "baseline:uniform" in out
    assert "baseline:uniform" in (tmp_path / "figures" / "nll_by_size.csv").read_text()


def test_the_marginal_baseline_from_file_to_store(tmp_path, run):
    "The same keys for all: what the other participants answered, half an answer added; old scores are not taken for new ones when somebody joins."
    answers = {"1": "JJF", "2": "JFJ", "3": "JJJ", "4": "FJJ"}
    write = lambda: (tmp_path / "keys.jsonl").write_text("\n".join(
        json.dumps({"text": " ".join(f"<<{key}>>" for key in keys), "experiment": "e", "participant": who}) for who, keys in answers.items()))
    words = ["score", "baseline:marginal", "--data", str(tmp_path / "keys.jsonl"), "--output", str(tmp_path / "out")]
    for more in ({}, {"5": "FFF"}):
        answers |= more
        write()
        if more:
            assert "not put to baseline:marginal as they were" in run(*words)[2]
        status, out, err = run(*words, *["--overwrite"] * bool(more))
        assert status == 0, err
        rows = store.read_scores(tmp_path / "out" / "scores").filter(participant="1")
        others = "".join(keys for who, keys in answers.items() if who != "1")
        assert rows["nll"].to_list() == pytest.approx([-math.log((others.count(key) + 0.5) / (len(others) + 1)) for key in "JJF"])


def test_lines_where_nobody_watches(tmp_path, run):
    "A line for each study, what there is to do before it, and no bar."
    status, out, err = run("score", "tiny-llama", "--data", "sample", "--limit", "2", "--output", str(tmp_path))
    assert "4 transcripts to score, 128 responses, about " in err
    assert "simulated2026bandit: 2 transcripts, 80 responses in" in err and "%|" not in err


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_how_to_go_on(tmp_path, sent):
    "Ctrl-C, or the end by a batch system, while a model is being scored; sent to the whole group, as a terminal does."
    words = ["score", "tiny-llama", "tiny-gemma", "--data", "sample", "--output", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "psych201", *words], stderr=subprocess.PIPE, start_new_session=True,
                               stdout=subprocess.PIPE, text=True, env=os.environ | {"PSYCH201_DATA": ""})
    deadline = time.time() + 60
    while not list(tmp_path.glob("notebooks/*.part.ipynb")) and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, sent)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, "goes on from there" in err, "Traceback" in err) == (130, True, False), err


HALF_BUILT = """
import os, signal, sys
from psych201.workbench import cli
class Half:
    def __del__(self): raise AttributeError("not yet built")
def interrupted(_):
    half = Half(); half.itself = half
    exec("os.kill(os.getpid(), SENT)")
interrupted.__doc__ = cli.data_command.__doc__
cli.data_command = interrupted
sys.argv = ["psych201", "data", "sample"]
raise SystemExit(cli.main())
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import(tmp_path, sent):
    """An interruption inside of code made from a string, as dataclasses make it, does not look like a killed process,
    and what was half built then is silent about its end."""
    (tmp_path / "interrupted.py").write_text(HALF_BUILT.replace("SENT", str(int(sent))))
    done = subprocess.run([sys.executable, "-m", "interrupted"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("Interrupted"), "Traceback" in done.stderr) == (130, 1, False), done.stderr


def test_domains_of_own_studies_reach_the_notebooks(tmp_path, monkeypatch):
    "What a study.toml says of the domain is a parameter of every notebook that asks for it."
    study, given = tmp_path / "wulff2020", {}
    study.mkdir()
    (study / "study.toml").write_text('domain = "Memory"')
    monkeypatch.setattr(paper, "_run", lambda name, output, parameters: given.update(parameters))
    workbench.draw_paper(Path(example_store()), tmp_path / "out", figures=["domains"], data=[str(study)])
    assert given["domains"] == {"wulff2020": "Memory"} and given["data"] == [str(study)]
