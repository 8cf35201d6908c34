//! The innermost block of a matrix product in `f32`: a few rows of the result, one panel of columns wide.
//!
//! The left operand is read through strides, one element at a time; the right operand is a panel, term after term. Sums
//! run over the terms in order, each a fused multiply-add where the processor has them.

mod ahead;
#[cfg(target_arch = "x86_64")]
mod amx;
mod shifted;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use ahead::Ahead;
pub(crate) use shifted::Shifted;

use crate::{Shared, Stored};

/// Columns of the widest panel; others have half or a quarter as many.
pub(crate) const PANEL: usize = 32;

/// Rows, columns and pairs that a processor multiplies at once where it [multiplies matrices](multiplies_matrices).
pub(crate) const SIDE: usize = 16;

/// One block: `c[r * pitch + j] (+)= sum over p of a[r * rs + p * cs] * b[p * width + j]`, or several such next to each other.
pub(crate) struct Tile<'a> {
    /// Rows.
    pub(crate) rows: usize,
    /// Columns: [`PANEL`], half of it or a quarter, or several times [`PANEL`], whose panels follow each other in the right operand.
    pub(crate) width: usize,
    /// Terms.
    pub(crate) k: usize,
    /// Left operand.
    pub(crate) a: &'a [f32],
    /// Distance of its rows and of its terms.
    pub(crate) strides: [usize; 2],
    /// Right operand, `k * width` elements.
    pub(crate) b: &'a [f32],
    /// Distance of the result's rows.
    pub(crate) pitch: usize,
    /// Whether to add to what is there.
    pub(crate) add: bool,
}

/// Two neighbouring terms of an operand in half precision, as they lie in memory.
///
/// A [`Tile`] of pairs has half as many terms, and is otherwise the same.
pub(crate) type Pair = f32;

/// The pair of two numbers, each rounded to bfloat16, as they lie in memory.
#[inline(always)]
pub(crate) fn pair<W: Stored<f32>>(first: W, second: W) -> Pair {
    bytemuck::cast([first.half(), second.half()])
}

/// A number rounded to bfloat16 in the fewest steps: where two are as near, to the larger in magnitude. `f32::NAN` stays, but a NaN
/// whose upper bits of the fraction are all one or all zero does not, so what may be NaN is to be made that one before.
#[inline(always)]
pub(crate) fn half_of_result(x: f32) -> u16 {
    (x.to_bits().wrapping_add(0x8000) >> 16) as u16
}

/// The pair of two numbers, each rounded as [`half_of_result`] does.
#[inline(always)]
pub(crate) fn pair_of_results(first: f32, second: f32) -> Pair {
    let [first, second] = [first, second].map(|x| x.to_bits().wrapping_add(0x8000));
    f32::from_bits(first >> 16 | second & 0xffff_0000)
}

/// As [`pair`] in fewer steps, of sums of numbers in bfloat16: a NaN among those leaves one whose lower bits are zero, and only such a
/// NaN stays.
#[inline(always)]
pub(crate) fn pair_of_halves(first: f32, second: f32) -> Pair {
    let [first, second] = [first, second].map(|x| x.to_bits().wrapping_add(0x7fff + (x.to_bits() >> 16 & 1)));
    f32::from_bits(first >> 16 | second & 0xffff_0000)
}

