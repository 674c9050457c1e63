"""Exact spans: the tokens of a response give back the response, for any text and any kind of tokenizer."""
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from helpers.texts import encode, encodes_exactly, no_byte_fallback
from psych201 import data, inputs, models
from psych201.inputs.pieces import Piece
from psych201.scoring.language_model import LanguageModelScorer
from psych201.transcripts import Transcript, find_responses
from psych201.models.weights import make_tiny

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

piece = st.text(st.characters(exclude_characters="<>▁", exclude_categories=["Cs"]), max_size=12)
tagged = st.sampled_from(["<s>", "</s>", "<|im_end|>", "<bos>", "<pad>", "<0x0A>", "<b>", "-1", ">", " "])
texts = st.lists(st.tuples(piece | tagged, piece)).map(lambda parts: "".join(f"{shown}<<{answer}>>" for shown, answer in parts))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("text", HARD)
def test_hard_texts(name, text):
    encodes_exactly(text, TINY[name])


@pytest.mark.parametrize("name", TINY)
@given(texts)
@example("".join(HARD))
def test_any_text(name, text):
    encodes_exactly(text, TINY[name])


@pytest.mark.parametrize("style", SPACED)
@given(texts)
@example("".join(HARD))
def test_tokenizers_that_add_a_space(style, text):
    "One space before the whole text, as the tokenizer was trained, and none before an answer."
    tokenizer, spans = SPACED[style], find_responses(text)
    encoded = encode(text, tokenizer)
    decode = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    lead = decode(encoded.ids).removesuffix(text)
    assert lead in ("", " ") and decode(encoded.ids) == lead + text
    for start, end, span in zip(encoded.start, encoded.end, spans):
        assert decode(encoded.ids[:start]) == lead + text[: span.start]
        assert decode(encoded.ids[start:end]) == text[slice(*span)]


@pytest.mark.parametrize("style", SPACED)
def test_the_character_that_stands_for_a_space(style):
    "U+2581 in a text is a space to the vocabularies that write spaces so, and a response like any other."
    encoded = encode("a<<▁>>", SPACED[style])
    answer = SPACED[style].decode(encoded.ids[encoded.start[0] : encoded.end[0]], clean_up_tokenization_spaces=False)
    assert answer == ("▁" if style == "roberta" else " ")


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", pytest.param("gemma-3-270m", marks=pytest.mark.slow)])
def test_real_tokenizers(name, packaged):
    for text in HARD:
        encodes_exactly(text, packaged(name).tokenizer)


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", pytest.param("gemma-3-270m", marks=pytest.mark.slow)])
def test_real_transcripts(name, packaged, studies):
    "Five sessions of every study: as many spans as responses, each the response exactly."
    for transcript in data.select(studies, limit=5):
        encodes_exactly(transcript.text, packaged(name).tokenizer)


def as_chat(transcript: Transcript, tokenizer=None) -> list[Piece]:
    "A chat of the ChatML kind: shown text as the user's turns, responses as the assistant's."
    pieces = []
    for text, kind in inputs.plain(transcript):
        text = text.removeprefix(">>").removesuffix("<<").strip()
        if text:
            role = "assistant" if kind == "response" else "user"
            pieces += [Piece(f"<|im_start|>{role}\n", "template"), Piece(text, kind), Piece("<|im_end|>", "template"),
                       Piece("\n", "template")]
    return pieces


CHAT = ("Choose J or F.\n<<J>> It said: <think>, <|im_end|> and <s>. Once more: <<F>> You won -0.5 points, né?\n\n"
        "Last: <<J or F>>")
TURNS = [("user", "Choose J or F."), ("assistant", "J"), ("user", "It said: <think>, <|im_end|> and <s>. Once more:"),
         ("assistant", "F"), ("user", "You won -0.5 points, né?\n\nLast:"), ("assistant", "J or F")]


def test_a_format_with_a_template(packaged):
    """The ids are those that SmolLM2's own template gives for the same messages; turns end with the control token.

    Where a message holds the text of a control token, apply_chat_template makes a control token of it, and we do not.
    """
    tokenizer = packaged("smollm2-135m-instruct").tokenizer
    system = [{"role": "system", "content": "You are a participant."}]
    head = [Piece("<|im_start|>system\n", "template"), Piece("You are a participant.", "shown"), Piece("<|im_end|>\n", "template")]
    for strange in (False, True):
        turns = [(role, text if strange else text.replace("<|im_end|>", "nothing")) for role, text in TURNS]
        text = CHAT if strange else CHAT.replace("<|im_end|>", "nothing")
        encoded = inputs.encode(head + as_chat(Transcript(text, "s", "e", "1")), tokenizer)
        expected = tokenizer.apply_chat_template(system + [dict(role=role, content=text) for role, text in turns],
                                                 tokenize=True, return_dict=False)
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert (encoded.ids.tolist() == expected) is not strange
        assert (encoded.ids == end).sum() == 7 and expected.count(end) == 7 + strange
        assert [tokenizer.decode(encoded.ids[a:b]) for a, b in zip(encoded.start, encoded.end)] == ["J", "F", "J or F"]
        assert [encoded.ids[b:c].tolist() for b, c in zip(encoded.end, encoded.close)] == [[end]] * 3


