use ndarray::{ArrayD, IxDyn};
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Case {
    sampler: String,
    steps: usize,
    config: serde_json::Value,
    timesteps: Vec<f64>,
    result: Vec<f64>,
}

fn array(values: &[f32]) -> ArrayD<f32> {
    ArrayD::from_shape_vec(IxDyn(&[1, values.len()]), values.to_vec()).unwrap()
}

/// Number `n` of the noise that is added, as `diffusers.py` has it.
fn added(n: usize) -> f32 {
    (1.5 * (1.0 + n as f64).sin()) as f32
}

fn run(mut sampler: Sampler, model: impl Fn(&ArrayD<f32>, f64) -> ArrayD<f32>) -> ArrayD<f32> {
    let mut numbers = (0..).map(added);
    while let Some((x, t)) = sampler.next() {
        let output = model(x, t);
        sampler.step(&output, || numbers.next().unwrap()).unwrap();
    }
    sampler.finish()
}

#[test]
fn samplings_are_those_of_diffusers() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("diffusers.json")).unwrap();
    for case in cases {
        let what = format!("{} {} {}", case.sampler, case.steps, case.config);
        let config = SchedulerConfig::parse(&case.config.to_string()).unwrap();
        assert_eq!(of_class(&config.class_name), Some(case.sampler.as_str()));
        assert_eq!(evaluations(&case.sampler, &config, case.steps).unwrap(), case.timesteps.len(), "{what}");
        let sampler = Sampler::new(&case.sampler, &config, case.steps, 0, array(&[0.3, -1.2, 2.0, 0.0])).unwrap();
        for (found, wanted) in sampler.timesteps().iter().zip(&case.timesteps) {
            assert!((found - wanted).abs() < 2e-3, "{what}: timestep {found}, not {wanted}");
        }
        assert_eq!(sampler.timesteps().len(), case.timesteps.len(), "{what}");
        let found = run(sampler, |x, t| x * 0.9 + 0.05 * (t as f32 / 1000.0));
        for (found, wanted) in found.iter().zip(&case.result) {
            let worst = 2e-4 * wanted.abs().max(0.1);
            assert!((f64::from(*found) - wanted).abs() < worst, "{what}: {found}, not {wanted}");
        }
    }
}

#[test]
fn the_names_are_those_of_the_table() {
    assert_eq!(NAMES, std::array::from_fn(|i| METHODS[i].name));
}

#[test]
fn an_oracle_leads_to_its_image() {
    let target = array(&[0.9, -0.4, 0.1, 0.0]);
    let config = SchedulerConfig { prediction_type: Prediction::Sample, ..SchedulerConfig::default() };
    for name in ["ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m"] {
        for steps in [1, 7, 50, 900] {
            let sampler = Sampler::new(name, &config, steps, 0, array(&[0.3, -1.2, 2.0, 0.0])).unwrap();
            let found = run(sampler, |_, _| target.clone());
            let worst = (found - &target).iter().fold(0.0f32, |m, d| m.max(d.abs()));
            assert!(worst < 1e-5, "{name}, {steps} steps: {worst}");
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let config = SchedulerConfig::default();
    let flow = SchedulerConfig { class_name: "FlowMatchEulerDiscreteScheduler".into(), ..config.clone() };
    let new = |name, config, steps| Sampler::new(name, config, steps, 0, array(&[0.0; 4])).map(drop);
    assert!(new("ddim", &config, 0).is_err());
    assert!(new("ddim", &config, 1001).is_err());
    assert!(new("euler_b", &config, 10).is_err());
    assert!(new("lcm", &config, 51).is_err() && new("lcm", &config, 50).is_ok());
    let distilled = SchedulerConfig { original_inference_steps: 0, ..config.clone() };
    assert!(new("lcm", &distilled, 1).is_err());
    assert!(new("flow_euler", &config, 10).is_err());
    for name in NAMES {
        assert_eq!(new(name, &flow, 10).is_ok(), ["dpmpp_2m", "flow_euler"].contains(&name), "{name}");
    }
    let mut sampler = Sampler::new("ddim", &config, 1, 0, array(&[0.0; 4])).unwrap();
    assert!(matches!(sampler.step(&array(&[0.0; 3]), || 0.0), Err(Error::Shape { .. })));
    sampler.step(&array(&[0.0; 4]), || 0.0).unwrap();
    assert!(sampler.next().is_none() && sampler.step(&array(&[0.0; 4]), || 0.0).is_err());
}

#[test]
fn guidance_goes_from_unconditional_to_conditional_and_beyond() {
    let (e, u) = (array(&[1.0, -1.0]), array(&[0.25, -0.25]));
    let close = |a: ArrayD<f32>, b: ArrayD<f32>| (a - b).iter().all(|d| d.abs() < 1e-6);
    assert!(close(guided(&e, &u, 0.0).unwrap(), u.clone()));
    assert!(close(guided(&e, &u, 1.0).unwrap(), e.clone()));
    assert!(close(guided(&e, &u, 2.0).unwrap(), array(&[1.75, -1.75])));
    assert!(guided(&e, &array(&[0.0; 3]), 1.0).is_err());
}
