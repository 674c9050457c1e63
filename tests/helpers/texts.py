"""Marked texts and their tokens."""
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from psych201 import inputs
from psych201.inputs.pieces import marked_pieces
from psych201.transcripts import find_responses


def encode(text: str, tokenizer) -> inputs.Tokens:
    "The token ids of a marked text in the plain format."
    return inputs.encode(marked_pieces(text), tokenizer)


def encodes_exactly(text: str, tokenizer) -> None:
    "Spans decode to the responses, everything decodes to the text, markers close behind responses."
    responses = [text[slice(*span)] for span in find_responses(text)]
    encoded = encode(text, tokenizer)
    decode = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert [decode(encoded.ids[a:b]) for a, b in zip(encoded.start, encoded.end)] == responses
    first = inputs.first_tokens(tokenizer)
    assert encoded.ids[: len(first)].tolist() == first and decode(encoded.ids[len(first):]) == text
    assert (encoded.close > encoded.end).all() and (encoded.start[1:] >= encoded.close[:-1]).all()
    assert all(decode(encoded.ids[end:close]).startswith(">>") for end, close in zip(encoded.end, encoded.close))


def no_byte_fallback(scheme: str) -> PreTrainedTokenizerFast:
    "A Unigram vocabulary of letters, as T5 and XGLM have it, with nothing for other characters."
    made = Tokenizer(Unigram([("<unk>", 0.0), *((letter, -5.0) for letter in "▁<>abcdefghijklmnopqrstuvwxyz.-3")], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
