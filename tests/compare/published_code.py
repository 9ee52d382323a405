#!/usr/bin/env python3
"""Opens folders with the published Liger code, or the transformers and PEFT it was written for, and keeps the logits.

    PYTHON tests/compare/published_code.py JOBS.json    # interop.py writes that file and starts this

PYTHON has transformers 4.47, einops, torch and PEFT. Two things that the published code calls need a GPU: the
recurrences of flash-linear-attention, and flash attention. Here they are plain torch, written from the formulas. The
code also rounds what goes into o_proj to bfloat16, whatever the model's type; here it does not, so that float32 can be
compared.
Prints a JSON list: for each job what from_pretrained missed or had too much of, or the error.
"""
import json
import os
import sys
import types

os.environ["HF_HUB_OFFLINE"] = "1"
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def gated_linear_attention(q, k, v, g, scale=1, initial_state=None, output_final_state=False):
    """S = exp(g) S + k v^T, o = q S; all [batch, head, token, channel]."""
    state = q.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
    out = []
    for t in range(q.shape[2]):
        state = g[:, :, t].exp().unsqueeze(-1) * state + k[:, :, t].unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        out.append(scale * (q[:, :, t].unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(out, 2), state


def gated_slot_attention(q, k, v, s, g, scale=1, initial_state=None, output_final_state=False):
    """Slots of keys and of values, both with the same gates; a query chooses among slots by a softmax."""
    slots = s.shape[-1]
    keys, values = q.new_zeros(*k.shape[:2], k.shape[-1], slots), q.new_zeros(*v.shape[:2], slots, v.shape[-1])
    out = []
    for t in range(q.shape[2]):
        kept, taken = g[:, :, t].exp(), s[:, :, t]
        keys = keys * kept.unsqueeze(-2) + k[:, :, t].unsqueeze(-1) * taken.unsqueeze(-2)
        values = values * kept.unsqueeze(-1) + taken.unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        choice = torch.softmax(scale * q[:, :, t].unsqueeze(-2) @ keys, dim=-1)
        out.append((choice @ values).squeeze(-2))
    return torch.stack(out, 2), (keys, values)


def window_attention(q, k, v, mask, length, sliding_window=None, **_):
    """What flash attention does for these arguments: [batch, token, head, channel], so many keys before one's own."""
    assert mask is None, "no padding here"
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    tokens = torch.arange(length)
    distance = tokens[:, None] - tokens[None, :]
    seen = (distance >= 0) & (distance <= sliding_window)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return (torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1) @ v).transpose(1, 2)


def module(name, **contents):
    made = types.ModuleType(name)
    vars(made).update(contents)
    sys.modules[name] = made


def import_published(folder):
    for name in ("fla", "fla.ops", "fla.models", "fla.modules"):
        module(name, __path__=[])

    def unused(*_, **__):
        raise RuntimeError("the published code called what was not expected")

    module("fla.models.utils", Cache=type("Cache", (), {}))
    module("fla.modules.activations", swish=unused)
    module("fla.ops.gla", chunk_gla=unused, fused_chunk_gla=gated_linear_attention, fused_recurrent_gla=unused)
    module("fla.ops.gsa", chunk_gsa=gated_slot_attention, fused_recurrent_gsa=unused)
    sys.path.insert(0, folder)
    import liger  # noqa: F401: registers its models
    for name, imported in list(sys.modules.items()):
        if name.startswith("liger.") and ".modeling_" in name:
            imported._flash_attention_forward = window_attention
    torch.Tensor.bfloat16 = lambda self: self


def make_adapter(model, folder):
    torch.manual_seed(1)
    config = peft.LoraConfig(r=5, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "o_proj", "down_proj"])
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:  # zero, which would hide everything
                parameter.normal_(std=0.1)
    adapted.save_pretrained(folder)
    return adapted


def run(job):
    model, info = AutoModelForCausalLM.from_pretrained(job["model"], torch_dtype=torch.float32,
                                                       attn_implementation=job.get("attention", "eager"),
                                                       output_loading_info=True)
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    if wrong:
        return {"error": str(wrong)}
    published = type(model).__module__.startswith("liger.")
    if published != job["published"]:
        return {"error": f"opened by {type(model).__module__}"}
    if job.get("adapter"):
        model = peft.PeftModel.from_pretrained(model, job["adapter"])
    if job.get("make_adapter"):
        model = make_adapter(model, job["make_adapter"])
    with torch.no_grad():
        logits = model.eval()(load_file(job["ids"])["input_ids"], use_cache=False).logits
    save_file({"logits": logits}, job["out"])
    if job.get("save"):
        model.save_pretrained(job["save"])
    return {"class": type(model).__name__}


def main(path):
    with open(path) as file:
        jobs = json.load(file)
    if jobs["published_code"]:
        import_published(jobs["published_code"])
    results = []
    for job in jobs["jobs"]:
        try:
            results.append(run(job))
        except Exception as e:  # a row of the table says what
            results.append({"error": f"{type(e).__name__}: {e}"})
    print(json.dumps({"transformers": transformers.__version__, "peft": peft.__version__, "results": results}))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(sys.argv[1])
