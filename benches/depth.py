"""How long compiling takes for UNets of one, two and four times the layers, whose weights are small.

usage: depth.py SARA [--memory-limit SIZE]
Needs torch, diffusers and onnx.
"""

import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

import onnx
import torch
from diffusers import UNet2DConditionModel

warnings.filterwarnings("ignore")
SARA, FLAGS = sys.argv[1], sys.argv[2:]


class Call(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.m = UNet2DConditionModel(layers_per_block=layers, block_out_channels=(32, 32, 32, 32), cross_attention_dim=32,
                                      attention_head_dim=4).eval()

    def forward(self, *inputs):
        return self.m(*inputs, return_dict=False)[0]


for layers in (2, 4, 8):
    with tempfile.TemporaryDirectory() as folder:
        path, plan = pathlib.Path(folder, "model.onnx"), pathlib.Path(folder, "model.plan")
        inputs = torch.randn(1, 4, 64, 64), torch.tensor([10]), torch.randn(1, 77, 32)
        torch.onnx.export(Call(layers), inputs, path, opset_version=17, dynamo=False)
        nodes = len(onnx.load(path).graph.node)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            command = [SARA, "compile", path, "--output", plan, "--trainable-params", "50K", *FLAGS]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            times.append(time.perf_counter() - start)
        took = min(times)
        print(f"{layers} layers a block, {nodes} nodes: {took:.3f} s, {1e6 * took / nodes:.0f} us a node")
