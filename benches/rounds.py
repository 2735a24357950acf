"""This library, diffusers on PyTorch and OpenVINO alternately on the same work, and their ratios.

  pip install -r fixtures/gen/requirements.txt openvino
  cargo build --release --example bench_full_size
  python benches/rounds.py DIR [--rounds 3] [--threads 2] [--size 512] [--batch 2] [--only unet] [--peers diffusers,openvino] [--precision bf16]

DIR is a folder in diffusers layout; `fixtures/gen/full_size.py make DIR` writes one with random weights.
One process at a time, each with one run that is not counted and `--runs` that are; what is printed is
the least of all rounds, then the same as a table. With `--peers ""` ours alone is measured.

`--precision bf16` is bf16 products here, autocast in PyTorch, OpenVINO's hint. `--precision int8` is the
U-Net's linear layers in int8 here, bf16 elsewhere, and OpenVINO's U-Net and decoder quantised by NNCF
(post-training, one random calibration input; bf16 elsewhere); diffusers on PyTorch has no counterpart and
is left out.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = "ours"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--only", default="", help="only work in whose name this is")
    parser.add_argument("--peers", default="diffusers,openvino")
    parser.add_argument("--ours", default=ROOT / "target/release/examples/bench_full_size", help="the program")
    parser.add_argument("--precision", choices=["f32", "bf16", "int8"], default="f32")
    parser.add_argument("--measure", choices=["diffusers", "openvino"], help="measure one peer, in this process")
    return parser.parse_args()


def names(a):
    """The works' names, as `bench_full_size` has them."""
    size = "" if a.size == 512 else f", {a.size}x{a.size}"
    return {"text": "text encoder, batch 2", "unet": f"UNet step, batch {a.batch}{size}", "decode": f"VAE decode{size}", "encode": f"VAE encode{size}"}


def report(a, peer, work, run):
    seconds = []
    for _ in range(1 + a.runs):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps(dict(peer=peer, work=work, seconds=round(min(seconds[1:]), 3), peak_rss_gb=round(memory, 2))), flush=True)


def diffusers(a, wanted):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.set_num_threads(a.threads)
    torch.set_grad_enabled(False)
    if a.precision == "bf16":
        torch.autocast("cpu", dtype=torch.bfloat16).__enter__()
    side, last = a.size // 8, torch.channels_last
    load = lambda kind, part: kind.from_pretrained(f"{a.dir}/{part}", torch_dtype=torch.float32).eval()
    if "text" in wanted:
        text, ids = load(CLIPTextModel, "text_encoder"), torch.randint(0, 49406, (2, 77))
        report(a, "diffusers", wanted["text"], lambda: text(ids))
        del text
    if "unet" in wanted:
        unet = load(UNet2DConditionModel, "unet").to(memory_format=last)
        x = torch.randn(a.batch, 4, side, side).to(memory_format=last)
        prompt = torch.randn(a.batch, 77, unet.config.cross_attention_dim)
        report(a, "diffusers", wanted["unet"], lambda: unet(x, torch.tensor(500), prompt))
        del unet
    if {"decode", "encode"} & wanted.keys():
        vae = load(AutoencoderKL, "vae").to(memory_format=last)
        latent, image = (torch.randn(1, c, s, s).to(memory_format=last) for c, s in ((4, side), (3, a.size)))
        if "decode" in wanted:
            report(a, "diffusers", wanted["decode"], lambda: vae.decode(latent))
        if "encode" in wanted:
            report(a, "diffusers", wanted["encode"], lambda: vae.encode(image))


def openvino(a, wanted):
    """The denoiser and the decoder, converted from diffusers'."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    import openvino as ov

    hint = "f32" if a.precision == "f32" else "bf16"
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": a.threads}
    side = a.size // 8

    class Module(torch.nn.Module):
        def __init__(self, model, run):
            super().__init__()
            self.model, self.run = model, run

        def forward(self, *x):
            return self.run(self.model, *x)[0]

    def measure(work, kind, part, run, inputs):
        model = Module(kind.from_pretrained(f"{a.dir}/{part}", torch_dtype=torch.float32).eval(), run)
        with torch.no_grad():
            converted = ov.convert_model(model, example_input=inputs, input=[list(x.shape) for x in inputs])
        del model
        values = [x.numpy() for x in inputs]
        if a.precision == "int8":
            import nncf

            kind = nncf.ModelType.TRANSFORMER
            converted = nncf.quantize(converted, nncf.Dataset([values]), subset_size=1, model_type=kind)
        compiled = ov.Core().compile_model(converted, "CPU", options)
        report(a, "openvino", work, lambda: compiled(values))

    if "unet" in wanted:
        width = json.loads(Path(a.dir, "unet/config.json").read_text(encoding="utf-8"))["cross_attention_dim"]
        inputs = (torch.randn(a.batch, 4, side, side), torch.tensor(500), torch.randn(a.batch, 77, width))
        run = lambda unet, x, t, prompt: unet(x, t, prompt, return_dict=False)
        measure(wanted["unet"], UNet2DConditionModel, "unet", run, inputs)
    if "decode" in wanted:
        run = lambda vae, latent: vae.decode(latent, return_dict=False)
        measure(wanted["decode"], AutoencoderKL, "vae", run, (torch.randn(1, 4, side, side),))


def main():
    a = arguments()
    wanted = {key: name for key, name in names(a).items() if a.only.lower() in name.lower()}
    if a.measure:
        return {"diffusers": diffusers, "openvino": openvino}[a.measure](a, wanted)
    options = [a.dir, "--threads", a.threads, "--runs", a.runs, "--size", a.size, "--batch", a.batch, "--only", a.only]
    ours = {"f32": [], "bf16": ["--dtype", "bf16"], "int8": ["--dtype", "bf16", "--compute", "int8"]}
    commands = {OURS: [a.ours, *options, *ours[a.precision]]}
    for peer in filter(None, a.peers.split(",")):
        if (peer, a.precision) != ("diffusers", "int8"):
            commands[peer] = [sys.executable, __file__, *options, "--precision", a.precision, "--measure", peer]
    least, memory = {}, {}
    for round in range(a.rounds):
        for peer, command in commands.items():
            print(f"round {round + 1}: {peer}", file=sys.stderr, flush=True)
            lines = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout
            for line in map(json.loads, filter(lambda line: line.startswith("{"), lines.splitlines())):
                key = (line["work"], peer)
                least[key] = min(line["seconds"], least.get(key, float("inf")))
                memory[peer] = max(line["peak_rss_gb"] or 0, memory.get(peer, 0))
    for (work, peer), seconds in least.items():
        print(json.dumps(dict(peer=peer, work=work, seconds=seconds, peak_rss_gb=memory[peer])))
    peers = [peer for peer in commands if peer != OURS]
    heads = ["work", OURS, *peers, *(f"{OURS} / {peer}" for peer in peers)]
    print("\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for work in wanted.values():
        ours, theirs = least[work, OURS], [least.get((work, peer)) for peer in peers]
        cells = [f"{ours:.3f} s", *(f"{x:.3f} s" if x else "–" for x in theirs), *(f"{ours / x:.2f}" if x else "–" for x in theirs)]
        print("| " + " | ".join([work, *cells]) + " |")
    print("| peak memory | " + " | ".join(f"{memory[peer]:.2f} GB" for peer in commands) + " |" + " |" * len(peers))


if __name__ == "__main__":
    main()
