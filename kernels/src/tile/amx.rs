//! The block of pairs with AMX, the matrix unit of x86 processors: a register holds 16 rows of 16 sums, to which one instruction adds
//! the products of 16 rows and 16 columns of 16 pairs.

use super::{Ahead, Part, SIDE, Shifted};
use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::LazyLock;

/// Whether the processor has the instructions for pairs, and the system lets this process have the registers.
pub(crate) fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        // Bits of the leaf of structured extended features: AMX-BF16 and AMX-TILE.
        let needed = 1 << 22 | 1 << 24;
        std::arch::x86_64::__cpuid_count(7, 0).edx & needed == needed
            && is_x86_feature_detected!("avx512f")
            && permitted()
    });
    *AVAILABLE
}

/// Asks the system for the registers, whose contents it saves only for processes that asked.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "calls the system")]
fn permitted() -> bool {
    /// `ARCH_REQ_XCOMP_PERM` of `arch_prctl`, and the number of the registers' state.
    const REQUEST: [libc::c_long; 2] = [0x1023, 18];
    // SAFETY: the call takes two numbers and touches no memory of the process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST[0], REQUEST[1]) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Extents of the registers, as the processor reads them.
#[repr(C, align(64))]
struct Extents {
    palette: u8,
    reserved: [u8; 15],
    /// Bytes of a row.
    row: [u16; 16],
    rows: [u8; 16],
}

thread_local! {
    /// Rows, columns and last pairs that the registers of this thread are configured for, if they are.
    static CONFIGURED: Cell<Option<[usize; 3]>> = const { Cell::new(None) };
    /// [`Held`] values of this thread.
    static HOLDERS: Cell<usize> = const { Cell::new(0) };
}

/// While there is one, the registers of this thread stay configured from one block to the next. No code but this file's may use them
/// meanwhile.
pub(crate) struct Held {
    /// It stays in its thread.
    _thread: PhantomData<*const ()>,
}

impl Held {
    pub(crate) fn new() -> Self {
        HOLDERS.set(HOLDERS.get() + 1);
        Held { _thread: PhantomData }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HOLDERS.set(HOLDERS.get() - 1);
        release();
    }
}

/// Configures the registers, if they are not: 0 to 3 are sums of so many rows and columns, to which 4 and 5, or 6 and 7, are operands of
/// [`SIDE`] or `last` pairs.
///
/// # Safety
/// [`available`], and `rows`, `columns` and `last` must be at least one and at most [`SIDE`].
#[inline(always)]
#[expect(unsafe_code, reason = "instructions without an intrinsic")]
unsafe fn configure(rows: usize, columns: usize, last: usize) {
    if CONFIGURED.get() != Some([rows, columns, last]) {
        CONFIGURED.set(Some([rows, columns, last]));
        // SAFETY: by the caller's promise.
        unsafe { set(rows, columns, last) };
    }
}

/// # Safety
/// As for [`configure`].
#[expect(unsafe_code, reason = "instructions without an intrinsic")]
unsafe fn set(rows: usize, columns: usize, last: usize) {
    let mut extents = Extents { palette: 1, reserved: [0; 15], row: [0; 16], rows: [0; 16] };
    let registers = [columns, columns, columns, columns, SIDE, columns, last, columns];
    extents.row[..8].copy_from_slice(&registers.map(|numbers| (numbers * size_of::<f32>()) as u16));
    extents.rows[..8].copy_from_slice(&[rows, rows, rows, rows, rows, SIDE, rows, last].map(|rows| rows as u8));
    // SAFETY: the processor has the instruction, which reads the extents.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const extents, options(nostack, preserves_flags, readonly)) };
}

/// Gives the registers back, unless they are [held](Held) or not configured.
#[expect(unsafe_code, reason = "instructions without an intrinsic")]
fn release() {
    if HOLDERS.get() == 0 && CONFIGURED.take().is_some() {
        // SAFETY: the processor has the instruction, since the registers are configured.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

/// Makes a register zero, or loads it with rows that are `apart`.
///
/// # Safety
/// The register must be [configured](configure), and its rows readable unless it is made zero.
#[inline(always)]
#[expect(unsafe_code, reason = "instructions without an intrinsic")]
unsafe fn load<const REGISTER: u8>(from: *const f32, apart: usize) {
    // SAFETY: by the caller's promise. No code but this file's uses the registers.
    unsafe {
        asm!(
            "tileloadd tmm{register}, [{from} + {apart}]",
            register = const REGISTER,
            from = in(reg) from,
            apart = in(reg) apart * size_of::<f32>(),
            options(nostack, preserves_flags, readonly)
        );
    }
}

/// # Safety
/// As for [`load`].
#[inline(always)]
#[expect(unsafe_code, reason = "instructions without an intrinsic")]
unsafe fn zero<const REGISTER: u8>() {
    // SAFETY: as for `load`.
    unsafe {
        asm!("tilezero tmm{register}", register = const REGISTER, options(nostack, preserves_flags, nomem));
    }
}

/// # Safety
/// As for [`load`], with rows that nobody else accesses.
#[inline(always)]
#[expect(unsafe_code, reason = "instructions without an intrinsic")]
unsafe fn store<const REGISTER: u8>(to: *mut f32, apart: usize) {
    // SAFETY: as for `load`.
    unsafe {
        asm!(
            "tilestored [{to} + {apart}], tmm{register}",
            register = const REGISTER,
            to = in(reg) to,
            apart = in(reg) apart * size_of::<f32>(),
            options(nostack, preserves_flags)
        );
    }
}

/// Adds the products of rows of register `A` and columns of register `B` to register `SUMS`.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
#[expect(unsafe_code, reason = "instructions without an intrinsic")]
unsafe fn multiply<const SUMS: u8, const A: u8, const B: u8>() {
    // SAFETY: as for `load`.
    unsafe {
        asm!(
            "tdpbf16ps tmm{sums}, tmm{a}, tmm{b}",
            sums = const SUMS,
            a = const A,
            b = const B,
            options(nostack, preserves_flags, nomem)
        );
    }
}

/// # Safety
/// As for [`Part::run`] of pairs, where [`available`] and terms of the left operand are neighbours.
#[expect(unsafe_code, reason = "the block is computed through pointers")]
pub(super) unsafe fn run(part: Part, rows: usize) {
    let columns = part.width.min(SIDE);
    let mut row = 0;
    while row < rows {
        let (height, lower) = ((rows - row).min(SIDE), rows - row >= 2 * SIDE);
        // SAFETY: rows and columns lie in the operands by the caller's promise.
        unsafe {
            configure(height, columns, if part.k.is_multiple_of(SIDE) { SIDE } else { part.k % SIDE });
            part.row(row).each(|part| match (lower, part.width > SIDE) {
                (true, true) => block::<true, true>(part),
                (true, false) => block::<true, false>(part),
                (false, true) => block::<false, true>(part),
                (false, false) => block::<false, false>(part),
            });
        }
        row += if lower { 2 * SIDE } else { height };
    }
    release();
}

/// The sums of a register of rows and one of columns and, if so said, of those below and on the right.
///
/// # Safety
/// The registers must be configured so, and the rows and columns lie in the operands.
#[inline(always)]
#[expect(unsafe_code, reason = "the block is computed through pointers")]
unsafe fn block<const LOWER: bool, const RIGHT: bool>(p: Part) {
    let Part { k, a, rs, b, width, c, pitch, add, .. } = p;
    let lower = c.wrapping_add(SIDE * pitch);
    // SAFETY: by the caller's promise.
    unsafe {
        start::<0>(c, pitch, add);
        if RIGHT {
            start::<1>(c.wrapping_add(SIDE), pitch, add);
        }
        if LOWER {
            start::<2>(lower, pitch, add);
        }
        if LOWER && RIGHT {
            start::<3>(lower.wrapping_add(SIDE), pitch, add);
        }
        let whole = k / SIDE * SIDE;
        if whole == k {
            for term in (0..k).step_by(SIDE) {
                whole_terms::<LOWER, RIGHT>(a.wrapping_add(term), rs, b.wrapping_add(term * width), width);
            }
        } else {
            for term in (0..whole).step_by(SIDE) {
                terms::<LOWER, RIGHT, 4, 5>(a.wrapping_add(term), rs, b.wrapping_add(term * width), width);
            }
            terms::<LOWER, RIGHT, 6, 7>(a.wrapping_add(whole), rs, b.wrapping_add(whole * width), width);
        }
        store::<0>(c, pitch);
        if RIGHT {
            store::<1>(c.wrapping_add(SIDE), pitch);
        }
        if LOWER {
            store::<2>(lower, pitch);
        }
        if LOWER && RIGHT {
            store::<3>(lower.wrapping_add(SIDE), pitch);
        }
    }
}

/// Adds the products of [`SIDE`] terms, where all four registers of operands hold so many.
///
/// # Safety
/// As for [`block`].
#[inline(always)]
#[expect(unsafe_code, reason = "the block is computed through pointers")]
unsafe fn whole_terms<const LOWER: bool, const RIGHT: bool>(a: *const f32, rs: usize, b: *const f32, width: usize) {
    // SAFETY: by the caller's promise.
    unsafe {
        load::<6>(a, rs);
        load::<5>(b, width);
        multiply::<0, 6, 5>();
        if RIGHT {
            load::<7>(b.wrapping_add(SIDE), width);
            multiply::<1, 6, 7>();
        }
        if LOWER {
            load::<4>(a.wrapping_add(SIDE * rs), rs);
            multiply::<2, 4, 5>();
            if RIGHT {
                multiply::<3, 4, 7>();
            }
        }
    }
}

/// Adds the products of as many terms as the registers `A` and `B` hold.
///
/// # Safety
/// As for [`block`].
#[inline(always)]
#[expect(unsafe_code, reason = "the block is computed through pointers")]
unsafe fn terms<const LOWER: bool, const RIGHT: bool, const A: u8, const B: u8>(
    a: *const f32,
    rs: usize,
    b: *const f32,
    width: usize,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        load::<A>(a, rs);
        load::<B>(b, width);
        multiply::<0, A, B>();
        if RIGHT {
            load::<B>(b.wrapping_add(SIDE), width);
            multiply::<1, A, B>();
        }
        if LOWER {
            load::<A>(a.wrapping_add(SIDE * rs), rs);
            if RIGHT {
                multiply::<3, A, B>();
                load::<B>(b, width);
            }
            multiply::<2, A, B>();
        }
    }
}

/// Begins sums with what is there, or with zero.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
#[expect(unsafe_code, reason = "the block is computed through pointers")]
unsafe fn start<const REGISTER: u8>(c: *const f32, pitch: usize, add: bool) {
    // SAFETY: by the caller's promise.
    unsafe { if add { load::<REGISTER>(c, pitch) } else { zero::<REGISTER>() } }
}

/// # Safety
/// [`available`], and what the block touches must lie in its operands and, from `c` on, the result, which nobody else accesses.
#[expect(unsafe_code, reason = "the block is computed through pointers")]
pub(super) unsafe fn shifted(block: &Shifted<'_>, c: *mut f32, ahead: &mut Ahead) {
    let panels = block.columns / Shifted::COLUMNS;
    ahead.divide(panels * block.count / SIDE * block.offsets.len());
    // SAFETY: the registers have their full extents, and the operands are as large by the caller's promise.
    unsafe {
        configure(SIDE, SIDE, SIDE);
        for column in (0..block.columns).step_by(Shifted::COLUMNS) {
            match block.rows > SIDE {
                true => panel::<true>(block, column, c.wrapping_add(column), ahead),
                false => panel::<false>(block, column, c.wrapping_add(column), ahead),
            }
        }
    }
    release();
}

/// Two registers of columns, of a register of rows or, if `LOWER`, of two.
///
/// # Safety
/// As for [`shifted`], with whole registers configured.
#[inline(always)]
#[expect(unsafe_code, reason = "the block is computed through pointers")]
unsafe fn panel<const LOWER: bool>(block: &Shifted<'_>, column: usize, c: *mut f32, ahead: &mut Ahead) {
    let Shifted { a, count, planes, plane, offsets, pitch, add, .. } = *block;
    let (mut a, lower) = (a.as_ptr(), c.wrapping_add(SIDE * pitch));
    // SAFETY: by the caller's promise.
    unsafe {
        start::<0>(c, pitch, add);
        start::<1>(c.wrapping_add(SIDE), pitch, add);
        if LOWER {
            start::<2>(lower, pitch, add);
            start::<3>(lower.wrapping_add(SIDE), pitch, add);
        }
        for from in (0..count).step_by(SIDE) {
            let planes = planes.as_ptr().wrapping_add(from * plane + column);
            for offset in offsets {
                let b = planes.wrapping_add(*offset);
                ahead.step();
                load::<6>(b, plane);
                load::<4>(a, SIDE);
                multiply::<0, 4, 6>();
                load::<7>(b.wrapping_add(SIDE), plane);
                multiply::<1, 4, 7>();
                a = a.wrapping_add(SIDE * SIDE);
                if LOWER {
                    load::<5>(a, SIDE);
                    multiply::<2, 5, 6>();
                    multiply::<3, 5, 7>();
                    a = a.wrapping_add(SIDE * SIDE);
                }
            }
        }
        store::<0>(c, pitch);
        store::<1>(c.wrapping_add(SIDE), pitch);
        if LOWER {
            store::<2>(lower, pitch);
            store::<3>(lower.wrapping_add(SIDE), pitch);
        }
    }
}
