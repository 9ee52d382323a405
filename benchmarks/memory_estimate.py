#!/usr/bin/env python3
"""What liger-finetune --dry-run expects an update to take of memory, beside what a run of two updates took.

    benchmarks/memory_estimate.py --tool build/bin/liger-finetune --folder /tmp [--only TEXT] [--json]

Makes model folders in the shapes of stories15M and stories110M with random weights (1.2 GB; they are removed), and for
each row starts the tool twice: `--dry-run=plan`, which does not load the model, and a run whose peak_memory_bytes is
VmHWM of its process. Standard library only.
"""
import argparse
import json
import os
import shutil
import subprocess
import tempfile

from model_folders import BYTES, make_model

FULL = {"lora": None}
SHAPES = [("15M", 4, 256), ("15M", 1, 1024), ("110M", 1, 1024)]
CASES = [(f"{dtype}, LoRA", model, rows, length, dtype, {})
         for dtype in BYTES for model, rows, length in SHAPES]
for shape in SHAPES:
    CASES += [("float32, LoRA, checkpointing", *shape, "float32", {"train.activation_checkpointing": "full"}),
              ("float32, all parameters", *shape, "float32", FULL),
              ("the same, AdamW 8-bit", *shape, "float32", FULL | {"train.optimizer": "adamw8bit"}),
              ("the same, checkpointing", *shape, "float32",
               FULL | {"train.optimizer": "adamw8bit", "train.activation_checkpointing": "full"})]
CASES += [("float32, LoRA, softmax", "110M", 1, 1024, "float32", {"model.attention": "softmax"}),
          ("float32, LoRA on all linear", "110M", 4, 256, "float32", {"lora.targets": "all-linear"}),
          ("bfloat16 stored, all parameters", "15M", 4, 256, "bfloat16", FULL)]


def settings(folder, model, rows, length, dtype, more):
    out = {"model.path": os.path.join(folder, f"{model}-{dtype}"), "model.attention": "liger_gla",
           "data.train": os.path.join(folder, "rows.jsonl"), "data.format": "text", "data.val_size": 0,
           "data.max_length": length, "data.over_length": "split", "train.batch_size": rows,
           "train.micro_batch_size": rows, "train.scheduler": "constant", "train.max_steps": 2,
           "save.dir": os.path.join(folder, "run"), "save.every": 0} | more
    return [part for key, value in out.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def start(tool, folder, arguments):
    done = subprocess.run([tool, os.path.join(folder, "empty.yaml"), "--json", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{tool} {' '.join(arguments)}\n{done.stderr}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default="build/bin/liger-finetune")
    parser.add_argument("--folder", default=None, help="where the models are made; default: the system's")
    parser.add_argument("--only", default="", help="only rows whose name has this text")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="liger-memory-", dir=args.folder)
    try:
        with open(os.path.join(folder, "empty.yaml"), "w") as f:
            f.write("data: {format: text}\n")
        with open(os.path.join(folder, "rows.jsonl"), "w") as f:
            f.write(json.dumps({"text": "a lion and a tiger; " * 1000}) + "\n")
        results = []
        for what, model, rows, length, dtype, more in CASES:
            name = f"{model}, {rows} x {length}, {what}"
            if args.only not in name:
                continue
            if not os.path.exists(os.path.join(folder, f"{model}-{dtype}")):
                make_model(os.path.join(folder, f"{model}-{dtype}"), model, dtype)
            arguments = settings(folder, model, rows, length, dtype, more)
            plan = start(args.tool, folder, ["--dry-run=plan", *arguments])
            run = start(args.tool, folder, arguments)
            shutil.rmtree(os.path.join(folder, "run"))
            result = {"name": name, "estimated": plan["memory"]["peak_bytes"], "measured": run["peak_memory_bytes"],
                      "memory": plan["memory"]}
            results.append(result)
            if not args.json:
                print(f"{name:<60} {result['estimated'] / 1e6:8.0f} MB expected, {result['measured'] / 1e6:8.0f} MB "
                      f"measured, {result['estimated'] / result['measured']:.3f}", flush=True)
        if args.json:
            print(json.dumps(results, indent=2))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
