//! The strided copy on a GPU.

use crate::cuda::{Cuda, Param, Task, Work, space};
use crate::fuse::{Each, Read, SAME, index};
use crate::grid::Grid;

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

/// Whether every index reaches another element of the result: dimensions by their distance in the result, nearest first, must each
/// step beyond what those before reach.
fn apart(grid: &Grid<2>) -> bool {
    let mut steps: Vec<(usize, usize)> =
        grid.dims().iter().map(|d| (d.strides[1].unsigned_abs(), d.size)).filter(|d| d.1 > 1).collect();
    steps.sort_unstable();
    let mut reach = 0;
    steps.into_iter().all(|(step, size)| {
        let beyond = step > reach;
        reach += (size - 1) * step;
        beyond
    })
}

fn plan(t: &Task<'_>, w: &mut Work) {
    let grid = Grid::of(t.ints("shape"), [t.ints("x_strides"), t.ints("y_strides")]);
    let n = grid.len();
    let (x, y) = (t.from("x", t.int("x_offset")), t.from("y", t.int("y_offset")));
    let params = vec![space(&grid), x, y, Param::I64(n as i64)];
    if apart(&grid) {
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
        at: SAME.to_owned(),
        value: "$0".to_owned(),
        light: true,
    })
}

/// Copies of elements that lie one after the other, in their order.
pub(crate) fn moved(t: &Task<'_>) -> Option<Each> {
    let lists = [t.ints("shape"), t.ints("x_strides"), t.ints("y_strides")];
    let grid = Grid::of(lists[0], [lists[1], lists[2]]);
    let mut order: Vec<usize> = (0..lists[0].len()).filter(|d| lists[0][*d] != 1).collect();
    order.sort_by_key(|d| std::cmp::Reverse(lists[1][*d]));
    let [shape, x, y] = lists.map(|list| order.iter().map(|d| list[*d]).collect::<Vec<i64>>());
    let read = Read { first: t.int("x_offset"), ..t.read("x") };
    (index(&shape, &x) == SAME && apart(&grid)).then(|| Each {
        n: grid.len(),
        reads: vec![read],
        write: (t.kernel.arg("y"), t.int("y_offset")),
        at: index(&shape, &y),
        value: "$0".to_owned(),
        light: true,
    })
}
