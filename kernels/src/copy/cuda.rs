//! The strided copy on a GPU.

use crate::cuda::{Cuda, Param, Task, Work, space};
use crate::fuse::{Each, Read, SAME, index};
use crate::grid::Grid;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let grid = Grid::of(t.ints("shape"), [t.ints("x_strides"), t.ints("y_strides")]);
    let n = grid.len();
    // Dimensions by their distance in the result, nearest first: if each step exceeds what those before reach, no element
    // is reached twice.
    let mut steps: Vec<(usize, usize)> =
        grid.dims().iter().map(|d| (d.strides[1].unsigned_abs(), d.size)).filter(|d| d.1 > 1).collect();
    steps.sort_unstable();
    let mut reach = 0;
    let mut apart = true;
    for (step, size) in steps {
        apart &= step > reach;
        reach += (size - 1) * step;
    }
    let (x, y) = (t.from("x", t.int("x_offset")), t.from("y", t.int("y_offset")));
    let params = vec![space(&grid), x, y, Param::I64(n as i64)];
    if apart {
        w.each(format!("copy_{}", t.width("x")), n, params);
    } else {
        w.blocks(format!("copy_in_order_{}", t.width("x")), n.min(1), 32, params);
    }
}

/// Copies to elements that lie one after the other.
pub(crate) fn each(t: &Task<'_>) -> Option<Each> {
    let (x, y) = (t.read_over("x", "x_strides"), index(t.ints("shape"), t.ints("y_strides")));
    let n = Grid::of(t.ints("shape"), [t.ints("y_strides")]).len();
    let read = Read { first: t.int("x_offset"), ..x };
    (y == SAME).then(|| Each {
        n,
        reads: vec![read],
        write: (t.kernel.arg("y"), t.int("y_offset")),
        value: "$0".to_owned(),
        light: true,
    })
}
