//! An adapter under the names and in the layout of PyTorch's parameters, for those who have the same model there.
//!
//! Exporters keep most names; what they store anew (linear layers, transposed; scales and shifts of decomposed normalisations) has a
//! number for a name, and the path of the node that uses it tells which parameter it was.

use sara_runtime::adapter::Adapter;
use sara_runtime::plan::Weight;
use sara_runtime::tensor::{Tensor, Tensors};

/// What an adapter is in PyTorch.
pub struct Named {
    /// For each parameter `NAME` the tensors `NAME.index`, flat positions in ascending order, and `NAME.delta`, what is added there.
    pub tensors: Tensors,
    /// Paths of weights whose parameters cannot be told.
    pub unknown: Vec<String>,
}

/// The adapter's differences by PyTorch's names. `weights` is the table of the model's weights.
pub fn named(adapter: &Adapter, weights: &[Weight]) -> Named {
    let mut found = Named { tensors: Tensors::new(), unknown: Vec::new() };
    for (path, delta) in &adapter.deltas {
        let weight = weights.iter().find(|w| w.path == *path);
        let Some((weight, parameter)) = weight.and_then(|w| Some((w, parameter(w)?))) else {
            found.unknown.push(path.clone());
            continue;
        };
        let Parameter { name, transposed } = parameter;
        let mut entries: Vec<(i64, f32)> =
            delta.index.iter().zip(&delta.delta).map(|(i, d)| (i64::from(*i), *d)).collect();
        if let (true, [rows, columns]) = (transposed, &weight.shape[..]) {
            let (rows, columns) = (*rows as i64, *columns as i64);
            entries.iter_mut().for_each(|(i, _)| *i = (*i % columns) * rows + *i / columns);
            entries.sort_unstable_by_key(|e| e.0);
        }
        let (index, values): (Vec<i64>, Vec<f32>) = entries.into_iter().unzip();
        let count = index.len();
        found.tensors.extend(Tensor::i64(&[count], index).map(|t| (format!("{name}.index"), t)));
        found.tensors.extend(Tensor::f32(&[count], values).map(|t| (format!("{name}.delta"), t)));
    }
    found
}

/// A parameter of PyTorch.
#[derive(Debug, PartialEq)]
struct Parameter {
    name: String,
    transposed: bool,
}

fn parameter(weight: &Weight) -> Option<Parameter> {
    let own = &weight.name;
    if !own.starts_with("onnx::") && own.contains('.') {
        return Some(Parameter { name: own.clone(), transposed: false });
    }
    let (node, _) = weight.path.rsplit_once(':')?;
    let (module, operator) = node.strip_prefix('/')?.rsplit_once('/')?;
    // Several nodes of one module are told apart by numbers behind the operator's name.
    let operator = operator.split('_').next()?;
    let module = module.replace('/', ".");
    let vector = weight.shape.iter().filter(|d| **d > 1).count() <= 1;
    match operator {
        "MatMul" if weight.shape.len() == 2 => Some(Parameter { name: format!("{module}.weight"), transposed: true }),
        "Mul" if vector => Some(Parameter { name: format!("{module}.weight"), transposed: false }),
        "Add" if vector => Some(Parameter { name: format!("{module}.bias"), transposed: false }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sara_kernels::DType;
    use sara_runtime::adapter::Delta;
    use sara_runtime::plan::Stored;

    fn weight(name: &str, path: &str, shape: &[u64]) -> Weight {
        let stored = Stored::Plain(DType::F32);
        Weight { name: name.into(), path: path.into(), shape: shape.to_vec(), stored, file: String::new(), offset: 0 }
    }

    #[test]
    fn names_and_layouts_are_those_of_pytorch() {
        let weights = [
            weight("onnx::MatMul_7", "/down.0/attn1/to_q/MatMul:1", &[2, 3]),
            weight("conv_in.weight", "/conv_in/Conv:1", &[4, 1, 3, 3]),
            weight("onnx::Mul_9", "/down.0/norm1/Mul_1:1", &[4, 1, 1]),
            weight("onnx::Einsum_3", "/down.0/Einsum:1", &[2, 2]),
        ];
        let delta = Delta { index: vec![1, 3], delta: vec![0.5, -1.0], base_sha256: String::new() };
        let deltas = weights.iter().map(|w| (w.path.clone(), delta.clone())).collect();
        let found = named(&Adapter { deltas, ..Adapter::default() }, &weights);
        // Positions (0, 1) and (1, 0) of [2, 3] are (1, 0) and (0, 1) of [3, 2].
        assert_eq!(found.tensors["down.0.attn1.to_q.weight.index"], Tensor::i64(&[2], vec![1, 2]).unwrap());
        assert_eq!(found.tensors["down.0.attn1.to_q.weight.delta"], Tensor::f32(&[2], vec![-1.0, 0.5]).unwrap());
        assert_eq!(found.tensors["conv_in.weight.index"], Tensor::i64(&[2], vec![1, 3]).unwrap());
        assert!(found.tensors.contains_key("down.0.norm1.weight.delta"));
        assert_eq!(found.unknown, ["/down.0/Einsum:1"]);
    }
}