/// Whether the processor has instructions for pairs.
pub(crate) fn multiplies_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the processor multiplies small matrices of bfloat16 (AMX), and the system lets this process use what it needs for that.
pub fn multiplies_matrices() -> bool {
    #[cfg(target_arch = "x86_64")]
    return amx::available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// While the value lives, blocks of this thread follow each other in less time where the processor
/// [multiplies matrices](multiplies_matrices): what that needs stays prepared.
pub(crate) fn hold() -> impl Sized {
    #[cfg(target_arch = "x86_64")]
    return amx::Held::new();
    #[cfg(not(target_arch = "x86_64"))]
    ()
}

/// Rows of which a block takes no longer than one of `rows`.
pub(crate) fn whole_rows(rows: usize) -> usize {
    if multiplies_matrices() { rows.next_multiple_of(SIDE) } else { rows }
}

/// Pointers of a [`Tile`], moved to some of its rows and columns.
#[derive(Clone, Copy)]
struct Part {
    panels: usize,
    k: usize,
    a: *const f32,
    rs: usize,
    cs: usize,
    b: *const f32,
    width: usize,
    c: *mut f32,
    pitch: usize,
    add: bool,
}

impl Tile<'_> {
    /// Computes the block `c`.
    #[expect(unsafe_code, reason = "the block is computed through pointers")]
    pub(crate) fn run(self, c: &mut [f32]) {
        // SAFETY: the slice is borrowed alone.
        unsafe { self.compute::<false>(c.as_mut_ptr(), c.len()) }
    }

    /// Computes the block `c` of operands whose elements are a [`Pair`] each: products of half precision, summed in single precision.
    #[expect(unsafe_code, reason = "the block is computed through pointers")]
    pub(crate) fn run_pairs(self, c: &mut [f32]) {
        // SAFETY: the slice is borrowed alone.
        unsafe { self.compute::<true>(c.as_mut_ptr(), c.len()) }
    }

    /// As [`Tile::run_pairs`] to memory that tasks share, from its element `start` on.
    ///
    /// # Safety
    /// No other task may access the elements of the block meanwhile.
    #[expect(unsafe_code, reason = "tasks write disjoint blocks")]
    pub(crate) unsafe fn run_pairs_shared(self, c: &Shared<'_, f32>, start: usize) {
        let len = c.len().checked_sub(start).expect("the result begins within its memory");
        // SAFETY: so many elements are left of the shared memory, and no one else accesses those of the block by the caller's promise.
        unsafe { self.compute::<true>(c.ptr().wrapping_add(start), len) }
    }

    /// # Safety
    /// From `c` on there must be `len` elements, and no one else may access those of the block meanwhile.
    #[expect(unsafe_code, reason = "the block is computed through pointers")]
    unsafe fn compute<const PAIRS: bool>(self, c: *mut f32, len: usize) {
        let Tile { rows, width, k, a, strides: [rs, cs], b, pitch, add } = self;
        if rows == 0 {
            return;
        }
        let panels = width / PANEL;
        let whole = panels > 0 && width.is_multiple_of(PANEL) || [PANEL / 2, PANEL / 4].contains(&width);
        assert!(whole, "panels are {PANEL} columns, or one is a half or quarter of that");
        assert!(k == 0 || (rows - 1) * rs + (k - 1) * cs < a.len(), "left operand exceeds its memory");
        assert!(k * width <= b.len() && (rows - 1) * pitch + width <= len, "panel exceeds its memory");
        let (a, b) = (a.as_ptr(), b.as_ptr());
        let part = Part { panels: panels.max(1), k, a, rs, cs, b, width: width.min(PANEL), c, pitch, add };
        // SAFETY: all that the block touches lies in the operands and the result by the assertions.
        unsafe { part.run::<PAIRS>(rows) }
    }
}

impl Part {
    /// # Safety
    /// `rows` rows of the part must lie in its operands.
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the block is computed through pointers")]
    unsafe fn run<const PAIRS: bool>(self, rows: usize) {
        let middle = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let wide = middle && is_x86_feature_detected!("avx512f");
        // SAFETY: by the caller's promise, on a processor that has the features.
        unsafe {
            match PAIRS {
                true if self.cs == 1 && amx::available() => amx::run(self, rows),
                true if multiplies_pairs() => self.each(|part| x86::run_pairs(part, rows)),
                true if wide => self.each(|part| x86::run_wide_pairs(part, rows)),
                false if wide => self.each(|part| x86::run_wide(part, rows)),
                _ if middle => self.each(|part| x86::run_middle::<PAIRS>(part, rows)),
                _ => self.each(|part| part.plain::<PAIRS>(rows)),
            }
        }
    }

    /// # Safety
    /// `rows` rows of the part must lie in its operands.
    #[cfg(not(target_arch = "x86_64"))]
    #[expect(unsafe_code, reason = "the block is computed through pointers")]
    unsafe fn run<const PAIRS: bool>(self, rows: usize) {
        // SAFETY: by the caller's promise.
        self.each(|part| unsafe { part.plain::<PAIRS>(rows) });
    }

