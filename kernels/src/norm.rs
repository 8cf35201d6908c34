//! Normalisation of rows with a factor for each column, with and without a mean: layer_norm and rms_norm on a CPU.

use crate::rows::{gradient_sums, one_at, parts, share, spread, sum};
use crate::simd::{Job, LANES, Real, dispatch};
use crate::{Launch, Shared, Stored};

/// Runs layer_norm, or rms_norm unless `centered`: a task takes several rows.
#[expect(unsafe_code, reason = "tasks write disjoint rows")]
pub(crate) fn forward<T: Real, X: Stored<T>, Y: Stored<T>>(l: &Launch<'_>, centered: bool) {
    let (rows, cols, epsilon) = (l.int("rows"), l.int("cols"), l.float("epsilon"));
    let (x, scale) = (l.read::<X>("x"), l.read_if::<T>("scale"));
    let bias = if centered { l.read_if::<T>("bias") } else { None };
    let (y, rstd) = (l.shared::<Y>("y"), l.shared::<T>("rstd"));
    let mean: Option<Shared<'_, T>> = centered.then(|| l.shared::<T>("mean"));
    let block = share(cols);
    l.pool.run(rows.div_ceil(block), |task, _| {
        let first = task * block;
        let count = block.min(rows - first);
        // SAFETY: each row belongs to one task.
        let (y, rstd) = unsafe { (y.range(first * cols, count * cols), rstd.range(first, count)) };
        // SAFETY: as above.
        let mean = mean.as_ref().map(|mean| unsafe { mean.range(first, count) });
        let x = &x[first * cols..][..count * cols];
        dispatch(Forward { cols, epsilon, x, scale, bias, y, mean, rstd });
    });
}

struct Forward<'a, T, X, Y> {
    cols: usize,
    epsilon: f64,
    x: &'a [X],
    scale: Option<&'a [T]>,
    bias: Option<&'a [T]>,
    y: &'a mut [Y],
    mean: Option<&'a mut [T]>,
    rstd: &'a mut [T],
}

impl<T: Real, X: Stored<T>, Y: Stored<T>> Job for Forward<'_, T, X, Y> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Forward { cols, epsilon, x, scale, bias, y, mut mean, rstd } = self;
        let [scale, bias] = [scale, bias].map(|of| of.map(|of| &of[..cols]));
        let size = cols.max(1) as f64;
        for (row, out) in rstd.iter_mut().enumerate() {
            let (x, y) = (&x[row * cols..][..cols], &mut y[row * cols..][..cols]);
            let mut center = 0.0;
            if let Some(mean) = &mut mean {
                center = sum::<T, X>(x) / size;
                mean[row] = T::of(center);
            }
            let rstd = 1.0 / (spread::<T, X, FMA>(x, center) / size + epsilon).sqrt();
            *out = T::of(rstd);
            let ([high, low], rstd) = (parts::<T>(center), T::of(rstd));
            let scaled = |x: &X| (x.wide() - high - low) * rstd;
            let row = x.iter().zip(y);
            match (scale, bias) {
                (Some(scale), Some(bias)) => {
                    for ((x, y), (&scale, &bias)) in row.zip(scale.iter().zip(bias)) {
                        *y = Y::narrow(scaled(x).madd::<FMA>(scale, bias));
                    }
                }
                (Some(scale), None) => row.zip(scale).for_each(|((x, y), &scale)| *y = Y::narrow(scaled(x) * scale)),
                (None, Some(bias)) => row.zip(bias).for_each(|((x, y), &bias)| *y = Y::narrow(scaled(x) + bias)),
                (None, None) => row.for_each(|(x, y)| *y = Y::narrow(scaled(x))),
            }
        }
    }
}

/// Runs the gradient of layer_norm, or of rms_norm unless `centered`: a task takes several rows.
pub(crate) fn gradient<T: Real, X: Stored<T>>(l: &Launch<'_>, centered: bool) {
    let cols = l.int("cols");
    let (x, dy, scale) = (l.read::<X>("x"), l.read::<T>("dy"), l.read_if::<T>("scale"));
    let mean = if centered { Some(l.read::<T>("mean")) } else { None };
    let rstd = l.read::<T>("rstd");
    let chunk = share(cols) * cols;
    l.pool.chunks(l.write::<T>("dx"), chunk, |i, dx| {
        let range = i * chunk..i * chunk + dx.len();
        let first = i * share(cols);
        dispatch(Gradient { cols, first, x: &x[range.clone()], dy: &dy[range], scale, mean, rstd, dx });
    });
}

