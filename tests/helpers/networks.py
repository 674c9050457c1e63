"""Small random models of every kind, and responses for them to score."""
import numpy as np
import torch
import transformers

from psych201.inputs.tokens import Closing, Tokens

SMALL = dict(vocab_size=331, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, pad_token_id=0, bos_token_id=1,
             eos_token_id=2)  # a configuration of any kind of model
WORDS, WINDOW, LAYERS = SMALL["vocab_size"], 24, dict(num_hidden_layers=4)
MIXED = dict(sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"] * 2)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)

OWN = {  # configuration in transformers -> what makes it special
    "Llama": {}, "Qwen2": dict(use_sliding_window=True, max_window_layers=2, sliding_window=WINDOW), "Qwen3": dict(head_dim=8),
    "Olmo2": {}, "Olmo3": MIXED, "Mistral": dict(sliding_window=WINDOW, head_dim=8), "Gemma": dict(head_dim=8),
    "Gemma3Text": MIXED | dict(head_dim=8, final_logit_softcapping=3.0, query_pre_attn_scalar=8),
    "GPT2": dict(n_positions=512, n_embd=32, n_layer=4, n_head=4), "SmolLM3": {}, "Phi3": dict(sliding_window=WINDOW),
    "Granite": dict(logits_scaling=4.0, embedding_multiplier=2.0, residual_multiplier=0.5, attention_multiplier=0.2),
    "Cohere2": MIXED | dict(logit_scale=0.4, head_dim=8), "Starcoder2": dict(sliding_window=WINDOW),
    "Mixtral": dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW), "Qwen3Moe": EXPERTS | dict(head_dim=8),
}
THEIRS = {
    "Gemma2": MIXED | dict(head_dim=8, final_logit_softcapping=5.0, attn_logit_softcapping=4.0, query_pre_attn_scalar=8),
    "GptOss": MIXED | dict(head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    "Qwen3_5Text": dict(head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
                        linear_value_head_dim=8, layer_types=["linear_attention", "full_attention"] * 2),
    "Mamba": dict(state_size=4), "Bloom": dict(n_layer=2, n_head=4),
}
HEADS = {  # name in transformers -> what is special about its head
    "Llama": {}, "GPT2": dict(n_positions=512, n_embd=32, n_layer=2, n_head=4), "Qwen3": dict(head_dim=8),
    "Gemma2": dict(head_dim=8, sliding_window=24, final_logit_softcapping=5.0, query_pre_attn_scalar=8),
    "Granite": dict(logits_scaling=4.0, embedding_multiplier=2.0, residual_multiplier=0.5, attention_multiplier=0.2),
    "Cohere2": dict(logit_scale=0.4, sliding_window=24, head_dim=8, layer_types=["sliding_attention", "full_attention"]),
    "GPTJ": dict(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=512), "Mamba": dict(state_size=4),
    "Mixtral": dict(num_local_experts=4, num_experts_per_tok=2),
}
CLOSING = Closing(np.array([7, 9, 200]), np.array([5, 6, 7, 9, 200]))


def random_model(name: str, options: dict) -> torch.nn.Module:
    "A small model of a kind (Llama, Gemma3Text) with large weights and biases, so that a wrong mask, position or head shows."
    config = getattr(transformers, f"{name}Config")(**SMALL | options)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def build(name: str) -> torch.nn.Module:
    "A random model of four layers."
    return random_model(name, LAYERS | (OWN | THEIRS)[name])


def logprobs(model, ids: torch.Tensor, **how) -> np.ndarray:
    return model(input_ids=ids[None], use_cache=False, **how).logits[0].float().log_softmax(-1).numpy()


def some_responses(n: int = 60, words: int = SMALL["vocab_size"], options=((5,), (300,))) -> Tokens:
    "Responses of two tokens all over a text, that end with one token of CLOSING, with two, with others, and with an end of turn."
    start, ids = np.arange(4, n - 5, 7), np.random.default_rng(0).integers(10, words, n)
    kind = np.arange(len(start)) % 4
    ids[start + 2] = np.choose(kind, [9, 5, 50, 9])
    ids[start + 3] = np.choose(kind, [60, 6, 60, 60])
    return Tokens(ids, start, start + 2, start + np.choose(kind, [3, 4, 3, 3]), marked=kind != 3, closing=CLOSING, options=options)
