#!/usr/bin/env python3
"""Measures liger-convert against this disk: speed and memory of a dtype change, time of a conversion without one.

    benchmarks/convert_io.py --tool build/bin/liger-convert --folder /tmp

Makes a sharded bf16 Llama checkpoint (4 GB by default), and in turns writes as many bytes plainly with fsync and runs
the conversion, so that both meet the same disk. Needs three times the checkpoint's size; everything is removed.
Standard library only.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

from model_folders import random_block, size_of, tensor_shapes, write_safetensors

DTYPE = "bfloat16"
SHAPE = dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192)
PIECE = 16 << 20


def make_checkpoint(folder, gigabytes, block):
    os.makedirs(folder)
    one_layer = dict(tensor_shapes(SHAPE | {"num_hidden_layers": 1}))
    per_layer = sum(size_of(s, DTYPE) for n, s in one_layer.items() if ".layers." in n)
    embedding = size_of(one_layer["model.embed_tokens.weight"], DTYPE)
    config = SHAPE | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "num_hidden_layers": max(1, round((gigabytes * 1e9 - embedding) / per_layer)), "num_attention_heads": 16,
        "num_key_value_heads": 16, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": DTYPE}
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
    shards, room = [], 0
    for name, shape in tensor_shapes(config):
        if size_of(shape, DTYPE) > room:
            shards.append([])
            room = 10**9
        shards[-1].append((name, shape))
        room -= size_of(shape, DTYPE)
    weight_map = {}
    for i, tensors in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_safetensors(os.path.join(folder, name), tensors, DTYPE, block)
        weight_map.update((t, name) for t, _ in tensors)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {}, "weight_map": weight_map}, f)
    return sum(size_of(s, DTYPE) for t in shards for _, s in t)


def forget_cache(folder):
    """Makes the next reading of these files come from the disk."""
    for name in os.listdir(folder):
        fd = os.open(os.path.join(folder, name), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def raw_write(path, size, block):
    start = time.monotonic()
    with open(path, "wb", buffering=0) as f:
        for left in range(size, 0, -PIECE):
            f.write(block[:min(left, PIECE)])
        os.fsync(f.fileno())
    seconds = time.monotonic() - start
    os.remove(path)
    return size / 1e9 / seconds


def run(command):
    """Returns seconds and peak resident bytes."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return seconds, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default="build/bin/liger-convert")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk to measure")
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--dtype", default="f16", choices=["f16", "f32"])
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    work = tempfile.mkdtemp(prefix="liger-convert-io-", dir=args.folder)
    try:
        model, out = os.path.join(work, "model"), os.path.join(work, "out")
        block = random_block(DTYPE, PIECE // 2)
        bytes_in = make_checkpoint(model, args.gigabytes, block)
        bytes_out = bytes_in * (2 if args.dtype == "f32" else 1)
        print(f"{bytes_in / 1e9:.2f} GB of bf16 in, {bytes_out / 1e9:.2f} GB of {args.dtype} out", flush=True)
        command = [args.tool, "--model", model, "--arch", "gla", "--out", out, "--quiet"]
        raw, ratios, peaks = [raw_write(os.path.join(work, "raw"), bytes_out, block)], [], []
        for i in range(args.repeats):
            cold = i % 2 == 0
            if cold:
                forget_cache(model)
            seconds, peak = run(command + ["--dtype", args.dtype])
            shutil.rmtree(out)
            raw.append(raw_write(os.path.join(work, "raw"), bytes_out, block))
            speed, disk = bytes_out / 1e9 / seconds, (raw[-1] + raw[-2]) / 2
            ratios.append(speed / disk)
            peaks.append(peak)
            print(f"{'cold' if cold else 'warm'} source: {seconds:5.1f} s, {speed:.2f} GB/s written; plain write with "
                  f"fsync {raw[-2]:.2f} GB/s before, {raw[-1]:.2f} after: {speed / disk:.0%}; peak {peak / 1e6:.0f} MB",
                  flush=True)
        seconds, peak = run(command)
        print(f"median {statistics.median(ratios):.0%} of the disk's write speed, peak memory {max(peaks) / 1e6:.0f} MB")
        print(f"without a dtype change: {seconds:.2f} s, peak memory {peak / 1e6:.0f} MB")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
