//! Faults that the shim must find.

use sara_shim::{Launch, Mode, Region, launch};

fn value(i: usize) -> f32 {
    ((i * 37 % 64) as f32 - 20.0) / 3.0
}

/// Runs a kernel on 64 values and a result of 64 values; seven blocks where `blocks` says so.
#[expect(unsafe_code, reason = "the launch takes pointers")]
fn run(entry: &str, blocks: u32, mode: Mode, seed: u64) -> Result<Vec<f32>, String> {
    let mut x: Vec<f32> = (0..64).map(value).collect();
    let mut y = vec![0.0_f32; 64];
    let (threads, _) = sara_shim::entry(entry).expect("an entry point");
    let region = |start: &mut Vec<f32>, mode, name| Region {
        start: start.as_mut_ptr().cast(),
        bytes: 256,
        grain: 4,
        mode,
        name,
    };
    let regions = [region(&mut x, Mode::Read, "x"), region(&mut y, mode, "y")];
    let pointers = regions.map(|r| (r.start as usize).to_ne_bytes());
    let params = [&pointers[0][..], &pointers[1][..]];
    let l = Launch {
        entry,
        grid: [blocks, 1, 1],
        threads,
        dynamic: 0,
        kinds: "pp",
        params: &params,
        regions: &regions,
        seed,
    };
    // SAFETY: the vectors live on, and nobody else uses them.
    unsafe { launch(&l) }.map(|()| y)
}

#[test]
fn planted_faults_are_found() {
    for (entry, report) in [
        ("missing_barrier", "race: "),
        ("missing_warp_barrier", "race: "),
        ("divergent_barrier", "divergent barrier: "),
        ("two_barriers", "divergent barrier: "),
        ("early_end", "divergent barrier: "),
        ("read_beyond", "reads 4 bytes, 4 bytes beyond the end of argument x"),
        ("write_beyond", "writes 4 bytes, 4 bytes beyond the end of argument y"),
        ("write_operand", "writes argument x, which is only read"),
        ("shared_beyond", "beyond its shared memory"),
        ("unset_result", "of argument y before it was written"),
        ("misaligned", "no multiple"),
    ] {
        for seed in 0..20 {
            let found = run(&format!("planted_{entry}"), 1, Mode::Write, seed).expect_err(entry);
            assert!(
                found.contains(report) && found.contains(", thread ") || found.contains("divergent"),
                "{entry}: {found}"
            );
        }
    }
    for seed in 0..20 {
        let found = run("planted_block_race", 7, Mode::Write, seed).expect_err("a race");
        assert!(found.contains("race: ") && found.contains("another block"), "{found}");
    }
}

#[test]
fn unset_shared_memory_is_not_a_number() {
    for seed in 0..20 {
        let y = run("planted_unset_shared", 1, Mode::Write, seed).expect("no fault");
        assert!(y.iter().enumerate().all(|(i, y)| y.is_nan() == (i == 5)));
    }
}

#[test]
fn the_order_of_float_atomics_shows() {
    let mut results: Vec<u32> =
        (0..20).map(|seed| run("planted_atomic_sum", 7, Mode::Update, seed).expect("no fault")[0].to_bits()).collect();
    results.sort_unstable();
    results.dedup();
    assert!(results.len() > 1, "all orders give one sum");
}

#[test]
fn what_is_right_passes() {
    for seed in 0..20 {
        for (entry, len) in [("planted_fine", 64), ("planted_warp_barrier", 32)] {
            let y = run(entry, 1, Mode::Write, seed).expect("no fault");
            for (i, y) in y[..len].iter().enumerate() {
                assert_eq!(*y, value(len - 1 - i), "{entry}");
            }
        }
    }
}

#[test]
fn the_forms_of_a_warps_product_agree() {
    let y = run("planted_products", 1, Mode::Write, 3).expect("no fault");
    assert!(y[..64].iter().all(|same| *same == 1.0), "{y:?}");
}

/// Sums of tensor cores are rounded towards zero here, and what that loses must not add up.
#[test]
fn a_product_of_many_terms_loses_no_more_than_one_of_few() {
    let got = f64::from(run("planted_long_product", 1, Mode::Update, 3).expect("no fault")[0]);
    let x = |i: usize| f64::from(value(i % 64)).abs();
    let want: f64 = (0..8192).map(|k| x(k) * x(7 * k)).sum();
    assert!((got - want).abs() <= 2f64.powi(-16) * want, "{got} is not {want}");
}

#[test]
fn signatures_are_compared() {
    assert_eq!(sara_shim::entry("planted_fine"), Some((64, "pp".to_owned())));
    assert_eq!(sara_shim::entry("planted_nothing"), None);
    assert!(sara_shim::entries().iter().any(|e| e == "planted_fine"));
}
