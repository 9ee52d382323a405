#!/usr/bin/env python3
"""Adapters of every kind between PEFT and liger, and merged into the weights: compares the logits.

    python tests/compare/peft_parity.py [--bin build/bin] [--keep DIR]
    python tests/compare/peft_parity.py --goldens tests/data/golden/peft    # writes what nn_adapter_golden_test reads

For small random Llama and Gemma checkpoints and each kind of adapter (LoRA, rsLoRA, DoRA, ranks and alphas by pattern,
targets by regular expression, all-linear, chosen layers):
  1. an adapter that PEFT saves, in liger-eval
  2. the same merged by liger-convert --merge: in liger-eval and in transformers, against PEFT's own merge
  3. an adapter of that kind that liger-finetune trains, in PEFT
Exit code 1 if anything differs by more than 1e-5 of the largest logit. Without the packages it says so and ends with 0.
"""
import json
import shutil
import sys

from parity import ROOT, ROPE, SHAPE, open_in_transformers, run, write_model  # says what is missing

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

MODELS = {
    "llama, tied, with biases": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True, attention_bias=True)),
    "llama 3 rope, untied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=ROPE)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SHAPE, head_dim=16)),
}
NAMES = ["q_proj", "o_proj", "down_proj"]
# The first key that matches counts, and PEFT sorts them when it saves: here they are sorted already.
PATTERNS = dict(rank_pattern={r"layers\.1\..*": 3, r"model\.layers\.\d\.self_attn\.o_proj": 2, "o_proj": 7},
                alpha_pattern={r"(q|k)_proj": 2.5, "down_proj": 9})
KINDS = {
    "lora": dict(target_modules=NAMES),
    "rslora": dict(target_modules=NAMES, use_rslora=True),
    "dora": dict(target_modules=NAMES, use_dora=True),
    "dora of all kinds": dict(target_modules="all-linear", use_dora=True, use_rslora=True, **PATTERNS),
    "patterns": dict(target_modules=NAMES, **PATTERNS),
    "regular expression": dict(target_modules=r".*\.(self_attn\.[qk]|mlp\.(up|down))_proj", exclude_modules=r".*\.1\..*up.*"),
    "layers": dict(target_modules=["v_proj", "k_proj", "model.layers.0.mlp.up_proj"], layers_to_transform=[1],
                   exclude_modules=["layers.1.self_attn.k_proj"]),
}
OURS = {"target_modules": "targets", "exclude_modules": "exclude", "layers_to_transform": "layers", "use_dora": "dora",
        "use_rslora": "rslora"}


def make_adapter(model, kind, folder):
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=5, lora_alpha=3, lora_dropout=0.1, task_type="CAUSAL_LM", **kind))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:  # zero, which would hide everything
                parameter.normal_(std=0.1)
            if ".lora_magnitude_vector." in name:
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return adapted


def train(check, model, kind, folder):
    rows = [{"text": "the river runs past the mill " * 3}, {"text": "a lantern hung over the door"}] * 8
    data = check.folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = check.folder / "recipe.yaml"
    recipe.write_text(json.dumps({  # JSON is YAML
        "model": {"path": str(model)},
        "lora": {"r": 5, "alpha": 3, "dropout": 0.1, "plus_ratio": 4} | {OURS.get(key, key): value for key, value in kind.items()},
        "data": {"train": str(data), "val_size": 0, "format": "text", "max_length": 64},
        "train": {"epochs": 5, "batch_size": 4, "micro_batch_size": 4, "lr": 0.01, "scheduler": "constant"},
        "save": {"dir": str(folder)}}))
    check.tool("liger-finetune", recipe)
    return folder / "final"


def compare(check, what, kind, original, folder):
    logits = check.theirs(open_in_transformers(original))
    adapted = make_adapter(open_in_transformers(original), kind, folder / "peft")
    expected = check.theirs(adapted)
    if torch.allclose(expected, logits, atol=1e-2):
        sys.exit(f"{what}: the adapter changes nothing; the comparison would be worth nothing")
    check.equal(f"{what}: PEFT's adapter in liger-eval", check.ours(original, "--adapter", folder / "peft"), expected)

    check.tool("liger-convert", "--model", original, "--merge", folder / "peft", "--out", folder / "merged")
    merged = check.theirs(adapted.merge_and_unload())
    check.equal(f"{what}: merged, in liger-eval", check.ours(folder / "merged"), merged)
    check.equal(f"{what}: merged, in transformers", check.theirs(open_in_transformers(folder / "merged")), merged)

    ours = train(check, original, kind, folder / "run")
    trained = check.theirs(PeftModel.from_pretrained(open_in_transformers(original), ours))
    if torch.allclose(trained, logits, atol=1e-2):
        sys.exit(f"{what}: training changed nothing; the comparison would be worth nothing")
    check.equal(f"{what}: adapter of liger-finetune in PEFT", check.ours(original, "--adapter", ours), trained)


def write_goldens(folder):
    base = ROOT / "tests" / "data" / "golden" / "llama_untied_mha"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(2)
    ids = torch.randint(2, json.loads((base / "config.json").read_text())["vocab_size"], (1, 24))
    for name, kind in KINDS.items():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        target = folder / name.replace(" ", "_")
        adapted = make_adapter(model, kind, target).eval()
        with torch.no_grad():
            logits = adapted(ids).logits[:, ::6].contiguous()
        save_file({"input_ids": ids, "logits": logits}, target / "expected.safetensors")
        config = json.loads((target / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = ""  # of the machine it was made on
        (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (target / "README.md").unlink(missing_ok=True)


def disturb(name, parameter):
    if name.endswith("bias"):
        parameter.normal_(std=0.1)


def compare_all(check, args):
    if args.goldens:
        return write_goldens(args.goldens)
    for index, (name, make) in enumerate(MODELS.items()):
        print(f"{name}: largest difference, relative to the largest logit")
        original = check.folder / f"model-{index}"
        write_model(make, original, disturb)
        for number, (what, kind) in enumerate(KINDS.items()):
            compare(check, what, kind, original, check.folder / f"model-{index}-{number}")


if __name__ == "__main__":
    run(__doc__, compare_all, goldens="write the test data and end")
