"""Writes tests/data/golden/: tiny random checkpoints and the logits transformers gives for them.

    python tests/compare/make_goldens.py [NAME ...]

Each folder is a Hugging Face model plus expected.safetensors: input_ids and attention_mask [B, T] int64, logits
[B, T, V] float32 computed in float64 on float32 weights. The tests read these files and need no Python.
"""
import pathlib
import sys

try:
    import torch
    from safetensors.torch import save_file
    from transformers import (Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GemmaConfig,
                              GemmaForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM,
                              MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                              Qwen3ForCausalLM)
except ImportError as missing:
    sys.exit(f"skipped: {missing}")

OUT = pathlib.Path(__file__).parent.parent / "data" / "golden"
SHAPE = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=256, bos_token_id=1, eos_token_id=2, initializer_range=0.2)
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=64)
MODELS = {
    "llama_tied_gqa": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True)),
    "llama_untied_mha": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_key_value_heads=4, tie_word_embeddings=False,
                                                       attention_bias=True, mlp_bias=True)),
    "llama_rope3": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_key_value_heads=1, head_dim=16,
                                                  tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE)),
    "gemma": (GemmaForCausalLM, GemmaConfig(**SHAPE, num_key_value_heads=1, head_dim=16)),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**SHAPE)),
    "gpt_neox_sequential": (GPTNeoXForCausalLM, GPTNeoXConfig(
        **SHAPE, use_parallel_residual=False, hidden_act="gelu_new", tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.75))),
    # Windows that the texts leave behind, caps that the scores and logits reach.
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, num_key_value_heads=2, head_dim=12, sliding_window=20)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True,
                                            use_sliding_window=True, sliding_window=20, max_window_layers=1)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=16, attention_bias=True,
                                            rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(
        **SHAPE, num_key_value_heads=1, head_dim=16, sliding_window=20, query_pre_attn_scalar=24,
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(
        **SHAPE, num_key_value_heads=1, head_dim=16, sliding_window=20, query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters=dict(sliding_attention=dict(rope_type="default", rope_theta=1e4),
                             full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0)))),
}

for seed, (name, (kind, config)) in enumerate(MODELS.items()):
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms and biases away from their neutral values
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(OUT / name)
    (OUT / name / "generation_config.json").unlink(missing_ok=True)

    ids = torch.randint(3, SHAPE["vocab_size"], (2, 150))
    mask = torch.ones_like(ids)
    if model.config._attn_implementation == "eager":  # where a query that sees nothing makes everything NaN
        mask[1, -10:] = 0
    else:
        mask[1, :20] = 0  # left padding
    with torch.no_grad():
        logits = model.double()(ids, attention_mask=mask).logits.float()
    assert logits[mask == 1].isfinite().all()
    logits[mask == 0] = 0  # of padding
    save_file({"input_ids": ids, "attention_mask": mask, "logits": logits[:, ::10].contiguous()},
              OUT / name / "expected.safetensors")
    print(name, sum(p.numel() for p in model.parameters()), "parameters")
