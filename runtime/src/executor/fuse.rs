//! Runs of elementwise steps as one launch, with the step before them if it can hand its result on.
//!
//! Steps that follow each other and have as many elements become one kernel whose threads each do what the steps do of one
//! element; a product, a convolution or a normalisation before them gives its elements to the threads that made them. A step joins those before it only if no thread then touches what another writes: what it reads was written by
//! them at the same element, or not at all, and what it writes they have at most touched at the same element. A result is stored unless
//! it lies in the arena and nothing reads those bytes before they are written again.

use crate::device::{Launch, Order, Source, Span, launches_of};
use crate::plan::Step;
use sara_kernels::cuda::{MatmulPrecision, Param, Task, Work};
use sara_kernels::fuse::{Each, Head, Operand, Piece, SAME, each, generate, head, moved};
use sara_kernels::{Call, DType, Kernel, Mode};
use std::ops::Range;

/// Steps of a kernel at most, so that its values stay in registers.
const MOST: usize = 16;
/// The same after a product, each of whose threads has many elements.
const MOST_OF_PRODUCT: usize = 4;

/// A step whose arguments have their places; absent ones are `None`.
pub(super) struct Placed<'a> {
    pub(super) step: &'a Step,
    pub(super) lens: Vec<usize>,
    pub(super) dtypes: Vec<Option<DType>>,
    pub(super) spans: Vec<Option<Span>>,
    /// What brings the bytes of files.
    pub(super) stages: Vec<Order>,
}

impl Placed<'_> {
    pub(super) fn call(&self) -> Call<'_> {
        Call { kernel: self.step.kernel, lens: &self.lens, scalars: &self.step.scalars }
    }

    /// The ways in which it can be done element by element.
    fn ways(&self) -> Vec<Each> {
        let task = Task::new(self.call(), &self.dtypes, MatmulPrecision::default());
        [each, moved].into_iter().filter_map(|way| way(&task)).filter(|_| self.stages.is_empty()).collect()
    }

    /// Its launches without the result of the last, if that can be handed on.
    fn head(&self, precision: MatmulPrecision) -> Option<(Head, Work)> {
        let call = self.call();
        let mut work = call.kernel.work(call.lens, call.scalars, &self.dtypes, precision)?;
        let head = head(&Task::new(call, &self.dtypes, precision), &mut work)?;
        self.stages.is_empty().then_some((head, work))
    }

    /// The memory of its arguments, and whether it reads it.
    fn touches(&self) -> impl Iterator<Item = (&Span, bool)> {
        let args = self.step.kernel.args.iter().zip(&self.spans);
        args.filter_map(|(arg, span)| {
            let reads = match arg.mode {
                Mode::Read => true,
                Mode::Write => false,
                Mode::Update => (arg.fresh)(&self.call()).is_none(),
            };
            span.as_ref().map(|span| (span, reads))
        })
    }
}

/// Steps whose launches these are.
pub(super) struct Group {
    pub(super) steps: Range<usize>,
    pub(super) launches: Vec<Launch>,
}

/// Where programs run.
pub(super) struct Target {
    pub(super) precision: MatmulPrecision,
    /// What is written outside is read later.
    pub(super) arena: Range<u64>,
    /// Memory that a step's launches have for themselves.
    pub(super) scratch: u64,
}

