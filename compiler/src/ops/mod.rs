//! The operators: one file each, and the two tables that list them.

use crate::autodiff::Grad;
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::{Attrs, Type, ValueId};
use crate::lower::Lower;
use sara_kernels::DType;

mod attention;
pub mod binary;
mod cast;
mod concat;
mod constant;
mod control;
mod conv;
mod cross_entropy;
mod cumulative;
mod einsum;
mod embed;
mod expand;
mod fetch;
mod gather;
mod glu;
mod group_norm;
mod index;
mod layer_norm;
mod loss;
mod masked;
mod matmul;
mod norm;
mod onnx_attention;
mod order;
mod pool;
pub mod reduce;
mod resample;
mod reshape;
mod rms_norm;
mod rotary;
mod select;
mod slice;
mod softmax;
mod transpose;
mod triangle;
pub mod unary;
mod update;

/// What one operator is: its attributes, types, gradient, kernels and test cases.
pub trait Operator: Clone + PartialEq + std::fmt::Debug + Sized {
    /// Name in the text form.
    const NAME: &'static str;

    /// Reads the attributes from their text form.
    fn parse(attrs: &Attrs) -> Result<Self, String>;

    /// The attributes in their text form.
    fn attrs(&self) -> Attrs;

    /// Types of the results for operands of these types, or why they do not fit.
    fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String>;

    /// The gradient with respect to operand `wrt`, in the shape of the first result or of the operand; `None` if the operator
    /// is not differentiable in it. It is asked for only where it is needed; broadcasting is undone by the caller.
    fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>>;

    /// Appends the launches that compute the results.
    fn lower(&self, l: &mut Lower<'_>);

    /// What may be in bfloat16 where it is in single precision otherwise, for operands of these types.
    fn rounded(&self, _: &[Option<&Type>]) -> Rounded {
        Rounded::default()
    }

    /// Applications on tiny shapes, which the shared checks run.
    fn cases() -> Vec<Case>;
}

/// What of an operator may be in bfloat16 where it is in single precision otherwise. Its arithmetic is in single precision all the same,
/// but for products, which round such operands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounded {
    /// Operands for which nothing is lost by it, or little, since products read what is made of them.
    pub operands: &'static [usize],
    /// Operands that lose by it, but need not be widened where they are kept so.
    pub widened: &'static [usize],
    /// Results.
    pub results: &'static [usize],
    /// Whether the first result has the type of the first operand.
    pub same: bool,
}

impl Rounded {
    /// The type that operand `slot` stands for.
    pub fn stands_for(&self, slot: usize, ty: &Type) -> Type {
        if self.takes(slot) && ty.dtype == DType::Bf16 { ty.with_dtype(DType::F32) } else { ty.clone() }
    }

    /// Whether operand `slot` may be rounded.
    pub fn takes(&self, slot: usize) -> bool {
        self.operands.contains(&slot) || self.widened.contains(&slot)
    }
}

/// One application of an operator on tiny operands, for the shared checks.
#[derive(Clone, Debug)]
pub struct Case {
    /// The operator.
    pub op: Op,
    /// Types of the operands; `None` where an optional one is absent.
    pub inputs: Vec<Option<Type>>,
    /// What the operands hold.
    pub data: Data,
}

/// Operands of a [`Case`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Data {
    /// Floats in -1..1, away from 0; integers in 0..2.
    Signed,
    /// Floats in 0.5..1.5; integers in 1..3.
    Positive,
}

impl Case {
    /// A case on signed floats.
    pub fn new(op: impl Into<Op>, inputs: &[&str]) -> Case {
        let inputs = inputs
            .iter()
            .map(|text| match *text {
                "_" => None,
                text => crate::ir::parse_type(text).ok(),
            })
            .collect();
        Case { op: op.into(), inputs, data: Data::Signed }
    }

    /// The same with positive operands.
    pub fn positive(self) -> Case {
        Case { data: Data::Positive, ..self }
    }
}

/// Declares an operator's struct with its attributes, and how they are read and written.
macro_rules! operator {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* } $($body:tt)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$fdoc])* pub $field: $ty,)*
        }

        impl $crate::ops::Operator for $name {
            const NAME: &'static str = stringify!($name);

            fn parse(attrs: &$crate::ir::Attrs) -> Result<Self, String> {
                let known: &[&str] = &[$(stringify!($field)),*];
                if let Some(name) = attrs.keys().find(|k| !known.contains(&k.as_str())) {
                    return Err(format!("{} has no attribute `{name}`", stringify!($name)));
                }
                Ok($name {
                    $($field: $crate::ops::attribute(attrs, stringify!($field))?,)*
                })
            }

            fn attrs(&self) -> $crate::ir::Attrs {
                #[allow(unused_mut, reason = "operators without attributes")]
                let mut attrs = $crate::ir::Attrs::new();
                $(attrs.insert(stringify!($field).to_owned(), $crate::ir::AttrValue::scalar(&self.$field));)*
                attrs
            }

            $($body)*
        }
    };
}
pub(crate) use operator;

