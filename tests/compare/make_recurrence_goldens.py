#!/usr/bin/env python3
"""Writes tests/data/recurrence/<structure>.safetensors: every gated structure, by its definition, token by token.

    python tests/compare/make_recurrence_goldens.py [--out DIR]

All tensors are float64. B sequences, T tokens, H query heads that share Hkv key/value heads, D channels:
  q [B, T, H, D], k, v [B, T, Hkv, D]      as projected, without rotary embedding
  state_in.0 (.1), state_out.0 (.1)        [B, Hkv, D, D]; mLSTM's is [B, Hkv, D, D + 1], its normalizer the last column
  o, w_o, w_state.0 (.1)                   output; weights of the loss sum(o w_o) + sum(state_out w_state)
  dq, dk, dv, dstate_in.0 (.1)             gradients of that loss
The values come from numpy loops over heads and tokens. Gradients come from autograd through a batched restatement in
torch, which must agree with the loops to 1e-12, and which central differences of the loops confirm. Where
flash-linear-attention is installed its naive forms are compared as well (they compute in float32). Running the script
twice gives the same bytes.
"""
import argparse
import json
import pathlib
import struct
import sys
import zlib

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    sys.exit(f"skipped: {missing}")

OUT = pathlib.Path(__file__).resolve().parents[1] / "data" / "recurrence"
B, T, H, HKV, D = 2, 19, 4, 2, 8
GROUP = H // HKV
DIVISOR, LAYER, LAYERS = 16, 1, 4


# --- the definitions ------------------------------------------------------------------------------------------------

def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def unit(x):
    return x / np.sqrt((x * x).sum() + 1e-6)


def logsigmoid(x):
    return -np.logaddexp(0, -x)


def sigmoid(x):
    return np.exp(logsigmoid(x))


def log_decay(name, k, head):
    """g of one token and key/value head: a number, or one for each channel."""
    mean = k.mean()
    return {
        "gla": lambda: logsigmoid(k) / DIVISOR,
        "hgrn2": lambda: logsigmoid(k),
        "gsa": lambda: logsigmoid(k) / DIVISOR,  # slots, as many as channels
        "gated-retention": lambda: logsigmoid(mean) / DIVISOR,
        "mamba2": lambda: -np.logaddexp(0, mean),
        "mlstm": lambda: logsigmoid(mean),
        "retnet": lambda: np.log(1 - 2.0 ** (-5 - head)),
        "lightning": lambda: -(8 / HKV) * (1 - LAYER / LAYERS) * head,
        "linear": lambda: 0.0,
        "rwkv6": lambda: -np.exp(np.minimum(k, 20)),
        "deltanet": lambda: 0.0,
        "gated-deltanet": lambda: logsigmoid(mean) / DIVISOR,
        "kda": lambda: logsigmoid(k) / DIVISOR,
    }[name]()


NAMES = ["gla", "hgrn2", "gsa", "gated-retention", "mamba2", "mlstm", "retnet", "lightning", "linear", "rwkv6",
         "deltanet", "gated-deltanet", "kda"]
DELTA = {"deltanet", "gated-deltanet", "kda"}


def step(name, head, states, queries, k, v):
    """One token of one key/value head; queries [GROUP, D]. Returns the outputs [GROUP, D] and the states after it."""
    g = log_decay(name, k, head) * np.ones(D)
    a = np.exp(g)[:, None]
    if name == "gsa":
        keys, values = states  # [D, slots], [slots, D]
        s = -np.expm1(g)
        keys = keys * a.T + np.outer(k, s)
        values = values * a + np.outer(s, v)
        return [softmax(q @ keys) @ values for q in queries], (keys, values)
    if name == "mlstm":
        S, n = states[0][:, :D], states[0][:, D]
        S = a * S + np.outer(softmax(k), v)
        n = a[:, 0] * n + softmax(k)
        outputs = [softmax(q) @ S / max(abs(softmax(q) @ n), 1) for q in queries]
        return outputs, (np.column_stack([S, n]),)
    S, = states
    if name in DELTA:
        S = a * S
        S = S + sigmoid(k.mean()) * np.outer(unit(k), v - S.T @ unit(k))
        return [unit(q) @ S for q in queries], (S,)
    if name == "rwkv6":  # reads the state before it decays
        kv = np.outer(softmax(k), v)
        return [softmax(q) @ (S + kv) for q in queries], (a * S + kv,)
    key = sigmoid(-k) if name == "hgrn2" else softmax(k)
    S = a * S + np.outer(key, v)
    return [softmax(q) @ S for q in queries], (S,)


