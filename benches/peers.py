"""What others take for the same step on the same machine, in one sitting, and the ratios to ours.

usage: peers.py SARA UNET.onnx [--trainable-params 5M | --threshold T] [--batch 1] [--steps 3] [--rounds 2] [--ours sara,...]
       [--peers onnxruntime,lora,lora-bf16,...]
SARA is the built program, UNET.onnx the SD1.5 UNet as exported by diffusers (inputs sample, timestep,
encoder_hidden_states). Needs onnxruntime, torch, diffusers, peft. Each peer runs in a process of its own, in turn, and the
rounds repeat, so that a machine that slows down slows all of them; the shortest step of each counts.

Ours: sara; sara-memory = within 3750 MiB; sara-bf16 = mixed precision within 2150 MiB; sara-streamed = weights in their file,
within 900 MiB. Peers: onnxruntime = forward only; lora = PEFT, rank 16 on attention; lora-bf16 = the same in bfloat16; sara-like =
dense gradients of all convolutions and products, of which those of |w| < --threshold feed AdamW, by which ours then choose, too;
full = AdamW on all weights; dense = all weight gradients of convolutions and linear layers, each the shortest of some on operands that are
still near, against which ours are those at trained entries in a step, where they are not.
In single precision where nothing else is said; -compiled = by torch.compile. With --device cuda all run on a GPU, ours without a
limit unless the weights are streamed, and memory is what PyTorch allocated there and what our plan holds.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

OURS = {
    "sara": [],
    "sara-memory": ["--memory-limit=3750MiB"],
    "sara-bf16": ["--mixed-precision=bf16", "--memory-limit=2150MiB"],
    "sara-streamed": ["--weights=streamed", "--memory-limit=900MiB"],
}
DIMS = {"height": 64, "width": 64, "seq": 77, "sequence_length": 77}


def dims(args):
    return {**DIMS, "batch": args.batch, "batch_size": args.batch}


def dimensions(args):
    import onnx

    graph = onnx.load(args.model, load_external_data=False).graph
    names = {d.dim_param for i in graph.input for d in i.type.tensor_type.shape.dim if d.dim_param}
    return [f"--dim={n}={dims(args)[n]}" for n in sorted(names) if n in dims(args)]


def ours(args, name):
    amount = f"--threshold={args.threshold}" if args.threshold else f"--trainable-params={args.trainable_params}"
    unlimited = args.device != "cpu" and "--weights=streamed" not in OURS[name]
    flags = [*(f for f in OURS[name] if not (unlimited and f.startswith("--memory-limit"))), amount]
    with tempfile.TemporaryDirectory() as folder:
        # Compiling reads all weights; in a process of its own it does not count.
        plan = f"{folder}/unet.plan"
        compile_ = [args.sara, "compile", args.model, "--output", plan, *dimensions(args), *flags]
        subprocess.run(compile_, capture_output=True, check=True)
        bench = [args.sara, "bench", plan, f"--repeat={args.steps}", f"--device={args.device}", "--json"]
        out = subprocess.run(bench, capture_output=True, check=True)
    report = json.loads(out.stdout)
    kernels = next(p["kernels"] for p in report["programs"] if p["name"] == "train")
    gradients = sum(k["seconds"] for k in kernels if k["name"].startswith("masked_"))
    memory = (report["memory"]["total"] if args.device != "cpu" else report["peak_resident"] or 0) / 2**20
    return {"forward": report["forward_seconds"], "step": report["step_seconds"], "gradients": gradients, "mib": memory}


def onnxruntime(args):
    import numpy
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    provider = "CPUExecutionProvider" if args.device == "cpu" else "CUDAExecutionProvider"
    session = ort.InferenceSession(args.model, options, providers=[provider])
    if provider not in session.get_providers():
        sys.exit(f"this onnxruntime has no {provider}")
    rng = numpy.random.default_rng(0)
    feeds = {}
    for i in session.get_inputs():
        shape = [d if isinstance(d, int) else dims(args).get(d, 1) for d in i.shape]
        floats = "float" in i.type
        feeds[i.name] = rng.standard_normal(shape).astype("f") if floats else numpy.full(shape, 500, "int64")
    return {"forward": shortest(args.steps, lambda: session.run(None, feeds))}


def unet(args, half):
    """The network with its inputs, a sample, a time and a text, and a target."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    attention = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    net = UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768,
        attention_head_dim=8, layers_per_block=2, down_block_types=attention[0], up_block_types=attention[1],
    )
    x, text = torch.randn(args.batch, 4, 64, 64), torch.randn(args.batch, 77, 768)
    t, target = torch.full((args.batch,), 500), torch.randn(args.batch, 4, 64, 64)
    if half:
        net, x, text, target = net.bfloat16(), x.bfloat16(), text.bfloat16(), target.bfloat16()
    return net, (x, t, text), target


