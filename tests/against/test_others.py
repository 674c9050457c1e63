"""Other tools give the same numbers, one request a response, where both read the same tokens."""
import numpy as np
import pytest
import torch
import transformers

from psych201 import data, models
from psych201.scoring.language_model import LanguageModelScorer
from psych201.inputs.tokens import encode
from psych201.inputs.pieces import marked_pieces

pytestmark = pytest.mark.slow
RESPONSES = 4


@pytest.fixture(scope="module", params=["tiny-llama", "smollm2-135m-instruct", "gemma-3-270m"])
def asked(request, packaged):
    "A model as transformers loads it, contexts and answers with clean boundaries, and our scores of these answers."
    own = packaged(request.param) if request.param not in models.TINY else models.load_model(request.param, "float32", "cpu")
    transcript = data.load_data("sample", limit=1)[0]
    rows, ids = LanguageModelScorer(own).score([transcript]), encode(marked_pieces(transcript.text), own.tokenizer)
    clean = []
    for n, (begin, end) in enumerate(transcript.spans):
        context, answer = transcript.text[:begin], transcript.text[begin:end]
        same = [own.tokenizer(text).input_ids for text in (context, context + answer)]
        if same == [ids.ids[: ids.start[n]].tolist(), ids.ids[: ids.end[n]].tolist()]:
            clean.append((context, answer, rows["nll"][n], rows["argmax_right"][n]))
    assert len(clean) >= RESPONSES
    if request.param in models.TINY:
        theirs = models.make_tiny(request.param)[0].eval()
    else:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(models.unpacked(request.param), dtype=torch.float32).eval()
    assert theirs.config._attn_implementation == "sdpa"
    return theirs, own.tokenizer, clean[:RESPONSES]


@pytest.mark.parametrize("batch", [1, 4])
def test_lm_evaluation_harness(asked, batch):
    "Its softmax in float64: PyTorch's in float32 over the 262,144 words of Gemma is itself off by up to 4e-5."
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer, clean = asked
    harness = HFLM(model, tokenizer=tokenizer, batch_size=batch, device="cpu", backend="causal", softmax_dtype="float64")
    answers = harness.loglikelihood([Instance("loglikelihood", {}, (context, answer), n) for n, (context, answer, *_) in enumerate(clean)],
                                    disable_tqdm=True)
    np.testing.assert_allclose([-logprob for logprob, _ in answers], [nll for *_, nll, _ in clean], rtol=0, atol=2e-5)
    assert [greedy for _, greedy in answers] == [right for *_, right in clean]


@pytest.mark.parametrize("batch", [1, 4])
def test_minicons(asked, batch):
    from minicons.scorer import IncrementalLMScorer

    model, tokenizer, clean = asked
    other = IncrementalLMScorer(model, device="cpu", tokenizer=tokenizer)
    logprobs = []
    for begin in range(0, len(clean), batch):
        contexts, answers, *_ = zip(*clean[begin : begin + batch])
        logprobs += other.conditional_score(list(contexts), list(answers), separator="", reduction=lambda x: x.sum().item())
    np.testing.assert_allclose([-logprob for logprob in logprobs], [nll for *_, nll, _ in clean], rtol=0, atol=2e-5)