struct Gradient<'a, T, X> {
    cols: usize,
    /// First row, which `mean` and `rstd` are counted from.
    first: usize,
    x: &'a [X],
    dy: &'a [T],
    scale: Option<&'a [T]>,
    mean: Option<&'a [T]>,
    rstd: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real, X: Stored<T>> Job for Gradient<'_, T, X> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Gradient { cols, first, x, dy, scale, mean, rstd, dx } = self;
        let scale = scale.map(|of| &of[..cols]);
        let rows = x.chunks_exact(cols).zip(dy.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols));
        for (row, ((x, dy), dx)) in rows.enumerate() {
            let center = one_at(mean, first + row, 0.0);
            let rstd = rstd[first + row].f64();
            let (plain, tilted) = gradient_sums::<T, X, FMA>(x, dy, scale, center);
            // dx = rstd * dy * scale + b * (x - mean) + c, whose terms may cancel.
            let b = -rstd * rstd * rstd * tilted / cols as f64;
            let c = if mean.is_some() { -rstd * plain / cols as f64 } else { 0.0 };
            let offset = |x: &X| b.madd::<FMA>(x.wide().f64() - center, c);
            let row = x.iter().zip(dy).zip(dx);
            match scale {
                Some(scale) => {
                    for (((x, dy), dx), scale) in row.zip(scale) {
                        *dx = T::of((rstd * scale.f64()).madd::<FMA>(dy.f64(), offset(x)));
                    }
                }
                None => row.for_each(|((x, dy), dx)| *dx = T::of(rstd.madd::<FMA>(dy.f64(), offset(x)))),
            }
        }
    }
}

/// Parts of the rows whose sums a GPU takes side by side for the gradients of scale and bias.
pub(crate) fn row_parts(rows: usize) -> usize {
    rows.div_ceil(128).clamp(1, 256)
}

/// Columns of a task of [`affine`] at least.
const STRIP: usize = 4 * LANES;
/// Rows whose sums [`affine`] keeps in registers.
const ROWS: usize = 16;

/// Runs the gradient of scale and bias of layer_norm, or of the scale of rms_norm unless `centered`: a task takes
/// several columns through all rows.
#[expect(unsafe_code, reason = "tasks write disjoint columns")]
pub(crate) fn affine<T: Real>(l: &Launch<'_>, centered: bool) {
    let (rows, cols) = (l.int("rows"), l.int("cols"));
    let (x, dy) = (l.read::<T>("x"), l.read::<T>("dy"));
    let mean = if centered { Some(l.read::<T>("mean")) } else { None };
    let rstd = l.read::<T>("rstd");
    let dscale = l.shared::<T>("dscale");
    let dbias: Option<Shared<'_, T>> = centered.then(|| l.shared::<T>("dbias"));
    let block = share(rows).next_multiple_of(STRIP);
    l.pool.run(cols.div_ceil(block), |task, _| {
        let end = cols.min((task + 1) * block);
        for first in (task * block..end).step_by(STRIP) {
            let count = STRIP.min(end - first);
            let (mut tilted, mut plain) = ([0.0; STRIP], [0.0; STRIP]);
            dispatch(Columns { rows, cols, first, count, x, dy, mean, rstd, tilted: &mut tilted, plain: &mut plain });
            // SAFETY: each column belongs to one task.
            for (out, &sum) in unsafe { dscale.range(first, count) }.iter_mut().zip(&tilted) {
                *out = T::of(sum);
            }
            if let Some(dbias) = &dbias {
                // SAFETY: as above.
                for (out, &sum) in unsafe { dbias.range(first, count) }.iter_mut().zip(&plain) {
                    *out = T::of(sum);
                }
            }
        }
    });
}

struct Columns<'a, T> {
    rows: usize,
    cols: usize,
    first: usize,
    count: usize,
    x: &'a [T],
    dy: &'a [T],
    mean: Option<&'a [T]>,
    rstd: &'a [T],
    /// Sums of `dy * (x - mean) * rstd`.
    tilted: &'a mut [f64; STRIP],
    /// Sums of `dy`.
    plain: &'a mut [f64; STRIP],
}

