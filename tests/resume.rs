//! The resume contract: a run that was killed, interrupted or ran out of disk goes on as if nothing had been.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use sara::compiler::compile::{TrainOptions, compile_training, unobserved};
use sara::compiler::import::{Binding, Model};
use sara::compiler::select::{self, Amount};
use sara::runtime::checkpoint::{self, all, check, load, save_on};
use sara::runtime::executor::Executor;
use sara::runtime::files::{Disk, Real};
use sara::runtime::rng::CounterRng;
use sara::runtime::tensor::{Tensors, read_safetensors};
use sara::runtime::train::{self, Trainer};
use sara::runtime::{Error, Result};
use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const STEPS: u64 = 40;

fn reference(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file)
}

/// A folder with a plan.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        let model = reference("dit.dynamo.onnx");
        let plan = place.path("model.plan");
        let args = ["compile", model.to_str().unwrap(), "-o", plan.to_str().unwrap(), "--threshold", "5e-3"];
        let out = Command::new(env!("CARGO_BIN_EXE_sara")).args(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        place
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn command(&self, run: &str, resume: bool) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sara"));
        command.arg("train").arg(self.path("model.plan"));
        command.arg("--batches").arg(reference("trajectory/dit.dynamo.batches.safetensors"));
        command.arg("--output-dir").arg(self.path(run)).args(["--max-train-steps", &STEPS.to_string()]);
        command.args([
            "--checkpointing-steps",
            "1",
            "--learning-rate",
            "1e-3",
            "--progressive-iter",
            "20",
            "--use-ema",
        ]);
        if resume {
            command.args(["--resume-from-checkpoint", "latest"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn start(&self, run: &str) -> Child {
        let begun = self.path(run).is_dir() && !all(&self.path(run)).unwrap().is_empty();
        self.command(run, begun).spawn().unwrap()
    }

    fn finish(&self, run: &str) -> Output {
        let out = self.start(run).wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out
    }

    /// Everything that a run leaves, but for times.
    fn left(&self, run: &str) -> Vec<(String, Vec<u8>)> {
        let last = format!("checkpoint-{STEPS:06}");
        let files = ["state.safetensors", "trainer.json", "manifest.json"].map(|file| format!("{last}/{file}"));
        let mut left: Vec<(String, Vec<u8>)> = files
            .into_iter()
            .chain(["adapter/adapter.safetensors".to_owned()])
            .map(|file| (file.clone(), std::fs::read(self.path(run).join(&file)).unwrap()))
            .collect();
        let log = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        let line = |line: &str| {
            let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["seconds"] = 0.into();
            format!("{value}\n")
        };
        left.push(("metrics.jsonl".to_owned(), log.lines().map(line).collect::<String>().into_bytes()));
        left
    }

    fn same(&self, a: &str, b: &str) {
        for ((name, one), (_, other)) in self.left(a).iter().zip(&self.left(b)) {
            assert!(one == other, "{name} differs");
        }
        let hidden = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
        assert!(!std::fs::read_dir(self.path(b)).unwrap().any(|e| hidden(e.unwrap())), "nothing half is left");
    }
}

/// Whether a save is going on.
fn saving(run: &Path) -> bool {
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    entries.into_iter().any(|e| e.file_name().to_string_lossy().ends_with(".partial"))
}

#[test]
fn a_run_that_is_killed_again_and_again_is_the_unbroken_run() {
    const KILLS: usize = 100;
    let place = Place::new();
    place.finish("unbroken");
    let mut rng = CounterRng::new(11, 0);
    let (mut kills, mut during_saves, mut round) = (0, 0, 0);
    while kills < KILLS {
        let run = format!("killed{round}");
        let mut child = place.start(&run);
        // Half of the kills wait for a save, after a while of training.
        let wait = Duration::from_micros(u64::from(rng.below(120_000)));
        let for_save = rng.below(2) == 0;
        let begun = Instant::now();
        let mut saw = false;
        while child.try_wait().unwrap().is_none() {
            saw = saving(&place.path(&run));
            if begun.elapsed() >= wait && (saw || !for_save) {
                break;
            }
            std::thread::yield_now();
        }
        if child.try_wait().unwrap().is_some() {
            place.finish(&run);
            place.same("unbroken", &run);
            round += 1;
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        during_saves += usize::from(saw && saving(&place.path(&run)));
    }
    let run = format!("killed{round}");
    place.finish(&run);
    place.same("unbroken", &run);
    println!("{kills} kills, {during_saves} of them during a save, {} runs", round + 1);
    assert!(during_saves >= KILLS / 4, "only {during_saves} kills met a save");
}

#[test]
fn a_signal_saves_a_checkpoint_and_the_exit_code_names_it() {
    let place = Place::new();
    place.finish("unbroken");
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let run = format!("signal{signal}");
        let child = place.start(&run);
        while !place.path(&run).is_dir() || all(&place.path(&run)).unwrap().is_empty() {
            std::thread::yield_now();
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{text}");
        assert!(text.contains("--resume-from-checkpoint latest"), "{text}");
        place.finish(&run);
        place.same("unbroken", &run);
    }
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_is_used() {
    let place = Place::new();
    place.finish("unbroken");
    place.finish("damaged");
    let newest = place.path("damaged").join(format!("checkpoint-{STEPS:06}")).join("state.safetensors");
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let out = place.finish("damaged");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        text.contains("state.safetensors: is damaged") && text.contains(&format!("at step {}", STEPS - 1)),
        "{text}"
    );
    place.same("unbroken", "damaged");
    for (_, folder) in all(&place.path("damaged")).unwrap() {
        std::fs::write(folder.join("trainer.json"), "{}").unwrap();
    }
    let out = place.command("damaged", true).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1));
    assert!(text.contains("no checkpoint that is whole"), "{text}");
}

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The machine stops: nothing more is done, not even cleaning up.
    Stop,
    /// One operation fails with this error of the system; those after it succeed.
    Once(i32),
}

/// A disk that fails at one operation.
struct Faulty {
    at: usize,
    fault: Fault,
    done: Cell<usize>,
}

impl Faulty {
    fn new(at: usize, fault: Fault) -> Faulty {
        Faulty { at, fault, done: Cell::new(0) }
    }

    fn operate(&self, path: &Path, operation: impl FnOnce() -> Result<()>, torn: impl FnOnce()) -> Result<()> {
        let n = self.done.replace(self.done.get() + 1);
        let failure =
            |code: i32| Err(Error::Io { path: path.to_owned(), source: std::io::Error::from_raw_os_error(code) });
        match self.fault {
            _ if n < self.at => operation(),
            Fault::Stop => {
                if n == self.at {
                    torn();
                }
                failure(5)
            }
            Fault::Once(code) if n == self.at => {
                torn();
                failure(code)
            }
            Fault::Once(_) => operation(),
        }
    }
}

impl Disk for Faulty {
    fn create_folder(&self, path: &Path) -> Result<()> {
        self.operate(path, || Real.create_folder(path), || ())
    }

    fn write(&self, path: &Path, write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
        let write = Cell::new(Some(write));
        let whole = || Real.write(path, write.take().unwrap());
        // Half of the file is there.
        let torn = || {
            let mut bytes = Vec::new();
            write.take().unwrap()(&mut bytes).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        };
        self.operate(path, whole, torn)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.operate(to, || Real.rename(from, to), || ())
    }

    fn sync_folder(&self, path: &Path) -> Result<()> {
        self.operate(path, || Real.sync_folder(path), || ())
    }

    fn remove_folder(&self, path: &Path) -> Result<()> {
        self.operate(path, || Real.remove_folder(path), || ())
    }
}

fn trainer() -> Trainer {
    let path = reference("dit.dynamo.onnx");
    let (batches, _) = read_safetensors(&reference("trajectory/dit.dynamo.batches.safetensors")).unwrap();
    let shapes =
        batches.iter().filter(|(name, _)| *name != "target").map(|(n, t)| (n.clone(), t.shape()[1..].to_vec()));
    let binding = Binding { shapes: shapes.collect(), ..Binding::default() };
    let options = TrainOptions::new(binding, select::Options::default(), Amount::Density(0.05));
    let plan = compile_training(&Model::open(&path).unwrap(), &options, &mut unobserved()).unwrap();
    let executor = Executor::new(plan, 2, Some(&path)).unwrap();
    let options = train::TrainOptions { learning_rate: 1e-3, max_train_steps: 10, ..train::TrainOptions::default() };
    Trainer::new(executor, options).unwrap()
}

fn batch(i: usize) -> Tensors {
    let (batches, _) = read_safetensors(&reference("trajectory/dit.dynamo.batches.safetensors")).unwrap();
    batches.into_iter().map(|(name, t)| (name, t.at(i).unwrap())).collect()
}

/// What a run of saves leaves: two old checkpoints, of which the newer has as many steps as the new one where it is replaced.
fn before(trainer: &mut Trainer, run: &Path, replaced: bool) {
    trainer.step(&[batch(0)]).unwrap();
    checkpoint::save(trainer, run, 2).unwrap();
    trainer.step(&[batch(1)]).unwrap();
    checkpoint::save(trainer, run, 2).unwrap();
    if !replaced {
        trainer.step(&[batch(2)]).unwrap();
    }
}

/// The newest checkpoint that is whole, and that it loads.
fn newest(run: &Path, fresh: &mut Trainer) -> u64 {
    let folders = all(run).unwrap();
    let (step, folder) = folders.iter().find(|(_, folder)| check(folder).is_ok()).expect("a whole checkpoint");
    load(fresh, folder).unwrap();
    assert_eq!(fresh.step, *step);
    *step
}

#[test]
fn whatever_part_of_a_save_is_done_a_whole_checkpoint_can_be_loaded() {
    let mut fresh = trainer();
    for replaced in [false, true] {
        for fault in [Fault::Stop, Fault::Once(28), Fault::Once(5)] {
            let (mut at, mut failed, mut saved) = (0, 0, 0);
            loop {
                let run = tempfile::tempdir().unwrap();
                let mut own = trainer();
                before(&mut own, run.path(), replaced);
                let disk = Faulty::new(at, fault);
                let result = save_on(&disk, &own, run.path(), 2);
                if at >= disk.done.get() {
                    // No operation was left to fail.
                    result.unwrap();
                    assert_eq!(newest(run.path(), &mut fresh), own.step);
                    break;
                }
                failed += usize::from(result.is_err());
                let found = newest(run.path(), &mut fresh);
                assert!(found == own.step || found == 2, "{fault:?} at {at}: step {found}");
                saved += usize::from(found == own.step && !replaced);
                // The next save mends what was left.
                checkpoint::save(&own, run.path(), 2).unwrap();
                assert_eq!(newest(run.path(), &mut fresh), own.step);
                let names = std::fs::read_dir(run.path()).unwrap().map(|e| e.unwrap().file_name());
                assert!(names.into_iter().all(|n| !n.to_string_lossy().starts_with('.')), "{fault:?} at {at}");
                assert_eq!(all(run.path()).unwrap().len(), 2);
                at += 1;
            }
            assert!(at >= 8 && failed >= at - 3, "{fault:?}: {at} operations, {failed} failures");
            assert!(replaced || saved > 0, "{fault:?}: some failures come after the new checkpoint is there");
        }
    }
}

#[test]
fn what_is_not_a_number_is_never_saved() {
    let run = tempfile::tempdir().unwrap();
    let mut own = trainer();
    before(&mut own, run.path(), false);
    own.options.learning_rate = f64::MAX;
    // The step itself may be refused; what it leaves is not saved either way.
    let _ = own.step(&[batch(3)]);
    if let Err(error) = checkpoint::save(&own, run.path(), 2) {
        assert!(error.to_string().contains("NaN or infinity"), "{error}");
        assert_eq!(all(run.path()).unwrap()[0].0, 2);
    } else {
        panic!("a step at an infinite rate was saved");
    }
}
