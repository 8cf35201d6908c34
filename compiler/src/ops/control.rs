//! Control flow that is known when compiling: ONNX If (versions 1 to 25), Loop (1 to 25) and Scan (9 to 25). The branch that is
//! taken, or the body as often as it runs, takes the place of the node.

use super::{Concat, Slice};
use crate::error::Result;
use crate::import::OnnxNode;
use crate::import::proto::GraphProto;
use crate::ir::ValueId;
use crate::limits::ROUNDS;
use sara_kernels::DType;

/// ONNX If.
pub(super) fn import_if(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let condition = n.input(0)?;
    let (then, otherwise) = (n.graph_attribute("then_branch")?, n.graph_attribute("else_branch")?);
    let taken = truth(n, condition)?;
    n.subgraph(if taken { then } else { otherwise }, &[])
}

fn truth(n: &OnnxNode<'_, '_>, condition: ValueId) -> Result<bool> {
    let known = n.graph().constant::<u8>(condition).and_then(|c| c.first().copied());
    known.map(|c| c != 0).ok_or_else(|| n.fail("its condition depends on the data, but must be known when compiling"))
}

/// ONNX Loop.
pub(super) fn import_loop(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let body = n.graph_attribute("body")?;
    let rounds = n.optional_ints(0)?.and_then(|m| m.first().copied());
    let mut condition = n.optional(1);
    let mut carried: Vec<ValueId> = (2..n.inputs()).map(|i| n.input(i)).collect::<Result<_>>()?;
    let scans = body.output.len().checked_sub(1 + carried.len());
    let scans = scans.ok_or_else(|| n.fail("its body returns too few results"))?;
    let mut rows: Vec<Vec<ValueId>> = vec![Vec::new(); scans];
    let mut round = 0;
    while rounds.is_none_or(|m| round < m) {
        if let Some(condition) = condition
            && !truth(n, condition)?
        {
            break;
        }
        if round as usize == ROUNDS {
            return Err(n.fail(format!("runs more than {ROUNDS} rounds, or has no end")));
        }
        let number = n.add_const(DType::I64, &[], &[round]);
        let still = match condition {
            Some(condition) => condition,
            None => n.add_const(DType::Bool, &[], &[1u8]),
        };
        let inputs = [&[number, still], &carried[..]].concat();
        let mut results = n.subgraph(body, &inputs)?.into_iter();
        condition = results.next();
        carried = results.by_ref().take(carried.len()).collect();
        for (rows, row) in rows.iter_mut().zip(results) {
            rows.push(row);
        }
        round += 1;
    }
    for rows in rows {
        carried.push(stack(n, &rows, 0, false)?);
    }
    Ok(carried)
}

/// ONNX Scan.
pub(super) fn import_scan(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    if n.opset() < 9 {
        return Err(n.fail("version 8 is not supported; export the model with opset 9 or later"));
    }
    let body = n.graph_attribute("body")?;
    let inputs = n.all_inputs()?;
    let count = usize::try_from(n.int("num_scan_inputs", 0)?).ok().filter(|c| (1..=inputs.len()).contains(c));
    let count = count.ok_or_else(|| n.fail("num_scan_inputs does not fit its operands"))?;
    let (mut carried, scanned) = (inputs[..inputs.len() - count].to_vec(), &inputs[inputs.len() - count..]);
    let results = body.output.len().checked_sub(carried.len());
    let results = results.ok_or_else(|| n.fail("its body returns too few results"))?;
    let flags = |n: &mut OnnxNode<'_, '_>, name: &str, len: usize| {
        let values = n.ints(name)?.unwrap_or_else(|| vec![0; len]);
        if values.len() == len { Ok(values) } else { Err(n.fail(format!("`{name}` does not have {len} entries"))) }
    };
    let (from, backwards) = (flags(n, "scan_input_axes", count)?, flags(n, "scan_input_directions", count)?);
    let (to, reversed) = (flags(n, "scan_output_axes", results)?, flags(n, "scan_output_directions", results)?);
    let mut axes = Vec::new();
    for (x, axis) in scanned.iter().zip(&from) {
        axes.push(n.axis_of(*axis, n.ty(*x).rank())?);
    }
    let rounds = n.ty(scanned[0]).shape[axes[0]];
    let same = scanned.iter().zip(&axes).all(|(x, axis)| n.ty(*x).shape[*axis] == rounds);
    if !same || rounds > ROUNDS {
        return Err(n.fail(format!("its operands must agree in their length, which may be {ROUNDS} at most")));
    }
    let mut rows: Vec<Vec<ValueId>> = vec![Vec::new(); results];
    for round in 0..rounds {
        let mut inputs = carried.clone();
        for (k, x) in scanned.iter().enumerate() {
            let at = if backwards[k] == 0 { round } else { rounds - 1 - round };
            inputs.push(element(n, *x, axes[k], at)?);
        }
        let mut results = n.subgraph(body, &inputs)?.into_iter();
        carried = results.by_ref().take(carried.len()).collect();
        for (rows, row) in rows.iter_mut().zip(results) {
            rows.push(row);
        }
    }
    for (k, rows) in rows.iter().enumerate() {
        let rank = rows.first().map_or(0, |r| n.ty(*r).rank());
        let axis = n.axis_of(to[k], rank + 1)?;
        carried.push(stack(n, rows, axis, reversed[k] != 0)?);
    }
    Ok(carried)
}

/// Element `at` along an axis, without that axis.
fn element(n: &mut OnnxNode<'_, '_>, x: ValueId, axis: usize, at: usize) -> Result<ValueId> {
    let mut sizes = n.ty(x).shape.clone();
    let mut starts = vec![0; sizes.len()];
    (sizes[axis], starts[axis]) = (1, at as i64);
    let part = n.emit(Slice { starts, steps: vec![1; sizes.len()], sizes: sizes.clone() }, &[x])?;
    sizes.remove(axis);
    n.reshape(part, &sizes)
}

/// Values of one shape along a new axis.
fn stack(n: &mut OnnxNode<'_, '_>, rows: &[ValueId], axis: usize, reversed: bool) -> Result<ValueId> {
    let mut parts = Vec::new();
    for row in rows {
        let mut shape = n.ty(*row).shape.clone();
        shape.insert(axis, 1);
        parts.push(n.view(*row, &shape)?);
    }
    if reversed {
        parts.reverse();
    }
    match parts[..] {
        [] => Err(n.fail("collects the results of no rounds, whose shape is not known")),
        [one] => Ok(one),
        _ => n.emit(Concat { axis }, &parts),
    }
}

impl<'n> OnnxNode<'n, '_> {
    /// An attribute that is a graph.
    fn graph_attribute(&mut self, name: &str) -> Result<&'n GraphProto> {
        self.attribute(name).and_then(|a| a.g.as_ref()).ok_or_else(|| self.fail(format!("graph `{name}` is missing")))
    }
}
