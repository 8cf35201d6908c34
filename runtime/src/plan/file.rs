//! The file form of a plan: magic bytes, a version, the hash of what follows, and a prost message.

use super::{
    Buffer, BufferId, ModelFile, Part, Peak, Place, Plan, Port, Program, Selection, Sparse, Step, Stored, Weight,
};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use bytes::Bytes;
use prost::Message;
use sara_kernels::{DType, Scalar};
use sha2::{Digest, Sha256};
use std::path::Path;

const MAGIC: &[u8; 9] = b"sara-plan";
/// Version of the format. A plan is cheap to compile again, so older versions are not read.
const VERSION: u32 = 13;
const HASH: usize = 32;

/// The messages.
mod message {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Plan {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) model_path: String,
        #[prost(uint64, tag = "3")]
        pub(super) model_bytes: u64,
        #[prost(string, tag = "4")]
        pub(super) model_sha256: String,
        #[prost(double, tag = "5")]
        pub(super) threshold: f64,
        #[prost(uint64, repeated, tag = "6")]
        pub(super) counts: Vec<u64>,
        #[prost(uint64, tag = "7")]
        pub(super) arena_bytes: u64,
        #[prost(message, repeated, tag = "8")]
        pub(super) buffers: Vec<Buffer>,
        #[prost(message, repeated, tag = "9")]
        pub(super) weights: Vec<Weight>,
        #[prost(message, repeated, tag = "10")]
        pub(super) sparse: Vec<Sparse>,
        #[prost(bytes = "vec", tag = "11")]
        pub(super) constants: Vec<u8>,
        /// Empty if none was declared.
        #[prost(string, tag = "13")]
        pub(super) model_root: String,
        #[prost(message, repeated, tag = "12")]
        pub(super) programs: Vec<Program>,
        #[prost(bool, tag = "14")]
        pub(super) use_8bit_adam: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Buffer {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) dtype: String,
        #[prost(uint64, tag = "3")]
        pub(super) len: u64,
        #[prost(uint32, tag = "4")]
        pub(super) region: u32,
        #[prost(uint64, tag = "5")]
        pub(super) at: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Weight {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) path: String,
        #[prost(uint64, repeated, tag = "3")]
        pub(super) shape: Vec<u64>,
        #[prost(string, tag = "4")]
        pub(super) stored: String,
        #[prost(string, tag = "5")]
        pub(super) file: String,
        #[prost(uint64, tag = "6")]
        pub(super) offset: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Sparse {
        #[prost(uint32, tag = "1")]
        pub(super) weight: u32,
        /// Shares the file's memory, since there may be much of it.
        #[prost(bytes = "bytes", tag = "2")]
        pub(super) index: bytes::Bytes,
        #[prost(string, optional, tag = "3")]
        pub(super) low_rank: Option<String>,
        #[prost(double, tag = "4")]
        pub(super) threshold: f64,
        #[prost(string, tag = "5")]
        pub(super) base_sha256: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Port {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(uint32, tag = "2")]
        pub(super) buffer: u32,
        #[prost(uint64, repeated, tag = "3")]
        pub(super) shape: Vec<u64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Program {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, repeated, tag = "2")]
        pub(super) inputs: Vec<Port>,
        #[prost(message, repeated, tag = "3")]
        pub(super) outputs: Vec<Port>,
        #[prost(message, repeated, tag = "4")]
        pub(super) steps: Vec<Step>,
        #[prost(uint64, tag = "5")]
        pub(super) arena_bytes: u64,
        #[prost(uint32, tag = "6")]
        pub(super) peak_step: u32,
        #[prost(uint64, tag = "7")]
        pub(super) peak_bytes: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Step {
        #[prost(string, tag = "1")]
        pub(super) kernel: String,
        /// Number of the buffer plus one; 0 for an absent argument.
        #[prost(uint32, repeated, tag = "2")]
        pub(super) args: Vec<u32>,
        #[prost(message, repeated, tag = "3")]
        pub(super) scalars: Vec<Scalar>,
        #[prost(string, tag = "4")]
        pub(super) origin: String,
        /// Number in `Part::ALL`.
        #[prost(uint32, tag = "5")]
        pub(super) part: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Scalar {
        #[prost(oneof = "Value", tags = "1, 2, 3, 4")]
        pub(super) value: Option<Value>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Value {
        #[prost(sint64, tag = "1")]
        Int(i64),
        #[prost(double, tag = "2")]
        Float(f64),
        #[prost(message, tag = "3")]
        Ints(Ints),
        #[prost(string, tag = "4")]
        Word(String),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Ints {
        #[prost(sint64, repeated, tag = "1")]
        pub(super) values: Vec<i64>,
    }
}

impl Plan {
    /// Writes the plan.
    pub fn save(&self, path: &Path) -> Result<()> {
        let payload = to_message(self).encode_to_vec();
        write_atomic(path, |out| {
            out.write_all(MAGIC)?;
            out.write_all(&VERSION.to_le_bytes())?;
            out.write_all(&Sha256::digest(&payload))?;
            out.write_all(&payload)
        })
    }

    /// Reads and verifies a plan.
    pub fn load(path: &Path) -> Result<Plan> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let plan = from_bytes(bytes.into()).map_err(|reason| Error::file(path, reason))?;
        plan.verify().map_err(|e| Error::file(path, e.to_string()))?;
        Ok(plan)
    }
}

fn from_bytes(bytes: Bytes) -> Result<Plan, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("is not a plan; make one with `sara compile`")?;
    let damaged = "is a damaged plan; compile it again";
    let (version, rest) = rest.split_first_chunk::<4>().ok_or(damaged)?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(format!("is a plan of version {version}, and this sara reads version {VERSION}; compile it again"));
    }
    let (hash, payload) = rest.split_first_chunk::<HASH>().ok_or(damaged)?;
    if Sha256::digest(payload)[..] != hash[..] {
        return Err(damaged.to_owned());
    }
    let message = message::Plan::decode(bytes.slice_ref(payload)).map_err(|e| format!("{damaged} ({e})"))?;
    from_message(message).map_err(|field| format!("has an illegal {field}; compile it again"))
}

