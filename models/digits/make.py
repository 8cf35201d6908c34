#!/usr/bin/env python3
"""Makes the demo bundle in this folder: a small diffusion model of handwritten digits.

Writes, next to this file (or into --out DIR):
  digits.safetensors  the 1797 scans of scikit-learn's load_digits, as they are (u8, 0..16) + labels
  unet.onnx           a class-conditional diffusers UNet2DModel, 16x16, epsilon prediction, DDPM schedule
  features.onnx       a small digit reader: 32 features and 10 logits per image
  manifest.json       hashes, sizes, parameter counts, losses, accuracies, schedule, seeds, versions

Pinned (Python 3.11, CPU only, no GPU is used even where there is one):
  torch==2.15.0  diffusers==0.42.0  transformers==5.23.0  accelerate==1.15.0  numpy==2.4.6
  onnx==1.23.2  onnxscript==0.7.2  onnxruntime==1.32.0  safetensors==0.8.0  scikit-learn==1.9.1

Run:
  python3.11 -m venv v
  v/bin/pip install torch==2.15.0 diffusers==0.42.0 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6 \
      onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 safetensors==0.8.0 scikit-learn==1.9.1
  v/bin/python make.py                 # 10 to 20 minutes on two cores
  v/bin/python make.py --steps 200 --out short   # a short run, for checking only

SEED below fixes the initial weights, the batches, the noise and the samples. Two threads are used
throughout, because the number of threads changes the order of the sums.
"""
import argparse
import copy
import hashlib
import importlib.metadata
import json
import math
import pathlib
import platform
import time
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import UNet2DModel
from safetensors.torch import save_file
from sklearn.datasets import load_digits

SEED = 20240917
PINNED = {
    "torch": "2.15.0", "diffusers": "0.42.0", "transformers": "5.23.0", "accelerate": "1.15.0",
    "numpy": "2.4.6", "onnx": "1.23.2", "onnxscript": "0.7.2", "onnxruntime": "1.32.0",
    "safetensors": "0.8.0", "scikit-learn": "1.9.1",
}
THREADS = 2
SIZE = 16
TRAIN = 1500                      # the first 1500 scans train, the last 297 are held out
CLASSES = 10
UNCOND = 10                       # class 10 stands for "no class"
DROP = 0.1                        # how often a label becomes UNCOND in training
T, BETA0, BETA1 = 1000, 1e-4, 0.02
STEPS, BATCH, LR, WARMUP, DECAY, EMA = 6000, 64, 2e-3, 200, 0.01, 0.998
CLS_STEPS, CLS_BATCH, CLS_LR = 4000, 128, 3e-3
SLANT = 0.3                       # the second look: columns moved per row


# ---- data -------------------------------------------------------------------------------------

def scans():
    """The raw scans, u8 [1797,8,8] in 0..16, and labels u8 [1797]."""
    d = load_digits()
    images = torch.from_numpy(d.images.astype(np.uint8))
    labels = torch.from_numpy(d.target.astype(np.uint8))
    assert images.shape == (1797, 8, 8) and int(images.max()) == 16 and int(images.min()) == 0
    return images, labels


def plain(images):
    """The look the model is trained on: value/8-1, bilinear to 16x16, half-pixel centres, clamped edges."""
    x = images.float()[:, None] / 8 - 1
    return F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", align_corners=False)


def slant(x, k=SLANT):
    """Moves row y right by s = k*(7.5-y) columns, linearly interpolated; outside the image is -1."""
    n = x.shape[0]
    y = torch.arange(SIZE, dtype=torch.float32)[:, None]
    col = torch.arange(SIZE, dtype=torch.float32)[None, :]
    src = col - k * ((SIZE - 1) / 2 - y)
    lo = src.floor()
    f = src - lo
    lo = lo.long()

    def at(i):
        inside = (i >= 0) & (i < SIZE)
        v = x.gather(3, i.clamp(0, SIZE - 1)[None, None].expand(n, 1, SIZE, SIZE))
        return torch.where(inside[None, None], v, torch.full_like(v, -1.0))

    return at(lo) * (1 - f) + at(lo + 1) * f


