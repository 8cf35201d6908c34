//! Reads the text form of a graph. Printing is its inverse: `parse(print(g))` prints the same text.

use super::{Attrs, Block, Def, Graph, Node, Payload, Stage, State, Type, ValueId};
use crate::error::{Error, Result};
use crate::ops::Op;
use sara_kernels::{DType, Scalar};
use sara_runtime::plan::{Stored, Weight};
use std::collections::HashMap;

/// Parses a graph.
pub fn parse(text: &str) -> Result<Graph> {
    let mut parser = Parser { graph: Graph::new(""), names: HashMap::new(), block: None };
    for (i, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        parser.line(line).map_err(|reason| Error::Text { line: i + 1, reason })?;
    }
    Ok(parser.graph)
}

/// Parses a type such as `f32[2,3]`.
pub fn parse_type(text: &str) -> Result<Type> {
    ty(text).map_err(|reason| Error::Text { line: 1, reason })
}

type Parsed<T> = std::result::Result<T, String>;

struct Parser {
    graph: Graph,
    names: HashMap<String, ValueId>,
    block: Option<Block>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Parsed<()> {
        if let Some(rest) = line.strip_prefix("graph ") {
            let (name, stage) = rest.split_once(" stage=").ok_or("a graph needs a name and a stage")?;
            self.graph.name = name.to_owned();
            self.graph.stage = Stage::ALL
                .into_iter()
                .find(|s| s.name() == stage)
                .ok_or_else(|| format!("there is no stage `{stage}`"))?;
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("return") {
            let mut rest = rest.trim();
            while !rest.is_empty() {
                let value = rest.split([' ', ',']).next().unwrap_or_default();
                let id = self.value(value)?;
                rest = &rest[value.len()..];
                let mut name = self.graph.value(id).name.clone();
                if let Some(text) = rest.strip_prefix(" as ") {
                    (name, rest) = quoted(text)?;
                }
                self.graph.returns.push((name, id));
                rest = match rest.strip_prefix(',') {
                    Some(more) => more.trim_start(),
                    None if rest.is_empty() => rest,
                    None => return Err(format!("`{rest}` does not belong to a return")),
                };
            }
            return Ok(());
        }
        if let Some(block) = Block::ALL.into_iter().find(|b| b.name() == line) {
            self.block = Some(block);
            return Ok(());
        }
        let line = line.trim_start();
        match self.block {
            None => self.leaf(line),
            Some(block) => self.node(block, line),
        }
    }

    fn value(&self, text: &str) -> Parsed<ValueId> {
        let name = text.strip_prefix('%').ok_or_else(|| format!("`{text}` is not a value"))?;
        self.names.get(name).copied().ok_or_else(|| format!("`%{name}` is not defined before its use"))
    }

    fn define(&mut self, name: &str, ty: Type, def: Def) -> Parsed<ValueId> {
        let name = name.strip_prefix('%').ok_or_else(|| format!("`{name}` is not a value"))?;
        if self.names.contains_key(name) {
            return Err(format!("`%{name}` is defined twice"));
        }
        let id = self.graph.add_value(name, ty, def);
        if self.graph.value(id).name != name {
            return Err(format!("`%{name}` is not a legal name"));
        }
        self.names.insert(name.to_owned(), id);
        Ok(id)
    }

    fn leaf(&mut self, line: &str) -> Parsed<()> {
        let (kind, rest) = line.split_once(' ').ok_or("a line needs a kind and a value")?;
        let (name, rest) = rest.trim_start().split_once(' ').ok_or("a value needs a type")?;
        let rest = rest.trim_start();
        let (type_text, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let (ty, rest) = (ty(type_text)?, rest.trim());
        let def = match kind {
            "arg" if rest.is_empty() => Def::Arg(name.trim_start_matches('%').to_owned()),
            "arg" => Def::Arg(unquote(rest)?),
            "weight" => {
                let (label, rest) = quoted(rest)?;
                let uniform = rest.strip_prefix(" all ");
                if let Some(number) = uniform {
                    let number = number.parse().map_err(|_| format!("`{number}` is not a number"))?;
                    self.graph.uniform.insert(self.graph.weights.len(), number);
                }
                self.graph.weights.push(Weight {
                    name: label.clone(),
                    path: label,
                    shape: ty.shape.iter().map(|d| *d as u64).collect(),
                    stored: Stored::Plain(ty.dtype),
                    file: String::new(),
                    offset: 0,
                });
                Def::Weight(self.graph.weights.len() - 1)
            }
            "file" => Def::File(self.value(rest.strip_prefix("of ").ok_or("a file is `of` a weight")?)?),
            "const" => Def::Const(payload(rest, &ty)?),
            "index" => {
                let rest = rest.strip_prefix("of ").ok_or("an index is `of` a weight")?;
                let (weight, data) = rest.split_once(' ').ok_or("an index needs positions")?;
                Def::Index(self.value(weight)?, payload(data, &ty)?)
            }
            "param" => Def::Param(self.value(rest.strip_prefix("at ").ok_or("a param is `at` an index")?)?),
            "state" => {
                let (state, param) = rest.split_once(" of ").ok_or("state is `of` a param")?;
                let kinds = [State::Gradient, State::Moment1, State::Moment2, State::Absmax1, State::Absmax2];
                let state = kinds
                    .into_iter()
                    .find(|s| s.name() == state)
                    .ok_or_else(|| format!("there is no state `{state}`"))?;
                Def::State(state, self.value(param)?)
            }
            "hyper" => Def::Hyper,
            other => return Err(format!("`{other}` is not a kind of value")),
        };
        self.define(name, ty, def).map(|_| ())
    }

    fn node(&mut self, block: Block, line: &str) -> Parsed<()> {
        let (code, origin) = match line.split_once("  ; ") {
            Some((code, origin)) => (code.trim_end(), origin),
            None => (line, ""),
        };
        let (results, call) = match code.split_once(" = ") {
            Some((results, call)) => (results, call),
            None => ("", code),
        };
        let (call, attrs) = match call.split_once('{') {
            Some((call, attrs)) => (call.trim_end(), attributes(attrs.strip_suffix('}').ok_or("`}` is missing")?)?),
            None => (call, Attrs::new()),
        };
        let (call, again) = call.strip_prefix("again ").map_or((call, false), |call| (call, true));
        let (op, operands) = call.split_once(' ').unwrap_or((call, ""));
        let op = Op::parse(op, &attrs)?;
        let inputs: Vec<Option<ValueId>> = operands
            .split(',')
            .map(str::trim)
            .filter(|o| !o.is_empty())
            .map(|o| if o == "_" { Ok(None) } else { self.value(o).map(Some) })
            .collect::<Parsed<_>>()?;
        let mut outputs = Vec::new();
        for result in results.split(", ").filter(|r| !r.is_empty()) {
            let (name, type_text) = result.split_once(' ').ok_or("a result needs a type")?;
            // The definition is completed when the node gets its number.
            outputs.push(self.define(name, ty(type_text)?, Def::Hyper)?);
        }
        self.graph.push_raw(block, Node { op, inputs, outputs, origin: origin.into(), again });
        Ok(())
    }
}

fn unquote(text: &str) -> Parsed<String> {
    match quoted(text)? {
        (name, "") => Ok(name),
        (_, rest) => Err(format!("`{rest}` follows a name in quotes")),
    }
}

/// The name in quotes that a text starts with, and what follows it. Escapes are those of Rust.
fn quoted(text: &str) -> Parsed<(String, &str)> {
    let missing = || format!("`{text}` is not in quotes");
    let mut rest = text.strip_prefix('"').ok_or_else(missing)?.chars();
    let mut name = String::new();
    loop {
        name.push(match rest.next().ok_or_else(missing)? {
            '"' => return Ok((name, rest.as_str())),
            '\\' => match rest.next().ok_or_else(missing)? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let digits: String = rest.by_ref().take_while(|c| *c != '}').filter(|c| *c != '{').collect();
                    u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).ok_or_else(missing)?
                }
                c => c,
            },
            c => c,
        });
    }
}