    /// Its panels, one after the other.
    fn each(self, run: impl Fn(Part)) {
        (0..self.panels).for_each(|panel| run(self.panel(panel)));
    }

    /// One panel.
    fn panel(self, panel: usize) -> Part {
        let (b, c) = (self.b.wrapping_add(panel * self.k * self.width), self.c.wrapping_add(panel * self.width));
        Part { panels: 1, b, c, ..self }
    }

    /// The block without instructions of a particular processor.
    ///
    /// # Safety
    /// `rows` rows of the part must lie in its operands.
    #[expect(unsafe_code, reason = "the block is computed through pointers")]
    unsafe fn plain<const PAIRS: bool>(self, rows: usize) {
        const LANES: usize = PANEL / 4;
        for row in 0..rows {
            for column in (0..self.width).step_by(LANES) {
                let mut sums = [0.0_f32; LANES];
                for term in 0..self.k {
                    // SAFETY: within the operands by the caller's promise.
                    unsafe {
                        let x = *self.a.add(row * self.rs + term * self.cs);
                        for (j, sum) in sums.iter_mut().enumerate() {
                            let y = *self.b.add(term * self.width + column + j);
                            let madd = |x: f32, y: f32, sum: f32| {
                                if cfg!(target_arch = "aarch64") { x.mul_add(y, sum) } else { x * y + sum }
                            };
                            *sum = if PAIRS {
                                let high = |v: f32| f32::from_bits(v.to_bits() & 0xffff_0000);
                                let low = |v: f32| f32::from_bits(v.to_bits() << 16);
                                madd(low(x), low(y), madd(high(x), high(y), *sum))
                            } else {
                                madd(x, y, *sum)
                            };
                        }
                    }
                }
                for (j, sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe {
                        let at = self.c.add(row * self.pitch + column + j);
                        *at = if self.add { *at + *sum } else { *sum };
                    }
                }
            }
        }
    }

