//! Sparse AdamW on a CPU: tasks take runs of entries. The arithmetic is in double precision.

use crate::rows::BLOCK;
use crate::simd::{Job, Real, dispatch, prefetch};
use crate::{DType, Element, Launch, Shared, Stored, for_stored, hyper};

/// Entries ahead of which weights are fetched.
const AHEAD: usize = 32;

#[expect(unsafe_code, reason = "tasks write disjoint entries")]
pub(super) fn run(l: &Launch<'_>) {
    let (m, v) = (l.shared::<f32>("m"), l.shared::<f32>("v"));
    for_runs(l, |first, step, p, g| {
        // SAFETY: runs of entries belong to one task each.
        let (m, v) = unsafe { (m.range(first, p.len()), v.range(first, p.len())) };
        dispatch(Entries { step, p, m, v, g });
    });
}

/// Calls `update(first, step, p, g)` for each run of entries, from entry `first` on, and writes the values into the weight. A run
/// begins at a multiple of [`BLOCK`].
pub(crate) fn for_runs(l: &Launch<'_>, update: impl Fn(usize, Step, &mut [f32], &mut [f32]) + Sync) {
    match l.dtype("w") {
        _ if !l.has("w") => typed::<f32>(l, None, |v| v, update),
        DType::F64 => typed(l, Some(l.shared::<f64>("w")), f64::from, update),
        stored => for_stored!(stored, S => typed(l, Some(l.shared::<S>("w")), S::narrow, update)),
    }
}

#[expect(unsafe_code, reason = "tasks write disjoint entries")]
fn typed<T: Element>(
    l: &Launch<'_>,
    w: Option<Shared<'_, T>>,
    rounded: impl Fn(f32) -> T + Sync,
    update: impl Fn(usize, Step, &mut [f32], &mut [f32]) + Sync,
) {
    let idx = l.read::<u32>("idx");
    let (p, g) = (l.shared::<f32>("p"), l.shared::<f32>("g"));
    let step = Step::new(l.read::<f32>("hyper"));
    let tasks = idx.len().div_ceil(BLOCK);
    let end = w.as_ref().map_or(usize::MAX, Shared::len);
    let start_of = |task: usize| if task < tasks { idx[task * BLOCK] as usize } else { end };
    assert!((0..tasks).all(|task| start_of(task) <= start_of(task + 1)), "positions must ascend");
    l.pool.run(tasks, |task, _| {
        let first = task * BLOCK;
        let idx = &idx[first..][..BLOCK.min(idx.len() - first)];
        // SAFETY: runs of entries belong to one task each.
        let (p, g) = unsafe { (p.range(first, idx.len()), g.range(first, idx.len())) };
        update(first, step, &mut *p, g);
        let Some(w) = &w else { return };
        let start = start_of(task);
        // SAFETY: positions ascend strictly, so a task's lie between its first and the next task's first; that these
        // do not decrease, which alone makes the ranges disjoint, was asserted above.
        let w = unsafe { w.range(start, start_of(task + 1) - start) };
        for (at, (&i, &p)) in idx.iter().zip(&*p).enumerate() {
            // Entries lie apart, so that each waits for memory otherwise.
            prefetch(w, idx[(at + AHEAD).min(idx.len() - 1)] as usize - start);
            w[i as usize - start] = rounded(p);
        }
    });
}

/// What is the same for all entries.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    clip: f64,
    keep: f64,
    beta1: f64,
    beta2: f64,
    rest1: f64,
    rest2: f64,
    size: f64,
    root: f64,
    epsilon: f64,
}

impl Step {
    fn new(values: &[f32]) -> Step {
        let at = |place: usize| f64::from(values[place]);
        Step {
            clip: at(hyper::CLIP),
            keep: 1.0 - at(hyper::LEARNING_RATE) * at(hyper::WEIGHT_DECAY),
            beta1: at(hyper::BETA1),
            beta2: at(hyper::BETA2),
            rest1: at(hyper::REST1),
            rest2: at(hyper::REST2),
            size: at(hyper::LEARNING_RATE) / at(hyper::CORRECTION1),
            root: 1.0 / at(hyper::CORRECTION2).sqrt(),
            epsilon: at(hyper::EPSILON),
        }
    }
}

/// A step of these entries.
pub(crate) struct Entries<'a> {
    pub(crate) step: Step,
    pub(crate) p: &'a mut [f32],
    pub(crate) m: &'a mut [f32],
    pub(crate) v: &'a mut [f32],
    pub(crate) g: &'a mut [f32],
}

impl Job for Entries<'_> {
    type Out = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Entries { step: s, p, m, v, g } = self;
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            let d = f64::from(*g) * s.clip;
            let first = s.beta1.madd::<FMA>(f64::from(*m), s.rest1 * d);
            let second = s.beta2.madd::<FMA>(f64::from(*v), s.rest2 * d * d);
            let size = s.size * first / second.sqrt().madd::<FMA>(s.root, s.epsilon);
            *p = (f64::from(*p) * s.keep - size) as f32;
            *m = first as f32;
            *v = second as f32;
            *g = 0.0;
        }
    }
}
