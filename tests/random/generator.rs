//! Legal random models, made from a recipe: a list of numbers that pick operators, operands and attributes.
//!
//! Values are bounded by construction, and the error that single precision may make in each is propagated with them, so that what is
//! compared has a tolerance of its own. Functions that jump are applied to exact values only. A step that does not fit is left
//! out, so that any part of a recipe is a recipe.

#[path = "patterns.rs"]
mod patterns;
#[path = "steps.rs"]
mod steps;

use super::common::{self, Attr, Dim, Tensor, declare, noise};
use onnx_protobuf::{ModelProto, NodeProto, TensorProto, ValueInfoProto};
use sara_runtime::oracle::OracleType;

/// One step: what to do, to which value, and two numbers for everything else.
pub(crate) type Step = [u16; 4];

/// Elements of the largest value.
const MOST_ELEMENTS: usize = 4096;

/// What is larger is scaled down.
const LARGEST: f64 = 64.0;

/// Error of one rounding in single precision, with room for another order of sums.
const ROUNDING: f64 = 2e-7;

/// A value of the model under construction.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Largest magnitude.
    pub(super) bound: f64,
    /// Largest error in single precision; 0 for what was not computed.
    pub(super) error: f64,
}

impl Value {
    pub(super) fn rank(&self) -> usize {
        self.shape.len()
    }

    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A random model, its inputs, and how far its results may be off.
pub(crate) struct Random {
    pub(crate) model: ModelProto,
    pub(crate) inputs: Vec<(String, TensorProto)>,
    pub(crate) tolerance: f64,
}

/// State of the construction.
pub(super) struct Builder {
    pub(super) values: Vec<Value>,
    nodes: Vec<NodeProto>,
    inputs: Vec<(ValueInfoProto, TensorProto)>,
    initialisers: Vec<TensorProto>,
    leaves: u64,
}

/// The model of a recipe, or nothing if no step of it fits.
pub(crate) fn generate(recipe: &[Step]) -> Option<Random> {
    let mut b =
        Builder { values: Vec::new(), nodes: Vec::new(), inputs: Vec::new(), initialisers: Vec::new(), leaves: 0 };
    let first = recipe.first()?;
    let shapes: [&[usize]; 6] = [&[2, 4, 6, 5], &[3, 8], &[2, 5, 8], &[1, 6, 4, 4], &[7], &[2, 3, 4, 2, 3]];
    let x = b.input(shapes[first[3] as usize % shapes.len()]);
    b.values.push(x);
    for step in recipe {
        let x = b.values[step[1] as usize % b.values.len()].clone();
        let kind = steps::STEPS[step[0] as usize % steps::STEPS.len()];
        kind(&mut b, &x, step[2], step[3]);
    }
    let computed: Vec<Value> = b.values.iter().skip(1).cloned().collect();
    let last = computed.last()?.clone();
    let mut outputs = vec![last];
    // Some of what lies between is a result as well.
    for step in recipe.iter().filter(|s| s[2] % 5 == 0).take(2) {
        let other = &computed[step[3] as usize % computed.len()];
        if outputs.iter().all(|o| o.name != other.name) {
            outputs.push(other.clone());
        }
    }
    let names: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
    let tolerance = outputs.iter().map(|o| 4.0 * o.error + 1e-6 * o.bound).fold(0.0, f64::max);
    let (infos, data): (Vec<_>, Vec<_>) = b.inputs.into_iter().unzip();
    let inputs = infos.iter().map(|i| i.name.clone()).zip(data).collect();
    let graph = common::graph(b.nodes, infos, b.initialisers, &names);
    Some(Random { model: common::model(17, graph), inputs, tolerance })
}

impl Builder {
    fn data(&mut self, shape: &[usize]) -> Tensor {
        self.leaves += 1;
        let values = noise(self.leaves, shape.iter().product());
        Tensor::new(
            OracleType::F32,
            shape,
            &values.iter().map(|v| f64::from((2.0 * v - 1.0) as f32)).collect::<Vec<_>>(),
        )
    }

    /// An input with elements in -1..1.
    pub(super) fn input(&mut self, shape: &[usize]) -> Value {
        let tensor = self.data(shape);
        let name = format!("x{}", self.leaves);
        let dims: Vec<Dim> = shape.iter().map(|d| Dim::Fixed(*d)).collect();
        self.inputs.push((declare(&name, OracleType::F32, &dims), tensor.proto(&name)));
        Value { name, shape: shape.to_vec(), bound: 1.0, error: 0.0 }
    }

    /// An initialiser with elements in -1..1, or sometimes an input.
    pub(super) fn leaf(&mut self, shape: &[usize], choice: u16) -> Value {
        if choice % 4 == 3 {
            return self.input(shape);
        }
        let tensor = self.data(shape);
        let name = format!("w{}", self.leaves);
        self.initialisers.push(tensor.proto(&name));
        Value { name, shape: shape.to_vec(), bound: 1.0, error: 0.0 }
    }

    /// An initialiser that holds these numbers.
    pub(super) fn constant(&mut self, dtype: OracleType, shape: &[usize], values: &[f64]) -> String {
        self.leaves += 1;
        let name = format!("c{}", self.leaves);
        self.initialisers.push(Tensor::new(dtype, shape, values).proto(&name));
        name
    }

    /// A constant vector of integers.
    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        self.constant(OracleType::I64, &[values.len()], &values.iter().map(|v| *v as f64).collect::<Vec<_>>())
    }

    /// A constant number.
    pub(super) fn number(&mut self, value: f64) -> Value {
        let name = self.constant(OracleType::F32, &[], &[value]);
        Value { name, shape: vec![], bound: value.abs(), error: 0.0 }
    }

    /// A node whose results have no bound yet, by their names.
    pub(super) fn node(&mut self, op: &str, inputs: &[&str], attrs: &[Attr], outputs: usize) -> Vec<String> {
        let names: Vec<String> = (0..outputs).map(|i| format!("v{}_{i}", self.nodes.len())).collect();
        let refs: Vec<&str> = names.iter().map(String::as_str).collect();
        self.nodes.push(common::node(op, inputs, &refs, attrs));
        names
    }

    /// A value that the steps after this one may use. What grew large is scaled down, what is too long is dropped.
    pub(super) fn give(&mut self, name: &str, shape: &[usize], bound: f64, error: f64) -> Option<Value> {
        let mut value = Value { name: name.to_owned(), shape: shape.to_vec(), bound, error: error + ROUNDING * bound };
        if value.len() == 0 || value.len() > MOST_ELEMENTS || value.rank() > 6 {
            return None;
        }
        if bound > LARGEST {
            let factor = self.number(1.0 / bound);
            value.name = self.node("Mul", &[&value.name.clone(), &factor.name], &[], 1).remove(0);
            (value.bound, value.error) = (1.0, value.error / bound + ROUNDING);
        }
        self.values.push(value.clone());
        Some(value)
    }

    /// A node with one result.
    pub(super) fn step(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attrs: &[Attr],
        (shape, bound, error): (&[usize], f64, f64),
    ) -> Option<Value> {
        let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
        let name = self.node(op, &names, attrs, 1).remove(0);
        self.give(&name, shape, bound, error)
    }
}
