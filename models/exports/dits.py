"""Transformer denoisers of images and video."""

import diffusers as d
import torch

from case import add, f, ids, r, t, text_call, tf


def no_dict(m, *args, **named):
    return m(*args, return_dict=False, **named)


HEADS = dict(num_attention_heads=2, attention_head_dim=8)

# Images.

add("dit", lambda: d.DiTTransformer2DModel(**HEADS, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
                                           num_embeds_ada_norm=10, norm_num_groups=4),
    lambda: dict(sample=r(2, 4, 8, 8), timestep=t(), class_labels=torch.tensor([1, 3])),
    lambda m, x, t, c: no_dict(m, x, t, c))
# torch.export writes its squeeze(1) of a longer dimension as a Squeeze that ONNX forbids.
add("pixart", lambda: d.PixArtTransformer2DModel(**HEADS, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
                                                 cross_attention_dim=16, caption_channels=12, norm_num_groups=4,
                                                 use_additional_conditions=False),
    lambda: dict(sample=r(2, 4, 8, 8), encoder_hidden_states=r(2, 5, 12), timestep=t(),
                 mask=torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])),
    lambda m, x, e, t, k: no_dict(m, x, e, t, dict(resolution=None, aspect_ratio=None), encoder_attention_mask=k),
    exporters=("ts",))
add("pixart_conditions", lambda: d.PixArtTransformer2DModel(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
    cross_attention_dim=24, caption_channels=12, norm_num_groups=4, use_additional_conditions=True),
    lambda: dict(sample=r(2, 4, 8, 8), encoder_hidden_states=r(2, 5, 12), timestep=t(), resolution=f(8, 8, 8, 8).reshape(2, 2),
                 aspect_ratio=f(1, 1).reshape(2, 1)),
    lambda m, x, e, t, s, a: no_dict(m, x, e, t, dict(resolution=s, aspect_ratio=a)), exporters=("ts",))


def sd3(**more):
    return d.SD3Transformer2DModel(**(dict(sample_size=8, in_channels=4, num_layers=2, attention_head_dim=8,
                                           num_attention_heads=2, joint_attention_dim=12, caption_projection_dim=16,
                                           pooled_projection_dim=10, out_channels=4, pos_embed_max_size=6) | more))


def joint():
    return dict(sample=r(2, 4, 8, 8), encoder_hidden_states=r(2, 5, 12), pooled_projections=r(2, 10), timestep=tf())


add("sd3", sd3, joint, lambda m, x, e, p, t: no_dict(m, x, e, p, t))
add("sd35", lambda: sd3(qk_norm="rms_norm", dual_attention_layers=(0,)), joint, lambda m, x, e, p, t: no_dict(m, x, e, p, t))


def grid(frames, height, width):
    axes = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([a.flatten() for a in axes], -1).float()


def packed(text=3):
    return dict(hidden_states=r(2, 16, 4), encoder_hidden_states=r(2, 5, 12), pooled_projections=r(2, 10), timestep=f(0.2, 0.7),
                img_ids=grid(1, 4, 4), txt_ids=torch.zeros(5, text))


def flux(**more):
    return d.FluxTransformer2DModel(in_channels=4, num_layers=1, num_single_layers=1, **HEADS, joint_attention_dim=12,
                                    pooled_projection_dim=10, axes_dims_rope=(2, 2, 4), **more)


add("flux", flux, packed, lambda m, x, e, p, t, i, j: no_dict(m, x, e, p, t, i, j))
add("flux_dev", lambda: flux(guidance_embeds=True), lambda: packed() | dict(guidance=f(3.5, 2.0)),
    lambda m, x, e, p, t, i, j, g: no_dict(m, x, e, p, t, i, j, g))
add("flux2", lambda: d.Flux2Transformer2DModel(in_channels=4, num_layers=1, num_single_layers=1, **HEADS,
                                               joint_attention_dim=12, timestep_guidance_channels=16,
                                               axes_dims_rope=(2, 2, 2, 2)),
    lambda: dict(hidden_states=r(2, 16, 4), encoder_hidden_states=r(2, 5, 12), timestep=f(0.2, 0.7),
                 img_ids=torch.cat([grid(1, 4, 4), torch.zeros(16, 1)], -1).expand(2, 16, 4).contiguous(),
                 txt_ids=torch.zeros(2, 5, 4), guidance=f(3.5, 2.0)),
    lambda m, x, e, t, i, j, g: no_dict(m, x, e, t, i, j, g))
