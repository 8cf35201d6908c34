//! Weights from their files on a CPU.

use crate::grid::{GRAIN, tasks};
use crate::{DType, Element, Launch, Shared, Stored, for_stored};
use half::{bf16, f16};

pub(super) fn run(l: &Launch<'_>) {
    if l.dtype("y") == DType::F64 {
        return each(l, f64::from_le_bytes, f64::from);
    }
    for_stored!(l.dtype("y"), S => match l.word("type") {
        "f16" => each(l, |b| S::narrow(f16::from_le_bytes(b).wide()), S::narrow),
        "bf16" => each(l, |b| S::narrow(bf16::from_le_bytes(b).wide()), S::narrow),
        _ => each(l, |b| S::narrow(f32::from_le_bytes(b)), S::narrow),
    });
}

#[expect(unsafe_code, reason = "tasks write distinct elements")]
fn each<T: Element, const N: usize>(l: &Launch<'_>, element: impl Fn([u8; N]) -> T + Sync, rounded: fn(f32) -> T) {
    let stored = l.read::<u8>("stored");
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
