"""What the comparisons with transformers and PEFT share: small random models, running the tools, comparing logits."""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import torch
    import peft  # noqa: F401: without it nothing can be compared
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, GPTNeoXConfig
    from transformers.utils import logging
except ImportError as e:
    print(f"skipped: the package {e.name} is not installed")
    sys.exit(0)
logging.disable_progress_bar()

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests" / "data" / "tokenizers" / "llama3"
TOLERANCE = 1e-5
SHAPE = dict(vocab_size=1024, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=None,
             initializer_range=0.15)
ROPE = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64)
# GPT-NeoX has no key/value heads of its own, and names of its own for linear modules.
NEOX_SHAPE = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
NEOX_NAMES = {"q_proj": "query_key_value", "k_proj": "query_key_value", "v_proj": "query_key_value", "o_proj": "dense",
              "up_proj": "dense_h_to_4h", "down_proj": "dense_4h_to_h"}


class Check:
    def __init__(self, bin, folder):
        self.bin, self.folder, self.failed = bin, folder, False
        torch.manual_seed(0)
        self.ids = torch.randint(2, SHAPE["vocab_size"], (2, 130))
        save_file({"input_ids": self.ids}, folder / "ids.safetensors")

    def tool(self, name, *arguments):
        command = [str(self.bin / name), *map(str, arguments), "--quiet"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{' '.join(command)}\nexit code {run.returncode}\n{run.stderr}")

    def ours(self, model, *options):
        out = self.folder / "logits.safetensors"
        self.tool("liger-eval", "--model", model, *options, "--input-ids", self.folder / "ids.safetensors", "--logits", out)
        return load_file(out)["logits"]

    def theirs(self, model):
        with torch.no_grad():
            return model.eval()(self.ids).logits

    def equal(self, what, a, b):
        error = ((a - b).abs().max() / b.abs().max()).item()
        self.compared(what, error, not error <= TOLERANCE)

    def compared(self, what, error, bad):
        self.failed |= bad
        print(f"  {what:<68} {error:.1e}{'  DIFFERENT' if bad else ''}")


def open_in_transformers(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                       output_loading_info=True)
    wrong = {key: list(value) for key, value in info.items() if value}
    if wrong:
        sys.exit(f"transformers opened {folder}, but: {wrong}")
    return model


def names_in(model, names):
    """Names of a Llama's linear modules as they are in this model, each once."""
    neox = isinstance(model.config, GPTNeoXConfig)
    return list(dict.fromkeys(NEOX_NAMES.get(name, name) if neox else name for name in names))


def write_model(make, folder, disturb=lambda name, parameter: None):
    """A random model with the test data's tokenizer; `disturb` may change each parameter."""
    torch.manual_seed(0)
    made = make().float()
    made.set_attn_implementation("eager")  # the only one that knows softcaps
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            disturb(name, parameter)
    made.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, folder)
    return made


def run(description, compare, **options):
    """compare(check, arguments) with a folder that is removed afterwards; ends with 1 if anything differed."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build" / "bin")
    parser.add_argument("--keep", type=pathlib.Path, help="empty folder for the files, to look at them afterwards")
    for name, help in options.items():
        parser.add_argument(f"--{name}", type=pathlib.Path, help=help)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="liger-parity-") as scratch:
        check = Check(args.bin, args.keep or pathlib.Path(scratch))
        compare(check, args)
    sys.exit(check.failed)
