//! `sara demo`: the whole story on a small bundled model of handwritten digits, with pictures.

mod judge;
mod student;

use super::options::Threads;
use super::train::{RunFile, Saving, absolute, adapter_path, save_adapter, train, tuned as tuned_values};
use super::{Failure, report};
use judge::{Judge, Verdict};
use sara_compiler::compile::{TrainOptions as CompileOptions, compile_forward, compile_training, unobserved};
use sara_compiler::import::{Binding, Model};
use sara_compiler::select::{Amount, Options as SelectOptions};
use sara_models::curve::Curve;
use sara_models::digits::{self, Digits};
use sara_models::look::Look;
use sara_models::picture::{Grid, Group};
use sara_runtime::executor::Executor;
use sara_runtime::files::write_atomic;
use sara_runtime::oracle::{Array, Oracle, SessionOptions};
use sara_runtime::plan::Plan;
use sara_runtime::train::{Metrics, TrainOptions, Trainer};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use student::{BATCH, Student};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Where everything goes.
    #[arg(long, default_value = "sara-demo", value_name = "DIR")]
    output_dir: PathBuf,
    /// What the digits shall look like: ink, neon or negative.
    #[arg(long, default_value = "neon", value_parser = parse_look, value_name = "LOOK")]
    look: Look,
    /// Steps of fine-tuning.
    #[arg(long, default_value_t = 800, value_name = "N")]
    max_train_steps: u64,
    /// Entries with |w| below this train. The bundled model is small and its weights are large.
    #[arg(long, default_value_t = 0.02, value_name = "T")]
    threshold: f64,
    /// Learning rate. The paper's rule is made for models a thousand times larger.
    #[arg(long, default_value_t = 5e-3, value_name = "LR")]
    learning_rate: f64,
    /// Seed.
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    threads: Threads,
}

fn parse_look(text: &str) -> Result<Look, String> {
    let looks: Vec<&str> = Look::ALL.iter().filter(|l| **l != Look::Plain).map(|l| l.name()).collect();
    Look::from_name(text).filter(|l| *l != Look::Plain).ok_or_else(|| format!("choose one of {}", looks.join(", ")))
}

/// Steps between two looks at the held-out scans.
const CHECKED: u64 = 100;

/// What `report.json` holds.
#[derive(Serialize)]
struct Report {
    look: &'static str,
    before: Verdict,
    after: Verdict,
    steps: u64,
    trainable: u64,
    seconds_training: f64,
    export_difference: Option<f64>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let out = &args.output_dir;
    let base = out.join("base").join("unet.onnx");
    let reader = out.join("base").join("features.onnx");
    for (path, bytes) in [(&base, digits::UNET), (&reader, digits::FEATURES)] {
        std::fs::create_dir_all(path.parent().unwrap_or(out)).map_err(|e| sara_runtime::Error::io(out, e))?;
        write_atomic(path, |file| file.write_all(bytes))?;
    }
    let digits = Digits::load()?;
    say!("a diffusion model of handwritten digits learns to draw {}\n", args.look.description());

    say!("1. compile {}", base.display());
    let threads = args.threads.count();
    let mut trainer = trainer(args, &base, threads)?;
    let plan = trainer.executor.plan();
    say!("{}", report::selection(plan));
    report::Memory::of(plan, trainer.executor.site()).print();

    say!("\n2. judge the model as it is");
    let mut judge = Judge::new(&reader, &digits, args.look, threads)?;
    let (before, drawn_before) = judge.verdict(&mut Student::of(&mut trainer.executor))?;

    say!("\n3. train {} steps of {BATCH} images", args.max_train_steps);
    let mut held_out = vec![(0, before.loss_new)];
    let metrics = tune(args, &mut trainer, &base, &digits, |trainer, metrics| {
        if metrics.step % CHECKED == 0 {
            held_out.push((metrics.step, judge.loss_new(&mut Student::of(&mut trainer.executor))?));
        }
        Ok(())
    })?;
    let (after, drawn_after) = judge.verdict(&mut Student::of(&mut trainer.executor))?;

