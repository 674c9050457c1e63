"""Chats: templates of several styles give what stands between contents; contents, first token and dates are as they should be."""
import re
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psych201 import data, inputs, models
from psych201.data.archive import as_record, from_row, to_row
from psych201.data.other_formats import as_contributed
from psych201.inputs import chats
from psych201.inputs.pieces import readings_digest
from psych201.scoring.language_model import LanguageModelScorer
from psych201.transcripts import Transcript, parse_record
from psych201.errors import UserError
from psych201.models.weights import make_tiny

# Written for these tests, with the habits of the families whose names they bear.
STYLES = {
    "qwen3": ("tiny-llama", ["<|im_start|>", "<|im_end|>"], """
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set answer = m.content.split('</think>')[-1].lstrip('\\n') %}
{%- if loop.index0 > ns.last and loop.last %}{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + answer }}{% else %}{{ '<|im_start|>assistant\\n' + answer }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""),
    "llama3": ("tiny-gemma", ["<|begin|>", "<|head|>", "<|/head|>", "<|eot|>"], """
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}
{{- bos_token + '<|head|>system<|/head|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: ' + date_string + '\\n\\n' + system + '<|eot|>' }}
{%- for m in messages %}{{ '<|head|>' + m.role + '<|/head|>\\n\\n' + m.content | trim + '<|eot|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"""),
    "gemma3": ("tiny-gemma", ["<start_of_turn>", "<end_of_turn>"], """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set first = messages[0].content + '\\n\\n' %}{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (first if loop.first else '') + m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""),
    "olmo3_think": ("tiny-llama", ["<|im_start|>", "<|im_end|>"], """
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant. It is ' + strftime_now('%Y-%m-%d') + '.<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>' }}{% endif %}"""),
}
THOUGHTS = {"qwen3": "<think>\n\n</think>\n\n", "olmo3_think": "<think>\n\n</think>\n\n"}
TURN = {"qwen3": "<|im_end|>", "llama3": "<|eot|>", "gemma3": "<end_of_turn>", "olmo3_think": "<|im_end|>"}


def of_style(style: str):
    "A tiny tokenizer with a template."
    name, control, template = STYLES[style]
    tokenizer = make_tiny(name)[1]
    tokenizer.add_special_tokens({"additional_special_tokens": control})
    tokenizer.chat_template = template
    return tokenizer


TOKENIZERS = {style: of_style(style) for style in STYLES}
BANDIT = Transcript("Choose J or F.\nRound 1: you take <<J>>. You win.\nRound 2: you take <<F>>. You lose.\n", "wulff2020", "exp1", "7", metadata={"age": 23})


def joined(pieces) -> str:
    return "".join(piece.text for piece in pieces)


def rendered(tokenizer, messages: list[tuple[str, str]], **how) -> str:
    "What transformers makes of a conversation whose next turn is the assistant's."
    return tokenizer.apply_chat_template([dict(role=role, content=text) for role, text in messages], tokenize=False, add_generation_prompt=True,
                                         date_string="26 Jul 2024", **how)


@pytest.mark.parametrize("style", STYLES)
def test_the_first_answer_is_asked_for_as_the_template_asks(style):
    "Up to the first response the text is the template's own, with thinking off and closed where it cannot be turned off."
    tokenizer = TOKENIZERS[style]
    text = joined(inputs.chat(Transcript("Choose J or F:<<J>>", "s", "e", "p"), tokenizer))
    own = rendered(tokenizer, [("user", "Choose J or F:")], enable_thinking=False)
    if style == "olmo3_think":
        own = own.replace("<think>", THOUGHTS[style])
        text = text.replace("2024-07-26", f"{date.today()}")
    assert text.startswith(own + "J" + TURN[style])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("thinking", inputs.THINKING)
def test_every_answer_is_opened_alike(style, thinking):
    pieces = inputs.chat(BANDIT, TOKENIZERS[style], thinking)
    openings = {pieces[place - 1].text for place, piece in enumerate(pieces) if piece.kind == "response"}
    assert len(openings) == 1
    assert openings.pop().endswith(THOUGHTS.get(style, "\n")) == (thinking == "empty" or style not in THOUGHTS)
    assert ("think" in joined(pieces)) == (thinking == "empty" and style in THOUGHTS)


@pytest.mark.parametrize("style", STYLES)
def test_one_first_token_and_the_end_of_the_turn_behind_each_response(style):
    tokenizer = TOKENIZERS[style]
    encoded = inputs.encode(inputs.chat(BANDIT, tokenizer), tokenizer)
    first, end = inputs.first_tokens(tokenizer), tokenizer.convert_tokens_to_ids(TURN[style])
    assert encoded.ids[: len(first)].tolist() == first and (not first or (encoded.ids == first[0]).sum() == 1)
    assert [encoded.ids[a:b].tolist() for a, b in zip(encoded.end, encoded.close)] == [[end]] * 2
    assert [tokenizer.decode(encoded.ids[a:b]) for a, b in zip(encoded.start, encoded.end)] == ["J", "F"]
    twice, = inputs.chat_paper(BANDIT, tokenizer)
    ids = inputs.encode(twice.pieces, tokenizer).ids
    assert ids[: 2 * len(first)].tolist() == 2 * first and (not first or (ids == first[0]).sum() == 2)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>\ue0f6"), max_size=8) | st.sampled_from([" ", "\n", "  a\n\n", "<|im_end|>.", "</think>.", "<bos>.", "{{ x }}", "[INST]"])


@settings(max_examples=60)
@given(st.sampled_from(list(STYLES)), st.lists(st.tuples(texts, texts), min_size=1, max_size=5), texts, st.sampled_from(inputs.THINKING), st.sampled_from(["default", "none"]) | texts.filter(str.strip))
def test_contents_are_untouched(style, exchanges, last, thinking, system):
    "White space, words of templates and control tokens in contents stay what they are, and plain text."
    transcript = Transcript("".join(f"{shown}<<{answer}>>" for shown, answer in exchanges) + last, "s", "e", "p")
    pieces = inputs.chat(transcript, TOKENIZERS[style], thinking, system)
    assert [piece.text for piece in pieces if piece.kind == "response"] == [answer for _, answer in exchanges]
    shown = [piece.text for piece in pieces if piece.kind == "shown"]
    expected = ([] if system in ("default", "none") else [system]) + [shown for shown, _ in exchanges] + ([last] if last.strip() else [])
    assert shown == expected
    assert not set(joined(piece for piece in pieces if piece.kind == "template")) & {"\ue0f6"}


@pytest.mark.parametrize("style", STYLES)
def test_a_system_prompt_or_none(style):
    tokenizer = TOKENIZERS[style]
    none, own, default = (joined(inputs.chat(BANDIT, tokenizer, system=system)) for system in ("none", "You are Ann.", "default"))
    assert "system" not in none and "20" not in none and "Ann" not in none
    assert own.index("You are Ann.") < own.index("Choose J or F.")
    assert default.endswith(none[none.index("Choose J"):]) and none.endswith(default[default.index("Choose J"):])
    assert (default == none) == (style in ("qwen3", "gemma3"))
    first = inputs.first_tokens(tokenizer)
    assert inputs.encode(inputs.chat(BANDIT, tokenizer, system="none"), tokenizer).ids[: len(first)].tolist() == first
    persona = joined(inputs.persona_system(BANDIT, tokenizer))
    assert "You are 23 years old." in persona


@pytest.mark.parametrize("style, same", [("olmo3_think", {"chat_paper", "chat_no_thinking"}), ("llama3", {"chat", "chat_no_thinking"}), ("qwen3", {"chat", "chat_no_system"})])
def test_digests_tell_chats_apart(style, same):
    "Only formats that come to the same with a template have the same digest."
    named = {}
    for name in inputs.of_kind("chat"):
        named.setdefault(readings_digest(inputs.format_readings(BANDIT, name, TOKENIZERS[style])), set()).add(name)
    assert [names for names in named.values() if len(names) > 1 and not names <= same | {"chat_paper", "chat_no_thinking"}] == [] and len(named) >= 3
    assert any(same <= names for names in named.values())


SAID = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>\ue0f6\t\v"), max_size=8) | st.sampled_from(["", " ", "\n\n", "  a\n", "a b"])


def contributed(messages: list[tuple[str, str]]) -> Transcript:
    "A chat as it is read from a file."
    record = {"messages": [dict(role=role, content=content) for role, content in messages], "experiment": "e", "participant": "p"}
    return parse_record(as_contributed(record, "s", "chat.jsonl", 1), "s")


@settings(max_examples=80)
@given(st.sampled_from(["qwen3", "llama3", "gemma3"]), st.none() | SAID, st.lists(st.tuples(SAID, SAID.filter(lambda said: said.strip() or not said)), min_size=1, max_size=4), st.none() | SAID.filter(str.strip))
def test_a_contributed_chat_is_what_the_template_makes_of_its_messages(style, system, exchanges, last):
    "Roles stay, no blank lines are added, and white space is trimmed where the template trims it."
    messages = ([("system", system)] if system is not None else []) + [turn for asked, said in exchanges for turn in (("user", asked), ("assistant", said))]
    if last:
        messages.append(("user", last))
    text = joined(inputs.chat(contributed(messages), TOKENIZERS[style], "none"))
    template = TOKENIZERS[style].apply_chat_template([dict(role=role, content=content) for role, content in messages], tokenize=False, date_string="26 Jul 2024")
    template = template.replace("<think>\n\n</think>\n\n", "")  # which this style writes before its last answer only
    if style == "qwen3":  # trims nothing but line breaks before an answer, which are kept here
        template, text = (re.sub("(assistant\n)\n+", r"\1", whole) for whole in (template, text))
    end = template.rindex(TURN[style])  # after the last answer there is nothing but the end of its turn
    assert text == template[:end] if last else text == template[: end + len(TURN[style])]


def test_an_answer_in_a_sentence_keeps_its_sentence():
    "Only what is marked is the response; the rest is what the assistant said, and the end of the turn follows it."
    session = contributed([("system", "Be brief."), ("user", "J or F?"), ("assistant", "I press <<J>>!"), ("user", "Again?"), ("assistant", " F ")])
    text = joined(inputs.chat(session, TOKENIZERS["llama3"], "none"))
    assert text.endswith("user<|/head|>\n\nJ or F?<|eot|><|head|>assistant<|/head|>\n\nI press J!<|eot|><|head|>user<|/head|>\n\nAgain?<|eot|><|head|>assistant<|/head|>\n\nF<|eot|>")
    assert session.responses == ["J", "F"] and "Be brief." not in joined(inputs.chat(session, TOKENIZERS["llama3"], system="none"))
    assert "You are 23 years old.\n\nBe brief." in joined(inputs.persona_system(replace(session, metadata=session.metadata | {"age": 23}), TOKENIZERS["llama3"]))


def test_a_changed_text_has_no_turns():
    "A wording that changes lengths is put to the model as text; the archive and the probes of a store keep the roles."
    session = contributed([("user", "J or F?"), ("assistant", "J")])
    assert [role for role, _ in session.turns] == ["user", "assistant"] and from_row(to_row(session)) == session
    assert replace(session, text=session.text.replace("or", "and")).turns == [] != session.turns
    assert parse_record(as_record(to_row(session)), "s").turns == session.turns


def test_dates_are_the_same_every_day():
    assert "26 Jul 2024" in joined(inputs.chat(BANDIT, TOKENIZERS["llama3"]))
    assert "2024-07-26" in joined(inputs.chat(BANDIT, TOKENIZERS["olmo3_think"]))


def test_templates_that_cannot_be_used():
    tokenizer = of_style("qwen3")
    for template, reason in (("{% for m in messages[-1:] %}{{ m.content }}{% endfor %}", "drops, repeats or reorders"), ("{{ raise_exception('No users.') }}", "No users"), ("{% if %}", "refuses")):
        tokenizer.chat_template = template
        chats._between.cache_clear()
        with pytest.raises(UserError, match=reason):
            inputs.chat(BANDIT, tokenizer)
    with pytest.raises(UserError, match="has no chat template"):
        LanguageModelScorer(models.load_model("tiny-llama", device="cpu"), "chat")


def test_the_chat_of_smollm2_is_that_of_its_own_template(packaged):
    "On real studies: the same token ids as transformers makes of the conversation, where no content is trimmed or looks like a control token."
    one = packaged("smollm2-135m-instruct")
    for transcript in data.load_data("sample", limit=1):
        shown, responses = inputs.turns(transcript.text)
        messages = [message for user, answer in zip(shown, responses) for message in (dict(role="user", content=user), dict(role="assistant", content=answer))]
        own = one.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        ids = inputs.encode(inputs.chat(transcript, one.tokenizer), one.tokenizer).ids.tolist()
        assert ids[: len(own) - 1] == own[:-1]


def test_the_chat_of_smollm2_scores(packaged):
    "Its NLLs are finite, differ from those of plain, and turns end where the model expects them to."
    one = packaged("smollm2-135m-instruct")
    transcript = data.load_data("sample", limit=1)[0]
    chat, plain = (LanguageModelScorer(one, format).score([transcript]) for format in ("chat", "plain"))
    assert chat["nll"].is_finite().all() and (chat["nll"] - plain["nll"]).abs().mean() > 0.01
    assert chat["close_nll"].median() < 0.1


@pytest.mark.parametrize("style", STYLES)
def test_chats_are_scored_turn_by_turn(style):
    "The NLL of the second answer is that of the text before it, read by itself."
    name = STYLES[style][0]
    model, tokenizer = make_tiny(name)[0], TOKENIZERS[style]
    model.resize_token_embeddings(len(tokenizer))
    one = models.LanguageModel(model.eval().requires_grad_(False), tokenizer, models.card(name), "random", "own")
    rows = LanguageModelScorer(one, "chat").score([BANDIT])
    encoded = inputs.encode(inputs.chat(BANDIT, tokenizer), tokenizer)
    logits = model(torch.tensor(encoded.ids[: encoded.end[1]])[None]).logits[0].double().log_softmax(-1)
    expected = [-sum(logits[n - 1, encoded.ids[n]].item() for n in range(a, b)) for a, b in zip(encoded.start, encoded.end)]
    np.testing.assert_allclose(rows["nll"], expected, atol=1e-4)


def test_every_format_of_the_registry_makes_readings():
    tokenizer = TOKENIZERS["gemma3"]
    for name in inputs.FORMATS:
        inputs.check_format_with(name, tokenizer)
        readings = inputs.format_readings(BANDIT, name, tokenizer, inputs.prepare(name, [BANDIT]))
        assert sorted(place for reading in readings for place in reading.responses) == [0, 1]
