"""Options: whose log-probabilities are kept, for whom, and at what price."""
from dataclasses import replace
from tempfile import mkdtemp

import numpy as np
import pytest
import torch

from helpers.stores import picks
from psych201 import data, models, scoring, store
from psych201.errors import StoreError
from psych201.inputs.options import choose_options
from psych201.scoring import run as run_module
from psych201.scoring.language_model import LanguageModelScorer
from psych201.store import write as write_module
from psych201.transcripts import Transcript


def test_options_of_a_baseline_are_those_of_all_that_is_stored(tmp_path):
    "The second part of a study brings an answer that the first did not have."
    first, second = (data.Dataset([Transcript(text, "wulff2020", "exp1", who, row)]) for row, (text, who) in
                     enumerate((("J, F or K? <<J>>, <<F>>, <<J>>, <<F>>.", "1"), ("J, F or K? <<J>>, <<K>>, <<F>>, <<J>>.", "2"))))
    scoring.score("baseline:uniform", first, tmp_path, progress="none")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="1 stored transcripts of wulff2020 are not in these data, and baseline:uniform"):
            scoring.score("baseline:uniform", second, tmp_path, progress="none", overwrite=overwrite)
    scoring.score("baseline:uniform", data.Dataset([*first, *second]), tmp_path, progress="none", overwrite=True)
    assert store.read_scores(tmp_path)["nll"].to_list() == pytest.approx([np.log(3)] * 8)
    scoring.score("baseline:uniform", second, tmp_path / "two", progress="none")
    scoring.score("baseline:uniform", data.Dataset([replace(first[0], experiment="exp2")]), tmp_path / "two", progress="none")


def test_options_are_those_of_all_people_and_named_in_each_shard(tmp_path, llama, capsys):
    "Also where a part is scored first; what was stored with fewer options is said, and scored anew only when asked for."
    people = data.Dataset([picks(1, "JJ"), picks(2, "FJ")])
    scoring.score(llama, data.Dataset(people.transcripts[:1], source=people), tmp_path, progress="none")
    assert store.read_scores(tmp_path)["option_logprobs"].list.len().to_list() == [2, 2]
    more = data.Dataset([*people, picks(3, "K")])
    scoring.score(llama, more, tmp_path, progress="lines")
    said = capsys.readouterr().err
    assert "for 1 of 1 experiments the log-probability of each option is kept." in said
    assert "1 transcripts were scored without these options (the first is Transcript(wulff2020, participant 1" in said
    table = store.scan_choices(tmp_path).collect()
    names = {person: set(rows["option"]) for (person,), rows in table.group_by("person")}
    assert names == {"wulff2020/exp1/1": {"F", "J"}, "wulff2020/exp1/2": {"F", "J", "K"}, "wulff2020/exp1/3": {"F", "J", "K"}}
    chosen = table.filter("chosen").join(store.read_scores(tmp_path), on=["transcript", "response_index"])
    np.testing.assert_allclose(-chosen["logprob"], chosen["nll"], atol=1e-5)
    assert len(chosen) == 5
    scoring.score(llama, data.Dataset(more.transcripts[2:], source=more), tmp_path, overwrite=True, progress="none")
    assert store.scan_choices(tmp_path).collect().sort(*table.columns).equals(table.sort(*table.columns)), "a shard that loses a transcript keeps its names"
    scoring.score(llama, more, tmp_path, overwrite=True, progress="lines")
    assert set(store.read_scores(tmp_path)["option_logprobs"].list.len()) == {3}
    assert "without these options" not in capsys.readouterr().err


def test_options_of_a_restart_that_was_killed_are_read_once(tmp_path, llama, monkeypatch):
    people = data.Dataset([picks(1, "JF"), picks(2, "FJ")])
    scoring.score(llama, people, tmp_path, progress="none")
    for module in (write_module, run_module):
        monkeypatch.setattr(module, "drop_superseded", lambda run: None)
    scoring.score(llama, data.Dataset(people.transcripts[:1], source=people), tmp_path, overwrite=True, progress="none")
    assert len(store.read_shards(tmp_path)) == 2
    assert len(store.scan_choices(tmp_path).collect()) == 2 * 2 * 2


def test_one_answer_is_no_choice(tmp_path, llama):
    scoring.score(llama, data.Dataset([picks(1, "JJ")]), tmp_path, progress="none")
    assert store.read_scores(tmp_path)["option_logprobs"].null_count() == 2 and not store.read_shards(tmp_path)[0].options


