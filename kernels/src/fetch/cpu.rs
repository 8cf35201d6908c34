//! Weights from their files on a CPU.

use crate::grid::{GRAIN, tasks};
use crate::{DType, Element, Launch, Shared, narrow};
use half::bf16;

pub(super) fn run(l: &Launch<'_>) {
    let stored = l.read::<u8>("stored");
    match (l.word("type"), l.dtype("y")) {
        ("f32", DType::Bf16) => each(l, stored, |b| narrow(f32::from_le_bytes(b)), narrow),
        ("f16", DType::Bf16) => each(l, stored, |b| narrow(half::f16::from_le_bytes(b).to_f32()), narrow),
        ("bf16", DType::Bf16) => each(l, stored, bf16::from_le_bytes, narrow),
        ("f16", _) => each(l, stored, |b| half::f16::from_le_bytes(b).to_f32(), |v| v),
        ("bf16", _) => each(l, stored, |b| bf16::from_le_bytes(b).to_f32(), |v| v),
        ("f64", _) => each(l, stored, f64::from_le_bytes, f64::from),
        _ => each(l, stored, f32::from_le_bytes, |v| v),
    }
}

#[expect(unsafe_code, reason = "tasks write distinct elements")]
fn each<T: Element, const N: usize>(
    l: &Launch<'_>,
    stored: &[u8],
    element: impl Fn([u8; N]) -> T + Sync,
    rounded: fn(f32) -> T,
) {
    let y = l.write::<T>("y");
    assert_eq!(stored.len(), y.len() * N, "stored bytes do not fit the weight");
    l.pool.chunks(y, GRAIN, |i, y| {
        let (stored, _) = stored[i * GRAIN * N..].as_chunks::<N>();
        for (y, bytes) in y.iter_mut().zip(stored) {
            *y = element(*bytes);
        }
    });
    let (Some(idx), Some(p)) = (l.read_if::<u32>("idx"), l.read_if::<f32>("p")) else { return };
    let y = Shared::new(y);
    tasks(l.pool, idx.len().div_ceil(GRAIN), |task| {
        let range = task * GRAIN..idx.len().min((task + 1) * GRAIN);
        for (&at, &value) in idx[range.clone()].iter().zip(&p[range]) {
            // SAFETY: the positions are distinct, so nobody else writes this element.
            unsafe { y.range(at as usize, 1)[0] = rounded(value) };
        }
    });
}
