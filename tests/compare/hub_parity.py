#!/usr/bin/env python3
"""Downloads of liger and of huggingface_hub from one server on this machine: each must find what the other fetched.

    python tests/compare/hub_parity.py [--bin build/bin] [--keep DIR]

A small random Llama in three shards, served as the hub serves it (listing in pages, redirects to a second port, ranges):
  1. liger-convert --download; then, with HF_HUB_OFFLINE=1, huggingface_hub and transformers find it and compute the
     same logits, and the cache scan of huggingface_hub has nothing to say
  2. huggingface_hub downloads; the files of both caches are the same, links and all, and liger-eval finds it offline
  3. a download of huggingface_hub that lost a file, finished by liger, and the other way round
  4. a cache whose blobs are shared between models, as huggingface_hub 2 lays it out
  5. under strace: no tool opens a socket of the internet without --download, nor with it for a model that is here
Exit code 1 if anything differs. Without the packages it says so and ends with 0; without strace it leaves 5 out.
"""
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse

from parity import ROPE, SHAPE, run, write_model  # says what is missing

from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "org/model"


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


class Hub:
    """The files of a folder, as the hub has them; the large ones on a server of their own."""

    def __init__(self, folder):
        self.files = {}
        for path in sorted(folder.iterdir()):
            content, large = path.read_bytes(), path.suffix == ".safetensors"
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.files[path.name] = content, large, hashlib.sha256(content).hexdigest() if large else git
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def answer_json(self, value, **headers):
                self.answer(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

            def answer_file(self, content, **headers):
                match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                if match:
                    first = int(match[1])
                    self.answer(206, content[first:], Accept_Ranges="bytes",
                                Content_Range=f"bytes {first}-{len(content) - 1}/{len(content)}", **headers)
                else:
                    self.answer(200, content, Accept_Ranges="bytes", **headers)

        class Cdn(Handler):
            def do_GET(self):
                assert "Authorization" not in self.headers, "the token left the hub"
                name = urllib.parse.urlparse(self.path).path.rsplit("/", 1)[1]
                self.answer_file(hub.files[name][0], ETag=f'"cdn-{name}"')
            do_HEAD = do_GET

        class Api(Handler):
            def do_GET(self):
                url = urllib.parse.urlparse(self.path)
                if url.path in (f"/api/models/{REPOSITORY}", f"/api/models/{REPOSITORY}/revision/main"):
                    return self.answer_json({"id": REPOSITORY, "sha": COMMIT, "private": False, "tags": [],
                                             "siblings": [{"rfilename": name} for name in hub.files]})
                if url.path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
                    return self.tree(urllib.parse.parse_qs(url.query))
                match = re.fullmatch(rf"/{REPOSITORY}/resolve/(main|{COMMIT})/(.*)", url.path)
                if not match or match[2] not in hub.files:
                    return self.answer(404, X_Error_Code="EntryNotFound" if match else "RepoNotFound",
                                       X_Repo_Commit=COMMIT)
                content, large, digest = hub.files[match[2]]
                if not large:
                    return self.answer_file(content, ETag=f'"{digest}"', X_Repo_Commit=COMMIT)
                self.answer(302, b"Found", Location=f"{hub.cdn}/{match[2]}?Signature=x", X_Repo_Commit=COMMIT,
                            X_Linked_ETag=f'"{digest}"', X_Linked_Size=len(content))
            do_HEAD = do_GET

            def tree(self, query, page=4):
                first = int(query.get("cursor", ["0"])[0])
                entries = []
                for name, (content, large, digest) in list(hub.files.items())[first:first + page]:
                    git = hashlib.sha1(name.encode()).hexdigest() if large else digest
                    entry = {"type": "file", "path": name, "size": len(content), "oid": git}
                    if large:
                        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
                    entries.append(entry)
                more = first + page < len(hub.files)
                url = f"{hub.endpoint}/api/models/{REPOSITORY}/tree/{COMMIT}?recursive=true&cursor={first + page}"
                self.answer_json(entries, **({"Link": f'<{url}>; rel="next"'} if more else {}))

        self.endpoint, self.cdn = serve(Api), serve(Cdn)


def environment(home, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", **more}


def command(words, env):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def python(code, env):
    return command([sys.executable, "-c", code], env)


OPEN = """
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from huggingface_hub import scan_cache_dir, snapshot_download
print(snapshot_download("org/model", local_files_only=True))
warnings = scan_cache_dir().warnings
assert not warnings, warnings
assert len(AutoTokenizer.from_pretrained("org/model")("the river").input_ids) > 1
model = AutoModelForCausalLM.from_pretrained("org/model", dtype=torch.float32).eval()
with torch.no_grad():
    save_file({{"logits": model(load_file("{ids}")["input_ids"]).logits}}, "{out}")
"""
DOWNLOAD = 'from huggingface_hub import snapshot_download; print(snapshot_download("org/model"))'


def listing(home):
    """What is at every path of the model's folder: the link, or the hash of the file."""
    found = {}
    root = home / "hub" / "models--org--model"
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir() or name.startswith(("trees/", ".no_exist/")):  # what only huggingface_hub keeps
            continue
        found[name] = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class Parity:
    def __init__(self, check):
        self.check = check
        made = write_model(lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=ROPE)), check.folder / "one")
        self.original = check.folder / "original"
        made.save_pretrained(self.original, max_shard_size="400KB")
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(check.folder / "one" / file, self.original)
        (self.original / "README.md").write_text("---\nlicense: mit\n---\n")
        self.logits = check.theirs(made)
        self.hub = Hub(self.original)

    def expect(self, what, holds):
        self.check.failed |= not holds
        print(f"  {what:<68} {'yes' if holds else 'NO'}")

    def tool(self, name, home, *words, **more):
        return command([self.check.bin / name, "--model", REPOSITORY, *words, "--quiet"],
                       environment(home, HF_ENDPOINT=self.hub.endpoint, **more))

    def fetch(self, home):
        self.tool("liger-convert", home, "--download", "--arch", "gla", "--dry-run", HF_TOKEN="hf_x")

    def fetch_theirs(self, home):
        python(DOWNLOAD, environment(home, HF_ENDPOINT=self.hub.endpoint, HF_TOKEN="hf_x"))

    def opens_here(self, what, home):
        out = self.check.folder / "ours.safetensors"
        self.tool("liger-eval", home, "--input-ids", self.check.folder / "ids.safetensors", "--logits", out)
        self.check.equal(what, load_file(out)["logits"], self.logits)

    def opens_there(self, what, home):
        out = self.check.folder / "theirs.safetensors"
        python(OPEN.format(ids=self.check.folder / "ids.safetensors", out=out), environment(home, HF_HUB_OFFLINE="1"))
        self.check.equal(what, load_file(out)["logits"], self.logits)

    def lose(self, home, kind):
        """One weight file, its link or the whole ref, as an interrupted download leaves it."""
        link = next((home / "hub/models--org--model/snapshots" / COMMIT).glob("*-of-*.safetensors"))
        if kind == "blob":
            (link.parent / os.readlink(link)).unlink()
        link.unlink()

    def share(self, home):
        hub = home / "hub"
        for blob in list((hub / "models--org--model/blobs").iterdir()):
            if len(blob.name) != 64:
                continue
            name = hashlib.sha256(blob.name.encode()).hexdigest()
            store = hub / "blobs" / name[:2]
            store.mkdir(parents=True, exist_ok=True)
            blob.rename(store / name)
            blob.symlink_to(f"../../blobs/{name[:2]}/{name}")