@pytest.mark.parametrize("mode, expected", [("none", [None] * 4), ("single", [None] * 2 + [2] * 2), ("all", [3] * 2 + [2] * 2)])
def test_which_options_are_scored(tmp_path, llama, capsys, mode, expected):
    "Numbers are several tokens; said before is what they cost."
    people = data.Dataset([replace(picks(1, ["123", "17"]), experiment="exp0"), replace(picks(2, ["4", "123"]), experiment="exp0"), picks(3, "JF")])
    scoring.score(llama, data.Dataset([people[0], people[2]], source=people), tmp_path, option_logprobs=mode, progress="lines")
    assert ("1 transcripts are read twice, with " in capsys.readouterr().err) == (mode == "all")
    table = store.read_scores(tmp_path).sort("experiment", "response_index")
    assert table["option_logprobs"].list.len().to_list() == expected
    if mode == "all":
        rows = table.head(2)
        given = [rows["option_logprobs"][n][["123", "17", "4"].index(rows["response"][n])] for n in (0, 1)]
        np.testing.assert_allclose([-value for value in given], rows["nll"], atol=1e-4)


def test_options_of_models_that_keep_their_own_attention(llama, capsys):
    "The same numbers, read one by one."
    transcript = Transcript("You say <<twelve points>>, then <<J>>, <<ten>>.", "wulff2020", "exp1", "7")
    options = choose_options([transcript], llama.tokenizer, "all")
    theirs = models.load_model("tiny-llama", dtype="float32", device="cpu")
    theirs.model.set_attn_implementation("eager")
    one, other = (LanguageModelScorer(model, options=options).score([transcript]) for model in (llama, theirs))
    np.testing.assert_allclose(one["option_logprobs"].to_list(), other["option_logprobs"].to_list(), atol=1e-4)
    np.testing.assert_allclose([-one["option_logprobs"][n][list(options["wulff2020", "exp1"]).index(answer)]
                                for n, answer in enumerate(transcript.responses)], one["nll"], atol=1e-4)
    scoring.score(theirs, data.Dataset([transcript]), tmp := mkdtemp(), option_logprobs="all", progress="lines")
    assert "this kind of model reads each from its start" in capsys.readouterr().err and store.read_scores(tmp)["option_logprobs"].null_count() == 0


def rated(*answers: str) -> Transcript:
    "Ratings from 1 to 10."
    return Transcript("You rate songs from 1 (bad) to 10 (good).\n" + "".join(f"Song {n}: you give it <<{answer}>> points.\n" for n, answer in enumerate(answers)),
                      "wulff2020", "exp1", answers[0])


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma"])
def test_an_option_that_begins_another_includes_its_end(name, tmp_path):
    "P('1') once held P('10'): the options added up to 1.90, and 10 was never the most probable."
    people = data.Dataset([rated("1", "10", "2", "100"), rated("10", "1", "1", "2")])
    model = models.load_model(name, device="cpu")
    scoring.score(model, people, tmp_path, option_logprobs="all", progress="none")
    table = store.scan_choices(tmp_path).collect()
    chosen = table.filter("chosen").join(store.read_scores(tmp_path), on=["transcript", "response_index"])
    np.testing.assert_allclose(-chosen["logprob"], chosen["nll"] + chosen["close_nll"], rtol=1e-5)
    text = people[0].text[: people[0].spans[1][0]]
    ids, end = (model.tokenizer(part, add_special_tokens=part == text).input_ids for part in (text, ">>"))
    whole = [i for i in range(len(model.tokenizer)) if model.tokenizer.decode([*ids[-1:], i]).startswith(model.tokenizer.decode(ids[-1:]) + ">>")]
    assert end[0] in whole
    for option, logprob in table.filter(transcript=people[0].key, response_index=1).select("option", "logprob").iter_rows():
        longer = [*ids, *model.tokenizer(option, add_special_tokens=False).input_ids]
        with torch.inference_mode():
            plain = model.model(input_ids=torch.tensor([longer])).logits[0].log_softmax(-1)
        steps = sum(plain[n - 1, longer[n]].item() for n in range(len(ids), len(longer)))
        assert logprob == pytest.approx(steps + plain[-1, whole].logsumexp(0).item(), abs=1e-3)


def test_options_without_an_end_have_no_probability(tmp_path, llama):
    "In brackets nothing ends an answer, so 1 and 10 cannot be told apart; answers that do not begin others can."
    people = data.Dataset([rated("1", "10", "2"), rated("2", "1", "10")])
    scoring.score(llama, people, tmp_path, format="brackets", option_logprobs="all", progress="none")
    scores = store.read_scores(tmp_path)
    assert scores["option_logprobs"].null_count() == len(scores) == scores["nll"].count() == 6
    scoring.score(llama, data.Dataset([rated("12", "31"), rated("31", "12")]), tmp_path / "two", format="brackets", option_logprobs="all", progress="none")
    assert store.read_scores(tmp_path / "two")["option_logprobs"].null_count() == 0
