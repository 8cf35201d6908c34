"""Tiny random pipelines of several families, with what diffusers draws from them: tests/pipeline/NAME.zip.

    pip install optimum-onnx==0.1.0 transformers==4.57.1 diffusers==0.35.2 torch==2.9.1 onnxruntime onnx accelerate ftfy "numpy<2.4"
    python models/exports/pipelines.py tests/pipeline [NAME ...]
"""
import inspect
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import safetensors.numpy
import torch
from diffusers import (AutoencoderDC, AutoencoderKL, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                       FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel, PixArtAlphaPipeline,
                       PixArtSigmaPipeline, PixArtTransformer2DModel, SanaPipeline, SanaTransformer2DModel, SD3Transformer2DModel,
                       StableDiffusion3Pipeline, StableDiffusionXLPipeline, UNet2DConditionModel)
from optimum.onnxruntime import ORTFluxPipeline, ORTStableDiffusion3Pipeline, ORTStableDiffusionXLPipeline
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, Gemma2Config, Gemma2Model,
                          GemmaTokenizerFast, T5Config, T5EncoderModel, T5TokenizerFast)

PROMPT, STEPS = "a photo of the red cat", 6
# Some pipelines take texts in lower case and without spaces around them; others sizes of pictures from a list, unless told.
SHOUTED, PLAIN = "  A photo of the red CAT ", dict(clean_caption=False, use_resolution_binning=False)
TOKENIZER = CLIPTokenizer.from_pretrained(pathlib.Path(__file__).parents[1] / "tiny/pipeline/tokenizer")


def clip(cls, width=32, projection=32):
    return cls(CLIPTextConfig(hidden_size=width, intermediate_size=37, num_attention_heads=4, num_hidden_layers=3, vocab_size=534,
                              bos_token_id=532, eos_token_id=533, pad_token_id=533, projection_dim=projection)).eval()


def t5():
    words = [("▁" + w, -3.0) for w in PROMPT.split()] + [(c, -8.0) for c in "abcdefghijklmnopqrstuvwxyz▁,.!"]
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *words], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    config = T5Config(vocab_size=64, d_model=64, d_kv=16, d_ff=37, num_layers=2, num_heads=4, is_encoder_decoder=False)
    return T5EncoderModel(config).eval(), T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=77)


def vae(channels=4, shift=None):
    return AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
                         block_out_channels=[8, 16], latent_channels=channels, norm_num_groups=4, sample_size=32,
                         shift_factor=shift, scaling_factor=0.5).eval()


def sdxl():
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=72, cross_attention_dim=80, norm_num_groups=4).eval()
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                       timestep_spacing="leading", steps_offset=1)
    return StableDiffusionXLPipeline(
        vae=vae(), text_encoder=clip(CLIPTextModel), text_encoder_2=clip(CLIPTextModelWithProjection, 48, 24), tokenizer=TOKENIZER,
        tokenizer_2=TOKENIZER, unet=unet, scheduler=scheduler, force_zeros_for_empty_prompt=True)


def sd3():
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=8, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=48, out_channels=8, pos_embed_max_size=16).eval()
    encoder, tokenizer = t5()
    first, second = (clip(CLIPTextModelWithProjection, 32, 24) for _ in range(2))
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(8, 0.06), text_encoder=first,
        tokenizer=TOKENIZER, text_encoder_2=second, tokenizer_2=TOKENIZER, text_encoder_3=encoder, tokenizer_3=tokenizer)


def flux():
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=64, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True).eval()
    encoder, tokenizer = t5()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15,
                                                base_image_seq_len=256, max_image_seq_len=4096)
    return FluxPipeline(transformer=transformer, scheduler=scheduler, vae=vae(4, 0.06), text_encoder=clip(CLIPTextModel),
                        tokenizer=TOKENIZER, text_encoder_2=encoder, tokenizer_2=tokenizer)


def pixart(cls, additional, **scheduler):
    # With a sample size of 128 the pipeline tells the model how large the picture is.
    transformer = PixArtTransformer2DModel(
        sample_size=128 if additional else 16, num_layers=2, patch_size=2, attention_head_dim=12, num_attention_heads=4, in_channels=4,
        out_channels=8, cross_attention_dim=48, caption_channels=64, norm_type="ada_norm_single",
        use_additional_conditions=additional).eval()
    encoder, tokenizer = t5()
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", **scheduler)
    return cls(tokenizer=tokenizer, text_encoder=encoder, vae=vae(), transformer=transformer, scheduler=scheduler)


def gemma():
    """A tokenizer built as Gemma's, trained on what Sana writes before a prompt."""
    instruction = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer.train_from_iterator([*instruction, PROMPT], trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)])
    config = Gemma2Config(vocab_size=512, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                          num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, max_position_embeddings=1024)
    return Gemma2Model(config).eval(), GemmaTokenizerFast(tokenizer_object=tokenizer, model_max_length=77)


def sana():
    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=8, out_channels=8, num_layers=2, num_attention_heads=4, attention_head_dim=8, sample_size=32,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=16).eval()
    encoder, tokenizer = gemma()
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    scales, widths = ((), (), ()) + ((5,),) * 3, (4, 4, 8, 8, 8, 16)
    autoencoder = AutoencoderDC(
        latent_channels=8, attention_head_dim=8, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6, encoder_qkv_multiscales=scales, decoder_qkv_multiscales=scales,
        downsample_block_type="conv", upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
        scaling_factor=0.41407).eval()
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(tokenizer=tokenizer, text_encoder=encoder, vae=autoencoder, transformer=transformer, scheduler=scheduler)


