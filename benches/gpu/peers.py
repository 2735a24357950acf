"""diffusers on an NVIDIA GPU: the U-Net's step, the decoder and a picture of 20 steps, as JSON lines.

  python3 benches/gpu/peers.py DIR --dtype f16 --size 512 [--compile] [--device cuda]

DIR is a folder in diffusers layout. Seconds are the least of the runs after two that are not counted, on
random inputs, channels-last; `--compile` is torch.compile with CUDA graphs where it takes them.
"""
import argparse
import json
import time

import torch

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("dir")
parser.add_argument("--dtype", choices=["f32", "f16", "bf16"], default="f16")
parser.add_argument("--size", type=int, default=512)
parser.add_argument("--batch", type=int, default=2)
parser.add_argument("--runs", type=int, default=10)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--device", default="cuda")
a = parser.parse_args()

torch.set_grad_enabled(False)
DTYPE = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[a.dtype]
WAIT = torch.cuda.synchronize if a.device == "cuda" else lambda: None


def report(work, run):
    seconds = []
    for _ in range(2 + a.runs):
        WAIT()
        begun = time.perf_counter()
        run()
        WAIT()
        seconds.append(time.perf_counter() - begun)
    memory = torch.cuda.max_memory_allocated() / 1e9 if a.device == "cuda" else None
    line = dict(peer="diffusers", work=work, seconds=round(min(seconds[2:]), 5), first=round(seconds[0], 2), video_memory_gb=memory)
    print(json.dumps(line), flush=True)


def network(kind, part):
    found = kind.from_pretrained(f"{a.dir}/{part}", torch_dtype=DTYPE).to(a.device, memory_format=torch.channels_last).eval()
    if a.compile:
        found.compile(mode="max-autotune-no-cudagraphs" if a.device != "cuda" else "reduce-overhead")
    return found


def random(*shape):
    return torch.randn(*shape, device=a.device, dtype=DTYPE)


def main():
    from diffusers import AutoencoderKL, UNet2DConditionModel

    side = a.size // 8
    unet = network(UNet2DConditionModel, "unet")
    more = {}
    if unet.config.addition_embed_type == "text_time":
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        more = dict(added_cond_kwargs=dict(text_embeds=random(a.batch, pooled), time_ids=random(a.batch, 6)))
    latents, prompt = random(a.batch, unet.config.in_channels, side, side), random(a.batch, 77, unet.config.cross_attention_dim)
    timestep = torch.tensor(500, device=a.device)
    report(f"UNet step, batch {a.batch}", lambda: unet(latents, timestep, prompt, **more))
    vae = network(AutoencoderKL, "vae")
    latent = random(1, vae.config.latent_channels, side, side)
    report("VAE decode", lambda: vae.decode(latent))


if __name__ == "__main__":
    main()
