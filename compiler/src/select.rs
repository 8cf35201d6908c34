//! Which weights train: eligibility by what the graph does with them, selection by magnitude.

use crate::error::{Error, Result};
use crate::import::{Model, stored_bytes};
use crate::ir::uses::{Forward, Uses};
use crate::ir::{Block, Def, Graph, NodeId, ValueId};
use crate::ops::Op;
use regex::Regex;
use sara_kernels::{DType, Pool};
use sara_runtime::files::sha256;
use sara_runtime::plan::{Selection, Weight};
use sara_runtime::rng::CounterRng;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The threshold of entries that were not chosen by magnitude: all stay below it, so re-selection drops none.
const NO_THRESHOLD: f64 = f32::MAX as f64;

/// Which kinds of weights are eligible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scope {
    /// The matrices that convolutions and matrix products multiply by.
    #[default]
    Matrices,
    /// Every floating-point weight of two or more elements that the loss depends on.
    All,
}

/// How many entries of the eligible weights train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// Those with `|w|` below the threshold, the paper's rule.
    Threshold(f64),
    /// About this many, by the threshold that gives it.
    Count(u64),
    /// This share of each weight, its smallest entries.
    Density(f64),
}

/// Which entries the amount is made up of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    /// Those of smallest magnitude, the paper's rule.
    #[default]
    Smallest,
    /// Those of largest magnitude, to compare with.
    Largest,
    /// Those that this seed draws, to compare with.
    Random(u64),
}

/// What the user asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Kinds of weights.
    pub scope: Scope,
    /// Which of their entries.
    pub pick: Pick,
    /// Only weights whose name or path matches.
    pub target: Option<Regex>,
    /// No weights whose name or path matches.
    pub exclude: Option<Regex>,
}

/// The chosen entries of each weight, by its index in [`Graph::weights`].
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Ascending flat positions.
    pub index: BTreeMap<usize, Vec<u32>>,
    /// Threshold of each weight, and SHA-256 of its bytes in the file.
    pub base: BTreeMap<usize, (f64, String)>,
    /// Summary for reports and the learning-rate rule.
    pub summary: Selection,
}

/// How a weight is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Multiplied by in a convolution or matrix product.
    Matrix,
    /// Used otherwise, and the loss depends on it.
    Other,
    /// Feeds only sines and cosines: frequencies.
    Frequency,
    /// Cannot train, for this reason: its gradient would be dense, or it is not computed in `f32`.
    Untrainable(&'static str),
}

/// The role of each weight that the returns of a canonical graph depend on.
pub fn roles(graph: &Graph) -> BTreeMap<usize, Role> {
    let users = graph.users();
    let forward = Forward::new(graph);
    let activations = activations(graph);
    let mut roles = BTreeMap::new();
    for (id, value) in graph.values() {
        let Def::Weight(weight) = value.def else { continue };
        if !forward.reads(id) {
            continue;
        }
        let role = if value.ty.dtype != DType::F32 {
            Role::Untrainable("it is not of a type that is computed in f32")
        } else {
            match forward.uses(id) {
                Uses { derived: true, .. } => Role::Untrainable(
                    "a product uses a part or function of it, or uses it in another order or batch than it is stored in",
                ),
                Uses { product: true, other: true, .. } => {
                    Role::Untrainable("a product uses it and something else does too, such as a lookup")
                }
                Uses { product: true, .. } => Role::Matrix,
                _ if only_angles(graph, &users, &activations, id) => Role::Frequency,
                _ => Role::Other,
            }
        };
        roles.insert(weight, role);
    }
    roles
}

/// Which values depend on an input and on a weight.
fn activations(graph: &Graph) -> Vec<bool> {
    let mut made: Vec<(bool, bool)> =
        graph.values().map(|(_, v)| (matches!(v.def, Def::Arg(_)), matches!(v.def, Def::Weight(_)))).collect();
    for id in graph.block(Block::Forward) {
        let node = graph.node(*id);
        let from = node.inputs.iter().flatten().map(|v| made[v.0 as usize]);
        let all = from.fold((false, false), |a, b| (a.0 || b.0, a.1 || b.1));
        for output in &node.outputs {
            made[output.0 as usize] = all;
        }
    }
    made.into_iter().map(|(input, weight)| input && weight).collect()
}

