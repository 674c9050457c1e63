"""NLLs against slower and plainer computations."""
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from helpers.networks import CLOSING, HEADS, SMALL, random_model, some_responses
from helpers.texts import encode
from psych201 import data, likelihood, models
from psych201.inputs import tokens
from psych201.likelihood import forward, fused_head, head, logprobs, nll as nll_module
from psych201.inputs.pieces import Piece


def one_request_each(model, encoded) -> np.ndarray:
    "The NLL of each response from a forward pass of its own, over its own text only, in float64."
    nll = []
    for start, end in zip(encoded.start, encoded.end):
        ids = torch.from_numpy(encoded.ids[:end])[None]
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0].double()
        logprob = logits.log_softmax(-1)
        nll.append(-sum(logprob[t - 1, ids[0, t]].item() for t in range(start, end)))
    return np.array(nll)


def test_one_pass_equals_one_request_per_response(tiny):
    for transcript in data.load_data("sample", limit=1):
        encoded = encode(transcript.text, tiny.tokenizer)
        scores = likelihood.response_nll(tiny.model, encoded)
        np.testing.assert_allclose(scores.nll, one_request_each(tiny.model, encoded), rtol=0, atol=1e-4)


def test_real_model_one_pass_equals_one_request_per_response(packaged):
    model = packaged("smollm2-135m-instruct")
    transcript = data.load_data("sample", limit=1)[0]
    encoded = tokens.cut(encode(transcript.text, model.tokenizer), 250)
    scores = likelihood.response_nll(model.model, encoded)
    assert len(scores) > 5
    np.testing.assert_allclose(scores.nll, one_request_each(model.model, encoded), rtol=0, atol=1e-4)


def from_all_logits(model, encoded) -> dict[str, np.ndarray]:
    "NLL and the rest from the model's logits at all positions, in float64."
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(encoded.ids)[None], use_cache=False).logits[0].double()
    logprob = logits.log_softmax(-1)
    each = lambda a, b: -sum(logprob[t - 1, encoded.ids[t]].item() for t in range(a, b))
    first, p = logprob[encoded.start - 1], logprob.exp().numpy()

    def close(a: int, b: int, marked: bool) -> float:
        "By the formulas of the notebook."
        if marked and encoded.ids[a] in CLOSING.whole:
            return -np.log(p[a - 1, CLOSING.whole].sum())
        if marked and b - a == 2:
            return -np.log(p[a - 1, CLOSING.whole].sum() + p[a - 1, encoded.ids[a]] * p[a, CLOSING.half].sum())
        return each(a, b)

    return dict(
        nll=[each(a, b) for a, b in zip(encoded.start, encoded.end)],
        close_nll=[close(*ending) for ending in zip(encoded.end, encoded.close, encoded.marked)],
        option_logprobs=np.stack([first[:, option[0]].numpy() for option in encoded.options], axis=1),
        argmax_right=[all(logits[t - 1].argmax() == encoded.ids[t] for t in range(a, b)) for a, b in zip(encoded.start, encoded.end)],
        first_entropy=-(first.exp() * first).sum(-1).numpy())


def compare(scores, expected: dict, atol: float = 1e-4) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(scores, name), values, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", HEADS)
def test_scores_are_those_of_the_model_s_own_logits(name, monkeypatch):
    "Scales, soft caps and biases: by the head in small blocks of rows and words, and from the model's logits in blocks."
    model, encoded = random_model(name, HEADS[name]), some_responses()
    expected = from_all_logits(model, encoded)
    assert np.std(expected["nll"]) > 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(likelihood.response_nll(model, encoded), expected)
    monkeypatch.setattr(head, "_ROWS", 5)
    monkeypatch.setattr(head, "_BLOCK", 64)
    compare(likelihood.response_nll(model, encoded), expected)
    sizes, original = [], logprobs.token_statistics
    monkeypatch.setattr(logprobs, "token_statistics", lambda logits, targets: sizes.append(len(logits)) or original(logits, targets))
    monkeypatch.setattr(forward, "_HEADS", {model: None})
    monkeypatch.setattr(logprobs, "_LOGITS", 3 * SMALL["vocab_size"])
    compare(likelihood.response_nll(model, encoded), expected)
    assert sizes == [3] * 8 + [2]
    monkeypatch.setattr(logprobs, "_LOGITS", 10**6)
    compare(likelihood.response_nll(model, encoded), expected)
    assert sizes[9:] == [26]


