//! Selection on a CPU.

use crate::grid::{GRAIN, Grid};
use crate::{Launch, for_element};

pub(super) fn run(l: &Launch<'_>) {
    let cond = l.read::<u8>("cond");
    let strides = [l.ints("cond_strides"), l.ints("a_strides"), l.ints("b_strides")];
    let grid = Grid::of(l.ints("shape"), strides);
    let [cs, sa, sb] = grid.inner().strides;
    for_element!(l.dtype("y"), T => {
        let (a, b) = (l.read::<T>("a"), l.read::<T>("b"));
        l.pool.chunks(l.write::<T>("y"), GRAIN, |i, y| {
            grid.runs(i * GRAIN, y.len(), |[co, ao, bo], at, n| {
                let place = |from: isize, stride: isize, i: usize| (from + i as isize * stride) as usize;
                for (i, y) in y[at..][..n].iter_mut().enumerate() {
                    *y = if cond[place(co, cs, i)] != 0 { a[place(ao, sa, i)] } else { b[place(bo, sb, i)] };
                }
            });
        });
    });
}
