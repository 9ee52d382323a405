#!/usr/bin/env python3
"""Opens what liger writes in transformers and PEFT, and what PEFT writes in liger, and compares the logits.

    python tests/compare/export_parity.py [--bin build/bin] [--keep DIR]

For small random checkpoints of every family:
  1. liger-convert --arch gla, then model_type changed back: transformers finds every weight, and its logits, the
     original's and those of liger-eval are equal
  2. the same folder turned back by liger-convert --arch softmax needs no change at all
  3. the adapter that liger-finetune trains on the converted folder, read by PEFT
  4. an adapter that PEFT saves (another rank, rsLoRA, o_proj and the MLP as well), read by liger-eval
Exit code 1 if anything differs by more than 1e-5 of the largest logit. Without the packages it says so and ends with 0.
"""
import json
import shutil
import sys

from parity import NEOX_SHAPE, ROPE, SHAPE, names_in, open_in_transformers, run, write_model  # says what is missing

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GemmaConfig,
                          GemmaForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM,
                          MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)

MODELS = {
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama 3 rope, untied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=ROPE)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SHAPE, head_dim=16)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**NEOX_SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=40)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=40,
                                                  max_window_layers=1)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=16, sliding_window=40, query_pre_attn_scalar=24,
                                                     attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(
        **SHAPE, head_dim=16, sliding_window=40, query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
}


def change_model_type_back(folder, to):
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    config["model_type"] = config["liger"]["base_model_type"]
    (to / "config.json").write_text(json.dumps(config))


def peft_adapter(model, folder):
    torch.manual_seed(1)
    config = LoraConfig(r=5, lora_alpha=3, use_rslora=True, target_modules=names_in(model, ["q_proj", "o_proj", "down_proj"]))
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:  # zero, which would hide everything
                parameter.normal_(std=0.1)
    adapted.save_pretrained(folder)
    return adapted


def train(check, model, names, folder):
    rows = [{"text": "the river runs past the mill " * 3}, {"text": "a lantern hung over the door"}] * 8
    data = check.folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = check.folder / "recipe.yaml"
    recipe.write_text(json.dumps({  # JSON is YAML
        "model": {"path": str(model)},
        "lora": {"r": 8, "alpha": 16, "targets": names},
        "data": {"train": str(data), "val_size": 0, "format": "text", "max_length": 64},
        "train": {"epochs": 10, "batch_size": 4, "micro_batch_size": 4, "lr": 0.02, "scheduler": "constant"},
        "save": {"dir": str(folder)}}))
    check.tool("liger-finetune", recipe)
    return folder / "final"


def compare(check, make, folder):
    original, converted, back = folder / "original", folder / "converted", folder / "back"
    made = write_model(make, original)
    logits = check.theirs(made)

    check.tool("liger-convert", "--model", original, "--arch", "gla", "--out", converted)
    change_model_type_back(converted, folder / "reopened")
    check.equal("converted, model_type changed back, in transformers",
                check.theirs(open_in_transformers(folder / "reopened")), logits)
    check.equal("the original in liger-eval", check.ours(original), logits)
    check.equal("converted, in liger-eval --attention softmax", check.ours(converted, "--attention", "softmax"), logits)
    check.tool("liger-convert", "--model", converted, "--arch", "softmax", "--out", back)
    check.equal("turned back by liger-convert, in transformers", check.theirs(open_in_transformers(back)), logits)

    adapter = train(check, converted, names_in(made, ["q_proj", "k_proj", "v_proj"]), folder / "run")
    adapted = check.theirs(PeftModel.from_pretrained(open_in_transformers(folder / "reopened"), adapter))
    if torch.allclose(adapted, logits, atol=1e-2):
        sys.exit("the trained adapter changes nothing; the comparison would be worth nothing")
    check.equal("adapter of liger-finetune: PEFT and liger-eval", check.ours(original, "--adapter", adapter), adapted)
    theirs = peft_adapter(open_in_transformers(original), folder / "peft")
    check.equal("adapter of PEFT: liger-eval and PEFT", check.ours(original, "--adapter", folder / "peft"),
                check.theirs(theirs))


def compare_all(check, _):
    for name, make in MODELS.items():
        print(f"{name}: largest difference, relative to the largest logit")
        compare(check, make, check.folder / name.replace(", ", "-").replace(" ", "-"))


if __name__ == "__main__":
    run(__doc__, compare_all)
