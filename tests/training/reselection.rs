//! Re-selection: what still trains after it.

use super::*;

#[test]
fn reselection_shrinks_keeps_moments_and_leaves_the_rest_in_place() {
    let (plan, batches) = dit();
    let threshold = plan.selection.threshold;
    let options = train::TrainOptions { threshold, progressive_iter: Some(3), learning_rate: 2e-3, ..options() };
    let mut t = trainer(&plan, 2, &options);
    for batch in &batches[..3] {
        assert_eq!(t.step(std::slice::from_ref(batch)).unwrap().trainable, plan.selection.trainable);
    }
    let before = snapshot(&t);
    let full = t.executor.plan().sparse.len();
    // The re-selection alone, on a twin.
    let run = tempfile::tempdir().unwrap();
    let mut twin = trainer(&plan, 2, &options);
    checkpoint::load(&mut twin, &checkpoint::save(&t, run.path(), 2).unwrap()).unwrap();
    let kept = twin.executor.reselect().unwrap();
    assert!(0 < kept && kept < plan.selection.trainable, "{kept}");
    assert!(snapshot(&twin).weights == before.weights, "re-selection changed a weight");
    for s in 0..full {
        let at = |k: usize, field: usize| before.state[s][field][k];
        let stays: Vec<usize> =
            (0..before.index[s].len()).filter(|k| f64::from(f32::from_bits(at(*k, 0)).abs()) < threshold).collect();
        assert_eq!(twin.executor.indices(s), stays.iter().map(|k| before.index[s][*k]).collect::<Vec<_>>());
        for field in [0, 2, 3] {
            let expected: Vec<u32> = stays.iter().map(|k| at(*k, field)).collect();
            assert_eq!(bits(&state(&twin.executor, s)[field]), expected, "field {field} of sparse weight {s}");
        }
    }
    assert_eq!(twin.executor.reselect().unwrap(), kept, "a second time changes nothing");
    // The trainer does the same before its fourth step, and only then.
    assert_eq!(t.step(&batches[3..4]).unwrap().trainable, kept);
    assert_eq!(t.step(&batches[4..5]).unwrap().trainable, kept);
    let after = snapshot(&t);
    let mut moved = 0;
    for (s, sparse) in plan.sparse.iter().enumerate() {
        assert_eq!(after.index[s], twin.executor.indices(s));
        let (old, new) = (&before.weights[sparse.weight as usize], &after.weights[sparse.weight as usize]);
        for i in &sparse.index {
            let stays = after.index[s].binary_search(i).is_ok();
            let same = old[*i as usize] == new[*i as usize];
            assert!(stays || same, "entry {i} of sparse weight {s} left and moved");
            moved += usize::from(!same);
        }
    }
    assert!(moved as u64 > kept / 2, "{moved} of {kept} moved");
}

/// Weights of different sizes have different thresholds under one density.
#[test]
fn reselection_takes_the_threshold_of_each_weight() {
    let folder = tempfile::tempdir().unwrap();
    let mut matrices = three();
    matrices[1].values.iter_mut().for_each(|v| *v *= 100.0);
    let plan = chain_plan(folder.path(), &matrices, 1, Amount::Density(0.2));
    let thresholds: Vec<f64> = plan.sparse.iter().map(|s| s.threshold).collect();
    assert!(thresholds[1] > 50.0 * thresholds[0], "{thresholds:?}");
    assert_eq!(thresholds.iter().copied().fold(0.0, f64::max), plan.selection.threshold);
    let options = train::TrainOptions { threshold: plan.selection.threshold, progressive_iter: Some(1), ..options() };
    let mut t = trainer(&plan, 1, &options);
    // Half of the entries of each weight leave their range.
    let mut expected = Vec::new();
    for (s, threshold) in thresholds.iter().enumerate() {
        let index = t.executor.indices(s).to_vec();
        let mut values = t.executor.state(s)[0].to_vec();
        values.iter_mut().step_by(2).for_each(|v| *v = 1.5 * *threshold as f32);
        let zero = vec![0.0; index.len()];
        let moments = Moments::Single([&zero[..], &zero[..]]);
        let state = SparseState { index: &index, values: &values, moments, left: &[], left_values: &[] };
        t.executor.set_state(s, &state).unwrap();
        expected.push(index.into_iter().skip(1).step_by(2).collect::<Vec<_>>());
    }
    t.step = 1;
    let total: usize = expected.iter().map(Vec::len).sum();
    assert_eq!(t.step(&[data(&plan, 1)]).unwrap().trainable, total as u64);
    for (s, expected) in expected.iter().enumerate() {
        assert_eq!(t.executor.indices(s), expected, "sparse weight {s}");
    }
}
