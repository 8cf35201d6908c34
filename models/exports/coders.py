"""Autoencoders, and text encoders, which run forward only."""

import diffusers as d
import torch
import transformers as tr

from case import add, ids, r

BLOCKS = dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4,
              down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)


def image():
    return dict(sample=r(2, 3, 16, 16))


add("vae_encoder", lambda: d.AutoencoderKL(**BLOCKS), image, lambda m, x: m.encode(x).latent_dist.parameters)
add("vae_decoder", lambda: d.AutoencoderKL(**BLOCKS), lambda: dict(latent_sample=r(2, 4, 8, 8)), lambda m, x: m.decode(x).sample)
add("vae", lambda: d.AutoencoderKL(**BLOCKS), image, lambda m, x: m(x).sample)
add("vae_tiny", lambda: d.AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                                          num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)),
    image, lambda m, x: m.decode(m.encode(x).latents).sample)
# The TorchScript exporter writes its movedim as a Transpose with a negative axis, which ONNX forbids.
add("vae_dc", lambda: d.AutoencoderDC(
    latent_channels=4, attention_head_dim=16, encoder_block_types=("ResBlock", "EfficientViTBlock"),
    decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 16),
    decoder_block_out_channels=(8, 16), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
    encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)), decoder_norm_types="rms_norm",
    decoder_act_fns="silu"),
    image, lambda m, x: m(x).sample, exporters=("dynamo",))
add("vae_svd", lambda: d.AutoencoderKLTemporalDecoder(
    block_out_channels=(32, 32), layers_per_block=1, latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 2),
    lambda: dict(latent_sample=r(2, 4, 4, 4)), lambda m, x: m.decode(x, num_frames=2).sample)
add("vae_wan", lambda: d.AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1,
                                          temperal_downsample=[False]),
    lambda: dict(sample=r(1, 3, 1, 8, 8)), lambda m, x: m.decode(m.encode(x).latent_dist.mode()).sample)
add("vae_cogvideox", lambda: d.AutoencoderKLCogVideoX(
    block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, temporal_compression_ratio=1,
    down_block_types=("CogVideoXDownBlock3D",) * 2, up_block_types=("CogVideoXUpBlock3D",) * 2),
    lambda: dict(latent_sample=r(1, 4, 1, 4, 4)), lambda m, x: m.decode(x).sample)
add("vae_ltx", lambda: d.AutoencoderKLLTXVideo(
    block_out_channels=(8, 8, 8), latent_channels=4, decoder_block_out_channels=(8, 8, 8), layers_per_block=(1,) * 4,
    decoder_layers_per_block=(1,) * 4, spatio_temporal_scaling=(True, True, False),
    decoder_spatio_temporal_scaling=(True, True, False), decoder_inject_noise=(False,) * 4,
    downsample_type=("conv",) * 3, upsample_residual=(False,) * 3, upsample_factor=(1,) * 3, patch_size=1,
    down_block_types=("LTXVideoDownBlock3D",) * 3),
    lambda: dict(latent_sample=r(1, 4, 1, 4, 4)), lambda m, x: m.decode(x).sample, exporters=("dynamo",))
add("vq", lambda: d.VQModel(block_out_channels=(16,), norm_num_groups=4, latent_channels=3, num_vq_embeddings=8,
                            down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",)),
    lambda: dict(latent_sample=r(2, 3, 4, 4)), lambda m, x: m.decode(x, force_not_quantize=True).sample)


def plain(model):
    """The same weights without the split into length and direction that only trains."""
    for module in model.modules():
        if hasattr(module, "parametrizations"):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
        elif hasattr(module, "weight_g"):
            torch.nn.utils.remove_weight_norm(module)
    return model


add("oobleck", lambda: plain(d.AutoencoderOobleck(encoder_hidden_size=8, downsampling_ratios=[2, 4], channel_multiples=[1, 2],
                                            decoder_channels=8, decoder_input_channels=4, audio_channels=2)),
    lambda: dict(sample=r(1, 2, 32)), lambda m, x: m.decode(m.encode(x).latent_dist.mode()).sample)
add("clip_text", lambda: tr.CLIPTextModel(tr.CLIPTextConfig(vocab_size=40, hidden_size=16, intermediate_size=24,
                                                            num_hidden_layers=2, num_attention_heads=2,
                                                            max_position_embeddings=10, eos_token_id=39, bos_token_id=38,
                                                            pad_token_id=0)),
    lambda: dict(input_ids=ids(38, 2, 10)), lambda m, i: m(i).last_hidden_state, trains=False)
add("t5", lambda: tr.T5EncoderModel(tr.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
                                                feed_forward_proj="gated-gelu")),
    lambda: dict(input_ids=ids(40, 2, 10)), lambda m, i: m(i).last_hidden_state, trains=False)
add("clip_vision", lambda: tr.CLIPVisionModelWithProjection(tr.CLIPVisionConfig(
    hidden_size=16, intermediate_size=24, projection_dim=8, num_hidden_layers=2, num_attention_heads=2, image_size=8,
    patch_size=4)),
    lambda: dict(pixel_values=r(2, 3, 8, 8)), lambda m, x: m(x).image_embeds, trains=False)