add("chroma", lambda: d.ChromaTransformer2DModel(in_channels=4, num_layers=1, num_single_layers=1, **HEADS,
                                                 joint_attention_dim=12, axes_dims_rope=(2, 2, 4),
                                                 approximator_num_channels=16, approximator_hidden_dim=16,
                                                 approximator_layers=1),
    lambda: {k: v for k, v in packed().items() if k != "pooled_projections"},
    lambda m, x, e, t, i, j: no_dict(m, x, e, t, i, j))
add("flux_controlnet", lambda: d.FluxControlNetModel(in_channels=4, num_layers=1, num_single_layers=0, **HEADS,
                                                     joint_attention_dim=12, pooled_projection_dim=10,
                                                     axes_dims_rope=(2, 2, 4)),
    lambda: packed() | dict(controlnet_cond=r(2, 16, 4)),
    lambda m, x, e, p, t, i, j, c: m(x, c, encoder_hidden_states=e, pooled_projections=p, timestep=t, img_ids=i, txt_ids=j,
                                     return_dict=False))
add("sd3_controlnet", lambda: d.SD3ControlNetModel(sample_size=8, in_channels=4, num_layers=1, attention_head_dim=8,
                                                   num_attention_heads=2, joint_attention_dim=12,
                                                   caption_projection_dim=16, pooled_projection_dim=10, out_channels=4,
                                                   pos_embed_max_size=6),
    lambda: joint() | dict(controlnet_cond=r(2, 4, 8, 8)),
    lambda m, x, e, p, t, c: m(x, c, 1.0, e, p, t, return_dict=False))
# A linear attention of 16 channels: torch.export drops the 1e-15 that keeps a row of zeros, likely in fewer, from 0 / 0.
add("sana", lambda: d.SanaTransformer2DModel(in_channels=4, out_channels=4, num_attention_heads=1,
                                             attention_head_dim=16, num_layers=2,
                                             num_cross_attention_heads=2, cross_attention_head_dim=8,
                                             cross_attention_dim=16, caption_channels=12, sample_size=8),
    lambda: dict(sample=r(2, 4, 8, 8), encoder_hidden_states=r(2, 5, 12), timestep=t(),
                 mask=torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])),
    lambda m, x, e, t, k: no_dict(m, x, e, t, encoder_attention_mask=k))
add("auraflow", lambda: d.AuraFlowTransformer2DModel(sample_size=8, in_channels=4, out_channels=4, num_mmdit_layers=1,
                                                     num_single_dit_layers=1, **HEADS, joint_attention_dim=12,
                                                     caption_projection_dim=16, pos_embed_max_size=36),
    lambda: dict(sample=r(2, 4, 8, 8), encoder_hidden_states=r(2, 5, 12), timestep=f(0.2, 0.7)),
    lambda m, x, e, t: no_dict(m, x, e, t))
add("hunyuandit", lambda: d.HunyuanDiT2DModel(**HEADS, in_channels=4, patch_size=2, sample_size=8, hidden_size=16,
                                              num_layers=2, mlp_ratio=2.0, cross_attention_dim=12,
                                              cross_attention_dim_t5=16, pooled_projection_dim=8, text_len=4,
                                              text_len_t5=5, activation_fn="gelu-approximate"),
    lambda: dict(sample=r(2, 4, 8, 8), timestep=tf(), encoder_hidden_states=r(2, 4, 12), mask=torch.ones(2, 4),
                 t5=r(2, 5, 16), mask_t5=torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
                 meta=f(*[8, 8, 8, 8, 0, 0] * 2).reshape(2, 6), style=torch.tensor([0, 0]), rotary_cos=r(16, 8), rotary_sin=r(16, 8)),
    lambda m, x, t, e, k, e5, k5, s, y, c, n: no_dict(m, x, t, e, k, e5, k5, s, y, (c, n)))
add("cogview3", lambda: d.CogView3PlusTransformer2DModel(in_channels=4, out_channels=4, num_layers=2, **HEADS,
                                                         text_embed_dim=12, time_embed_dim=16, condition_dim=4,
                                                         pos_embed_max_size=8, sample_size=8),
    lambda: dict(sample=r(2, 4, 8, 8), encoder_hidden_states=r(2, 5, 12), timestep=t(), original=f(8, 8, 8, 8).reshape(2, 2),
                 size=f(8, 8, 8, 8).reshape(2, 2), crop=torch.zeros(2, 2)),
    lambda m, x, e, t, a, b, c: no_dict(m, x, e, t, a, b, c))