impl<T: Real> Job for Columns<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(mut self) {
        for start in (0..self.rows).step_by(ROWS) {
            let mut column = 0;
            while column + LANES <= self.count {
                self.add::<FMA, LANES>(start, column);
                column += LANES;
            }
            while column < self.count {
                self.add::<FMA, 1>(start, column);
                column += 1;
            }
        }
    }
}

impl<T: Real> Columns<'_, T> {
    /// Adds [`ROWS`] rows from `start` on in `W` columns.
    #[inline(always)]
    fn add<const FMA: bool, const W: usize>(&mut self, start: usize, column: usize) {
        let (mut tilted, mut plain) = ([0.0; W], [0.0; W]);
        for row in start..self.rows.min(start + ROWS) {
            let at = row * self.cols + self.first + column;
            let (x, dy) = (&self.x[at..][..W], &self.dy[at..][..W]);
            let (center, rstd) = (one_at(self.mean, row, 0.0), self.rstd[row].f64());
            for i in 0..W {
                let d = dy[i].f64();
                tilted[i] = d.madd::<FMA>((x[i].f64() - center) * rstd, tilted[i]);
                plain[i] += d;
            }
        }
        for i in 0..W {
            self.tilted[column + i] += tilted[i];
            self.plain[column + i] += plain[i];
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::Scalar;
    use crate::harness::noise;

    pub(crate) const EPSILON: f64 = 1e-3;

    /// A problem with random operands.
    pub(crate) struct Case {
        /// rows, cols.
        pub(crate) sizes: [usize; 2],
        pub(crate) x: Vec<f64>,
        pub(crate) scale: Option<Vec<f64>>,
        pub(crate) bias: Option<Vec<f64>>,
        centered: bool,
    }

    /// What the forward pass gives; the mean is zero unless centered.
    pub(crate) struct Solution {
        pub(crate) y: Vec<f64>,
        pub(crate) mean: Vec<f64>,
        pub(crate) rstd: Vec<f64>,
    }

    impl Case {
        /// There is a bias only where a mean is subtracted.
        pub(crate) fn new(sizes: [usize; 2], centered: bool, scale: bool, bias: bool) -> Case {
            let [rows, cols] = sizes;
            Case {
                sizes,
                x: noise(rows * cols, 1).iter().map(|x| x + 0.5).collect(),
                scale: scale.then(|| noise(cols, 2)),
                bias: (centered && bias).then(|| noise(cols, 3)),
                centered,
            }
        }

        pub(crate) fn scalars(&self, epsilon: bool) -> Vec<Scalar> {
            let mut scalars: Vec<Scalar> = self.sizes.iter().map(|&s| Scalar::Int(s as i64)).collect();
            scalars.extend(epsilon.then_some(Scalar::Float(EPSILON)));
            scalars
        }

        pub(crate) fn solve(&self) -> Solution {
            let [rows, cols] = self.sizes;
            let (mut y, mut mean, mut rstd) = (vec![], vec![], vec![]);
            for row in 0..rows {
                let x = &self.x[row * cols..][..cols];
                let m = if self.centered { x.iter().sum::<f64>() / cols as f64 } else { 0.0 };
                let v = x.iter().map(|x| (x - m).powi(2)).sum::<f64>() / cols as f64;
                let r = 1.0 / (v + EPSILON).sqrt();
                y.extend(x.iter().enumerate().map(|(j, x)| {
                    let scale = self.scale.as_ref().map_or(1.0, |s| s[j]);
                    (x - m) * r * scale + self.bias.as_ref().map_or(0.0, |b| b[j])
                }));
                mean.push(m);
                rstd.push(r);
            }
            Solution { y, mean, rstd }
        }
    }

    /// Odd sizes, single rows and columns, operands absent, several tasks, nothing at all.
    pub(crate) fn cases(centered: bool) -> Vec<Case> {
        vec![
            Case::new([1, 1], centered, true, true),
            Case::new([3, 35], centered, true, true),
            Case::new([3, 35], centered, true, false),
            Case::new([3, 35], centered, false, true),
            Case::new([5, 7], centered, false, false),
            Case::new([1, 320], centered, true, true),
            Case::new([700, 83], centered, true, true),
            Case::new([2, 18_001], centered, true, true),
            Case::new([0, 6], centered, true, true),
        ]
    }
}
