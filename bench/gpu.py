"""Speed and memory on a GPU: `python bench/gpu.py --out bench/gpu.json`, about seven minutes on an H200.

Random weights of published configurations: what is measured does not depend on what the weights say, and nothing is downloaded.
"""
import argparse
import gc
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers

from measure import needed
from psych201.likelihood.attention import use_own_attention
from psych201.models.compile import compile_layers
from psych201.likelihood.batching import score_batch, token_budget
from psych201.models.dtypes import to_mixed
from psych201.inputs.tokens import Tokens

QWEN3 = dict(vocab_size=151_936, head_dim=128, num_key_value_heads=8, max_position_embeddings=40_960, rms_norm_eps=1e-6)
CONFIGS = {  # name -> configuration as published
    "SmolLM2-135M": transformers.LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=40_960, tie_word_embeddings=True),
    "gemma-3-270m": transformers.Gemma3TextConfig(
        vocab_size=262_144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4, num_key_value_heads=1,
        head_dim=256, sliding_window=512, max_position_embeddings=40_960),
    "Qwen3-0.6B": transformers.Qwen3Config(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, tie_word_embeddings=True, **QWEN3),
    "Qwen3-4B": transformers.Qwen3Config(
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, tie_word_embeddings=True, **QWEN3),
    "Qwen3-8B": transformers.Qwen3Config(
        hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32, tie_word_embeddings=False, **QWEN3),
}
LENGTHS = {1_000: 16, 8_000: 2, 32_000: 1}  # tokens of a text -> texts
WAYS = {  # name -> dtype, own attention and head, tokens read together (None: as suits the device), compiled
    "published bfloat16": ("bfloat16", False, 0, False), "own bfloat16": ("bfloat16", True, None, False),
    "own bfloat16, texts alone": ("bfloat16", True, 0, False), "own bfloat16, compiled": ("bfloat16", True, None, True),
    "own mixed": ("mixed", True, None, False), "own mixed, compiled": ("mixed", True, None, True), "own float32": ("float32", True, None, False)}
LARGEST = {"own float32": 1e9}  # parameters


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(one.numel() for one in transformers.AutoModelForCausalLM.from_config(CONFIGS[name]).parameters())


def text(tokens: int, words: int, seed: int) -> Tokens:
    "Random ids; a response of one token and its closing marker every 19 tokens, as in the two-armed bandit."
    start = np.arange(19, tokens - 2, 19)
    return Tokens(np.random.default_rng(seed).integers(3, words, tokens), start, start + 1, start + 2)


def build(name: str, way: str) -> torch.nn.Module:
    "A model with random weights on the GPU, for one of WAYS."
    dtype, own, _, compiled = WAYS[way]
    torch.manual_seed(0)
    kind = torch.float32 if dtype == "mixed" else getattr(torch, dtype)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name], dtype=kind, attn_implementation="sdpa").eval().requires_grad_(False)
    if own and not use_own_attention(model):
        raise ValueError(f"{name} keeps its own attention.")
    model = to_mixed(model) if dtype == "mixed" else model
    return compile_layers(model) if compiled else model


@torch.inference_mode()
def published_way(model: torch.nn.Module, texts: list[Tokens]) -> list[np.ndarray]:
    "NLL of each response as the published evaluation computes it: text by text, all logits, cross-entropy of all tokens."
    found = []
    for one in texts:
        ids = torch.from_numpy(one.ids)[None].cuda()
        logits = model(input_ids=ids, use_cache=False).logits.float()
        shifted = logits[:, :-1].contiguous()
        nll = torch.nn.functional.cross_entropy(shifted.view(-1, shifted.shape[-1]), ids[0, 1:], reduction="none").cpu().numpy()
        found.append(np.array([nll[a - 1 : b - 1].sum() for a, b in zip(one.start, one.end)]))
        del logits, shifted
    return found


def peak(dtype: torch.dtype, size: int = 8192) -> float:
    "FLOP/s of a square matrix product of random numbers, the median of 20."
    a, b = torch.randn(2, size, size, device="cuda", dtype=dtype)
    return 2 * size**3 / statistics.median(seconds(lambda: a @ b, 20))


def seconds(work, repeats: int) -> list[float]:
    "Of each run, after one that is not counted."
    taken = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return taken[1:]