def by_definition(name, q, k, v, states):
    o, states = np.empty_like(q), [s.copy() for s in states]
    for b in range(B):
        for head in range(HKV):
            heads = slice(head * GROUP, (head + 1) * GROUP)
            now = tuple(s[b, head] for s in states)
            for t in range(T):
                o[b, t, heads], now = step(name, head, now, q[b, t, heads], k[b, t, head], v[b, t, head])
            for s, last in zip(states, now):
                s[b, head] = last
    return o, states


# --- the same, restated for autograd: all heads at once, gates before the loop ---------------------------------------

def gates(name, k):
    """g [B, T, Hkv, D or 1]"""
    mean = k.mean(-1, keepdim=True)
    head = torch.arange(HKV, dtype=k.dtype)[:, None].expand_as(mean)
    if name in ("gla", "gsa", "kda"):
        return F.logsigmoid(k) / DIVISOR
    if name in ("gated-retention", "gated-deltanet"):
        return F.logsigmoid(mean) / DIVISOR
    if name == "hgrn2":
        return F.logsigmoid(k)
    if name == "mlstm":
        return F.logsigmoid(mean)
    if name == "mamba2":
        return -F.softplus(mean)
    if name == "rwkv6":
        return -k.clamp(max=20).exp()
    if name == "retnet":
        return torch.log1p(-torch.exp2(-5 - head))
    if name == "lightning":
        return -8 / HKV * (1 - LAYER / LAYERS) * head
    return torch.zeros_like(mean)  # linear, deltanet


def feature(name, x):
    if name == "gsa":
        return x
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt() if name in DELTA else x.softmax(-1)


def restated(name, q, k, v, states):
    g = gates(name, k)
    query = feature(name, q).unflatten(2, (HKV, GROUP))
    key = torch.sigmoid(-k) if name == "hgrn2" else feature(name, k)
    outputs = []
    if name == "gsa":
        keys, values = states
        for t in range(T):
            a, s = g[:, t].exp(), -torch.expm1(g[:, t])
            keys = keys * a[..., None, :] + key[:, t, :, :, None] * s[..., None, :]
            values = values * a[..., None] + s[..., None] * v[:, t, :, None]
            outputs.append((query[:, t] @ keys).softmax(-1) @ values)
        return torch.stack(outputs, 1).flatten(2, 3), [keys, values]
    if name == "mlstm":  # the normalizer is a value channel of ones
        v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    S, = states
    for t in range(T):
        decayed = g[:, t, :, :, None].exp() * S
        value = v[:, t, :, None]
        if name in DELTA:
            beta = torch.sigmoid(k[:, t].mean(-1))[..., None, None]
            value = beta * (value - key[:, t, :, None] @ decayed)
        added = key[:, t, :, :, None] * value
        outputs.append(query[:, t] @ ((S if name == "rwkv6" else decayed) + added))
        S = decayed + added
    o = torch.stack(outputs, 1).flatten(2, 3)
    return (o[..., :-1] / o[..., -1:].abs().clamp(min=1) if name == "mlstm" else o), [S]


def loss(o, states, weights):
    return sum((x * w).sum() for x, w in zip((o, *states), weights))


def gradients(name, inputs, weights):
    inputs = [torch.from_numpy(x).requires_grad_() for x in inputs]
    o, states = restated(name, *inputs[:3], inputs[3:])
    loss(o, states, [torch.from_numpy(w) for w in weights]).backward()
    return o.detach().numpy(), [s.detach().numpy() for s in states], [x.grad.numpy() for x in inputs]


