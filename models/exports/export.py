"""Exports tiny, randomly initialised diffusion models with PyTorch's outputs and gradients beside them.

    python export.py FOLDER [PATTERN ...] [--grads KIB] [--pack]

Each case of families.py becomes CASE.EXPORTER.onnx, .case.safetensors and, if it trains, .grads.safetensors, or an archive of
these. PATTERN is a shell pattern on CASE.EXPORTER; @FILE reads patterns from a file, one a line. Versions are in requirements.txt; everything is made from fixed seeds.
"""

import argparse
import fnmatch
import gc
import hashlib
import os
import pathlib
import traceback
import warnings
import zipfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

import families

warnings.filterwarnings("ignore")
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def randomise(model):
    """Gives each parameter elements of its own: normalisations and what diffusers sets to zero would be alike otherwise."""
    with torch.no_grad():
        for p in model.parameters():
            if not p.is_floating_point():
                continue
            if p.ndim < 2:
                p.add_(0.1 * torch.randn_like(p))
            elif p.std() < 1e-6:
                p.add_(0.05 * torch.randn_like(p))
            # Half of the bits are zeros, which an archive need not hold.
            p.copy_(p.bfloat16().float())


class Call(torch.nn.Module):
    """A model as a function of tensors alone, whose result is its first output."""

    def __init__(self, model, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *args):
        out = self.call(self.model, *args)
        if hasattr(out, "to_tuple"):
            out = out.to_tuple()
        while isinstance(out, (tuple, list)):
            out = out[0]
        return out


