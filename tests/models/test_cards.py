"""Names of models from the command line to the store: copies of published models, models of one's own, guesses."""
import re

import pytest

from psych201 import data, errors, models, reference, scoring, store, workbench
from psych201.store import read
from psych201.workbench import cli
from psych201.models.weights import make_tiny


@pytest.fixture
def copies(tmp_path):
    "Folders called like a published pair, and one called like nobody, all with tiny weights."
    for seed, name in enumerate(("Qwen3-0.6B", "Qwen3-0.6B-Base", "my-finetune")):
        model, tokenizer = make_tiny("tiny-llama", seed)
        model.save_pretrained(tmp_path / "models" / name)
        tokenizer.save_pretrained(tmp_path / "models" / name)
    return tmp_path / "models"


@pytest.mark.parametrize("name", reference.published_models()["model"])
def test_every_published_model_has_a_card(name):
    card = models.card(name)
    assert not card.guessed and card.type in models.MODEL_TYPES and card.generation >= 1.5 and card.context >= 4_096
    assert models.check_name(name) == name


def test_pairs_have_cards_and_caveats():
    table = models.pairs()
    assert table["type"].isin(["instruct", "reasoning", "vision", "code", "math", "behavioural"]).all()
    assert table.duplicated(["post", "base"]).sum() == 0
    published = table[table["source"] == "published"]
    assert len(published) == 65 and (published["note"] != "").sum() == (reference.published_pairs()["note"] != "").sum()
    assert not models.pairs(same_size=True)["post"].str.contains("Qwen3-VL-32B|Qwen3-VL-2B|11B-Vision|90B-Vision").any()
    assert len(models.pairs(same_size=True)) == table["same_size"].sum() < len(table)
    vision = models.pairs(type="vision")
    assert set(vision["post"]) == {post for post in table["post"] if models.card(post).type == "vision"}


def test_copies_in_folders_are_a_published_pair(copies, tmp_path, capsys):
    "Scored by the command line, they stand under the ids of the hub, with the cards and as the pair that they are."
    out = tmp_path / "out"
    words = ["score", str(copies / "Qwen3-0.6B"), f"{copies}/Qwen3-0.6B-Base/", "--data", "sample", "--limit", "1", "--output", str(out)]
    assert workbench.main(words) == 0, capsys.readouterr().err
    table = capsys.readouterr().out
    assert re.search(r"Qwen/Qwen3-0.6B-Base +simulated2026bandit", table)
    assert workbench.scored_pairs(out / "scores") == [("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B-Base")]
    runs = {run["model"]: run["card"] for run in store.read_runs(out / "scores")}
    assert runs["Qwen/Qwen3-0.6B"]["type"] == "reasoning" and not runs["Qwen/Qwen3-0.6B"]["guessed"]
    assert {path.name.split("-sample")[0] for path in (out / "notebooks").iterdir()} == {"score_model-Qwen--Qwen3-0.6B", "score_model-Qwen--Qwen3-0.6B-Base"}
    assert cli._stored_names([str(copies / "Qwen3-0.6B"), "Qwen/Qwen3-4B"]) == ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B"]


def test_a_copy_says_what_it_is_taken_for(copies, capsys):
    assert models.load_model(str(copies / "Qwen3-0.6B"), device="cpu").name == "Qwen/Qwen3-0.6B"
    said = capsys.readouterr().err
    assert "is Qwen/Qwen3-0.6B; NAME=" in said and "billion parameters, and Qwen/Qwen3-0.6B has 0.6" in said
    assert models.load_model(f"Qwen/Qwen3-0.6B={copies}/my-finetune", device="cpu").card.type == "reasoning"
    assert "NAME=" not in capsys.readouterr().err.partition("billion")[0]
    mine = models.load_model(str(copies / "my-finetune"), device="cpu")
    assert mine.name == str(copies / "my-finetune") and mine.card.guessed and mine.card.type == "unknown" and "NAME=" not in capsys.readouterr().err
    assert mine.card.context == 4096 and mine.card.size_b == pytest.approx(4.6e-5, rel=0.5)


def test_a_copy_with_other_weights_is_not_added_to_the_scores_of_the_model(copies, tmp_path):
    "The name is the same, the identity is not."
    one = data.load_data("sample", limit=1)
    scoring.score(f"{copies}/Qwen3-0.6B", one, tmp_path / "scores", progress="none")
    with pytest.raises(read.StoreError, match="made differently: weights"):
        scoring.score(f"Qwen/Qwen3-0.6B={copies}/my-finetune", data.load_data("sample", limit=2), tmp_path / "scores", progress="none")


def test_models_of_ones_own(copies, tmp_path, monkeypatch, capsys):
    "models.csv beside settings.ini: name, place, card and pair; read again when it changes."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nworkbench = psych201\n")
    (tmp_path / "models.csv").write_text("name,path,family,size,type,base\ntuned,models/my-finetune,Qwen3,0.6,behavioural,Qwen/Qwen3-0.6B-Base\n")
    assert workbench.main(["score", "tuned", "models/Qwen3-0.6B-Base", "--data", "sample", "--limit", "1", "--output", "out"]) == 0, capsys.readouterr().err
    assert workbench.scored_pairs("out/scores") == [("tuned", "Qwen/Qwen3-0.6B-Base")]
    assert {run["model"]: run["card"]["type"] for run in store.read_runs("out/scores")} == {"tuned": "behavioural", "Qwen/Qwen3-0.6B-Base": "base"}
    (tmp_path / "models.csv").write_text("name,path,type\ntuned,models/my-finetune,instruct\n")
    assert models.card("tuned").type == "instruct" and models.card("tuned").family == "my-finetune" and workbench.scored_pairs("out/scores") == []
    (tmp_path / "models.csv").write_text("name,path,type\ntuned,nowhere,instruct\n")
    with pytest.raises(errors.ModelError, match="no folder nowhere"):
        models.load_model("tuned")
    (tmp_path / "models.csv").write_text("name,path,type\ntuned,models/my-finetune,chatty\n")
    assert workbench.main(["score", "tuned"]) == 1
    assert "models.csv, line 2, column 'type': is 'chatty'" in capsys.readouterr().err


@pytest.mark.parametrize("path, known", [
    ("models--meta-llama--Llama-3.1-8B/snapshots/d04e592bb4f6aa9cfee91e2e20afa771667e1d4b", "meta-llama/Llama-3.1-8B"),
    ("models--somebody--my--model/snapshots/d04e592bb4f6aa9cfee91e2e20afa771667e1d4b", "somebody/my--model"),
    ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"), ("Qwen_Qwen3-8B", "Qwen/Qwen3-8B"), ("Llama-3.1-Centaur-70B-adapter", "marcelbinz/Llama-3.1-Centaur-70B-adapter"),
    ("Qwen3-8B-AWQ", None), ("Qwen3-8B-finetuned", None), ("Qwen3", None)])
def test_of_which_model_a_folder_is_a_copy(tmp_path, path, known):
    (tmp_path / path).mkdir(parents=True)
    assert models.published_copy(tmp_path / path) == known
