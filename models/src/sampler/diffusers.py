"""Writes diffusers.json: samplings by diffusers of a toy model, which the tests of this folder repeat.

    pip install torch diffusers && python -P diffusers.py
"""
import json
import pathlib

import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler,
                       PNDMScheduler)

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

noise = torch.tensor([[0.3, -1.2, 2.0, 0.0]])


def model(x, t):
    return x * 0.9 + 0.05 * (float(t) / 1000)


cases = []
for name, cls, config, steps in CASES:
    scheduler = cls(**config)
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(scaled, t), t, x).prev_sample
    cases.append(dict(sampler=name, steps=steps, config=dict(config, _class_name=cls.__name__),
                      timesteps=[float(t) for t in scheduler.timesteps], result=x[0].tolist()))
path = pathlib.Path(__file__).with_name("diffusers.json")
path.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