    say!("\n4. export");
    let tuned = out.join("tuned").join("unet.onnx");
    let values = tuned_values(&trainer.executor);
    let adapter = save_adapter(trainer.executor.plan(), &values, trainer.step, &base, out)?;
    super::export::write_model(&Model::open(&base)?, &adapter, &tuned)?;
    say!("wrote {}", adapter_path(out).display());
    say!("{}", changed_bytes(trainer.executor.plan(), &base, &tuned)?);
    let export_difference = check_export(&tuned, &mut trainer.executor, &digits)?;

    say!("\n5. what came of it");
    print_verdicts(args.look, &before, &after);
    let title = format!("LEARNED: {} SCANS", args.look.name().to_uppercase());
    let groups = [
        Group { title: &title, rows: judge.examples() },
        Group { title: "BEFORE", rows: &drawn_before },
        Group { title: "AFTER, FROM THE SAME NOISE", rows: &drawn_after },
    ];
    let picture = Grid::default().png(&groups)?;
    let curve = Curve {
        title: "noise prediction, mean squared error",
        loss: &metrics.iter().map(|m| (m.step, m.loss)).collect::<Vec<_>>(),
        window: 20,
        held_out: &held_out,
    }
    .svg()?;
    let seconds_training = metrics.iter().map(|m| m.seconds).sum();
    let report = Report {
        look: args.look.name(),
        before,
        after,
        steps: trainer.step,
        trainable: trainer.trainable(),
        seconds_training,
        export_difference,
    };
    let json = serde_json::to_string_pretty(&report).map_err(|e| Failure::Plain(e.to_string()))?;
    for (name, bytes) in
        [("samples.png", &picture[..]), ("loss.svg", curve.as_bytes()), ("report.json", json.as_bytes())]
    {
        let path = out.join(name);
        write_atomic(&path, |file| file.write_all(bytes))?;
        say!("wrote {}", path.display());
    }
    say!("\n{:.0} s in all, {seconds_training:.0} s of it training", start.elapsed().as_secs_f64());
    Ok(())
}

/// The bundled model, compiled and loaded.
fn trainer(args: &Args, base: &Path, threads: usize) -> Result<Trainer, Failure> {
    let binding = Binding { dims: BTreeMap::from([("batch".to_owned(), BATCH)]), ..Binding::default() };
    let options = CompileOptions::new(binding, SelectOptions::default(), Amount::Threshold(args.threshold));
    let plan = compile_training(&Model::open(base)?, &options, &mut unobserved())?;
    let options = TrainOptions {
        learning_rate: args.learning_rate,
        lr_warmup_steps: (args.max_train_steps / 20).min(20),
        max_train_steps: args.max_train_steps,
        adam_weight_decay: 0.0,
        threshold: args.threshold,
        seed: args.seed,
        ..TrainOptions::default()
    };
    Ok(Trainer::new(Executor::new(plan, threads, None)?, options)?)
}

fn tune(
    args: &Args,
    trainer: &mut Trainer,
    base: &Path,
    digits: &Digits,
    after: impl FnMut(&mut Trainer, &mut Metrics) -> Result<(), Failure>,
) -> Result<Vec<Metrics>, Failure> {
    let out = &args.output_dir;
    let path = out.join("unet.plan");
    trainer.executor.plan().save(&path)?;
    let run = RunFile {
        external_data_root: None,
        plan: absolute(&path),
        model: absolute(base),
        batches: None,
        cache: None,
        train: trainer.options.clone(),
    };
    let text = toml::to_string(&run).map_err(|e| Failure::Plain(e.to_string()))?;
    write_atomic(&out.join("run.toml"), |file| file.write_all(text.as_bytes()))?;
    let images = args.look.apply(&digits.train.images);
    let lesson = student::Lesson::new(images, &digits.train.labels, args.seed)?;
    train(trainer, |i| lesson.batch(i), out, Saving { every: 0, keep: 1 }, after)
}

