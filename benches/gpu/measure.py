"""What the library does on this machine's GPU, in order of worth, beside diffusers: one run, no network.

  python3 benches/gpu/measure.py KIT RESULTS.json [--devices cuda,vulkan] [--only conformance,unet] [--seconds 540]

KIT is the folder that `build.sh` packed, in a checkout of the same commit. `--models DIR` is where models
with random weights are made (fixtures/gen/full_size.py: torch, diffusers and open-clip-torch must be there)
or, with `--sd1 DIR` and `--sdxl DIR`, taken from. RESULTS.json is written anew after each part, so a run that
is stopped keeps what it had; a part that fails is recorded with its last lines and the next one follows. A
part is left out with `--skip`, or where less than a minute is left of `--seconds`.

What autotune chooses and what is compiled is kept from part to part, and in DIR for the next run. Therefore
`first` is the whole price only of a shape that no part before has seen; the part `first picture` keeps to
itself. The choices of each device are written beside the results, RESULTS.DEVICE.choices: `warm_up --seed`.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROMPT = "a lighthouse in a storm, oil on canvas"
STEPS = 20


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--devices", default="cuda,vulkan")
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--sd1", type=Path, help="a folder of SD 1's kind")
    parser.add_argument("--sdxl", type=Path, help="a folder of SDXL's kind")
    parser.add_argument("--sizes", default="512,1024", help="of SD 1's and SDXL's pictures")
    parser.add_argument("--only", default="", help="only parts in whose names one of these is")
    parser.add_argument("--skip", default="", help="no parts in whose names one of these is")
    parser.add_argument("--seconds", type=float, default=540, help="for all parts")
    parser.add_argument("--most", type=float, default=240, help="seconds for one part: it keeps what it printed until then")
    a = parser.parse_args()
    a.kit, a.results = a.kit.resolve(), a.results.resolve()
    a.models, a.sd1, a.sdxl = (path and path.resolve() for path in (a.models, a.sd1, a.sdxl))
    return a


class VideoMemory:
    """The most memory in use on the first GPU while the block runs, in GB, by nvidia-smi; None without it."""

    def __enter__(self):
        self.most, self.done = None, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        if shutil.which("nvidia-smi"):
            self.thread.start()
        return self

    def watch(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        while not self.done.wait(0.2):
            found = subprocess.run(query, capture_output=True, text=True).stdout.strip()
            if found.isdigit():
                self.most = max(self.most or 0, int(found) / 1000)

    def __exit__(self, *_):
        self.done.set()
        if self.thread.is_alive():
            self.thread.join()


class Kit:
    def __init__(self, a):
        self.a, self.begun, self.results = a, time.monotonic(), {"parts": {}}
        self.scratch = Path(tempfile.mkdtemp())
        # Where the programs run, for CubeCL to find it: what to keep where, and profiles, where asked for, printed.
        settings = f"""
            [compilation]
            cache = true
            [environment]
            path = {{ directory = {json.dumps(str(a.models / "kept-kernels"))} }}
            [profiling.logger]
            stdout = true
        """
        (self.scratch / "cubecl.toml").write_text(settings)

    def left(self):
        return self.a.seconds - (time.monotonic() - self.begun)

    def part(self, what, command, read, device=None, **environment):
        """Runs `command`; what `read` makes of its output stands in the results under `what` and the device."""
        name = f"{what} {device}" if device else what
        environment = dict(CUBECL_ENVIRONMENT=device or "other") | environment
        chosen = lambda words: any(word in name for word in words.split(",") if word)
        if (self.a.only and not chosen(self.a.only)) or chosen(self.a.skip):
            return
        if self.left() < 60:
            return self.put(name, dict(left_out="no time"))
        log = self.scratch / "log"
        clock = time.monotonic()
        with VideoMemory() as memory, open(log, "w") as file:
            words = [str(word) for word in command]
            try:
                code = subprocess.run(
                    words, stdout=file, stderr=subprocess.STDOUT, timeout=min(self.a.most, self.left()), env=os.environ | environment,
                    cwd=self.scratch,
                ).returncode
            except subprocess.TimeoutExpired:
                code = "ran out of time"
            except OSError as error:
                code = str(error)
        text = log.read_text(errors="replace")
        found = dict(exit=code, seconds=round(time.monotonic() - clock, 2), video_memory_gb=memory.most)
        try:
            found["found"] = read(text)
        except Exception as error:  # What was printed stands below.
            found["unread"] = repr(error)
        if code != 0 or "unread" in found:
            found["last_lines"] = text.splitlines()[-15:]
        self.put(name, found)

    def put(self, name, found):
        self.results["parts"][name] = found
        print(json.dumps({name: found})[:2000], flush=True)
        unfinished = self.a.results.with_suffix(".part")
        unfinished.write_text(json.dumps(self.results, indent=1))
        unfinished.replace(self.a.results)


def lines(text):
    """The lines that are JSON."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def conformance(text):
    """What passed, with its differences, what did not, and the sums, where it came so far."""
    of = lambda pattern: [line for line in text.splitlines() if re.search(pattern, line)]
    return dict(result=of(r"\d+ passed"), failed=of(r"FAILED|SKIPPED|panicked"), passed=of(r"^ok "))