def dense(args, half):
    """The weight gradients of all layers, each the shortest of some runs on operands of its own."""
    import torch

    net, inputs, _ = unet(args, half)
    total = 0.0

    def time_layer(layer, given, result):
        nonlocal total
        x, dy = torch.randn_like(given[0]), torch.randn_like(result)
        if isinstance(layer, torch.nn.Linear):
            x, dy = x.flatten(0, -2), dy.flatten(0, -2)
            gradient = lambda: dy.t() @ x
        else:
            how = layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups, (False, True, False)
            gradient = lambda: torch.ops.aten.convolution_backward(dy, x, layer.weight, None, *how)

        def run():
            gradient()
            if args.device != "cpu":
                torch.cuda.synchronize()

        total += shortest(args.steps, run)

    for layer in net.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(time_layer)
    with torch.no_grad():
        net(*inputs)
    return {"gradients": total}


def torch_step(args, kind):
    import torch

    kind, compiled = kind.removesuffix("-compiled"), kind.endswith("-compiled")
    kind, half = kind.removesuffix("-bf16"), kind.endswith("-bf16")
    if kind == "dense":
        return dense(args, half)
    net, inputs, target = unet(args, half)
    masks = []
    if kind == "full":
        trained = list(net.parameters())
    elif kind == "lora":
        from peft import LoraConfig

        net.requires_grad_(False)
        net.add_adapter(LoraConfig(r=16, target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
        trained = [p for p in net.parameters() if p.requires_grad]
    else:
        net.requires_grad_(False)
        layers = [m.weight for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
        for w in layers:
            w.requires_grad_(True)
            index = (w.detach().flatten().abs() < args.threshold).nonzero().flatten()
            masks.append((w, index, torch.nn.Parameter(w.detach().flatten()[index].clone())))
        trained = [p for _, _, p in masks]
    optimiser = torch.optim.AdamW(trained, lr=1e-5)
    forward = torch.compile(net) if compiled else net

    def step():
        loss = torch.nn.functional.mse_loss(forward(*inputs, return_dict=False)[0], target)
        loss.backward()
        for w, index, p in masks:
            p.grad = w.grad.flatten()[index]
            w.grad = None
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for w, index, p in masks:
                w.view(-1)[index] = p
        if args.device != "cpu":
            torch.cuda.synchronize()

    result = {"step": shortest(args.steps, step)}
    if args.device != "cpu":
        result["mib"] = torch.cuda.max_memory_allocated() / 2**20
    return result


def shortest(steps, run):
    """The shortest of some runs, after one that is not counted."""
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sara")
    parser.add_argument("model")
    parser.add_argument("--trainable-params", default="5M")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(__import__("os").sched_getaffinity(0)))
    parser.add_argument("--ours", default=",".join(OURS))
    parser.add_argument("--peers", default="onnxruntime,lora,lora-bf16,full")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if "sara-like" in args.peers and not args.threshold:
        parser.error("sara-like needs --threshold")
    if "dense-compiled" in args.peers or "dense-bf16-compiled" in args.peers:
        parser.error("dense has no step to compile")
    if args.only:
        result = onnxruntime(args) if args.only == "onnxruntime" else torch_step(args, args.only)
        result.setdefault("mib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(json.dumps(result))
        return
    best = {}
    for round_ in range(args.rounds):
        for name in [*args.ours.split(","), *args.peers.split(",")]:
            if name in OURS:
                result = ours(args, name)
            else:
                out = subprocess.run([sys.executable, *sys.argv, "--only", name], stdout=subprocess.PIPE, check=True)
                result = json.loads(out.stdout.splitlines()[-1])
            print(f"round {round_ + 1} {name}: {result}", file=sys.stderr, flush=True)
            held = best.setdefault(name, result)
            for key, value in result.items():
                held[key] = max(held[key], value) if key == "mib" else min(held[key], value)
    timed = ("forward", "step", "gradients")
    print(f"{'':14}{''.join(f'{k} s'.rjust(13) for k in timed)}{'MiB':>8}  ours / theirs")
    for name, result in best.items():
        own = best.get("sara-bf16" if "-bf16" in name else "sara", result)
        cells = "".join(f"{result[k]:13.3f}" if k in result else f"{'':13}" for k in timed)
        ratios = [f"{k} {own[k] / result[k]:.3f}" for k in timed if k in result and own is not result]
        if name == "onnxruntime" and own is not result:
            ratios.append(f"our step / its forward {own['step'] / result['forward']:.2f}")
        print(f"{name:14}{cells}{result['mib']:8.0f}  {', '.join(ratios)}")


if __name__ == "__main__":
    main()