@pytest.mark.parametrize("name", TINY)
def test_a_template_brings_its_own_first_token(name):
    tokenizer = TINY[name]
    pieces = [Piece("<bos>You", "template"), Piece("J", "response"), Piece("<eos>", "template")]
    encoded = inputs.encode(pieces, tokenizer)
    bos, eos = tokenizer.convert_tokens_to_ids(["<bos>", "<eos>"])
    assert encoded.ids[0] == bos and (encoded.ids == bos).sum() == 1 and encoded.ids[-1] == eos
    assert encoded.ids[encoded.end[0] : encoded.close[0]].tolist() == [eos]


@pytest.mark.parametrize("kind", ["shown", "response"])
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("place", ["new", "in the vocabulary"])
def test_added_tokens_are_text(kind, special, place):
    "Qwen adds <think> with special=False; others add tokens that their vocabulary holds already, or that eat spaces."
    tokenizer = make_tiny("tiny-llama")[1]
    content = {"new": "<think>", "in the vocabulary": " machine"}[place]
    tokenizer.add_tokens([AddedToken(content, special=special, normalized=False, lstrip=True, rstrip=True)])
    number = tokenizer.convert_tokens_to_ids(content)
    text = f"a {content} b"
    assert number in tokenizer(text).input_ids
    other = "response" if kind == "shown" else "shown"
    encoded = inputs.encode([Piece("x", other), Piece(text, kind), Piece(">>", "shown")], tokenizer)
    assert place != "new" or number not in encoded.ids
    assert tokenizer.backend_tokenizer.decode(encoded.ids.tolist(), skip_special_tokens=False) == f"x{text}>>"
    assert number in inputs.encode([Piece("x", "shown"), Piece(text, "template")], tokenizer).ids


def test_white_space_that_a_tokenizer_adds_is_text():
    "GPT-NeoX adds runs of spaces, Gemma runs of line breaks; their ids stay, though tokens before them are gone."
    tokenizer = make_tiny("tiny-llama")[1]
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("    ", normalized=False)])
    encoded = encode("a    b <<x    y>> <tool_call>", tokenizer)
    number = tokenizer.convert_tokens_to_ids("    ")
    assert (encoded.ids == number).sum() == 2 and (encoded.ids[encoded.start[0] : encoded.end[0]] == number).sum() == 1


def test_a_call_with_truncation_leaves_no_trace():
    tokenizer = make_tiny("tiny-llama")[1]
    tokenizer("a b c", padding="max_length", truncation=True, max_length=2)
    assert len(encode("a long text " * 20 + "<<J>>", tokenizer)) > 20


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_what_a_vocabulary_lacks_is_named(scheme):
    tokenizer = no_byte_fallback(scheme)
    text = "you choose <<abc>> <<🙂>> 🙂 <<да>> <<a🙂b>> <<-3>> ок <<>>"
    encoded = encode(text, tokenizer)
    assert encoded.unknown.tolist() == [1, 2, 3] and len(encoded.start) == 6
    for number, answer in ((0, "abc"), (4, "-3")):
        ids = encoded.ids[encoded.start[number] : encoded.end[number]]
        assert "".join(tokenizer.convert_ids_to_tokens(ids)) == answer


def test_characters_that_vanish_are_lacking_and_removed_ones_are_not():
    vanish = Tokenizer(BPE())
    vanish.pre_tokenizer = pre_tokenizers.Whitespace()
    vanish.train_from_iterator(["You choose <<J>> and <<F>>"] * 9, BpeTrainer(vocab_size=60, show_progress=False))
    assert encode("You <<日本>> <<J日>> <<J>>", PreTrainedTokenizerFast(tokenizer_object=vanish)).unknown.tolist() == [0, 1]
    strip = make_tiny("tiny-llama")[1]
    strip.backend_tokenizer.normalizer = normalizers.Replace(Regex("[\u200b\\s]"), "")
    encoded = encode("You <<\u200b>> <<J\u200b>> << >>", strip)
    assert encoded.unknown.tolist() == [] and (encoded.end - encoded.start).tolist() == [0, 1, 0]


def test_one_first_token_as_the_model_was_trained(packaged):
    assert inputs.first_tokens(packaged("smollm2-135m-instruct").tokenizer) == []
    assert inputs.first_tokens(TINY["tiny-gemma"]) == [TINY["tiny-gemma"].bos_token_id]


