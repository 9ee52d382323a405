#!/usr/bin/env python3
"""The gated linear attention scan in PyTorch: S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, o_t = q_t^T S_t.

    python benchmarks/compare/scan_torch.py [--json] [--threads N] [--shape B,T,H,D ...] [--measure WHAT ...]

fp32; q, k, v, g [B, T, H, D]; g = logsigmoid(normal) / 16. What is measured, each in a process of its own:
  forward, forward_backward  chunked, by autograd: all chunks in one product, or one chunk after the other while it is
                             in cache; the form and chunk size that are fastest here
  memory                     peak resident memory of the first forward_backward above that just before it: gradients,
                             output, everything kept and temporary, but not the inputs; glibc's default allocator
  naive                      forward, token by token, the form flash-linear-attention gives as its definition
"""
import argparse
import json
import resource
import subprocess
import sys

import common

SHAPES = [(1, 1024, 6, 48), (1, 2048, 8, 64), (2, 2048, 16, 128)]
MEASURES = ["forward", "forward_backward", "memory", "naive"]
CHUNKS = [16, 32, 64, 128]


def naive(q, k, v, g):
    B, T, H, D = q.shape
    S = q.new_zeros(B, H, D, v.shape[-1])
    o = torch.empty_like(v)
    for t in range(T):
        S = S * g[:, t].exp()[..., None] + k[:, t, :, :, None] * v[:, t, :, None, :]
        o[:, t] = (q[:, t, :, :, None] * S).sum(-2)
    return o


# Both chunked forms divide k by the decay since the chunk's start. That overflows for strong gates; these are mild.

def all_at_once(q, k, v, g, C):
    B, T, H, D = q.shape
    N = T // C
    q, k, v, g = (x.transpose(1, 2).reshape(B * H * N, C, -1) for x in (q, k, v, g))
    decay = g.cumsum(1).exp()
    q, k = q * decay, k / decay
    added = torch.bmm(k.transpose(1, 2), v).view(B * H, N, D, -1)
    ends = decay[:, -1].view(B * H, N, D, 1)
    S, states = torch.zeros_like(added[:, 0]), []
    for kv, end in zip(added.unbind(1), ends.unbind(1)):  # indexing would make the backward pass quadratic in N
        states.append(S)
        S = (S + kv) * end
    states = torch.stack(states, 1).view(B * H * N, D, -1)
    o = torch.baddbmm(torch.bmm(torch.bmm(q, k.transpose(1, 2)).tril_(), v), q, states)
    return o.view(B, H, T, -1).transpose(1, 2)


def one_by_one(q, k, v, g, C):
    B, T, H, D = q.shape
    q, k, v, g = (x.transpose(1, 2).reshape(B * H, T, -1) for x in (q, k, v, g))
    S, outputs = q.new_zeros(B * H, D, v.shape[-1]), []
    for q, k, v, g in zip(*(x.split(C, 1) for x in (q, k, v, g))):
        decay = g.cumsum(1).exp()
        q, k = q * decay, (k / decay).transpose(1, 2)
        outputs.append(torch.baddbmm(torch.bmm(torch.bmm(q, k).tril_(), v), q, S))
        S = torch.baddbmm(S, k, v) * decay[:, -1, :, None]
    return torch.cat(outputs, 1).view(B, H, T, -1).transpose(1, 2)


FORMS = {"all_at_once": all_at_once, "one_by_one": one_by_one}


def make_inputs(shape):
    """In place, so that no temporary raises the peak before the measurement."""
    torch.manual_seed(0)
    q, k, v, g, grad_o = (torch.empty(shape).normal_() for _ in range(5))
    g.neg_().exp_().log1p_().div_(-16)  # logsigmoid(g) / 16
    return (q, k, v, g), grad_o


