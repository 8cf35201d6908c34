//! The text form of a graph. [`super::parse`] is its inverse.

use super::{Block, Def, Graph, NodeId, Payload, State, Type, ValueId};
use sara_kernels::DType;
use std::fmt::{self, Write};

/// Payloads of at most this many elements are printed whole.
const INLINE: usize = 16;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {} stage={}", self.name, self.stage.name())?;
        let used = used_values(self);
        let shown: Vec<ValueId> = self.values().map(|(id, _)| id).filter(|id| used[id.0 as usize]).collect();
        let rows: Vec<(&str, ValueId, String)> = shown.iter().filter_map(|id| leaf(self, *id)).collect();
        let name = rows.iter().map(|r| self.value(r.1).name.len()).max().unwrap_or(0);
        let ty = rows.iter().map(|r| self.ty(r.1).to_string().len()).max().unwrap_or(0);
        for (kind, id, rest) in rows {
            let v = self.value(id);
            let line = format!("  {kind:<6} %{:<name$} {:<ty$} {rest}", v.name, v.ty.to_string());
            writeln!(f, "{}", line.trim_end())?;
        }
        for block in Block::ALL {
            if self.block(block).is_empty() {
                continue;
            }
            writeln!(f, "{}", block.name())?;
            for id in self.block(block) {
                writeln!(f, "  {}", display_node(self, *id))?;
            }
        }
        let returns: Vec<String> = self
            .returns
            .iter()
            .map(|(name, v)| {
                let value = &self.value(*v).name;
                if name == value { format!("%{value}") } else { format!("%{value} as {name:?}") }
            })
            .collect();
        writeln!(f, "return {}", returns.join(", "))
    }
}

/// One node, as a line of text.
pub fn display_node(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let mut line = String::new();
    let results: Vec<String> =
        node.outputs.iter().map(|v| format!("%{} {}", graph.value(*v).name, graph.ty(*v))).collect();
    if !results.is_empty() {
        let _ = write!(line, "{} = ", results.join(", "));
    }
    line.push_str(if node.again { "again " } else { "" });
    line.push_str(node.op.name());
    let operands: Vec<String> =
        node.inputs.iter().map(|v| v.map_or("_".to_owned(), |v| format!("%{}", graph.value(v).name))).collect();
    if !operands.is_empty() {
        let _ = write!(line, " {}", operands.join(", "));
    }
    let attrs: Vec<String> = node.op.attrs().iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !attrs.is_empty() {
        let _ = write!(line, " {{{}}}", attrs.join(" "));
    }
    if !node.origin.is_empty() {
        let _ = write!(line, "  ; {}", node.origin);
    }
    line
}

/// Values that are worth a line: those that nodes and returns use, and what they belong to.
fn used_values(graph: &Graph) -> Vec<bool> {
    let mut used: Vec<bool> = graph.use_counts().iter().map(|n| *n > 0).collect();
    for (id, value) in graph.values() {
        used[id.0 as usize] |= matches!(value.def, Def::Arg(_));
    }
    for i in (0..used.len()).rev() {
        let mut at = ValueId(i as u32);
        while used[i] {
            match graph.value(at).def {
                Def::File(of) | Def::Index(of, _) | Def::Param(of) | Def::State(_, of) => {
                    used[of.0 as usize] = true;
                    at = of;
                }
                _ => break,
            }
        }
    }
    used
}

fn leaf(graph: &Graph, id: ValueId) -> Option<(&'static str, ValueId, String)> {
    let value = graph.value(id);
    let name = |v: ValueId| format!("%{}", graph.value(v).name);
    Some(match &value.def {
        Def::Arg(onnx) => ("arg", id, if *onnx == value.name { String::new() } else { format!("{onnx:?}") }),
        Def::Weight(i) => {
            let uniform = graph.uniform.get(i).map_or(String::new(), |v| format!(" all {v:?}"));
            ("weight", id, format!("{:?}{uniform}", graph.weights[*i].name))
        }
        Def::File(of) => ("file", id, format!("of {}", name(*of))),
        Def::Const(payload) => ("const", id, display_payload(payload, &value.ty)),
        Def::Index(of, payload) => ("index", id, format!("of {} {}", name(*of), display_payload(payload, &value.ty))),
        Def::Param(at) => ("param", id, format!("at {}", name(*at))),
        Def::State(state, of) => ("state", id, format!("{} of {}", state.name(), name(*of))),
        Def::Hyper => ("hyper", id, String::new()),
        Def::Node(..) => return None,
    })
}

impl State {
    /// The name in texts.
    pub fn name(self) -> &'static str {
        match self {
            State::Gradient => "gradient",
            State::Moment1 => "moment1",
            State::Moment2 => "moment2",
            State::Absmax1 => "absmax1",
            State::Absmax2 => "absmax2",
        }
    }
}

fn display_payload(payload: &Payload, ty: &Type) -> String {
    if ty.len() > INLINE || payload.bytes().is_none() {
        return format!("#{:016x}", payload.hash());
    }
    fn list<T: sara_kernels::Element>(payload: &Payload, show: impl Fn(T) -> String) -> String {
        let values = payload.elements::<T>().unwrap_or_default();
        format!("{{{}}}", values.into_iter().map(show).collect::<Vec<_>>().join(","))
    }
    match ty.dtype {
        DType::F32 => list(payload, |v: f32| format!("{v:?}")),
        DType::F64 => list(payload, |v: f64| format!("{v:?}")),
        DType::I64 => list(payload, |v: i64| v.to_string()),
        DType::I32 => list(payload, |v: i32| v.to_string()),
        DType::I16 => list(payload, |v: i16| v.to_string()),
        DType::I8 => list(payload, |v: i8| v.to_string()),
        DType::U64 => list(payload, |v: u64| v.to_string()),
        DType::U32 => list(payload, |v: u32| v.to_string()),
        DType::U16 => list(payload, |v: u16| v.to_string()),
        DType::Bf16 => list(payload, |v: half::bf16| format!("{v:?}")),
        DType::F16 => list(payload, |v: half::f16| format!("{v:?}")),
        DType::U8 | DType::Bool => list(payload, |v: u8| v.to_string()),
    }
}
