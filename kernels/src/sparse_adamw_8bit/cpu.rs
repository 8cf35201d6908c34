//! Sparse AdamW with 8-bit moments on a CPU: blocks of moments are decoded, stepped and encoded again.

use super::map::{BLOCK, SIGNED, UNSIGNED};
use crate::simd::{Job, dispatch};
use crate::sparse_adamw::cpu::{Entries, Step, for_runs};
use crate::{Launch, rows};

/// Runs of entries are whole blocks.
const _: () = assert!(rows::BLOCK.is_multiple_of(BLOCK));

#[expect(unsafe_code, reason = "tasks write disjoint entries")]
pub(super) fn run(l: &Launch<'_>) {
    let (m, v) = (l.shared::<u8>("m"), l.shared::<u8>("v"));
    let (m_absmax, v_absmax) = (l.shared::<f32>("m_absmax"), l.shared::<f32>("v_absmax"));
    for_runs(l, |first, step, p, g| {
        let (block, blocks) = (first / BLOCK, p.len().div_ceil(BLOCK));
        // SAFETY: runs of entries belong to one task each, and so do their blocks.
        let (m, v, m_absmax, v_absmax) = unsafe {
            let (m, v) = (m.range(first, p.len()), v.range(first, p.len()));
            (m, v, m_absmax.range(block, blocks), v_absmax.range(block, blocks))
        };
        dispatch(Blocks { step, p, m, v, g, m_absmax, v_absmax });
    });
}

struct Blocks<'a> {
    step: Step,
    p: &'a mut [f32],
    m: &'a mut [u8],
    v: &'a mut [u8],
    g: &'a mut [f32],
    m_absmax: &'a mut [f32],
    v_absmax: &'a mut [f32],
}

impl Job for Blocks<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
        let entries = self.p.chunks_mut(BLOCK).zip(self.g.chunks_mut(BLOCK));
        let codes = self.m.chunks_mut(BLOCK).zip(self.v.chunks_mut(BLOCK));
        let scales = self.m_absmax.iter_mut().zip(self.v_absmax);
        for (((p, g), (m_codes, v_codes)), (m_absmax, v_absmax)) in entries.zip(codes).zip(scales) {
            let (m, v) = (&mut m[..p.len()], &mut v[..p.len()]);
            SIGNED.decode(m_codes, *m_absmax, m);
            UNSIGNED.decode(v_codes, *v_absmax, v);
            Entries { step: self.step, p, m: &mut *m, v: &mut *v, g }.run::<FMA>();
            *m_absmax = SIGNED.encode(m, m_codes);
            *v_absmax = UNSIGNED.encode(v, v_codes);
        }
    }
}