/// The groups of a program's steps, which gives what lies in `given`.
pub(super) fn groups(steps: &[Placed<'_>], target: &Target, given: &[Range<u64>]) -> Vec<Group> {
    let arena = &target.arena;
    let read_later = |bytes: &Range<u64>, after: usize| {
        if bytes.start < arena.start || bytes.end > arena.end {
            return true;
        }
        for step in &steps[after..] {
            let mut covered = false;
            for (span, reads) in step.touches().filter(|(span, _)| overlap(&range(span), bytes)) {
                if reads {
                    return true;
                }
                let whole = range(span);
                covered |= span.mode == Mode::Write && whole.start <= bytes.start && bytes.end <= whole.end;
            }
            if covered {
                return false;
            }
        }
        given.iter().any(|g| overlap(g, bytes))
    };
    let mut found = Vec::new();
    let mut draft = Draft::default();
    for at in 0..=steps.len() {
        let (step, ways) = (steps.get(at), steps.get(at).map_or(Vec::new(), Placed::ways));
        if step.is_some_and(|step| ways.iter().any(|way| draft.join(step, way))) {
            continue;
        }
        let whole = std::mem::take(&mut draft);
        if whole.pieces.len() > 1 {
            let steps = at - whole.pieces.len()..at;
            found.push(Group { launches: whole.launches(target, |bytes| read_later(bytes, at)), steps });
        }
        match (step, ways.first()) {
            (Some(step), Some(way)) => drop(draft.join(step, way)),
            (Some(step), None) => draft = Draft::headed(step, target),
            _ => {}
        }
    }
    found
}

fn range(span: &Span) -> Range<u64> {
    span.address..span.address + span.bytes as u64
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Memory that the kernel has a pointer to.
struct Pointer {
    address: u64,
    dtype: DType,
    bytes: Range<u64>,
    read: bool,
    written: bool,
}

impl Pointer {
    fn span(&self) -> Span {
        Span {
            address: self.bytes.start,
            bytes: (self.bytes.end - self.bytes.start) as usize,
            grain: self.dtype.size(),
            mode: match (self.read, self.written) {
                (true, true) => Mode::Update,
                (false, true) => Mode::Write,
                _ => Mode::Read,
            },
            name: "an operand",
        }
    }
}

/// Memory that the kernel reads.
struct Load {
    address: u64,
    dtype: DType,
    /// All that may be read.
    bytes: Range<u64>,
    /// Whether each thread reads only its own element.
    own: bool,
}

/// The first step of a group, whose result is handed on.
struct First {
    head: Head,
    work: Work,
    kernel: &'static Kernel,
    /// The places of its arguments but the result.
    spans: Vec<Option<Span>>,
    /// What it writes besides.
    others: Vec<Range<u64>>,
}

/// A group that grows.
#[derive(Default)]
struct Draft {
    first: Option<First>,
    pieces: Vec<Piece>,
    /// Where the results of the pieces belong, unless a later one takes the place, and where they begin.
    results: Vec<Option<Range<u64>>>,
    starts: Vec<u64>,
    loads: Vec<Load>,
    pointers: Vec<Pointer>,
}

impl Draft {
    /// A group that begins with a step, if that can hand its result on.
    fn headed(step: &Placed<'_>, target: &Target) -> Draft {
        let Some((head, work)) = step.head(target.precision) else { return Draft::default() };
        let (Some(result), Some(dtype)) = (step.spans[head.write], step.dtypes[head.write]) else {
            return Draft::default();
        };
        let each = Each {
            n: head.n,
            reads: Vec::new(),
            write: (head.write, 0),
            at: SAME.to_owned(),
            value: String::new(),
            light: true,
        };
        let mut draft = Draft {
            pieces: vec![Piece { each, operands: Vec::new(), dtype, stored: None }],
            results: vec![Some(range(&result))],
            starts: vec![result.address],
            ..Draft::default()
        };
        let (mut spans, mut others) = (step.spans.clone(), Vec::new());
        spans[head.write] = None;
        // Some arguments are for other devices.
        let named = |arg: usize| {
            let is = |param: &Param| matches!(param, Param::Arg { arg: named, .. } if *named == arg);
            work.steps.iter().any(|step| step.params.iter().any(is))
        };
        let touched = (0..spans.len()).filter(|arg| named(*arg));
        for (span, dtype) in touched.filter_map(|arg| spans[arg].as_ref().zip(step.dtypes[arg])) {
            match span.mode {
                Mode::Read => {
                    draft.loads.push(Load { address: span.address, dtype, bytes: range(span), own: false });
                }
                _ => others.push(range(span)),
            }
        }
        draft.first = Some(First { head, work, kernel: step.step.kernel, spans, others });
        draft
    }

    /// Takes a step in, if it can be done element by element after those that are in.
    fn join(&mut self, step: &Placed<'_>, each: &Each) -> bool {
        let product = self.first.as_ref().is_some_and(|first| first.head.product);
        let most = if product { MOST_OF_PRODUCT } else { MOST };
        if self.pieces.len() == most
            || self.pieces.first().is_some_and(|p| p.each.n != each.n)
            || product && !each.light
        {
            return false;
        }
        let elements = |arg: usize, first: usize| {
            let (span, dtype) = (step.spans[arg]?, step.dtypes[arg]?);
            let start = span.address + (first * dtype.size()) as u64;
            Some((range(&span), dtype, start..start + (each.n * dtype.size()) as u64))
        };
        // An operand is the result of a piece, or else one of these.
        let (mut from, mut loads) = (Vec::new(), Vec::new());
        for read in &each.reads {
            let Some((all, dtype, one_each)) = elements(read.arg, read.first) else { return false };
            let own = read.index == SAME;
            let same = |(piece, result): (usize, &Option<Range<u64>>)| {
                let (piece, in_order) = (&self.pieces[piece], self.pieces[piece].each.at == SAME);
                own && in_order && result.as_ref() == Some(&one_each) && piece.dtype == dtype
            };
            from.push((0..self.pieces.len()).find(|p| same((*p, &self.results[*p]))));
            if from.last() == Some(&None) {
                let address = one_each.start;
                loads.push(Load { address, dtype, bytes: if own { one_each } else { all }, own });
            }
        }
        let Some((all, dtype, one_each)) = elements(each.write.0, each.write.1) else { return false };
        let (start, in_order) = (one_each.start, each.at == SAME);
        // Strides may leave gaps.
        let result = if in_order { one_each } else { all };
        let written_before = |load: &Load| self.results.iter().flatten().any(|r| overlap(r, &load.bytes));
        let read_by_others = |load: &Load| {
            overlap(&load.bytes, &result) && !(in_order && load.own && load.bytes == result && load.dtype == dtype)
        };
        let torn = |(piece, r): (&Piece, &Option<Range<u64>>)| {
            let whole = |r: &Range<u64>| in_order && piece.each.at == SAME && *r == result;
            r.as_ref().is_some_and(|r| overlap(r, &result) && !whole(r))
        };
        let others = self.first.iter().flat_map(|first| &first.others);
        let beside = |bytes: &Range<u64>| others.clone().any(|other| overlap(other, bytes));
        if beside(&result)
            || loads.iter().any(|load| beside(&load.bytes) || written_before(load))
            || self.loads.iter().chain(&loads).any(read_by_others)
            || self.pieces.iter().zip(&self.results).any(torn)
        {
            return false;
        }
        self.results.iter_mut().filter(|r| r.as_ref() == Some(&result)).for_each(|r| *r = None);
        let mut rest = loads.iter();
        let operand = |piece: Option<usize>| match (piece, piece.is_none().then(|| rest.next()).flatten()) {
            (None, Some(load)) => Operand::Memory(self.pointer(load.address, load.dtype, &load.bytes, false)),
            (piece, _) => Operand::Piece(piece.unwrap_or_default()),
        };
        let operands = from.into_iter().map(operand).collect();
        self.pieces.push(Piece { each: each.clone(), operands, dtype, stored: None });
        self.results.push(Some(result));
        self.starts.push(start);
        self.loads.extend(loads);
        true
    }

    /// The pointer to an address, which may be new.
    fn pointer(&mut self, address: u64, dtype: DType, bytes: &Range<u64>, written: bool) -> usize {
        let known = self.pointers.iter().position(|p| p.address == address && p.dtype == dtype);
        let at = known.unwrap_or_else(|| {
            let bytes = bytes.clone();
            self.pointers.push(Pointer { address, dtype, bytes, read: false, written: false });
            self.pointers.len() - 1
        });
        let pointer = &mut self.pointers[at];
        pointer.bytes = pointer.bytes.start.min(bytes.start)..pointer.bytes.end.max(bytes.end);
        pointer.read |= !written;
        pointer.written |= written;
        at
    }

    /// The launches of the group, which store results that are read later.
    fn launches(mut self, target: &Target, read_later: impl Fn(&Range<u64>) -> bool) -> Vec<Launch> {
        for p in 0..self.pieces.len() {
            if let Some(result) = self.results[p].take().filter(&read_later) {
                let dtype = self.pieces[p].dtype;
                self.pieces[p].stored = Some(self.pointer(self.starts[p], dtype, &result, true));
            }
        }
        let dtypes: Vec<DType> = self.pointers.iter().map(|p| p.dtype).collect();
        let (text, entry) = generate(self.first.as_ref().map(|first| &first.head), &dtypes, &self.pieces);
        let source = Source::Fused { name: entry.clone().into(), text: text.into() };
        let mut all = match self.first.take() {
            Some(first) => launches_of(&Source::Kernel(first.kernel), first.work, &first.spans, target.scratch),
            None => {
                let n = self.pieces.first().map_or(0, |p| p.each.n);
                let mut work = Work::default();
                work.each(entry.clone(), n, vec![Param::I64(n as i64)]);
                launches_of(&source, work, &[], target.scratch)
            }
        };
        if let Some(last) = all.last_mut() {
            last.source = source;
            last.entry = entry;
            for pointer in &self.pointers {
                last.kinds.push('p');
                last.params.push(pointer.address.to_ne_bytes().to_vec());
                last.spans.push(pointer.span());
            }
        }
        all
    }
}
