//! The text form of a plan: what runs, on what memory.

use super::{Buffer, BufferId, Place, Plan, Program, Step};
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan {} device=cpu arena={}", self.name, self.arena_bytes)?;
        writeln!(f, "model {} sha256={}", self.model.path.display(), self.model.sha256)?;
        for sparse in &self.sparse {
            let w = &self.weights[sparse.weight as usize];
            let share = 100.0 * sparse.index.len() as f64 / w.len().max(1) as f64;
            writeln!(
                f,
                "  sparse %{} {:?} {} of {} ({share:.3} %) below {:e} base={}  ; {}",
                w.name,
                w.shape,
                sparse.index.len(),
                w.len(),
                sparse.threshold,
                sparse.base_sha256,
                w.path
            )?;
        }
        for program in &self.programs {
            self.print_program(program, f)?;
        }
        Ok(())
    }
}

impl Plan {
    fn print_program(&self, program: &Program, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |ports: &[super::Port]| {
            ports.iter().map(|p| format!("{} {:?}", p.name, p.shape)).collect::<Vec<_>>().join(", ")
        };
        writeln!(f, "program {} arena={} live={}", program.name, program.arena_bytes, program.peak.live_bytes)?;
        writeln!(f, "  in  {}\n  out {}", ports(&program.inputs), ports(&program.outputs))?;
        for (i, step) in program.steps.iter().enumerate() {
            let peak = if i == program.peak.step as usize { "*" } else { " " };
            writeln!(f, "{peak} {i:>5}  {}", self.display_step(step))?;
        }
        Ok(())
    }

    /// One launch, as a line of text.
    pub fn display_step(&self, step: &Step) -> String {
        let args = step.kernel.args.iter().zip(&step.args);
        let args = args.filter_map(|(arg, id)| id.map(|id| format!("{}={}", arg.name, self.display_buffer(id))));
        let scalars = step.kernel.scalars.iter().zip(&step.scalars).map(|((name, _), value)| format!("{name}={value}"));
        let origin = if step.origin.is_empty() { String::new() } else { format!("  ; {}", step.origin) };
        let all: Vec<String> = args.chain(scalars).collect();
        format!("{:<18} {}{origin}", step.kernel.name, all.join(" "))
    }

    fn display_buffer(&self, id: BufferId) -> String {
        let Buffer { name, len, dtype, place } = self.buffer(id);
        match place {
            Place::Arena(at) => format!("%{name}@{at}[{}]", len * dtype.size() as u64),
            Place::Gradient(_) => format!("%{name}@gradient"),
            Place::Moment1(_) => format!("%{name}@moment1"),
            Place::Moment2(_) => format!("%{name}@moment2"),
            Place::Absmax1(_) => format!("%{name}@absmax1"),
            Place::Absmax2(_) => format!("%{name}@absmax2"),
            Place::File(_) => format!("%{name}@file"),
            Place::AllIndex(_) | Place::AllParam(_) => format!("%{name}@all"),
            Place::Weight(_) | Place::Constant(_) | Place::Index(_) | Place::Param(_) | Place::Hyper => {
                format!("%{name}")
            }
        }
    }
}