def ink(x):
    """The second look: a dark slanted contour line on white. The grey half-way between paper and
    stroke becomes black, both paper and stroke become white."""
    return 2 * slant(x).abs() - 1


# ---- schedule ---------------------------------------------------------------------------------

def alphas_cumprod():
    return torch.cumprod(1 - torch.linspace(BETA0, BETA1, T, dtype=torch.float64), 0).float()


AC = alphas_cumprod()


def noised(x, eps, t):
    a = AC[t][:, None, None, None]
    return a.sqrt() * x + (1 - a).sqrt() * eps


@torch.no_grad()
def held_out_loss(predict, x, labels, repeats=8):
    """Mean squared error of epsilon with fixed noise and evenly spread timesteps."""
    g = torch.Generator().manual_seed(SEED + 7)
    n = x.shape[0] * repeats
    xs, ys = x.repeat(repeats, 1, 1, 1), labels.long().repeat(repeats)
    t = ((torch.arange(n) * 0.6180339887498949) % 1.0 * T).long()
    eps = torch.randn(xs.shape, generator=g)
    z = noised(xs, eps, t)
    total = 0.0
    for i in range(0, n, 256):
        e = predict(z[i:i + 256], t[i:i + 256], ys[i:i + 256])
        total += (e - eps[i:i + 256]).square().mean((1, 2, 3)).sum().item()
    return total / n


@torch.no_grad()
def ddim(predict, labels, guidance, steps=50, seed=SEED + 9):
    """DDIM, eta 0, timesteps 999, 979, ..., 19, predicted x0 clipped to [-1,1]."""
    g = torch.Generator().manual_seed(seed)
    n = labels.shape[0]
    x = torch.randn((n, 1, SIZE, SIZE), generator=g)
    ts = [T * (steps - i) // steps - 1 for i in range(steps)]
    none = torch.full_like(labels, UNCOND)
    for i, t in enumerate(ts):
        tt = torch.full((n,), t, dtype=torch.long)
        e = predict(x, tt, labels)
        if guidance != 1.0:
            u = predict(x, tt, none)
            e = u + guidance * (e - u)
        a = AC[t]
        prev = AC[ts[i + 1]] if i + 1 < steps else torch.tensor(1.0)
        x0 = ((x - (1 - a).sqrt() * e) / a.sqrt()).clamp(-1, 1)
        e = (x - a.sqrt() * x0) / (1 - a).sqrt()
        x = prev.sqrt() * x0 + (1 - prev).sqrt() * e
    return x


# ---- models -----------------------------------------------------------------------------------

def make_unet():
    return UNet2DModel(
        sample_size=SIZE, in_channels=1, out_channels=1, layers_per_block=1,
        block_out_channels=(24, 32, 48),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=CLASSES + 1, norm_num_groups=8, attention_head_dim=16,
    )


class Unet(nn.Module):
    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, sample, timestep, class_labels):
        return self.unet(sample, timestep, class_labels, return_dict=False)[0]


