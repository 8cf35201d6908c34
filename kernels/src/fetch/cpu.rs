//! Weights from their files on a CPU.

use crate::grid::{GRAIN, tasks};
use crate::{Element, Float, Launch, Shared, for_float};

#[expect(unsafe_code, reason = "tasks write distinct elements")]
pub(super) fn run(l: &Launch<'_>) {
    let stored = l.read::<u8>("stored");
    for_float!(l.dtype("y"), T => {
        let y = l.write::<T>("y");
        match l.word("type") {
            "f16" => widen::<T>(l, stored, y, |bits| half::f16::from_bits(bits).to_f32()),
            "bf16" => widen::<T>(l, stored, y, |bits| half::bf16::from_bits(bits).to_f32()),
            _ => plain::<T>(l, stored, y),
        }
        let (Some(idx), Some(p)) = (l.read_if::<u32>("idx"), l.read_if::<f32>("p")) else { return };
        let y = Shared::new(y);
        tasks(l.pool, idx.len().div_ceil(GRAIN), |task| {
            let range = task * GRAIN..idx.len().min((task + 1) * GRAIN);
            for (&at, &value) in idx[range.clone()].iter().zip(&p[range]) {
                // SAFETY: the positions are distinct, so nobody else writes this element.
                unsafe { y.range(at as usize, 1)[0] = T::of(f64::from(value)) };
            }
        });
    });
}

/// Elements that are stored as they are computed.
fn plain<T: Element>(l: &Launch<'_>, stored: &[u8], y: &mut [T]) {
    let size = size_of::<T>();
    assert_eq!(stored.len(), size_of_val(y), "stored bytes do not fit the weight");
    l.pool.chunks(y, GRAIN, |i, y| {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(y);
        bytes.copy_from_slice(&stored[i * GRAIN * size..][..bytes.len()]);
    });
}

fn widen<T: Float>(l: &Launch<'_>, stored: &[u8], y: &mut [T], wide: fn(u16) -> f32) {
    assert_eq!(stored.len(), y.len() * 2, "stored bytes do not fit the weight");
    l.pool.chunks(y, GRAIN, |i, y| {
        for (y, bits) in y.iter_mut().zip(stored[i * GRAIN * 2..].chunks_exact(2)) {
            *y = T::of(f64::from(wide(u16::from_le_bytes([bits[0], bits[1]]))));
        }
    });
}
