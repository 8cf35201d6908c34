//! Sums of products whose right operand is planes that are read from several offsets, as the taps of a convolution read its source.

use super::{Ahead, Pair, SIDE};

/// One block: `c[r * pitch + j] (+)= sum over s, t, p of a[..][p] * planes[(SIDE * s + p) * plane + offsets[t] + j]`, products of pairs.
///
/// Extents are whole: [`SIDE`] rows or twice as many, a multiple of [`SIDE`] planes and of [`Shifted::COLUMNS`] columns.
pub(crate) struct Shifted<'a> {
    /// Left operand: for each [`SIDE`] planes and each offset the pairs of each row, [`SIDE`] of them.
    pub(crate) a: &'a [Pair],
    pub(crate) rows: usize,
    /// Number of planes.
    pub(crate) count: usize,
    pub(crate) planes: &'a [Pair],
    /// Distance of planes.
    pub(crate) plane: usize,
    pub(crate) offsets: &'a [usize],
    pub(crate) columns: usize,
    /// Distance of the result's rows.
    pub(crate) pitch: usize,
    /// Whether to add to what is there.
    pub(crate) add: bool,
}

impl Shifted<'_> {
    /// What columns are a multiple of.
    pub(crate) const COLUMNS: usize = 2 * SIDE;

    /// Computes the block `c`, and may fetch what is ahead meanwhile.
    #[expect(unsafe_code, reason = "the block is computed through pointers")]
    pub(crate) fn run(&self, c: &mut [f32], ahead: &mut Ahead) {
        self.check(c.len());
        #[cfg(target_arch = "x86_64")]
        if super::multiplies_matrices() {
            // SAFETY: all that the block touches lies in the operands and the result, as was checked, on a processor with the means.
            return unsafe { super::amx::shifted(self, c.as_mut_ptr(), ahead) };
        }
        let _ = ahead;
        self.plain(c);
    }

    fn check(&self, len: usize) {
        let Shifted { a, rows, count, planes, plane, offsets, columns, pitch, .. } = *self;
        assert!(rows == SIDE || rows == 2 * SIDE, "a block has {SIDE} rows or twice as many");
        assert!(count.is_multiple_of(SIDE) && columns.is_multiple_of(Self::COLUMNS), "a block has whole extents");
        let furthest = offsets.iter().max().map_or(0, |most| count.saturating_sub(1) * plane + most + columns);
        assert!(furthest <= planes.len() && rows * count * offsets.len() <= a.len(), "operand exceeds its memory");
        assert!((rows - 1) * pitch + columns <= len, "result exceeds its memory");
    }

    /// The block without instructions of a particular processor.
    fn plain(&self, c: &mut [f32]) {
        let Shifted { a, rows, count, planes, plane, offsets, columns, pitch, .. } = *self;
        for (row, c) in c.chunks_mut(pitch).enumerate().take(rows) {
            let c = &mut c[..columns];
            if !self.add {
                c.fill(0.0);
            }
            for (step, a) in a.chunks_exact(rows * SIDE).enumerate().take(count / SIDE * offsets.len()) {
                let (from, offset) = (step / offsets.len() * SIDE, offsets[step % offsets.len()]);
                for (p, x) in a[row * SIDE..][..SIDE].iter().enumerate() {
                    let y = &planes[(from + p) * plane + offset..][..columns];
                    for (c, y) in c.iter_mut().zip(y) {
                        let high = |v: f32| f32::from_bits(v.to_bits() & 0xffff_0000);
                        let low = |v: f32| f32::from_bits(v.to_bits() << 16);
                        *c += low(*x) * low(*y) + high(*x) * high(*y);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{assert_close, noise};
    use crate::tile::pair;

    type Form<'a> = &'a dyn Fn(&Shifted<'_>, &mut [f32]);

    #[test]
    fn every_form_matches_a_naive_loop() {
        for (rows, count, columns, offsets) in
            [(16, 16, 32, &[0, 3, 1][..]), (32, 48, 96, &[0, 1, 40, 41]), (32, 0, 32, &[5])]
        {
            let (plane, pitch) = (columns + 51, columns + 7);
            let terms = |len: usize, seed: u64| -> Vec<f32> { noise(len, seed).iter().map(|&v| v as f32).collect() };
            let pairs = |x: &[f32]| -> Vec<Pair> { x.chunks_exact(2).map(|t| pair(t[0], t[1])).collect() };
            let half = |v: f32| f64::from(half::bf16::from_f32(v).to_f32());
            let (a, b) = (terms(2 * rows * count * offsets.len(), 1), terms(2 * count.max(1) * plane, 2));
            let old = terms((rows - 1) * pitch + columns, 3);
            let mut want = vec![0.0; old.len()];
            for (r, want) in want.chunks_mut(pitch).enumerate() {
                for (j, want) in want[..columns].iter_mut().enumerate() {
                    for p in 0..2 * count {
                        for (t, offset) in offsets.iter().enumerate() {
                            let block = (p / 2 / SIDE * offsets.len() + t) * rows + r;
                            let x = a[(block * SIDE + p / 2 % SIDE) * 2 + p % 2];
                            *want += half(x) * half(b[(p / 2 * plane + offset + j) * 2 + p % 2]);
                        }
                    }
                }
            }
            let (a, planes) = (pairs(&a), pairs(&b));
            let run = |block: &Shifted<'_>, c: &mut [f32]| block.run(c, &mut Ahead::new(block.planes, 0, 2, 40, 50));
            let plain = |block: &Shifted<'_>, c: &mut [f32]| block.plain(c);
            let forms: [Form<'_>; 2] = [&run, &plain];
            for (form, add) in forms.into_iter().flat_map(|form| [(form, false), (form, true)]) {
                let block = Shifted { a: &a, rows, count, planes: &planes, plane, offsets, columns, pitch, add };
                let mut c = old.clone();
                form(&block, &mut c);
                for ((got, old), want) in c.chunks(pitch).zip(old.chunks(pitch)).zip(want.chunks(pitch)) {
                    let start = |old: f32| if add { f64::from(old) } else { 0.0 };
                    let want: Vec<f64> = want[..columns].iter().zip(old).map(|(sum, old)| start(*old) + sum).collect();
                    let got_of: Vec<f64> = got[..columns].iter().map(|&v| v.into()).collect();
                    assert_close(&got_of, &want, 1e-5);
                    assert_eq!(got[columns..], old[columns..], "more was written than the block");
                }
            }
        }
    }
}