def opens_sockets(words, env, log, expected=(0, 3)):  # 3: random weights name a token that the tokenizer lacks
    done = subprocess.run(["strace", "-f", "-o", log, "-e", "trace=socket,connect", *map(str, words)], env=env,
                          capture_output=True, text=True)
    if done.returncode not in expected:
        sys.exit(f"{' '.join(map(str, words))}\nexit code {done.returncode}, expected {expected}\n{done.stderr}")
    return any("AF_INET" in line for line in open(log))


def sockets(parity, cached, empty):
    check, log = parity.check, parity.check.folder / "strace"
    config = check.folder / "run.yaml"
    (check.folder / "train.jsonl").write_text('{"text": "the river runs"}\n' * 8)
    config.write_text(json.dumps({"model": {"path": REPOSITORY}, "lora": {"r": 2}, "data": {
        "train": str(check.folder / "train.jsonl"), "val_size": 0, "format": "text", "max_length": 16},
        "train": {"max_steps": 1, "batch_size": 2, "micro_batch_size": 2, "scheduler": "constant"},
        "save": {"dir": str(check.folder / "run")}}))
    model = ["--model", REPOSITORY]
    tools = {"liger-convert": [*model, "--arch", "gla", "--dry-run"],
             "liger-generate": [*model, "--prompt", "the", "--max-tokens", "2"],
             "liger-eval": [*model, "--input-ids", check.folder / "ids.safetensors", "--logits", check.folder / "x"],
             "liger-finetune": [config, "--dry-run=step"]}
    for tool, words in tools.items():
        for home in (cached, empty):
            env = environment(home, HF_ENDPOINT=parity.hub.endpoint)
            seen = opens_sockets([check.bin / tool, *words], env, log, (0, 3) if home == cached else (2,))
            parity.expect(f"{tool}, {'cached' if home == cached else 'not here'}: no socket", not seen)
        env = environment(cached, HF_ENDPOINT=parity.hub.endpoint)
        parity.expect(f"{tool} --download, cached: no socket",
                      not opens_sockets([check.bin / tool, *words, "--download"], env, log))
    env = environment(empty, HF_ENDPOINT=parity.hub.endpoint)
    words = [check.bin / "liger-convert", *tools["liger-convert"], "--download"]
    parity.expect("liger-convert --download, not here: sockets, which strace sees", opens_sockets(words, env, log))


def compare(check, _):
    parity = Parity(check)
    ours, theirs = check.folder / "ours", check.folder / "theirs"
    print("what liger fetched")
    parity.fetch(ours)
    parity.opens_there("transformers, offline", ours)
    parity.opens_here("liger-eval", ours)
    print("what huggingface_hub fetched")
    parity.fetch_theirs(theirs)
    parity.expect("the same files, links and refs", listing(ours) == listing(theirs))
    parity.opens_here("liger-eval", theirs)
    print("what one left unfinished and the other finished")
    for kind in ("link", "blob"):
        parity.lose(theirs, kind)
        parity.fetch(theirs)
        parity.opens_there(f"huggingface_hub lost a {kind}, liger fetched it", theirs)
        parity.lose(ours, kind)
        parity.fetch_theirs(ours)
        parity.opens_here(f"liger lost a {kind}, huggingface_hub fetched it", ours)
    print("blobs that models share")
    parity.share(theirs)
    parity.opens_here("liger-eval", theirs)
    print("sockets")
    if shutil.which("strace") and not subprocess.run(["strace", "true"], capture_output=True).returncode:
        sockets(parity, ours, check.folder / "empty")
    else:
        print("  skipped: no strace here")


if __name__ == "__main__":
    run(__doc__, compare)
