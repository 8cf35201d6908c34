//! The dynamic maps of 8-bit optimisers: what the 256 codes of a moment stand for, as parts of the largest magnitude of a block.
//!
//! Each decade between 10^-7 and 1 is cut into equal cells, twice as many as the decade below, and a level is the middle of a
//! cell; 0 and 1 are levels too. Codes number the levels in ascending order. The highest decade of the signed map has 64 cells on
//! each side of 0, that of the unsigned one 128. These are the levels of bitsandbytes' `create_dynamic_map`.

/// Entries that share a scale, their largest magnitude.
pub const BLOCK: usize = 256;

/// What codes stand for.
pub struct Map {
    levels: [f32; 256],
    /// A number above limit `i` has a code above `i`.
    limits: [f32; 256],
}

/// The map of first moments.
pub static SIGNED: Map = Map::new(true);
/// The map of second moments. What is above zero is never stored as zero, because a step divides by its root.
pub static UNSIGNED: Map = Map::new(false);

impl Map {
    const fn new(signed: bool) -> Map {
        let mut levels = [1.0; 256];
        let mut code = 0;
        while code < 255 {
            levels[code] = match (signed, code) {
                (true, 127) | (false, 0) => 0.0,
                (true, _) if code < 127 => -magnitude(127 - code as u32, 1),
                (true, _) => magnitude(code as u32 - 127, 1),
                (false, _) => magnitude(code as u32 + 1, 2),
            };
            code += 1;
        }
        let mut limits = [f32::INFINITY; 256];
        let mut code = 0;
        while code < 255 {
            limits[code] = (levels[code] + levels[code + 1]) / 2.0;
            code += 1;
        }
        if !signed {
            limits[0] = 0.0;
        }
        Map { levels, limits }
    }

    /// The code of the nearest level; of two that are as near, the lower.
    #[inline(always)]
    pub fn code(&self, x: f32) -> u8 {
        let mut code = 0;
        for half in [128, 64, 32, 16, 8, 4, 2, 1] {
            let above = x > self.limits[usize::from(code | (half - 1))];
            code |= if above { half } else { 0 };
        }
        code
    }

    /// What the codes of a block stand for.
    #[inline(always)]
    pub fn decode(&self, codes: &[u8], absmax: f32, values: &mut [f32]) {
        for (value, &code) in values.iter_mut().zip(codes) {
            *value = self.levels[usize::from(code)] * absmax;
        }
    }

    /// The codes of a block, and its scale.
    #[inline(always)]
    pub fn encode(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let absmax = values.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = self.code(if absmax > 0.0 { value / absmax } else { 0.0 });
        }
        absmax
    }
}

/// The middle of cell `q`, counted from `first`, the cells of the lowest decade: a quotient of two whole numbers that single
/// precision holds.
const fn magnitude(q: u32, first: u32) -> f32 {
    let cells = 1 << q.ilog2();
    let decade = q.ilog2() - first.ilog2();
    (2 * cells + 9 * (2 * (q - cells) + 1)) as f32 / (2 * cells * 10_u32.pow(7 - decade)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `create_dynamic_map` as bitsandbytes writes it, in double precision.
    fn published(signed: bool) -> Vec<f64> {
        let mut data = vec![0.0, 1.0];
        for i in 0..7 {
            let items = if signed { 1 << i } else { 2 << i };
            let boundary = |j: i32| 0.1 + 0.9 * f64::from(j) / f64::from(items);
            let means = (0..items).map(|j| (boundary(j) + boundary(j + 1)) / 2.0 * 10_f64.powi(i - 6));
            data.extend(means.clone());
            data.extend(means.map(|mean| -mean).filter(|_| signed));
        }
        data.sort_by(f64::total_cmp);
        data
    }

    #[test]
    fn levels_are_the_published_ones() {
        for (map, signed) in [(&SIGNED, true), (&UNSIGNED, false)] {
            let published = published(signed);
            assert_eq!(published.len(), 256);
            for (level, want) in map.levels.iter().zip(published) {
                assert!((f64::from(*level) - want).abs() <= 6e-8 * want.abs(), "{level} is not {want}");
            }
        }
        // Some of them, as bitsandbytes' tests and documentation have them.
        assert_eq!([SIGNED.levels[0], SIGNED.levels[127], SIGNED.levels[255]], [-0.992_968_74, 0.0, 1.0]);
        assert_eq!([UNSIGNED.levels[0], UNSIGNED.levels[1], UNSIGNED.levels[255]], [0.0, 3.25e-7, 1.0]);
    }

    #[test]
    fn each_level_has_its_code_and_numbers_the_nearest() {
        for (map, signed) in [(&SIGNED, true), (&UNSIGNED, false)] {
            assert!(map.levels.is_sorted_by(|a, b| a < b));
            for (code, level) in map.levels.iter().enumerate() {
                assert_eq!(usize::from(map.code(*level)), code, "{level}");
            }
            let mut last = 0;
            for i in -10_000..=10_000 {
                // Finer towards zero.
                let x = (f64::from(i) / 10_000.0).powi(5) as f32;
                let code = map.code(x);
                assert!(code >= last, "{x}");
                last = code;
                let far = |code: usize| (f64::from(x) - f64::from(map.levels[code])).abs();
                let nearest = (0..256).map(far).fold(f64::INFINITY, f64::min);
                let kept = !signed && x > 0.0 && code == 1;
                assert!(far(code.into()) <= nearest || kept, "{x} is given code {code}");
            }
        }
        assert_eq!(
            [UNSIGNED.code(0.0), UNSIGNED.code(1e-30), SIGNED.code(1e-30), SIGNED.code(-1e-30)],
            [0, 1, 127, 127]
        );
    }

    #[test]
    fn blocks_come_back_but_for_rounding() {
        for map in [&SIGNED, &UNSIGNED] {
            for scale in [0.0, f32::MIN_POSITIVE / 4.0, 1e-9, 3.0, f32::MAX] {
                let values: Vec<f32> = map.levels.iter().map(|level| level * scale).collect();
                let (mut codes, mut back) = ([9; 256], [f32::NAN; 256]);
                let absmax = map.encode(&values, &mut codes);
                map.decode(&codes, absmax, &mut back);
                assert_eq!(absmax, scale);
                assert!(back == values[..] || scale < f32::MIN_POSITIVE, "{scale}");
            }
        }
    }
}