# --- the files ------------------------------------------------------------------------------------------------------

def random_inputs(name):
    random = np.random.RandomState(zlib.crc32(name.encode()))  # numpy never changes this generator's numbers
    q, k, v = (random.standard_normal((B, T, heads, D)) for heads in (H, HKV, HKV))
    k[0, 5] = k[1, 15] = -50  # gates of almost 0, and of almost 1
    k[0, 12] = k[1, 2] = 30
    columns = D + 1 if name == "mlstm" else D
    states = [random.standard_normal((B, HKV, D, columns)) for _ in range(2 if name == "gsa" else 1)]
    if name == "mlstm":
        states[0][..., D] += [[16], [-16]]  # else |q n| would hardly exceed 1
    weights = [random.standard_normal(x.shape) for x in (q, *states)]
    return [q, k, v, *states], weights


def difference(a, b):
    return abs(a - b).max() / max(1, abs(b).max())


def check_gradients(name, inputs, weights, grads):
    """One random direction, central differences of the loops."""
    random, h = np.random.RandomState(0), 1e-6
    direction = [random.standard_normal(x.shape) for x in inputs]

    def along(sign):
        q, k, v, *states = (x + sign * h * d for x, d in zip(inputs, direction))
        return loss(*by_definition(name, q, k, v, states), weights)

    numeric, exact = (along(1) - along(-1)) / (2 * h), sum((g * d).sum() for g, d in zip(grads, direction))
    assert abs(numeric - exact) <= 1e-6 * max(1, abs(exact)), (name, numeric, exact)