def shapes(text):
    """All that is wrong, the slowest, and sums for each precision."""
    found = lines(text)
    worst = {dtype: max(of, key=lambda line: 1e9 if line["error"] is None else line["error"]) for dtype, of in by(found, "dtype").items()}
    return dict(
        summary=[line for line in text.splitlines() if "beyond the bound" in line],
        worst=worst,
        seconds={dtype: sum(line["seconds"] for line in of) for dtype, of in by(found, "dtype").items()},
        first={dtype: sum(line["first"] for line in of) for dtype, of in by(found, "dtype").items()},
        slowest=sorted(found, key=lambda line: -line["seconds"])[:8],
        all=found,
    )


def by(found, key):
    parts = {}
    for line in found:
        parts.setdefault(line[key], []).append(line)
    return parts


def profile(text):
    """Kernels by their share of an evaluation's time: the last of the tables that CubeCL prints, one at each wait."""
    table = re.findall(r"^\| Name .*?^\| Total [^\n]*", text, re.MULTILINE | re.DOTALL)[-1]
    kernels = []
    for row in table.splitlines()[1:-1]:
        if "% " not in row:  # A rule.
            continue
        # Bars separate a kernel's generics too.
        *name, time, launches, _ = [cell.strip() for cell in row.strip("| ").split("|")]
        name = " ".join(name)
        short = name if len(name) < 60 else f"{name[:50]}…{name[-9:]}"
        kernels.append(dict(kernel=short, seconds=seconds(time), launches=int(launches)))
    return kernels


def seconds(text):
    """Of a duration as Rust prints it."""
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", text).groups()
    return float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]


def main():
    a = arguments()
    kit = Kit(a)
    kit.results["machine"] = subprocess.run("nvidia-smi -L; uname -r; nproc", shell=True, capture_output=True, text=True).stdout
    sizes = dict(zip(("sd1", "sdxl"), map(int, a.sizes.split(","))))
    folders = {}
    for name, model, given in (("sd1", "sd15", a.sd1), ("sdxl", "sdxl", a.sdxl)):
        folders[name] = given or a.models / f"{model}-f16"
        if given is None and not (folders[name] / "model_index.json").is_file():
            make = [sys.executable, ROOT / "fixtures/gen/full_size.py", "make", folders[name], model, "f16"]
            kit.part(f"model {name}", make, lambda text: text.splitlines()[-3:])
    devices = [device for device in a.devices.split(",") if device]
    fixtures = str(ROOT / "fixtures/data")
    program = lambda name: a.kit / name

    for device in devices:
        chosen = dict(SD_CONFORMANCE_DEVICES=device, SD_FIXTURES=fixtures, CUBECL_ENVIRONMENT="conformance")
        kit.part("conformance", [program("conformance")], conformance, device, **chosen)
    for name, folder in folders.items():
        size = sizes[name]
        for dtype in ("f16", "f32"):
            for device in devices:
                bench = [program("bench_full_size"), folder, "--device", device, "--dtype", dtype, "--size", size, "--runs", 5]
                for work in ("unet", "decode"):
                    kit.part(f"{work} {name} {dtype}", [*bench, "--only", work], lines, device)
            for compiled in ([], ["--compile"]):
                peers = [sys.executable, ROOT / "benches/gpu/peers.py", folder, "--dtype", dtype, "--size", size, *compiled]
                kit.part(f"peers {name} {dtype} {'compiled' if compiled else 'eager'}", peers, lines)
        for device in devices:
            draw = [program("text_to_image"), PROMPT, "--model", folder, "--device", device, "--dtype", "f16", "--json"]
            draw += ["--steps", STEPS, "--width", size, "--height", size, "--output", kit.scratch / "out.png"]
            kit.part(f"picture {name} f16", draw, lines, device)
    for device in devices:
        warm = [program("warm_up"), "--device", device, "--model", folders["sd1"], "--size", sizes["sd1"], "--cold"]
        for kept in ("nothing kept", "kernels kept"):
            kit.part(f"first picture, {kept},", [*warm, "--cache", kit.scratch / "cache"], str.splitlines, device)
    for name, folder in folders.items():
        sweep = [program("shape_sweep"), folder, "--size", sizes[name], "--device"]
        for device in devices:
            kit.part(f"shapes {name}", [*sweep, device], shapes, device)
    for device in devices:
        bench = [program("bench_full_size"), folders["sd1"], "--device", device, "--dtype", "f16", "--only", "unet"]
        bench += ["--size", sizes["sd1"], "--runs", 2]
        kit.part("profile", bench, profile, device, CUBECL_DEBUG_OPTION="profile-medium")
    for device in devices:
        choices = a.results.with_suffix(f".{device.replace(':', '-')}.choices")
        warm = [program("warm_up"), "--device", device, "--model", folders["sd1"], "--size", sizes["sd1"], "--cold"]
        kit.part("choices", [*warm, "--export", choices], str.splitlines, device)
    shutil.rmtree(kit.scratch)


if __name__ == "__main__":
    main()
