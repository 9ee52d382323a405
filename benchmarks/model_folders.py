"""Folders of models with random weights, for benchmarks that start the tools. Standard library only."""
import json
import math
import os
import struct

VOCABULARY = 32000
# The shapes of stories15M and stories110M.
MODELS = {
    "15M": dict(vocab_size=VOCABULARY, hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6),
    "110M": dict(vocab_size=VOCABULARY, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
                 num_attention_heads=12),
}
BYTES = {"float32": 4, "bfloat16": 2}
NAMES = {"float32": "F32", "bfloat16": "BF16"}  # in a safetensors file


def tensor_shapes(config):
    """Name and shape of every tensor of a Llama with tied embeddings and as many key heads as query heads."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    yield "model.embed_tokens.weight", [config["vocab_size"], hidden]
    for i in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        for name in ("q", "k", "v", "o"):
            yield f"{prefix}self_attn.{name}_proj.weight", [hidden, hidden]
        yield prefix + "mlp.gate_proj.weight", [intermediate, hidden]
        yield prefix + "mlp.up_proj.weight", [intermediate, hidden]
        yield prefix + "mlp.down_proj.weight", [hidden, intermediate]
        yield prefix + "input_layernorm.weight", [hidden]
        yield prefix + "post_attention_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]


def random_block(dtype, numbers):
    """Magnitudes of 1/128 to 1/8 with random mantissas and signs: nothing a disk or file system could compress well."""
    size = BYTES[dtype]
    block = bytearray(os.urandom(numbers * size))
    table = bytes((0x3c, 0x3d, 0xbc, 0xbd)[i % 4] for i in range(256))
    block[size - 1::size] = bytes(block[size - 1::size]).translate(table)
    return bytes(block)


def size_of(shape, dtype):
    return BYTES[dtype] * math.prod(shape)


def write_safetensors(path, tensors, dtype, block):
    """The numbers are `block` over and over: for what is measured here only their amount counts."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in sorted(tensors):
        end = offset + size_of(shape, dtype)
        header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for left in range(offset, 0, -len(block)):
            f.write(block[:min(left, len(block))])
        f.flush()
        os.fsync(f.fileno())


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
    os.makedirs(folder)
    config = dict(MODELS[model], architectures=["LlamaForCausalLM"], model_type="llama",
                  num_key_value_heads=MODELS[model]["num_attention_heads"], max_position_embeddings=65536, rms_norm_eps=1e-6,
                  hidden_act="silu", tie_word_embeddings=True, torch_dtype=dtype, bos_token_id=0, eos_token_id=1)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    write_tokenizer(folder)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensor_shapes(config), dtype,
                      random_block(dtype, 1 << 20))
