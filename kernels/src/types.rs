//! Element types that arguments may have, each by itself and all together.

use crate::{Call, DType, Mode, Scalar};
use std::fmt;

/// Element types an argument may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Types {
    /// Anything.
    Stored,
    /// Anything but half precision, in which nothing is computed.
    Any,
    /// As [`Types::Any`], or rounded to `bf16` where that is `f32`.
    AnyRounded,
    /// `f32` or `f64`.
    Float,
    /// A weight: as [`Types::Float`], or in half precision where those are `f32`.
    Weight,
    /// What products read, is made for them or kept: as [`Types::Float`], or rounded to `bf16` where those are `f32`.
    Rounded,
    /// Exactly this one.
    Only(DType),
}

impl Types {
    /// Whether `dtype` is admitted.
    pub fn admits(self, dtype: DType) -> bool {
        match self {
            Types::Stored => true,
            Types::Any => !dtype.is_half(),
            Types::AnyRounded => dtype != DType::F16,
            Types::Float => dtype.is_float(),
            Types::Weight => dtype.is_float() || dtype.is_half(),
            Types::Rounded => dtype.is_float() || dtype == DType::Bf16,
            Types::Only(d) => d == dtype,
        }
    }

    /// Whether numbers that are computed may be rounded to `bf16`; what else is in `bf16` was only converted or moved.
    pub const fn is_rounded(self) -> bool {
        matches!(self, Types::AnyRounded | Types::Rounded)
    }
}

/// A call with the element types of its arguments.
#[derive(Clone, Copy)]
pub struct TypedCall<'a> {
    call: Call<'a>,
    dtypes: &'a [Option<DType>],
}

impl<'a> std::ops::Deref for TypedCall<'a> {
    type Target = Call<'a>;
    fn deref(&self) -> &Call<'a> {
        &self.call
    }
}

impl<'a> TypedCall<'a> {
    /// A call whose arguments have these types; none where one is absent.
    pub fn new(call: Call<'a>, dtypes: &'a [Option<DType>]) -> TypedCall<'a> {
        TypedCall { call, dtypes }
    }

    /// Element type of the argument `name`.
    pub fn dtype(&self, name: &str) -> DType {
        self.dtypes[self.kernel.arg(name)].unwrap_or(DType::U8)
    }

    /// Whether the argument `name` is present.
    pub fn has(&self, name: &str) -> bool {
        self.dtypes[self.kernel.arg(name)].is_some()
    }

    /// Whether an argument is in half precision.
    pub fn has_half(&self) -> bool {
        self.dtypes.iter().flatten().any(|dtype| dtype.is_half())
    }

    /// Whether the kernel has a form for these types.
    pub fn is_admitted(&self) -> bool {
        let mut args = self.kernel.args.iter().zip(self.dtypes);
        let each = args.all(|(arg, dtype)| dtype.map_or(arg.optional, |dtype| arg.types.admits(dtype)));
        each && (self.kernel.admits)(self)
    }

    /// Bytes that it moves: those of its arguments, of those that it updates what it writes, or all of them twice if it reads them.
    pub fn bytes(&self) -> u64 {
        let args = self.kernel.args.iter().zip(self.dtypes).zip(self.lens);
        let bytes = args.filter_map(|((arg, dtype), len)| {
            let elements = match (arg.accessed, arg.mode) {
                (Some(accessed), _) => accessed(self),
                (None, Mode::Update) => (arg.fresh)(self).unwrap_or(2 * *len as u64),
                (None, Mode::Read | Mode::Write) => *len as u64,
            };
            Some(elements * dtype.as_ref()?.size() as u64)
        });
        bytes.sum()
    }

    /// Whether the arguments whose declaration leaves a choice are computed with in one type, and those in half precision are stored in one.
    pub fn agree(&self) -> bool {
        let (mut computed, mut half) = (None, None);
        let chosen = self.kernel.args.iter().zip(self.dtypes).filter(|(arg, _)| !matches!(arg.types, Types::Only(_)));
        chosen.filter_map(|(_, dtype)| *dtype).all(|dtype| {
            let one = *computed.get_or_insert(dtype.computed()) == dtype.computed();
            one && (!dtype.is_half() || *half.get_or_insert(dtype) == dtype)
        })
    }
}

