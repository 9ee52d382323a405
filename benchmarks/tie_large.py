#!/usr/bin/env python3
"""Ties a model of Gemma 2B's shape: time and memory of liger-convert --loops.

    python benchmarks/tie_large.py [--bin build/bin] [--out /tmp/liger-tie] [--rank 64] [--loops 2]

Makes a folder of random bfloat16 weights (5 GB) in --out, once, and runs the conversion on it without --probe, which
would map both models. Standard library only; about three minutes a run on two cores beside the writing.
"""
import argparse
import json
import os
import resource
import shutil
import subprocess
import time

from model_folders import random_block, write_safetensors

SHAPE = dict(model_type="gemma", architectures=["GemmaForCausalLM"], vocab_size=256000, hidden_size=2048,
             intermediate_size=16384, num_hidden_layers=18, num_attention_heads=8, num_key_value_heads=1, head_dim=256,
             max_position_embeddings=8192, rms_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True,
             torch_dtype="bfloat16")


def tensor_shapes():
    hidden, wide, heads = SHAPE["hidden_size"], SHAPE["intermediate_size"], 8 * 256
    yield "model.embed_tokens.weight", [SHAPE["vocab_size"], hidden]
    yield "model.norm.weight", [hidden]
    for i in range(SHAPE["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "self_attn.q_proj.weight", [heads, hidden]
        yield layer + "self_attn.k_proj.weight", [256, hidden]
        yield layer + "self_attn.v_proj.weight", [256, hidden]
        yield layer + "self_attn.o_proj.weight", [hidden, heads]
        yield layer + "mlp.gate_proj.weight", [wide, hidden]
        yield layer + "mlp.up_proj.weight", [wide, hidden]
        yield layer + "mlp.down_proj.weight", [hidden, wide]
        yield layer + "input_layernorm.weight", [hidden]
        yield layer + "post_attention_layernorm.weight", [hidden]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--bin", default=os.path.join(here, "..", "build", "bin"))
    parser.add_argument("--out", default="/tmp/liger-tie")
    parser.add_argument("--rank", default="64")
    parser.add_argument("--loops", default="2")
    args = parser.parse_args()
    model, tied = os.path.join(args.out, "model"), os.path.join(args.out, "tied")
    if not os.path.exists(os.path.join(model, "config.json")):
        os.makedirs(model, exist_ok=True)
        # As long as no layer's matrices are the same numbers at the same place.
        write_safetensors(os.path.join(model, "model.safetensors"), list(tensor_shapes()), "bfloat16",
                          random_block("bfloat16", (1 << 24) + 12345))
        with open(os.path.join(model, "config.json"), "w") as file:
            json.dump(SHAPE, file)
    shutil.rmtree(tied, ignore_errors=True)
    begin = time.time()
    subprocess.run([os.path.join(args.bin, "liger-convert"), "--model", model, "--arch", "recursive", "--loops", args.loops,
                    "--lora-rank", args.rank, "--probe", "", "--out", tied], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"rank {args.rank}, {args.loops} loops: {time.time() - begin:.0f} s, peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