fn to_message(plan: &Plan) -> message::Plan {
    let buffers = plan.buffers.iter().map(|b| {
        let (region, at) = match b.place {
            Place::Arena(at) => (0, at),
            Place::Weight(i) => (1, u64::from(i)),
            Place::Constant(at) => (2, at),
            Place::Index(i) => (3, u64::from(i)),
            Place::Param(i) => (4, u64::from(i)),
            Place::Gradient(i) => (5, u64::from(i)),
            Place::Moment1(i) => (6, u64::from(i)),
            Place::Moment2(i) => (7, u64::from(i)),
            Place::Hyper => (8, 0),
            Place::File(i) => (9, u64::from(i)),
            Place::AllIndex(i) => (10, u64::from(i)),
            Place::AllParam(i) => (11, u64::from(i)),
            Place::Absmax1(i) => (12, u64::from(i)),
            Place::Absmax2(i) => (13, u64::from(i)),
        };
        message::Buffer { name: b.name.clone(), dtype: b.dtype.name().into(), len: b.len, region, at }
    });
    let weights = plan.weights.iter().map(|w| message::Weight {
        name: w.name.clone(),
        path: w.path.clone(),
        shape: w.shape.clone(),
        stored: match w.stored {
            Stored::Plain(d) => d.name().into(),
            Stored::F16 => "f16".into(),
            Stored::Bf16 => "bf16".into(),
        },
        file: w.file.clone(),
        offset: w.offset,
    });
    let sparse = plan.sparse.iter().map(|s| message::Sparse {
        weight: s.weight,
        index: Bytes::copy_from_slice(bytemuck::cast_slice(&s.index)),
        low_rank: s.low_rank.clone(),
        threshold: s.threshold,
        base_sha256: s.base_sha256.clone(),
    });
    let s = &plan.selection;
    message::Plan {
        name: plan.name.clone(),
        model_path: plan.model.path.to_string_lossy().into_owned(),
        model_root: plan.model.root.as_ref().map_or(String::new(), |r| r.to_string_lossy().into_owned()),
        model_bytes: plan.model.bytes,
        model_sha256: plan.model.sha256.clone(),
        threshold: s.threshold,
        counts: vec![s.trainable, s.eligible, s.total],
        arena_bytes: plan.arena_bytes,
        buffers: buffers.collect(),
        weights: weights.collect(),
        sparse: sparse.collect(),
        constants: plan.constants.clone(),
        programs: plan.programs.iter().map(program_message).collect(),
        use_8bit_adam: plan.use_8bit_adam,
    }
}

fn program_message(program: &Program) -> message::Program {
    let ports = |ports: &[Port]| {
        let port = |p: &Port| message::Port { name: p.name.clone(), buffer: p.buffer.0, shape: p.shape.clone() };
        ports.iter().map(port).collect()
    };
    let scalar = |s: &Scalar| {
        let value = match s {
            Scalar::Int(v) => message::Value::Int(*v),
            Scalar::Float(v) => message::Value::Float(*v),
            Scalar::Ints(v) => message::Value::Ints(message::Ints { values: v.clone() }),
            Scalar::Word(v) => message::Value::Word(v.clone()),
        };
        message::Scalar { value: Some(value) }
    };
    let steps = program.steps.iter().map(|s| message::Step {
        kernel: s.kernel.name.into(),
        args: s.args.iter().map(|a| a.map_or(0, |b| b.0 + 1)).collect(),
        scalars: s.scalars.iter().map(scalar).collect(),
        origin: s.origin.clone(),
        part: s.part as u32,
    });
    message::Program {
        name: program.name.clone(),
        inputs: ports(&program.inputs),
        outputs: ports(&program.outputs),
        steps: steps.collect(),
        arena_bytes: program.arena_bytes,
        peak_step: program.peak.step,
        peak_bytes: program.peak.live_bytes,
    }
}

