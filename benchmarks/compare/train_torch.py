#!/usr/bin/env python3
"""One update of LoRA fine-tuning (r 8 on q, k, v; AdamW) with transformers and PEFT.

    python benchmarks/compare/train_torch.py [--json] [--threads N] [--model 15M|110M] [--dtype float32|bfloat16]
                                             [--rows R] [--length T] [--learned PERCENT] [--form peft|liger]

  peft   softmax attention as transformers has it (SDPA)
  liger  the same model with each attention replaced by Liger-GLA in plain PyTorch: chunked scan in float32, the window of
         65 keys as SDPA over blocks, half of each
Random weights in the shapes of stories15M and stories110M. Milliseconds are the median of the updates after the first,
memory is the whole process's peak. --learned 50: the first half of each row is prompt, labelled -100.
"""
import resource
import statistics
import time

import common

MODELS = {
    "15M": dict(hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6),
    "110M": dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12),
}
VOCABULARY, WINDOW, CHUNK = 32000, 65, 32


def liger_attention(torch, config):
    """forward(self, hidden_states, position_embeddings, ...) in the place of LlamaAttention's."""
    from torch.nn.functional import logsigmoid, pad, scaled_dot_product_attention
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
    import scan_torch
    scan_torch.torch = torch
    block = 64
    distance = torch.arange(block)[:, None] + 2 * block - torch.arange(3 * block)
    seen = (distance >= 0) & (distance < WINDOW)

    def window(q, k, v):  # [B, H, T, D]: blocks of queries, each with the two blocks of keys before it
        B, H, T, D = q.shape
        N = T // block
        mask = seen.expand(B, N, 1, block, 3 * block).clone()
        mask[:, 0, ..., :2 * block] = False
        mask[:, 1:2, ..., :block] = False
        def spans(x):
            x = pad(x, (0, 0, 2 * block, 0)).view(B, H, N + 2, block, D)
            return torch.cat([x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]], 3).transpose(1, 2).flatten(0, 1)
        o = scaled_dot_product_attention(q.view(B, H, N, block, D).transpose(1, 2).flatten(0, 1), spans(k), spans(v),
                                         attn_mask=mask.flatten(0, 1))
        return o.view(B, N, H, block, D).transpose(1, 2).reshape(B, H, T, D)

    def forward(self, hidden_states, position_embeddings=None, **_):
        B, T, _ = hidden_states.shape
        q, k, v = (f(hidden_states).view(B, T, -1, config.hidden_size // config.num_attention_heads)
                   for f in (self.q_proj, self.k_proj, self.v_proj))
        wide = [x.float() for x in (q, k, v)]
        linear = scan_torch.all_at_once(wide[0].softmax(-1), wide[1].softmax(-1), wide[2],
                                        logsigmoid(wide[1]) / 16, CHUNK)
        heads = [x.transpose(1, 2) for x in (q, k, v)]
        heads[:2] = apply_rotary_pos_emb(*heads[:2], *position_embeddings)
        o = 0.5 * window(*heads).transpose(1, 2) + 0.5 * linear.to(v.dtype)
        return self.o_proj(o.reshape(B, T, -1)), None
    return forward


def main():
    p = common.parser(__doc__)
    p.add_argument("--model", choices=MODELS, default="15M")
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--rows", type=int, default=4)
    p.add_argument("--length", type=int, default=256)
    p.add_argument("--learned", type=int, default=100)
    p.add_argument("--form", choices=["peft", "liger"], default="peft")
    p.add_argument("--updates", type=int, default=5)
    args = p.parse_args()
    common.need(args, "torch", "transformers", "peft")
    common.prepare(args, keep_memory=True)
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = LlamaConfig(**MODELS[args.model], vocab_size=VOCABULARY, max_position_embeddings=8192, tie_word_embeddings=True,
                         rms_norm_eps=1e-6)
    model = LlamaForCausalLM(config).to(getattr(torch, args.dtype))
    if args.form == "liger":
        type(model.model.layers[0].self_attn).forward = liger_attention(torch, config)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj"]))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    ids = torch.randint(VOCABULARY, (args.rows, args.length))
    labels = ids.clone()
    labels[:, :args.length - (args.length - 1) * args.learned // 100] = -100

    def update():
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    model.train()
    times = []
    for _ in range(args.updates):
        start = time.perf_counter()
        update()
        times.append((time.perf_counter() - start) * 1e3)
    ms = statistics.median(times[1:])
    common.report(args, {"library": f"torch {torch.__version__}", "threads": args.threads, "items": [
        {"form": args.form, "model": args.model, "dtype": args.dtype, "rows": args.rows, "length": args.length,
         "learned": args.learned, "ms": ms, "tokens_per_second": args.rows * args.length / ms * 1e3,
         "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}]},
        lambda i: f"{i['form']:<6} {i['model']} {i['dtype']} {i['rows']} x {i['length']}, {i['learned']} % learned: "
                  f"{i['ms']:9.1f} ms, {i['tokens_per_second']:7.0f} tokens/s, {i['mb']:6.0f} MB")


if __name__ == "__main__":
    main()
