"""The paper's first experiment (section 3.1): weights set to zero, the smallest, or as many drawn by lot, and what is left of the model."""
import numpy as np
import onnx

SHARES = (0.01, 0.05, 0.1, 0.2)


def write(task, share, smallest, path):
    """The task's model with this share of each matrix set to zero."""
    model = onnx.load(str(task.model))
    rng = np.random.default_rng(5)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1 and min(values.shape[:2]) > 1:
            size = abs(values) if smallest else rng.random(values.shape)
            values = np.where(size <= np.quantile(size, share), np.float32(0), values)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(path))
