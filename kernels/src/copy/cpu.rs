//! The strided copy on a CPU. Dimensions are ordered by their stride in `y`, so that runs of it are written; if a dimension
//! other than the innermost is contiguous in `x`, blocks of these two are transposed in registers.

use crate::grid::{Dim, GRAIN, Grid, RANK, tasks};
use crate::simd::{Job, Real, copy, dispatch, turn_shared};
use crate::{DType, Element, Launch, Shared};
use half::{bf16, f16};

/// Side of the tiles that are transposed in registers.
const TILE: usize = 8;
/// Rows of the blocks that are transposed, if there are so many.
const BLOCK: usize = 64;
/// Elements of such a block.
const AREA: usize = BLOCK * BLOCK;
/// Elements from which on the copy of the library is quicker than one of few instructions.
const LONG: usize = 256;

/// Elements as they are moved, whatever they mean.
trait Word: Element {
    /// The transposed tile.
    #[inline(always)]
    fn turn<const FMA: bool>(tile: [[Self; TILE]; TILE]) -> [[Self; TILE]; TILE] {
        std::array::from_fn(|b| std::array::from_fn(|a| tile[a][b]))
    }

    /// Turns whole blocks if there are quick means, as [`turn_shared`] does.
    ///
    /// # Safety
    /// As for that.
    #[expect(unsafe_code, reason = "tasks write disjoint places")]
    unsafe fn turn_blocks(
        _x: &[Self],
        _x_row: usize,
        _extents: [usize; 2],
        _y: &Shared<'_, Self>,
        _start: usize,
        _y_row: usize,
    ) -> [usize; 2] {
        [0; 2]
    }
}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u64 {}
impl Word for u32 {
    #[inline(always)]
    fn turn<const FMA: bool>(tile: [[u32; TILE]; TILE]) -> [[u32; TILE]; TILE] {
        bytemuck::cast(<f32 as Real>::turn::<FMA>(bytemuck::cast(tile)))
    }

    #[expect(unsafe_code, reason = "tasks write disjoint places")]
    unsafe fn turn_blocks(
        x: &[u32],
        x_row: usize,
        extents: [usize; 2],
        y: &Shared<'_, u32>,
        start: usize,
        y_row: usize,
    ) -> [usize; 2] {
        // SAFETY: by the caller's promise.
        unsafe { turn_shared(bytemuck::cast_slice(x), x_row, extents, &y.cast(), start, y_row) }
    }
}

pub(super) fn run(l: &Launch<'_>) {
    use bytemuck::{cast_slice, cast_slice_mut};
    match l.dtype("x") {
        DType::F32 => words::<u32>(l, cast_slice(l.read::<f32>("x")), cast_slice_mut(l.write::<f32>("y"))),
        DType::I32 => words::<u32>(l, cast_slice(l.read::<i32>("x")), cast_slice_mut(l.write::<i32>("y"))),
        DType::U32 => words::<u32>(l, l.read("x"), l.write("y")),
        DType::F64 => words::<u64>(l, cast_slice(l.read::<f64>("x")), cast_slice_mut(l.write::<f64>("y"))),
        DType::I64 => words::<u64>(l, cast_slice(l.read::<i64>("x")), cast_slice_mut(l.write::<i64>("y"))),
        DType::U64 => words::<u64>(l, l.read("x"), l.write("y")),
        DType::Bf16 => words::<u16>(l, cast_slice(l.read::<bf16>("x")), cast_slice_mut(l.write::<bf16>("y"))),
        DType::F16 => words::<u16>(l, cast_slice(l.read::<f16>("x")), cast_slice_mut(l.write::<f16>("y"))),
        DType::I16 => words::<u16>(l, cast_slice(l.read::<i16>("x")), cast_slice_mut(l.write::<i16>("y"))),
        DType::U16 => words::<u16>(l, l.read("x"), l.write("y")),
        DType::I8 => words::<u8>(l, cast_slice(l.read::<i8>("x")), cast_slice_mut(l.write::<i8>("y"))),
        DType::U8 | DType::Bool => words::<u8>(l, l.read("x"), l.write("y")),
    }
}