/// The arguments that are present with their types, and the words: `op exp, x f32, y f32`.
impl fmt::Display for TypedCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.kernel.scalars.iter().zip(self.scalars).filter_map(|((name, _), value)| match value {
            Scalar::Word(word) => Some(format!("{name} {word}")),
            _ => None,
        });
        let args = self.kernel.args.iter().zip(self.dtypes);
        let args = args.filter_map(|(arg, dtype)| dtype.map(|dtype| format!("{} {dtype}", arg.name)));
        f.write_str(&words.chain(args).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Bench;
    use crate::{KERNELS, Kernel, ScalarKind, binary, hyper, unary};

    /// Scalars of launches of one element, with every word that any kernel knows.
    fn launches(kernel: &Kernel) -> Vec<Vec<Scalar>> {
        let words = [unary::cuda::WORDS, binary::cuda::WORDS, &["and", "or", "xor", "sum", "mean", "prod"]];
        let words = words.concat().into_iter().chain(["f32", "f64", "f16", "bf16", "nothing"]);
        let values = |(name, kind): &(&str, ScalarKind)| match (*name, kind) {
            ("half", _) => vec![Scalar::Int(0), Scalar::Int(1)],
            ("slot" | "x_offset" | "y_offset", _) => vec![Scalar::Int(0)],
            ("pads", _) => vec![Scalar::Ints(vec![0; 3])],
            ("a_strides" | "b_strides" | "c_strides", _) if kernel.name == "gemm" => vec![Scalar::Ints(vec![1; 2])],
            (_, ScalarKind::Int) => vec![Scalar::Int(1)],
            (_, ScalarKind::Float) => vec![Scalar::Float(0.0)],
            (_, ScalarKind::Ints) => vec![Scalar::Ints(vec![1; 3])],
            (_, ScalarKind::Word) => words.clone().map(|word| Scalar::Word(word.into())).collect(),
        };
        product(kernel.scalars.iter().map(values))
    }

    /// All ways to choose one of each.
    fn product<T: Clone>(choices: impl Iterator<Item = Vec<T>>) -> Vec<Vec<T>> {
        choices.fold(vec![vec![]], |chosen, choices| {
            chosen
                .iter()
                .flat_map(|first| choices.iter().map(|next| [&first[..], std::slice::from_ref(next)].concat()))
                .collect()
        })
    }

    /// Elements of an argument.
    fn len(kernel: &Kernel, scalars: &[Scalar], arg: &str) -> usize {
        match (kernel.name, arg, scalars) {
            (_, "hyper", _) => hyper::LEN,
            (_, "work", _) => 1 << 10,
            ("glu" | "glu_grad", "x", _) => 2,
            ("fetch", "stored", [Scalar::Word(word)]) => DType::from_name(word).map_or(1, DType::size),
            _ => 1,
        }
    }

    #[test]
    fn of_a_weight_its_trained_entries_are_moved() {
        let kernel = crate::find("sparse_adamw").unwrap();
        let lens = [1000, 3, 3, 3, 3, 3, hyper::LEN];
        let dtypes = [DType::Bf16, DType::U32, DType::F32, DType::F32, DType::F32, DType::F32, DType::F32].map(Some);
        let call = Call { kernel, lens: &lens, scalars: &[] };
        let (weight, positions, state) = (3 * 2, 3 * 4, 4 * 3 * 4 * 2);
        assert_eq!(TypedCall::new(call, &dtypes).bytes(), weight + positions + state + 4 * hyper::LEN as u64);
        let dtypes = [&[None], &dtypes[1..]].concat();
        assert_eq!(TypedCall::new(call, &dtypes).bytes(), positions + state + 4 * hyper::LEN as u64);
    }

    /// Both forms of each kernel have what every admitted combination of types needs.
    #[test]
    fn what_is_admitted_runs() {
        for kernel in KERNELS {
            let dtypes = kernel.args.iter().map(|arg| {
                let admitted = DType::ALL.iter().copied().filter(|dtype| arg.types.admits(*dtype)).map(Some);
                admitted.chain(arg.optional.then_some(None)).collect()
            });
            let dtypes = product(dtypes);
            let mut admitted = 0;
            for scalars in launches(kernel) {
                let lens: Vec<usize> = kernel.args.iter().map(|arg| len(kernel, &scalars, arg.name)).collect();
                let call = Call { kernel, lens: &lens, scalars: &scalars };
                for dtypes in dtypes.iter().filter(|dtypes| TypedCall::new(call, dtypes).is_admitted()) {
                    let mut bench = Bench::new(kernel, scalars.clone());
                    for ((arg, dtype), len) in kernel.args.iter().zip(dtypes).zip(&lens) {
                        if let Some(dtype) = dtype {
                            bench.ints(arg.name, *dtype, &vec![0; *len]);
                        }
                    }
                    bench.run();
                    admitted += 1;
                }
            }
            assert!(admitted > 0, "nothing of {kernel:?} is admitted");
        }
    }
}
