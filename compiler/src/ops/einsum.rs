//! Einsum (ONNX, version 12), written with transposes, sums and matrix products.

use super::{MatMul, Reduce, Transpose};
use crate::error::Result;
use crate::import::OnnxNode;
use crate::ir::ValueId;

/// A tensor whose dimensions have labels.
struct Term {
    value: ValueId,
    labels: Vec<char>,
}

/// ONNX Einsum.
pub(super) fn import(n: &mut OnnxNode<'_, '_>) -> Result<Vec<ValueId>> {
    let equation: String = n.text("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let inputs = n.all_inputs()?;
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left.to_owned(), Some(right.to_owned())),
        None => (equation.clone(), None),
    };
    let parts: Vec<&str> = left.split(',').collect();
    if parts.len() != inputs.len() {
        return Err(n.fail(format!("`{equation}` is not for {} operands", inputs.len())));
    }
    let mut ellipsis = 0;
    let mut terms = Vec::new();
    for (part, &value) in parts.iter().zip(&inputs) {
        let rank = n.ty(value).rank();
        let named = part.replace("...", "").chars().count();
        let open = if part.contains("...") { rank.checked_sub(named) } else { (rank == named).then_some(0) };
        let open = open.ok_or_else(|| n.fail(format!("`{part}` does not label the dimensions of rank {rank}")))?;
        ellipsis = ellipsis.max(open);
        terms.push((value, (*part).to_owned(), open));
    }
    // Dimensions of an ellipsis get labels that no equation can contain, counted from the last.
    let hidden = |open: usize| -> String { (0..open).rev().map(|i| char::from(b'0' + i as u8)).collect() };
    let mut terms: Vec<Term> = terms
        .into_iter()
        .map(|(value, part, open)| Term { value, labels: part.replace("...", &hidden(open)).chars().collect() })
        .collect();
    let output: Vec<char> = match right {
        Some(right) => right.replace("...", &hidden(ellipsis)).chars().collect(),
        None => {
            let all: Vec<char> = terms.iter().flat_map(|t| t.labels.clone()).collect();
            let mut once: Vec<char> = all
                .iter()
                .copied()
                .filter(|c| c.is_alphabetic() && all.iter().filter(|d| *d == c).count() == 1)
                .collect();
            once.sort_unstable();
            hidden(ellipsis).chars().chain(once).collect()
        }
    };
    for term in &terms {
        if (1..term.labels.len()).any(|i| term.labels[..i].contains(&term.labels[i])) {
            return Err(n.fail("a label that is repeated within an operand (a diagonal) is not supported"));
        }
    }
    while terms.len() > 1 {
        let (a, b) = (terms.remove(0), terms.remove(0));
        let needed: Vec<char> = output.iter().copied().chain(terms.iter().flat_map(|t| t.labels.clone())).collect();
        terms.insert(0, product(n, a, b, &needed)?);
    }
    let Some(last) = terms.pop() else { return Err(n.fail("has no operands")) };
    let last = sum_except(n, last, &output)?;
    if output.iter().any(|c| !last.labels.contains(c)) {
        return Err(n.fail(format!("`{equation}` has a result label that no operand has")));
    }
    arrange(n, last, &output).map(|t| vec![t.value])
}

/// The product of two terms, summed over the labels that they share and nobody needs.
fn product(n: &mut OnnxNode<'_, '_>, a: Term, b: Term, needed: &[char]) -> Result<Term> {
    let keep_a: Vec<char> = b.labels.iter().chain(needed).copied().collect();
    let mut a = sum_except(n, a, &keep_a)?;
    let keep_b: Vec<char> = a.labels.iter().chain(needed).copied().collect();
    let mut b = sum_except(n, b, &keep_b)?;
    widen(n, &mut a, &b)?;
    widen(n, &mut b, &a)?;
    let shared = |c: &char| a.labels.contains(c) && b.labels.contains(c);
    let batch: Vec<char> = a.labels.iter().copied().filter(|c| shared(c) && needed.contains(c)).collect();
    let inner: Vec<char> = a.labels.iter().copied().filter(|c| shared(c) && !needed.contains(c)).collect();
    let rows: Vec<char> = a.labels.iter().copied().filter(|c| !shared(c)).collect();
    let cols: Vec<char> = b.labels.iter().copied().filter(|c| !shared(c)).collect();
    let a = arrange(n, a, &[&batch[..], &rows, &inner].concat())?;
    let b = arrange(n, b, &[&batch[..], &inner, &cols].concat())?;
    let (shape_a, shape_b) = (n.ty(a.value).shape.clone(), n.ty(b.value).shape.clone());
    let size = |dims: &[usize]| dims.iter().product::<usize>();
    let dims_batch = &shape_a[..batch.len()];
    let dims_rows = &shape_a[batch.len()..batch.len() + rows.len()];
    let dims_cols = &shape_b[batch.len() + inner.len()..];
    let k = size(&shape_a[batch.len() + rows.len()..]);
    let left = n.reshape(a.value, &[size(dims_batch), size(dims_rows), k])?;
    let right = n.reshape(
        b.value,
        &[size(&shape_b[..batch.len()]), size(&shape_b[batch.len()..batch.len() + inner.len()]), size(dims_cols)],
    )?;
    let y = n.emit(MatMul { trans_a: false, trans_b: false }, &[left, right])?;
    let value = n.reshape(y, &[dims_batch, dims_rows, dims_cols].concat())?;
    Ok(Term { value, labels: [batch, rows, cols].concat() })
}

/// Repeats the dimensions of 1 of `a` for which `b` has more.
fn widen(n: &mut OnnxNode<'_, '_>, a: &mut Term, b: &Term) -> Result<()> {
    let (mut shape, other) = (n.ty(a.value).shape.clone(), &n.ty(b.value).shape);
    for (dim, label) in shape.iter_mut().zip(&a.labels).filter(|d| *d.0 == 1) {
        *dim = b.labels.iter().position(|c| c == label).map_or(1, |i| other[i]);
    }
    a.value = n.expand(a.value, &shape)?;
    Ok(())
}

/// Sums over the labels that are not in `keep`.
fn sum_except(n: &mut OnnxNode<'_, '_>, term: Term, keep: &[char]) -> Result<Term> {
    let axes: Vec<usize> = (0..term.labels.len()).filter(|&i| !keep.contains(&term.labels[i])).collect();
    if axes.is_empty() {
        return Ok(term);
    }
    let value = n.emit(Reduce { op: "sum".into(), axes, keepdims: false }, &[term.value])?;
    Ok(Term { value, labels: term.labels.into_iter().filter(|c| keep.contains(c)).collect() })
}

/// Puts the dimensions in the order of `labels`.
fn arrange(n: &mut OnnxNode<'_, '_>, term: Term, labels: &[char]) -> Result<Term> {
    if term.labels == labels {
        return Ok(term);
    }
    let perm = labels.iter().filter_map(|c| term.labels.iter().position(|d| d == c)).collect();
    let value = n.emit(Transpose { perm }, &[term.value])?;
    Ok(Term { value, labels: labels.to_vec() })
}