@pytest.mark.parametrize("change", [dict(multiplier=0.5), dict(softcap=2.0), dict(bias=torch.linspace(0, 1, 331)), dict(weight=torch.ones(331, 8))])
def test_a_head_that_is_not_the_model_s_is_noticed(monkeypatch, change):
    "A configuration that does not tell all: the model's own logits are taken, and a warning says so."
    model, encoded = random_model("Llama", {}), some_responses()
    expected, found = from_all_logits(model, encoded), likelihood.find_head(model)
    monkeypatch.setattr(forward, "find_head", lambda model: replace(found, **change))
    with pytest.warns(UserWarning, match="LlamaForCausalLM is scored from its own logits"):
        compare(likelihood.response_nll(model, encoded), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_head_of_half_weights_is_multiplied_in_float32(dtype):
    "Held against the same rounded weights in float32; the model's own logits would be off by more."
    model, encoded = random_model("Llama", {}).to(dtype), some_responses()
    positions = np.arange(1, len(encoded))
    with torch.inference_mode():
        hidden = model.base_model(input_ids=torch.from_numpy(encoded.ids)[None], use_cache=False).last_hidden_state[0, :-1]
    exact = (hidden.double() @ model.lm_head.weight.double().T).log_softmax(-1)[positions - 1, encoded.ids[1:]]
    targets = torch.from_numpy(encoded.ids[1:])
    by_head = likelihood.linear_logprob(likelihood.find_head(model), hidden, targets).logprob
    own = likelihood.token_statistics(model.lm_head(hidden), targets).logprob
    assert (by_head - exact).abs().max() < 1e-4 < (own - exact).abs().max()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        likelihood.response_nll(model, encoded)


SHAPES = [(1, 1, 1), (7, 50, 331), (33, 70, 129), (65, 64, 4096), (3, 130, 257)]  # rows, width, words: below, at and above blocks


@pytest.mark.skipif(not likelihood.has_triton(), reason="no Triton here")
@pytest.mark.parametrize("rows, width, words", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias, multiplier, softcap", [(False, 1.0, None), (True, 0.25, 5.0), (False, 2.0, 30.0)])
def test_the_fused_head_gives_what_the_plain_one_gives(rows, width, words, dtype, bias, multiplier, softcap):
    "In Triton's interpreter where there is no GPU."
    device, generator = "cuda" if torch.cuda.is_available() else "cpu", torch.Generator().manual_seed(rows)
    hidden, weight = (torch.randn(n, width, generator=generator).to(device, dtype) for n in (rows, words))
    given = likelihood.Head(weight, torch.randn(words, generator=generator).to(device, dtype) if bias else None, multiplier, softcap)
    targets = torch.randint(words, (rows,), generator=generator).to(device)
    for states in (hidden, hidden.float()):  # of the weights' dtype, and of a wider one
        one, other = (likelihood.linear_logprob(which, states, targets) for which in (given, replace(given, kernel=fused_head.fused_logprob)))
        for name, values in vars(one).items():
            torch.testing.assert_close(getattr(other, name), values, rtol=1e-5, atol=2e-4, msg=lambda text: f"{name}: {text}")


@pytest.mark.skipif(not likelihood.has_triton(), reason="no Triton here")
@pytest.mark.parametrize("programs", [1, 3, 256])
def test_the_fused_head_walks_through_many_blocks(programs, monkeypatch):
    "One program for all words, some, and one for each block; large logits come first, last and in between."
    monkeypatch.setattr(fused_head, "_PROGRAMS", programs)
    generator = torch.Generator().manual_seed(programs)
    device, words = "cuda" if torch.cuda.is_available() else "cpu", 1500
    hidden, weight = (torch.randn(n, 16, generator=generator) for n in (5, words))
    rise = torch.stack([torch.linspace(-9, 9, words), torch.linspace(9, -9, words), 9 * torch.linspace(0, 20, words).sin()])
    targets = torch.tensor([0, 1499, 700, 128, 1300])
    for bias in rise:
        logits = (hidden.double() @ weight.double().T + bias).log_softmax(1)
        logprob, right, log_sum_exp, entropy = (found.cpu() for found in likelihood.fused_logprob(*(x.to(device) for x in (hidden, weight, targets, bias))))
        torch.testing.assert_close(logprob.double(), logits.gather(1, targets[:, None])[:, 0], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(entropy.double(), torch.special.entr(logits.exp()).sum(1), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(log_sum_exp.double(), (hidden.double() @ weight.double().T + bias).logsumexp(1), rtol=1e-5, atol=1e-4)
        assert (right == (logits.argmax(1) == targets)).all()


@pytest.mark.skipif(not likelihood.has_triton(), reason="no Triton here")
def test_the_fused_head_is_used_where_it_works_and_only_there(monkeypatch):
    "A kernel that fails, or gives other numbers, is left for the plain head, and a warning says so."
    monkeypatch.setattr(forward, "_has_kernel", lambda head: True)
    encoded, original = some_responses(), fused_head.fused_logprob
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = random_model("Gemma2", HEADS["Gemma2"])
        compare(likelihood.response_nll(model, encoded), from_all_logits(model, encoded))
    assert likelihood.head_of(model, encoded.ids).kernel is original
    for wrong in (lambda *given: 1 / 0, lambda *given: [1.1 * values for values in original(*given)]):
        model = random_model("Gemma2", HEADS["Gemma2"])
        monkeypatch.setattr(forward, "fused_logprob", wrong)
        with pytest.warns(UserWarning, match="The fused head does not work here, the plain one is used"):
            compare(likelihood.response_nll(model, encoded), from_all_logits(model, encoded))
        assert likelihood.head_of(model, encoded.ids).kernel is None


def test_no_block_of_logits_is_larger_than_it_should_be(monkeypatch):
    "Of 1,500 positions and 5,000 words no more than 2^20 logits exist at a time; all would be seven times that."
    largest, mm = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda *arguments, **options: largest.append(options["out"].numel()) or mm(*arguments, **options))
    weight, hidden = torch.randn(5_000, 8), torch.randn(1_500, 8)
    likelihood.linear_logprob(likelihood.Head(weight), hidden, torch.zeros(1_500, dtype=torch.long))
    assert max(largest) <= 1 << 20 and sum(largest) == 1_500 * 5_000


def vocabulary(*more: str, special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    "A tokenizer that knows single characters and a few merged tokens, longest first, and control tokens."
    words = ["a", "J", " ", "<", ">", ".", ")", *more]
    merged = Tokenizer(Unigram([("<unk>", -50.0), *((word, -float(1 + (len(word) == 1))) for word in words)], unk_id=0))
    merged.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=merged)


def closing_probability(model, tokenizer, ids: list[int]) -> float:
    "Of all ways to go on after some ids with one or two tokens, the share of those whose text begins with >> (for two: > and >)."
    words = [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))]
    plain = [i for i in range(len(tokenizer)) if i not in tokenizer.added_tokens_decoder]
    with torch.inference_mode():
        p = model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        q = model(input_ids=torch.tensor([[*ids, words.index(">")]])).logits[0, -1].double().softmax(-1)
    one = sum(p[i].item() for i in plain if words[i].startswith(">>"))
    two = p[words.index(">")].item() * sum(q[i].item() for i in plain if words[i].startswith(">"))
    return one if any(words[i].startswith(">>") for i in plain) else two


@pytest.mark.parametrize("more, tokens_of_end", [((), 2), ((">)",), 2), ((">>", ">>.", ">.", "<<"), 1), ((">>", ">>>>", ".>>"), 1),
                                                  ((">>", ">>TITLE<<"), 1)])
def test_the_closing_marker_counts_all_tokens_that_begin_it(more, tokens_of_end):
    "Vocabularies that hold the marker, that glue it to what follows, and that split it; control tokens never close."
    tokenizer = vocabulary(*more, special=(">>TITLE<<", ">end"))
    model = random_model("Llama", dict(vocab_size=len(tokenizer)))
    for text in ("a <<J>>. a", "a <<J>>) a", "a <<J>>", "a <<J>>>> a", "a <<>>.", "<<a>>"):
        encoded = encode(text, tokenizer)
        encoded = replace(encoded, ids=np.append(1, encoded.ids), start=encoded.start + 1, end=encoded.end + 1, close=encoded.close + 1)
        assert (encoded.close - encoded.end).tolist() == [tokens_of_end], text
        found = likelihood.response_nll(model, encoded).close_nll[0]
        assert found == pytest.approx(-np.log(closing_probability(model, tokenizer, encoded.ids[: encoded.end[0]].tolist())), abs=1e-5), text


def test_an_end_of_turn_counts_as_it_stands(tiny):
    "Behind a template a response ends with the template's own tokens, also if they look like a marker."
    pieces = [Piece("Choose. ", "shown"), Piece("J", "response"), Piece(">>", "template"), Piece(" So ", "shown"), Piece("F", "response")]
    encoded = tokens.encode(pieces, tiny.tokenizer)
    with torch.inference_mode():
        logprob = tiny.model(input_ids=torch.from_numpy(encoded.ids)[None]).logits[0].log_softmax(-1)
    expected = -sum(logprob[t - 1, encoded.ids[t]].item() for t in range(encoded.end[0], encoded.close[0]))
    close_nll = likelihood.response_nll(tiny.model, encoded).close_nll
    assert np.isnan(close_nll[1]) and close_nll[0] == pytest.approx(expected, abs=1e-4)


def test_real_closing_markers(packaged):
    "Gemma glues the marker to what follows: `>>,` for one; the end is as likely whatever follows."
    model = packaged("gemma-3-270m")
    closing = [likelihood.response_nll(model.model, encode(f"You choose between J and F. You choose <<J>>{more}", model.tokenizer)) for more in (".", ",", ")", "")]
    assert np.ptp([scores.close_nll[0] for scores in closing]) < 1e-4
    glued = encode("You choose <<J>>, then", model.tokenizer)
    assert model.tokenizer.convert_ids_to_tokens(glued.ids[glued.end[0] : glued.close[0]]) == [">>,"]


def check_packing(model, texts: list[tokens.Tokens], budgets, monkeypatch) -> None:
    "Together and alone, in any grouping, every number is the same; and texts are read together, and no more of them than fit."
    alone, inputs, original = list(likelihood.score_batch(model, texts, 0)), [], nll_module.logprobs_at
    monkeypatch.setattr(nll_module, "logprobs_at", lambda model, head, given, *rest: inputs.append(len(given.ids)) or original(model, head, given, *rest))
    for budget in budgets:
        inputs.clear()
        together = list(likelihood.score_batch(model, texts, budget))
        assert len(inputs) < sum(len(text.start) > 0 for text in texts) and max(inputs) <= max(budget, *map(len, texts))
        for one, other in zip(alone, together, strict=True):
            for name, values in vars(one).items():
                if values is None:
                    assert getattr(other, name) is None
                else:
                    np.testing.assert_allclose(getattr(other, name), values, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["Llama", "GPT2", "Cohere2"])
def test_packed_texts_are_as_alone(name, monkeypatch):
    "Lengths around the window; options, texts without responses, and closing markers of either kind."
    model = random_model(name, HEADS[name])
    assert likelihood.use_own_attention(model)
    texts = [some_responses(n, options=((5,), (300 + n // 50,))) for n in (30, 9, 40, 24, 100, 60, 25, 140)]
    assert len(texts[1].start) == 0
    check_packing(model, texts, (80, 200, 1000), monkeypatch)


def test_real_texts_packed(packaged, monkeypatch):
    model = packaged("smollm2-135m-instruct")
    some = [tokens.cut(encode(transcript.text, model.tokenizer), 200) for transcript in data.load_data("sample", limit=3)]
    check_packing(model.model, some, (500, 5000), monkeypatch)


def test_models_with_their_own_attention_read_texts_alone(monkeypatch):
    model = random_model("Gemma2", HEADS["Gemma2"])
    texts = [some_responses(30), some_responses(40)]
    alone, together = (list(likelihood.score_batch(model, texts, budget)) for budget in (0, 1000))
    assert [one.nll.tolist() for one in alone] == [one.nll.tolist() for one in together]


def test_texts_that_are_equal_get_equal_scores(tiny):
    "All of them is shared but what their responses need: a prefix ends two tokens before any response."
    likelihood.use_own_attention(tiny.model)
    text = encode("You see words in colours and press a key for each of them. Word 1: you press <<J>>.", tiny.tokenizer)
    (alone,) = likelihood.score_batch(tiny.model, [text], 0)
    for scores in likelihood.score_readings(tiny.model, [text, text, text]):
        np.testing.assert_allclose(scores.nll, alone.nll, rtol=0, atol=1e-4)


def test_nothing_predicts_the_first_token_of_a_packed_text(tiny):
    at_once = tokens.Tokens(np.array([5, 6, 7, 8]), np.array([0]), np.array([1]), np.array([2]))
    with pytest.raises(ValueError, match="very first token"):
        list(likelihood.score_batch(tiny.model, [some_responses(20, 50), at_once], 1000))


def test_nothing_predicts_the_first_token(tiny):
    "Its score would be the prediction after the last token."
    at_once = tokens.Tokens(np.array([5, 6, 7, 8]), np.array([0]), np.array([1]), np.array([2]))
    with pytest.raises(ValueError, match="very first token"):
        likelihood.response_nll(tiny.model, at_once)


def test_an_infinite_token_spoils_its_own_response_only(tiny, monkeypatch):
    encoded = encode("<<J>> one <<F>> two <<J>>.", tiny.tokenizer)
    encoded = tokens.Tokens(np.append(5, encoded.ids), encoded.start + 1, encoded.end + 1, encoded.close + 1)
    before, original = likelihood.response_nll(tiny.model, encoded).nll, forward.linear_logprob

    def infinite(*arguments):
        found = original(*arguments)
        found.logprob[0] = -np.inf
        return found

    monkeypatch.setattr(forward, "linear_logprob", infinite)
    after = likelihood.response_nll(tiny.model, encoded).nll
    assert after[0] == np.inf
    np.testing.assert_array_equal(after[1:], before[1:])


def test_a_response_is_right_when_all_its_tokens_are(tiny):
    "A second token that is not the most likely makes the response wrong, and so does a first one."
    encoded = encode("You play machine <<J>> and <<F>>", tiny.tokenizer)
    ids, start = encoded.ids.copy(), int(encoded.start[0])
    for position in (start, start + 1):
        with torch.inference_mode():
            ids[position] = tiny.model(input_ids=torch.from_numpy(ids)[None]).logits[0, position - 1].argmax()
    two = tokens.Tokens(ids, np.array([start]), np.array([start + 2]), np.array([start + 2]))
    assert likelihood.response_nll(tiny.model, two).argmax_right.tolist() == [True]
    for position in (start, start + 1):
        wrong = ids.copy()
        wrong[position] = (wrong[position] + 1) % len(tiny.tokenizer)
        assert likelihood.response_nll(tiny.model, tokens.Tokens(wrong, two.start, two.end, two.close)).argmax_right.tolist() == [False]


def test_the_entropy_is_that_of_the_first_token_of_each_response(tiny):
    encoded = encode("You play machine <<twelve>>, then <<J>>.", tiny.tokenizer)
    assert encoded.end[0] - encoded.start[0] > 1
    with torch.inference_mode():
        p = tiny.model(input_ids=torch.from_numpy(encoded.ids)[None]).logits[0].double().softmax(-1)
    entropy = -(p * p.log()).sum(-1).numpy()
    np.testing.assert_allclose(likelihood.response_nll(tiny.model, encoded).first_entropy, entropy[encoded.start - 1], atol=1e-4)


def test_a_model_without_logits_to_keep_gives_the_same(tiny):
    class Full(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids, use_cache=None):
            return tiny.model(input_ids=input_ids)

    encoded = encode("Round 1: you play machine <<J>>. It pays <<nothing at all>>.", tiny.tokenizer)
    with pytest.warns(UserWarning, match="Full is scored from its own logits"):
        found = likelihood.response_nll(Full(), encoded)
    np.testing.assert_allclose(found.nll, likelihood.response_nll(tiny.model, encoded).nll, rtol=0, atol=1e-5)


def test_probabilities_of_all_continuations_add_up(tiny):
    "Over every possible one-token response, exp(-NLL) sums to 1: nothing is lost in spans or sums."
    encoded = encode("You play machine <<J>>", tiny.tokenizer)
    position, total = int(encoded.start[0]), 0.0
    for token in range(len(tiny.tokenizer)):
        ids = encoded.ids.copy()
        ids[position] = token
        changed = tokens.Tokens(ids, encoded.start, encoded.start + 1, encoded.start + 1)
        total += np.exp(-likelihood.response_nll(tiny.model, changed).nll[0])
    assert total == pytest.approx(1, abs=1e-4)


def test_entropy_and_argmax(tiny):
    encoded = encode("You play machine <<J>>", tiny.tokenizer)
    with torch.inference_mode():
        row = tiny.model(input_ids=torch.from_numpy(encoded.ids)[None]).logits[0, encoded.start[0] - 1].double()
    p = row.softmax(-1)
    scores = likelihood.response_nll(tiny.model, encoded)
    assert scores.first_entropy[0] == pytest.approx(-(p * p.log()).sum().item(), abs=1e-4)
    assert scores.argmax_right[0] == (row.argmax().item() == encoded.ids[encoded.start[0]])
    best = encoded.ids.copy()
    best[encoded.start[0]] = row.argmax()
    assert likelihood.response_nll(tiny.model, tokens.Tokens(best, encoded.start, encoded.end, encoded.close)).argmax_right[0]


def test_log_sum_exp_is_float32_whatever_the_weights():
    "Logits that bfloat16 holds exactly, with a sum that it could not."
    logits = torch.zeros(1, 100_000, dtype=torch.bfloat16)
    found = likelihood.token_statistics(logits, torch.tensor([7]))
    assert found.logprob.item() == pytest.approx(-np.log(100_000), abs=1e-4)
    assert found.entropy.item() == pytest.approx(np.log(100_000), abs=1e-3)


def test_bfloat16_is_close(packaged):
    "bfloat16 weights move single responses by tenths of a nat and the mean by little."
    encoded_by = packaged("smollm2-135m-instruct")
    half = models.load_model("smollm2-135m-instruct", dtype="bfloat16", device="cpu")
    encoded = encode(data.load_data("sample", limit=1)[0].text, encoded_by.tokenizer)
    exact, rough = (likelihood.response_nll(m.model, encoded).nll for m in (encoded_by, half))
    assert 0 < np.abs(exact - rough).max() < 0.5
    assert abs(exact.mean() - rough.mean()) < 0.05