fn attribute<T: crate::ir::AttrValue>(attrs: &Attrs, name: &str) -> Result<T, String> {
    let value = attrs.get(name).ok_or_else(|| format!("attribute `{name}` is missing"))?;
    T::from_scalar(value).ok_or_else(|| format!("attribute `{name}` cannot be {value}"))
}

macro_rules! operators {
    ($($module:ident::$name:ident),* $(,)?) => {
        $(pub use $module::$name;)*

        /// An operator with its attributes.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each payload documents itself")]
        pub enum Op { $($name($name),)* }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Op {
                Op::$name(op)
            }
        })*

        impl Op {
            /// Names of all operators.
            pub const NAMES: &[&str] = &[$(<$name as Operator>::NAME),*];

            /// Name in the text form.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$name(_) => <$name as Operator>::NAME,)* }
            }

            /// The operator called `name` with these attributes.
            pub fn parse(name: &str, attrs: &Attrs) -> Result<Op, String> {
                match name {
                    $(<$name as Operator>::NAME => <$name as Operator>::parse(attrs).map(Op::$name),)*
                    _ => Err(format!("there is no operator `{name}`")),
                }
            }

            /// See [`Operator::attrs`].
            pub fn attrs(&self) -> Attrs {
                match self { $(Op::$name(op) => op.attrs(),)* }
            }

            /// See [`Operator::infer`].
            pub fn infer(&self, inputs: &[Option<&Type>]) -> Result<Vec<Type>, String> {
                match self { $(Op::$name(op) => op.infer(inputs),)* }
            }

            /// See [`Operator::grad`].
            pub fn grad(&self, g: &mut Grad<'_>, wrt: usize) -> Result<Option<ValueId>> {
                match self { $(Op::$name(op) => op.grad(g, wrt),)* }
            }

            /// Whether the result is the memory of the first operand.
            pub fn is_view(&self) -> bool {
                matches!(self, Op::Reshape(_) | Op::SparseDelta(_))
            }

            /// See [`Operator::lower`].
            pub fn lower(&self, l: &mut Lower<'_>) {
                match self { $(Op::$name(op) => op.lower(l),)* }
            }

            /// See [`Operator::rounded`].
            pub fn rounded(&self, inputs: &[Option<&Type>]) -> Rounded {
                match self { $(Op::$name(op) => op.rounded(inputs),)* }
            }

            /// Cases of all operators.
            pub fn cases() -> Vec<Case> {
                let mut cases = Vec::new();
                $(cases.extend(<$name as Operator>::cases());)*
                cases
            }
        }
    };
}

operators! {
    attention::Attention, attention::AttentionGrad,
    binary::Binary,
    cast::Cast,
    concat::Concat,
    conv::Conv, conv::ConvGradInput, conv::ConvGradWeight,
    embed::Embed,
    expand::Expand,
    gather::Gather, gather::GatherGrad,
    glu::Glu, glu::GluGrad,
    group_norm::GroupNorm, group_norm::GroupNormGrad, group_norm::GroupNormGradAffine,
    layer_norm::LayerNorm, layer_norm::LayerNormGrad, layer_norm::LayerNormGradAffine,
    loss::MseLoss, loss::MseLossGrad,
    fetch::Fetch,
    masked::SparseDelta, masked::Take, masked::MaskedMatMulGrad, masked::MaskedConvGrad,
    matmul::MatMul,
    reduce::Reduce,
    resample::Resample, resample::ResampleGrad,
    reshape::Reshape,
    rms_norm::RmsNorm, rms_norm::RmsNormGrad, rms_norm::RmsNormGradScale,
    select::Select,
    slice::Slice,
    softmax::Softmax, softmax::SoftmaxGrad,
    transpose::Transpose,
    unary::Unary, unary::UnaryGrad,
    update::Accumulate, update::ClipNorm, update::LowRank, update::SparseAdamW,
}