def packed(latents):
    n, c, h, w = latents.shape
    return latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, c * 4)


class Call(torch.nn.Module):
    """A model whose forward is a function of it and the inputs."""

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs):
        return self.function(self.model, *inputs)


def written(model, function, path, inputs, output, fixed=()):
    """Exports `function(model, *inputs)`. The batch is open, and so are the other dimensions of all inputs that are not `fixed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {name: {0: "batch_size"} | ({} if name in fixed else {i: f"{name}_{i}" for i in range(1, value.ndim)})
            for name, value in inputs.items()}
    torch.onnx.export(Call(model, function).eval(), tuple(inputs.values()), str(path), opset_version=17, dynamo=False,
                      input_names=list(inputs), output_names=[output], dynamic_axes=axes)


def pixart_onnx(pipeline, folder):
    """optimum knows no PixArt: the same layout, with its names of inputs."""
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(folder.parent / "torch" / name, folder / name)
    shutil.copy(folder.parent / "torch/model_index.json", folder)
    ids, mask = torch.zeros(2, 120, dtype=torch.int64), torch.ones(2, 120, dtype=torch.int64)
    written(pipeline.text_encoder, lambda m, i, k: m(i, attention_mask=k)[0], folder / "text_encoder/model.onnx",
            dict(input_ids=ids, attention_mask=mask), "last_hidden_state")
    inputs = dict(hidden_states=torch.randn(2, 4, 16, 16), encoder_hidden_states=torch.randn(2, 120, 64),
                  encoder_attention_mask=mask, timestep=torch.tensor([5, 5]))
    if pipeline.transformer.config.use_additional_conditions:
        inputs |= dict(resolution=torch.full((2, 2), 32.0), aspect_ratio=torch.ones(2, 1))
    written(pipeline.transformer, lambda m, x, e, k, t, r=None, a=None: m(
        x, e, t, dict(resolution=r, aspect_ratio=a), encoder_attention_mask=k, return_dict=False)[0],
        folder / "transformer/model.onnx", inputs, "out_sample", fixed=("hidden_states", "resolution", "aspect_ratio"))
    written(pipeline.vae, lambda m, x: m.encode(x).latent_dist.parameters, folder / "vae_encoder/model.onnx",
            dict(sample=torch.randn(2, 3, 32, 32)), "latent_parameters")
    written(pipeline.vae, lambda m, z: m.decode(z, return_dict=False)[0], folder / "vae_decoder/model.onnx",
            dict(latent_sample=torch.randn(2, 4, 16, 16)), "sample")
    for name in ("text_encoder", "transformer", "vae_encoder", "vae_decoder"):
        own = "vae" if name.startswith("vae") else name
        shutil.copy(folder.parent / "torch" / own / "config.json", folder / name)


def by_optimum(_, folder):
    subprocess.run(["optimum-cli", "export", "onnx", "--model", folder.parent / "torch", "--task", "text-to-image", folder], check=True)


# How each is built, exported and drawn from, pixels of a side, guidance, text, and what the pipeline is told besides.
CASES = {
    "sdxl": (sdxl, by_optimum, ORTStableDiffusionXLPipeline, 32, 7.5, PROMPT, {}),
    "sd3": (sd3, by_optimum, ORTStableDiffusion3Pipeline, 32, 7.5, PROMPT, {}),
    "flux": (flux, by_optimum, ORTFluxPipeline, 32, 3.5, PROMPT, {}),
    "pixart_alpha": (lambda: pixart(PixArtAlphaPipeline, True), pixart_onnx, None, 32, 4.5, SHOUTED, PLAIN),
    "pixart_sigma": (lambda: pixart(PixArtSigmaPipeline, False, timestep_spacing="trailing"), pixart_onnx, None, 32, 4.5, SHOUTED, PLAIN),
    "sana": (sana, by_optimum, None, 64, 4.5, SHOUTED, PLAIN),
}

output = pathlib.Path(sys.argv[1])
for name, (build, export, reader, pixels, guidance, prompt, more) in CASES.items():
    if sys.argv[2:] and name not in sys.argv[2:]:
        continue
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        pipeline = build()
        pipeline.save_pretrained(folder / "torch")
        onnx = folder / "onnx"
        export(pipeline, onnx)
        generator = torch.Generator().manual_seed(1)
        side = pixels // pipeline.vae_scale_factor
        latents = torch.randn((1, pipeline.vae.config.latent_channels, side, side), generator=generator)
        image = (reader.from_pretrained(onnx) if reader else pipeline)(
            prompt, latents=packed(latents) if name == "flux" else latents, num_inference_steps=STEPS, guidance_scale=guidance,
            height=pixels, width=pixels, output_type="np", **more).images
        picture = torch.rand((1, 3, pixels, pixels), generator=generator) * 2 - 1
        with torch.no_grad():
            encoded = pipeline.vae.encode(picture)
        encoded = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mean
        shift = pipeline.vae.config.get("shift_factor") or 0
        expected = {"latents": latents, "image": torch.tensor(np.asarray(image)).permute(0, 3, 1, 2), "picture": picture,
                    "encoded": (encoded - shift) * pipeline.vae.config.scaling_factor}
        expected = {name: tensor.contiguous().numpy() for name, tensor in expected.items()}
        safetensors.numpy.save_file(expected, onnx / "expected.safetensors")
        with zipfile.ZipFile(output / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(p for p in onnx.rglob("*") if p.is_file()):
                archive.write(path, path.relative_to(onnx))