class Reader(nn.Module):
    """Four 3x3 convolutions (two of them with stride 2), a global mean, one linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 48, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(48, 32, 3, padding=1)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, image):
        h = F.relu(self.conv1(image))
        h = F.relu(self.conv2(h))
        h = F.relu(self.conv3(h))
        h = F.relu(self.conv4(h))
        features = h.mean((2, 3))
        return features, self.head(features)


# ---- training ---------------------------------------------------------------------------------

def schedule(step, steps, warmup):
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def reader_batch(x, g):
    """Small shifts, turns, slants and sizes; half of the batch in another look; grey noise."""
    n = x.shape[0]

    def u(a, b):
        return torch.rand(n, generator=g) * (b - a) + a

    r, s, k = u(-0.17, 0.17), u(0.88, 1.12), u(-0.25, 0.35)
    m = torch.stack([
        torch.stack([s * r.cos(), s * (k - r.sin()), u(-0.2, 0.2)], 1),
        torch.stack([s * r.sin(), s * r.cos(), u(-0.15, 0.15)], 1)], 1)
    grid = F.affine_grid(m, list(x.shape), align_corners=False)
    x = F.grid_sample(x + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1
    line = 1 - 2 * x.abs()
    kind = torch.rand(n, generator=g)[:, None, None, None]
    x = torch.where(kind < 0.3, -line, torch.where(kind < 0.4, line, torch.where(kind < 0.5, -x, x)))
    x = x * u(0.8, 1.0)[:, None, None, None]
    return x + torch.randn(x.shape, generator=g) * u(0, 0.25)[:, None, None, None]


def train_reader(x, y, steps):
    g = torch.Generator().manual_seed(SEED + 1)
    torch.manual_seed(SEED + 2)
    net = Reader()
    opt = torch.optim.AdamW(net.parameters(), lr=CLS_LR, weight_decay=0.02)
    ema = copy.deepcopy(net)
    for step in range(steps):
        opt.param_groups[0]["lr"] = CLS_LR * schedule(step, steps, 100)
        i = torch.randint(x.shape[0], (CLS_BATCH,), generator=g)
        loss = F.cross_entropy(net(reader_batch(x[i], g))[1], y[i], label_smoothing=0.05)
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            for a, b in zip(ema.parameters(), net.parameters()):
                a.lerp_(b, 0.005 if step > 500 else 0.05)
        if (step + 1) % 500 == 0:
            print(f"reader {step + 1}/{steps} loss {loss.item():.4f}", flush=True)
    return ema.eval(), loss.item()


def train_unet(x, y, hx, hy, steps):
    g = torch.Generator().manual_seed(SEED + 3)
    torch.manual_seed(SEED + 4)
    net = Unet(make_unet())
    ema = copy.deepcopy(net).eval()
    opt = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=DECAY)
    mean, start = 0.0, time.time()
    for step in range(steps):
        opt.param_groups[0]["lr"] = LR * schedule(step, steps, WARMUP)
        i = torch.randint(x.shape[0], (BATCH,), generator=g)
        t = torch.randint(T, (BATCH,), generator=g)
        eps = torch.randn((BATCH, 1, SIZE, SIZE), generator=g)
        drop = torch.rand(BATCH, generator=g) < DROP
        c = torch.where(drop, torch.full_like(y[i], UNCOND), y[i])
        loss = F.mse_loss(net(noised(x[i], eps, t), t, c), eps)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        d = min(EMA, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, b in zip(ema.parameters(), net.parameters()):
                a.lerp_(b, 1 - d)
        k = 0.99 if step > 100 else step / (step + 1)
        mean = k * mean + (1 - k) * loss.item()
        if (step + 1) % 500 == 0 or step + 1 == steps:
            held = held_out_loss(ema, hx, hy)
            print(f"unet {step + 1}/{steps} loss {mean:.5f} held out {held:.5f} "
                  f"{time.time() - start:.0f} s", flush=True)
    return ema, mean


# ---- export -----------------------------------------------------------------------------------

def export(module, args, path, inputs, outputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, args, str(path), opset_version=17, dynamo=False,
            input_names=inputs, output_names=outputs,
            dynamic_axes={k: {0: "batch"} for k in inputs + outputs})
    model = onnx.load(str(path))
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def session(path):
    o = onnxruntime.SessionOptions()
    o.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(str(path), o, providers=["CPUExecutionProvider"])


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def count(module):
    return sum(p.numel() for p in module.parameters())


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent)
    ap.add_argument("--steps", type=int, default=STEPS)
    ap.add_argument("--reader-steps", type=int, default=CLS_STEPS)
    arg = ap.parse_args()
    found = {k: importlib.metadata.version(k) for k in PINNED}
    for k, v in PINNED.items():
        if found[k].split("+")[0] != v:
            print(f"warning: {k} is {found[k]}, the bundle was made with {v}")
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    arg.out.mkdir(parents=True, exist_ok=True)

    images, labels = scans()
    save_file({"images": images, "labels": labels}, str(arg.out / "digits.safetensors"))
    x, y = plain(images), labels.long()
    tx, ty, hx, hy = x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]

    reader, reader_loss = train_reader(tx, ty, arg.reader_steps)
    export(reader, (hx[:2],), arg.out / "features.onnx", ["image"], ["features", "logits"])
    fs = session(arg.out / "features.onnx")

    def read(v):
        f, l = fs.run(None, {"image": v.numpy()})
        return torch.from_numpy(f), torch.from_numpy(l)

    def accuracy(v, want):
        return (read(v)[1].argmax(1) == want).float().mean().item()

    with torch.no_grad():
        pair = zip(read(hx[:5]), reader(hx[:5]))
        reader_error = max((a - b).abs().max().item() for a, b in pair)
    reader_figures = {
        "held_out_accuracy": accuracy(hx, hy), "held_out_accuracy_ink": accuracy(ink(hx), hy),
        "train_accuracy": accuracy(tx, ty), "train_accuracy_ink": accuracy(ink(tx), ty),
    }
    print(reader_figures, "error", reader_error, "parameters", count(reader), flush=True)
    assert reader_error < 1e-4

    unet, train_loss = train_unet(tx, ty, hx, hy, arg.steps)
    export(unet, (hx[:2], torch.tensor([3, 700]), torch.tensor([1, 10])), arg.out / "unet.onnx",
           ["sample", "timestep", "class_labels"], ["out_sample"])
    us = session(arg.out / "unet.onnx")

    def predict(v, t, c):
        return torch.from_numpy(us.run(None, {
            "sample": v.numpy(), "timestep": t.numpy(), "class_labels": c.numpy()})[0])

    unet_error = 0.0
    for n in (1, 5):
        v = torch.randn((n, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(SEED + n))
        t, c = torch.linspace(0, T - 1, n).long(), torch.arange(n) * 2 + 2
        with torch.no_grad():
            unet_error = max(unet_error, (predict(v, t, c) - unet(v, t, c)).abs().max().item())
    print("unet error", unet_error, "parameters", count(unet), flush=True)
    assert unet_error < 1e-4

    want = torch.arange(200) % CLASSES
    sampled = {f"{s:.1f}": accuracy(ddim(predict, want, s), want) for s in (1.0, 2.0)}
    print("accuracy of samples by guidance", sampled, flush=True)

    def entry(name, **more):
        p = arg.out / name
        return {"bytes": p.stat().st_size, "sha256": sha256(p), **more}

    manifest = {
        "files": {
            "digits.safetensors": entry("digits.safetensors", images=1797, train=TRAIN, held_out=1797 - TRAIN),
            "unet.onnx": entry(
                "unet.onnx", parameters=count(unet), opset=17, max_abs_error=unet_error,
                train_loss=train_loss, held_out_loss=held_out_loss(predict, hx, hy),
                held_out_loss_ink=held_out_loss(predict, ink(hx), hy),
                sample_accuracy_by_guidance=sampled),
            "features.onnx": entry(
                "features.onnx", parameters=count(reader), opset=17, max_abs_error=reader_error,
                train_loss=reader_loss, **reader_figures),
        },
        "schedule": {
            "num_train_timesteps": T, "beta_start": BETA0, "beta_end": BETA1,
            "beta_schedule": "linear", "prediction_type": "epsilon",
        },
        "image": {"size": SIZE, "channels": 1, "range": [-1, 1], "classes": CLASSES, "unconditional_class": UNCOND},
        "training": {
            "seed": SEED, "threads": THREADS,
            "unet": {"steps": arg.steps, "batch": BATCH, "lr": LR, "warmup": WARMUP, "weight_decay": DECAY,
                     "ema": EMA, "label_dropout": DROP},
            "features": {"steps": arg.reader_steps, "batch": CLS_BATCH, "lr": CLS_LR},
        },
        "versions": {"python": platform.python_version(), **found},
    }
    (arg.out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(manifest, indent=2))


if __name__ == "__main__":
    main()
