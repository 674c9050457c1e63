"""One measurement in a process of its own: `python bench/measure.py '{"what": "speed", ...}'` prints a line of JSON.

`bench/run.py` starts these with a memory limit, one after the other.
"""
import ctypes
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from psych201.likelihood.attention import use_own_attention
from psych201 import data, inputs, models
from psych201.paradigms import two_armed_bandit
from psych201.likelihood.nll import response_nll
from psych201.scoring.baselines import BASELINES, make_baseline
from psych201.scoring.language_model import LanguageModelScorer
from psych201.transcripts import Transcript

torch.set_grad_enabled(False)


def session(tokenizer, tokens: int, seed: int = 1) -> Transcript:
    "A simulated session of at most so many tokens, in whole rounds."
    people = two_armed_bandit.draw_participants(1, seed)
    text = two_armed_bandit.to_text(people.iloc[0], two_armed_bandit.simulate(people, tokens // 12, seed))
    rounds = text.splitlines(keepends=True)
    lengths = np.cumsum([len(ids) for ids in tokenizer(rounds, add_special_tokens=False).input_ids])
    return Transcript("".join(rounds[: int(np.searchsorted(lengths, tokens - 2))]), "bench", "exp1", str(seed))


def peak(dtype: torch.dtype, size: int = 2048) -> float:
    "FLOP/s of a square matrix product, the best of five."
    a, b = torch.randn(2, size, size).to(dtype)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times)


def peaks() -> dict[str, float]:
    "The peak of each dtype that products are computed in; the processor is another's at times, so it is asked before and after."
    return {"float32": peak(torch.float32), "bfloat16": peak(torch.bfloat16)}


def needed(model: torch.nn.Module, tokens: int, scored: int) -> float:
    "FLOPs that scoring takes: products of the body, attention over what is seen, head at scored positions."
    config = model.config.get_text_config()
    products = sum(module.weight.numel() for module in model.base_model.modules() if isinstance(module, torch.nn.Linear))
    window = getattr(config, "sliding_window", None) or tokens
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    seen = [min(tokens, window) if kind == "sliding_attention" else tokens for kind in kinds]
    pairs = sum(tokens * width - width * (width - 1) / 2 for width in seen)
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return 2 * products * tokens + 4 * width * pairs + 2 * config.vocab_size * config.hidden_size * scored


def published_way(model: torch.nn.Module, tokenizer, transcript: Transcript) -> list[float]:
    "NLL of each response as the published evaluation computes it: all logits, cross-entropy of all tokens, then spans."
    tokens = inputs.encode_paper(inputs.paper_text(transcript.text, 10**9), tokenizer)
    ids = torch.from_numpy(tokens.ids)[None]
    logits = model(input_ids=ids, use_cache=False).logits.float()
    shifted = logits[:, :-1].contiguous()
    nll = torch.nn.functional.cross_entropy(shifted.view(-1, shifted.shape[-1]), ids[0, 1:], reduction="none").numpy()
    return [float(nll[a - 1 : b - 1].sum()) for a, b in zip(tokens.start, tokens.end)]


def load(name: str, dtype: str, own: bool = True, compiled: bool = False) -> models.LanguageModel:
    "A model, with our attention or with that of transformers."
    model = models.load_model(name, dtype, "cpu", compile=compiled)
    if not own:
        model.model.set_attn_implementation("sdpa")
    return model


def seconds(function) -> tuple[float, object]:
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def speed(model: str, tokens: int, repeats: int, ways: list[str]) -> dict:
    "Median seconds of each way to score one session, interleaved; all must give the same NLLs."
    loaded = {way: load(model, way.split()[1], not way.startswith("published"), way.startswith("compiled")) for way in ways}
    transcript = session(next(iter(loaded.values())).tokenizer, tokens)
    times, found, before = {way: [] for way in ways}, {}, peaks()
    for repeat in range(repeats + 1):
        for way, one in loaded.items():
            scorer = LanguageModelScorer(one)
            work = (lambda: published_way(one.model, one.tokenizer, transcript)) if way.startswith("published") else (
                lambda: scorer.score([transcript])["nll"].to_list())
            if repeat == 0:
                work = lambda: LanguageModelScorer(one).score([session(one.tokenizer, 200)])  # warm, the head tried, layers compiled
            took, result = seconds(work)
            if repeat:
                times[way].append(took)
                found[way] = result
    exact = found[ways[0]]
    moved = {way: max(abs(a - b) for a, b in zip(exact, nll, strict=True)) for way, nll in found.items()}
    if any(move > 1e-3 for way, move in moved.items() if way.endswith("float32")):
        raise ValueError(f"The ways disagree: {moved}.")
    one = loaded[ways[-1]]
    scorer = LanguageModelScorer(one)
    n_tokens = scorer.n_tokens(transcript)
    return {"tokens": n_tokens, "responses": len(exact), "seconds": {way: statistics.median(some) for way, some in times.items()},
            "moved": moved, "needed": needed(one.model, n_tokens, 2 * len(exact)),
            "peak": {dtype: max(before[dtype], after) for dtype, after in peaks().items()}}


def parts(model: str, tokens: int, dtype: str) -> dict:
    "Where the seconds go: kinds of operations in the body, the rest (head), and tokenizing."
    from torch.profiler import ProfilerActivity, profile

    one = load(model, dtype)
    transcript, scorer = session(one.tokenizer, tokens), LanguageModelScorer(one)
    scorer.score([transcript])
    whole = statistics.median(seconds(lambda: scorer.score([transcript]))[0] for _ in range(3))
    encoding, (read,) = seconds(lambda: scorer.encoded(transcript))
    encoded = read.tokens
    ids = torch.from_numpy(encoded.ids)[None]
    body = statistics.median(seconds(lambda: one.model.base_model(input_ids=ids, use_cache=False))[0] for _ in range(3))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        one.model.base_model(input_ids=ids, use_cache=False)
    kinds = {"products": ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn"), "attention": ("attention",), "copies and casts": ("copy_", "to_copy", "contiguous")}
    shares: dict[str, float] = dict.fromkeys([*kinds, "elementwise"], 0.0)
    for event in profiled.key_averages():
        kind = next((kind for kind, names in kinds.items() if any(name in event.key for name in names)), "elementwise")
        shares[kind] += event.self_cpu_time_total / 1e6
    total = sum(shares.values())
    return {"tokens": len(encoded), "whole": whole, "body": body, "tokenizing": encoding, "head and rest": max(0.0, whole - body - encoding),
            **{kind: body * share / total for kind, share in shares.items()}}


def resident(name: str) -> int:
    "Bytes of memory: VmRSS now, VmHWM at most."
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def memory(tokens: int, words: int | None) -> dict:
    "Memory above the weights while gemma-3-270m scores: as it is, or with random weights and a vocabulary of so many words."
    import transformers

    one = load("gemma-3-270m", "float32")
    encoded = LanguageModelScorer(one).encoded(session(one.tokenizer, tokens))[0].tokens
    ask, model = replace(encoded, marked=None, closing=None), one.model
    if words:
        one.model.config.vocab_size = words
        ask, model = replace(ask, ids=ask.ids % words), transformers.AutoModelForCausalLM.from_config(one.model.config, dtype=torch.float32).eval()
        use_own_attention(model)
    del one
    response_nll(model, ask)  # once before: what libraries keep for themselves is no part of it
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # VmHWM starts anew
    response_nll(model, ask)
    return {"tokens": len(ask), "words": words, "above_bytes": resident("VmHWM") - before}


def requests(model: str, responses: int, sampled: int, batch: int, tool: str) -> dict:
    "Seconds for all responses of a session, one request a response, from evenly spread ones; and ours for the whole session."
    one, theirs = load(model, "float32"), load(model, "float32", own=False)
    people = two_armed_bandit.draw_participants(1, 1)
    transcript = Transcript(two_armed_bandit.to_text(people.iloc[0], two_armed_bandit.simulate(people, responses, 1)), "bench", "exp1", "1")
    places = np.linspace(0, responses - 1, sampled).round().astype(int)
    asked = [(transcript.text[:begin], transcript.text[begin:end]) for begin, end in (transcript.spans[place] for place in places)]
    groups = [asked[begin : begin + batch] for begin in range(0, len(asked), batch)]
    LanguageModelScorer(one).score([session(one.tokenizer, 200)])
    if tool == "minicons":
        from minicons.scorer import IncrementalLMScorer

        other = IncrementalLMScorer(theirs.model, device="cpu", tokenizer=theirs.tokenizer)
        ask = lambda group: other.conditional_score(*map(list, zip(*group)), separator="", reduction=lambda x: x.sum().item())
    else:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        harness = HFLM(theirs.model, tokenizer=theirs.tokenizer, batch_size=batch, device="cpu", backend="causal")
        ask = lambda group: [pair[0] for pair in harness.loglikelihood([Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(group)], disable_tqdm=True)]
    ask(groups[0][:1])
    took, answers = seconds(lambda: [answer for group in groups for answer in ask(group)])
    own, rows = seconds(lambda: LanguageModelScorer(one).score([transcript]))
    moved = float(np.abs(rows["nll"].to_numpy()[places] + np.array(answers, dtype=float)).max())
    return {"responses": responses, "sampled": sampled, "seconds": took * responses / sampled, "own": own, "moved": moved}


def participants(model: str, tokens: int, people: int) -> dict:
    "Seconds for so many sessions, one run."
    one = load(model, "float32")
    sessions = [session(one.tokenizer, tokens, seed) for seed in range(people)]
    LanguageModelScorer(one).score(sessions[:1])
    took, _ = seconds(lambda: LanguageModelScorer(one).score(sessions))
    return {"people": people, "seconds": took}


COMMANDS = {  # name -> words of a shell, run in the folder of the demo
    "psych201 --help": ["-m", "psych201", "--help"], "import psych201.figures.style": ["-c", "import psych201.figures.style"],
    "psych201 demo": ["-m", "psych201", "demo", "--output", "demo"],
    "psych201 paper --figures nll_by_size": ["-m", "psych201", "paper", "--output", "demo", "--figures", "nll_by_size"],
    "psych201 paper (all figures)": ["-m", "psych201", "paper", "--output", "demo"],
    "psych201 paper --published": ["-m", "psych201", "paper", "--published", "--output", "published"]}


def notebook_seconds(folder: Path) -> dict[str, tuple[float, float]]:
    "Begin and end of each executed notebook, in seconds of the epoch."
    import nbformat

    runs = {path.stem: nbformat.read(path, 4).metadata.papermill for path in folder.glob("*.ipynb")}
    return {name: tuple(datetime.fromisoformat(run[end].replace("Z", "+00:00")).timestamp() for end in ("start_time", "end_time")) for name, run in runs.items()}


def commands() -> dict:
    "Seconds of each command, from its start to its end, with weights in the cache; and the parts of the demo."
    for name in models.PACKAGED:
        models.load_model(name, "float32", "cpu")  # fetched and unpacked before
    with tempfile.TemporaryDirectory() as folder:
        environment, took = os.environ | {"PSYCH201_DATA": ""}, {}
        for name, words in COMMANDS.items():
            begin = time.time()
            subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=folder, env=environment)
            took[name] = time.time() - begin
            if name == "psych201 demo":
                runs, began, end = notebook_seconds(Path(folder, "demo", "notebooks")), begin, begin + took[name]
                scored = [run for notebook, run in runs.items() if notebook.startswith("score_model-")]
                drawn = [run for notebook, run in runs.items() if not notebook.startswith("score_model-")]
    first, last = min(run[0] for run in drawn), max(run[1] for run in drawn)
    return {"seconds": took, "scored": len(scored), "drawn": len(drawn),
            "demo": {"until the first notebook": min(run[0] for run in scored) - began, "scoring": sum(b - a for a, b in scored),
                     "drawing": last - first, "page and end": end - last}}


def sessions(number: int, responses: int, studies: int = 149):
    "Simulated sessions, one after the other: two keys of one's own, an outcome behind each response, reaction times, an age; every other study has people in two experiments."
    for i in range(number):
        draw, study = random.Random(i), f"study{i % studies}"
        first, second = keys = draw.sample("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 2)
        trials = "".join(f"Machine {first} or {second}? You press <<{key}>>. You win {draw.randrange(100)} points.\n" for key in draw.choices(keys, k=responses))
        person = i // studies // (1 + i % studies % 2)
        yield Transcript(f"You choose between two machines, {first} and {second}.\n\n{trials}", study, f"{study}/exp{i // studies % 2}", str(person), i // studies,
                         tuple(draw.choices(range(200, 900), k=responses)), {"age": 18 + i % 60})


def data_set(number: int, responses: int) -> dict:
    "Sessions are simulated and written as an archive, split and summarised on the way; then the summary is read back."

    simulated, _ = seconds(lambda: sum(len(one.text) for one in sessions(number // 20, responses)))
    with tempfile.TemporaryDirectory() as folder:
        written, table = seconds(lambda: data.write_archive(sessions(number, responses), f"{folder}/archive"))
        opened, counts = seconds(lambda: data.open_data(f"{folder}/archive").counts())
        part, _ = seconds(lambda: data.load_data(f"{folder}/archive", studies=["study7"], split="evaluation"))
        described, found = seconds(lambda: data.describe(data.open_data(f"{folder}/archive")))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    assert counts["transcripts"].sum() == number and counts["responses"].sum() == number * responses and len(table) == len(counts)
    assert found.studies["responses"].sum() == number * responses
    return {"sessions": number, "responses": number * responses, "simulate": 20 * simulated, "seconds": written, "summary": opened, "part": part, "describe": described, "bytes": size,
            "evaluation": int(table.filter(split="evaluation")["transcripts"].sum()), "peak_bytes": resident("VmHWM")}


def answers(number: int) -> dict:
    "Seconds in which each baseline scores one person's different answers: words, and numbers for the density."

    def person(who: int, numbers: bool) -> Transcript:
        draw = random.Random(who)
        words = {f"{draw.gauss(50, 10):.4f}" if numbers else "".join(draw.choices("abcdefghij", k=6)): None for _ in range(number)}
        return Transcript("Name things.\n" + "".join(f"You say <<{word}>>.\n" for word in words), "study", "numbers" if numbers else "words", str(who))

    found = {}
    for name in BASELINES:
        people = [person(who, name == "baseline:density") for who in (1, 2)]
        scorer = make_baseline(name, people)
        scorer.score(people[1:])  # what is counted once for all people
        found[name], table = seconds(lambda: scorer.score(people[:1]))
        assert len(table) == len(people[0].spans)
    return {"number": number, "seconds": found}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    limit = int(asked.pop("limit_bytes"))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print("\n" + json.dumps(globals()[asked.pop("what")](**asked)))
