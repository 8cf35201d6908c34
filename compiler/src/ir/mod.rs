//! The intermediate representation: a list of operator applications in program order, with a text form.

mod graph;
mod parse;
mod print;
mod rewrite;
mod types;
pub mod uses;
pub mod verify;

pub use graph::{Block, Def, Graph, Node, NodeId, Stage, State, Value, ValueId, display_types};
pub use parse::{parse, parse_type};
pub use print::display_node;
pub use rewrite::{Rewriter, Rule, rewrite};
pub use types::{AttrValue, Attrs, Payload, Type, broadcast, broadcast_strides, strides};
