//! The low-rank term against decompositions that are exact.

use super::*;

/// The selected values of sparse weight `s` in their places, zero elsewhere.
fn selected(executor: &Executor, s: usize) -> DMatrix<f64> {
    let plan = executor.plan();
    let shape = &plan.weights[plan.sparse[s].weight as usize].shape;
    let (rows, cols) = (shape[0] as usize, shape[1] as usize);
    let mut matrix = DMatrix::zeros(rows, cols);
    for (i, v) in executor.indices(s).iter().zip(executor.state(s)[0]) {
        matrix[(*i as usize / cols, *i as usize % cols)] = f64::from(*v);
    }
    matrix
}

fn nuclear(executor: &Executor) -> Vec<f64> {
    (0..executor.plan().sparse.len()).map(|s| selected(executor, s).singular_values().sum()).collect()
}

#[test]
fn the_low_rank_term_changes_training_and_lowers_the_nuclear_norm() {
    let folder = tempfile::tempdir().unwrap();
    let plan = chain_plan(folder.path(), &three(), 2, Amount::Density(0.3));
    let train = |lambda_rank: f64, steps: u64, scale: f64| {
        let options = train::TrainOptions { lambda_rank, adam_weight_decay: 0.0, learning_rate: 2e-4, ..options() };
        let mut t = trainer(&plan, 2, &options);
        for step in 0..steps {
            let scaled = |t: Tensor| Tensor::f32(t.shape(), t.to_f32().iter().map(|v| v * scale as f32).collect());
            let batch = data(&plan, step).into_iter().map(|(n, t)| (n, scaled(t).unwrap())).collect();
            t.step(&[batch]).unwrap();
        }
        t
    };
    assert!(snapshot(&train(0.0, 3, 1.0)).weights != snapshot(&train(5e-3, 3, 1.0)).weights);
    // Where the input is zero, every gradient is, and only the low-rank term moves anything.
    let without = train(0.0, 40, 0.0);
    let fresh = trainer(&plan, 1, &options());
    assert!(snapshot(&without).weights == snapshot(&fresh).weights, "weights move without a gradient");
    let with = train(5e-3, 40, 0.0);
    for (s, (from, to)) in nuclear(&without.executor).iter().zip(nuclear(&with.executor)).enumerate() {
        println!("nuclear norm of matrix {s}: {from:.4} to {to:.4}");
        assert!(to < 0.9 * from, "the nuclear norm of matrix {s} goes from {from} to {to}");
    }
}

/// The exact subgradient `U V^T` of the nuclear norm.
fn polar(matrix: &DMatrix<f64>) -> DMatrix<f64> {
    let svd = matrix.clone().svd(true, true);
    let (u, v_t) = (svd.u.unwrap(), svd.v_t.unwrap());
    let largest = svd.singular_values.max();
    let mut sum = DMatrix::zeros(matrix.nrows(), matrix.ncols());
    for (k, s) in svd.singular_values.iter().enumerate() {
        // Values come as `f32`: what is below their rounding is zero.
        if *s > 1e-6 * largest {
            sum += u.column(k) * v_t.row(k);
        }
    }
    sum
}

/// How far the subgradient that training adds is from the exact one: `1 - cosine`, and the ratio of lengths.
fn subgradient(matrix: Matrix, share: f64) -> (f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let plan = chain_plan(folder.path(), &[matrix], 1, Amount::Density(share));
    let program = plan.sparse[0].low_rank.clone().unwrap();
    let mut executor = Executor::new(plan, 2, None).unwrap();
    executor.poison(true);
    executor.hyper()[hyper::LAMBDA_RANK] = 1.0;
    executor.run(&program).unwrap();
    let exact = polar(&selected(&executor, 0));
    let cols = exact.ncols();
    let exact: Vec<f64> = executor.indices(0).iter().map(|i| exact[(*i as usize / cols, *i as usize % cols)]).collect();
    let found: Vec<f64> = executor.state(0)[1].iter().map(|g| f64::from(*g)).collect();
    let dot: f64 = exact.iter().zip(&found).map(|(a, b)| a * b).sum();
    (1.0 - dot / norm(&exact) / norm(&found), norm(&found) / norm(&exact))
}

#[test]
fn the_low_rank_subgradient_is_that_of_the_exact_decomposition() {
    for (rows, cols) in [(65, 65), (70, 130), (130, 70), (96, 96), (256, 80)] {
        for share in [0.02, 0.1, 0.5, 1.0] {
            let (off, size) = subgradient(Matrix::random(rows, cols, (rows * cols) as u64), share);
            println!("{rows}x{cols}, {share} selected: 1 - cosine {off:.1e}, size {size:.4}");
            assert!(off < 1e-6 && (size - 1.0).abs() < 1e-4, "{rows}x{cols}, {share}: {off:e} {size}");
        }
        for rank in [1, 5, 40] {
            let left = DMatrix::from_vec(rows, rank, noise(rows * rank, 5, 0.1));
            let right = DMatrix::from_vec(rank, cols, noise(rank * cols, 6, 0.1));
            let values: Vec<f32> = (left * right).transpose().iter().copied().collect();
            let (off, size) = subgradient(Matrix { rows, cols, values }, 1.0);
            println!("{rows}x{cols} of rank {rank}: 1 - cosine {off:.1e}, size {size:.4}");
            // The iteration lifts the rounding noise of the missing directions some ten thousandfold: to a thousandth.
            assert!(off < 2e-5 && (size - 1.0).abs() < 1e-4, "{rows}x{cols} of rank {rank}: {off:e} {size}");
        }
    }
}