fn from_message(m: message::Plan) -> Result<Plan, String> {
    let dtype = |name: &str| DType::from_name(name).ok_or_else(|| format!("element type `{name}`"));
    let buffers = m.buffers.into_iter().map(|b| {
        let i = u32::try_from(b.at);
        let number = i.map_err(|_| format!("place of buffer `{}`", b.name));
        let place = match b.region {
            0 => Place::Arena(b.at),
            1 => Place::Weight(number?),
            2 => Place::Constant(b.at),
            3 => Place::Index(number?),
            4 => Place::Param(number?),
            5 => Place::Gradient(number?),
            6 => Place::Moment1(number?),
            7 => Place::Moment2(number?),
            8 => Place::Hyper,
            9 => Place::File(number?),
            10 => Place::AllIndex(number?),
            11 => Place::AllParam(number?),
            12 => Place::Absmax1(number?),
            13 => Place::Absmax2(number?),
            _ => return Err(format!("place of buffer `{}`", b.name)),
        };
        Ok(Buffer { dtype: dtype(&b.dtype)?, name: b.name, len: b.len, place })
    });
    let buffers: Vec<Buffer> = buffers.collect::<Result<_, String>>()?;
    let weights = m.weights.into_iter().map(|w| {
        let stored = match w.stored.as_str() {
            "f16" => Stored::F16,
            "bf16" => Stored::Bf16,
            name => Stored::Plain(dtype(name)?),
        };
        // Lengths are trusted from here on.
        let len = w.shape.iter().try_fold(8u64, |n, d| n.checked_mul(*d));
        len.filter(|n| *n < 1 << 48).ok_or_else(|| format!("shape of weight `{}`", w.name))?;
        Ok(Weight { name: w.name, path: w.path, shape: w.shape, stored, file: w.file, offset: w.offset })
    });
    let sparse = m.sparse.into_iter().map(|s| {
        if s.index.len() % 4 != 0 {
            return Err(format!("index of sparse weight {}", s.weight));
        }
        Ok(Sparse {
            weight: s.weight,
            index: bytemuck::pod_collect_to_vec(&s.index),
            threshold: s.threshold,
            base_sha256: s.base_sha256,
            low_rank: s.low_rank,
        })
    });
    let [trainable, eligible, total] = m.counts[..] else { return Err("count of entries".into()) };
    let programs = m.programs.into_iter().map(|p| program(p, buffers.len())).collect::<Result<_, String>>()?;
    Ok(Plan {
        name: m.name,
        model: ModelFile {
            path: m.model_path.into(),
            root: Some(m.model_root).filter(|r| !r.is_empty()).map(Into::into),
            bytes: m.model_bytes,
            sha256: m.model_sha256,
        },
        selection: Selection { threshold: m.threshold, trainable, eligible, total },
        arena_bytes: m.arena_bytes,
        weights: weights.collect::<Result<_, String>>()?,
        sparse: sparse.collect::<Result<_, String>>()?,
        use_8bit_adam: m.use_8bit_adam,
        constants: m.constants,
        programs,
        buffers,
    })
}

fn program(p: message::Program, buffers: usize) -> Result<Program, String> {
    let known = |id: u32| if (id as usize) < buffers { Ok(BufferId(id)) } else { Err(format!("buffer {id}")) };
    let ports = |ports: Vec<message::Port>| {
        let port = |p: message::Port| Ok(Port { buffer: known(p.buffer)?, name: p.name, shape: p.shape });
        ports.into_iter().map(port).collect::<Result<Vec<_>, String>>()
    };
    let steps = p.steps.into_iter().map(|s| {
        let kernel = sara_kernels::find(&s.kernel).ok_or_else(|| format!("kernel `{}`", s.kernel))?;
        let args = s.args.iter().map(|a| a.checked_sub(1).map(known).transpose()).collect::<Result<_, String>>()?;
        let scalars = s.scalars.into_iter().map(|v| match v.value {
            Some(message::Value::Int(v)) => Ok(Scalar::Int(v)),
            Some(message::Value::Float(v)) => Ok(Scalar::Float(v)),
            Some(message::Value::Ints(v)) => Ok(Scalar::Ints(v.values)),
            Some(message::Value::Word(v)) => Ok(Scalar::Word(v)),
            None => Err(format!("scalar of kernel `{}`", s.kernel)),
        });
        let part = *Part::ALL.get(s.part as usize).ok_or_else(|| format!("part {}", s.part))?;
        Ok(Step { kernel, args, scalars: scalars.collect::<Result<_, String>>()?, origin: s.origin, part })
    });
    Ok(Program {
        steps: steps.collect::<Result<_, String>>()?,
        inputs: ports(p.inputs)?,
        outputs: ports(p.outputs)?,
        name: p.name,
        arena_bytes: p.arena_bytes,
        peak: Peak { step: p.peak_step, live_bytes: p.peak_bytes },
    })
}
