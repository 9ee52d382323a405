#!/usr/bin/env python3
"""Opens what liger writes in transformers and PEFT, and what PEFT writes in liger, and compares the logits.

    python tests/compare/export_parity.py [--bin build/bin] [--keep DIR]

For small random Llama and Gemma checkpoints:
  1. liger-convert --arch gla, then model_type changed back: transformers finds every weight, and its logits, the
     original's and those of liger-eval are equal
  2. the same folder turned back by liger-convert --arch softmax needs no change at all
  3. the adapter that liger-finetune trains on the converted folder, read by PEFT
  4. an adapter that PEFT saves (another rank, rsLoRA, o_proj and the MLP as well), read by liger-eval
Exit code 1 if anything differs by more than 1e-5 of the largest logit. Without the packages it says so and ends with 0.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging
except ImportError as e:
    print(f"skipped: the package {e.name} is not installed")
    sys.exit(0)
logging.disable_progress_bar()

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests" / "data" / "tokenizers" / "llama3"
TOLERANCE = 1e-5
SHAPE = dict(vocab_size=1024, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=None,
             initializer_range=0.15)
ROPE = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64)
MODELS = {
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama 3 rope, untied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=ROPE)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SHAPE, head_dim=16)),
}


class Check:
    def __init__(self, bin, folder):
        self.bin, self.folder, self.failed = bin, folder, False
        self.ids = torch.randint(2, SHAPE["vocab_size"], (2, 130))
        save_file({"input_ids": self.ids}, folder / "ids.safetensors")

    def tool(self, name, *arguments):
        command = [str(self.bin / name), *map(str, arguments), "--quiet"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{' '.join(command)}\nexit code {run.returncode}\n{run.stderr}")

    def ours(self, model, *options):
        out = self.folder / "logits.safetensors"
        self.tool("liger-eval", "--model", model, *options, "--input-ids", self.folder / "ids.safetensors", "--logits", out)
        return load_file(out)["logits"]

    def theirs(self, model):
        with torch.no_grad():
            return model.eval()(self.ids).logits

    def equal(self, what, a, b):
        error = ((a - b).abs().max() / b.abs().max()).item()
        bad = not error <= TOLERANCE
        self.failed |= bad
        print(f"  {what:<68} {error:.1e}{'  DIFFERENT' if bad else ''}")


def open_in_transformers(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {key: list(value) for key, value in info.items() if value}
    if wrong:
        sys.exit(f"transformers opened {folder}, but: {wrong}")
    return model


def change_model_type_back(folder, to):
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    config["model_type"] = config["liger"]["base_model_type"]
    (to / "config.json").write_text(json.dumps(config))


def peft_adapter(model, folder):
    torch.manual_seed(1)
    config = LoraConfig(r=5, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "o_proj", "down_proj"])
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:  # zero, which would hide everything
                parameter.normal_(std=0.1)
    adapted.save_pretrained(folder)
    return adapted


def train(check, model, folder):
    rows = [{"text": "the river runs past the mill " * 3}, {"text": "a lantern hung over the door"}] * 8
    data = check.folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = check.folder / "recipe.yaml"
    recipe.write_text(json.dumps({  # JSON is YAML
        "model": {"path": str(model)},
        "lora": {"r": 8, "alpha": 16, "targets": ["q_proj", "k_proj", "v_proj"]},
        "data": {"train": str(data), "val_size": 0, "format": "text", "max_length": 64},
        "train": {"epochs": 10, "batch_size": 4, "micro_batch_size": 4, "lr": 0.02, "scheduler": "constant"},
        "save": {"dir": str(folder)}}))
    check.tool("liger-finetune", recipe)
    return folder / "final"


def compare(check, make, folder):
    original, converted, back = folder / "original", folder / "converted", folder / "back"
    torch.manual_seed(0)
    made = make().float()
    made.save_pretrained(original)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, original)
    logits = check.theirs(made)

    check.tool("liger-convert", "--model", original, "--arch", "gla", "--out", converted)
    change_model_type_back(converted, folder / "reopened")
    check.equal("converted, model_type changed back, in transformers",
                check.theirs(open_in_transformers(folder / "reopened")), logits)
    check.equal("the original in liger-eval", check.ours(original), logits)
    check.equal("converted, in liger-eval --attention softmax", check.ours(converted, "--attention", "softmax"), logits)
    check.tool("liger-convert", "--model", converted, "--arch", "softmax", "--out", back)
    check.equal("turned back by liger-convert, in transformers", check.theirs(open_in_transformers(back)), logits)

    adapter = train(check, converted, folder / "run")
    adapted = check.theirs(PeftModel.from_pretrained(open_in_transformers(folder / "reopened"), adapter))
    if torch.allclose(adapted, logits, atol=1e-2):
        sys.exit("the trained adapter changes nothing; the comparison would be worth nothing")
    check.equal("adapter of liger-finetune: PEFT and liger-eval", check.ours(original, "--adapter", adapter), adapted)
    theirs = peft_adapter(open_in_transformers(original), folder / "peft")
    check.equal("adapter of PEFT: liger-eval and PEFT", check.ours(original, "--adapter", folder / "peft"),
                check.theirs(theirs))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build" / "bin")
    parser.add_argument("--keep", type=pathlib.Path, help="empty folder for the files, to look at them afterwards")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="liger-export-") as scratch:
        check = Check(args.bin, args.keep or pathlib.Path(scratch))
        for name, make in MODELS.items():
            print(f"{name}: largest difference, relative to the largest logit")
            compare(check, make, check.folder / name.replace(", ", "-").replace(" ", "-"))
    sys.exit(check.failed)


if __name__ == "__main__":
    main()
