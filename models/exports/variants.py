"""The same models in other forms: operator sets, open dimensions, half precision, external data, unfolded constants."""

import torch
from diffusers.models.attention_processor import AttnProcessor

from case import add, sample_call, text_call
from dits import joint, no_dict, sd3
from unets import conditional, image, latent, unet2d

only = lambda exporter, **options: dict(exporters=(exporter,), options={exporter: options})  # noqa: E731


def sd3_call(m, x, e, p, t):
    return no_dict(m, x, e, p, t)


OPEN = {"sample": {0: "batch", 2: "height", 3: "width"}, "timestep": {0: "batch"},
        "encoder_hidden_states": {0: "batch", 1: "sequence"}}



def decomposed(model):
    """Attention in products and a softmax: what these operator sets can hold."""
    for module in model.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(AttnProcessor())
    return model


add("sd15_opset11", lambda: decomposed(conditional()), latent, text_call, **only("ts"), opsets={"ts": 11})
add("sd15_opset13", lambda: decomposed(conditional()), latent, text_call, **only("ts"), opsets={"ts": 13})
add("sd15_opset21", conditional, latent, text_call, **only("dynamo"), opsets={"dynamo": 21})
add("sd15_opset23", conditional, latent, text_call, **only("dynamo"), opsets={"dynamo": 23})
add("unet2d_opset11", lambda: decomposed(unet2d()), image, sample_call, exporters=("ts",), opsets={"ts": 11})
add("sd3_opset23", lambda: sd3(qk_norm="rms_norm"), joint, sd3_call, exporters=("dynamo",), opsets={"dynamo": 23})
add("sd15_unfolded", conditional, latent, text_call, **only("ts", do_constant_folding=False))
add("sd15_open", conditional, latent, text_call, **only("ts", dynamic_axes=OPEN))
add("sd15_external", conditional, latent, text_call, **only("dynamo", external_data=True))
add("unet2d_open", unet2d, image, sample_call,
    exporters=("ts", "dynamo"),
    options={"ts": dict(dynamic_axes={n: OPEN[n] for n in ("sample", "timestep")}),
             "dynamo": dict(dynamic_shapes=((dict(zip((0, 2, 3), (torch.export.Dim("batch", min=1, max=8), torch.export.Dim.AUTO,
                                                                 torch.export.Dim.AUTO))), {0: torch.export.Dim(
                                                                     "batch", min=1, max=8)}),))})

# torch.export rounds also constants to bfloat16 that PyTorch does not, such as the scale of attention.
for half, exporters in (("fp16", ("ts", "dynamo")), ("bf16", ("ts",))):
    add(f"sd15_{half}", conditional, latent, text_call, exporters=exporters, half=half)
    add(f"sd3_{half}", sd3, joint, sd3_call, exporters=exporters, half=half)
