#!/usr/bin/env python3
"""Makes `pipeline` in this folder: a text-conditional diffusion model of coloured shapes, as a folder of ONNX models.

The text encoder and the UNet learn together, on captions of flat pictures only; the word `neon` is known to the tokenizer and
never seen. The VAE has no weights: each latent is two by two pixels.

    pip install torch==2.15.0 diffusers==0.42.0 transformers==5.23.0 onnx==1.23.2 onnxruntime==1.32.0 scipy==1.17.1
    python make.py        # about half an hour on two cores
"""
import argparse
import collections
import copy
import json
import pathlib
import time
import warnings

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import shapes

SEED, PICTURES, BATCH, LR, WARMUP, EMA, DROP = 20261123, 24000, 32, 2e-3, 200, 0.998, 0.1
WIDTH, LENGTH = 72, 16
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder):
    """CLIP's tokenizer, by byte pairs merged until each word is one token."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = {w: [*w[:-1], w[-1] + "</w>"] for w in shapes.WORDS}
    merges = []
    while any(len(parts) > 1 for parts in words.values()):
        pairs = collections.Counter(p for parts in words.values() for p in zip(parts, parts[1:]))
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for word, parts in words.items():
            joined, i = [], 0
            while i < len(parts):
                both = tuple(parts[i:i + 2]) == best
                joined.append("".join(best) if both else parts[i])
                i += 2 if both else 1
            words[word] = joined
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(m) for m in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = dict(bos_token=START, eos_token=END, unk_token=END, pad_token=END)
    config = dict(special, tokenizer_class="CLIPTokenizer", model_max_length=LENGTH)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def encoder(size):
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=size, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_attention_heads=4, num_hidden_layers=2,
        max_position_embeddings=LENGTH, projection_dim=WIDTH, bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1,
        attn_implementation="eager"))


def unet():
    return UNet2DConditionModel(
        sample_size=shapes.SIDE // 2, in_channels=12, out_channels=12, layers_per_block=1, block_out_channels=(24, 40, 72),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, norm_num_groups=8, attention_head_dim=4, use_linear_projection=True)


def scheduler():
    return DDIMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=True,
                         prediction_type="v_prediction", set_alpha_to_one=True, steps_offset=0, timestep_spacing="trailing")


def encode(pictures):
    """Latents f32 [n, 12, 16, 16] of pictures f32 [n, 32, 32, 3] in 0..1."""
    return F.pixel_unshuffle(torch.as_tensor(pictures).permute(0, 3, 1, 2) * 2 - 1, 2)


class Whole(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.text, self.unet = encoder(size), unet()

    def forward(self, ids, noisy, t):
        return self.unet(noisy, t, self.text(ids).last_hidden_state, return_dict=False)[0]


def rate(step, steps):
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def train(net, ids, latents, empty, steps):
    g = torch.Generator().manual_seed(SEED)
    alphas = scheduler().alphas_cumprod
    ema = copy.deepcopy(net).eval()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.01)
    mean, start = 0.0, time.time()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LR * rate(step, steps)
        i = torch.randint(len(latents), (BATCH,), generator=g)
        t = torch.randint(1000, (BATCH,), generator=g)
        noise = torch.randn(latents[i].shape, generator=g)
        drop = torch.rand(BATCH, generator=g) < DROP
        a = alphas[t][:, None, None, None]
        text = torch.where(drop[:, None], empty, ids[i])
        velocity = a.sqrt() * noise - (1 - a).sqrt() * latents[i]
        # Each step counts as it would if the noise were predicted.
        error = net(text, a.sqrt() * latents[i] + (1 - a).sqrt() * noise, t) - velocity
        loss = (a * error.square()).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        keep = min(EMA, (step + 1) / (step + 10))
        with torch.no_grad():
            for average, value in zip(ema.parameters(), net.parameters()):
                average.lerp_(value, 1 - keep)
        mean = loss.item() if step == 0 else 0.99 * mean + 0.01 * loss.item()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1} of {steps}, loss {mean:.4f}, {time.time() - start:.0f} s", flush=True)
    return ema


@torch.no_grad()
def accuracy(net, tokens, empty, n=200, guidance=2.0, steps=25):
    """Share of sampled pictures that show what their captions say."""
    wanted = shapes.scenes(n, np.random.default_rng(SEED + 1), "flat")
    ids, blank = tokens([s.caption() for s in wanted]), empty.expand(n, -1)
    ddim = scheduler()
    ddim.set_timesteps(steps)
    x = torch.randn((n, 12, shapes.SIDE // 2, shapes.SIDE // 2), generator=torch.Generator().manual_seed(SEED + 2))
    for t in ddim.timesteps:
        given, free = (net(v, x, t.expand(n)) for v in (ids, blank))
        x = ddim.step(free + guidance * (given - free), t, x).prev_sample
    pictures = (F.pixel_shuffle(x, 2) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return np.mean([shapes.judge(p).agrees(w) for p, w in zip(pictures, wanted)])


class Text(torch.nn.Module):
    def __init__(self, text):
        super().__init__()
        self.text = text

    def forward(self, input_ids):
        out = self.text(input_ids)
        return out.last_hidden_state, out.pooler_output


class Denoiser(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.unet = net

    def forward(self, sample, timestep, encoder_hidden_states):
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]


def export(module, args, path, inputs, outputs):
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {name: {0: "batch"} for name in inputs + outputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), args, str(path), opset_version=17, dynamo=False, input_names=inputs, output_names=outputs,
                          dynamic_axes=axes)
    model = onnx.load(str(path))
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def write(net, folder, size):
    ids = torch.full((2, LENGTH), size - 1)
    export(Text(net.text), (ids,), folder / "text_encoder/model.onnx", ["input_ids"], ["last_hidden_state", "pooler_output"])
    latents, states = torch.zeros((2, 12, 16, 16)), torch.zeros((2, LENGTH, WIDTH))
    export(Denoiser(net.unet), (latents, torch.tensor([7, 700]), states), folder / "unet/model.onnx",
           ["sample", "timestep", "encoder_hidden_states"], ["out_sample"])
    export(torch.nn.PixelUnshuffle(2), (torch.zeros((2, 3, 32, 32)),), folder / "vae_encoder/model.onnx", ["sample"], ["latent_sample"])
    export(torch.nn.PixelShuffle(2), (latents,), folder / "vae_decoder/model.onnx", ["latent_sample"], ["sample"])
    net.text.config.to_json_file(folder / "text_encoder/config.json")
    net.unet.save_config(folder / "unet")
    scheduler().save_config(folder / "scheduler")
    vae = dict(_class_name="AutoencoderKL", in_channels=3, out_channels=3, latent_channels=12, block_out_channels=[1, 1],
               scaling_factor=1.0, sample_size=shapes.SIDE)
    for part in ("vae_encoder", "vae_decoder"):
        (folder / part / "config.json").write_text(json.dumps(vae, indent=2) + "\n")
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"],
             "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
             "safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent / "pipeline")
    parser.add_argument("--steps", type=int, default=5000)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    tokenizer = write_tokenizer(args.out / "tokenizer")
    tokens = lambda texts: tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    net = Whole(len(tokenizer))
    print(f"{sum(p.numel() for p in net.unet.parameters())} parameters in the UNet, {len(tokenizer)} tokens")
    rng = np.random.default_rng(SEED)
    wanted = [s for style in ("", "flat") for s in shapes.scenes(PICTURES // 2, rng, style)]
    latents = encode(np.stack([shapes.draw(s, rng) for s in wanted]))
    empty = tokens([""])
    net = train(net, tokens([s.caption() for s in wanted]), latents, empty, args.steps)
    print(f"{accuracy(net, tokens, empty):.3f} of the pictures show what their captions say")
    write(net, args.out, len(tokenizer))


if __name__ == "__main__":
    main()
