#!/usr/bin/env python3
"""Writes a Llama model whose heads are twice as wide and which says the same, but for a little noise.

    benchmarks/recovery/widen_heads.py MODEL OUT [--noise 0.02] [--seed 0]

Pair i of a head of D turns theta^(-2i/D) a token, which is what pair 2i of a head of 2D turns: old channels go there,
queries grow by sqrt(2) because scores are divided by sqrt(2D) now, and all that is new is noise, for training to make
something of. Float32 weights in one file; Python's standard library only.
"""
import argparse
import array
import json
import math
import random
import shutil
import struct
from pathlib import Path


def read(file):
    """{name: (shape, floats)}"""
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, info in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        if info["dtype"] != "F32":
            raise SystemExit(f"{file}: expected F32, got {info['dtype']} of {name}")
        begin, end = info["data_offsets"]
        tensors[name] = info["shape"], array.array("f", data[8 + size + begin:8 + size + end])
    return tensors


def write(file, tensors):
    header, offset = {}, 0
    for name, (shape, floats) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + 4 * len(floats)]}
        offset += 4 * len(floats)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, floats in tensors.values():
            out.write(floats.tobytes())


def places(heads, D):
    """Where each old channel goes: pairs are (i, i + D / 2), in a head of 2 D (j, j + D)."""
    return [h * 2 * D + (2 * i if i < D // 2 else 2 * (i - D // 2) + D) for h in range(heads) for i in range(D)]


def wide_rows(shape, floats, to, factor, draw):
    rows, columns = shape
    out = [array.array("f", (draw() for _ in range(columns))) for _ in range(2 * rows)]
    for row, place in enumerate(to):
        out[place] = array.array("f", (factor * x for x in floats[row * columns:(row + 1) * columns]))
    return [2 * rows, columns], array.array("f", (x for row in out for x in row))


def transposed(shape, floats):
    rows, columns = shape
    return [columns, rows], array.array("f", (floats[r * columns + c] for c in range(columns) for r in range(rows)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--noise", type=float, default=0.02, help="deviation of what is new")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    heads, kv_heads, D = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    rng = random.Random(args.seed)
    draw = lambda: rng.gauss(0, args.noise)
    tensors = read(args.model / "model.safetensors")
    for name, (shape, floats) in tensors.items():
        kind = name.split(".")[-2]
        if kind in ("q_proj", "k_proj", "v_proj"):
            to = places(heads if kind == "q_proj" else kv_heads, D)
            tensors[name] = wide_rows(shape, floats, to, math.sqrt(2) if kind == "q_proj" else 1, draw)
        elif kind == "o_proj":
            tensors[name] = transposed(*wide_rows(*transposed(shape, floats), places(heads, D), 1, draw))
    args.out.mkdir(parents=True, exist_ok=True)
    for file in args.model.glob("tokenizer*"):
        shutil.copy(file, args.out)
    config["head_dim"] = 2 * D
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write(args.out / "model.safetensors", tensors)


if __name__ == "__main__":
    main()
