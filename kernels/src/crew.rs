//! Threads that do one job together, each calling the same function.
//!
//! The thread that gives a job takes part in it. The others stay awake for a while after a job, because the launches of a plan follow
//! each other in less time than it takes to wake a thread. One that wakes too late for a job is not waited for.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a thread waits for the next job before it sleeps: several times what waking it takes.
const AWAKE: Duration = Duration::from_micros(500);
/// Looks at the state between two looks at the clock, after which others may have the processor.
const LOOKS: usize = 64;

/// What a thread is to do; it is told its number.
type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// A fixed number of threads.
pub(crate) struct Crew {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
    /// Held by whoever gives a job.
    turn: Mutex<()>,
}

struct State {
    /// The number of the job, above [`OPEN`] and how many threads have joined it.
    job: AtomicU64,
    /// The job that was given last, which is there while it is open or a thread is at it.
    task: UnsafeCell<Option<*const Job<'static>>>,
    /// Threads that have joined it and are done.
    done: AtomicU64,
    /// What the first thread that panicked in it panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Threads that sleep, or are about to.
    sleepers: AtomicUsize,
    end: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

/// Set while threads may join a job.
const OPEN: u64 = 1 << 15;
/// What the number of a job is multiplied by.
const NEXT: u64 = 1 << 16;

// SAFETY: `task` is written by the one thread that holds the turn, while no job is open and none of the others is at one. They read it
// after they have joined an open job, which orders the write before the read.
#[expect(unsafe_code, reason = "hands a job to other threads")]
unsafe impl Sync for State {}
// SAFETY: as above; what `task` points to is `Sync`.
#[expect(unsafe_code, reason = "hands a job to other threads")]
unsafe impl Send for State {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew {
    /// So many threads, of which the one that gives a job is one.
    pub(crate) fn new(threads: usize) -> io::Result<Crew> {
        let state = Arc::new(State {
            job: AtomicU64::new(0),
            task: UnsafeCell::new(None),
            done: AtomicU64::new(0),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            end: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut crew = Crew { state, threads: Vec::new(), turn: Mutex::new(()) };
        // Those who join a job are counted below `OPEN`.
        for number in 1..threads.min(OPEN as usize) {
            let state = Arc::clone(&crew.state);
            let builder = thread::Builder::new().name(format!("sara-{number}")).stack_size(8 << 20);
            crew.threads.push(builder.spawn(move || state.work(number))?);
        }
        Ok(crew)
    }

    /// Threads, with the one that gives a job.
    pub(crate) fn len(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `job(0)` on this thread and, unless this does it `alone`, `job(number)` on those of the others that are there in time, and
    /// returns when all have returned. Their panics are this thread's. Jobs take turns, so that one number is never called twice at
    /// once. A job must not give another.
    #[expect(unsafe_code, reason = "hands a job to other threads")]
    pub(crate) fn run(&self, alone: bool, job: &Job<'_>) {
        let _turn = lock(&self.turn);
        if alone || self.threads.is_empty() {
            return job(0);
        }
        let state = &*self.state;
        // SAFETY: only the lifetime is another. Nobody uses the job after this function, which waits for all who joined it.
        let task: *const Job<'static> = unsafe { std::mem::transmute::<&Job<'_>, &Job<'static>>(job) };
        // SAFETY: see `Sync for State`.
        unsafe { *state.task.get() = Some(task) };
        state.done.store(0, Ordering::Relaxed);
        let number = state.job.load(Ordering::Relaxed) / NEXT + 1;
        state.job.store(number * NEXT + OPEN, Ordering::SeqCst);
        if state.sleepers.load(Ordering::SeqCst) > 0 {
            // One who has seen no job is waiting when this has the lock.
            drop(lock(&state.sleep));
            state.wake.notify_all();
        }
        state.take_part(0, job);
        let joined = state.job.fetch_and(!OPEN, Ordering::AcqRel) & (OPEN - 1);
        let mut looks = 0_usize;
        while state.done.load(Ordering::Acquire) < joined {
            looks += 1;
            if looks.is_multiple_of(LOOKS) { thread::yield_now() } else { spin_loop() }
        }
        let panic = lock(&state.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.state.end.store(true, Ordering::SeqCst);
        drop(lock(&self.state.sleep));
        self.state.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A thread catches the panics of jobs.
            let _ = thread.join();
        }
    }
}

impl State {
    /// What a thread of the crew does until the end.
    #[expect(unsafe_code, reason = "runs a job that another thread gives")]
    fn work(&self, number: usize) {
        let mut last = 0;
        while let Some(job) = self.join(last) {
            last = job;
            // SAFETY: see `Sync for State`. The job is there until `done` counts this thread.
            if let Some(task) = unsafe { *self.task.get() } {
                // SAFETY: as above.
                self.take_part(number, unsafe { &*task });
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    fn take_part(&self, number: usize, job: &Job<'_>) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(number))) {
            let mut first = lock(&self.panic);
            // What is not told is not dropped either, because that could panic.
            if first.is_some() { std::mem::forget(panic) } else { *first = Some(panic) }
        }
    }

    /// Waits for a job after the job `last` and joins it; nothing at the end.
    fn join(&self, last: u64) -> Option<u64> {
        loop {
            let since = Instant::now();
            while since.elapsed() < AWAKE {
                for _ in 0..LOOKS {
                    let job = self.job.load(Ordering::Acquire);
                    if job & OPEN != 0
                        && job / NEXT != last
                        && self.job.compare_exchange(job, job + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                    {
                        return Some(job / NEXT);
                    }
                    spin_loop();
                }
                if self.end.load(Ordering::Relaxed) {
                    return None;
                }
                thread::yield_now();
            }
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let mut sleep = lock(&self.sleep);
            // One that is woken too late for a job stays awake for the next.
            let before = self.job.load(Ordering::SeqCst);
            let is_new = |job: u64| job / NEXT != before / NEXT || job & OPEN != 0 && job / NEXT != last;
            while !is_new(self.job.load(Ordering::SeqCst)) && !self.end.load(Ordering::SeqCst) {
                sleep = self.wake.wait(sleep).unwrap_or_else(PoisonError::into_inner);
            }
            drop(sleep);
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AWAKE, Crew};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts to `tasks` together.
    fn count(crew: &Crew, tasks: usize) -> Vec<usize> {
        let (next, done) = (AtomicUsize::new(0), (0..tasks).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
        crew.run(false, &|_| {
            while let Some(done) = done.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        done.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn jobs_are_done_awake_and_asleep() {
        for threads in [1, 2, 5] {
            let crew = Crew::new(threads).unwrap();
            for round in 0..2000 {
                let tasks = round % 7;
                assert_eq!(count(&crew, tasks), vec![1; tasks]);
                if round % 500 == 499 {
                    std::thread::sleep(3 * AWAKE);
                }
            }
        }
    }

    #[test]
    fn jobs_of_several_threads_take_turns() {
        let crew = Crew::new(3).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..300).for_each(|_| assert_eq!(count(&crew, 5), [1; 5])));
            }
        });
    }

    #[test]
    fn a_panic_is_that_of_who_gave_the_job() {
        let crew = Crew::new(3).unwrap();
        for _ in 0..50 {
            let met = AtomicUsize::new(0);
            let given = catch_unwind(AssertUnwindSafe(|| {
                crew.run(false, &|_| {
                    met.fetch_add(1, Ordering::Relaxed);
                    panic!("a task");
                })
            }));
            assert_eq!(given.unwrap_err().downcast_ref::<&str>(), Some(&"a task"));
            assert!(met.load(Ordering::Relaxed) > 0);
            assert_eq!(count(&crew, 4), [1; 4], "the crew goes on");
        }
    }
}
