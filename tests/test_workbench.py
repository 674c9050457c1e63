"""The command line and its runs: failures, interruptions, resuming."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from psych201 import shards, store
from psych201.workbench import main


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
    (tmp_path / "nothing").mkdir()
    status, out, err = run("score", "tiny-llama", str(tmp_path / "nothing"), "tiny-gemma", "--data", "sample",
                           "--transcripts", "1", "--output", str(tmp_path / "out"))
    assert status == 1
    assert "1 of 3 models failed" in err and "holds no config.json" in err
    assert set(store.read_scores(tmp_path / "out" / "scores")["model"]) == {"tiny-llama", "tiny-gemma"}
    kept = {path.name for path in (tmp_path / "out" / "notebooks").iterdir()}
    assert {"score_model-tiny-llama.ipynb", "score_model-tiny-gemma.ipynb"} < kept and len(kept) == 3
    assert "Traceback" not in err.split("1 of 3 models failed")[1]


def test_score_and_paper(tmp_path, run):
    output = str(tmp_path / "out")
    status, out, err = run("score", "tiny-llama", "--data", "sample", "--studies", "simulated2026bandit",
                           "--transcripts", "2", "--max-tokens", "300", "--dtype", "bfloat16", "--output", output)
    assert status == 0, err
    (shard,) = shards.read_shards(tmp_path / "out" / "scores")
    assert (shard.identity.must["dtype"], shard.identity.must["max_tokens"]) == ("bfloat16", 300)
    assert (shard.study, len(shard.inputs)) == ("simulated2026bandit", 2)
    rows = store.read_scores(tmp_path / "out" / "scores")
    assert len(rows) == 80 and set(rows["reason"]) == {None, "cut"}
    status, out, err = run("paper", "--output", output)
    assert status == 0 and (tmp_path / "out" / "figures" / "nll_by_size.png").stat().st_size > 1_000
    assert "tiny-llama" in (tmp_path / "out" / "tables" / "mean_nll.csv").read_text()


def test_an_error_is_one_line(tmp_path, run):
    for words, message in ((("paper", "--output", str(tmp_path)), "holds no scores"),
                           (("data", str(tmp_path / "nothing")), "does not exist")):
        status, out, err = run(*words)
        assert status == 1 and message in err and "Traceback" not in err


def test_data_lists_problems(tmp_path, run):
    (tmp_path / "prompts.jsonl").write_text('{"text": "<<J>>", "experiment": "e", "participant": 1}\n{"text": "J"}\n')
    status, out, err = run("data", str(tmp_path))
    assert status == 1 and "1 problems." in err and "line 2" in err and tmp_path.name in out


def test_help_and_version():
    assert "score" in psych201("--help").stdout and "example:" in psych201("score", "--help").stdout
    assert psych201("--version").stdout.startswith("psych201 ")
    assert psych201("scoer").returncode == 2


def test_the_demo_scores_the_sample_and_nothing_else(tmp_path, monkeypatch, run):
    "With tiny models in the place of the packaged ones; with PSYCH201_DATA, two transcripts of each study there, too."
    from psych201 import models

    monkeypatch.setattr(models, "PACKAGED", {"tiny-llama": None, "tiny-gemma": None})
    monkeypatch.delenv("PSYCH201_DATA", raising=False)
    status, out, err = run("demo", "--output", str(tmp_path / "out"))
    assert status == 0, err
    assert store.read_scores(tmp_path / "out" / "scores")["study"].n_unique() == 2
    for name in ("figures/nll_by_size.png", "tables", "notebooks/score_model-tiny-llama.ipynb"):
        assert str(tmp_path / "out" / name) in out and (tmp_path / "out" / name).exists()
    study = tmp_path / "studies" / "wulff2020"
    study.mkdir(parents=True)
    lines = [json.dumps({"text": f"<<{n}>>", "experiment": "e", "participant": n}) for n in range(5)]
    (study / "prompts.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("PSYCH201_DATA", str(study.parent))
    status, out, err = run("demo", "--output", str(tmp_path / "out"))
    rows = store.read_scores(tmp_path / "out" / "scores", ["tiny-llama"])
    assert status == 0 and rows["study"].n_unique() == 3
    assert rows.filter(study="wulff2020")["response"].to_list() == ["0", "2"]


def test_a_source_that_is_not_there_stops_the_run(tmp_path, run):
    "A misspelt folder beside a good one must not end as a run without it."
    status, out, err = run("score", "tiny-llama", "--data", "sample", str(tmp_path / "my_stduy"), "--output", str(tmp_path / "out"))
    assert status == 1 and "my_stduy: does not exist" in err
    assert run("score", "tiny-llama", "--output", "/dev/null/x")[0] == 1


def test_a_quick_look_takes_nothing_away(tmp_path, run):
    words = ["score", "tiny-llama", "--data", "sample", "--output", str(tmp_path), "--transcripts"]
    assert run(*words, "2")[0] == 0
    before = store.read_scores(tmp_path / "scores")
    for more in ([], ["--restart"]):
        status, out, err = run(*words, "1", *more)
        assert status == 0 and ("1 transcripts of simulated2026bandit will be replaced" in err) is bool(more)
        assert store.read_scores(tmp_path / "scores").rows() == before.rows()


@pytest.mark.slow
def test_an_interrupted_command_says_how_to_go_on(tmp_path):
    "Ctrl-C while a model is being scored."
    words = ["score", "tiny-llama", "tiny-gemma", "--data", "sample", "--output", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "psych201", *words], stderr=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, env=os.environ | {"PSYCH201_DATA": ""})
    deadline = time.time() + 60
    while not list(tmp_path.glob("notebooks/*.part.ipynb")) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from there" in err and "Traceback" not in err
