//! Conversions on a CPU.

use crate::grid::GRAIN;
use crate::{DType, Launch, for_element};

pub(super) fn run(l: &Launch<'_>) {
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