    /// # Safety
    /// Row `row` must lie in the operands.
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "moves pointers")]
    unsafe fn row(self, row: usize) -> Part {
        // SAFETY: within the operands by the caller's promise.
        unsafe { Part { a: self.a.add(row * self.rs), c: self.c.add(row * self.pitch), ..self } }
    }

    /// # Safety
    /// Column `column` must lie in the operands.
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "moves pointers")]
    unsafe fn column(self, column: usize) -> Part {
        // SAFETY: within the operands by the caller's promise.
        unsafe { Part { b: self.b.add(column), c: self.c.add(column), ..self } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{assert_close, noise};

    type Run = unsafe fn(Part, usize);

    /// Every form of the block, of pairs or not, that this processor can run.
    fn forms<const PAIRS: bool>() -> Vec<Run> {
        let mut forms: Vec<Run> = vec![Part::plain::<PAIRS>, Part::run::<PAIRS>];
        #[cfg(target_arch = "x86_64")]
        {
            let middle = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if middle && is_x86_feature_detected!("avx512f") {
                forms.push(if PAIRS { x86::run_wide_pairs } else { x86::run_wide });
            }
            if PAIRS && multiplies_pairs() {
                forms.push(x86::run_pairs);
            }
            if middle {
                forms.push(x86::run_middle::<PAIRS>);
            }
        }
        forms
    }

    #[test]
    #[expect(unsafe_code, reason = "calls each form of the block")]
    fn every_form_matches_a_naive_loop() {
        for (rows, width, k) in
            [(1, 16, 1), (8, 32, 5), (16, 16, 7), (27, 32, 33), (27, 16, 40), (3, 32, 0), (27, 8, 9), (3, 8, 2)]
        {
            for (rs, cs) in [(k + 2, 1), (1, rows + 3)] {
                for add in [false, true] {
                    let pitch = width + 5;
                    let a: Vec<f32> = noise(rows * (k + 2) + k * (rows + 3), 1).iter().map(|&v| v as f32).collect();
                    let b: Vec<f32> = noise(k * width, 2).iter().map(|&v| v as f32).collect();
                    let old: Vec<f32> = noise(rows * pitch, 3).iter().map(|&v| v as f32).collect();
                    let mut want: Vec<f64> = old.iter().map(|&v| v.into()).collect();
                    for r in 0..rows {
                        for j in 0..width {
                            let terms = (0..k).map(|p| f64::from(a[r * rs + p * cs]) * f64::from(b[p * width + j]));
                            let start = if add { want[r * pitch + j] } else { 0.0 };
                            want[r * pitch + j] = start + terms.sum::<f64>();
                        }
                    }
                    for form in forms::<false>() {
                        let mut c = old.clone();
                        let (a, b) = (a.as_ptr(), b.as_ptr());
                        let part = Part { panels: 1, k, a, rs, cs, b, width, c: c.as_mut_ptr(), pitch, add };
                        // SAFETY: the operands were made for these sizes, and `forms` has what this processor can run.
                        unsafe { form(part, rows) };
                        let got: Vec<f64> = c.iter().map(|&v| v.into()).collect();
                        assert_close(&got, &want, 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    #[expect(unsafe_code, reason = "calls each form of the block")]
    fn every_form_of_pairs_sums_products_of_rounded_numbers() {
        for (rows, width, k) in [
            (1, 16, 1),
            (8, 32, 5),
            (27, 32, 40),
            (70, 32, 64),
            (39, 16, 32),
            (9, 32, 16),
            (19, 16, 7),
            (3, 32, 0),
            (27, 8, 9),
            (3, 8, 2),
        ] {
            for ((rs, cs), add) in
                [((k + 2, 1), false), ((k + 2, 1), true), ((1, rows + 3), false), ((1, rows + 3), true)]
            {
                let terms =
                    |len: usize, seed: u64| -> Vec<f32> { noise(len, seed).iter().map(|&v| v as f32).collect() };
                let (x, y) = (terms(2 * (rows * (k + 2) + k * (rows + 3)), 1), terms(2 * k * width, 2));
                let a: Vec<Pair> = x.chunks_exact(2).map(|t| pair(t[0], t[1])).collect();
                let at = |term: usize, j: usize| y[term * width + j];
                let b: Vec<Pair> = (0..k * width)
                    .map(|i| pair(at(i / width * 2, i % width), at(i / width * 2 + 1, i % width)))
                    .collect();
                let old = terms(rows * width, 3);
                let rounded = |v: f32| v.half().to_f64();
                let product =
                    |r: usize, j: usize, p: usize| rounded(x[2 * (r * rs + p / 2 * cs) + p % 2]) * rounded(at(p, j));
                let want: Vec<f64> = (0..rows * width)
                    .map(|i| {
                        let sum = (0..2 * k).map(|p| product(i / width, i % width, p)).sum::<f64>();
                        if add { f64::from(old[i]) + sum } else { sum }
                    })
                    .collect();
                for form in forms::<true>() {
                    let mut c = old.clone();
                    let (a, b, c_at) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
                    let part = Part { panels: 1, k, a, rs, cs, b, width, c: c_at, pitch: width, add };
                    // SAFETY: the operands were made for these sizes.
                    unsafe { form(part, rows) };
                    let got: Vec<f64> = c.iter().map(|&v| v.into()).collect();
                    assert_close(&got, &want, 1e-5);
                }
            }
        }
    }

    #[test]
    fn panels_lie_next_to_each_other() {
        for (rows, k, add) in [(40, 16, false), (35, 21, true), (1, 3, false), (16, 0, true)] {
            let numbers = |len, seed| noise(len, seed).iter().map(|&v| v as f32).collect::<Vec<_>>();
            let pairs =
                |len, seed| numbers(2 * len, seed).chunks_exact(2).map(|t| pair(t[0], t[1])).collect::<Vec<_>>();
            let (a, b, pitch) = (pairs(rows * k, 1), pairs(3 * PANEL * k, 2), 3 * PANEL + 5);
            let mut together = numbers(rows * pitch, 3);
            let mut apart = together.clone();
            let tile = |b, width| Tile { rows, width, k, a: &a, strides: [k, 1], b, pitch, add };
            tile(&b[..], 3 * PANEL).run_pairs(&mut together);
            for panel in 0..3 {
                tile(&b[panel * PANEL * k..], PANEL).run_pairs(&mut apart[panel * PANEL..]);
            }
            assert_eq!(together, apart);
        }
    }
}
