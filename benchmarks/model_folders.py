"""Folders of models in the shapes of stories15M and stories110M with random weights, for benchmarks that start the tools.
Standard library only."""
import json
import os
import struct

VOCABULARY = 32000
MODELS = {
    "15M": dict(hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6),
    "110M": dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12),
}
BYTES = {"float32": 4, "bfloat16": 2}
PIECE = 1 << 20  # numbers


def tensor_shapes(shape):
    hidden, intermediate = shape["hidden_size"], shape["intermediate_size"]
    yield "model.embed_tokens.weight", [VOCABULARY, hidden]
    for i in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        for name in ("q", "k", "v", "o"):
            yield f"{prefix}self_attn.{name}_proj.weight", [hidden, hidden]
        yield prefix + "mlp.gate_proj.weight", [intermediate, hidden]
        yield prefix + "mlp.up_proj.weight", [intermediate, hidden]
        yield prefix + "mlp.down_proj.weight", [hidden, intermediate]
        yield prefix + "input_layernorm.weight", [hidden]
        yield prefix + "post_attention_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]


def random_numbers(dtype):
    """Magnitudes of 1/128 to 1/32 with random mantissas and signs, the same for every tensor: only sizes count here."""
    size = BYTES[dtype]
    block = bytearray(os.urandom(PIECE * size))
    block[size - 1::size] = bytes(block[size - 1::size]).translate(bytes((0x3c, 0xbc)[i % 2] for i in range(256)))
    return bytes(block)


def write_weights(path, shape, dtype):
    header, offset, tensors = {}, 0, sorted(tensor_shapes(shape))
    for name, sizes in tensors:
        bytes_ = BYTES[dtype] * sizes[0] * (sizes[1] if len(sizes) > 1 else 1)
        header[name] = {"dtype": {"float32": "F32", "bfloat16": "BF16"}[dtype], "shape": sizes,
                        "data_offsets": [offset, offset + bytes_]}
        offset += bytes_
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    block = random_numbers(dtype)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for left in range(offset, 0, -len(block)):
            f.write(block[:min(left, len(block))])


def write_tokenizer(folder):
    """A byte-level BPE without a merge: id = byte + 2."""
    vocab, next_code = {"<s>": 0, "</s>": 1}, 256
    for byte in range(256):
        visible = 33 <= byte <= 126 or byte >= 161 and byte != 173
        vocab[chr(byte if visible else next_code)] = byte + 2
        next_code += not visible
    special = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer = dict(version="1.0", truncation=None, padding=None, normalizer=None, post_processor=None,
                     added_tokens=[dict(id=i, content=c, **special) for i, c in enumerate(("<s>", "</s>"))],
                     pre_tokenizer=byte_level, decoder=byte_level,
                     model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None,
                                end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, ignore_merges=False,
                                vocab=vocab, merges=[]))
    with open(os.path.join(folder, "tokenizer.json"), "w") as f:
        json.dump(tokenizer, f)
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"bos_token": "<s>", "eos_token": "</s>"}, f)


def make_model(folder, model, dtype):
    shape = MODELS[model]
    os.makedirs(folder)
    config = dict(shape, architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=VOCABULARY,
                  num_key_value_heads=shape["num_attention_heads"], max_position_embeddings=65536, rms_norm_eps=1e-6,
                  hidden_act="silu", tie_word_embeddings=True, torch_dtype=dtype, bos_token_id=0, eos_token_id=1)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    write_tokenizer(folder)
    write_weights(os.path.join(folder, "model.safetensors"), shape, dtype)