def write_safetensors(path, tensors, metadata):
    """Not the safetensors package: it writes the metadata in an order that changes from run to run."""
    header, data = {"__metadata__": metadata}, b""
    for key, x in sorted(tensors.items()):
        header[key] = {"dtype": "F64", "shape": x.shape, "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.astype("<f8").tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def make(name, out):
    inputs, weights = random_inputs(name)
    q, k, v, *states = inputs
    o, last = by_definition(name, q, k, v, states)
    torch_o, torch_last, grads = gradients(name, inputs, weights)
    for ours, theirs in zip((o, *last), (torch_o, *torch_last)):
        assert difference(theirs, ours) <= 1e-12, (name, difference(theirs, ours))
    check_gradients(name, inputs, weights, grads)
    assert all(np.isfinite(x).all() for x in (o, *last, *grads)), name
    tensors = dict(zip(("q", "k", "v"), inputs), o=o, w_o=weights[0], **dict(zip(("dq", "dk", "dv"), grads)))
    for i, (first, final, weight, grad) in enumerate(zip(states, last, weights[1:], grads[3:])):
        tensors |= {f"state_in.{i}": first, f"state_out.{i}": final, f"w_state.{i}": weight, f"dstate_in.{i}": grad}
    metadata = {"structure": name, "gate_divisor": str(DIVISOR), "layer": str(LAYER), "layers": str(LAYERS)}
    write_safetensors(out / f"{name}.safetensors", tensors, metadata)


# --- flash-linear-attention -----------------------------------------------------------------------------------------

def naive_fla():
    """Structures -> their naive forms. fla scales queries by D^-0.5 unless told, and some forms want heads first."""
    from fla.ops.delta_rule.naive import delta_rule_recurrence
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
    from fla.ops.gla.naive import naive_recurrent_gla
    from fla.ops.gsa.naive import naive_recurrent_gsa
    from fla.ops.kda.naive import naive_recurrent_kda
    from fla.ops.linear_attn.naive import naive_recurrent_linear_attn
    from fla.ops.retention.naive import naive_retention
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6
    from fla.ops.simple_gla.naive import naive_recurrent_simple_gla

    def heads_first(*tensors):
        return [x.transpose(1, 2) for x in tensors]

    def gla(q, k, v, g, beta, states):
        return naive_recurrent_gla(q * D**0.5, k, v, g, initial_state=states[0], output_final_state=True)

    def gsa(q, k, v, g, beta, states):
        return naive_recurrent_gsa(q, k, v, -torch.expm1(g), g, 1.0, tuple(states), output_final_state=True)

    def simple_gla(q, k, v, g, beta, states):
        return naive_recurrent_simple_gla(q, k, v, g[..., 0], 1.0, states[0])

    def mlstm(q, k, v, g, beta, states):  # not in fla: a scalar gate over values with a channel of ones
        o, state = simple_gla(q, k, torch.cat([v, torch.ones_like(v[..., :1])], -1), g, beta, states)
        return o[..., :-1] / o[..., -1:].abs().clamp(min=1), state

    def retnet(q, k, v, g, beta, states):  # its own form has its own decays, but no state
        one = [x[:, :, ::GROUP] for x in (q, k, v, g)]
        o, _ = simple_gla(*one, beta, [torch.zeros(B, HKV, D, D)])
        assert difference(naive_retention(*heads_first(one[0] * D**0.5, *one[1:3])).transpose(1, 2), o) <= 1e-5
        return simple_gla(q, k, v, g, beta, states)

    def linear(q, k, v, g, beta, states):
        return naive_recurrent_linear_attn(q, k, v, 1.0, states[0], output_final_state=True)

    def rwkv6(q, k, v, g, beta, states):
        u = torch.ones(q.shape[2], D)
        o, state = naive_recurrent_rwkv6(*heads_first(q, k, v, g), u, 1.0, states[0], output_final_state=True)
        return o.transpose(1, 2), state

    def delta(q, k, v, g, beta, states):
        o, state = delta_rule_recurrence(*heads_first(q * D**0.5, k, v, beta), states[0])
        return o.transpose(1, 2), state

    def gated_delta(q, k, v, g, beta, states):
        return naive_recurrent_gated_delta_rule(q, k, v, beta, g[..., 0], 1.0, states[0], output_final_state=True)

    def kda(q, k, v, g, beta, states):
        return naive_recurrent_kda(q, k, v, g, beta, 1.0, states[0], output_final_state=True)

    return {"gla": gla, "hgrn2": gla, "gsa": gsa, "gated-retention": simple_gla, "mamba2": simple_gla, "mlstm": mlstm,
            "retnet": retnet, "lightning": simple_gla, "linear": linear, "rwkv6": rwkv6, "deltanet": delta,
            "gated-deltanet": gated_delta, "kda": kda}


def compare_with_fla(name, naive):
    """Largest difference of output and final states, relative to the largest value."""
    inputs, _ = random_inputs(name)
    o, last = by_definition(name, inputs[0], inputs[1], inputs[2], inputs[3:])
    q, k, v, *states = (torch.from_numpy(x) for x in inputs)
    g, key = gates(name, k), torch.sigmoid(-k) if name == "hgrn2" else feature(name, k)
    key, v, g, beta = (x.float().repeat_interleave(GROUP, 2) for x in (key, v, g, torch.sigmoid(k.mean(-1))))
    states = [s.float().repeat_interleave(GROUP, 1) for s in states]
    fla_o, fla_last = naive(feature(name, q).float(), key, v, g, beta, states)
    fla_last = fla_last if isinstance(fla_last, tuple) else (fla_last,)
    return max(difference(theirs.numpy(), ours) for theirs, ours in
               zip((fla_o, *(s[:, ::GROUP] for s in fla_last)), (o, *last)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        make(name, out)
    print(f"{len(NAMES)} structures written to {out}")
    try:
        naive = naive_fla()
    except Exception as reason:  # it needs Triton, which fails in its own ways where there is no GPU
        print(f"flash-linear-attention: not compared ({reason})")
        return
    for name in NAMES:
        error = compare_with_fla(name, naive[name])
        print(f"  {name:<16} flash-linear-attention's naive form: {error:.1e}")
        if not error <= 1e-5:
            sys.exit(f"{name} differs from flash-linear-attention")


if __name__ == "__main__":
    main()
