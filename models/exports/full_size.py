"""The UNet of Stable Diffusion 1.5 at its full size, without its weights: tests/full_size/sd15_unet.zip.

    pip install -r models/exports/requirements.txt
    python models/exports/full_size.py tests/full_size
"""
import pathlib
import sys
import tempfile
import zipfile

import onnx
import torch
from diffusers import UNet2DConditionModel

OUT = pathlib.Path(sys.argv[1])
MODEL = UNet2DConditionModel(cross_attention_dim=768).eval()
INPUTS = dict(sample=torch.randn(1, 4, 64, 64), timestep=torch.tensor([10]), encoder_hidden_states=torch.randn(1, 77, 768))
AXES = dict(sample={0: "batch", 2: "height", 3: "width"}, timestep={0: "batch"}, encoder_hidden_states={0: "batch", 1: "seq"})


class Call(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.m = MODEL

    def forward(self, *inputs):
        return self.m(*inputs, return_dict=False)[0]


with tempfile.TemporaryDirectory() as folder:
    raw, whole = pathlib.Path(folder, "raw"), pathlib.Path(folder, "whole")
    raw.mkdir(), whole.mkdir()
    torch.onnx.export(Call(), tuple(INPUTS.values()), str(raw / "model.onnx"), input_names=list(INPUTS), output_names=["out_sample"],
                      opset_version=17, dynamo=False, dynamic_axes=AXES)
    model = onnx.load(str(raw / "model.onnx"))
    onnx.save_model(model, whole / "model.onnx", save_as_external_data=True, location="model.onnx_data")
    print("bytes of weights:", (whole / "model.onnx_data").stat().st_size)
    with zipfile.ZipFile(OUT / "sd15_unet.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.write(whole / "model.onnx", "model.onnx")
