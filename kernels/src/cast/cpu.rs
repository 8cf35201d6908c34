//! Conversions on a CPU.

use crate::grid::GRAIN;
use crate::rounded::Map;
use crate::simd::dispatch;
use crate::{DType, Element, Launch, Stored, for_element, for_stored};

pub(super) fn run(l: &Launch<'_>) {
    match (l.dtype("x"), l.dtype("y")) {
        (DType::F32, half) if half.is_half() => for_stored!(half, H => map::<f32, H>(l, H::narrow)),
        (half, DType::F32) if half.is_half() => for_stored!(half, H => map::<H, f32>(l, H::wide)),
        _ => plain(l),
    }
}

fn map<S: Element, T: Element>(l: &Launch<'_>, each: impl Fn(S) -> T + Copy + Sync) {
    let x = l.read::<S>("x");
    l.pool.chunks(l.write::<T>("y"), GRAIN, |i, y| dispatch(Map { from: &x[i * GRAIN..][..y.len()], to: y, each }));
}

fn plain(l: &Launch<'_>) {
    let truth = l.dtype("y") == DType::Bool;
    for_element!(l.dtype("x"), S => {
        let x = l.read::<S>("x");
        for_element!(l.dtype("y"), T => {
            l.pool.chunks(l.write::<T>("y"), GRAIN, |i, y| {
                let x = &x[i * GRAIN..][..y.len()];
                if truth {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = T::from(x != 0 as S);
                    }
                } else {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = x as T;
                    }
                }
            });
        });
    });
}
