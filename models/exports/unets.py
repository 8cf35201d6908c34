"""Convolutional denoisers."""

import diffusers as d
import torch

from case import add, f, ids, r, sample_call, t, text_call

def unet2d(**more):
    config = dict(sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
                  norm_num_groups=4, attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                  up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    return d.UNet2DModel(**(config | more))


def image():
    return dict(sample=r(2, 3, 8, 8), timestep=t())


add("unet2d", unet2d, image, sample_call)
add("unet2d_scale_shift", lambda: unet2d(resnet_time_scale_shift="scale_shift"), image, sample_call)
add("unet2d_resnet_sampling", lambda: unet2d(downsample_type="resnet", upsample_type="resnet"), image, sample_call)
add("unet2d_resnet_blocks", lambda: unet2d(
    down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"), resnet_time_scale_shift="scale_shift"), image, sample_call)
add("unet2d_skip", lambda: unet2d(down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
                                  up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"), block_out_channels=(32, 32),
                                  time_embedding_type="fourier"),
    lambda: dict(sample=r(2, 3, 8, 8), timestep=f(0.3, 0.8)), sample_call)
add("unet2d_class", lambda: unet2d(num_class_embeds=5),
    lambda: dict(sample=r(2, 3, 8, 8), timestep=t(), class_labels=torch.tensor([1, 3])),
    lambda m, x, t, c: m(x, t, class_labels=c, return_dict=False))


def conditional(**more):
    config = dict(sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
                  norm_num_groups=4, attention_head_dim=2, cross_attention_dim=12,
                  down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                  up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    return d.UNet2DConditionModel(**(config | more))


def latent():
    return dict(sample=r(2, 4, 8, 8), timestep=t(), encoder_hidden_states=r(2, 5, 12))


def sdxl():
    return conditional(addition_embed_type="text_time", addition_time_embed_dim=4, transformer_layers_per_block=(1, 2),
                       projection_class_embeddings_input_dim=6 * 4 + 8, use_linear_projection=True,
                       down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                       up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))


def sdxl_inputs():
    return latent() | dict(text_embeds=r(2, 8), time_ids=f(*[8, 8, 0, 0, 8, 8] * 2).reshape(2, 6))


def sdxl_call(m, x, t, e, text, time):
    return m(x, t, e, added_cond_kwargs=dict(text_embeds=text, time_ids=time), return_dict=False)


add("sd15", conditional, latent, text_call)
add("sd21", lambda: conditional(use_linear_projection=True, attention_head_dim=(2, 4)), latent, text_call)
add("sdxl", sdxl, sdxl_inputs, sdxl_call)
add("sd15_simple_attention", lambda: conditional(
    down_block_types=("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"), attention_head_dim=8,
    up_block_types=("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    resnet_time_scale_shift="scale_shift"), latent, text_call)
add("kandinsky", lambda: conditional(
    down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), attention_head_dim=8,
    up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    resnet_time_scale_shift="scale_shift", addition_embed_type="image", encoder_hid_dim=10,
    encoder_hid_dim_type="image_proj"),
    lambda: dict(sample=r(2, 4, 8, 8), timestep=t(), image_embeds=r(2, 10)),
    lambda m, x, t, e: m(x, t, None, added_cond_kwargs=dict(image_embeds=e), return_dict=False))
add("instaflow_timecond", lambda: conditional(time_cond_proj_dim=6),
    lambda: latent() | dict(timestep_cond=r(2, 6)),
    lambda m, x, t, e, c: m(x, t, e, timestep_cond=c, return_dict=False))
add("sd15_mask", conditional, lambda: latent() | dict(mask=torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])),
    lambda m, x, t, e, k: m(x, t, e, encoder_attention_mask=k, return_dict=False))
add("controlnet", lambda: d.ControlNetModel(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
                                            attention_head_dim=2, cross_attention_dim=12,
                                            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                            conditioning_embedding_out_channels=(8, 12)),
    lambda: latent() | dict(cond=r(2, 3, 16, 16)),
    lambda m, x, t, e, c: m(x, t, e, c, return_dict=False)[1])
add("sd15_controlled", conditional,
    lambda: latent() | dict(down_0=r(2, 8, 8, 8), down_1=r(2, 8, 8, 8), down_2=r(2, 8, 4, 4), down_3=r(2, 16, 4, 4),
                            mid=r(2, 16, 4, 4)),
    lambda m, x, t, e, a, b, c, g, k: m(x, t, e, down_block_additional_residuals=(a, b, c, g),
                                        mid_block_additional_residual=k, return_dict=False))
add("cascade", lambda: d.StableCascadeUNet(in_channels=4, out_channels=4, timestep_ratio_embedding_dim=8, patch_size=1,
                                           conditioning_dim=16, block_out_channels=(8, 16), num_attention_heads=(0, 2),
                                           down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1),
                                           down_blocks_repeat_mappers=(1, 1), up_blocks_repeat_mappers=(1, 1),
                                           block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock"),
                                                                  ("SDCascadeResBlock", "SDCascadeTimestepBlock",
                                                                   "SDCascadeAttnBlock")),
                                           clip_text_pooled_in_channels=10, clip_text_in_channels=12,
                                           clip_image_in_channels=6, timestep_conditioning_type=("sca", "crp")),
    lambda: dict(sample=r(2, 4, 8, 8), ratio=f(0.3, 0.8), pooled=r(2, 1, 10), text=r(2, 3, 12), image=r(2, 1, 6)),
    lambda m, x, t, p, e, i: m(x, t, p, clip_text=e, clip_img=i, return_dict=False))
add("uvit", lambda: d.UVit2DModel(hidden_size=32, cond_embed_dim=16, micro_cond_encode_dim=8, micro_cond_embed_dim=40,
                                  encoder_hidden_size=16, vocab_size=20, codebook_size=16, in_channels=24,
                                  block_out_channels=24, num_res_blocks=1, downsample=True, upsample=True,
                                  block_num_heads=2, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
                                  sample_size=8),
    lambda: dict(input_ids=ids(20, 2, 8, 8), encoder_hidden_states=r(2, 5, 16), pooled=r(2, 16),
                 micro=f(*range(10)).reshape(2, 5)),
    lambda m, i, e, p, c: m(i, e, p, c))
add("unet1d", lambda: d.UNet1DModel(sample_size=16, in_channels=2, out_channels=2, extra_in_channels=16,
                                    down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
                                    up_block_types=("UpBlock1D", "UpBlock1DNoSkip"), block_out_channels=(8, 32)),
    lambda: dict(sample=r(2, 2, 16), timestep=f(0.3, 0.8)), sample_call)
add("unet1d_diffuser", lambda: d.UNet1DModel(
    sample_size=16, in_channels=6, out_channels=6, time_embedding_type="positional", flip_sin_to_cos=False,
    use_timestep_embedding=True, freq_shift=1.0, down_block_types=("DownResnetBlock1D",) * 2,
    up_block_types=("UpResnetBlock1D",), mid_block_type="MidResTemporalBlock1D", out_block_type="OutConv1DBlock",
    block_out_channels=(16, 32), act_fn="mish", norm_num_groups=8),
    lambda: dict(sample=r(2, 6, 16), timestep=t()), sample_call)

# Video by convolutions.

add("svd", lambda: d.UNetSpatioTemporalConditionModel(
    sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 32), addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=24, layers_per_block=1, cross_attention_dim=8, num_attention_heads=2,
    num_frames=2, down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")),
    lambda: dict(sample=r(2, 2, 4, 8, 8), timestep=t(), encoder_hidden_states=r(2, 1, 8),
                 added_time_ids=f(6, 127, 0.02, 7, 127, 0.1).reshape(2, 3)),
    lambda m, x, t, e, a: m(x, t, e, a, return_dict=False))
add("motion", lambda: d.UNetMotionModel(
    sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12,
    num_attention_heads=2, motion_num_attention_heads=2, motion_max_seq_length=4,
    down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), up_block_types=("UpBlockMotion",
                                                                                      "CrossAttnUpBlockMotion")),
    lambda: dict(sample=r(2, 4, 2, 8, 8), timestep=t(), encoder_hidden_states=r(4, 5, 12)), text_call)
add("unet3d", lambda: d.UNet3DConditionModel(
    sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12,
    attention_head_dim=8, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D")),
    lambda: dict(sample=r(2, 4, 2, 8, 8), timestep=t(), encoder_hidden_states=r(2, 5, 12)), text_call)
