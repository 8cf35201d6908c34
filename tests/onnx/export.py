"""Writes ONNX's own node tests to cases.zip, one folder a case in the layout that ONNX uses: model.onnx, input_I.pb, output_I.pb.

Needs onnx==1.23.2. The cases of an operator are made when they are asked for, from a fixed seed.
"""

import hashlib
import pathlib
import zipfile

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests
from onnx.numpy_helper import from_array

assert onnx.__version__ == "1.23.2", onnx.__version__
here = pathlib.Path(__file__).parent


def encode(value, name):
    """A TensorProto, or nothing for sequences, optional values and maps."""
    if isinstance(value, onnx.TensorProto):
        return value.SerializeToString()
    if isinstance(value, (np.ndarray, np.generic)):
        return from_array(np.asarray(value), name).SerializeToString()
    return b""


np.random.seed(0)
cases = sorted(load_model_tests(kind="node"), key=lambda case: case.name)
tolerances = []
with zipfile.ZipFile(here / "cases.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
    def write(path, data):
        entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, data)

    for case in cases:
        assert len(case.data_sets) == 1, case.name
        inputs, outputs = case.data_sets[0]
        graph = case.model.graph
        write(f"{case.name}/model.onnx", case.model.SerializeToString())
        for i, (value, info) in enumerate(zip(inputs, graph.input)):
            write(f"{case.name}/input_{i}.pb", encode(value, info.name))
        for i, (value, info) in enumerate(zip(outputs, graph.output)):
            write(f"{case.name}/output_{i}.pb", encode(value, info.name))
        tolerances.append(f"{case.name} {case.rtol:g} {case.atol:g}")
    write("tolerances.txt", "\n".join(tolerances) + "\n")
print(len(cases), hashlib.sha256((here / "cases.zip").read_bytes()).hexdigest())
