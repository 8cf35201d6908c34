"""What a case is, and how its inputs are written."""

import dataclasses
from collections.abc import Callable

import torch

CASES = []


@dataclasses.dataclass
class Case:
    """One model: `build` makes it, `inputs` its arguments by name, `call` applies it to them in order."""

    name: str
    build: Callable
    inputs: Callable
    call: Callable
    exporters: tuple = ("ts", "dynamo")
    opsets: dict = dataclasses.field(default_factory=dict)
    options: dict = dataclasses.field(default_factory=dict)
    half: str = ""
    trains: bool = True

    def opset(self, exporter):
        return self.opsets.get(exporter, {"ts": 17, "dynamo": 20}[exporter])


def add(name, build, inputs, call, **more):
    CASES.append(Case(name, build, inputs, call, **more))


def r(*shape):
    return torch.randn(*shape)


def f(*values):
    return torch.tensor(values, dtype=torch.float32)


def t():
    return torch.tensor([7, 421])


def tf():
    return f(0.2, 0.7) * 1000


def ids(high, *shape):
    return torch.randint(0, high, shape)


def sample_call(m, x, t):
    return m(x, t, return_dict=False)


def text_call(m, x, t, e):
    return m(x, t, encoder_hidden_states=e, return_dict=False)