def rms_norm(x, shape, weight=None, eps=None):
    """torch.nn.functional.rms_norm in operators that the TorchScript exporter has."""
    axes = tuple(range(-len(shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    y = x * torch.rsqrt(x.pow(2).mean(axes, keepdim=True) + eps)
    return y if weight is None else y * weight


def by_value(model, dtype):
    """Parameters by the bytes they have in the file, as they are and transposed."""
    found = {}
    for name, p in model.named_parameters():
        array = p.detach().to(dtype).contiguous().flatten().view(torch.uint8).numpy()
        found.setdefault(hashlib.sha1(array.tobytes()).digest(), (name, False))
        if p.ndim == 2:
            flipped = p.detach().T.to(dtype).contiguous().flatten().view(torch.uint8).numpy()
            found.setdefault(hashlib.sha1(flipped.tobytes()).digest(), (name, True))
    return found


def stored_gradients(path, model, dtype, budget):
    """Gradients under the names and shapes of the file."""
    proto = onnx.load(path)
    parameters = dict(model.named_parameters())
    table = by_value(model, dtype)
    grads = {}
    for tensor in proto.graph.initializer:
        raw = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        found = table.get(hashlib.sha1(raw).digest())
        if found is None or len(raw) <= dtype.itemsize:
            continue
        name, flipped = found
        grad = parameters[name].grad
        if grad is None:
            continue
        grad = grad.T if flipped else grad
        grads[tensor.name] = grad.reshape(list(tensor.dims)).contiguous().clone()
    return trimmed(grads, budget), len(grads)


def trimmed(grads, budget):
    """Those that fit into `budget` bytes, in the order of the hashes of their names: it depends on nothing else."""
    kept, used = {}, 0
    for name in sorted(grads, key=lambda n: hashlib.sha1(n.encode()).digest()):
        size = grads[name].numel() * 4
        if budget is None or used + size <= budget:
            kept[name] = grads[name]
            used += size
    return kept


def strip(path):
    """Removes what only tells where in Python a node comes from."""
    proto = onnx.load(path, load_external_data=False)
    for node in proto.graph.node:
        keep = [p for p in node.metadata_props if p.key == "namespace"]
        del node.metadata_props[:]
        node.metadata_props.extend(keep)
        node.doc_string = ""
    del proto.graph.value_info[:]
    onnx.save(proto, path)


def pack(folder, name):
    """Puts the files of a case into one archive."""
    with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.glob(f"{name}.*")):
            if path.suffix == ".zip":
                continue
            entry = zipfile.ZipInfo(path.name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
            path.unlink()


def export(case, exporter, folder, budget):
    torch.manual_seed(0)
    model = case.build().eval()
    randomise(model)
    if case.half:
        model = model.to(HALF[case.half]).float()
    inputs = case.inputs()
    if case.half:
        inputs = {n: t.to(HALF[case.half]).float() if t.is_floating_point() else t for n, t in inputs.items()}
    names = list(inputs)
    wrapped = Call(model, case.call)
    out = wrapped(*inputs.values())
    target = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    loss = ((out - target) ** 2).mean()
    if case.trains:
        loss.backward()
    assert torch.isfinite(out).all() and out.std() > 1e-6, "the output is degenerate"
    path = folder / f"{case.name}.{exporter}.onnx"
    options = dict(input_names=names, output_names=["out_sample"], opset_version=case.opset(exporter))
    options |= case.options.get(exporter, {})
    exported, given = wrapped, dict(inputs)
    if case.half:
        torch.manual_seed(0)
        half = case.build().eval()
        half.load_state_dict(model.state_dict())
        exported = Call(half.to(HALF[case.half]), case.call)
        given = {n: t.to(HALF[case.half]) if t.is_floating_point() else t for n, t in inputs.items()}
    with torch.no_grad():
        if exporter == "ts":
            own, torch.nn.functional.rms_norm = torch.nn.functional.rms_norm, rms_norm
            try:
                torch.onnx.export(exported, tuple(given.values()), path, dynamo=False, **options)
            finally:
                torch.nn.functional.rms_norm = own
        else:
            options.setdefault("external_data", False)
            torch.onnx.export(exported, tuple(given.values()), path, dynamo=True, verbose=False, **options)
    strip(path)
    tensors = {n: t.contiguous() for n, t in given.items()}
    tensors |= {"target": target, "expected.out_sample": out.detach().contiguous(), "expected.loss": loss.detach()}
    present = {i.name for i in onnx.load(path, load_external_data=False).graph.input}
    tensors = {n: t.clone() for n, t in tensors.items() if n in present or n == "target" or n.startswith("expected")}
    save_file(tensors, folder / f"{case.name}.{exporter}.case.safetensors")
    grads, found = {}, 0
    if case.trains:
        grads, found = stored_gradients(path, model, HALF.get(case.half, torch.float32), budget)
        save_file(grads, folder / f"{case.name}.{exporter}.grads.safetensors")
    count = sum(p.numel() for p in model.parameters())
    total = sum(1 for p in model.parameters() if p.grad is not None)
    size = path.stat().st_size // 1024
    print(f"{case.name}.{exporter}: {count} parameters, {size} KiB, {len(grads)}/{found}/{total} gradients", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("patterns", nargs="*", default=["*"])
    arguments.add_argument("--grads", type=int, default=None, help="bytes of gradients a case keeps, in KiB")
    arguments.add_argument("--pack", action="store_true", help="one archive a case")
    given = arguments.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for case in families.CASES:
        for exporter in case.exporters:
            if not any(fnmatch.fnmatch(f"{case.name}.{exporter}", p) for p in given.patterns):
                continue
            try:
                export(case, exporter, given.folder, given.grads and given.grads * 1024)
                if given.pack:
                    pack(given.folder, f"{case.name}.{exporter}")
            except Exception as error:
                reason = str(error).strip().splitlines() or [""]
                print(f"{case.name}.{exporter}: not exported: {type(error).__name__}: {reason[0][:200]}", flush=True)
                if os.environ.get("TRACE"):
                    traceback.print_exc()
                for left in folder_files(given.folder, case.name, exporter):
                    left.unlink()
            gc.collect()


def folder_files(folder, name, exporter):
    return list(folder.glob(f"{name}.{exporter}.*"))


if __name__ == "__main__":
    main()