def check(inputs):
    """A peer that computes something else would be no peer."""
    short = [x[:, :256] for x in inputs]
    expected = naive(*(x.double() for x in short))
    for form in FORMS.values():
        for C in CHUNKS:
            error = (form(*short, C) - expected).abs().max() / expected.abs().max()
            assert error < 1e-4, (form.__name__, C, error)


def forward_backward(form, C, inputs, grad_o):
    for x in inputs:
        x.requires_grad_(True).grad = None
    form(*inputs, C).backward(grad_o)


def timed(measure, form, C, inputs, grad_o, **budget):
    if measure == "forward":
        with torch.no_grad():
            return common.median_ms(lambda: form(*inputs, C), **budget)
    return common.median_ms(lambda: forward_backward(form, C, inputs, grad_o), **budget)


def fastest(measure, inputs, grad_o):
    tries = [(timed(measure, form, C, inputs, grad_o, runs=3, seconds=0.2, warm_up=1), name, C)
             for name, form in FORMS.items() for C in CHUNKS]
    return min(tries)[1:]


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(args):
    """One measurement. Writes a JSON object with ms or mb, and the form that was used."""
    global torch  # the parent never loads it: children would inherit its peak
    shape, measure = args.shape[0], args.measure[0]
    common.prepare(args, keep_memory=measure != "memory")
    import torch
    torch.set_num_threads(args.threads)
    if measure == "memory":
        name, C = args.form.split(":")
        small, small_grad = make_inputs((1, 256, 1, 16))
        forward_backward(FORMS[name], int(C), small, small_grad)  # loads the libraries' own code and buffers
        inputs, grad_o = make_inputs(shape)
        before = peak()
        forward_backward(FORMS[name], int(C), inputs, grad_o)
        result = {"mb": (peak() - before) / 1e6, "form": args.form}
    else:
        inputs, grad_o = make_inputs(shape)
        if measure == "naive":
            with torch.no_grad():
                result = {"ms": common.median_ms(lambda: naive(*inputs), warm_up=1)}
        else:
            with torch.no_grad():
                check(inputs)
            if args.form is None:
                args.form = "{}:{}".format(*fastest(measure, inputs, grad_o))
            name, C = args.form.split(":")
            result = {"ms": timed(measure, FORMS[name], int(C), inputs, grad_o), "form": args.form}
    print(json.dumps(result | {"library": f"torch {torch.__version__}"}))


def run_child(args, shape, measure, form):
    command = [sys.executable, __file__, "--child", "--threads", str(args.threads), "--shape",
               ",".join(map(str, shape)), "--measure", measure]
    command += ["--default-malloc"] if args.default_malloc else []
    run = subprocess.run(command + (["--form", form] if form else []), stdout=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return json.loads(run.stdout)


def main():
    p = common.parser(__doc__)
    p.add_argument("--shape", type=lambda s: tuple(map(int, s.split(","))), nargs="+", default=SHAPES)
    p.add_argument("--measure", choices=MEASURES, nargs="+", default=MEASURES)
    p.add_argument("--form", help="FORM:CHUNK as an earlier run reported it, instead of trying all of them")
    p.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    common.need(args, "torch")
    if args.child:
        return child(args)
    library, items = None, []
    for shape in args.shape:
        form = args.form
        for measure in args.measure:
            if measure == "memory" and form is None:
                form = run_child(args, shape, "forward_backward", None)["form"]
            result = run_child(args, shape, measure, form if measure == "memory" else args.form)
            if measure == "forward_backward":
                form = result["form"]  # memory is that of what was timed
            library = result.pop("library")
            items.append({"shape": shape, "measure": measure} | result)
    common.report(args, {"library": library, "threads": args.threads, "items": items},
                  lambda i: f"{str(i['shape']):<20} {i['measure']:<17} {i.get('form', ''):<16} " +
                  (f"{i['ms']:10.2f} ms" if "ms" in i else f"{i['mb']:10.1f} MB"))


if __name__ == "__main__":
    main()
