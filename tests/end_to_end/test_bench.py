"""The benchmark measures what it says: same numbers on all ways, needed work counted right, a report of what was measured."""
import json
import subprocess
import sys

import pytest

from helpers import ROOT
import torch
from torch.utils.flop_counter import FlopCounterMode

from psych201 import models

BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))
import measure  # noqa: E402
import run  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def gradients():
    "The module switches gradients off for its process; here they come back."
    yield
    torch.set_grad_enabled(True)


def test_needed_work_is_what_pytorch_counts():
    "Products as PyTorch counts them; attention over what is seen, which is half of its square and a little more."
    model, tokens = models.load_model("tiny-llama", "float32", "cpu").model, 96
    model.set_attn_implementation("eager")  # whose products of the whole square are counted, and the small one of rotations
    with FlopCounterMode(display=False) as counter:
        model.base_model(input_ids=torch.arange(tokens)[None] + 3, use_cache=False)
    counted = {str(name).split(".")[1]: n for name, n in counter.get_flop_counts()["Global"].items()}
    assert set(counted) == {"mm", "bmm"}
    assert measure.needed(model, tokens, 0) == pytest.approx(counted["mm"] + counted["bmm"] * (tokens + 1) / (2 * tokens), rel=0.01)
    config = model.config
    assert measure.needed(model, tokens, 5) - measure.needed(model, tokens, 0) == 2 * 5 * config.vocab_size * config.hidden_size


def test_windows_need_less():
    model = models.load_model("tiny-gemma", "float32", "cpu").model
    config = model.config.get_text_config()
    windowed = sum(kind == "sliding_attention" for kind in config.layer_types)
    width = config.num_attention_heads * config.head_dim
    tokens, window = 1000, config.sliding_window
    before = measure.needed(model, tokens, 0)
    config.layer_types = ["full_attention"] * len(config.layer_types)
    pairs = sum(n - min(n, window) for n in range(1, tokens + 1))
    assert windowed and measure.needed(model, tokens, 0) - before == 4 * width * windowed * pairs


def test_all_ways_score_the_same(packaged):
    packaged(run.SMOLLM)
    found = measure.speed(run.SMOLLM, 300, 1, run.WAYS)
    assert set(found["seconds"]) == set(run.WAYS) and 250 < found["tokens"] <= 300 and found["responses"] > 9
    assert max(found["moved"]["own float32"], found["moved"]["compiled float32"]) < 1e-4 < found["moved"]["own mixed"] < 0.1
    assert 1e-4 < found["moved"]["compiled mixed"] < 0.2


def test_a_child_that_fails_is_reported():
    "With its own error; a measurement that lacks memory as one that does not fit."
    assert "KeyError: 'nothing'" in run.measure("nothing")["failed"]
    command = [sys.executable, str(BENCH / "measure.py"), json.dumps(dict(what="peak", dtype="float32", limit_bytes=10**8))]
    assert "memory" in subprocess.run(command, capture_output=True, text=True).stderr.lower()


def test_the_report_is_of_these_results():
    "RESULTS.md is what run.py makes of results.json and notes.md, and every goal has a yes or a no."
    results = json.loads((BENCH / "results.json").read_text())
    gpu, notes = json.loads((BENCH / "gpu.json").read_text()), [(BENCH / name).read_text() for name in ("notes.md", "gpu_notes.md")]
    assert run.report(results, notes[0], gpu, notes[1]) == (BENCH / "RESULTS.md").read_text()
    assert len(run.goal_rows(results)) > 20 and {row[-1] for row in run.goal_rows(results)} <= {"yes", "no"}


def test_the_table_of_a_gpu():
    "Times as fast as the published way on the same texts, the share of the peak of the same dtype; what does not fit says so."
    one = {"model": "m", "tokens": 1000, "texts": 4}
    speed = [one | {"way": "published bfloat16", "seconds": 2.0, "flops": 10.0, "above_bytes": 5e9},
             one | {"way": "own float32", "seconds": 0.5, "flops": 10.0, "above_bytes": 1e9},
             one | {"way": "own bfloat16", "seconds": 0.25, "flops": 10.0, "above_bytes": 1e9}, one | {"way": "own mixed", "failed": "does not fit"}]
    rows = run.gpu_rows({"peak": {"bfloat16": 100.0, "float32": 40.0}, "speed": speed})
    assert [row[4:] for row in rows] == [["2,000", "1.00", "5 %", "5.00"], ["8,000", "4.00", "50 %", "1.00"], ["16,000", "8.00", "40 %", "1.00"], ["does not fit", "", "", ""]]
    assert run.gpu_rows({"peak": {"bfloat16": 100.0, "float32": 40.0}, "speed": speed[2:3]})[0][5] == ""


def test_what_fails_is_reported_and_is_no_goal_reached():
    "A measurement that failed, or left the published way out, stands in its table as such; a report comes out all the same."
    good = json.loads((BENCH / "results.json").read_text())
    for name in run.MEASURES:
        results = json.loads(json.dumps(good))
        results[name] = [{key: value for key, value in one.items() if key in ("model", "tokens", "dtype", "repeats", "words", "tool", "batch", "people", "number")}
                         | {"failed": "does not fit"} for one in results[name]]
        assert run.report(results, "").count("does not fit") >= len(good[name]) or name in ("memory", "answers")
        before, after = (sum(row[-1] == "yes" for row in run.goal_rows(some)) for some in (good, results))
        assert len(run.goal_rows(results)) == len(run.goal_rows(good)) and (after < before or name in ("parts", "participants"))
    for one in good["speed"]:
        one["seconds"].pop(run.WAYS[0], None)
        one["seconds"].pop(run.WAYS[-1], None)  # compiled layers are not measured at every length
        one["published"] = "does not fit: 9 GB"
    report = run.report(good, "")
    assert report.count("does not fit: 9 GB") == len(good["speed"]) and report.count("against the published way | ") == len(run.GOALS)
    assert not any(row[-1] == "yes" for row in run.goal_rows(good)[: len(run.GOALS)])
