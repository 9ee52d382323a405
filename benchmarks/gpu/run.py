#!/usr/bin/env python3
"""Builds the CUDA kernels for this machine's GPU, runs their tests, measures them, and writes all results as JSON.

Steps, each with a limit of its own inside that of the whole; one that fails or runs out of time is recorded, and the
rest still runs. The sanitizers come last: what they do not get to costs no figure.
"""
import argparse
import concurrent.futures
import datetime
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TAIL = 12000  # characters of a step's output that the JSON keeps


def stop(reason):
    sys.exit(f"run.sh: {reason}")


def program(name, *folders):
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))
    return pathlib.Path(found) if found else None


def gpu_of_torch():
    """Name and compute capability of the GPU as torch sees it, in a process of its own; or why there is none."""
    script = ("import torch; ok = torch.cuda.is_available(); "
              "print(torch.__version__); print(ok and torch.cuda.get_device_name()); "
              "print(*(torch.cuda.get_device_capability() if ok else ())); "
              "ok or torch.cuda.init()")
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    version, name, capability = (run.stdout.splitlines() + [""] * 3)[:3]
    if not version:
        stop("torch cannot be imported: " + (run.stderr.strip().splitlines() or ["no reason given"])[-1])
    why = (run.stderr.strip().splitlines() or [""])[-1]
    return version, (name if capability else None), capability.split(), why


class Machine:
    """What the build takes from this machine."""

    def __init__(self, args):
        spec = importlib.util.find_spec("torch")
        if spec is None:
            stop(f"{sys.executable} has no torch: LibTorch with CUDA is taken from its wheel")
        self.torch = pathlib.Path(spec.origin).parent
        if not (self.torch / "lib" / "libtorch_cuda.so").exists():
            stop(f"the torch in {self.torch} was built without CUDA")
        home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        self.nvcc = program("nvcc", pathlib.Path(home) / "bin", "/usr/local/cuda/bin")
        if self.nvcc is None:
            stop("no nvcc, neither on the PATH nor in CUDA_HOME nor in /usr/local/cuda")
        for tool in ("cmake", "ninja", "c++"):
            if program(tool) is None:
                stop(f"no {tool} on the PATH")
        toolkit = self.nvcc.resolve().parent
        self.sanitizer = program("compute-sanitizer", toolkit, toolkit.parent / "compute-sanitizer",
                                 "/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")
        self.deps = pathlib.Path(args.deps)
        if not (self.deps / "lib" / "libgtest.a").exists():
            stop(f"{self.deps} does not hold the libraries: run benchmarks/gpu/gather.sh on a Debian machine first")
        self.version, self.gpu, capability, why = gpu_of_torch()
        if self.gpu is None and not args.build_only:
            stop(f"no CUDA device: {why}")
        self.architectures = args.architectures or (self.architecture(*capability) if self.gpu else "90a")

    @staticmethod
    def architecture(major, minor):
        return f"{major}{minor}" + ("a" if major == "9" else "")  # wgmma and its like are of 90a alone

    def describe(self):
        nvcc = subprocess.run([self.nvcc, "--version"], capture_output=True, text=True).stdout.strip().splitlines()
        return {"gpu": self.gpu, "architectures": self.architectures, "torch": self.version,
                "nvcc": nvcc[-1] if nvcc else "", "sanitizer": str(self.sanitizer) if self.sanitizer else None,
                "cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


class Steps:
    """Runs commands under limits, and keeps what became of them in the results file."""

    def __init__(self, out, machine, deadline):
        self.out, self.deadline = out, deadline
        self.results = {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                        "machine": machine.describe(), "steps": [], "benchmarks": None, "fla": None}

    def save(self):
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.results, indent=1) + "\n")

    def left(self):
        return self.deadline - time.monotonic()

    def skip(self, name, reason):
        self.record({"name": name, "status": "skipped", "exit": None, "seconds": 0, "output": reason})

    def record(self, step):
        self.results["steps"].append(step)
        self.save()
        print(f"{step['status']:>9}  {step['seconds']:6.1f} s  {step['name']}", flush=True)
        if step["status"] not in ("ok", "skipped"):
            print(step["output"][-3000:], flush=True)

    def run(self, name, command, limit, environment=None):
        """True if the command returned 0 in time."""
        step = self.finished(name, command, limit, environment)
        self.record(step)
        return step["status"] == "ok"

    def finished(self, name, command, limit, environment=None):
        limit = min(limit, self.left())
        if limit < 1:
            return {"name": name, "status": "skipped", "exit": None, "seconds": 0, "output": "no time was left"}
        start = time.monotonic()
        child = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=os.environ | (environment or {}), text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                                 start_new_session=True)
        try:
            output, status = child.communicate(timeout=limit)[0], None
        except subprocess.TimeoutExpired:
            end_group(child)
            output, status = child.communicate()[0], "timed out"
        if status is None:
            skipped = output.startswith("skipped:")  # as the programs in compare/ say it
            status = "failed" if child.returncode else "skipped" if skipped else "ok"
        return {"name": name, "status": status, "exit": child.returncode, "limit": round(limit, 1),
                "seconds": round(time.monotonic() - start, 2), "output": output[-TAIL:]}

    def run_beside(self, jobs, limit):
        """Several (name, command, environment) at a time; nothing is measured meanwhile."""
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for step in pool.map(lambda job: self.finished(job[0], job[1], limit, job[2]), jobs):
                self.record(step)


