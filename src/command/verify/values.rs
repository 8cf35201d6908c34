//! The inputs that both sides get, and how their results are compared.

use crate::command::Failure;
use sara_runtime::oracle::{Array, Port, Session};
use sara_runtime::plan::Plan;
use sara_runtime::rng::CounterRng;
use sara_runtime::tensor::{Tensor, Tensors};

/// Inputs of one run, for both sides.
pub(super) struct Values {
    /// For us: a scalar timestep is one for each sample.
    pub(super) tensors: Tensors,
    /// For ONNX Runtime: in the model's own types and ranks.
    pub(super) arrays: Vec<(String, Array)>,
}

impl Values {
    /// The given inputs, and random ones for the others: normal numbers; integers 0 and 1, which are in range of any table that is
    /// looked up; timesteps that are equal for all samples, because the model may take only one.
    pub(super) fn new(plan: &Plan, session: &Session, given: &Tensors) -> Result<Values, Failure> {
        let mut tensors = given.clone();
        let inputs = plan.program("forward").map_or(&[][..], |p| p.inputs.as_slice());
        for (stream, input) in inputs.iter().enumerate().filter(|(_, i)| !given.contains_key(&i.name)) {
            let buffer = plan.buffer(input.buffer);
            let shape: Vec<usize> = input.shape.iter().map(|d| *d as usize).collect();
            let tensor = random(&input.name, &shape, stream as u64);
            let tensor = tensor.and_then(|t| t.to_dtype(buffer.dtype).or_else(|| bytes(&shape, buffer.dtype)));
            tensors.extend(tensor.map(|t| (input.name.clone(), t)));
        }
        let mut arrays = Vec::new();
        for port in session.inputs() {
            // An input that nothing depends on has no place in a plan, and ONNX Runtime wants it all the same.
            let unused = || {
                let shape: Vec<usize> = port.shape.iter().map(|d| d.unwrap_or(1)).collect();
                random(&port.name, &shape, 0)
            };
            let tensor = tensors.get(&port.name).cloned().or_else(unused);
            let array = tensor.zip(port.dtype).and_then(|(t, dtype)| Array::from_tensor(&t, dtype));
            let array = array.ok_or_else(|| {
                Failure::Plain(format!("input `{}` of type {} cannot be given", port.name, port.description))
            })?;
            arrays.push((port.name.clone(), one_for_all(port, array)?));
        }
        Ok(Values { tensors, arrays })
    }
}

/// An input that the model takes once and we take for each sample.
fn one_for_all(port: &Port, mut array: Array) -> Result<Array, Failure> {
    let single = port.shape.iter().all(|d| *d == Some(1)) && port.shape.len() <= 1;
    if single && array.shape.len() == 1 {
        let size = array.dtype.size();
        if array.bytes.chunks_exact(size).any(|v| v != &array.bytes[..size]) {
            return Err(Failure::Plain(format!(
                "the model takes one `{}` for all samples; give the same to each when comparing",
                port.name
            )));
        }
        array.bytes.truncate(size);
        array.shape = vec![1; port.shape.len()];
    }
    Ok(array)
}

fn random(name: &str, shape: &[usize], stream: u64) -> Option<Tensor> {
    let mut rng = CounterRng::new(0, stream);
    let len: usize = shape.iter().product();
    if name.contains("timestep") {
        return Tensor::f32(shape, vec![37.0; len]);
    }
    Tensor::f32(shape, (0..len).map(|_| rng.normal() as f32).collect())
}

/// Alternating zeros and ones of a type that holds no fractions.
fn bytes(shape: &[usize], dtype: sara_kernels::DType) -> Option<Tensor> {
    let len: usize = shape.iter().product();
    let mut bytes = vec![0; len * dtype.size()];
    bytes.chunks_exact_mut(dtype.size()).skip(1).step_by(2).for_each(|element| element[0] = 1);
    Tensor::from_bytes(dtype, shape, &bytes)
}

/// Largest difference of two tensors, relative to the largest element that is expected; infinite where shapes differ, where only
/// one is NaN, or where integers differ at all.
pub(in crate::command) fn difference(expected: &Tensor, found: &Tensor) -> f64 {
    if expected.shape() != found.shape() {
        return f64::INFINITY;
    }
    let (e, f) = (expected.to_f64(), found.to_f64());
    if !expected.dtype().is_float() {
        return if e == f { 0.0 } else { f64::INFINITY };
    }
    let largest = e.iter().filter(|v| v.is_finite()).fold(0.0_f64, |m, v| m.max(v.abs()));
    let each = e.iter().zip(&f).map(|(e, f)| match (e.is_nan(), f.is_nan()) {
        (true, true) => 0.0,
        (false, false) if e == f => 0.0,
        (false, false) => (e - f).abs(),
        _ => f64::INFINITY,
    });
    let worst = each.fold(0.0, f64::max);
    if worst == 0.0 { 0.0 } else { worst / largest.max(f64::MIN_POSITIVE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences() {
        let t = |v: &[f32]| Tensor::f32(&[v.len()], v.to_vec()).unwrap();
        assert_eq!(difference(&t(&[1.0, -4.0]), &t(&[1.0, -4.0])), 0.0);
        assert_eq!(difference(&t(&[1.0, -4.0]), &t(&[2.0, -4.0])), 0.25);
        assert_eq!(difference(&t(&[1.0, f32::NAN]), &t(&[1.0, f32::NAN])), 0.0);
        assert_eq!(difference(&t(&[1.0, 2.0]), &t(&[1.0, f32::NAN])), f64::INFINITY);
        assert_eq!(difference(&t(&[f32::INFINITY]), &t(&[f32::INFINITY])), 0.0);
        assert_eq!(difference(&t(&[1.0]), &t(&[f32::INFINITY])), f64::INFINITY);
        assert_eq!(difference(&t(&[1.0]), &t(&[1.0, 1.0])), f64::INFINITY);
        let i = |v: i64| Tensor::i64(&[1], vec![v]).unwrap();
        assert_eq!(difference(&i(5), &i(5)), 0.0);
        assert_eq!(difference(&i(5), &i(6)), f64::INFINITY);
    }
}