/// Turns an ONNX node into operators and returns its results.
pub type Import = fn(&mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>>;

/// How each ONNX operator of the default domain is imported.
pub const IMPORTS: &[(&str, Import)] = &[
    ("Abs", unary::import),
    ("Acos", unary::import),
    ("Acosh", unary::import),
    ("Add", binary::import),
    ("And", binary::import),
    ("ArgMax", order::import_arg),
    ("ArgMin", order::import_arg),
    ("Asin", unary::import),
    ("Asinh", unary::import),
    ("Atan", unary::import),
    ("Atanh", unary::import),
    ("Attention", onnx_attention::import),
    ("AveragePool", resample::import_average_pool),
    ("BatchNormalization", group_norm::import_batch),
    ("BitShift", binary::import_shift),
    ("BitwiseAnd", binary::import),
    ("BitwiseNot", unary::import),
    ("BitwiseOr", binary::import),
    ("BitwiseXor", binary::import),
    ("Cast", cast::import),
    ("CastLike", cast::import_like),
    ("Ceil", unary::import),
    ("Celu", unary::import),
    ("Clip", unary::import_clip),
    ("Compress", index::import_compress),
    ("Concat", concat::import),
    ("Constant", constant::import),
    ("ConstantOfShape", constant::import_of_shape),
    ("Conv", conv::import),
    ("ConvTranspose", conv::import_transpose),
    ("Cos", unary::import),
    ("Cosh", unary::import),
    ("CumProd", cumulative::import),
    ("CumSum", cumulative::import),
    ("DepthToSpace", transpose::import_depth_to_space),
    ("Div", binary::import),
    ("Dropout", reshape::import_dropout),
    ("Einsum", einsum::import),
    ("Elu", unary::import),
    ("Equal", binary::import),
    ("Erf", unary::import),
    ("Exp", unary::import),
    ("Expand", expand::import),
    ("EyeLike", triangle::import_eye_like),
    ("Flatten", reshape::import_flatten),
    ("Floor", unary::import),
    ("Gather", gather::import),
    ("GatherElements", index::import_gather_elements),
    ("GatherND", index::import_gather_nd),
    ("Gelu", unary::import_gelu),
    ("Gemm", matmul::import_gemm),
    ("GlobalAveragePool", reduce::import_global_average),
    ("GlobalLpPool", pool::import_global_lp),
    ("GlobalMaxPool", pool::import_global_max),
    ("Greater", binary::import),
    ("GreaterOrEqual", binary::import),
    ("GroupNormalization", group_norm::import),
    ("Hardmax", order::import_hardmax),
    ("HardSigmoid", unary::import_hard_sigmoid),
    ("HardSwish", unary::import),
    ("Identity", reshape::import_identity),
    ("If", control::import_if),
    ("InstanceNormalization", group_norm::import_instance),
    ("IsInf", unary::import_is_inf),
    ("IsNaN", unary::import_is_nan),
    ("LayerNormalization", layer_norm::import),
    ("LeakyRelu", unary::import),
    ("Less", binary::import),
    ("LessOrEqual", binary::import),
    ("Log", unary::import),
    ("LogSoftmax", softmax::import_log),
    ("Loop", control::import_loop),
    ("LpNormalization", norm::import_lp),
    ("LpPool", pool::import_lp),
    ("LRN", norm::import_lrn),
    ("MatMul", matmul::import),
    ("Max", binary::import_variadic),
    ("MaxPool", pool::import_max),
    ("Mean", binary::import_variadic),
    ("MeanVarianceNormalization", norm::import_mean_variance),
    ("Min", binary::import_variadic),
    ("Mish", unary::import),
    ("Mod", binary::import_mod),
    ("Mul", binary::import),
    ("Neg", unary::import),
    ("NegativeLogLikelihoodLoss", cross_entropy::import_likelihood),
    ("NonZero", index::import_non_zero),
    ("Not", unary::import),
    ("OneHot", index::import_one_hot),
    ("Or", binary::import),
    ("Pad", embed::import_pad),
    ("Pow", binary::import_pow),
    ("PRelu", unary::import_prelu),
    ("Range", constant::import_range),
    ("Reciprocal", unary::import),
    ("ReduceL1", reduce::import),
    ("ReduceL2", reduce::import),
    ("ReduceLogSum", reduce::import),
    ("ReduceLogSumExp", reduce::import),
    ("ReduceMax", reduce::import),
    ("ReduceMean", reduce::import),
    ("ReduceMin", reduce::import),
    ("ReduceProd", reduce::import),
    ("ReduceSum", reduce::import),
    ("ReduceSumSquare", reduce::import),
    ("Relu", unary::import),
    ("Reshape", reshape::import),
    ("Resize", resample::import_resize),
    ("ReverseSequence", index::import_reverse_sequence),
    ("RMSNormalization", rms_norm::import),
    ("RotaryEmbedding", rotary::import),
    ("Round", unary::import),
    ("Scan", control::import_scan),
    ("Scatter", index::import_scatter_elements),
    ("ScatterElements", index::import_scatter_elements),
    ("ScatterND", index::import_scatter_nd),
    ("Selu", unary::import_selu),
    ("Shape", constant::import_shape),
    ("Shrink", unary::import_shrink),
    ("Sigmoid", unary::import),
    ("Sign", unary::import),
    ("Sin", unary::import),
    ("Sinh", unary::import),
    ("Size", constant::import_size),
    ("Slice", slice::import),
    ("Softmax", softmax::import),
    ("SoftmaxCrossEntropyLoss", cross_entropy::import_softmax),
    ("Softplus", unary::import),
    ("Softsign", unary::import),
    ("SpaceToDepth", transpose::import_space_to_depth),
    ("Split", slice::import_split),
    ("Sqrt", unary::import),
    ("Squeeze", reshape::import_squeeze),
    ("Sub", binary::import),
    ("Sum", binary::import_variadic),
    ("SwiGLU", unary::import_swiglu),
    ("Swish", unary::import),
    ("Tan", unary::import),
    ("Tanh", unary::import),
    ("ThresholdedRelu", unary::import_thresholded),
    ("Tile", expand::import_tile),
    ("TopK", order::import_top_k),
    ("Transpose", transpose::import),
    ("Trilu", triangle::import_trilu),
    ("Unsqueeze", reshape::import_unsqueeze),
    ("Upsample", resample::import_upsample),
    ("Where", select::import),
    ("Xor", binary::import),
];
