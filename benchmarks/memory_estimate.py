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
import struct
import subprocess
import tempfile

VOCABULARY = 32000
MODELS = {
    "15M": dict(hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6),
    "110M": dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12),
}
BYTES = {"float32": 4, "bfloat16": 2}
PIECE = 1 << 20  # numbers
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


def tensor_shapes(shape):
    hidden, intermediate = shape["hidden_size"], shape["intermediate_size"]
    yield "model.embed_tokens.weight", [VOCABULARY, hidden]
    for i in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        for name in ("q", "k", "v", "o"):
            yield f"{prefix}self_attn.{name}_proj.weight", [hidden, hidden]
        yield prefix + "mlp.gate_proj.weight", [intermediate, hidden]
        yield prefix + "mlp.up_proj.weight", [intermediate, hidden]
        yield prefix + "mlp.down_proj.weight", [hidden, intermediate]
        yield prefix + "input_layernorm.weight", [hidden]
        yield prefix + "post_attention_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]


def random_numbers(dtype):
    """Magnitudes of 1/128 to 1/32 with random mantissas and signs, the same for every tensor: only sizes count here."""
    size = BYTES[dtype]
    block = bytearray(os.urandom(PIECE * size))
    block[size - 1::size] = bytes(block[size - 1::size]).translate(bytes((0x3c, 0xbc)[i % 2] for i in range(256)))
    return bytes(block)


def write_weights(path, shape, dtype):
    header, offset, tensors = {}, 0, sorted(tensor_shapes(shape))
    for name, sizes in tensors:
        bytes_ = BYTES[dtype] * sizes[0] * (sizes[1] if len(sizes) > 1 else 1)
        header[name] = {"dtype": {"float32": "F32", "bfloat16": "BF16"}[dtype], "shape": sizes,
                        "data_offsets": [offset, offset + bytes_]}
        offset += bytes_
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    block = random_numbers(dtype)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for left in range(offset, 0, -len(block)):
            f.write(block[:min(left, len(block))])


def write_tokenizer(folder):
    """A byte-level BPE without a merge: id = byte + 2."""
    vocab, next_code = {"<s>": 0, "</s>": 1}, 256
    for byte in range(256):
        visible = 33 <= byte <= 126 or byte >= 161 and byte != 173
        vocab[chr(byte if visible else next_code)] = byte + 2
        next_code += not visible
    special = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer = dict(version="1.0", truncation=None, padding=None, normalizer=None, post_processor=None,
                     added_tokens=[dict(id=i, content=c, **special) for i, c in enumerate(("<s>", "</s>"))],
                     pre_tokenizer=byte_level, decoder=byte_level,
                     model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None,
                                end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, ignore_merges=False,
                                vocab=vocab, merges=[]))
    with open(os.path.join(folder, "tokenizer.json"), "w") as f:
        json.dump(tokenizer, f)
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"bos_token": "<s>", "eos_token": "</s>"}, f)


def make_model(folder, model, dtype):
    shape = MODELS[model]
    os.makedirs(folder)
    config = dict(shape, architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=VOCABULARY,
                  num_key_value_heads=shape["num_attention_heads"], max_position_embeddings=65536, rms_norm_eps=1e-6,
                  hidden_act="silu", tie_word_embeddings=True, torch_dtype=dtype, bos_token_id=0, eos_token_id=1)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    write_tokenizer(folder)
    write_weights(os.path.join(folder, "model.safetensors"), shape, dtype)


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