fn ty(text: &str) -> Parsed<Type> {
    let (dtype, dims) =
        text.strip_suffix(']').and_then(|t| t.split_once('[')).ok_or_else(|| format!("`{text}` is not a type"))?;
    let dtype = DType::from_name(dtype).ok_or_else(|| format!("there is no element type `{dtype}`"))?;
    let shape =
        dims.split(',').filter(|d| !d.is_empty()).map(|d| d.parse().map_err(|_| format!("`{d}` is not a dimension")));
    Ok(Type { dtype, shape: shape.collect::<Parsed<_>>()? })
}

fn payload(text: &str, ty: &Type) -> Parsed<Payload> {
    if let Some(hash) = text.strip_prefix('#') {
        return u64::from_str_radix(hash, 16).map(Payload::Opaque).map_err(|_| format!("`#{hash}` is not a hash"));
    }
    let inner =
        text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(|| format!("`{text}` is not a list"))?;
    fn list<T: sara_kernels::Element + std::str::FromStr>(inner: &str, len: usize) -> Parsed<Payload> {
        let values: Vec<T> = inner
            .split(',')
            .filter(|v| !v.is_empty())
            .map(|v| v.trim().parse().map_err(|_| format!("`{v}` is not a number of this type")))
            .collect::<Parsed<_>>()?;
        if values.len() == len { Ok(Payload::of(&values)) } else { Err(format!("{} elements for {len}", values.len())) }
    }
    let n = ty.len();
    match ty.dtype {
        DType::F32 => list::<f32>(inner, n),
        DType::F64 => list::<f64>(inner, n),
        DType::I64 => list::<i64>(inner, n),
        DType::I32 => list::<i32>(inner, n),
        DType::I16 => list::<i16>(inner, n),
        DType::I8 => list::<i8>(inner, n),
        DType::U64 => list::<u64>(inner, n),
        DType::U32 => list::<u32>(inner, n),
        DType::U16 => list::<u16>(inner, n),
        DType::Bf16 => list::<half::bf16>(inner, n),
        DType::F16 => list::<half::f16>(inner, n),
        DType::U8 | DType::Bool => list::<u8>(inner, n),
    }
}

fn attributes(text: &str) -> Parsed<Attrs> {
    let mut attrs = Attrs::new();
    for item in text.split(' ').filter(|i| !i.is_empty()) {
        let (name, value) = item.split_once('=').ok_or_else(|| format!("`{item}` is not `name=value`"))?;
        attrs.insert(name.to_owned(), scalar(value)?);
    }
    Ok(attrs)
}

fn scalar(text: &str) -> Parsed<Scalar> {
    if let Some(list) = text.strip_prefix('[') {
        let list = list.strip_suffix(']').ok_or("`]` is missing")?;
        let values = list
            .split(',')
            .filter(|v| !v.is_empty())
            .map(|v| v.parse().map_err(|_| format!("`{v}` is not an integer")));
        return Ok(Scalar::Ints(values.collect::<Parsed<_>>()?));
    }
    if let Ok(value) = text.parse::<i64>() {
        return Ok(Scalar::Int(value));
    }
    match text.parse::<f64>() {
        Ok(value) => Ok(Scalar::Float(value)),
        Err(_) => Ok(Scalar::Word(text.to_owned())),
    }
}