#[expect(unsafe_code, reason = "tasks write disjoint places of the result")]
fn words<W: Word>(l: &Launch<'_>, x: &[W], y: &mut [W]) {
    let given = Grid::of(l.ints("shape"), [l.ints("x_strides"), l.ints("y_strides")]);
    if given.len() == 0 {
        return;
    }
    let (mut x0, mut y0) = (l.int("x_offset") as isize, l.int("y_offset") as isize);
    let mut dims = [given.inner(); RANK];
    let dims = &mut dims[..given.dims().len()];
    dims.copy_from_slice(given.dims());
    for dim in dims.iter_mut() {
        let last = dim.size as isize - 1;
        if dim.strides[1] == 0 {
            x0 += last * dim.strides[0];
            *dim = Dim { size: 1, strides: [0; 2] };
        } else if dim.strides[1] < 0 {
            x0 += last * dim.strides[0];
            y0 += last * dim.strides[1];
            dim.strides = dim.strides.map(|s| -s);
        }
    }
    dims.sort_unstable_by_key(|d| std::cmp::Reverse(d.strides[1]));
    let mut reach = 0;
    for dim in dims.iter().rev().filter(|d| d.size > 1) {
        if dim.strides[1] <= reach {
            // Some elements may be written more than once, so the order of the indices matters.
            let (x0, y0) = (l.int("x_offset") as isize, l.int("y_offset") as isize);
            let [xs, ys] = given.inner().strides;
            given.runs(0, given.len(), |[xo, yo], _, n| {
                for i in 0..n as isize {
                    y[(y0 + yo + i * ys) as usize] = x[(x0 + xo + i * xs) as usize];
                }
            });
            return;
        }
        reach += (dim.size as isize - 1) * dim.strides[1];
    }
    let grid = Grid::new(dims.iter().copied());
    let y = Shared::new(y);
    let inner = grid.inner();
    let [xs, ys] = inner.strides;
    let partner = grid.dims().iter().position(|d| d.strides[0] == 1);
    if let Some(p) = partner
        && ys == 1
        && xs != 0
        && xs != 1
    {
        let rest = Grid::new(
            grid.dims().iter().enumerate().filter(|(d, _)| *d != p && d + 1 != grid.dims().len()).map(|d| *d.1),
        );
        let lines = grid.dims()[p];
        let height = lines.size.min(BLOCK);
        let width = inner.size.min((AREA / height).next_multiple_of(TILE));
        let (down, across) = (lines.size.div_ceil(height), inner.size.div_ceil(width));
        let blocks = rest.len() * down * across;
        let each = GRAIN.div_ceil(height * width);
        tasks(l.pool, blocks.div_ceil(each), |task| {
            for block in task * each..blocks.min((task + 1) * each) {
                let (first, second) = (block / across % down * height, block % across * width);
                let [xo, yo] = rest.at(block / across / down);
                dispatch(Turn {
                    x,
                    y,
                    from: x0 + xo + first as isize + second as isize * xs,
                    to: (y0 + yo) as usize + first * lines.strides[1] as usize + second,
                    x_stride: xs,
                    y_stride: lines.strides[1] as usize,
                    height: height.min(lines.size - first),
                    width: width.min(inner.size - second),
                });
            }
        });
        return;
    }
    let grid = if (xs, ys) == (1, 1) && inner.size < LONG { nearest(&grid) } else { grid };
    tasks(l.pool, grid.len().div_ceil(GRAIN), |task| {
        let start = task * GRAIN;
        grid.runs(start, GRAIN.min(grid.len() - start), |[xo, yo], _, n| {
            let from = x0 + xo;
            // SAFETY: in the order of `y` each stride exceeds what the dimensions after it reach, so the spans of different
            // runs are disjoint.
            let target = unsafe { y.range((y0 + yo) as usize, (n - 1) * ys as usize + 1) };
            match (xs, ys) {
                (1, 1) if n < LONG => copy(&x[from as usize..][..n], target),
                (1, 1) => target.copy_from_slice(&x[from as usize..][..n]),
                (0, 1) => target.fill(x[from as usize]),
                _ => {
                    for i in 0..n {
                        target[i * ys as usize] = x[(from + i as isize * xs) as usize];
                    }
                }
            }
        });
    });
}

/// The order of `x` or that of `y`, in which fewer runs follow each other far apart in the other one.
fn nearest(grid: &Grid<2>) -> Grid<2> {
    let mut dims = [grid.inner(); RANK];
    let dims = &mut dims[..grid.dims().len()];
    dims.copy_from_slice(grid.dims());
    if let [outer @ .., _] = &mut *dims {
        outer.sort_by_key(|d| std::cmp::Reverse(d.strides[0]));
    }
    let apart = |dims: &[Dim<2>]| dims.iter().rev().nth(1).map_or(0, |d| d.size);
    if apart(dims) < apart(grid.dims()) { Grid::new(dims.iter().copied()) } else { *grid }
}

/// Writes `y[to + p * y_stride + q] = x[from + p + q * x_stride]` for `p < height`, `q < width`.
struct Turn<'a, W> {
    x: &'a [W],
    y: Shared<'a, W>,
    from: isize,
    to: usize,
    x_stride: isize,
    y_stride: usize,
    height: usize,
    width: usize,
}

impl<W: Word> Job for Turn<'_, W> {
    type Out = ();

    #[inline(always)]
    #[expect(unsafe_code, reason = "tasks write disjoint places of the result")]
    fn run<const FMA: bool>(self) {
        let mut done = [0; 2];
        if let (Ok(from), Ok(row)) = (usize::try_from(self.from), usize::try_from(self.x_stride)) {
            let extents = [self.width, self.height];
            // SAFETY: different blocks are disjoint.
            done = unsafe { W::turn_blocks(&self.x[from..], row, extents, &self.y, self.to, self.y_stride) };
        }
        for p in (0..self.height).step_by(TILE) {
            let high = TILE.min(self.height - p);
            let turned = if p < done[1] { done[0] } else { 0 };
            for q in (turned..self.width).step_by(TILE) {
                let wide = TILE.min(self.width - q);
                let mut tile = [[<W as bytemuck::Zeroable>::zeroed(); TILE]; TILE];
                for (a, line) in tile[..wide].iter_mut().enumerate() {
                    let from = (self.from + p as isize + (q + a) as isize * self.x_stride) as usize;
                    if high == TILE {
                        line.copy_from_slice(&self.x[from..][..TILE]);
                    } else {
                        line[..high].copy_from_slice(&self.x[from..][..high]);
                    }
                }
                for (b, line) in W::turn::<FMA>(tile)[..high].iter().enumerate() {
                    // SAFETY: each stride in `y` exceeds what the dimensions after it reach, so different lines of different
                    // blocks are disjoint.
                    let target = unsafe { self.y.range(self.to + (p + b) * self.y_stride + q, wide) };
                    if wide == TILE {
                        target.copy_from_slice(line);
                    } else {
                        target.copy_from_slice(&line[..wide]);
                    }
                }
            }
        }
    }
}