def end_group(child):
    """A step and what it started, which has a process group of its own."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def configure_command(args, machine):
    deps = machine.deps.resolve()
    return ["cmake", "-S", ROOT, "-B", args.build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DLIGER_CUDA=ON",
            "-DLIGER_TEST_ON_GPU=ON", f"-DLIGER_CUDA_ARCHITECTURES={machine.architectures}",
            f"-DCMAKE_CUDA_COMPILER={machine.nvcc}", f"-DLIGER_TORCH={machine.torch}", f"-DCMAKE_PREFIX_PATH={deps}",
            f"-DSentencePiece_ROOT={deps / 'sentencepiece'}", f"-DOPENSSL_ROOT_DIR={deps}",
            "-DOPENSSL_USE_STATIC_LIBS=ON"]


def build(args, machine, steps):
    """True if there is something to run."""
    for old in [*args.build.glob("tests/gpu_*_test"), *args.build.glob("benchmarks/gpu_bench")]:
        old.unlink()  # so that what is there afterwards is what was built now
    if not steps.run("configure", configure_command(args, machine), 90):
        return False
    steps.run("build", ["nice", "ninja", "--quiet", "-C", args.build, "-j", args.jobs, "-k", "0", "gpu_tests", "gpu_bench"],
              args.build_limit)
    return any(args.build.glob("tests/gpu_*_test")) or (args.build / "benchmarks/gpu_bench").exists()


def fla_command(args, *options):
    return [sys.executable, ROOT / "benchmarks/compare/gpu_fla.py", *options]


def fla_environment(machine):
    path = [str(machine.deps.resolve() / "python"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def start_compiling_fla(args, machine):
    """Triton compiles and chooses its kernels, on an idle GPU, while the compilers here are at work (at nice 10)."""
    return subprocess.Popen(fla_command(args, "--compile"), cwd=ROOT, env=os.environ | fla_environment(machine),
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def read_json(file):
    try:
        return json.loads(file.read_text()) if file.exists() else None
    except ValueError as error:  # its writer ran out of time
        return {"error": f"{file.name}: {error}"}


def tests_of(args):
    return sorted(args.build.glob("tests/gpu_*_test"))


def run_tests(args, steps):
    if not tests_of(args):
        steps.skip("tests", "none was built")
    steps.run_beside([(test.name, [test, "--gtest_brief=1"], {"OMP_NUM_THREADS": "2"}) for test in tests_of(args)], 90)


def run_benchmarks(args, machine, steps):
    found = args.build / "gpu_bench.json"
    found.unlink(missing_ok=True)
    bench = args.build / "benchmarks/gpu_bench"
    if bench.exists():
        steps.run("gpu_bench", [bench, "--json", found], 90)
    else:
        steps.skip("gpu_bench", "it was not built")
    steps.results["benchmarks"] = read_json(found)
    if args.no_fla:
        return steps.skip("gpu_fla", "not wanted")
    found = args.build / "gpu_fla.json"
    found.unlink(missing_ok=True)
    steps.run("gpu_fla", fla_command(args, "--save", found), 120, fla_environment(machine))
    steps.results["fla"] = read_json(found)
    steps.save()


def run_sanitizers(args, machine, steps):
    if machine.sanitizer is None:
        return steps.skip("sanitizers", "there is no compute-sanitizer here")
    jobs = []
    for tool, share in (("memcheck", 2), ("racecheck", 5)):  # every second, every fifth test: they run much slower so
        jobs += [(f"{test.name} under {tool}, every test in {share}",
                  [machine.sanitizer, "--tool", tool, "--error-exitcode", "3", test, "--gtest_brief=1"],
                  {"OMP_NUM_THREADS": "2", "GTEST_TOTAL_SHARDS": str(share), "GTEST_SHARD_INDEX": "0"})
                 for test in tests_of(args)]
    steps.run_beside(jobs, 120)


def print_table(results):
    rows = (results["benchmarks"] or {}).get("rows", [])
    items = (results["fla"] or {}).get("items", [])
    peers = {(item["row"], item["shape"]): item["ms"] for item in items if "ms" in item}
    print(f"\n{'kernel':<28} {'B,T,H,D':<20} {'ms':>9} {'roof':>7}   {'fla':<28} {'ms':>9} {'ratio':>7}")
    for row in rows:
        if "error" in row:
            print(f"{row['kernel']:<28} {row['shape']:<20} {row['error']}")
            continue
        peer = row.get("peer", "")
        ms = peers.get((peer, row["shape"]))
        print(f"{row['kernel']:<28} {row['shape']:<20} {row['ms']:9.4f} {row['share_of_roof']:7.1%}   {peer:<28}",
              f"{ms:9.4f} {ms / row['ms']:7.2f}" if ms else f"{'':9} {'':7}")
    shown = {row.get("peer") for row in rows}
    for item in items:
        if item["row"] not in shown:
            what = f"{item['ms']:9.4f}" if "ms" in item else item["error"][:100]
            print(f"{'':<28} {item['shape']:<20} {'':9} {'':7}   {item['row']:<28} {what}")


def main():
    p = argparse.ArgumentParser(prog="run.sh", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "out/gpu/results.json", help="default: %(default)s")
    p.add_argument("--build-only", action="store_true", help="no GPU is needed for that")
    p.add_argument("--no-sanitizer", action="store_true", help="no compute-sanitizer, which comes last")
    p.add_argument("--no-fla", action="store_true", help="no comparison with flash-linear-attention")
    p.add_argument("--deps", default=ROOT / ".gpu-deps", help="what gather.sh made (default: %(default)s)")
    p.add_argument("--build", type=pathlib.Path, default=ROOT / "build-gpu", help="default: %(default)s")
    p.add_argument("--architectures", help="default: the GPU's own; with --build-only and no GPU 90a")
    p.add_argument("--minutes", type=float, default=8.7, help="for everything (default: %(default)s)")
    p.add_argument("--build-limit", type=float, default=330, help="seconds for the build (default: %(default)s)")
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    args = p.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    args.build, args.out = args.build.resolve(), args.out.resolve()
    machine = Machine(args)
    steps = Steps(args.out, machine, deadline)
    print(json.dumps(steps.results["machine"], indent=1), flush=True)

    compiling = None if args.build_only or args.no_fla else start_compiling_fla(args, machine)
    try:
        built = build(args, machine, steps)
    finally:
        if compiling:
            end_group(compiling)  # it may not run beside what is measured; what it has compiled stays
            compiling.wait()
    if not args.build_only and built:
        run_tests(args, steps)
        run_benchmarks(args, machine, steps)
        if not args.no_sanitizer:
            run_sanitizers(args, machine, steps)
        print_table(steps.results)
    steps.save()
    bad = [step["name"] for step in steps.results["steps"] if step["status"] not in ("ok", "skipped")]
    print(f"\n{args.out}: " + (f"{len(bad)} of {len(steps.results['steps'])} steps went wrong: {', '.join(bad)}"
                               if bad else f"all {len(steps.results['steps'])} steps went well"))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