/// Whether everything computed from `weight` elementwise ends in a sine or cosine, and not of activations: a factor of those is
/// learnt, as in Snake, whereas frequencies multiply times and positions.
fn only_angles(graph: &Graph, users: &[Vec<NodeId>], activations: &[bool], weight: ValueId) -> bool {
    let mut stack = vec![weight];
    let mut angle = false;
    while let Some(value) = stack.pop() {
        for id in &users[value.0 as usize] {
            let node = graph.node(*id);
            if node.inputs.iter().flatten().any(|v| *v != value && activations[v.0 as usize]) {
                return false;
            }
            match &node.op {
                Op::Unary(u) if u.op == "sin" || u.op == "cos" => angle = true,
                Op::Unary(_)
                | Op::Binary(_)
                | Op::Reshape(_)
                | Op::Cast(_)
                | Op::Expand(_)
                | Op::Slice(_)
                | Op::Transpose(_) => {
                    stack.extend(&node.outputs);
                }
                Op::MatMul(_) if graph.ty(weight).len() <= graph.ty(node.outputs[0]).len() => {
                    stack.extend(&node.outputs)
                }
                _ => return false,
            }
            if stack.len() > 64 {
                return false;
            }
        }
    }
    angle
}

/// Indices of the weights that may train.
pub fn eligible(graph: &Graph, options: &Options) -> Vec<usize> {
    let matches = |pattern: &Regex, weight: usize| {
        let w = &graph.weights[weight];
        pattern.is_match(&w.name) || pattern.is_match(&w.path)
    };
    roles(graph)
        .into_iter()
        .filter(|(_, role)| match options.scope {
            Scope::Matrices => *role == Role::Matrix,
            Scope::All => matches!(role, Role::Matrix | Role::Other),
        })
        .map(|(weight, _)| weight)
        .filter(|w| options.target.as_ref().is_none_or(|p| matches(p, *w)))
        .filter(|w| options.exclude.as_ref().is_none_or(|p| !matches(p, *w)))
        .collect()
}

/// Chooses the entries that train. Reads every eligible weight, on so many threads.
pub fn choose(model: &Model, graph: &Graph, options: &Options, amount: Amount, threads: usize) -> Result<Chosen> {
    let weights = eligible(graph, options);
    if weights.is_empty() {
        return Err(Error::Option("no weight is eligible; loosen --target, --exclude or --select".into()));
    }
    check_apart(graph, &weights)?;
    let total = graph.weights.iter().map(|w| w.len()).sum();
    let eligible: u64 = weights.iter().map(|w| graph.weights[*w].len()).sum();
    let pool = Pool::new(threads).map_err(|e| Error::Option(format!("no threads could be started: {e}")))?;
    let read = Reader { model, weights: &graph.weights, eligible: &weights, pool: &pool };
    let threshold = match (amount, options.pick) {
        (Amount::Threshold(t), Pick::Smallest) => t,
        (Amount::Threshold(_), _) => {
            return Err(Error::Option(
                "--threshold chooses the smallest entries; with another --pick use --trainable-params or --density"
                    .into(),
            ));
        }
        (Amount::Count(count), Pick::Smallest) => threshold_for(count, &read)?,
        (Amount::Count(count), Pick::Largest) => threshold_for(eligible.saturating_sub(count), &read)?,
        (Amount::Count(_), Pick::Random(_)) | (Amount::Density(_), _) => 0.0,
    };
    let picked = read.each(|weight, bytes, values| {
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let name = &graph.weights[weight].name;
            return Err(Error::file(
                model.path(),
                format!("weight `{name}` is {} at {at}; repair it or exclude it", values[at]),
            ));
        }
        let below = |wanted: bool| {
            let found = (0u32..).zip(values).filter(move |(_, v)| (f64::from(v.abs()) < threshold) == wanted);
            found.map(|(i, _)| i).collect()
        };
        let (own, index) = match (options.pick, amount) {
            (Pick::Smallest, Amount::Density(share)) => smallest_share(values, share),
            (Pick::Smallest, _) => (threshold, below(true)),
            (Pick::Largest, Amount::Density(share)) => {
                (NO_THRESHOLD, all_but(smallest_share(values, 1.0 - share).1, values))
            }
            (Pick::Largest, _) => (NO_THRESHOLD, below(false)),
            (Pick::Random(seed), Amount::Density(share)) => (NO_THRESHOLD, drawn(values, share, seed, weight)),
            (Pick::Random(seed), Amount::Count(count)) => {
                (NO_THRESHOLD, drawn(values, count as f64 / eligible as f64, seed, weight))
            }
            (Pick::Random(_), Amount::Threshold(_)) => unreachable!("refused above"),
        };
        let smallest = values.iter().fold(f32::INFINITY, |m, v| m.min(v.abs()));
        Ok((own, index, sha256(bytes), smallest))
    })?;
    let mut chosen = Chosen::default();
    let mut largest: f64 = threshold;
    let mut smallest = f32::INFINITY;
    for (weight, picked) in weights.into_iter().zip(picked) {
        let (own, index, hash, least) = picked?;
        smallest = smallest.min(least);
        largest = largest.max(own);
        chosen.index.insert(weight, index);
        chosen.base.insert(weight, (own, hash));
    }
    let trainable = chosen.index.values().map(|i| i.len() as u64).sum();
    if trainable == 0 {
        return Err(Error::Option(format!(
            "threshold {threshold:e} selects nothing: the smallest of {eligible} eligible weights is {smallest:e}; raise --threshold or use --trainable-params"
        )));
    }
    chosen.summary = Selection { threshold: largest, trainable, eligible, total };
    Ok(chosen)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The values of the eligible weights.