add("cogview4", lambda: d.CogView4Transformer2DModel(in_channels=4, out_channels=4, num_layers=2, **HEADS,
                                                     text_embed_dim=12, time_embed_dim=16, condition_dim=4,
                                                     sample_size=8, rope_axes_dim=(8, 8)),
    lambda: dict(sample=r(2, 4, 8, 8), encoder_hidden_states=r(2, 5, 12), timestep=t(), original=f(8, 8, 8, 8).reshape(2, 2),
                 size=f(8, 8, 8, 8).reshape(2, 2), crop=torch.zeros(2, 2)),
    lambda m, x, e, t, a, b, c: no_dict(m, x, e, t, a, b, c))
add("omnigen", lambda: d.OmniGenTransformer2DModel(in_channels=4, hidden_size=16, num_attention_heads=2,
                                                   num_key_value_heads=2, intermediate_size=24, num_layers=1,
                                                   pad_token_id=0, vocab_size=20, time_step_dim=8,
                                                   pos_embed_max_size=8, max_position_embeddings=64,
                                                   original_max_position_embeddings=64,
                                                   rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4}),
    lambda: dict(sample=r(2, 4, 8, 8), timestep=f(0.2, 0.7), input_ids=1 + ids(19, 2, 5), mask=torch.ones(2, 22, 22),
                 positions=torch.arange(22).expand(2, 22).contiguous()),
    lambda m, x, t, i, k, p: no_dict(m, x, t, i, [], {}, k, p), exporters=("ts",))
add("prior", lambda: d.PriorTransformer(num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=12,
                                        num_embeddings=5, additional_embeddings=4),
    lambda: dict(hidden_states=r(2, 12), timestep=t(), proj=r(2, 12), encoder_hidden_states=r(2, 5, 12),
                 mask=torch.ones(2, 5, dtype=torch.bool)),
    lambda m, x, t, p, e, k: no_dict(m, x, t, p, e, k))
add("transformer2d", lambda: d.Transformer2DModel(
    **HEADS, in_channels=16, num_layers=1, norm_num_groups=4, cross_attention_dim=12, activation_fn="geglu"),
    lambda: dict(sample=r(2, 16, 4, 4), encoder_hidden_states=r(2, 5, 12)), lambda m, x, e: no_dict(m, x, e))
add("bria", lambda: d.BriaTransformer2DModel(in_channels=4, num_layers=1, num_single_layers=1, **HEADS,
                                             joint_attention_dim=12, pooled_projection_dim=None, axes_dims_rope=[0, 4, 4]),
    lambda: {k: v for k, v in packed().items() if k != "pooled_projections"},
    lambda m, x, e, t, i, j: no_dict(m, x, e, None, t, i, j))

# Video and sound.

VIDEO = dict(num_attention_heads=2, attention_head_dim=12)


def clip(channels=4):
    return dict(sample=r(2, channels, 2, 4, 4))


add("wan", lambda: d.WanTransformer3DModel(**VIDEO, in_channels=4, out_channels=4, text_dim=12, freq_dim=8, ffn_dim=24,
                                           num_layers=2, rope_max_seq_len=16),
    lambda: clip() | dict(timestep=t(), encoder_hidden_states=r(2, 5, 12)), lambda m, x, t, e: no_dict(m, x, t, e))
add("wan_image", lambda: d.WanTransformer3DModel(**VIDEO, in_channels=4, out_channels=4, text_dim=12, freq_dim=8,
                                                 ffn_dim=24, num_layers=1, rope_max_seq_len=16, image_dim=10,
                                                 added_kv_proj_dim=24),
    lambda: clip() | dict(timestep=t(), encoder_hidden_states=r(2, 5, 12), image=r(2, 257, 10)),
    lambda m, x, t, e, i: no_dict(m, x, t, e, i))


def cogvideox(**more):
    return d.CogVideoXTransformer3DModel(**(dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=12,
        num_layers=2, sample_width=8, sample_height=8, sample_frames=5, max_text_seq_length=5) | more))


def frames():
    return dict(sample=r(2, 2, 4, 8, 8), encoder_hidden_states=r(2, 5, 12), timestep=t())


add("cogvideox", cogvideox, frames, lambda m, x, e, t: no_dict(m, x, e, t))
add("cogvideox_rotary", lambda: cogvideox(use_rotary_positional_embeddings=True),
    lambda: frames() | dict(rotary_cos=r(32, 16), rotary_sin=r(32, 16)),
    lambda m, x, e, t, c, s: no_dict(m, x, e, t, image_rotary_emb=(c, s)))
