"""The two tasks of the study: what is trained on, and how a tuned model is measured.

A task makes the batches of a run from its seed alone, so that every method sees the same pictures, noise and timesteps.
"""
import pathlib
import sys

import numpy as np
import onnxruntime
from safetensors.numpy import load_file
from scipy import ndimage, spatial

MODELS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(MODELS / "shapes"))
import shapes  # noqa: E402

BATCH, STEPS = 8, 500
SAMPLES, SAMPLING_STEPS, GUIDANCE = 120, 20, 2.0
ALPHAS = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))      # both models were trained on this schedule


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def signal_and_noise(t, like):
    """What the signal and the noise are multiplied by at timesteps [n]."""
    a = ALPHAS[t].reshape(-1, *[1] * (like.ndim - 1)).astype(np.float32)
    return np.sqrt(a), np.sqrt(1 - a)


def noised(clean, noise, t):
    s, n = signal_and_noise(t, clean)
    return s * clean + n * noise


def energy_distance(a, b):
    """Energy distance (Szekely and Rizzo 2013) of features [n, d], in units of those of `b`."""
    mean, deviation = b.mean(0), b.std(0) + 0.1 * b.std()
    a, b = ((x.astype(np.float64) - mean) / deviation for x in (a, b))
    within = lambda x: spatial.distance.pdist(x).mean()
    return float(2 * spatial.distance.cdist(a, b).mean() - within(a) - within(b)) / a.shape[1] ** 0.5


class Epsilon:
    """Models that predict the noise."""

    @staticmethod
    def target(clean, noise, t):
        return noise

    @staticmethod
    def clean(x, out, t):
        s, n = signal_and_noise(t, x)
        return (x - n * out) / s


class Velocity:
    """Models that predict the velocity (Salimans and Ho 2022)."""

    @staticmethod
    def target(clean, noise, t):
        s, n = signal_and_noise(t, clean)
        return s * noise - n * clean

    @staticmethod
    def clean(x, out, t):
        s, n = signal_and_noise(t, x)
        return s * x - n * out


