"""Exact spans: the tokens of a response give back the response, for any text and any kind of tokenizer."""
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from psych201 import data, models, tokens
from psych201.transcripts import find_responses
from psych201.weights import make_tiny

HARD = ["$<<5>>.", "collect<<5>>,", "(<<-0.14>>)\n", "<<s>>", "<s> <|im_end|> <bos> <<<table>>>", "<<>>", " << -3 >>;",
        "é<<né – 日本 🙂>>🙂", "<<a\nb c>>\r\n", "word<<skip>>word", "\"<<\">>\"", "<<J>><<F>>", "\ue0f5<<\ue0f5>>"]
TINY = {name: make_tiny(name)[1] for name in ("tiny-llama", "tiny-gemma")}


def with_a_space_in_front(style: str) -> PreTrainedTokenizerFast:
    "Tokenizers that put a space before whatever they are given: Llama 2 (two ways to say so) and RoBERTa."
    made = Tokenizer(BPE(byte_fallback=style != "roberta", unk_token="<unk>"))
    special = ["<unk>", "<s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    options = dict(vocab_size=400, show_progress=False)
    if style == "roberta":
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
        options |= dict(special_tokens=["<unk>", "<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    else:
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        options |= dict(special_tokens=special)
        if style == "metaspace":
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        else:
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.train_from_iterator(["You choose <<J>>. Then <<-0.14>>% or $<<5>> (<<s>>)"] * 20, BpeTrainer(**options))
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


SPACED = {style: with_a_space_in_front(style) for style in ("metaspace", "prepend", "roberta")}

piece = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), max_size=12)
tagged = st.sampled_from(["<s>", "</s>", "<|im_end|>", "<bos>", "<pad>", "<0x0A>", "<b>", "-1", ">", " "])
texts = st.lists(st.tuples(piece | tagged, piece)).map(lambda parts: "".join(f"{shown}<<{answer}>>" for shown, answer in parts))


def check(text: str, tokenizer) -> None:
    "Spans decode to the responses, everything decodes to the text, markers close behind responses."
    responses = [text[slice(*span)] for span in find_responses(text)]
    encoded = tokens.encode(text, tokenizer)
    decode = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert [decode(encoded.ids[a:b]) for a, b in zip(encoded.start, encoded.end)] == responses
    first = tokens.first_tokens(tokenizer)
    assert encoded.ids[: len(first)].tolist() == first and decode(encoded.ids[len(first):]) == text
    assert (encoded.close > encoded.end).all() and (encoded.start[1:] >= encoded.close[:-1]).all()
    assert all(decode(encoded.ids[end:close]).startswith(">>") for end, close in zip(encoded.end, encoded.close))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("text", HARD)
def test_hard_texts(name, text):
    check(text, TINY[name])


@pytest.mark.parametrize("name", TINY)
@given(texts)
@example("".join(HARD))
def test_any_text(name, text):
    check(text, TINY[name])


@pytest.mark.parametrize("style", SPACED)
@given(texts)
@example("".join(HARD))
def test_tokenizers_that_add_a_space(style, text):
    "One space before the whole text, as the tokenizer was trained, and none before an answer."
    tokenizer, spans = SPACED[style], find_responses(text)
    encoded = tokens.encode(text, tokenizer)
    decode = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    lead = decode(encoded.ids).removesuffix(text)
    assert lead in ("", " ") and decode(encoded.ids) == lead + text
    for start, end, span in zip(encoded.start, encoded.end, spans):
        assert decode(encoded.ids[:start]) == lead + text[: span.start]
        assert decode(encoded.ids[start:end]) == text[slice(*span)]


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", pytest.param("gemma-3-270m", marks=pytest.mark.slow)])
def test_real_tokenizers(name, packaged):
    for text in HARD:
        check(text, packaged(name).tokenizer)


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", pytest.param("gemma-3-270m", marks=pytest.mark.slow)])
def test_real_transcripts(name, packaged, studies):
    "Five sessions of every study: as many spans as responses, each the response exactly."
    for transcript in data.select(studies, transcripts=5):
        check(transcript.text, packaged(name).tokenizer)


def test_one_first_token_as_the_model_was_trained(packaged):
    assert tokens.first_tokens(packaged("smollm2-135m-instruct").tokenizer) == []
    assert tokens.first_tokens(TINY["tiny-gemma"]) == [TINY["tiny-gemma"].bos_token_id]


@given(texts, st.integers(0, 200))
def test_a_cut_never_splits_a_response(text, limit):
    whole = tokens.encode(text, TINY["tiny-llama"])
    short = tokens.cut(whole, limit)
    assert len(short) <= max(limit, 0) or len(short) == len(whole) <= limit
    assert len(short.start) == (whole.close <= limit).sum()
    np.testing.assert_array_equal(short.ids, whole.ids[: len(short)])
    if len(short.start):
        assert short.close[-1] <= len(short)


def test_rule_paper_misses_what_its_notebook_says():
    "Two answers whose closing marker is one token with what follows: one span of both, or none."
    model = models.load("tiny-llama", device="cpu")
    text = "Round 1: you play machine <<J>>. Round 2: you play machine <<F>>."
    exact, published = tokens.encode(text, model.tokenizer), tokens.encode_paper(text, model.tokenizer)
    assert len(exact.start) == 2 > len(published.start)
