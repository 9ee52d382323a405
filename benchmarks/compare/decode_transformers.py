#!/usr/bin/env python3
"""Greedy decoding with transformers, batch 1: a bare loop over LlamaForCausalLM with a DynamicCache.

    python benchmarks/compare/decode_transformers.py [--json] [--threads N] [--dtype bfloat16]
    python benchmarks/compare/decode_transformers.py --save DIR

Random weights in the shapes of stories15M and stories110M; the same on every run. --save writes them to DIR/<model>
as Hugging Face folders without tokenizer and measures nothing, so that others can decode the same weights. Tokens per
second are the median over segments that all start at the context's length; the prompt is read before, untimed.
"""
import pathlib
import statistics
import time

import common

MODELS = {
    "stories15M": dict(hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6),
    "stories110M": dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12),
}
VOCABULARY = 32000
CONTEXTS = [128, 4096]


def add_options(parser):
    """Those of every decoding program here."""
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--context", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--tokens", type=int, default=32, help="tokens in a segment")
    parser.add_argument("--segments", type=int, default=5)


def make(name, dtype):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    config = LlamaConfig(**MODELS[name], vocab_size=VOCABULARY, max_position_embeddings=8192, tie_word_embeddings=True,
                         bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-5)
    return LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()


def save(name, dtype, folder):
    make(name, dtype).save_pretrained(folder / name)
    (folder / name / "generation_config.json").unlink(missing_ok=True)


def prompt(length):
    """Ordinary token ids without a pattern, the same for every program."""
    return [3 + (i * 7919 + i * i * 104729) % (VOCABULARY - 3) for i in range(length)]


def tokens_per_second(segment, args):
    """`segment` decodes args.tokens tokens and goes back to where it began. The first one warms up."""
    segment()
    speeds = []
    for _ in range(args.segments):
        start = time.perf_counter()
        segment()
        speeds.append(args.tokens / (time.perf_counter() - start))
    return statistics.median(speeds)


def measure(model, context, args):
    import torch
    from transformers import DynamicCache
    cache = DynamicCache(config=model.config)

    def forward(ids):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1].argmax(-1, keepdim=True)

    def segment():
        ids = first
        for _ in range(args.tokens):
            ids = forward(ids)
        cache.crop(-args.tokens)

    with torch.inference_mode():
        first = forward(torch.tensor([prompt(context)]))
        return tokens_per_second(segment, args)


def main():
    p = common.parser(__doc__)
    add_options(p)
    p.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    p.add_argument("--save", type=pathlib.Path, metavar="DIR", help="write the models and end")
    args = p.parse_args()
    common.need(args, "torch", "transformers")
    common.prepare(args)
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    if args.save:
        for name in args.model:
            save(name, args.dtype, args.save)
        return
    items = []
    for name in args.model:
        model = make(name, args.dtype)
        items += [{"model": name, "dtype": args.dtype, "context": context,
                   "tokens_per_second": measure(model, context, args)} for context in args.context]
    library = f"transformers {transformers.__version__}, torch {torch.__version__}"
    common.report(args, {"library": library, "threads": args.threads, "items": items},
                  lambda i: f"{i['model']:<12} {i['dtype']:<9} context {i['context']:5} "
                            f"{i['tokens_per_second']:8.1f} tokens/s")


if __name__ == "__main__":
    main()