@given(texts, st.integers(0, 200))
def test_a_cut_never_splits_a_response(text, limit):
    whole = encode(text, TINY["tiny-llama"])
    short = inputs.cut(whole, limit)
    assert len(short) <= max(limit, 0) or len(short) == len(whole) <= limit
    assert len(short.start) == (whole.close <= limit).sum()
    np.testing.assert_array_equal(short.ids, whole.ids[: len(short)])
    if len(short.start):
        assert short.close[-1] <= len(short)


def test_rule_paper_misses_what_its_notebook_says():
    "Two answers whose closing marker is one token with what follows: one span of both, or none."
    model = models.load_model("tiny-llama", device="cpu")
    text = "Round 1: you play machine <<J>>. Round 2: you play machine <<F>>."
    exact, found = encode(text, model.tokenizer), inputs.encode_paper(text, model.tokenizer)
    assert len(exact.start) == 2 > len(found.start)


def vocabulary(words: str, texts: list[str]) -> PreTrainedTokenizerFast:
    "A vocabulary whose tokens are the parts of some texts that a pattern finds."
    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(texts * 20, BpeTrainer(vocab_size=2_000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=made)


def test_where_the_rules_differ_in_four_vocabularies():
    "Markers apart from all else: all are found but one behind a $. Markers in one token with answers: hardly any."
    texts = ["You choose <<J>> and <<F>> now", "You choose <<J>>. You choose <<F>>. You choose <<K>> now", "It costs $<<5>> or <<-3>> now"]
    people = [Transcript(text, "a", "exp1", str(n)) for n, text in enumerate([*texts, "a " * 16_384 + "<<J>>"])]
    apart, words = vocabulary(r" ?<<|>>|[^<>]+?(?= ?<<|>>|$)", texts), vocabulary(r" ?[^ ]+", texts)
    count = lambda tokenizer: inputs.compare_rules(people, tokenizer).loc["a"].to_dict()
    zero = dict(responses=8, same=0, other_tokens=0, merged=0, not_found=0, cut=1)
    assert count(apart) == zero | dict(same=6, not_found=1)
    assert count(words) == zero | dict(same=1, not_found=6)  # <<-3, which the published text has as << -3
    assert count(TINY["tiny-llama"]) == zero | dict(same=3, merged=1, not_found=3)  # J. to F, and $<< has a token of its own
    assert count(TINY["tiny-gemma"]) == zero | dict(same=2, merged=1, not_found=4)  # <<J>>. is one token


def test_which_response_a_published_span_stands_for(studies):
    "On real transcripts: what a span decodes to begins with its response; counts add up."
    model = models.load_model("tiny-gemma", device="cpu")
    for transcript in list(studies)[::400]:
        text = inputs.paper_text(transcript.text)
        found, responses = inputs.encode_paper(text, model.tokenizer), [text[a:b] for a, b in find_responses(text)]
        assert (np.diff(found.response) > 0).all() and len(responses) <= len(transcript.spans)
        for start, end, response in zip(found.start, found.end, found.response):
            assert model.tokenizer.decode(found.ids[start:end]).strip().startswith(responses[response].strip())
    table = inputs.compare_rules(list(studies)[::400], model.tokenizer)
    assert (table["responses"] == table.drop(columns="responses").sum(axis=1)).all() and table["same"].sum() > 0


def test_tags_that_gemma_was_trained_with_are_text(packaged):
    "Shown text is read as the tokenizer reads it, tags of HTML too; control tokens, reserved ones and what people type between markers are characters."
    one = packaged("gemma-3-270m")
    read = lambda text: inputs.encode(inputs.marked_pieces(text), one.tokenizer).ids.tolist()
    for text in ("<table><tr><td>7</td><td>9</td></tr></table>\n", "a <b>bold</b> word", "<h1>x</h1>\n\n<i>y</i>"):
        assert read(text) == one.tokenizer(text).input_ids
    tags = {one.tokenizer.convert_tokens_to_ids(tag) for tag in ("<td>", "<b>", "<s>")}
    assert not tags & set(read("You say <<s>> or <<b>>.")) and tags & set(read("You say <<<b>x>>."))
    for control in ("<start_of_turn>", "<unused7>", "<mask>", "<eos>"):
        assert one.tokenizer.convert_tokens_to_ids(control) in one.tokenizer(control).input_ids and one.tokenizer.convert_tokens_to_ids(control) not in read(f"a {control} b")
    plain, tagged = Transcript("J or F? <<J>>", "s", "e", "p"), Transcript("<b>J</b> or F? <<J>>", "s", "e", "p")
    scorer = LanguageModelScorer(one)
    assert scorer.digest(tagged).endswith("-added") and "-" not in scorer.digest(plain)
    assert "-" not in LanguageModelScorer(packaged("smollm2-135m-instruct")).digest(tagged)
