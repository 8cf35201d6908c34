//! Constants are computed by the kernels that would compute them at run time, so folding cannot disagree with execution.

use crate::error::Result;
use crate::ir::{Graph, NodeId};
use crate::lower::{Buffers, lower_node};
use sara_kernels::Pool;
use sara_runtime::interpret::Memory;
use std::sync::OnceLock;

/// Results of a node whose operands are all constants with known bytes.
pub(crate) fn evaluate(graph: &Graph, node: NodeId) -> Result<Vec<Vec<u8>>> {
    let mut buffers = Buffers::default();
    let (steps, outputs) = lower_node(graph, node, &mut buffers);
    let mut memory = Memory::new(&buffers.list, &buffers.constants);
    memory.run(&buffers.list, &steps, pool()?);
    Ok(outputs.into_iter().map(|id| memory.get(id).to_vec()).collect())
}

/// One thread for all constants: they are small.
pub(crate) fn pool() -> Result<&'static Pool> {
    static POOL: OnceLock<Pool> = OnceLock::new();
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let pool = Pool::new(1).map_err(|e| crate::Error::Option(format!("no thread could be started: {e}")))?;
    Ok(POOL.get_or_init(|| pool))
}
