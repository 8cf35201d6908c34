//! Runs nodes and graphs on the kernels without placing them: constants at import, and the reference against which passes and
//! operators are tested.
//!
//! Constants are computed by the kernels that would compute them at run time, so folding cannot disagree with execution.

use crate::error::{Error, Result};
use crate::ir::{Block, Def, Graph, NodeId, Payload, State, ValueId};
use crate::lower::{Buffers, lower, lower_node, sparse_numbers};
use sara_kernels::Pool;
use sara_runtime::interpret::Memory;
use sara_runtime::plan::{Buffer, BufferId, Place, Step};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Results of a node whose operands are all constants with known bytes.
pub(crate) fn evaluate(graph: &Graph, node: NodeId) -> Result<Vec<Vec<u8>>> {
    let mut buffers = Buffers::default();
    let (steps, outputs) = lower_node(graph, node, &mut buffers);
    let mut memory = Memory::new(&buffers.list, &buffers.constants);
    memory.run(&buffers.list, &steps, pool()?);
    Ok(outputs.into_iter().map(|id| memory.get(id).to_vec()).collect())
}

/// Runs blocks of a graph, each value in memory of its own. `data` gives the bytes of inputs, weights, params, opaque indices and
/// state. Returns the graph's returns and the state after the run, by name.
pub fn execute(
    graph: &Graph,
    blocks: &[Block],
    data: impl Fn(ValueId) -> Option<Vec<u8>>,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let pool = pool()?;
    execute_by(graph, blocks, data, |memory, buffers, steps| {
        memory.run(buffers, steps, pool);
        Ok(())
    })
}

/// As [`execute`], with a function that runs the launches on the memory of the values.
pub fn execute_by(
    graph: &Graph,
    blocks: &[Block],
    data: impl Fn(ValueId) -> Option<Vec<u8>>,
    run: impl FnOnce(&mut Memory, &[Buffer], &[Step]) -> sara_runtime::Result<()>,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut buffers = Buffers::new(sparse_numbers(graph));
    let program = lower(graph, "execute", blocks, &graph.returns, &mut buffers);
    let mut memory = Memory::new(&buffers.list, &buffers.constants);
    let mut states = Vec::new();
    for (id, value) in graph.values() {
        let buffer = match &value.def {
            Def::Arg(name) => program.inputs.iter().find(|p| p.name == *name).map(|p| p.buffer),
            Def::Node(..) | Def::Const(_) => None,
            Def::Index(..) | Def::Param(_) => {
                let place = buffers.place_of(graph, id);
                place.and_then(|p| buffer_at(&buffers, p).or_else(|| buffer_at(&buffers, p.whole()?)))
            }
            _ => buffers.place_of(graph, id).and_then(|place| buffer_at(&buffers, place)),
        };
        let Some(buffer) = buffer else { continue };
        let bytes = match &value.def {
            Def::Index(_, Payload::Known(bytes)) => Some(bytes.to_vec()),
            _ => data(id),
        };
        let bytes = bytes.ok_or_else(|| Error::Option(format!("there is no data for `%{}`", value.name)))?;
        if bytes.len() != value.ty.bytes() {
            return Err(Error::Option(format!(
                "`%{}` needs {} bytes, not {}",
                value.name,
                value.ty.bytes(),
                bytes.len()
            )));
        }
        memory.set(buffer, &bytes);
        let whole = buffers.place_of(graph, id).and_then(Place::whole).and_then(|place| buffer_at(&buffers, place));
        whole.into_iter().for_each(|whole| memory.set(whole, &bytes));
        if matches!(value.def, Def::State(State::Gradient, _) | Def::Param(_)) {
            states.push((value.name.clone(), buffer));
        }
    }
    run(&mut memory, &buffers.list, &program.steps)?;
    let outputs = program.outputs.iter().map(|p| (p.name.clone(), p.buffer)).chain(states);
    Ok(outputs.map(|(name, buffer)| (name, memory.get(buffer).to_vec())).collect())
}

fn buffer_at(buffers: &Buffers, place: Place) -> Option<BufferId> {
    buffers.list.iter().position(|b| b.place == place).map(|i| BufferId(i as u32))
}

/// One thread for all constants: they are small.
fn pool() -> Result<&'static Pool> {
    static POOL: OnceLock<Pool> = OnceLock::new();
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let pool = Pool::new(1).map_err(|e| Error::Option(format!("no thread could be started: {e}")))?;
    Ok(POOL.get_or_init(|| pool))
}