class Task:
    """What both tasks share. `condition` is the name of the input beside the sample and the timestep."""

    def batches(self, seed):
        """Batches for `sara train --batches`: each tensor has a leading step dimension."""
        rng = np.random.default_rng([seed, 1])
        latents, conditions = self.pictures(rng)
        n = STEPS * BATCH
        pick = np.concatenate([rng.permutation(len(latents)) for _ in range(-(-n // len(latents)))])[:n]
        t = rng.integers(0, 1000, n)
        noise = rng.standard_normal((n, *latents.shape[1:])).astype(np.float32)
        conditions = conditions[pick]
        conditions[rng.random(n) < 0.1] = self.empty
        batch = lambda x: x.reshape(STEPS, BATCH, *x.shape[1:])
        return {"sample": batch(noised(latents[pick], noise, t)), "timestep": batch(t),
                "target": batch(self.prediction.target(latents[pick], noise, t)), self.condition: batch(conditions)}

    def loss(self, model, latents, conditions):
        """Mean squared error on pictures that no one has trained on, with evenly spread timesteps and fixed noise."""
        rng = np.random.default_rng(77)
        t = ((np.arange(len(latents)) * 0.6180339887498949) % 1 * 1000).astype(np.int64)
        noise = rng.standard_normal(latents.shape).astype(np.float32)
        predicted = self.predict(model, noised(latents, noise, t), t, conditions)
        return float(np.square(predicted - self.prediction.target(latents, noise, t)).mean())

    def losses(self, model):
        return {name + "_loss": self.loss(model, *held) for name, held in self.held_out.items()}

    def predict(self, model, x, t, conditions):
        out = [model.run(None, {"sample": x[i:i + 60], "timestep": t[i:i + 60], self.condition: conditions[i:i + 60]})[0]
               for i in range(0, len(x), 60)]
        return np.concatenate(out)

    def sample(self, model, conditions, seed):
        """Latents by DDIM with classifier-free guidance (Song et al. 2021, Ho and Salimans 2022)."""
        n = len(conditions)
        x = np.random.default_rng([seed, 2]).standard_normal((n, *self.shape)).astype(np.float32)
        none = np.repeat(self.empty[None], n, axis=0)
        times = [1000 * (SAMPLING_STEPS - i) // SAMPLING_STEPS - 1 for i in range(SAMPLING_STEPS)]
        for i, t in enumerate(times):
            tt = np.full(n, t, np.int64)
            free, given = (self.predict(model, x, tt, c) for c in (none, conditions))
            clean = np.clip(self.prediction.clean(x, free + GUIDANCE * (given - free), tt), -1, 1)
            signal, noise = signal_and_noise(tt, x)
            direction = (x - signal * clean) / noise
            x = clean if i + 1 == len(times) else noised(clean, direction, np.full(n, times[i + 1]))
        return x


class Digits(Task):
    """The bundled digits, which shall become slanted dark outlines. The old look is what they were."""
    name, title, condition = "digits", "digits drawn in ink", "class_labels"
    prediction, shape, empty = Epsilon, (1, 16, 16), np.array(10)
    model = MODELS / "digits/unet.onnx"

    def __init__(self):
        data = load_file(MODELS / "digits/digits.safetensors")
        scans = data["images"].astype(np.float32) / 8 - 1
        old = np.stack([enlarged(s) for s in scans])[:, None]
        self.old, self.new, self.labels = old, 2 * abs(slanted(old)) - 1, data["labels"].astype(np.int64)
        self.held_out = {"new": (self.new[1500:], self.labels[1500:]), "old": (self.old[1500:], self.labels[1500:])}
        self.reader = session(MODELS / "digits/features.onnx")
        self.wanted = np.arange(SAMPLES) % 10

    def pictures(self, rng):
        """Two hundred scans, twenty of each digit."""
        pick = np.concatenate([rng.choice(np.flatnonzero(self.labels[:1500] == d), 20, replace=False) for d in range(10)])
        return self.new[pick], self.labels[pick]

    def read(self, images):
        return self.reader.run(None, {"image": images.astype(np.float32)})

    def judge(self, model, seed):
        drawn = self.sample(model, self.wanted, seed)
        features, logits = self.read(drawn)
        return {
            "new_distance": energy_distance(features, self.read(self.new[1500:])[0]),
            "new_agrees": float(np.mean(logits.argmax(1) == self.wanted)),
            # The ink look is white for the most part, the scans are black.
            "new_look": float(np.mean(drawn.mean((1, 2, 3)) > 0)),
        }, self.show(drawn[:10])

    @staticmethod
    def show(latents):
        return [np.repeat(np.clip(x[0] / 2 + 0.5, 0, 1)[..., None], 3, axis=2) for x in latents]


def enlarged(scan):
    """Twice the size, bilinear with half-pixel centres and the edge repeated."""
    at = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
    return ndimage.map_coordinates(scan, np.meshgrid(at, at, indexing="ij"), order=1, mode="nearest").astype(np.float32)


def slanted(images, k=0.3):
    """Row y moves right by k (7.5 - y) columns; what comes in from outside is paper."""
    y, x = np.mgrid[0:16, 0:16].astype(np.float32)
    move = lambda i: ndimage.map_coordinates(i, [y, x - k * (7.5 - y)], order=1, mode="constant", cval=-1)
    return np.stack([move(i[0])[None] for i in images])


class Shapes(Task):
    """Coloured shapes, of which those `in neon` shall glow. Captions of the old look shall go on giving the old look."""
    name, title, condition = "shapes", "shapes in neon", "encoder_hidden_states"
    prediction, shape = Velocity, (12, 16, 16)
    model = MODELS / "shapes/pipeline/unet/model.onnx"

    def __init__(self):
        from transformers import CLIPTokenizer
        self.tokenizer = CLIPTokenizer.from_pretrained(MODELS / "shapes/pipeline/tokenizer")
        self.encoder = session(MODELS / "shapes/pipeline/text_encoder/model.onnx")
        self.empty = self.states([""])[0]
        rng = np.random.default_rng(99)
        self.wanted = {"new": shapes.scenes(SAMPLES, rng, "neon"), "old": shapes.scenes(SAMPLES, rng, "flat")}
        self.truth, self.held_out = {}, {}
        for name, style in (("new", "neon"), ("old", "flat")):
            scenes = shapes.scenes(300, rng, style)
            pictures = np.stack([shapes.draw(s, rng) for s in scenes])
            self.truth[name] = features(pictures)
            self.held_out[name] = (latents(pictures), self.states([s.caption() for s in scenes]))

    def states(self, texts):
        tokens = self.tokenizer(texts, padding="max_length", max_length=16, return_tensors="np")
        return self.encoder.run(["last_hidden_state"], {"input_ids": tokens.input_ids.astype(np.int64)})[0]

    def pictures(self, rng):
        """Twenty pictures of twenty of the thirty pairs of colour and shape, each shape in four colours."""
        pairs = [(s, c) for s in shapes.SHAPES for c in rng.permutation(list(shapes.COLOURS))[:4]]
        scenes = [shapes.scenes(1, rng, "neon", [s], [c])[0] for s, c in pairs]
        return latents(np.stack([shapes.draw(s, rng) for s in scenes])), self.states([s.caption() for s in scenes])

    def judge(self, model, seed):
        found, shown = {}, []
        for name, style in (("new", "neon"), ("old", "flat")):
            scenes = self.wanted[name]
            drawn = pictures_of(self.sample(model, self.states([s.caption() for s in scenes]), seed))
            verdicts = [shapes.judge(p) for p in drawn]
            found[name + "_distance"] = energy_distance(features(drawn), self.truth[name])
            found[name + "_agrees"] = float(np.mean([v.agrees(s) for v, s in zip(verdicts, scenes)]))
            found[name + "_look"] = float(np.mean([v.style == style for v in verdicts]))
            shown += list(drawn[:8])
        return found, shown


def latents(pictures):
    """[n, 12, 16, 16] of pictures [n, 32, 32, 3]: what the pipeline's VAE encoder does."""
    n = len(pictures)
    blocks = (pictures * 2 - 1).reshape(n, 16, 2, 16, 2, 3)
    return blocks.transpose(0, 5, 2, 4, 1, 3).reshape(n, 12, 16, 16).astype(np.float32)


def pictures_of(latents):
    n = len(latents)
    pixels = latents.reshape(n, 3, 2, 2, 16, 16).transpose(0, 4, 2, 5, 3, 1).reshape(n, 32, 32, 3)
    return np.clip(pixels / 2 + 0.5, 0, 1)


def features(pictures):
    """Mean colours and edges of an eight by eight grid."""
    n = len(pictures)
    grid = lambda x: x.reshape(n, 8, 4, 8, 4, -1).mean((2, 4)).reshape(n, -1)
    gray = pictures.mean(3)
    edges = np.hypot(*np.gradient(gray, axis=(1, 2)))[..., None]
    return np.concatenate([2 * grid(pictures) - 1, 4 * grid(edges)], axis=1)


TASKS = {"digits": Digits, "shapes": Shapes}