def measure(model: torch.nn.Module, way: str, tokens: int, repeats: int) -> dict:
    "Median seconds of scoring some texts, and memory above the weights."
    texts = [text(tokens, model.config.vocab_size, seed) for seed in range(LENGTHS[tokens])]
    work = (lambda: published_way(model, texts)) if way.startswith("published") else (
        lambda: [one.nll for one in score_batch(model, texts, WAYS[way][2])])
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    try:
        nll = np.concatenate(work())  # warm, and the head tried
        torch.cuda.reset_peak_memory_stats()
        taken = seconds(work, repeats)
    except torch.OutOfMemoryError:
        return {"failed": "does not fit"}
    flops = sum(needed(model, len(one), 2 * len(one.start)) for one in texts)
    return {"seconds": statistics.median(taken), "spread": max(taken) / min(taken) - 1, "flops": flops, "mean_nll": float(nll.mean()),
            "above_bytes": torch.cuda.max_memory_allocated() - before}


def machine() -> dict:
    card = torch.cuda.get_device_properties(0)
    return {"gpu": card.name, "memory_gib": round(card.total_memory / 2**30), **{name: version(name) for name in ("torch", "transformers", "triton")},
            "budget": token_budget(torch.device("cuda"))}


def profile(name: str, way: str, tokens: int, top: int = 20) -> list[dict]:
    "Kernels that take the most time while texts of so many tokens are scored: seconds of each, and how often it ran."
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    model = build(name, way)
    texts = [text(tokens, model.config.vocab_size, seed) for seed in range(LENGTHS[tokens])]
    work = lambda: list(score_batch(model, texts))
    work()
    with profiled(activities=[ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    return [{"kernel": event.key[:110], "seconds": event.self_device_time_total / 1e6, "runs": event.count} for event in events[:top]]


def check_alike(one: dict, others: list[dict]) -> None:
    "Raises `ValueError` if a way with the same weights finds another mean NLL than the published one."
    same = [other["mean_nll"] for other in others if (other["model"], other["tokens"], other["way"]) == (one["model"], one["tokens"], "published bfloat16") and "mean_nll" in other]
    if "bfloat16" in one["way"] and "mean_nll" in one and any(abs(one["mean_nll"] - mean) > 0.02 for mean in same):
        raise ValueError(f"{one['model']}, {one['tokens']} tokens: {one['way']} finds {one['mean_nll']:.4f} nats, the published way {same[0]:.4f}.")


def speed(words, results: dict) -> None:
    "Adds what was measured to the results, and writes them after each model."
    for name in words.models:
        for way in (way for way in words.ways if parameters(name) < LARGEST.get(way, np.inf)):
            model = build(name, way)
            for tokens in words.tokens:
                one = {"model": name, "way": way, "tokens": tokens, "texts": LENGTHS[tokens]} | measure(model, way, tokens, words.repeats)
                results["speed"].append(one)
                check_alike(one, results["speed"])
                rate, share = (np.nan, np.nan) if "failed" in one else (
                    LENGTHS[tokens] * tokens / one["seconds"], one["flops"] / one["seconds"] / results["peak"]["float32" if way == "own float32" else "bfloat16"])
                print(f"{name:13} {way:26} {tokens:6} {rate:10,.0f} tokens/s {share:5.1%} {one.get('above_bytes', np.nan) / 1e9:6.2f} GB {one.get('failed', '')}", flush=True)
            del model
            torch._dynamo.reset()
            gc.collect()
            torch.cuda.empty_cache()
        words.out.write_text(json.dumps(results, indent=1) + "\n")


def main(words) -> None:
    results = {"machine": machine(), "when": time.strftime("%Y-%m-%d"), "repeats": words.repeats, "peak": {name: peak(getattr(torch, name)) for name in ("bfloat16", "float32")}, "speed": []}
    print(json.dumps(results), flush=True)
    speed(words, results)
    results["kernels"] = {f"{name}, {way}": profile(name, way, 8_000) for name in words.profile for way in WAYS if "compiled" in way}
    words.out.write_text(json.dumps(results, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gpu.json")
    parser.add_argument("--models", nargs="*", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--tokens", nargs="*", type=int, choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", nargs="*", choices=CONFIGS, default=["Qwen3-4B"], help="list the kernels of these at 8,000 tokens")
    return parser.parse_args()


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here.")
    main(arguments())
