"""Low-rank adaptation in PyTorch (Hu et al. 2021), on the parameters of an ONNX model, and back into the ONNX model."""
import importlib.util
import json
import math

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch.nn.utils import parametrize

from tasks import MODELS

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def module_of(task):
    if task.name == "shapes":
        return UNet2DConditionModel.from_config(json.loads((task.model.parent / "config.json").read_text()))
    spec = importlib.util.spec_from_file_location("digits_make", MODELS / "digits/make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make.make_unet()


class Restored:
    """The PyTorch module with the ONNX model's values, and where each parameter lies in the ONNX model."""

    def __init__(self, task):
        self.onnx = onnx.load(str(task.model))
        self.initializers = {i.name: i for i in self.onnx.graph.initializer}
        self.places = {name.removeprefix("unet."): (name, False) for name in self.initializers if name.startswith("unet.")}
        kinds = {"MatMul": ("weight", True), "Mul": ("weight", False), "Add": ("bias", False)}
        for node in self.onnx.graph.node:
            held = [i for i in node.input if i.startswith("onnx::") and i in self.initializers]
            if node.op_type in kinds and held:
                layer, _, _ = node.name.strip("/").removeprefix("unet/").rpartition("/")
                kind, transposed = kinds[node.op_type]
                self.places.setdefault(f"{layer.replace('/', '.')}.{kind}", (held[0], transposed))
        self.module = module_of(task)
        for name, parameter in self.module.named_parameters():
            place, transposed = self.places[name]
            value = onnx.numpy_helper.to_array(self.initializers[place])
            value = torch.from_numpy((value.T if transposed else value).copy())
            parameter.data.copy_(value.view_as(parameter))
            parameter.requires_grad_(False)

    def forward(self, sample, timestep, condition):
        return self.module(sample, timestep, condition, return_dict=False)[0]

    def write(self, weights, path):
        """The ONNX model with other values of these weights."""
        for name, value in weights.items():
            place, transposed = self.places[name]
            value = value.detach().numpy()
            value = np.ascontiguousarray(value.T if transposed else value).reshape(self.initializers[place].dims)
            self.initializers[place].CopyFrom(onnx.numpy_helper.from_array(value, place))
        onnx.save(self.onnx, str(path))


class LowRank(torch.nn.Module):
    """W + B A, with A over all that a row of W multiplies; B starts at zero."""

    def __init__(self, weight, rank):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.a = torch.nn.Parameter(torch.empty(rank, columns))
        self.b = torch.nn.Parameter(torch.zeros(rows, rank))
        torch.nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight):
        return weight + (self.b @ self.a).view_as(weight)


def layers(module, attention):
    for name, layer in module.named_modules():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)) and (not attention or name.endswith(ATTENTION)):
            yield name, layer


def size(layer, rank):
    return rank * (layer.weight.shape[0] + layer.weight[0].numel())


def train(task, batches, path, budget, attention, rate, seed):
    """Trains the rank whose number of parameters is nearest to the budget; returns that number."""
    torch.set_num_threads(1)
    restored = Restored(task)
    chosen = list(layers(restored.module, attention))
    each = sum(size(layer, 1) for _, layer in chosen)
    rank = max(1, round(budget / each))
    torch.manual_seed(seed)
    for _, layer in chosen:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))
    trained = [p for p in restored.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    tensors = {name: torch.from_numpy(value) for name, value in batches.items()}
    steps = len(tensors["target"])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        predicted = restored.forward(*(tensors[n][step] for n in ("sample", "timestep", task.condition)))
        loss = F.mse_loss(predicted, tensors["target"][step])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    restored.write({name + ".weight": layer.weight for name, layer in chosen}, path)
    return sum(p.numel() for p in trained)
