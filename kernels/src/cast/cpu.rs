//! Conversions on a CPU.

use crate::grid::GRAIN;
use crate::simd::{Job, dispatch};
use crate::{DType, Launch, Stored, for_element, narrow};
use half::bf16;

pub(super) fn run(l: &Launch<'_>) {
    match (l.dtype("x"), l.dtype("y")) {
        (DType::F32, DType::Bf16) => {
            let x = l.read::<f32>("x");
            l.pool.chunks(l.write::<bf16>("y"), GRAIN, |i, y| {
                dispatch(Map { x: &x[i * GRAIN..][..y.len()], y, each: narrow });
            });
        }
        (DType::Bf16, DType::F32) => {
            let x = l.read::<bf16>("x");
            l.pool.chunks(l.write::<f32>("y"), GRAIN, |i, y| {
                dispatch(Map { x: &x[i * GRAIN..][..y.len()], y, each: <bf16 as Stored<f32>>::wide });
            });
        }
        _ => plain(l),
    }
}

struct Map<'a, S, T, F> {
    x: &'a [S],
    y: &'a mut [T],
    each: F,
}

impl<S: Copy, T, F: Fn(S) -> T> Job for Map<'_, S, T, F> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y = (self.each)(*x);
        }
    }
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
