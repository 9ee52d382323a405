#!/usr/bin/env python3
"""Sliding-window attention in PyTorch, fp32: T = 2048 tokens, each sees the last 64 keys, itself included.

    python benchmarks/compare/window_torch.py [--json] [--threads N]

  masked   scaled_dot_product_attention over all keys with a boolean band mask: what a model calls, T^2 work
  blocked  the same function over blocks of 64 queries and the 128 keys they can see: as fast as it gets in PyTorch
q, k, v [B, T, H, D] = (1, 2048, 8, 64); the masks are made beforehand; forward alone and with backward, by autograd.
"""
import common

SHAPE, WINDOW = (1, 2048, 8, 64), 64


def main():
    args = common.parser(__doc__).parse_args()
    common.need(args, "torch")
    common.prepare(args)
    import torch
    from torch.nn.functional import pad, scaled_dot_product_attention as attention
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    B, T, H, D = SHAPE
    q, k, v, grad_o = (torch.randn(SHAPE) for _ in range(4))

    distance = torch.arange(T)[:, None] - torch.arange(T)
    band = (distance >= 0) & (distance < WINDOW)
    offset = torch.arange(WINDOW)[:, None] + WINDOW - torch.arange(2 * WINDOW)
    blocks = ((offset >= 0) & (offset < WINDOW)).expand(T // WINDOW, 1, WINDOW, 2 * WINDOW).clone()
    blocks[0, ..., :WINDOW] = False  # nothing before the first token

    def masked(q, k, v):
        return attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=band).transpose(1, 2)

    def blocked(q, k, v):  # B is 1: blocks take its place
        q = q.view(-1, WINDOW, H, D).transpose(1, 2)
        k, v = (pad(x, (0, 0, 0, 0, WINDOW, 0)).view(-1, WINDOW, H, D) for x in (k, v))
        k, v = (torch.cat([x[:-1], x[1:]], 1).transpose(1, 2) for x in (k, v))
        return attention(q, k, v, attn_mask=blocks).transpose(1, 2).reshape(SHAPE)

    def backward(form):
        for x in (q, k, v):
            x.requires_grad_(True).grad = None
        form(q, k, v).backward(grad_o)

    assert torch.allclose(masked(q, k, v), blocked(q, k, v), atol=1e-5)
    items = []
    for form in (masked, blocked):
        with torch.no_grad():
            forward = common.median_ms(lambda: form(q, k, v))
        items.append({"form": form.__name__, "shape": SHAPE, "window": WINDOW, "forward_ms": forward,
                      "forward_backward_ms": common.median_ms(lambda: backward(form))})
    common.report(args, {"library": f"torch {torch.__version__}", "threads": args.threads, "items": items},
                  lambda i: f"{i['form']:<8} forward {i['forward_ms']:8.2f} ms, "
                            f"with backward {i['forward_backward_ms']:8.2f} ms")


if __name__ == "__main__":
    main()
