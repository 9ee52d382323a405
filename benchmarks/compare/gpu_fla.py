#!/usr/bin/env python3
"""flash-linear-attention's kernels on a GPU, at the shapes that benchmarks/gpu/rows.cpp has.

    python benchmarks/compare/gpu_fla.py [--json] [--shape B,T,H,D ...] [--only TEXT] [--save FILE] [--compile]

bf16, gates too; g = logsigmoid(normal) / 16; the final state is written. Timed as gpu_bench does: CUDA events, a buffer
larger than the L2 cache written before each run, medians. Rows whose name says raw start from projections of H query
heads over H / 4 heads of keys and values, and make features, gates and repeated heads in PyTorch.
--compile runs everything once, so that Triton's choices are in its cache; --save writes after every row.
"""
import json
import pathlib
import statistics

import common

SHAPES = [(8, 2048, 32, 128), (1, 32768, 32, 128)]
WARM_UP, RUNS = 3, 31


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def gates(*shape):
    return F.logsigmoid(normal(*shape)) / 16


# Each: its inputs, and the operator on them, returning output and final state.

def chunk_gla(B, T, H, D):
    from fla.ops.gla import chunk_gla as op
    shape = (B, T, H, D)
    inputs = normal(*shape).softmax(-1), normal(*shape).softmax(-1), normal(*shape), gates(*shape)
    return inputs, lambda q, k, v, g: op(q, k, v, g, scale=1.0, output_final_state=True)


def chunk_gla_raw(B, T, H, D):
    from fla.ops.gla import chunk_gla as op
    group = 4

    def layer(q, k, v):
        g = F.logsigmoid(k) / 16
        q, k = q.softmax(-1), k.softmax(-1)
        k, v, g = (x.repeat_interleave(group, 2) for x in (k, v, g))
        return op(q, k, v, g, scale=1.0, output_final_state=True)
    return (normal(B, T, H, D), normal(B, T, H // group, D), normal(B, T, H // group, D)), layer


def chunk_simple_gla(B, T, H, D):
    from fla.ops.simple_gla import chunk_simple_gla as op
    shape = (B, T, H, D)
    inputs = normal(*shape).softmax(-1), normal(*shape).softmax(-1), normal(*shape), gates(B, T, H)
    return inputs, lambda q, k, v, g: op(q, k, v, g, scale=1.0, output_final_state=True)


def chunk_gated_delta_rule(B, T, H, D):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule as op
    shape = (B, T, H, D)
    unit = [F.normalize(normal(*shape), dim=-1) for _ in range(2)]
    inputs = *unit, normal(*shape), gates(B, T, H), normal(B, T, H).sigmoid()
    return inputs, lambda q, k, v, g, beta: op(q, k, v, g, beta, scale=1.0, output_final_state=True)


def chunk_gsa(B, T, H, D):
    from fla.ops.gsa import chunk_gsa as op
    shape = (B, T, H, D)
    g = gates(*shape)
    s = (1 - g.float().exp()).to(g.dtype)  # as many slots as channels
    inputs = normal(*shape), normal(*shape), normal(*shape), s, g
    return inputs, lambda q, k, v, s, g: op(q, k, v, s, g, scale=1.0, output_final_state=True)


def fused_recurrent_gla(B, T, H, D):
    from fla.ops.gla import fused_recurrent_gla as op
    shape = (B, T, H, D)
    inputs = normal(*shape).softmax(-1), normal(*shape).softmax(-1), normal(*shape), gates(*shape)
    return inputs, lambda q, k, v, g: op(q, k, v, gk=g, scale=1.0, output_final_state=True)


OPERATORS = {"chunk_gla": chunk_gla, "chunk_gla raw": chunk_gla_raw, "chunk_simple_gla": chunk_simple_gla,
             "chunk_gated_delta_rule": chunk_gated_delta_rule, "chunk_gsa": chunk_gsa,
             "fused_recurrent_gla": fused_recurrent_gla}


def median_ms(run):
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    other = torch.empty(max(4 * l2, 256 << 20), dtype=torch.uint8, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(RUNS)]
    for i in range(-WARM_UP, RUNS):
        other.fill_(i & 0xff)
        if i >= 0:
            events[i][0].record()
        run()
        if i >= 0:
            events[i][1].record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events)


def measure(make, shape, once):
    """(measure, milliseconds) of forward, then of forward and backward."""
    inputs, op = make(*shape)

    def forward():
        with torch.no_grad():
            return op(*inputs)
    o = forward()[0]
    if not o.isfinite().all():
        raise FloatingPointError("its output is not finite")
    yield "forward", 0.0 if once else median_ms(forward)
    grad = torch.randn_like(o)
    inputs = [x.detach().requires_grad_(True) for x in inputs]

    def forward_backward():
        torch.autograd.grad(op(*inputs)[0], inputs, grad)
    forward_backward()
    yield "forward+backward", 0.0 if once else median_ms(forward_backward)


def name_of(shape, name):
    B, T, H, D = shape
    return f"{B},{T},{H}:{H // 4},{D}" if "raw" in name else f"{B},{T},{H},{D}"


def main():
    global torch, F
    p = common.parser(__doc__)
    p.add_argument("--shape", type=lambda s: tuple(map(int, s.split(","))), nargs="+", default=SHAPES)
    p.add_argument("--only", default="", help="operators whose name has this in it")
    p.add_argument("--save", type=pathlib.Path)
    p.add_argument("--compile", action="store_true")
    args = p.parse_args()
    common.need(args, "torch", "triton", "fla")
    import torch
    import torch.nn.functional as F
    if not torch.cuda.is_available():
        common.skip(args, "torch sees no CUDA device")
    import fla
    import triton
    torch.manual_seed(0)
    result = {"library": f"flash-linear-attention {fla.__version__}, triton {triton.__version__}, "
                         f"torch {torch.__version__}", "threads": args.threads, "items": []}
    for name, make in OPERATORS.items():
        if args.only not in name:
            continue
        for shape in args.shape:
            what = {"row": name, "shape": name_of(shape, name)}
            try:
                for kind, ms in measure(make, shape, args.compile):
                    result["items"].append(what | {"row": f"{name} {kind}", "ms": ms})
            except Exception as error:  # another operator may run; what went wrong stands beside its name
                result["items"].append(what | {"error": f"{type(error).__name__}: {error}"[:2000]})
            torch.cuda.empty_cache()
            if args.save:
                args.save.write_text(json.dumps(result, indent=1) + "\n")
    common.report(args, result, lambda i: f"{i['row']:<40} {i['shape']:<20} " +
                  (f"{i['ms']:10.4f} ms" if "ms" in i else i["error"]))


if __name__ == "__main__":
    main()