struct Reader<'a> {
    model: &'a Model,
    weights: &'a [Weight],
    eligible: &'a [usize],
    pool: &'a Pool,
}

impl Reader<'_> {
    /// What `f` makes of each weight, of its bytes and values, in the order of the weights.
    fn each<R: Send>(&self, f: impl Fn(usize, &[u8], &[f32]) -> R + Sync) -> Result<Vec<R>> {
        // Room for widened values, which goes from one weight to the next.
        let rooms: Mutex<Vec<Vec<f32>>> = Mutex::default();
        let made: Vec<Mutex<Option<Result<R>>>> = self.eligible.iter().map(|_| Mutex::new(None)).collect();
        self.pool.run(made.len(), |i, _| {
            let (weight, mut room) = (self.eligible[i], lock(&rooms).pop().unwrap_or_default());
            let w = &self.weights[weight];
            let one = stored_bytes(self.model, w).map(|bytes| f(weight, &bytes, w.stored.values(&bytes, &mut room)));
            *lock(&made[i]) = Some(one);
            lock(&rooms).push(room);
        });
        // The first error in the order of the weights is the one that is told.
        made.into_iter().filter_map(|one| one.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// How many values fall into each bucket. `bucket` is given the bits of a value's magnitude, and says which, if any.
    fn counts(&self, bucket: impl Fn(u32) -> Option<u16> + Sync) -> Result<Vec<u64>> {
        let counts: Vec<AtomicU64> = (0..=u16::MAX).map(|_| AtomicU64::new(0)).collect();
        self.each(|_, _, values| {
            let mut own = vec![0; counts.len()];
            values.iter().filter_map(|v| bucket(v.abs().to_bits())).for_each(|b| own[usize::from(b)] += 1);
            counts.iter().zip(own).for_each(|(all, own)| _ = all.fetch_add(own, Ordering::Relaxed));
        })?;
        Ok(counts.into_iter().map(AtomicU64::into_inner).collect())
    }
}

/// The threshold below which about `count` entries lie: bits of `|w|` are counted in steps of the top 16, then refined.
fn threshold_for(count: u64, read: &Reader<'_>) -> Result<f64> {
    let (bucket, below) = first_reaching(&read.counts(|bits| Some((bits >> 16) as u16))?, count);
    let fine = read.counts(|bits| ((bits >> 16) as usize == bucket).then_some(bits as u16))?;
    let (low, _) = first_reaching(&fine, count.saturating_sub(below));
    // The rule is `|w| < T`, so the threshold is the next number above the last that is in.
    let bits = ((bucket as u32) << 16 | low as u32).saturating_add(1).min(f32::MAX.to_bits());
    Ok(f64::from(f32::from_bits(bits)))
}

/// The first bucket at which the running sum reaches `count`, and the sum before it.
fn first_reaching(buckets: &[u64], count: u64) -> (usize, u64) {
    let mut sum = 0;
    for (i, n) in buckets.iter().enumerate() {
        if sum + n >= count {
            return (i, sum);
        }
        sum += n;
    }
    (buckets.len() - 1, sum)
}

/// Positions of the smallest share of the values, and the threshold below which they lie. Of equal values the first are taken, so
/// that the share is met exactly.
fn smallest_share(values: &[f32], share: f64) -> (f64, Vec<u32>) {
    let count = ((values.len() as f64 * share).round() as usize).min(values.len());
    if count == 0 {
        return (0.0, Vec::new());
    }
    let mut sizes: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    let (below, nth, _) = sizes.select_nth_unstable_by(count - 1, f32::total_cmp);
    let nth = *nth;
    let mut equal = count - below.iter().filter(|v| **v < nth).count();
    let mut index = Vec::with_capacity(count);
    for (i, v) in (0u32..).zip(values) {
        let taken = v.abs() < nth || (v.abs() == nth && equal > 0);
        if v.abs() == nth && taken {
            equal -= 1;
        }
        if taken {
            index.push(i);
        }
    }
    (f64::from(f32::from_bits(nth.to_bits() + 1)), index)
}

/// The positions that `without`, which is ascending, leaves out.
fn all_but(without: Vec<u32>, values: &[f32]) -> Vec<u32> {
    let mut without = without.into_iter().peekable();
    (0..values.len() as u32).filter(|i| without.next_if_eq(i).is_none()).collect()
}

/// Each position with this probability. Each weight has a stream of its own.
fn drawn(values: &[f32], share: f64, seed: u64, weight: usize) -> Vec<u32> {
    let mut rng = CounterRng::new(seed, weight as u64);
    (0..values.len() as u32).filter(|_| rng.uniform() < share).collect()
}

/// Refuses weights whose training would be lost or would change another weight, and weights with more positions than an index
/// can tell.
fn check_apart(graph: &Graph, weights: &[usize]) -> Result<()> {
    if let Some(w) = weights.iter().map(|w| &graph.weights[*w]).find(|w| w.len() > u64::from(u32::MAX)) {
        let (name, len) = (&w.name, w.len());
        return Err(Error::Option(format!("weight `{name}` has {len} elements, more than can train; use --exclude")));
    }
    let mut used: Vec<(&Weight, bool)> =
        roles(graph).into_keys().map(|w| (&graph.weights[w], weights.contains(&w))).collect();
    used.sort_by_key(|(w, _)| (&w.file, w.offset));
    let mut last: Option<(&Weight, bool)> = None;
    for (w, trains) in used {
        if let Some((before, also)) = last
            && before.file == w.file
            && w.offset < before.offset + before.stored_bytes()
            && (trains || also)
        {
            let file = if w.file.is_empty() { "the model" } else { &w.file };
            return Err(Error::Option(format!(
                "weights `{}` and `{}` share bytes of {file}, so training one would change the other; leave both out with --exclude, or export the model so that each has its own",
                before.name, w.name
            )));
        }
        let end = |w: &Weight| w.offset + w.stored_bytes();
        if last.is_none_or(|(before, _)| before.file != w.file || end(w) >= end(before)) {
            last = Some((w, trains));
        }
    }
    Ok(())
}

/// Sparse matrices that take part in the low-rank term, as in the paper's code: rank 2, both dimensions above 64.
pub fn low_rank(graph: &Graph, weight: usize) -> Option<(usize, usize)> {
    match graph.weights[weight].shape[..] {
        [rows, cols] if rows.min(cols) > 64 => Some((rows as usize, cols as usize)),
        _ => None,
    }
}
