#!/usr/bin/env python3
"""Greedy decoding with llama.cpp through llama-cpp-python's low-level calls, on the weights of decode_transformers.py.

    python benchmarks/compare/decode_llamacpp.py [--json] [--threads N] [--folder DIR]

DIR is what decode_transformers.py --save wrote; without it the models are made in a temporary folder, which needs
transformers. The GGUF (bf16, a vocabulary of made-up tokens) goes to a temporary folder in any case, by the gguf
package. Same contexts, prompt, segments and greedy choice as decode_transformers.py.
"""
import ctypes
import json
import pathlib
import subprocess
import sys
import tempfile

import common
import decode_transformers as peer


def read_bf16(path):
    """A safetensors file of bf16 tensors -> {name: float32 array}."""
    import numpy as np
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16", name
            begin, end = entry["data_offsets"]
            bits = np.frombuffer(data[start + begin:start + end], np.uint16).astype(np.uint32) << 16
            yield name, bits.view(np.float32).reshape(entry["shape"])


def for_ggml_rope(weight, heads):
    """Hugging Face rotates channel i with i + D/2, llama.cpp's llama i with i + 1: its rows alternate the halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(folder, path):
    import gguf
    import numpy as np
    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(kv_heads)
    out.add_rope_dimension_count(config["hidden_size"] // heads)
    out.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_vocab_size(config["vocab_size"])
    out.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)

    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]  # llama.cpp wants the bytes
    types = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256
    made_up = config["vocab_size"] - len(tokens)
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens + [f"t{i}" for i in range(made_up)])
    out.add_token_types(types + [gguf.TokenType.NORMAL] * made_up)
    out.add_token_scores([0.0] * config["vocab_size"])

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in read_bf16(folder / "model.safetensors"):
        if name.endswith("q_proj.weight"):
            weight = for_ggml_rope(weight, heads)
        elif name.endswith("k_proj.weight"):
            weight = for_ggml_rope(weight, kv_heads)
        name = names.get_name(name, try_suffixes=(".weight",))
        if weight.ndim == 1:  # norms are float32 there
            out.add_tensor(name, np.ascontiguousarray(weight))
        else:
            bf16 = gguf.GGMLQuantizationType.BF16
            out.add_tensor(name, gguf.quantize(np.ascontiguousarray(weight), bf16), raw_dtype=bf16)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


class Model:
    def __init__(self, path, threads):
        import llama_cpp as c
        self.c = c
        self.silent = c.llama_log_callback(lambda level, text, data: None)  # kept, as C calls it later
        c.llama_log_set(self.silent, ctypes.c_void_p(0))
        self.model = c.llama_model_load_from_file(str(path).encode(), c.llama_model_default_params())
        assert self.model, path
        params = c.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 8192, 512, threads, threads
        self.context = c.llama_init_from_model(self.model, params)
        assert self.context
        self.length = 0

    def decode(self, ids):
        """Reads the tokens and returns the most likely next one."""
        import numpy as np
        c = self.c
        for i in range(0, len(ids), 512):
            piece = ids[i:i + 512]
            array = (c.llama_token * len(piece))(*piece)
            if c.llama_decode(self.context, c.llama_batch_get_one(array, len(piece))):
                sys.exit("llama_decode failed")
        self.length += len(ids)
        logits = c.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(peer.VOCABULARY,)).argmax())

    def back_to(self, length):
        memory = self.c.llama_get_memory(self.context)
        self.c.llama_memory_seq_rm(memory, 0, length, -1)
        self.length = length


def measure(model, context, args):
    model.back_to(0)
    first = model.decode(peer.prompt(context))

    def segment():
        token = first
        for _ in range(args.tokens):
            token = model.decode([token])
        model.back_to(context)

    return peer.tokens_per_second(segment, args)


def main():
    p = common.parser(__doc__)
    peer.add_options(p)
    p.add_argument("--folder", type=pathlib.Path)
    args = p.parse_args()
    common.need(args, "llama_cpp", "gguf", "numpy", *([] if args.folder else ["torch", "transformers"]))
    common.prepare(args)
    import llama_cpp
    items = []
    with tempfile.TemporaryDirectory(prefix="liger-gguf-") as scratch:
        scratch = pathlib.Path(scratch)
        if not args.folder:  # in a child: torch's threads stay out of this process
            script = pathlib.Path(peer.__file__)
            subprocess.run([sys.executable, script, "--save", scratch, "--model", *args.model], check=True)
        for name in args.model:
            path = scratch / f"{name}.gguf"
            write_gguf((args.folder or scratch) / name, path)
            model = Model(path, args.threads)
            items += [{"model": name, "dtype": "bfloat16", "context": context,
                       "tokens_per_second": measure(model, context, args)} for context in args.context]
    common.report(args, {"library": f"llama-cpp-python {llama_cpp.__version__}", "threads": args.threads,
                         "items": items},
                  lambda i: f"{i['model']:<12} {i['dtype']:<9} context {i['context']:5} "
                            f"{i['tokens_per_second']:8.1f} tokens/s")


if __name__ == "__main__":
    main()
