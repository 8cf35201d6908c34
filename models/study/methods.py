"""The methods that the study compares, on one screen."""
import dataclasses
import json
import subprocess

import lora

# Shares of the weights that the paper trains: 5, 20 and 50 of 860 million parameters.
SMALL, MEDIUM, LARGE = 0.006, 0.023, 0.058


@dataclasses.dataclass(frozen=True)
class Method:
    title: str
    share: float = LARGE
    compile: tuple = ()
    train: tuple = ()
    rates: tuple = (2e-3, 5e-3, 1e-2, 2e-2)
    rate_of: str = ""               # the method whose learning rate it takes
    attention: bool | None = None   # low-rank adaptation: of attention alone, or of all layers


RESELECT, NO_RANK = ("--progressive-iter", "HALF"), ("--lambda-rank", "0")
METHODS = {
    "sara": Method("SaRA, 5.8 %", train=RESELECT),
    "sara-medium": Method("SaRA, 2.3 %", MEDIUM, train=RESELECT),
    "sara-small": Method("SaRA, 0.6 %", SMALL, train=RESELECT),
    "sara-without-rank": Method("… without the low-rank term", train=(*RESELECT, *NO_RANK), rate_of="sara"),
    "sara-without-reselection": Method("… without re-selection", rate_of="sara"),
    "sara-plain": Method("… without either", train=NO_RANK, rate_of="sara"),
    "layers": Method("smallest 5.8 % of each layer", compile=("--density", "SHARE"), train=NO_RANK),
    "random": Method("random 5.8 %", compile=("--pick", "random:SEED"), train=NO_RANK),
    "largest": Method("largest 5.8 %", compile=("--pick", "largest"), train=NO_RANK, rates=(5e-4, 1e-3, 2e-3, 5e-3)),
    "lora": Method("LoRA, attention", attention=True, rates=(1e-3, 2e-3, 5e-3, 1e-2)),
    "lora-all": Method("LoRA, all layers", attention=False, rates=(1e-3, 2e-3, 5e-3, 1e-2)),
    "full": Method("all weights", share=1.0, compile=("--select", "all", "--threshold", "1e9"), train=NO_RANK,
                   rates=(2e-4, 5e-4, 1e-3, 2e-3)),
}


def tune(sara, task, method, seed, rate, batches, folder):
    """Tunes the task's model; returns the tuned model's path and how many values were trained."""
    tuned = folder / "tuned.onnx"
    steps, batch = batches["target"].shape[:2]
    budget = round(method.share * task.weights)
    if method.attention is not None:
        return tuned, lora.train(task, batches, tuned, budget, method.attention, rate, seed)
    replace = {"SHARE": str(method.share), "HALF": str(steps // 2), "random:SEED": f"random:{seed}"}
    fill = lambda flags: [replace.get(f, f) for f in flags]
    amount = [] if {"--density", "--threshold"} & set(method.compile) else ["--trainable-params", str(budget)]
    say = lambda *command: subprocess.run([sara, *map(str, command)], check=True, capture_output=True, text=True).stdout
    plan, run = folder / "model.plan", folder / "run"
    report = say("compile", task.model, "-o", plan, "--dim", f"batch={batch}", *amount, *fill(method.compile), "--threads", 1, "--json")
    say("train", plan, "--batches", folder / "batches.safetensors", "--output-dir", run, "--learning-rate", rate, "--seed", seed,
        "--max-train-steps", steps, "--checkpointing-steps", 10 * steps, "--threads", 1, *fill(method.train))
    say("export", run, "--output", tuned)
    return tuned, json.loads(report)["trainable"]