/// Compares the export with the original byte by byte: it may differ in the elements that trained and nowhere else.
fn changed_bytes(plan: &Plan, base: &Path, tuned: &Path) -> Result<String, Failure> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| Failure::from(sara_runtime::Error::io(path, e)));
    let (a, b) = (read(base)?, read(tuned)?);
    let mut may_differ = vec![false; a.len()];
    for sparse in &plan.sparse {
        let weight = &plan.weights[sparse.weight as usize];
        let size = weight.stored.size();
        for i in &sparse.index {
            may_differ[weight.offset as usize + *i as usize * size..][..size].fill(true);
        }
    }
    let changed = a.iter().zip(&b).filter(|(a, b)| a != b).count();
    let elsewhere = a.iter().zip(&b).zip(&may_differ).filter(|((a, b), may)| a != b && !**may).count();
    if a.len() != b.len() || elsewhere > 0 {
        return Err(Failure::Verification(format!("{}: {elsewhere} frozen bytes changed", tuned.display())));
    }
    let [changed, all] = [changed, b.len()].map(|n| report::grouped(n as u64));
    Ok(format!("{changed} of its {all} bytes differ from the original's, all of them in weights that trained"))
}

/// Runs the exported file in ONNX Runtime and compares it with the weights that were trained. `None` where there is no ONNX Runtime.
fn check_export(tuned: &Path, executor: &mut Executor, digits: &Digits) -> Result<Option<f64>, Failure> {
    let oracle = match Oracle::open_or_fetch() {
        Ok(oracle) => oracle,
        Err(error) => {
            say!("the export was not run in ONNX Runtime: {error}");
            return Ok(None);
        }
    };
    let inputs = Student::inputs(&digits.held_out.images, 500, &digits.held_out.labels)?;
    let mut session = oracle.session_from_file(tuned, &SessionOptions::default())?;
    let mut arrays = Vec::new();
    for port in session.inputs() {
        let array = inputs.get(&port.name).zip(port.dtype).and_then(|(t, dtype)| Array::from_tensor(t, dtype));
        arrays.push((port.name.clone(), array.ok_or_else(|| Failure::Plain(format!("no input `{}`", port.name)))?));
    }
    let expected = session.run(&arrays)?.swap_remove(0).1.to_tensor();
    let found = Student::of(executor).run(&inputs)?;
    let difference = expected.map_or(f64::INFINITY, |expected| super::verify::difference(&expected, &found));
    if difference > 2e-4 {
        return Err(Failure::Verification(format!(
            "{}: differs in ONNX Runtime by {difference:.1e} of the largest output",
            tuned.display()
        )));
    }
    say!("ONNX Runtime {} runs it: {difference:.1e} of the largest output apart", oracle.version());
    Ok(Some(difference))
}

fn print_verdicts(look: Look, before: &Verdict, after: &Verdict) {
    let row = |name: &str, of: fn(&Verdict) -> String| vec![name.to_owned(), of(before), of(after)];
    let rows = [
        vec![String::new(), "before".into(), "after".into()],
        row("validation loss, new look", |v| format!("{:.4}", v.loss_new)),
        row("validation loss, old look", |v| format!("{:.4}", v.loss_old)),
        row("distance of samples to real scans, new look", |v| format!("{:.2}", v.distance_new)),
        row("distance of samples to real scans, old look", |v| format!("{:.2}", v.distance_old)),
        row("samples read as the digit asked for", |v| format!("{:.1}%", 100.0 * v.read)),
    ];
    say!("{}", report::table(&rows));
    say!("  the new look is {}; distances are Fréchet distances of a digit reader's features", look.description());
}

/// `compile_forward` of a bundled model for [`BATCH`] images.
fn forward(model: &Path, threads: usize) -> Result<Executor, Failure> {
    let binding = Binding { dims: BTreeMap::from([("batch".to_owned(), BATCH)]), ..Binding::default() };
    let plan = compile_forward(&Model::open(model)?, &binding, &mut unobserved())?;
    Ok(Executor::new(plan, threads, None)?)
}
