"""Writes diffusers.json: samplings by diffusers of a toy model, which the tests of this folder repeat.

    pip install torch diffusers && python -P diffusers.py
"""
import json
import math
import pathlib

import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler,
                       FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler, LCMScheduler, PNDMScheduler)
from diffusers.schedulers import scheduling_euler_ancestral_discrete, scheduling_lcm

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
CASES = [("ddim", DDIMScheduler, dict(SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1), n) for n in (1, 6, 50)]
CASES += [("ddim", DDIMScheduler, dict(SD, prediction_type=p, timestep_spacing=s), 7)
          for p in ("epsilon", "v_prediction", "sample") for s in ("linspace", "leading", "trailing")]
CASES += [("ddim", DDIMScheduler, dict(SD, prediction_type="v_prediction", timestep_spacing="trailing",
                                       rescale_betas_zero_snr=True, clip_sample=False), 8)]
CASES += [(name, cls, dict(SD, prediction_type=p, timestep_spacing=s, steps_offset=1), n)
          for name, cls in (("euler", EulerDiscreteScheduler), ("dpmpp_2m", DPMSolverMultistepScheduler))
          for p in ("epsilon", "v_prediction") for s in ("linspace", "leading", "trailing") for n in (6, 20)]
CASES += [(name, cls, dict(SD, use_karras_sigmas=True), 9)
          for name, cls in (("euler", EulerDiscreteScheduler), ("dpmpp_2m", DPMSolverMultistepScheduler))]
CASES += [("pndm", PNDMScheduler, dict(SD, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1), n) for n in (2, 3, 7, 30)]
CASES += [("pndm", PNDMScheduler, dict(SD, skip_prk_steps=True, steps_offset=1, prediction_type="v_prediction"), n) for n in (3, 9)]
CASES += [("flow_euler", FlowMatchEulerDiscreteScheduler, dict(shift=s), n) for s in (1.0, 3.0) for n in (1, 5, 28)]
CASES += [("dpmpp_2m", DPMSolverMultistepScheduler, dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0), 20)]
CASES += [(name, cls, dict(SD, prediction_type=p, timestep_spacing=s, steps_offset=1), n)
          for name, cls in (("heun", HeunDiscreteScheduler), ("euler_ancestral", EulerAncestralDiscreteScheduler))
          for p in ("epsilon", "v_prediction") for s in ("linspace", "leading", "trailing") for n in (6, 20)]
CASES += [("heun", HeunDiscreteScheduler, dict(SD, **more), n)
          for more in (dict(use_karras_sigmas=True), dict(clip_sample=True, clip_sample_range=0.4), dict(prediction_type="sample"))
          for n in (1, 9)]
CASES += [("euler_ancestral", EulerAncestralDiscreteScheduler, dict(SD, rescale_betas_zero_snr=True, timestep_spacing="trailing"), 8)]
CASES += [("lcm", LCMScheduler, dict(SD, prediction_type=p), n) for p in ("epsilon", "v_prediction", "sample") for n in (1, 4, 7)]
CASES += [("lcm", LCMScheduler, dict(SD, clip_sample=True, clip_sample_range=0.4, original_inference_steps=40, timestep_scaling=0.01), 3)]

added = 0


def added_noise(shape, **_):
    """Noise that the tests can repeat: number n is 1.5 sin(1 + n)."""
    global added
    first, added = added, added + math.prod(shape)
    return torch.tensor([1.5 * math.sin(1 + n) for n in range(first, added)], dtype=torch.float32).reshape(shape)


for module in (scheduling_euler_ancestral_discrete, scheduling_lcm):
    module.randn_tensor = added_noise

noise = torch.tensor([[0.3, -1.2, 2.0, 0.0]])


def model(x, t):
    return x * 0.9 + 0.05 * (float(t) / 1000)


cases = []
for name, cls, config, steps in CASES:
    scheduler = cls(**config)
    scheduler.set_timesteps(steps)
    added = 0
    x = noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(scaled, t), t, x).prev_sample
    cases.append(dict(sampler=name, steps=steps, config=dict(config, _class_name=cls.__name__),
                      timesteps=[float(t) for t in scheduler.timesteps], result=x[0].tolist()))
path = pathlib.Path(__file__).with_name("diffusers.json")
path.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
