#!/usr/bin/env python3
"""Recursive models of liger-convert in transformers and PEFT: compares the logits and what is generated.

    python tests/compare/recursive_parity.py [--bin build/bin] [--keep DIR]

For small random Llama, Gemma and GPT-NeoX checkpoints, every way to share layers and to treat norms:
  1. liger-convert --arch recursive: the folder's plain model with its adapter in stock transformers and PEFT, against
     liger-eval; full rank also against the original model. PEFT does not repeat the layers of GPT-NeoX.
  2. liger-convert --untie of it: in transformers, against liger-eval of the tied one
  3. the tokens that both generate greedily
Exit code 1 if anything differs by more than 1e-5 of the largest logit. Without the packages it says so and ends with 0.
"""
import subprocess
import sys

from parity import NEOX_SHAPE, ROPE, SHAPE, open_in_transformers, run, write_model  # says what is missing

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import (AutoTokenizer, GemmaConfig, GemmaForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig,
                          LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          Qwen3Config, Qwen3ForCausalLM)

LAYERS = {"num_hidden_layers": 6, "vocab_size": 709}  # the tokenizer's, so that all that is generated is text
SIX = SHAPE | LAYERS
MODELS = {
    "llama, tied embeddings": lambda: LlamaForCausalLM(LlamaConfig(**SIX, tie_word_embeddings=True)),
    "llama 3 rope": lambda: LlamaForCausalLM(LlamaConfig(**SIX, rope_parameters=ROPE)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIX, head_dim=16)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**NEOX_SHAPE | LAYERS)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIX, sliding_window=40)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIX)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIX, head_dim=16)),
}
KINDS = {
    "cycle, 2 loops": ["--loops", 2, "--lora-rank", 6],
    "cycle, 3 loops, stepwise": ["--loops", 3, "--lora-rank", 4, "--init", "stepwise"],
    "cycle, full rank": ["--loops", 2, "--lora-rank", "full"],
    "sequence, norms of depths": ["--loops", 2, "--sharing", "sequence", "--norms", "depth", "--lora-rank", 5],
    "middle-cycle, tied norms": ["--loops", 2, "--sharing", "middle-cycle", "--norms", "tied", "--lora-rank", 4],
    "middle-sequence, full rank": ["--loops", 4, "--sharing", "middle-sequence", "--lora-rank", "full", "--norms", "depth"],
    "ranks by pattern": ["--loops", 2, "--lora-rank", 4, "--rank-pattern", "PATTERN"],
}
PATTERNS = {"gpt-neox": "mlp.dense_4h_to_h=9,query_key_value=2"}  # others are
PATTERN = "mlp.down_proj=9,q_proj=2"
PROMPT = "the river runs past"


def generated_by_us(check, model):
    command = [str(check.bin / "liger-generate"), "--model", str(model), "--prompt", PROMPT, "--max-tokens", "24",
               "--quiet"]
    run = subprocess.run(command, capture_output=True)  # bytes: a carriage return is one
    if run.returncode:
        sys.exit(f"{' '.join(command)}\nexit code {run.returncode}\n{run.stderr.decode()}")
    return run.stdout.decode().strip()


def generated_by_them(model, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=1)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True).strip()


def compare(check, what, options, original, folder):
    tied = folder / "tied"
    check.tool("liger-convert", "--model", original, "--arch", "recursive", *options, "--out", tied, "--probe", "")
    ours = check.ours(tied)
    texts = {"liger": generated_by_us(check, tied)}
    base = open_in_transformers(tied)
    # PEFT does not lengthen the list by which transformers picks the masks of layers.
    by_layer = getattr(base.config, "layer_types", None) is not None
    if not isinstance(base, GPTNeoXForCausalLM) and not by_layer:
        theirs = PeftModel.from_pretrained(base, tied / "adapter")
        check.equal(f"{what}: transformers and PEFT", ours, check.theirs(theirs))
        texts["PEFT"] = generated_by_them(theirs, tied)
    exact = "full" in options
    if exact:
        check.equal(f"{what}: the original", ours, check.theirs(open_in_transformers(original)))
    check.tool("liger-convert", "--model", tied, "--untie", "--out", folder / "untied", "--probe", "")
    untied = open_in_transformers(folder / "untied")
    check.equal(f"{what}: untied, in transformers", check.theirs(untied), ours)
    texts["untied"] = generated_by_them(untied, tied)
    if len(set(texts.values())) != 1:
        check.failed = True
        print(f"  {what}: DIFFERENT texts {texts}")


def disturb(_, parameter):
    if parameter.dim() == 1:
        parameter.add_(0.2 * torch.randn_like(parameter))


def compare_all(check, _):
    check.ids %= SIX["vocab_size"]
    save_file({"input_ids": check.ids}, check.folder / "ids.safetensors")
    for index, (name, make) in enumerate(MODELS.items()):
        print(f"{name}: largest difference, relative to the largest logit")
        original = check.folder / f"model-{index}"
        write_model(make, original, disturb)
        for number, (what, options) in enumerate(KINDS.items()):
            options = [PATTERNS.get(name, PATTERN) if option == "PATTERN" else option for option in options]
            compare(check, what, options, original, check.folder / f"model-{index}-{number}")


if __name__ == "__main__":
    run(__doc__, compare_all)