add("ltx", lambda: d.LTXVideoTransformer3DModel(in_channels=4, out_channels=4, **HEADS, cross_attention_dim=16,
                                                num_layers=2, caption_channels=12),
    lambda: dict(hidden_states=r(2, 16, 4), encoder_hidden_states=r(2, 5, 12), timestep=tf(),
                 mask=torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])),
    lambda m, x, e, t, k: no_dict(m, x, e, t, k, 1, 4, 4), exporters=("dynamo",))
add("allegro", lambda: d.AllegroTransformer3DModel(num_attention_heads=2, attention_head_dim=24, in_channels=4,
                                                   out_channels=4, num_layers=1, cross_attention_dim=48,
                                                   sample_width=4, sample_height=4, sample_frames=2,
                                                   caption_channels=12),
    lambda: clip() | dict(encoder_hidden_states=r(2, 5, 12), timestep=t(), mask=torch.ones(2, 2, 4, 4), text_mask=torch.ones(
        2, 5), rotary_cos=r(3, 8, 8), rotary_sin=r(3, 8, 8), positions=torch.stack([torch.arange(8) // 4, torch.arange(8) // 2 % 2,
                                                                       torch.arange(8) % 2])),
    lambda m, x, e, t, k, q, c, s, p: no_dict(m, x, e, t, k, q, (((c[0], s[0]), (c[1], s[1]), (c[2], s[2])),
                                                                (p[0][None], p[1][None], p[2][None]))), exporters=("ts",))
add("latte", lambda: d.LatteTransformer3DModel(**HEADS, in_channels=4, out_channels=8, num_layers=1, patch_size=2,
                                               sample_size=8, cross_attention_dim=16, caption_channels=12,
                                               attention_bias=True, activation_fn="gelu-approximate",
                                               norm_type="ada_norm_single", norm_elementwise_affine=False,
                                               video_length=2),
    lambda: dict(sample=r(2, 4, 2, 8, 8), timestep=t(), encoder_hidden_states=r(2, 5, 12)),
    lambda m, x, t, e: no_dict(m, x, t, e))
add("hunyuanvideo", lambda: d.HunyuanVideoTransformer3DModel(
    in_channels=4, out_channels=4, **HEADS, num_layers=1, num_single_layers=1, num_refiner_layers=1, mlp_ratio=2.0,
    guidance_embeds=True, text_embed_dim=12, pooled_projection_dim=10, rope_axes_dim=(2, 2, 4)),
    lambda: clip() | dict(timestep=t(), encoder_hidden_states=r(2, 5, 12), mask=torch.ones(2, 5, dtype=torch.int64),
                          pooled=r(2, 10), guidance=f(6, 6)),
    lambda m, x, t, e, k, p, g: no_dict(m, x, t, e, k, p, g), exporters=("dynamo",))
add("skyreels", lambda: d.SkyReelsV2Transformer3DModel(**VIDEO, in_channels=4, out_channels=4, text_dim=12, freq_dim=8,
                                                       ffn_dim=24, num_layers=1, rope_max_seq_len=16),
    lambda: clip() | dict(timestep=tf(), encoder_hidden_states=r(2, 5, 12)), lambda m, x, t, e: no_dict(m, x, t, e))
add("easyanimate", lambda: d.EasyAnimateTransformer3DModel(
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, patch_size=2, num_layers=1,
    mmdit_layers=1, time_embed_dim=8, text_embed_dim=12, sample_width=8, sample_height=8,
    add_noise_in_inpaint_model=False),
    lambda: dict(sample=r(2, 4, 2, 8, 8), timestep=t(), encoder_hidden_states=r(2, 5, 12)),
    lambda m, x, t, e: no_dict(m, x, t, None, e), exporters=("dynamo",))
add("stable_audio", lambda: d.StableAudioDiTModel(sample_size=8, in_channels=4, num_layers=2, attention_head_dim=8,
                                                  num_attention_heads=4, num_key_value_attention_heads=2, out_channels=4,
                                                  cross_attention_dim=16, time_proj_dim=8, global_states_input_dim=10,
                                                  cross_attention_input_dim=12),
    lambda: dict(sample=r(2, 4, 8), timestep=f(0.2, 0.7), encoder_hidden_states=r(2, 5, 12), state=r(2, 1, 10), rotary_cos=r(9, 4),
                 rotary_sin=r(9, 4)),
    lambda m, x, t, e, g, c, s: no_dict(m, x, t, e, g, (c, s)))
